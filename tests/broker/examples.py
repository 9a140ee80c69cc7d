"""One valid message of each type with fixed contents, and strategies that draw any valid message."""

import string
from typing import Literal

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from broker.contract.denoise import DenoiseV1, FailedV1, LatentsV1
from broker.contract.fields import MAX_REQUEST_SAMPLES, MAX_T
from broker.contract.heads import NAME_PATTERN, VERSION_PATTERN, BundleV1, ChunkV1
from broker.contract.message import Message
from broker.contract.receipts import ReceiptV1
from broker.contract.rounds import RoundV1
from broker.contract.samples import SamplesV1
from broker.contract.telemetry import HeadReport, StepTimes, TelemetryV1, UpdateReport

SCHEDULE_ID = "0123456789abcdef"
REQUEST_ID = "00112233445566778899aabbccddeeff"
SHAPE = (1, 2, 2)


def ramp(n: int) -> npt.NDArray[np.float32]:
    """Returns (n, 1, 2, 2) float32 values that float16 holds exactly."""
    return (np.arange(n * 4, dtype=np.float32) / np.float32(4) - np.float32(1)).reshape(n, *SHAPE)


def samples(n: int = 3) -> SamplesV1:
    return SamplesV1.pack(ramp(n), schedule_id=SCHEDULE_ID, t_cut=300, release=2, labels=np.arange(n))


def pairs(n: int = 2) -> SamplesV1:
    return SamplesV1.pack(
        ramp(n),
        schedule_id=SCHEDULE_ID,
        t_cut=300,
        release=0,
        dtype="int8",
        t=np.full(n, 301),
        noise=-ramp(n),
    )


def denoise() -> DenoiseV1:
    return DenoiseV1(
        request_id=REQUEST_ID,
        shape=SHAPE,
        n=2,
        schedule_id=SCHEDULE_ID,
        plan=(1000, 650, 300),
        sampler="dpmpp2m",
        clip=1.0,
        seed=7,
        labels=np.array([1, 0], dtype=np.int32),
        ttl_seconds=60.0,
    )


def latents() -> LatentsV1:
    return LatentsV1(
        request_id=REQUEST_ID,
        part=1,
        parts=2,
        first=1,
        x=ramp(1).astype(np.float16),
        t_stop=300,
        schedule_id=SCHEDULE_ID,
        backbone_version=4,
        evaluations=2,
        step_seconds=0.25,
        queued_seconds=1.5,
    )


def failed() -> FailedV1:
    return FailedV1(request_id=REQUEST_ID, reason="schedule_mismatch", detail="another ᾱ table")


def round_() -> RoundV1:
    return RoundV1(
        number=3,
        schedule_name="cosine",
        schedule_T=1000,
        schedule_id=SCHEDULE_ID,
        shape=SHAPE,
        num_classes=10,
        cut_min=0.2,
        cut_max=0.6,
        releases_wanted=1,
        backbone_version=4,
    )


def narrow_round() -> RoundV1:
    return RoundV1(**(dict(round_()) | {"closes_in_seconds": 120.0, "labels_wanted": (2, 7)}))


def receipt() -> ReceiptV1:
    return ReceiptV1(batch_id="ab" * 32, samples=3, duplicate=False)


def bundle() -> BundleV1:
    return BundleV1(
        bundle="ab" * 32,
        size_bytes=200_000,
        chunk_bytes=65_536,
        manifest=b'{"name":"ward"}',
        signatures=b"[]",
        key_list=b"{}",
    )


def chunk() -> ChunkV1:
    return ChunkV1(bundle="ab" * 32, index=3, content=bytes(range(16)))


def telemetry() -> TelemetryV1:
    return TelemetryV1(
        sequence=7,
        interval_seconds=300.0,
        uptime_seconds=12.5,
        agent_version="0.1.0",
        head=HeadReport(
            bundle="ab" * 32, name="ward", version="2026.1", counter=4, provider="cpu", fallback=None
        ),
        update=UpdateReport(
            bundle="cd" * 32, state="receiving", reason=None, missing=(3, 5, 9, 10), attempts=1
        ),
        counters={"releases": 30},
        gauges={"outbox_bytes": 1.5},
        step_seconds=StepTimes(bounds=(0.25, 1.0), counts=(1, 2, 0), sum_seconds=1.5),
    )


