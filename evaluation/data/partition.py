"""Who holds what: images divided between clients that differ, and some of each set aside."""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from evaluation.data.dataset import Dataset
from evaluation.data.holdout import groups_of, split_clients
from evaluation.data.images import ClientData, LabelledImages
from evaluation.errors import DataError

# How often a division by chance is drawn again when it leaves a client without images.
_DRAWS = 100


def by_client(
    data: LabelledImages,
    clients: Mapping[str, Sequence[int]],
    *,
    held_out_share: float = 0.2,
    seed: int = 0,
) -> tuple[ClientData, ...]:
    """Gives every client all images of its own labels, and sets a share of each label aside.

    Args:
        data: the images to divide.
        clients: client name → the labels it holds. No label may belong to two clients.
        held_out_share: share of every label that is held out, in (0, 1); at least one image of each.
        seed: of the draw. The same seed gives the same split; a label's draw does not depend on the other
        clients.

    Raises:
        DataError: a label held twice or by nobody's data, a client without labels, or a share outside (0, 1).
    """
    if not 0.0 < held_out_share < 1.0:
        raise DataError(f"held_out_share {held_out_share} is not between 0 and 1")
    _check_clients(data, clients)
    return tuple(_client(data, name, labels, held_out_share, seed) for name, labels in clients.items())


def _check_clients(data: LabelledImages, clients: Mapping[str, Sequence[int]]) -> None:
    known = set(np.unique(data.labels).tolist())
    holder: dict[int, str] = {}
    for name, labels in clients.items():
        if not labels:
            raise DataError(f"client {name} holds no labels: give it at least one of {sorted(known)}")
        for label in labels:
            if label in holder:
                raise DataError(
                    f"label {label} is held by both {holder[label]} and {name}: each label has one holder"
                )
            if label not in known:
                raise DataError(
                    f"client {name} is to hold label {label}, not in the data: choose from {sorted(known)}"
                )
            holder[label] = name


def _client(
    data: LabelledImages, name: str, labels: Sequence[int], held_out_share: float, seed: int
) -> ClientData:
    train: list[NDArray[np.intp]] = []
    held_out: list[NDArray[np.intp]] = []
    for label in sorted(labels):
        rows = np.flatnonzero(data.labels == label)
        if len(rows) < 2:
            raise DataError(
                f"label {label} has {len(rows)} image: two are needed, to train on one and hold one out"
            )
        rows = np.random.default_rng((seed, label)).permutation(rows)
        n_held_out = min(max(1, round(held_out_share * len(rows))), len(rows) - 1)
        held_out.append(rows[:n_held_out])
        train.append(rows[n_held_out:])
    return ClientData(
        name, data.take(np.sort(np.concatenate(train))), data.take(np.sort(np.concatenate(held_out)))
    )


def by_owner(dataset: Dataset, *, held_out_share: float = 0.2, seed: int = 0) -> tuple[ClientData, ...]:
    """Gives every image to whom it belongs by nature: one client for each owner that has an image.

    Raises:
        DataError: a source without owners, an owner with too little, or a share outside (0, 1).
    """
    if dataset.owner is None:
        raise DataError(
            f"{dataset.name} does not say whose its images are: divide it by labels, dirichlet or size"
        )
    present, holder = np.unique(dataset.owner, return_inverse=True)
    names = tuple(dataset.owner_names[owner] for owner in present)
    return split_clients(dataset, holder, names, held_out_share=held_out_share, seed=seed)


def by_labels(
    dataset: Dataset, clients: int, *, held_out_share: float = 0.2, seed: int = 0
) -> tuple[ClientData, ...]:
    """Deals the labels out in order, as evenly as they go: every client holds all images of its own labels.

    Raises:
        DataError: more clients than labels, a client with too little, or a share outside (0, 1).
    """
    _check_count(clients)
    present, label = np.unique(dataset.images.labels, return_inverse=True)
    if clients > len(present):
        raise DataError(
            f"{dataset.name} has {len(present)} labels, too few for {clients} clients: ask for fewer"
        )
    holder_of_label = np.arange(len(present)) * clients // len(present)
    return split_clients(
        dataset, holder_of_label[label], _numbered(clients), held_out_share=held_out_share, seed=seed
    )


def by_attribute(
    dataset: Dataset,
    name: str,
    thresholds: Sequence[float] | None = None,
    *,
    held_out_share: float = 0.2,
    seed: int = 0,
) -> tuple[ClientData, ...]:
    """Gives images that differ in one attribute to different clients.

    Args:
        dataset: the images, with that attribute.
        name: the attribute.
        thresholds: ascending; an image goes to client k when k of them are at or below its value. None gives one client for
            each value that occurs, which is meant for attributes that are present or absent.
        held_out_share: as in `split_clients`.
        seed: of what is held out.

    Raises:
        DataError: an unknown attribute, thresholds that do not ascend, or a client with too little.
    """
    values = dataset.images.attribute(name)
    if thresholds is None:
        present, holder = np.unique(values, return_inverse=True)
        names = tuple(f"{name}-{value:g}" for value in present)
    else:
        if any(high <= low for low, high in itertools.pairwise(thresholds)):
            raise DataError(f"the thresholds {list(thresholds)} of {name} do not ascend")
        holder = np.searchsorted(np.asarray(thresholds), values, side="right")
        names = _between(name, thresholds)
    return split_clients(dataset, holder, names, held_out_share=held_out_share, seed=seed)


