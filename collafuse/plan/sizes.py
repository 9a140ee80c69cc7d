"""How large the messages of a fleet are: each is made as it would be sent, encoded, and weighed. Nothing here is estimated.

Who is named in a message, and every number in it, is as long as names and numbers get; noise does not compress, so the values do
not matter.
"""

import math
from dataclasses import dataclass

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge

from broker.contract.denoise import DenoiseV1, LatentsV1
from broker.contract.heads import BundleV1, ChunkV1
from broker.contract.message import Message
from broker.contract.receipts import ReceiptV1
from broker.contract.rounds import RoundV1
from broker.contract.samples import SamplesV1
from broker.contract.telemetry import HeadReport, StepTimes, TelemetryV1
from broker.names import user_name
from broker.publisher import Outgoing, outgoing
from broker.topology import EXCHANGE_DOWN, EXCHANGE_UP, QUEUE_SAMPLES, device_key, up_key
from broker.wire_size import answered_bytes, delivered_bytes, published_bytes
from collafuse.plan.demand import Demand
from diffusion.schedule import NoiseSchedule
from edge_agent.release.batch import images_per_message
from export.delivery.parcel import CHUNK_BYTES
from monitoring.metrics import STEP_BUCKETS_SECONDS, EdgeMetrics
from server_worker.samples import segment
from server_worker.samples.batch import Incoming, payload_of
from server_worker.settings import DenoiseSettings

CLIENT, DEVICE = "client-00000000", "device-00000000"
USER = user_name(CLIENT, DEVICE)
WORKER = "trainer"
DIGEST = 64 * "0"
MANIFEST_BYTES = 4096
"""A head's manifest with its signatures takes some 2 to 4 kB, most of it the figures of its parity gate."""


@dataclass(frozen=True)
class Weight:
    """One message.

    body_bytes: as it lies in a queue.
    up_bytes, down_bytes: on a device's connection, each way, its confirm or acknowledgement included.
    """

    body_bytes: int
    up_bytes: int = 0
    down_bytes: int = 0


@dataclass(frozen=True)
class Sizes:
    """All messages of one demand.

    samples: with `images_per_samples` releases in it.  request, answer: for `images_per_request`, of `answer_parts` messages.
    rollout: a whole head to one device.  stored_sample_bytes: of one sample in the store, its part of the header included.
    """

    samples: Weight
    images_per_samples: int
    receipt: Weight
    request: Weight
    answer: Weight
    answer_parts: int
    telemetry: Weight
    round: Weight
    rollout: Weight
    stored_sample_bytes: float


def sizes_of(demand: Demand) -> Sizes:
    """Make every message of a demand and weigh it."""
    schedule = NoiseSchedule.named(demand.schedule, demand.schedule_steps)
    samples, count = _samples(demand, schedule.schedule_id)
    answers = _answers(demand, schedule.schedule_id)
    return Sizes(
        samples=_up(samples, QUEUE_SAMPLES),
        images_per_samples=count,
        receipt=_down(ReceiptV1(batch_id=DIGEST, samples=count, duplicate=False)),
        request=_up(_request(demand, schedule.schedule_id), "denoise"),
        answer=_together([(_down(part), 1) for part in answers]),
        answer_parts=len(answers),
        telemetry=_up(telemetry(), "telemetry"),
        round=_down(_round(demand, schedule.schedule_id)),
        rollout=_head(demand.head_bytes),
        stored_sample_bytes=_stored_bytes(samples) / count,
    )


def telemetry() -> TelemetryV1:
    """A device's report with every counter and gauge that an agent has, and a histogram of its steps."""
    metrics = vars(EdgeMetrics(CollectorRegistry())).values()
    names = {kind: [_name(each) for each in metrics if isinstance(each, kind)] for kind in (Counter, Gauge)}
    return TelemetryV1(
        sequence=2**31,
        interval_seconds=300.0,
        uptime_seconds=1e7,
        agent_version="0.1.0",
        head=HeadReport(
            bundle=DIGEST, name=16 * "h", version="1.0.0", counter=2**16, provider="cpu", fallback=None
        ),
        update=None,
        counters=dict.fromkeys(names[Counter], 2**31),
        gauges=dict.fromkeys(names[Gauge], 1e6),
        step_seconds=StepTimes(
            bounds=STEP_BUCKETS_SECONDS, counts=(2**16,) * (len(STEP_BUCKETS_SECONDS) + 1), sum_seconds=1e6
        ),
    )