def one_of_each() -> list[Message]:
    return [
        samples(),
        pairs(),
        denoise(),
        latents(),
        failed(),
        round_(),
        receipt(),
        bundle(),
        chunk(),
        telemetry(),
    ]


_schedule_ids = st.text("0123456789abcdef", min_size=16, max_size=16)
_request_ids = st.text("0123456789abcdef", min_size=32, max_size=32)
_counts = st.integers(0, 2**53)
_shapes = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
_dtypes: st.SearchStrategy[Literal["float16", "float32"]] = st.sampled_from(["float16", "float32"])
_seconds = st.floats(0, 1e6)


def _floats(dtype: str, shape: tuple[int, ...]) -> st.SearchStrategy[np.ndarray]:
    elements = st.floats(-1024, 1024, width=16 if dtype == "float16" else 32)
    return arrays.arrays(np.dtype(dtype), shape, elements=elements)


def _integers(n: int, low: int, high: int) -> st.SearchStrategy[np.ndarray]:
    return arrays.arrays(np.int32, (n,), elements=st.integers(low, high))


@st.composite
def _samples(draw: st.DrawFn) -> SamplesV1:
    n, shape = draw(st.integers(1, 4)), draw(_shapes)
    t_cut = draw(st.integers(1, MAX_T - 1))
    with_pairs = draw(st.booleans())
    return SamplesV1.pack(
        draw(_floats("float32", (n, *shape))),
        schedule_id=draw(_schedule_ids),
        t_cut=t_cut,
        release=draw(_counts),
        dtype=draw(st.sampled_from(["float16", "float32", "int8"])),
        labels=draw(st.none() | _integers(n, 0, 2**31 - 1)),
        t=draw(_integers(n, t_cut + 1, MAX_T)) if with_pairs else None,
        noise=draw(_floats("float32", (n, *shape))) if with_pairs else None,
    )


@st.composite
def _denoise(draw: st.DrawFn) -> DenoiseV1:
    n = draw(st.integers(1, 8))
    steps = draw(st.sets(st.integers(0, MAX_T), min_size=2, max_size=12))
    return DenoiseV1(
        request_id=draw(_request_ids),
        shape=draw(_shapes),
        n=n,
        schedule_id=draw(_schedule_ids),
        plan=tuple(sorted(steps, reverse=True)),
        sampler=draw(st.sampled_from(["ddim", "ddpm", "dpmpp2m"])),
        eta=draw(st.floats(0, 1)),
        clip=draw(st.none() | st.floats(0.5, 10)),
        seed=draw(st.integers(0, 2**63 - 1)),
        labels=draw(st.none() | _integers(n, 0, 1000)),
        dtype=draw(_dtypes),
        ttl_seconds=draw(st.none() | st.floats(0.001, 1e6)),
        priority=draw(st.sampled_from(["interactive", "prefetch"])),
    )


@st.composite
def _latents(draw: st.DrawFn) -> LatentsV1:
    k, parts = draw(st.integers(1, 4)), draw(st.integers(1, MAX_REQUEST_SAMPLES))
    return LatentsV1(
        request_id=draw(_request_ids),
        part=draw(st.integers(0, parts - 1)),
        parts=parts,
        first=draw(st.integers(0, MAX_REQUEST_SAMPLES - k)),
        x=draw(_floats(draw(_dtypes), (k, *draw(_shapes)))),
        t_stop=draw(st.integers(0, MAX_T)),
        schedule_id=draw(_schedule_ids),
        backbone_version=draw(_counts),
        evaluations=draw(st.integers(0, MAX_T)),
        step_seconds=draw(_seconds),
        queued_seconds=draw(_seconds),
    )


