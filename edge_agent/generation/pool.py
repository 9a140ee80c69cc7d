"""The stock of samples at the cut, made by the server ahead of need, so that images can be made while it cannot be reached.

A shelf holds what is in stock for one label. Every sample is used once, by one job, and leaves the stock in the transaction that
gives it to the job. Its row stays without its content for as long as its request is open, so that a repeated answer cannot bring
it back.
"""

import json
import sqlite3
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import JobFailed
from edge_agent.generation.recipe import Recipe
from edge_agent.heads.facts import AtCut, HeadFacts
from edge_agent.storage import notes
from edge_agent.storage.spool import Spool

NO_LABEL = -1
"""In the tables, the label of images without one."""
_HEAD_FITS = "pool_fits"


@dataclass(frozen=True)
class Stock:
    """One shelf: what is there for a label, and what is to be there.

    images: samples in stock.  wanted: how many there are to be.  requested: asked for and not here yet.
    backbone_version: the oldest among those in stock, None when it is empty.  size_bytes: of the samples.
    failures: answers in a row that did not come or were of no use.  error: why the shelf is not full, in one line.
    usable: samples that the largest possible job can take now: it takes those of one server plan, and of the head's cut.
    """

    label: int | None
    images: int
    wanted: int
    requested: int
    backbone_version: int | None
    size_bytes: int
    failures: int
    error: str | None
    usable: int


@dataclass(frozen=True, eq=False)
class Taken:
    """The samples that a job took from the stock.

    x: (N, C, H, W) float32 at the cut.  seeds, samples: (N,) int64, the keys of their noise.  versions: (N,) int64, of the
    backbone.
    """

    x: NDArray[np.float32]
    seeds: NDArray[np.int64]
    samples: NDArray[np.int64]
    versions: NDArray[np.int64]


@dataclass(frozen=True)
class Handed:
    """What a job got from the stock.

    recipe: the job's, with the server's half that the samples were made by.
    requests: the ids of those that brought them.
    """

    recipe: Recipe
    requests: tuple[str, ...]


def shelf_of(label: int | None) -> int:
    """How the tables name a label."""
    return NO_LABEL if label is None else label


def stock(spool: Spool) -> list[Stock]:
    """Every shelf, by label, images without a label first."""
    rows = spool.rows(
        "WITH held AS (SELECT r.label, count(*) AS images, min(l.backbone_version) AS oldest, sum(length(l.x)) AS bytes"
        " FROM pool_latents l JOIN pool_requests r USING (request_id) WHERE l.x IS NOT NULL GROUP BY r.label),"
        " asked AS (SELECT label, sum(samples - (SELECT count(*) FROM pool_latents l WHERE l.request_id = r.request_id))"
        " AS samples FROM pool_requests r WHERE open GROUP BY label)"
        " SELECT s.label, s.wanted, s.failures, s.error, coalesce(h.images, 0) AS images, h.oldest,"
        " coalesce(h.bytes, 0) AS bytes, coalesce(a.samples, 0) AS requested"
        " FROM pool_shelves s LEFT JOIN held h USING (label) LEFT JOIN asked a USING (label) ORDER BY s.label"
    )
    usable = _usable(spool, None)
    return [
        Stock(
            label=None if row["label"] == NO_LABEL else row["label"],
            images=row["images"],
            wanted=row["wanted"],
            requested=row["requested"],
            backbone_version=row["oldest"],
            size_bytes=row["bytes"],
            failures=row["failures"],
            error=row["error"],
            usable=usable.get(row["label"], 0),
        )
        for row in rows
    ]


def set_wanted(spool: Spool, labels: tuple[int | None, ...], images: int) -> None:
    """Have `images` wanted on the shelf of each label, and none on any other; what is in stock stays there."""
    with spool.transaction() as transaction:
        transaction.execute("UPDATE pool_shelves SET wanted = 0 WHERE wanted > 0")
        transaction.executemany(
            "INSERT INTO pool_shelves (label, wanted) VALUES (?, ?)"
            " ON CONFLICT (label) DO UPDATE SET wanted = excluded.wanted",
            [(shelf_of(label), images) for label in labels],
        )
        transaction.execute(
            "DELETE FROM pool_shelves WHERE wanted = 0 AND label NOT IN (SELECT label FROM pool_requests)"
        )


def available(spool: Spool, label: int | None, recipe: Recipe | None = None) -> int:
    """The largest job that the shelf of a label can serve: one job's samples are all of one server plan.

    recipe: of the job; without one, what the head that was noted last can finish counts.
    """
    return _usable(spool, None if recipe is None else recipe.at_cut).get(shelf_of(label), 0)


def note_head(spool: Spool, head: HeadFacts) -> None:
    """Write down what the head in use can finish, for those that only see the spool."""
    with spool.transaction() as transaction:
        notes.write(transaction, _HEAD_FITS, head.at_cut)


def any_in_stock(spool: Spool) -> bool:
    """Whether there is a single sample in stock; cheap."""
    return bool(spool.rows("SELECT EXISTS (SELECT 1 FROM pool_latents WHERE x IS NOT NULL)")[0][0])


