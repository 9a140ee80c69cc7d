"""One RabbitMQ node or three that are a cluster, all on this machine, which a test can kill and start again."""

from pathlib import Path
from types import TracebackType
from typing import Self

import pika

from broker.management import Management
from broker.node.local_node import LocalNode, NodeInfo
from broker.settings import BrokerSettings
from broker.topology import FEDERATION, QUEUE_SAMPLES, declare
from tests.conftest import is_registered, wait_until


class Brokers:
    """Private nodes below `directory`; with more than one they form a cluster, and quorum queues have a member on each.

    The nodes after the first share its port mapper, so the first is never ended before them.
    """

    def __init__(self, directory: Path, count: int = 1) -> None:
        self._directory = directory
        self._count = count
        self.nodes: list[LocalNode] = []
        self.infos: list[NodeInfo] = []

    def __enter__(self) -> Self:
        try:
            for number in range(self._count):
                self._add(number)
            with pika.BlockingConnection(pika.URLParameters(self.first.amqp_url)) as amqp:
                declare(amqp.channel(), FEDERATION)
            self._wait_registered()
            wait_until(
                lambda: len(self.members(QUEUE_SAMPLES)) == self._count,
                "every node has a member of the queues",
            )
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in reversed(self.nodes):
            node.kill()

    @property
    def first(self) -> NodeInfo:
        """The node that was there first; its URL holds the administrator's password, which is that of all."""
        return self.infos[0]

    @property
    def settings(self) -> BrokerSettings:
        """Of an administrator at the first node."""
        return BrokerSettings.from_url(self.first.amqp_url)

    @property
    def management(self) -> Management:
        """The API of a node that runs."""
        info = next(info for node, info in zip(self.nodes, self.infos, strict=True) if node.status().info)
        return Management(info.management_url, info.user, info.password)

    def kill(self, number: int) -> None:
        """kill -9 of one node. Its port mapper, which the others need, lives on."""
        self.nodes[number].kill(port_mapper=self._count == 1)

    def start(self, number: int) -> None:
        """Start a node that was killed, and wait until it takes connections."""
        self.nodes[number].start()

    def leader(self, queue: str) -> int:
        """Which node leads a quorum queue."""
        with self.management as management:
            found = management.queue(self.first.vhost, queue)
        assert found is not None
        return [node.name for node in self.nodes].index(str(found["leader"]))

    def members(self, queue: str) -> list[str]:
        """The nodes on which a quorum queue has a member."""
        with self.management as management:
            found = management.queue(self.first.vhost, queue)
        assert found is not None
        return sorted(str(member) for member in found["members"])

    def _add(self, number: int) -> None:
        node = LocalNode(
            self._directory / f"node-{number}",
            name=f"collafuse-{number}",
            beside=self.first if number else None,
        )
        self.nodes.append(node)
        self.infos.append(node.start())
        if number:
            for step in (("stop_app",), ("join_cluster", self.nodes[0].name), ("start_app",)):
                node.control(*step)

    def _wait_registered(self) -> None:
        """RabbitMQ writes its register of quorum queues about a second late; whoever kills it before loses them."""
        for node in self.nodes:
            for queue in FEDERATION.queues:
                if queue.arguments["x-queue-type"] == "quorum":
                    wait_until(
                        lambda node=node, queue=queue: is_registered(node.directory, queue.name),  # type: ignore[misc]
                        f"{queue.name} is registered on {node.name}",
                    )
