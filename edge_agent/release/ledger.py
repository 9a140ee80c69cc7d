"""What the device has given away: per image, how often, at which cuts, and what an (ε, δ) statement about it is worth.

One row is one release of one image, written in the transaction that puts it into the outbox. Each carries its price μ, so the
account needs neither the schedule nor the image again; the squares of the prices of one image add up, and the root of their
sum is its μ (Dong, Roth & Su 2019), whence ε at the device's δ (`diffusion.privacy`). Rows that were written before prices
were kept get the highest that is possible, that of an image that was not clipped, as soon as the image itself is at hand again;
until then an image with such a row counts as one of which nothing can be promised.

What ε bounds: how much better anybody who holds every release of an image can tell it from any other image. Somebody who is on
several images has given away more: k of them cost μ·√k at most.
"""

import hashlib
import json
import math
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from diffusion import privacy
from diffusion.privacy import Release
from diffusion.schedule import NoiseSchedule
from edge_agent.errors import BudgetExceeded, ContributionError
from edge_agent.link import contract
from edge_agent.release.batch import ReleasedBatch
from edge_agent.settings import EdgeSettings
from edge_agent.storage import counters, loss
from edge_agent.storage.journal import PRICE, Row
from edge_agent.storage.loss import Loss
from edge_agent.storage.spool import Spool

_ROUNDING = 1 + 1e-9
_REFUSED: Final = "refused_releases"
_PRICED = (
    "SELECT image, count(*) AS releases, count(*) - count(mu) AS unknown, coalesce(sum(mu * mu), 0) AS squares,"
    " group_concat(DISTINCT t_cut) AS cuts, max(released_at) AS last"
)


@dataclass(frozen=True)
class Account:
    """The cost of one image: `cuts` are the t_c of its releases; `mu` and `epsilon` are infinite if a price is not known."""

    image: str
    releases: int
    cuts: tuple[int, ...]
    mu: float
    epsilon: float


def note(transaction: sqlite3.Connection, batch: ReleasedBatch) -> list[Row]:
    """Write the releases of a message down, as part of the transaction that accepts it; returns the rows, for the journal.

    One that is known from the journal alone, and comes out as it did then, loses its flag and keeps its price. Raises
    ContributionError when another process has released an image meanwhile; the transaction is then to be given up.
    """
    rows = [_row(release, batch.message_id) for release in batch.releases]
    names = list(rows[0])
    # The dearest price of a release is the one that holds, and one that is not known stays unknown.
    dearer = ", ".join(
        f"{name} = CASE WHEN mu < excluded.mu THEN excluded.{name} ELSE {name} END" for name in PRICE
    )
    kept: list[Row] = []
    for row in rows:
        written = transaction.execute(
            f"INSERT INTO ledger ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)})"  # noqa: S608  # our own
            " ON CONFLICT (image, release) DO UPDATE SET restored = 0, batch_id = excluded.batch_id,"
            f" released_at = excluded.released_at, {dearer}"
            f" WHERE restored = 1 AND content = excluded.content RETURNING {', '.join(names)}",
            row,
        ).fetchall()
        if not written:
            raise ContributionError(
                "an image of this batch was released by another process meanwhile: run it again"
            )
        kept.append(dict(zip(names, written[0], strict=True)))
    return kept


def is_new_or_the_same(spool: Spool, release: Release) -> bool:
    """Whether making this release discloses nothing that the ledger does not count, or counts already.

    A release that the ledger knows from the journal alone must come out as it did then; clipped otherwise it would not.
    """
    row = spool.row(
        "SELECT content FROM ledger WHERE image = ? AND release = ?", (release.digest, release.release)
    )
    return row is None or row["content"] == _content_digest(release)