def by_size(
    dataset: Dataset, shares: Sequence[float], *, held_out_share: float = 0.2, seed: int = 0
) -> tuple[ClientData, ...]:
    """Deals the images out by chance, so that clients differ in how much they hold and in nothing else.

    Args:
        dataset: the images. Those of one group go to one client.
        shares: what each client is to get, in any unit: 6, 3, 1 is 0.6, 0.3, 0.1. Exact to one image where images stand for
            themselves, to one group where they do not.
        held_out_share: as in `split_clients`.
        seed: of the draw.

    Raises:
        DataError: a share that is not positive, or a client with too little.
    """
    if not shares or not all(math.isfinite(share) and share > 0 for share in shares):
        raise DataError(f"shares {list(shares)}: give every client a number above 0")
    groups = groups_of(dataset)
    sizes = np.bincount(groups)
    holder_of_group = _dealt(
        np.arange(len(sizes)), sizes, np.asarray(shares), np.random.default_rng((seed, 2))
    )
    return split_clients(
        dataset, holder_of_group[groups], _numbered(len(shares)), held_out_share=held_out_share, seed=seed
    )


def dirichlet(
    dataset: Dataset, alpha: float, clients: int, *, held_out_share: float = 0.2, seed: int = 0
) -> tuple[ClientData, ...]:
    """Divides every label between the clients in shares drawn from Dir(α, …, α).

    Small α gives clients that hold few labels and differ in size, large α clients that are alike. One draw for each label,
    as in Yurochkin et al. 2019 (arXiv 1905.12022, section 4); drawn again while a client would hold too little. Images of
    one group go to one client, as the label most of them have says.

    Raises:
        DataError: an α that is not positive, or no draw in a hundred that leaves every client something.
    """
    _check_count(clients)
    if not (math.isfinite(alpha) and alpha > 0):
        raise DataError(f"alpha {alpha} is not above 0: 0.1 makes clients differ much, 100 hardly")
    groups = groups_of(dataset)
    sizes = np.bincount(groups)
    labels = _commonest_labels(dataset, groups)
    rng = np.random.default_rng((seed, 3))
    for _ in range(_DRAWS):
        holder = np.zeros(len(sizes), dtype=np.intp)
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            holder[rows] = _dealt(rows, sizes[rows], rng.dirichlet(np.full(clients, alpha)), rng)
        if np.bincount(holder, minlength=clients).min() >= 2:
            return split_clients(
                dataset, holder[groups], _numbered(clients), held_out_share=held_out_share, seed=seed
            )
    raise DataError(
        f"no draw of Dir({alpha:g}) in {_DRAWS} leaves each of {clients} clients of {dataset.name} two images: "
        "give a larger alpha or fewer clients"
    )


def _dealt(
    rows: NDArray[np.intp], sizes: NDArray[np.intp], shares: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.intp]:
    """Who gets each row, when they are laid in line in random order and the line is cut by the shares: (n,) int."""
    order = rng.permutation(len(rows))
    middle = (np.cumsum(sizes[order]) - sizes[order] / 2) / sizes.sum()
    cuts = np.cumsum(shares)[:-1] / shares.sum()
    holder = np.empty(len(rows), dtype=np.intp)
    holder[order] = np.searchsorted(cuts, middle, side="right")
    return holder


def _commonest_labels(dataset: Dataset, groups: NDArray[np.intp]) -> NDArray[np.intp]:
    counts = np.zeros((int(groups.max()) + 1, len(dataset.label_names)), dtype=np.intp)
    np.add.at(counts, (groups, dataset.images.labels), 1)
    commonest: NDArray[np.intp] = counts.argmax(axis=1)
    return commonest


def _between(name: str, thresholds: Sequence[float]) -> tuple[str, ...]:
    """What clients on either side of the thresholds are called."""
    if not thresholds:
        raise DataError(
            f"no threshold for {name}: give one or more, or none at all for one client each value"
        )
    inner = (f"{name}-{low:.3g}-to-{high:.3g}" for low, high in itertools.pairwise(thresholds))
    return (f"{name}-below-{thresholds[0]:.3g}", *inner, f"{name}-from-{thresholds[-1]:.3g}")


def _numbered(clients: int) -> tuple[str, ...]:
    return tuple(f"client-{number}" for number in range(1, clients + 1))


def _check_count(clients: int) -> None:
    if clients < 1:
        raise DataError(f"{clients} clients: ask for 1 or more")
