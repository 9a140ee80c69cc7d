"""Published backbone versions: numbered, complete, and never changed afterwards.

    versions/000001/weights.safetensors, manifest.json        versions/LATEST        versions/BEST

A version's folder appears whole, then LATEST names it. Readers follow LATEST, so they never see half a version; or BEST, which
names the one that did best on releases kept from training.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import structlog
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from diffusion.errors import DiffusionError
from diffusion.network import UNet, UNetConfig
from diffusion.schedule import NoiseSchedule
from server_worker.errors import ContractMismatch, Damaged, NotFinite, StorageFull, VersionMissing
from server_worker.storage import Storage, json_bytes, read_json

log = structlog.get_logger(__name__)

FORMAT = "collafuse-backbone-v1"
VERSIONS_FOLDER = "versions"
LATEST_PATH = f"{VERSIONS_FOLDER}/LATEST"
BEST_PATH = f"{VERSIONS_FOLDER}/BEST"
WEIGHTS_NAME = "weights.safetensors"
MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """What a backbone version is.

    number: 1, 2, 3 …
    schedule_name, schedule_T, schedule_id: the chain it denoises.
    shape: (C, H, W); num_classes: labels are 0..num_classes-1, None: none.
    t_cut_min: the smallest cut it was trained for; below it, it knows nothing.
    steps, samples_seen: optimiser steps, and samples drawn for them.
    weights_digest: sha256 of the weights file.
    unet: the network's configuration.
    held_out_loss, held_out_by_level: its mean loss on held-out releases when it was published, of all and by third of the
    noise range; None and empty where there were none.
    samples_by_client: every client whose samples were ever there in this training, with the most that there were; who was
    forgotten meanwhile stays, for the weights have seen theirs.
    """

    number: int
    schedule_name: str
    schedule_T: int  # noqa: N815 the papers' symbol
    schedule_id: str
    shape: tuple[int, int, int]
    num_classes: int | None
    t_cut_min: int
    steps: int
    samples_seen: int
    weights_digest: str
    unet: dict[str, Any]
    held_out_loss: float | None = None
    held_out_by_level: dict[str, float] = field(default_factory=dict)
    samples_by_client: dict[str, int] = field(default_factory=dict)
    format: str = FORMAT


@dataclass(frozen=True, eq=False)
class Backbone:
    """A loaded version, ready to predict: the network is in eval mode and takes no gradients."""

    manifest: Manifest
    schedule: NoiseSchedule
    network: UNet

    @property
    def number(self) -> int:
        """The version's number."""
        return self.manifest.number


def latest(storage: Storage) -> int | None:
    """The number of the newest version, None before the first. Raises Damaged when LATEST holds no number."""
    return _named(storage, LATEST_PATH)


def best(storage: Storage) -> int | None:
    """The number of the version that did best on held-out releases, None before there is one. Raises Damaged as `latest`."""
    return _named(storage, BEST_PATH)


def chosen(storage: Storage, follow: Literal["latest", "best"]) -> int | None:
    """The version to serve: the newest, or the best with the newest in its place while there is none."""
    number = best(storage) if follow == "best" else None
    return latest(storage) if number is None else number


def name_best(storage: Storage, number: int) -> None:
    """Make a published version the best. Raises StorageFull."""
    storage.write(BEST_PATH, f"{number}\n".encode())
    log.info("best_version_named", version=number)


def published(storage: Storage) -> list[int]:
    """The numbers of all versions that are in the storage, rising."""
    return sorted(int(name) for name in storage.folders(VERSIONS_FOLDER) if name.isdigit())


def _named(storage: Storage, path: str) -> int | None:
    try:
        text = storage.read(path).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return None
    if not text.isdigit():
        raise Damaged(
            f"{storage.url}/{path} holds {text[:40]!r}, no version number: write the number of a good version"
        )
    return int(text)


def publish(
    storage: Storage, weights: Mapping[str, torch.Tensor], manifest: Manifest, *, keep: int = 20
) -> Manifest:
    """Publish the next version and make it the latest.

    Args:
        storage: where.
        weights: the network's state, any device.
        manifest: its number and digest are filled in here.
        keep: so many of the newest versions stay in the storage, and the best one.

    Returns the manifest as published. Raises StorageFull, and NotFinite for weights with NaN or infinity.
    """
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
        raise NotFinite(
            f"the weights after {manifest.steps} steps are not published, for they hold NaN or infinity: start the trainer "
            "again, it goes on from its newest checkpoint"
        )
    data = save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()})
    wanted = replace(manifest, weights_digest=hashlib.sha256(data).hexdigest())
    made = _begun(storage, wanted)
    if made is None:
        made = replace(wanted, number=newest(storage) + 1)
        files = {WEIGHTS_NAME: data, MANIFEST_NAME: json_bytes(asdict(made))}
        storage.write_folder(_folder(made.number), files)
    storage.write(LATEST_PATH, f"{made.number}\n".encode())
    _prune(storage, keep)
    log.info("backbone_version_published", version=made.number, steps=made.steps, t_cut_min=made.t_cut_min)
    return made


