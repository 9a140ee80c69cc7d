"""The head checkpoint: trained weights and all that is needed to export them, in one safetensors file.

The weights never were a pickle, so that reading one from somebody else runs nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from diffusion.errors import DiffusionError
from diffusion.network import UNet, UNetConfig
from diffusion.schedule import NoiseSchedule
from export.errors import ExportError
from export.files import replace_file

HEAD_FORMAT: Final = "collafuse-head-v1"
MAX_CURVE_POINTS = 200
_METADATA_KEY = "collafuse"


class HeadMetadata(BaseModel):
    """What is known of a trained head beside its weights.

    The head owns `t` in `[1, t_cut]` of the named schedule. `loss_curve` holds at most `MAX_CURVE_POINTS` points
    (step, mean loss since the point before).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal["collafuse-head-v1"] = HEAD_FORMAT
    unet: dict[str, Any]
    schedule_name: str
    schedule_T: int = Field(ge=1)  # noqa: N815 - the papers' T
    schedule_id: str
    t_cut: int = Field(ge=1)
    client: str
    labels: tuple[str, ...]
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    images: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    seed: int = Field(ge=0)
    seconds: float = Field(ge=0)
    loss: float = Field(ge=0)
    loss_curve: Annotated[tuple[tuple[int, float], ...], Field(max_length=MAX_CURVE_POINTS)]

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        if self.t_cut > self.schedule_T:
            raise ValueError(f"t_cut {self.t_cut} is beyond T {self.schedule_T}")
        return self


@dataclass(frozen=True, eq=False)
class HeadCheckpoint:
    """A trained network in evaluation mode, on the CPU, with its metadata and its schedule."""

    network: UNet
    metadata: HeadMetadata
    schedule: NoiseSchedule


def save_checkpoint(path: Path, network: UNet, metadata: HeadMetadata) -> None:
    """Write weights and metadata to `path`, whole or not at all.

    Raises:
        ExportError: `path` cannot be written.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    try:
        replace_file(path, save(weights, {_METADATA_KEY: metadata.model_dump_json()}))
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error.strerror}; choose a writable place") from error


def load_checkpoint(path: Path) -> HeadCheckpoint:
    """Read what `save_checkpoint` wrote.

    Raises:
        ExportError: missing, damaged, of another format, or weights that do not fit the network it names.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get(_METADATA_KEY)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise ExportError(f"cannot read the head checkpoint {path}: {error}; train the head again") from error
    if text is None:
        raise ExportError(f"{path} holds weights but no CollaFuse head; give a file made by head training")
    try:
        metadata = HeadMetadata.model_validate_json(text)
        return HeadCheckpoint(_network(metadata, weights), metadata, _schedule(metadata))
    except (ValidationError, DiffusionError, ExportError) as error:
        problem = " ".join(str(error).split())
        raise ExportError(
            f"{path} is not a usable head checkpoint: {problem}; train the head again"
        ) from error


def _network(metadata: HeadMetadata, weights: dict[str, torch.Tensor]) -> UNet:
    network = UNet(UNetConfig.from_dict(metadata.unet))
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ExportError("its weights do not fit the network it names") from error
    bad = [name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise ExportError(f"the weight {bad[0]} is not finite")
    return network.eval().requires_grad_(requires_grad=False)


def _schedule(metadata: HeadMetadata) -> NoiseSchedule:
    schedule = NoiseSchedule.named(metadata.schedule_name, metadata.schedule_T)
    if schedule.schedule_id != metadata.schedule_id:
        raise ExportError(
            f"it was trained on schedule {metadata.schedule_id}, but {metadata.schedule_name} with "
            f"T={metadata.schedule_T} is {schedule.schedule_id}"
        )
    return schedule
