"""Putting the run's figures together. Every number comes from a spool, the sample store, a process's metrics or an image."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from broker.connection import Connection
from broker.delivery import SENDER_HEADER
from broker.names import user_name
from broker.node.local_node import NodeInfo
from broker.settings import BrokerSettings
from broker.topology import QUEUE_DEAD
from collafuse.demo.design import Design
from collafuse.demo.errors import DemoFailed
from collafuse.demo.federation import Metrics, Places, value
from diffusion import privacy
from diffusion.schedule import NoiseSchedule
from diffusion.split import Cut
from edge_agent.generation import jobs
from edge_agent.storage import counters
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from evaluation.data.images import ClientData
from evaluation.metrics.disclosure import Disclosure, disclosure
from evaluation.metrics.spread import Spread, spread_of_histogram
from evaluation.reporting.demo_results import Accounting
from monitoring.metrics import BrokerMetrics
from server_worker.samples.store import SampleStore
from server_worker.storage import Storage

QUIET_SECONDS = 1.0
CONNECT_SECONDS = 60.0


def histogram(sources: Sequence[Metrics], name: str, **labels: str) -> Spread | None:
    """What one histogram has seen in several processes together; None below two observations."""
    cumulative: Counter[float] = Counter()
    for metrics in sources:
        for found, count in metrics.get(f"{name}_bucket", []):
            if labels.items() <= found.items():
                cumulative[float(found["le"])] += round(count)
    if not cumulative:
        return None
    bounds = sorted(cumulative)
    total = sum(value(metrics, f"{name}_sum", **labels) for metrics in sources)
    return spread_of_histogram(bounds, [cumulative[bound] for bound in bounds], total)


def dead_letters(node: NodeInfo) -> Counter[str]:
    """AMQP user → how many of its messages stand among the dead. Takes them: the run is over."""
    connection = Connection(
        BrokerSettings.from_url(node.amqp_url),
        name="demo-accounting",
        metrics=BrokerMetrics(CollectorRegistry()),
    )
    found: Counter[str] = Counter()
    with connection:
        consumer = connection.consumer(QUEUE_DEAD, prefetch=100)
        connection.wait_connected(CONNECT_SECONDS)
        while (delivery := consumer.get(QUIET_SECONDS)) is not None:
            found[str(delivery.headers.get(SENDER_HEADER) or delivery.user_id)] += 1
            delivery.ack()
    return found


@dataclass(frozen=True)
class Books:
    """One client's two accounts."""

    samples: Accounting
    denoise: Accounting


def accounts(
    client: str, design: Design, places: Places, store: SampleStore, agent: Metrics, dead: Counter[str]
) -> Books:
    """Compare what the device's ledger and jobs say with what the server's store and the device's results say."""
    user = user_name(client, design.device)
    stored = {entry.message_id for entry in store.entries(client=client, device=design.device)}
    with Spool(StateDirectory(places.state(client)).spool) as spool:
        attempted = {str(row[0]) for row in spool.rows("SELECT DISTINCT batch_id FROM ledger")}
        waiting = {str(row[0]) for row in spool.rows("SELECT message_id FROM outbox")}
        duplicates = int(spool.rows("SELECT coalesce(sum(duplicates), 0) FROM receipts")[0][0])
        by_state = jobs.counts(spool)
        late, repeated = counters.value(spool, "late"), counters.value(spool, "duplicate")
    acknowledged = attempted - waiting
    samples = Accounting(
        attempted=len(attempted),
        acknowledged=len(acknowledged),
        stored=len(stored & attempted),
        lost=len(acknowledged - stored),
        duplicated=duplicates,
        recovered=min(len(stored), round(value(agent, "collafuse_publish_failures_total"))),
        dead_lettered=dead[user],
        unexpected=len(stored - attempted),
    )
    asked, completed = sum(by_state.values()), by_state.get("completed", 0)
    published = round(value(agent, "collafuse_published_total", type="denoise.v1"))
    ended_otherwise = by_state.get("failed", 0) + by_state.get("expired", 0)
    denoise = Accounting(
        attempted=asked,
        acknowledged=published,
        stored=completed,
        lost=max(0, published - completed - ended_otherwise),
        duplicated=repeated,
        recovered=0,
        dead_lettered=0,
        unexpected=late,
    )
    return Books(samples, denoise)


def what_the_server_holds(
    client: ClientData, design: Design, places: Places, store: SampleStore
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(clean images, what the server holds of them), both (N, C, H, W) float32 and in the same order.

    The device's releases are made again from its secret and compared with the store bit by bit, which tells what belongs to what.
    Raises DemoFailed when the store holds anything that the device did not release.
    """
    cut = Cut(NoiseSchedule.named(design.schedule, design.timesteps), design.cut_ratio)
    secret = StateDirectory(places.state(client.name)).secret()
    releases = {
        privacy.release(cut, image, secret).x_c.astype(np.float16).tobytes(): image
        for image in client.train.images
    }
    clean, held = [], []
    for entry in store.entries(client=client.name, device=design.device):
        for x_c in store.tensors(entry).x:
            image = releases.get(x_c.tobytes())
            if image is None:
                raise DemoFailed(
                    f"the server holds a sample in batch {entry.message_id} that {client.name} never released"
                )
            clean.append(image)
            held.append(x_c.astype(np.float32))
    return np.stack(clean), np.stack(held)


def given_away(
    client: ClientData, others: NDArray[np.float32], design: Design, places: Places, store: SampleStore
) -> Disclosure:
    """How near the server's samples of a client come to its clean images; the attacker has seen the other clients' images."""
    clean, held = what_the_server_holds(client, design, places, store)
    schedule = NoiseSchedule.named(design.schedule, design.timesteps)
    t_cut = Cut(schedule, design.cut_ratio).t_cut
    return disclosure(
        clean,
        held,
        t_cut=t_cut,
        alpha_bar=float(schedule.alpha_bar[t_cut]),
        prior_images=others,
        seed=design.seed,
    )


def open_store(places: Places) -> SampleStore:
    """The server's samples, for reading only."""
    return SampleStore(Storage(places.storage), quarantine=False)
