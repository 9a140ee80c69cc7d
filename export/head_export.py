"""From a head checkpoint to a bundle: export, compare, and only then write."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from broker.contract.heads import NAME_PATTERN
from export.bundle.bars import BARS
from export.bundle.bundle import Bundle, member_digests, write_bundle
from export.bundle.canonical import first_problem
from export.bundle.gates import Precision
from export.bundle.golden import Golden
from export.bundle.keys import BUNDLE_DOMAIN, NO_KEY_LIST, UNSIGNED, KeyHistory, PrivateKey
from export.bundle.manifest import GoldenFacts, Manifest, Network, TrainingFacts
from export.checkpoint import HeadCheckpoint, load_checkpoint
from export.conversion.calibration import read_calibration
from export.conversion.onnx_export import OPSET
from export.conversion.precision import Converted, convert
from export.conversion.trajectories import Inputs, Trained, images_of, noised
from export.errors import ExportError

MINIMUM_AGENT = "0.1.0"
_GOLDEN_COUNT = 8
_GOLDEN_BYTES = 2**20
_DAY_SECONDS = 86_400


@dataclass(frozen=True)
class Issue:
    """What the one who publishes says of a head, beside what was measured.

    name: `[a-z0-9][a-z0-9-]*`, the client's by default;  version: for people, the counter by default;  counter: grows
    with every head of this name;  issued_at: unix seconds, now by default;  expires_in_days: None for never;
    minimum_agent: the oldest agent that may run it.
    """

    name: str | None = None
    version: str | None = None
    counter: int = 1
    issued_at: int | None = None
    expires_in_days: float | None = None
    minimum_agent: str = MINIMUM_AGENT


def export_head(
    checkpoint: Path,
    out: Path,
    *,
    issue: Issue | None = None,
    precision: Precision = "fp32",
    calibration: Path | None = None,
    key: PrivateKey | None = None,
    key_list: KeyHistory = NO_KEY_LIST,
    on_stage: Callable[[str], None] | None = None,
) -> Manifest:
    """Export the head in `checkpoint` to a bundle at `out`.

    Args:
        checkpoint: made by head training.
        out: the bundle; replaced in one step, and only when the exported head has passed its gates.
        issue: name, counter, expiry.
        precision: of the network's arithmetic.
        calibration: .npy or .npz of images to calibrate and measure with; the head's own images by default.
        key: signs the bundle; None leaves it unsigned, for a device of one's own.
        key_list: travels with the bundle.
        on_stage: told what begins next, in words.

    Raises:
        ExportError: the checkpoint is not usable or the network cannot be exported.
        ParityFailed: the exported head differs from the trained one; `out` is untouched.
        BundleError: `out` cannot be written.
    """
    tell = on_stage or (lambda _stage: None)
    issue = issue or Issue()
    tell("reading the checkpoint")
    head = load_checkpoint(checkpoint)
    _check_names(issue, head)
    trained = Trained(head.network, head.schedule, head.metadata.t_cut)
    images = None if calibration is None else read_calibration(calibration, trained.image_shape)
    converted = convert(trained, precision, tell, images)
    golden = golden_of(trained)
    tell("writing the bundle")
    try:
        manifest = _manifest(head, issue, precision, converted, golden)
    except ValidationError as error:
        raise ExportError(f"{checkpoint} cannot be exported: {first_problem(error)}") from error
    signatures = UNSIGNED
    if key is not None:
        signatures = signatures.plus(key.sign(BUNDLE_DOMAIN, manifest.to_bytes()))
    write_bundle(out, Bundle(manifest, converted.onnx, head.schedule, golden, signatures, key_list))
    return manifest


def golden_of(head: Trained) -> Golden:
    """The probe of a head: a few of its own images, noised to steps over its whole range, and torch's ε."""
    image_bytes = 4 * int(np.prod(head.image_shape))
    count = int(np.clip(_GOLDEN_BYTES // image_bytes, 1, _GOLDEN_COUNT))
    generator = np.random.Generator(np.random.PCG64(5))
    t = np.linspace(1, head.t_cut, count).round().astype(np.int64)
    x = noised(head.schedule, images_of(head, 4, count, seed=5), t, generator)
    inputs = Inputs(x, t, np.arange(count, dtype=np.int64) % head.labels)
    return Golden(x, t, inputs.label, head.predict(inputs))


def _check_names(issue: Issue, head: HeadCheckpoint) -> None:
    # Asked before the export, which takes a while.
    for what in (issue.name or head.metadata.client, head.metadata.client):
        if not re.fullmatch(NAME_PATTERN, what):
            raise ExportError(f"{what!r} is not a name; use lower-case letters, digits and hyphens")


def _manifest(
    head: HeadCheckpoint,
    issue: Issue,
    precision: Precision,
    converted: Converted,
    golden: Golden,
) -> Manifest:
    facts, config = head.metadata, head.network.config
    issued_at = int(time.time()) if issue.issued_at is None else issue.issued_at
    days = issue.expires_in_days
    return Manifest(
        name=issue.name or facts.client,
        client=facts.client,
        version=issue.version or str(issue.counter),
        counter=issue.counter,
        issued_at=issued_at,
        expires_at=None if days is None else issued_at + round(days * _DAY_SECONDS),
        minimum_agent=issue.minimum_agent,
        schedule_name=facts.schedule_name,
        schedule_T=facts.schedule_T,
        schedule_id=facts.schedule_id,
        t_first=1,
        t_cut=facts.t_cut,
        image_shape=(config.in_channels, config.image_size, config.image_size),
        num_classes=config.num_classes,
        labels=facts.labels,
        network=Network(
            parameters=sum(parameter.numel() for parameter in head.network.parameters()),
            base_channels=config.base_channels,
            opset=OPSET,
            precision=precision,
            calibration=converted.calibration,
            kept_in_float=converted.kept_in_float,
        ),
        training=TrainingFacts(
            steps=facts.steps,
            batch_size=facts.batch_size,
            images=facts.images,
            learning_rate=facts.learning_rate,
            seed=facts.seed,
            seconds=facts.seconds,
            final_loss=facts.loss,
        ),
        gates=converted.gates,
        golden=GoldenFacts(count=len(golden.t), allowed_relative_rms=BARS[precision].golden_relative_rms),
        digests=member_digests(converted.onnx, head.schedule, golden),
    )