def newest(storage: Storage) -> int:
    """The greatest number that is known, of LATEST where it can be read and of what is published; 0 before the first."""
    named, _ = _readable(storage, LATEST_PATH)
    return max([named or 0, *published(storage)])


def read_manifest(storage: Storage, number: int) -> Manifest:
    """What version `number` is, without its weights. Raises VersionMissing or Damaged."""
    path = f"{_folder(number)}/{MANIFEST_NAME}"
    try:
        fields = read_json(storage, path)
    except FileNotFoundError as error:
        raise VersionMissing(f"the storage {storage.url} has no backbone version {number}") from error
    try:
        manifest = Manifest(**{**fields, "shape": tuple(fields["shape"])})
    except (TypeError, KeyError) as error:
        raise Damaged(f"{storage.url}/{path} is not a manifest of {FORMAT} ({error})") from error
    if manifest.format != FORMAT or manifest.number != number:
        raise Damaged(
            f"{storage.url}/{path} describes {manifest.format} version {manifest.number}, not {FORMAT} {number}"
        )
    return manifest


def load(storage: Storage, number: int, device: torch.device) -> Backbone:
    """A version's network on `device`.

    Raises:
        VersionMissing: it was never published, or was removed since.
        Damaged: a file of it is not what was written.
        ContractMismatch: its schedule id is not that of the schedule it names.
    """
    manifest = read_manifest(storage, number)
    path = f"{_folder(number)}/{WEIGHTS_NAME}"
    try:
        data = storage.read(path)
    except FileNotFoundError as error:
        raise VersionMissing(
            f"the storage {storage.url} has no weights of backbone version {number}"
        ) from error
    if hashlib.sha256(data).hexdigest() != manifest.weights_digest:
        raise Damaged(
            f"{storage.url}/{path} has a wrong digest: publish again, or point LATEST to another version"
        )
    try:
        schedule = NoiseSchedule.named(manifest.schedule_name, manifest.schedule_T)
        config = UNetConfig.from_dict(manifest.unet)
    except (DiffusionError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise Damaged(
            f"{storage.url}/{_folder(number)}/{MANIFEST_NAME} makes no sense ({error}): publish again, or point "
            "LATEST to another version"
        ) from error
    if schedule.schedule_id != manifest.schedule_id:
        raise ContractMismatch(
            f"backbone version {number} was trained on schedule {manifest.schedule_id}, "
            f"{manifest.schedule_name} with T={manifest.schedule_T} is {schedule.schedule_id} here"
        )
    if (config.in_channels, config.image_size, config.image_size) != manifest.shape or (
        config.num_classes != manifest.num_classes
    ):
        raise Damaged(
            f"backbone version {number} is said to make {manifest.shape} with {manifest.num_classes} classes, its network "
            f"is {config}: publish again, or point LATEST to another version"
        )
    try:
        network = UNet(config)
        network.load_state_dict(load_tensors(data))
    except (SafetensorError, RuntimeError, DiffusionError) as error:
        raise Damaged(
            f"{storage.url}/{path} does not fit its manifest: {str(error).splitlines()[0]}"
        ) from error
    if not all(bool(torch.isfinite(weights).all()) for weights in network.state_dict().values()):
        raise Damaged(
            f"{storage.url}/{path} holds weights that are not finite: point LATEST to a version that is sound"
        )
    network.to(device).eval().requires_grad_(False)
    return Backbone(manifest, schedule, network)


def _readable(storage: Storage, path: str) -> tuple[int | None, bool]:
    """The number that a file names, and whether the file could be read; a damaged one is reported."""
    try:
        return _named(storage, path), True
    except Damaged as error:
        log.warning("version_name_unreadable", error=str(error))
        return None, False


def _begun(storage: Storage, wanted: Manifest) -> Manifest | None:
    """The newest version if it is what is wanted and LATEST does not name it yet, as when the disk was full just then."""
    numbers = published(storage)
    if not numbers or numbers[-1] == _readable(storage, LATEST_PATH)[0]:
        return None
    try:
        found = read_manifest(storage, numbers[-1])
    except (VersionMissing, Damaged):
        return None
    is_same = (found.weights_digest, found.steps) == (wanted.weights_digest, wanted.steps)
    return found if is_same else None


def _prune(storage: Storage, keep: int) -> None:
    """Drop all but the newest and the best; none where it is not known which that is."""
    best_number, is_known = _readable(storage, BEST_PATH)
    numbers = published(storage) if is_known else []
    for old in numbers[: max(0, len(numbers) - keep)]:
        if old != best_number:
            _forget(storage, old)


def _folder(number: int) -> str:
    return f"{VERSIONS_FOLDER}/{number:06d}"


def _forget(storage: Storage, number: int) -> None:
    try:
        storage.delete(_folder(number))
    except StorageFull as error:
        log.warning("old_version_kept", version=number, error=str(error))
