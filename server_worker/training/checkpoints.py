"""Checkpoints: everything that training needs to go on as if nothing had happened.

    checkpoints/000000000200/tensors.safetensors, state.json

Tensors (model, EMA, optimiser) are safetensors, never pickles; everything else is JSON.
What is drawn at random is a function of the seed and the step, so no generator's state belongs to it. A checkpoint's folder
appears whole; the newest two are kept, so that a damaged newest one costs some steps and not the run.
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

from server_worker.errors import Damaged, StorageFull
from server_worker.storage import Storage, json_bytes, read_json

log = structlog.get_logger(__name__)

FORMAT = "collafuse-checkpoint-v1"
CHECKPOINTS_FOLDER = "checkpoints"
TENSORS_NAME = "tensors.safetensors"
STATE_NAME = "state.json"
KEPT = 2


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
    """Write a checkpoint durably and drop all but the newest two. Raises StorageFull."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    data = save_tensors(tensors)
    about = {
        "digest": hashlib.sha256(data).hexdigest(),
        "format": FORMAT,
        "state": dict(checkpoint.state),
        "step": checkpoint.step,
    }
    storage.write_folder(_folder(checkpoint.step), {TENSORS_NAME: data, STATE_NAME: json_bytes(about)})
    for step in _steps(storage)[:-KEPT]:
        try:
            storage.delete(_folder(step))
        except StorageFull as error:
            log.warning("old_checkpoint_kept", step=step, error=str(error))
    log.info("checkpoint_saved", step=checkpoint.step, size_bytes=len(data))


def load_newest(storage: Storage) -> Checkpoint | None:
    """The newest checkpoint that is whole; None when there is none. Damaged ones are reported and passed over."""
    for step in reversed(_steps(storage)):
        try:
            return load_at(storage, step)
        except (Damaged, FileNotFoundError) as error:
            log.warning("checkpoint_damaged", step=step, error=str(error))
    return None


def load_at(storage: Storage, step: int) -> Checkpoint:
    """The checkpoint of one step. Raises FileNotFoundError when there is none, Damaged when it is not whole."""
    folder = _folder(step)
    about = read_json(storage, f"{folder}/{STATE_NAME}")
    data = storage.read(f"{folder}/{TENSORS_NAME}")
    if about.get("format") != FORMAT or about.get("digest") != hashlib.sha256(data).hexdigest():
        raise Damaged(f"{storage.url}/{folder} is not a whole {FORMAT}")
    try:
        return Checkpoint(int(about["step"]), load_tensors(data), about["state"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{storage.url}/{folder} cannot be read: {error}") from error


def _folder(step: int) -> str:
    return f"{CHECKPOINTS_FOLDER}/{step:012d}"


def _steps(storage: Storage) -> list[int]:
    return sorted(int(name) for name in storage.folders(CHECKPOINTS_FOLDER) if name.isdigit())