def older_than(spool: Spool, label: int | None, version: int) -> tuple[int, int]:
    """How many samples on a shelf were made by a backbone before `version`, and the newest that made one of them."""
    row = spool.rows(
        "SELECT count(*), coalesce(max(l.backbone_version), 0) FROM pool_latents l JOIN pool_requests r USING (request_id)"
        " WHERE r.label = ? AND l.x IS NOT NULL AND l.backbone_version < ?",
        (shelf_of(label), version),
    )[0]
    return int(row[0]), int(row[1])


def take(
    transaction: sqlite3.Connection, job_id: str, label: int | None, count: int, recipe: Recipe
) -> Handed | None:
    """Give `count` samples of a label to a job, the longest kept first; None, and nothing changes, when so many are not there."""
    groups = transaction.execute(
        "SELECT r.origin, count(*) FROM pool_latents l JOIN pool_requests r USING (request_id)"
        " WHERE r.label = ? AND l.x IS NOT NULL GROUP BY r.origin ORDER BY min(l.sequence)",
        (shelf_of(label),),
    ).fetchall()
    for text, images in groups:
        if images >= count and is_at(recipe.at_cut, text):
            made = replace(Recipe.from_json(text), head_plan=recipe.head_plan, head=recipe.head)
            return Handed(made, _hand_over(transaction, job_id, label, count, text))
    return None


def gather(spool: Spool, job_id: str, shape: tuple[int, int, int]) -> Taken:
    """What a job took from the stock, in the job's order."""
    rows = spool.rows(
        "SELECT seed, sample, backbone_version, dtype, x FROM pool_taken WHERE job_id = ? ORDER BY position",
        (job_id,),
    )
    x = [np.frombuffer(row["x"], row["dtype"]).reshape(shape).astype(np.float32) for row in rows]

    def column(name: str) -> NDArray[np.int64]:
        return np.array([row[name] for row in rows], np.int64)

    return Taken(
        np.stack(x) if x else np.empty((0, *shape), np.float32),
        column("seed"),
        column("sample"),
        column("backbone_version"),
    )


def empty(transaction: sqlite3.Connection, sequences: list[int]) -> None:
    """Let go of samples in stock, and of every request that has nothing more to give."""
    transaction.execute(
        "UPDATE pool_latents SET x = NULL WHERE sequence IN (SELECT value FROM json_each(?))",
        (json.dumps(sequences),),
    )
    sweep(transaction)


def sweep(transaction: sqlite3.Connection) -> None:
    """Forget the requests that are closed and have no sample in stock any more."""
    transaction.execute(
        "DELETE FROM pool_requests WHERE NOT open AND NOT EXISTS"
        " (SELECT 1 FROM pool_latents l WHERE l.request_id = pool_requests.request_id AND l.x IS NOT NULL)"
    )


def _hand_over(
    transaction: sqlite3.Connection, job_id: str, label: int | None, count: int, origin: str
) -> tuple[str, ...]:
    """Move samples from the stock to the job; returns the requests that brought them, the first used first."""
    rows = transaction.execute(
        "SELECT l.sequence, request_id FROM pool_latents l JOIN pool_requests r USING (request_id)"
        " WHERE r.label = ? AND r.origin = ? AND l.x IS NOT NULL ORDER BY l.sequence LIMIT ?",
        (shelf_of(label), origin, count),
    ).fetchall()
    sequences = [row[0] for row in rows]
    transaction.execute(
        "INSERT INTO pool_taken (job_id, position, seed, sample, backbone_version, dtype, x)"
        " SELECT ?, row_number() OVER (ORDER BY l.sequence) - 1, r.seed, l.sample, l.backbone_version, r.dtype, l.x"
        " FROM pool_latents l JOIN pool_requests r USING (request_id)"
        " WHERE l.sequence IN (SELECT value FROM json_each(?))",
        (job_id, json.dumps(sequences)),
    )
    empty(transaction, sequences)
    return tuple(dict.fromkeys(row[1] for row in rows))


def is_at(at_cut: AtCut, origin: str) -> bool:
    """Whether samples of an origin, as the tables keep it, are of this schedule, cut and shape."""
    try:
        return Recipe.from_json(origin).at_cut == at_cut
    except JobFailed:  # it cannot be read any more, and nothing can be made of them
        return False


def _usable(spool: Spool, at_cut: AtCut | None) -> dict[int, int]:
    """By shelf, the most samples of one origin that are of this cut; None asks what the head noted last can finish."""
    if at_cut is None:
        noted = notes.read(spool, _HEAD_FITS)
        if noted is not None:
            schedule_id, t_cut, shape = noted
            at_cut = schedule_id, t_cut, tuple(shape)
    groups = spool.rows(
        "SELECT r.label, r.origin, count(*) AS images FROM pool_latents l JOIN pool_requests r USING (request_id)"
        " WHERE l.x IS NOT NULL GROUP BY r.label, r.origin"
    )
    found: dict[int, int] = {}
    for group in groups:
        if at_cut is None or is_at(at_cut, group["origin"]):
            found[group["label"]] = max(group["images"], found.get(group["label"], 0))
    return found
