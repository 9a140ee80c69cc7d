"""Everything a run of the demo has measured: what `summary.json` holds and what the report prints.

The classes refuse NaN, infinities and unknown fields, so a summary that exists is a summary that can be
read. Times are in seconds, losses are mean squared errors of the predicted noise. Pictures are not in here:
see `evaluation.reporting.gallery`.
"""

import json
from collections.abc import Sequence

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from evaluation.errors import SummaryError
from evaluation.metrics.comparison import Comparison
from evaluation.metrics.disclosure import Disclosure
from evaluation.metrics.fidelity import Fidelity
from evaluation.metrics.spread import Spread

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
FORMAT = "collafuse-demo-summary-v1"


@dataclass(frozen=True, config=_STRICT)
class Curve:
    """Loss over training steps: `steps` ascending, one value of `loss` each."""

    name: str
    steps: tuple[int, ...]
    loss: tuple[float, ...]


@dataclass(frozen=True, config=_STRICT)
class BudgetSide:
    """What one set-up was given for one client.

    parameters: of all networks an image passes through; updates: optimiser steps that went into them, all
    clients' share of the backbone included; images_per_update: batch size; training_images: whose images
    the networks learned from, in number; evaluations_per_image: network evaluations to generate one image.
    """

    parameters: int
    updates: int
    images_per_update: int
    training_images: int
    evaluations_per_image: int


@dataclass(frozen=True, config=_STRICT)
class EqualBudget:
    """What is equal between the two set-ups, in words, and both sides in numbers to check it by."""

    statement: str
    collaborative: BudgetSide
    isolated: BudgetSide


@dataclass(frozen=True, config=_STRICT)
class EvaluationShare:
    """Network evaluations for one image on each side of the cut; device_share in [0, 1]."""

    server: int
    device: int
    device_share: float


@dataclass(frozen=True, config=_STRICT)
class Accounting:
    """What became of the messages of one kind or of all of them.

    attempted: handed to a publisher; acknowledged: confirmed by the broker; stored: written durably by the
    receiver;
    lost: acknowledged but never stored; duplicated: arrived again and were recognised; recovered: stored
    only after a redelivery or a second sending; dead_lettered: set aside with a reason; unexpected: arrived
    but were never sent.
    """

    attempted: int
    acknowledged: int
    stored: int
    lost: int
    duplicated: int
    recovered: int
    dead_lettered: int
    unexpected: int


@dataclass(frozen=True, config=_STRICT)
class ClientResult:
    """One client: its data, its cut, and what was measured for it.

    provider: onnxruntime's execution provider that ran the head. device_name: the agent.
    queue_lag_seconds: publish to consume; request_seconds: from asking for images to holding the last latent.
    """

    name: str
    device_name: str
    digits: tuple[int, ...]
    train_images: int
    held_out_images: int
    cut_ratio: float
    t_cut: int
    provider: str
    budget: EqualBudget
    collaborative: Fidelity
    isolated: Fidelity
    real_floor: Fidelity
    comparisons: tuple[Comparison, ...]
    disclosure: Disclosure
    evaluations: EvaluationShare
    server_step_seconds: Spread | None
    device_step_seconds: Spread | None
    queue_lag_seconds: Spread | None
    request_seconds: Spread | None
    accounting: Accounting
    head_curve: Curve
    isolated_curve: Curve


@dataclass(frozen=True, config=_STRICT)
class ClassifierResult:
    """The classifier behind KID and agreement: its name, and how well it does on held-out images."""

    name: str
    held_out_accuracy: float
    held_out_images: int


@dataclass(frozen=True, config=_STRICT)
class DemoResult:
    """One run of the demo.

    machine: in words, for example "2 cores, x86_64, Linux"; versions: package → version; processes: what
    ran, in words, and how many of it; queue_lag_seconds: publish to consume, by queue; accounting: by kind
    of message.
    backbone_curves: one per band of noise levels. started_at: ISO 8601.
    """

    started_at: str
    duration_seconds: float
    machine: str
    versions: dict[str, str]
    processes: dict[str, int]
    dataset: str
    schedule_name: str
    schedule_steps: int
    schedule_id: str
    sampler: str
    backbone_parameters: int
    head_parameters: int
    backbone_versions: int
    classifier: ClassifierResult
    backbone_curves: tuple[Curve, ...]
    clients: tuple[ClientResult, ...]
    queue_lag_seconds: dict[str, Spread]
    samples_per_network_call: Spread | None
    accounting: dict[str, Accounting]
    format: str = FORMAT


def evaluation_share(server: int, device: int) -> EvaluationShare:
    """The share of network evaluations that the device makes. Both ≥ 0, together ≥ 1."""
    return EvaluationShare(server, device, device / (server + device))


def total(parts: Sequence[Accounting]) -> Accounting:
    """The sum of several accounts."""
    names = tuple(Accounting.__dataclass_fields__)
    return Accounting(**{name: sum(getattr(part, name) for part in parts) for name in names})


def to_json(result: DemoResult) -> str:
    """The summary as indented JSON, ending in a newline. `from_json` gives back an equal result."""
    return (
        json.dumps(_ADAPTER.dump_python(result, mode="json"), indent=2, allow_nan=False, ensure_ascii=False)
        + "\n"
    )


def from_json(text: str) -> DemoResult:
    """Reads a summary.

    Raises:
        SummaryError: not a summary, or one of another format; names the first field at fault.
    """
    try:
        result = _ADAPTER.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise SummaryError(f"not a readable summary: {place}: {first['msg']}; run the demo again") from error
    if result.format != FORMAT:
        raise SummaryError(
            f"summary of format {result.format!r}, this version reads {FORMAT!r}: run the demo again"
        )
    return result


_ADAPTER: TypeAdapter[DemoResult] = TypeAdapter(DemoResult)
