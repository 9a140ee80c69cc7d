"""What the server asks of its clients: what its store lacks, and nothing else."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from broker.contract.fields import MAX_LABELS_WANTED
from server_worker.samples.batch import NO_LABEL, StoredBatch


@dataclass(frozen=True)
class Stock:
    """What is stored: samples in all, samples of each label, and bytes."""

    samples: int = 0
    by_label: Mapping[int, int] = field(default_factory=dict)
    size_bytes: int = 0


@dataclass(frozen=True)
class Targets:
    """What is wanted in all; None: without end.

    releases: per image, of what is still wanted;  samples: in all;  per_label: of each of `num_classes` labels;
    max_bytes: what the store may hold.
    """

    releases: int
    samples: int | None = None
    per_label: int | None = None
    num_classes: int | None = None
    max_bytes: int | None = None


@dataclass(frozen=True)
class Wish:
    """What a round asks for: releases per image, 0 for none, of images with these labels; None: of all images."""

    releases: int
    labels: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Round:
    """An open round, as the storage keeps it.

    number: rises over restarts;  wish: what it asks;  opened_unix: since when;  version: the newest backbone's number then.
    """

    number: int
    wish: Wish
    opened_unix: float
    version: int = -1

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Round":
        """The inverse of `to_dict`; KeyError, TypeError or ValueError for anything else."""
        labels = values["wish"]["labels"]
        wish = Wish(int(values["wish"]["releases"]), None if labels is None else tuple(map(int, labels)))
        version = int(values.get("version", -1))  # not kept before
        return cls(int(values["number"]), wish, float(values["opened_unix"]), version)


def stock_of(entries: Iterable[StoredBatch]) -> Stock:
    """Count what is stored."""
    samples = size_bytes = 0
    by_label: Counter[int] = Counter()
    for entry in entries:
        samples += entry.samples
        size_bytes += entry.size_bytes
        by_label.update(entry.labels)
    del by_label[NO_LABEL]
    return Stock(samples, dict(by_label), size_bytes)


def what_is_missing(stock: Stock, targets: Targets) -> Wish:
    """Ask for the labels whose stock is below its target, the scarcest when they are more than a message names."""
    if _reached(stock.samples, targets.samples) or _reached(stock.size_bytes, targets.max_bytes):
        return Wish(0)
    if targets.per_label is None or targets.num_classes is None or targets.releases == 0:
        return Wish(targets.releases)
    scarce = sorted(
        (stock.by_label.get(label, 0), label)
        for label in range(targets.num_classes)
        if stock.by_label.get(label, 0) < targets.per_label
    )
    if not scarce:
        return Wish(0)
    if len(scarce) == targets.num_classes:
        return Wish(targets.releases)
    return Wish(targets.releases, tuple(sorted(label for _, label in scarce[:MAX_LABELS_WANTED])))


def next_round(
    last: Round | None, wish: Wish, version: int, now_unix: float, closes_seconds: float | None
) -> Round:
    """The round to announce: the open one while it asks the same of the same version and has not closed, else a new one.

    version: the newest backbone's number. A round's number lies above it; where no round is known any more it is the time in
    seconds, which lies above any number that was counted up, so that devices do not take it for an old one.
    """
    least = version + 1
    if last is None:
        return Round(max(least, int(now_unix)), wish, now_unix, version)
    is_closed = closes_seconds is not None and now_unix - last.opened_unix >= closes_seconds
    if last.wish == wish and last.version == version and not is_closed:
        return last
    return Round(max(last.number + 1, least), wish, now_unix, version)


def _reached(have: int, wanted: int | None) -> bool:
    return wanted is not None and have >= wanted
