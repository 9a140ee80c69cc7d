"""Checkpoints: everything that training needs to go on as if nothing had happened.

    checkpoints/000000000200/tensors.safetensors, state.json

Tensors (model, EMA, optimiser) are safetensors, never pickles; everything else is JSON.
What is drawn at random is a function of the seed and the step, so no generator's state belongs to it. A checkpoint's folder
appears whole; the newest two are kept, so that a damaged newest one costs some steps and not the run.
Those that a training left behind by going back to an older one are moved aside, to checkpoints/abandoned-000000000200.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from server_worker.errors import Damaged, NotFinite, StorageFull
from server_worker.storage import Storage, json_bytes, read_json

log = structlog.get_logger(__name__)

FORMAT = "collafuse-checkpoint-v1"
CHECKPOINTS_FOLDER = "checkpoints"
TENSORS_NAME = "tensors.safetensors"
STATE_NAME = "state.json"
KEPT = 2
ABANDONED_PREFIX = "abandoned-"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One moment of training.

    step: optimiser steps taken.
    tensors: flat names to tensors.
    state: whatever JSON can say of the rest.
    """

    step: int
    tensors: Mapping[str, torch.Tensor]
    state: Mapping[str, Any]


def save(storage: Storage, checkpoint: Checkpoint) -> None:
    """Write a checkpoint durably, keep it and the one before, and move aside those of later steps: training went back.

    Raises StorageFull, and NotFinite when a tensor holds NaN or infinity.
    """
    if not is_finite(checkpoint.tensors):
        raise NotFinite(
            f"the checkpoint of step {checkpoint.step} is not saved, for it holds NaN or infinity: start the trainer again, it "
            "goes on from the checkpoint before; if this happens again lower lr"
        )
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    data = save_tensors(tensors)
    about = {
        "digest": hashlib.sha256(data).hexdigest(),
        "format": FORMAT,
        "state": dict(checkpoint.state),
        "step": checkpoint.step,
    }
    storage.write_folder(_folder(checkpoint.step), {TENSORS_NAME: data, STATE_NAME: json_bytes(about)})
    log.info("checkpoint_saved", step=checkpoint.step, size_bytes=len(data))
    _tidy(storage, checkpoint.step)


def is_finite(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether no tensor holds NaN or infinity."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


def load_newest(storage: Storage) -> Checkpoint | None:
    """The newest checkpoint that is whole; None when there is none. Damaged ones are reported and passed over.

    Raises Damaged when there are some and none is whole: to begin anew is for a person to decide.
    """
    steps = _steps(storage)
    for step in reversed(steps):
        try:
            return load_at(storage, step)
        except (Damaged, FileNotFoundError) as error:
            log.warning("checkpoint_damaged", step=step, error=str(error))
    if steps:
        raise Damaged(
            f"none of the {len(steps)} checkpoints in {storage.url}/{CHECKPOINTS_FOLDER} is whole: restore one from a copy, or "
            "move the folder away to begin anew"
        )
    return None


def load_at(storage: Storage, step: int) -> Checkpoint:
    """The checkpoint of one step. Raises FileNotFoundError when there is none, Damaged when it is not whole."""
    folder = _folder(step)
    about = read_json(storage, f"{folder}/{STATE_NAME}")
    data = storage.read(f"{folder}/{TENSORS_NAME}")
    if about.get("format") != FORMAT or about.get("digest") != hashlib.sha256(data).hexdigest():
        raise Damaged(f"{storage.url}/{folder} is not a whole {FORMAT}")
    try:
        checkpoint = Checkpoint(int(about["step"]), load_tensors(data), about["state"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{storage.url}/{folder} cannot be read: {error}") from error
    if not is_finite(checkpoint.tensors):
        raise Damaged(f"{storage.url}/{folder} holds NaN or infinity")
    return checkpoint


def _tidy(storage: Storage, newest: int) -> None:
    """Drop what is older than the two up to `newest`, and move aside what is above it, which no restart may find."""
    steps = _steps(storage)
    try:
        for step in [step for step in steps if step <= newest][:-KEPT]:
            storage.delete(_folder(step))
        for step in [step for step in steps if step > newest]:
            _abandon(storage, step)
    except StorageFull as error:
        log.warning("old_checkpoints_kept", error=str(error))


def _abandon(storage: Storage, step: int) -> None:
    target = f"{CHECKPOINTS_FOLDER}/{ABANDONED_PREFIX}{step:012d}"
    for name in sorted(storage.names(_folder(step))):  # the state first: half of a checkpoint is none
        storage.move(f"{_folder(step)}/{name}", f"{target}/{name}")
    storage.delete(_folder(step))
    log.warning("checkpoint_abandoned", step=step, moved_to=f"{storage.url}/{target}")


def _folder(step: int) -> str:
    return f"{CHECKPOINTS_FOLDER}/{step:012d}"


def _steps(storage: Storage) -> list[int]:
    return sorted(int(name) for name in storage.folders(CHECKPOINTS_FOLDER) if name.isdigit())