@st.composite
def _rounds(draw: st.DrawFn) -> RoundV1:
    low, high = sorted(draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
    num_classes = draw(st.none() | st.integers(1, 1000))
    labels = st.sets(st.integers(0, (num_classes or 1) - 1), min_size=1, max_size=1000)
    return RoundV1(
        number=draw(_counts),
        schedule_name=draw(st.sampled_from(["cosine", "linear"])),
        schedule_T=draw(st.integers(1, MAX_T)),
        schedule_id=draw(_schedule_ids),
        shape=draw(_shapes),
        num_classes=num_classes,
        cut_min=low,
        cut_max=high,
        releases_wanted=draw(_counts),
        backbone_version=draw(_counts),
        closes_in_seconds=draw(st.none() | _seconds),
        labels_wanted=draw(st.none() | labels.map(lambda found: tuple(sorted(found))))
        if num_classes
        else None,
    )


_failures = st.builds(
    FailedV1,
    request_id=_request_ids,
    reason=st.from_regex(r"[a-z0-9_]{1,64}", fullmatch=True),
    detail=st.text(st.characters(codec="utf-8"), max_size=500),
)
_receipts = st.builds(
    ReceiptV1,
    batch_id=st.text("0123456789abcdef", min_size=32, max_size=64),
    samples=_counts,
    duplicate=st.booleans(),
)
_digests = st.text("0123456789abcdef", min_size=64, max_size=64)
_bundles = st.builds(
    BundleV1,
    bundle=_digests,
    size_bytes=st.integers(1, 512 * 2**20),
    chunk_bytes=st.integers(64 * 2**10, 2**20),
    manifest=st.binary(min_size=1, max_size=64),
    signatures=st.binary(max_size=64),
    key_list=st.none() | st.binary(max_size=64),
)
_chunks = st.builds(
    ChunkV1, bundle=_digests, index=st.integers(0, 8191), content=st.binary(min_size=1, max_size=64)
)
_figure_names = st.from_regex(r"[a-z][a-z0-9_]{0,15}", fullmatch=True)
_texts = st.text(st.characters(codec="utf-8"), max_size=40)
_head_reports = st.builds(
    HeadReport,
    bundle=_digests,
    name=st.from_regex(NAME_PATTERN, alphabet=string.printable.strip(), fullmatch=True),
    version=st.from_regex(VERSION_PATTERN, alphabet=string.printable.strip(), fullmatch=True),
    counter=_counts,
    provider=st.sampled_from(["cpu", "cuda"]),
    fallback=st.none() | _texts,
)
_update_reports = st.builds(
    UpdateReport,
    bundle=_digests,
    state=st.sampled_from(["receiving", "staged", "trial", "installed", "refused", "failed", "rolled_back"]),
    reason=st.none() | st.from_regex(r"[a-z0-9_]{1,64}", fullmatch=True),
    missing=st.sets(st.integers(0, 9000), max_size=64).map(
        lambda found: tuple(sorted(found)[: len(found) // 2 * 2])
    ),
    attempts=_counts,
)


@st.composite
def _step_times(draw: st.DrawFn) -> StepTimes:
    bounds = tuple(sorted(draw(st.sets(st.floats(0, 100), max_size=8))))
    counts = draw(st.lists(_counts, min_size=len(bounds) + 1, max_size=len(bounds) + 1))
    return StepTimes(bounds=bounds, counts=tuple(counts), sum_seconds=draw(st.floats(0, 1e6)))


_telemetry = st.builds(
    TelemetryV1,
    sequence=_counts,
    interval_seconds=_seconds,
    uptime_seconds=_seconds,
    agent_version=_texts,
    head=st.none() | _head_reports,
    update=st.none() | _update_reports,
    counters=st.dictionaries(_figure_names, _counts, max_size=8),
    gauges=st.dictionaries(_figure_names, st.floats(-1e9, 1e9), max_size=8),
    step_seconds=st.none() | _step_times(),
)

messages: st.SearchStrategy[Message] = st.one_of(
    _samples(), _denoise(), _latents(), _rounds(), _failures, _receipts, _bundles, _chunks, _telemetry
)