def check_budget(
    transaction: sqlite3.Connection, releases: Sequence[Release], settings: EdgeSettings
) -> None:
    """Raise BudgetExceeded when these releases, on top of what is in the ledger, take an image past its budget.

    Asked in the transaction that would write them down, so it holds whatever other processes do. A release that has a row already
    is the same one again, and costs what it is dearer now.
    """
    if settings.epsilon_budget is None:
        return
    check_whole(loss.known(transaction))
    for release in releases:
        row = transaction.execute(f"{_PRICED} FROM ledger WHERE image = ?", (release.digest,)).fetchone()
        known = transaction.execute(
            "SELECT release, mu FROM ledger WHERE image = ? AND release = ?",
            (release.digest, release.release),
        ).fetchall()
        more = added(dict(known), release.release, release.mu**2)
        if more and not is_affordable(_squares(row) + more, settings):
            raise BudgetExceeded(
                f"release {release.release} of image {release.digest[:12]} was refused: it would take epsilon past the budget of"
                f" {settings.epsilon_budget:g} (at delta {settings.delta:g}); raise cut_ratio, lower clip_norm, or raise"
                " epsilon_budget"
            )


def check_whole(known: Loss) -> None:
    """Raise BudgetExceeded when releases were forgotten and nobody has acknowledged it: what is left of a budget is not known."""
    if known.stands:
        raise BudgetExceeded(
            "the record of releases is incomplete, so nobody can say what is left of epsilon_budget and nothing is released: put"
            " ledger.journal back from a backup, then run `collafuse edge ledger --acknowledge-loss`"
        )


def is_affordable(squares: float, settings: EdgeSettings) -> bool:
    """Whether an image whose prices have this sum of squares is within the device's budget."""
    if settings.epsilon_budget is None:
        return True
    return _epsilon(math.sqrt(squares), settings.delta) <= settings.epsilon_budget * _ROUNDING


def squares(spool: Spool, image: str) -> float:
    """The sum of μ² over an image's releases: 0 for an image never released, infinite when a price is not known."""
    return _squares(spool.rows(f"{_PRICED} FROM ledger WHERE image = ?", (image,))[0])


def prices(spool: Spool, image: str) -> dict[int, float | None]:
    """μ by release of an image, None where it is not known."""
    return {row[0]: row[1] for row in spool.rows("SELECT release, mu FROM ledger WHERE image = ?", (image,))}


def added(known: Mapping[int, float | None], release: int, square: float) -> float:
    """What a release with μ² = `square` adds to the squares of an image with the prices `known`.

    One that is known is the same again: it adds what it is dearer now, and nothing while its price is not known.
    """
    if release not in known:
        return square
    mu = known[release]
    return 0.0 if mu is None else max(0.0, square - mu**2)


def note_refused(spool: Spool, count: int) -> None:
    """Count releases that were refused for the budget."""
    if count:
        with spool.transaction() as transaction:
            counters.add(transaction, _REFUSED, count)


def any_unpriced(spool: Spool) -> bool:
    """Whether there are rows without a price."""
    return spool.row("SELECT 1 FROM ledger WHERE mu IS NULL LIMIT 1") is not None


def fill_in(spool: Spool, settings: EdgeSettings, image: str, shape: tuple[int, ...]) -> None:
    """Give an image's rows that have no price the highest possible one, where their schedule is this device's or the server's.

    shape: (C, H, W) of the very image, whose digest is `image`: that of another would be another's price.
    """
    which = "mu IS NULL AND image = ?"
    found = spool.rows(f"SELECT DISTINCT schedule_id, t_cut FROM ledger WHERE {which}", (image,))  # noqa: S608  # our own words
    if not found:
        return
    schedules = _schedules(spool, settings)
    bound = privacy.norm_bound(None, shape)
    found_prices = [
        (bound, privacy.gdp_mu(bound, t_cut, schedules[schedule_id]), schedule_id, t_cut, image)
        for schedule_id, t_cut in found
        if schedule_id in schedules and 0 < t_cut <= schedules[schedule_id].T
    ]
    with spool.transaction() as transaction:
        transaction.executemany(
            f"UPDATE ledger SET norm_bound = ?, mu = ? WHERE schedule_id = ? AND t_cut = ? AND {which}",  # noqa: S608  # our own
            found_prices,
        )