def _name(metric: Counter | Gauge) -> str:
    return next(iter(metric.describe())).name.removeprefix("collafuse_")


def _samples(demand: Demand, schedule_id: str) -> tuple[SamplesV1, int]:
    image_bytes = math.prod(demand.shape) * np.dtype(demand.release_dtype).itemsize
    at_a_time = demand.batch or max(1, round(demand.released_per_day))
    count = min(at_a_time, images_per_message(image_bytes))
    message = SamplesV1.pack(
        np.zeros((count, *demand.shape), np.float32),
        schedule_id=schedule_id,
        t_cut=demand.t_cut,
        release=0,
        dtype=demand.release_dtype,
        labels=np.zeros(count, np.int32),
    )
    return message, count


def _request(demand: Demand, schedule_id: str) -> DenoiseV1:
    return DenoiseV1(
        request_id=DIGEST[:32],
        shape=demand.shape,
        n=demand.images_per_request,
        schedule_id=schedule_id,
        plan=demand.steps(),
        clip=1.0,
        seed=2**62,
        labels=np.zeros(demand.images_per_request, np.int32),
        dtype=demand.latents_dtype,
        ttl_seconds=3600.0,
    )


def _answers(demand: Demand, schedule_id: str) -> list[Message]:
    image_bytes = math.prod(demand.shape) * np.dtype(demand.latents_dtype).itemsize
    at_a_time = max(1, DenoiseSettings().part_bytes // image_bytes)
    return [
        LatentsV1(
            request_id=DIGEST[:32],
            part=first,
            parts=demand.images_per_request,
            first=first,
            x=np.zeros(
                (min(at_a_time, demand.images_per_request - first), *demand.shape), demand.latents_dtype
            ),
            t_stop=demand.t_cut,
            schedule_id=schedule_id,
            backbone_version=2**16,
            evaluations=demand.server_steps,
            step_seconds=0.1,
            queued_seconds=0.1,
        )
        for first in range(0, demand.images_per_request, at_a_time)
    ]


def _round(demand: Demand, schedule_id: str) -> RoundV1:
    return RoundV1(
        number=2**31,
        schedule_name=demand.schedule,
        schedule_T=demand.schedule_steps,
        schedule_id=schedule_id,
        shape=demand.shape,
        cut_min=0.1,
        cut_max=0.9,
        releases_wanted=1,
        backbone_version=2**16,
    )


def _head(size_bytes: int) -> Weight:
    """A head as its owner sends it: announced, in pieces, and announced again."""
    announced = BundleV1(
        bundle=DIGEST,
        size_bytes=size_bytes,
        chunk_bytes=CHUNK_BYTES,
        manifest=bytes(MANIFEST_BYTES),
        signatures=b"",
    )
    whole, rest = divmod(size_bytes, CHUNK_BYTES)
    pieces = [(CHUNK_BYTES, whole), (rest, 1)]
    chunks = [
        (_down(ChunkV1(bundle=DIGEST, index=0, content=bytes(piece_bytes))), count)
        for piece_bytes, count in pieces
        if piece_bytes and count
    ]
    return _together([(_down(announced), 2), *chunks])


def _stored_bytes(samples: SamplesV1) -> int:
    """A segment of this one message; merged with others it shares no more than a few bytes of its header."""
    payload = payload_of(Incoming(samples, DIGEST, CLIENT, DEVICE), stored_at=1.7e9)
    made, _ = segment.encode([payload])
    return made.size_bytes


def _addressed(message: Message, exchange: str, key: str) -> Outgoing:
    return outgoing(
        message, exchange=exchange, routing_key=key, message_id=DIGEST, correlation_id=DIGEST, ttl_seconds=600
    )


def _up(message: Message, kind: str) -> Weight:
    sent = _addressed(message, EXCHANGE_UP, up_key(USER, kind))
    return Weight(len(sent.body), up_bytes=published_bytes(sent, USER), down_bytes=answered_bytes())


def _down(message: Message) -> Weight:
    sent = _addressed(message, EXCHANGE_DOWN, device_key(USER))
    return Weight(len(sent.body), up_bytes=answered_bytes(), down_bytes=delivered_bytes(sent, WORKER))


def _together(weights: list[tuple[Weight, int]]) -> Weight:
    """So many of each."""
    return Weight(
        sum(one.body_bytes * count for one, count in weights),
        sum(one.up_bytes * count for one, count in weights),
        sum(one.down_bytes * count for one, count in weights),
    )
