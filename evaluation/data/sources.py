"""Images by name: what a person writes on the command line, opened and divided between clients."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evaluation.data.awa2 import load_awa2
from evaluation.data.celeba import load_celeba
from evaluation.data.cifar10 import load_cifar10
from evaluation.data.dataset import Dataset
from evaluation.data.digits import load_digits
from evaluation.data.folders import load_folder
from evaluation.data.images import ClientData
from evaluation.data.nifti import load_nifti
from evaluation.data.npz import load_npz
from evaluation.data.partition import by_attribute, by_labels, by_owner, by_size, dirichlet
from evaluation.data.patches import PATCH_SIZE, PATCHES, load_patches
from evaluation.data.phantoms import PHANTOMS, load_phantoms
from evaluation.data.resizing import with_size
from evaluation.errors import DataError

# Clients where neither the source nor the question says how many.
CLIENTS = 3
# An attribute with more values than this is a measure, and is divided at thresholds.
_MOST_VALUES = 8
PARTITIONS = ("owner", "labels", "attribute:NAME", "dirichlet:ALPHA", "size:SHARE,SHARE,…")

Builder = Callable[[int | None, int | None, int], Dataset]


def open_source(
    spec: str,
    *,
    image_size: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    label: str | None = None,
) -> Dataset:
    """Opens a source of images.

    Args:
        spec: one of `SOURCES`. `nifti:PATH@60-100` takes the axial slices 60 to 100, `nifti:PATH@0.4-0.7` those between
            these shares of the height (which is also what is taken without): whole numbers are indices.
        image_size: pixels of one side: the middle square of every image is brought to that size. None leaves images as they
            are. Phantoms are drawn and patches are cut at the size asked for.
        limit: at most so many images, drawn evenly; for what is generated, exactly so many. Bounds the memory.
        seed: of what is generated and of what is drawn.
        label: the attribute that is to be the label, in place of the source's own.

    Raises:
        DataError: an unknown source, what its loader finds wrong, or no such attribute.
    """
    dataset = _opened(spec, image_size, limit, seed)
    return dataset if label is None else dataset.labelled_by(label)


def _opened(spec: str, image_size: int | None, limit: int | None, seed: int) -> Dataset:
    if spec in _GENERATED:
        return _GENERATED[spec](image_size, limit, seed)
    kind, _, place = spec.partition(":")
    if kind in _FILES and place:
        return _FILES[kind](Path(place).expanduser(), image_size=image_size, limit=limit, seed=seed)
    raise DataError(f"no source of images is called {spec!r}: choose from {', '.join(SOURCES)}")


def divide(
    dataset: Dataset,
    partition: str | None = None,
    clients: int | None = None,
    seed: int = 0,
    held_out_share: float = 0.2,
) -> tuple[ClientData, ...]:
    """Divides images between clients, and sets a share of each client's aside.

    Args:
        dataset: what to divide.
        partition: one of `PARTITIONS`. None: by owner where the source says whose its images are, else by labels.
        clients: how many. None: as many as the partition says by itself, else 3, or one for each label if they are fewer.
        seed: of every draw.
        held_out_share: share of each client's images that no training may see, in (0, 1).

    Raises:
        DataError: an unknown partition, one that does not fit the images, or another number of clients than it has.
    """
    if clients is not None and clients < 1:
        raise DataError(f"{clients} clients: ask for 1 or more")
    kind, _, value = (partition or ("labels" if dataset.owner is None else "owner")).partition(":")
    if kind not in _DIVIDERS or bool(value) != (kind in {"attribute", "dirichlet", "size"}):
        raise DataError(f"no partition is called {partition!r}: choose from {', '.join(PARTITIONS)}")
    parts = _DIVIDERS[kind](dataset, value, clients, seed, held_out_share)
    if clients is not None and len(parts) != clients:
        raise DataError(
            f"{dataset.name} divided by {kind} has {len(parts)} clients, not {clients}: leave the number out"
        )
    return parts


def _digits(image_size: int | None, limit: int | None, seed: int) -> Dataset:
    digits = Dataset(
        name="digits",
        images=load_digits(),
        label_names=tuple(str(digit) for digit in range(10)),
        description="8×8 scans of handwritten digits",
    ).limited(limit, seed)
    return replace(digits, images=with_size(digits.images, image_size))


def _patches(image_size: int | None, limit: int | None, seed: int) -> Dataset:
    size = PATCH_SIZE if image_size is None else image_size
    return load_patches(PATCHES if limit is None else limit, size=size, seed=seed)


def _phantoms(size: int) -> Builder:
    def build(image_size: int | None, limit: int | None, seed: int) -> Dataset:
        return load_phantoms(
            PHANTOMS if limit is None else limit, size=size if image_size is None else image_size, seed=seed
        )

    return build


_GENERATED: dict[str, Builder] = {
    "digits": _digits,
    "patches": _patches,
    "phantoms32": _phantoms(32),
    "phantoms64": _phantoms(64),
}


class _Loader(Protocol):
    def __call__(self, path: Path, /, *, image_size: int | None, limit: int | None, seed: int) -> Dataset: ...


def _nifti(path: Path, /, *, image_size: int | None, limit: int | None, seed: int) -> Dataset:
    """Opens `PATH` or `PATH@FIRST-LAST`."""
    range_given = _SLICES.fullmatch(str(path))
    if range_given is None:
        return load_nifti(path, image_size=image_size, limit=limit, seed=seed)
    root, first, last = Path(range_given["root"]), range_given["first"], range_given["last"]
    if first.isdecimal() and last.isdecimal():
        indices = (int(first), int(last))
        return load_nifti(root, slices=indices, image_size=image_size, limit=limit, seed=seed)
    shares = (float(first), float(last))
    return load_nifti(root, slices=shares, image_size=image_size, limit=limit, seed=seed)


_SLICES = re.compile(r"(?P<root>.+)@(?P<first>\d+(\.\d+)?)-(?P<last>\d+(\.\d+)?)")
_FILES: dict[str, _Loader] = {
    "folder": load_folder,
    "cifar10": load_cifar10,
    "celeba": load_celeba,
    "awa2": load_awa2,
    "nifti": _nifti,
    "npz": load_npz,
}
SOURCES = (*_GENERATED, *(f"{kind}:PATH" for kind in _FILES))


def _by_owner(
    dataset: Dataset, _value: str, _clients: int | None, seed: int, share: float
) -> tuple[ClientData, ...]:
    return by_owner(dataset, held_out_share=share, seed=seed)


def _by_labels(
    dataset: Dataset, _value: str, clients: int | None, seed: int, share: float
) -> tuple[ClientData, ...]:
    n_labels = len(np.unique(dataset.images.labels))
    return by_labels(dataset, clients or min(CLIENTS, n_labels), held_out_share=share, seed=seed)


def _by_attribute(
    dataset: Dataset, value: str, clients: int | None, seed: int, share: float
) -> tuple[ClientData, ...]:
    """One client for each value, where these are few; else as many equal parts as clients are asked for."""
    values = dataset.images.attribute(value)
    if len(np.unique(values)) <= max(clients or 0, _MOST_VALUES):
        return by_attribute(dataset, value, held_out_share=share, seed=seed)
    thresholds = _thresholds(values, clients or CLIENTS)
    return by_attribute(dataset, value, thresholds, held_out_share=share, seed=seed)


def _thresholds(values: NDArray[np.float32], parts: int) -> list[float]:
    """Where to cut a measure into equal parts.

    Where more than a part have the least value, such as size 0 without a lesion, these are one part, and the rest is divided.
    """
    least, shares = values.min(), np.arange(1, parts) / parts
    if parts < 2 or np.quantile(values, shares[0]) > least:
        return [float(cut) for cut in np.quantile(values, shares)]
    above = values[values > least]
    rest = np.arange(1, parts - 1) / (parts - 1)
    return [float(above.min()), *(float(cut) for cut in np.quantile(above, rest))]


def _by_dirichlet(
    dataset: Dataset, value: str, clients: int | None, seed: int, share: float
) -> tuple[ClientData, ...]:
    (alpha,) = _numbers("dirichlet", value, most=1)
    return dirichlet(dataset, alpha, clients or CLIENTS, held_out_share=share, seed=seed)


def _by_size(
    dataset: Dataset, value: str, _clients: int | None, seed: int, share: float
) -> tuple[ClientData, ...]:
    return by_size(dataset, _numbers("size", value), held_out_share=share, seed=seed)


_DIVIDERS: dict[str, Callable[[Dataset, str, int | None, int, float], tuple[ClientData, ...]]] = {
    "owner": _by_owner,
    "labels": _by_labels,
    "attribute": _by_attribute,
    "dirichlet": _by_dirichlet,
    "size": _by_size,
}


def _numbers(kind: str, text: str, most: int | None = None) -> list[float]:
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError as error:
        raise DataError(f"{kind}:{text} is not made of numbers: write it as {kind}:0.3") from error
    if most is not None and len(numbers) > most:
        raise DataError(f"{kind}:{text} has {len(numbers)} numbers, it takes {most}")
    return numbers