def summary(spool: Spool, settings: EdgeSettings) -> dict[str, Any]:
    """The device's account in one object of plain values.

    images, releases: what was released;  epsilon_max: of the image that has cost most, None when nothing was released or when
    nothing can be promised of one;  unknown: images of which that is so because an old row has no price;  incomplete_since: when
    it was noticed that releases may have been forgotten, in Unix seconds, None if never;  loss_acknowledged: whether the operator
    knows of it;  delta, epsilon_budget: as set;  refused: releases refused for the budget, ever.
    """
    row = spool.rows(
        "SELECT count(*), coalesce(sum(releases), 0), coalesce(sum(unknown > 0), 0), coalesce(max(squares), 0)"  # noqa: S608
        f" FROM ({_PRICED} FROM ledger GROUP BY image)"
    )[0]
    images, releases, unknown, most = row
    lost = loss.known(spool)
    known = images > 0 and unknown == 0 and math.isfinite(most) and not lost.since
    return {
        "images": images,
        "releases": releases,
        "epsilon_max": _epsilon(math.sqrt(most), settings.delta) if known else None,
        "delta": settings.delta,
        "epsilon_budget": settings.epsilon_budget,
        "refused": refused(spool),
        "unknown": unknown,
        "incomplete_since": lost.since or None,
        "loss_acknowledged": lost.since > 0 and not lost.stands,
    }


def refused(spool: Spool) -> int:
    """Releases refused for the budget, ever."""
    return counters.value(spool, _REFUSED)


def release_count(spool: Spool) -> int:
    """Releases of all images."""
    return int(spool.rows("SELECT count(*) FROM ledger")[0][0])


def accounts(
    spool: Spool, settings: EdgeSettings, *, limit: int, images: Sequence[str] | None = None
) -> list[Account]:
    """The images that have cost most, dearest first, `limit` of them at most; only those of `images` if given (digests)."""
    chosen = "" if images is None else " WHERE image IN (SELECT value FROM json_each(?))"
    parameters = () if images is None else (json.dumps(list(images)),)
    rows = spool.rows(
        f"{_PRICED} FROM ledger{chosen} GROUP BY image ORDER BY unknown > 0 DESC, squares DESC, last DESC, image LIMIT ?",
        (*parameters, limit),
    )
    return [_account(row, settings.delta) for row in rows]


def of_group(mu: float, count: int, delta: float) -> float:
    """The ε of somebody who is on `count` images, each of which has cost μ at most."""
    return _epsilon(mu * math.sqrt(count), delta)


def _row(release: Release, batch_id: str) -> Row:
    return {
        "image": release.digest,
        "release": release.release,
        "t_cut": release.t_cut,
        "schedule_id": release.schedule_id,
        "batch_id": batch_id,
        "released_at": time.time(),
        "content": _content_digest(release),
        "clip_norm": release.clip_norm,
        "norm_bound": release.norm_bound,
        "mu": release.mu,
    }


def _content_digest(release: Release) -> str:
    """32 hex digits that name the released values; it never leaves the device."""
    return hashlib.sha256(release.x_c.tobytes()).hexdigest()[:32]


def _account(row: sqlite3.Row, delta: float) -> Account:
    mu = math.sqrt(_squares(row))
    cuts = tuple(sorted(int(word) for word in row["cuts"].split(",")))
    return Account(row["image"], row["releases"], cuts, mu, _epsilon(mu, delta))


def _squares(row: Any) -> float:
    return math.inf if row["unknown"] else float(row["squares"])


def _schedules(spool: Spool, settings: EdgeSettings) -> Mapping[str, NoiseSchedule]:
    """The tables that this device can name, by their digest."""
    known = [NoiseSchedule.named(settings.schedule, settings.schedule_steps)]
    round_ = contract.latest(spool)
    if round_ is not None:
        known.append(NoiseSchedule.named(round_.schedule_name, round_.schedule_T))
    return {schedule.schedule_id: schedule for schedule in known}


@lru_cache(maxsize=4096)
def _epsilon(mu: float, delta: float) -> float:
    return privacy.epsilon_of_mu(mu, delta)
