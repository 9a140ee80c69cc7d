"""Which images are set aside: a share of everybody's, and never one whose sibling is trained on."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from evaluation.data.dataset import Dataset
from evaluation.data.images import ClientData
from evaluation.errors import DataError


def split_clients(
    dataset: Dataset,
    holder: NDArray[np.intp],
    names: tuple[str, ...],
    *,
    held_out_share: float,
    seed: int,
) -> tuple[ClientData, ...]:
    """Gives every client its images, and sets the same images aside for all.

    Args:
        dataset: the images, with their groups.
        holder: (N,) int, an index of `names`: who holds each image.
        names: the clients.
        held_out_share: share of every client's images of every label that is held out, in (0, 1). Exact to one image
            where images stand for themselves; as near as whole groups allow where they do not.
        seed: of the draw. The same seed gives the same split.

    Raises:
        DataError: a share outside (0, 1), or a client with nothing to train on or nothing held out.
    """
    if not 0.0 < held_out_share < 1.0:
        raise DataError(f"held_out_share {held_out_share} is not between 0 and 1")
    _check_holders(dataset, holder, names)
    aside = _held_out(dataset, holder, len(names), held_out_share, seed)
    return tuple(
        ClientData(
            name,
            dataset.images.take(np.flatnonzero((holder == client) & ~aside)),
            dataset.images.take(np.flatnonzero((holder == client) & aside)),
        )
        for client, name in enumerate(names)
    )


def groups_of(dataset: Dataset) -> NDArray[np.intp]:
    """The group of every image, counted from 0: (N,) int. Without groups, every image is its own, and its copies with it.

    A copy of a training image among those held out would be known by heart, and would be released with the same noise.
    """
    if dataset.group is None:
        first: dict[bytes, int] = {}
        places = [first.setdefault(_digest(image), len(first)) for image in dataset.images.images]
        return np.asarray(places, dtype=np.intp)
    index: NDArray[np.intp] = np.unique(dataset.group, return_inverse=True)[1]
    return index


def _digest(image: NDArray[np.float32]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest()


def _check_holders(dataset: Dataset, holder: NDArray[np.intp], names: tuple[str, ...]) -> None:
    groups = groups_of(dataset)
    for client, name in enumerate(names):
        found = len(np.unique(groups[holder == client]))
        if found < 2:
            what = "image" if dataset.group is None else "group of images"
            copies = " with its copies" if dataset.group is None and (holder == client).sum() > found else ""
            raise DataError(
                f"client {name} of {dataset.name} would hold {found} {what}{'' if found == 1 else 's'}{copies}: two are "
                "needed, to train on one and hold one out; ask for fewer clients or more images"
            )


def _held_out(
    dataset: Dataset, holder: NDArray[np.intp], n_clients: int, share: float, seed: int
) -> NDArray[np.bool_]:
    """Which images are set aside: (N,) bool, the same for all images of a group.

    Groups are asked in random order, and one is set aside when that brings the counts of (client, label) nearer to their
    share. For images without groups this is rounding to the nearest; for groups that lie across clients it serves them all.
    """
    groups = groups_of(dataset)
    n_labels = len(dataset.label_names)
    cells = holder * n_labels + dataset.images.labels
    wanted = share * np.bincount(cells, minlength=n_clients * n_labels)
    taken = np.zeros_like(wanted)
    aside = np.zeros(int(groups.max()) + 1, dtype=bool)
    # For each group, the cells it counts in, and how many of its images each gains.
    pairs, counts = np.unique(groups * len(wanted) + cells, return_counts=True)
    starts = np.searchsorted(pairs, np.arange(len(aside) + 1) * len(wanted))
    order = np.random.default_rng((seed, 1)).permutation(len(aside))
    for group in order:
        own = slice(starts[group], starts[group + 1])
        where, gain = pairs[own] % len(wanted), counts[own]
        missing = wanted[where] - taken[where]
        if np.abs(missing - gain).sum() < np.abs(missing).sum():
            aside[group] = True
            taken[where] += gain
    _serve_everybody(aside, order, groups, holder, dataset.name, n_clients)
    return aside[groups]


def _serve_everybody(
    aside: NDArray[np.bool_],
    order: NDArray[np.intp],
    groups: NDArray[np.intp],
    holder: NDArray[np.intp],
    name: str,
    n_clients: int,
) -> None:
    """Moves a group over where rounding has left a client with nothing on one side. Changes `aside`."""
    holds = np.zeros((n_clients, len(aside)), dtype=bool)
    holds[holder, groups] = True
    for client in range(n_clients):
        for side in (True, False):
            if (aside[holds[client]] == side).any():
                continue
            for group in order[holds[client][order]]:
                aside[group] = side
                if _all_served(aside, holds[: client + 1]):
                    break
                aside[group] = not side
            else:
                raise DataError(
                    f"{name} cannot be split without tearing groups of images apart: some client would have "
                    "nothing to train on or to hold out; ask for fewer clients or more images"
                )


def _all_served(aside: NDArray[np.bool_], holds: NDArray[np.bool_]) -> bool:
    return bool((holds & aside).any(axis=1).all() and (holds & ~aside).any(axis=1).all())
