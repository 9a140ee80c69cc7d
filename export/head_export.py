"""From a head checkpoint to a bundle: export, compare, and only then write."""

import re
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from export.bundle import member_digests, write_bundle
from export.checkpoint import HeadCheckpoint, load_checkpoint
from export.errors import ExportError
from export.manifest import NAME_PATTERN, Manifest, Network, ParityFigures, TrainingFacts, first_problem
from export.onnx_export import OPSET, export_onnx
from export.parity import check_parity


def export_head(
    checkpoint: Path,
    out: Path,
    *,
    name: str | None = None,
    version: int = 1,
    on_stage: Callable[[str], None] | None = None,
) -> Manifest:
    """Export the head in `checkpoint` to a bundle at `out`.

    Args:
        checkpoint: made by head training.
        out: the bundle; replaced in one step, and only when the exported head has passed the parity gate.
        name: the head's name, `[a-z0-9][a-z0-9-]*`; the client's by default.
        version: grows with every head published under this name.
        on_stage: told what begins next, in words.

    Raises:
        ExportError: the checkpoint is not usable or the network cannot be exported.
        ParityFailed: the exported head differs from the trained one; `out` is untouched.
        BundleError: `out` cannot be written.
    """
    tell = on_stage or (lambda _stage: None)
    tell("reading the checkpoint")
    head = load_checkpoint(checkpoint)
    name = name or head.metadata.client
    # Asked before the export, which takes a while.
    for what in (name, head.metadata.client):
        if not re.fullmatch(NAME_PATTERN, what):
            raise ExportError(f"{what!r} is not a name; use lower-case letters, digits and hyphens")
    tell("exporting to ONNX")
    onnx = export_onnx(head.network)
    tell("comparing onnxruntime with torch")
    parity = check_parity(head.network, onnx, head.schedule, head.metadata.t_cut)
    tell("writing the bundle")
    try:
        manifest = _manifest(head, onnx, parity, name, version)
    except ValidationError as error:
        raise ExportError(f"{checkpoint} cannot be exported: {first_problem(error)}") from error
    write_bundle(out, manifest, onnx, head.schedule)
    return manifest


def _manifest(head: HeadCheckpoint, onnx: bytes, parity: ParityFigures, name: str, version: int) -> Manifest:
    facts, config = head.metadata, head.network.config
    return Manifest(
        name=name,
        client=facts.client,
        version=version,
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
            precision="fp32",
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
        parity=parity,
        digests=member_digests(onnx, head.schedule),
    )
