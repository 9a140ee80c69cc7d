"""What is unsafe, or worth knowing, about the federation's queues: who reads them, who holds them, what was set aside."""

from broker.inspection.facts import Facts, Managed, Queue
from broker.inspection.finding import Findings, listed, number, unsafe, warning
from broker.topology import (
    FEDERATION,
    QUEUE_DEAD,
    QUEUE_DENOISE,
    QUEUE_PREFETCH,
    QUEUE_SAMPLES,
    QUEUE_TELEMETRY,
)

REPLICAS = 3
READERS = {
    "worker train": (QUEUE_SAMPLES,),
    "worker denoise": (QUEUE_DENOISE, QUEUE_PREFETCH),
    "monitor exporter": (QUEUE_TELEMETRY,),
}
"""Who reads which queues, by its command; the dead letters wait for a person."""


def readers(facts: Facts) -> Findings:
    """Queues whose messages wait for a process that is not there, or does not read."""
    for reader, queues in READERS.items():
        unread = [name for name in queues if name in facts.loads and facts.loads[name].consumers == 0]
        if unread:
            waiting = sum(facts.loads[name].ready for name in unread)
            yield warning(
                "readers",
                f"nobody reads {' and '.join(unread)}; {_waiting(waiting)}",
                f"start `collafuse {reader}`, or see in its log why it does not read",
            )


def dead_letters(facts: Facts) -> Findings:
    """What was set aside."""
    dead = facts.loads.get(QUEUE_DEAD)
    if dead is not None and dead.ready:
        yield warning(
            "dead letters",
            f"{number(dead.ready, 'message')} in the dead-letter queue",
            "see `collafuse broker dead list`",
        )


def quorum(_: Facts, managed: Managed) -> Findings:
    """Queues with fewer members than they should have."""
    running = sum(node.running for node in managed.nodes)
    for queue in _federation_queues(managed):
        if queue.arguments.get("x-queue-type") != "quorum":
            continue
        away = sorted(set(queue.members) - set(queue.online))
        if away:
            yield unsafe("quorum", f"{queue.name} lacks its members on {listed(away)}", "start those nodes")
        wanted = min(REPLICAS, running)
        if len(queue.members) < wanted:
            yield unsafe(
                "quorum",
                f"{queue.name} has {number(len(queue.members), 'member')} where {running} nodes run",
                "rabbitmq-queues grow NODE all",
            )


def stuck(_: Facts, managed: Managed) -> Findings:
    """What leaves a queue for the dead letters and does not arrive."""
    for queue in _federation_queues(managed):
        if queue.stuck:
            yield warning(
                "dead letters",
                f"{number(queue.stuck, 'message')} of {queue.name} on the way to the dead-letter queue, and not there",
                "look again; if they stay, see the broker's log for rabbit_fifo_dlx_worker, and at their x-death header",
            )


def _waiting(ready: int) -> str:
    return (
        f"{number(ready, 'message')} {'waits' if ready == 1 else 'wait'} there"
        if ready
        else "nothing waits there yet"
    )


def _federation_queues(managed: Managed) -> list[Queue]:
    ours = {queue.name for queue in FEDERATION.queues}
    return [queue for queue in managed.queues if queue.name in ours]
