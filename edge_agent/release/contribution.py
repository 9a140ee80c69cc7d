"""Releasing the device's images: each at most K times in its life, clipped and noised before anything is stored.

Only a `diffusion.privacy.Release` can become part of a message, and the ledger row that counts it is written in the
transaction that accepts the message. So whatever happens in between, an image that is in the outbox is in the ledger, and the
other way round. A row that was restored from the journal is the exception: its message may be lost. Such a release may be made
again when it comes out the same to the last bit, since the same bytes a second time disclose nothing.
"""

import math
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from broker.contract.fields import MAX_BODY_BYTES
from broker.contract.rounds import RoundV1
from diffusion import privacy
from diffusion.privacy import Release
from diffusion.schedule import NoiseSchedule
from diffusion.split import Cut
from edge_agent import clock
from edge_agent.errors import ContributionError
from edge_agent.link import contract as contracts
from edge_agent.link import outbox
from edge_agent.release import ledger
from edge_agent.release.batch import ReleasedBatch, images_per_message
from edge_agent.release.images import Image, ImageSource
from edge_agent.settings import EdgeSettings
from edge_agent.storage import loss
from edge_agent.storage.journal import Journal
from edge_agent.storage.reconciliation import reconcile
from edge_agent.storage.spool import Spool

_ITEM_BYTES = {"float16": 2, "float32": 4, "int8": 1}


@dataclass(frozen=True)
class Summary:
    """What a contribution did: images read, releases made now, images that had been released before, messages made.

    repeated: images that are in the source more than once, each time after the first; released_before leaves them out.
    held_back: images that the server asks nothing more of at the moment, for their label or altogether.
    refused: releases that would have taken an image past the budget; reason says what to do about them.
    """

    images: int
    released: int
    released_before: int
    batches: int
    labels_withheld: bool
    held_back: int = 0
    refused: int = 0
    reason: str | None = None
    repeated: int = 0


def contribute(
    spool: Spool,
    source: ImageSource,
    secret: bytes,
    settings: EdgeSettings,
    on_image: Callable[[int], None] | None = None,
) -> Summary:
    """Release the images of `source` that have not used up their releases, and put them into the outbox.

    Works without a broker and without an agent. Run again, it releases nothing twice; interrupted, it goes on where it was.

    Args:
        spool: the ledger and the outbox.
        source: clean images in [-1, 1], all of one shape.
        secret: the device's.
        settings: schedule, cut, payload, releases per image, quota.
        on_image: told how many images have been read, after each.

    Raises:
        BudgetExceeded: there is a budget, and releases were forgotten that nobody can count.
        ContributionError: cut, schedule or shape disagree with the server's contract, or with what may be released at all.
        ImageError, OutboxFull, SpoolError: reading or keeping failed; what was accepted before stays.
    """
    reconcile(spool, quick=True)
    if settings.epsilon_budget is not None:
        ledger.check_whole(loss.known(spool))
    contract = contracts.latest(spool)
    cut = Cut(NoiseSchedule.named(settings.schedule, settings.schedule_steps), settings.cut_ratio)
    check_cut(cut, contract, settings.noise_floor)
    asked = settings.releases if contract is None else _releases_asked(spool, contract)
    withhold = contract is not None and contract.num_classes is None
    batches = _Batches(spool, settings)
    read = before = repeated = held_back = refused = 0
    seen: set[str] = set()
    labelled = False
    unpriced = ledger.any_unpriced(spool)
    for image in source:
        _check_image(image, contract)
        labelled = labelled or image.label is not None
        digest = privacy.image_digest(image.x0)
        if unpriced:
            ledger.fill_in(spool, settings, digest, image.x0.shape)
        wanted = _is_wanted(image, contract)
        missing = _missing_releases(spool, digest, settings.releases, cut) - batches.pending(digest)
        now = {index for index in missing if index < asked} if wanted else set()
        held_back += bool(missing) and not now
        paid = _affordable(spool, settings, cut, (digest, image.x0.shape), batches.pending(digest), now)
        refused += len(now - paid)
        for index in sorted(paid):
            label = None if withhold else image.label
            release = privacy.release(cut, image.x0, secret, index, clip_norm=settings.clip_norm, label=label)
            if ledger.is_new_or_the_same(spool, release):
                batches.add(release)
            else:
                missing.discard(index)
        before += not missing and digest not in seen
        repeated += not missing and digest in seen
        seen.add(digest)
        read += 1
        if on_image is not None:
            on_image(read)
    batches.flush_all()
    ledger.note_refused(spool, refused)
    return Summary(
        images=read,
        released=batches.released,
        released_before=before,
        batches=batches.made,
        labels_withheld=withhold and labelled,
        held_back=held_back,
        refused=refused,
        reason=_why_refused(settings, refused) if refused else None,
        repeated=repeated,
    )


def check_cut(cut: Cut, contract: RoundV1 | None, noise_floor: float) -> None:
    """Raise ContributionError unless a release at this cut is private enough, useful, and what the server asked for."""
    if not 0 < cut.t_cut < cut.schedule.T:
        what = (
            "would send the images as they are"
            if cut.t_cut == 0
            else "leaves the server nothing to learn from"
        )
        raise ContributionError(f"a cut ratio of {cut.cut_ratio} {what}: choose one between 0 and 1")
    if privacy.sigma(cut) < noise_floor:
        raise ContributionError(
            f"a release at cut ratio {cut.cut_ratio} has noise of standard deviation {privacy.sigma(cut):.3g}, below"
            f" this device's floor of {noise_floor:g}: choose a larger cut ratio"
        )
    if contract is None:
        return
    if contract.schedule_id != cut.schedule.schedule_id:
        raise ContributionError(
            f"the server's schedule is {contract.schedule_id} ({contract.schedule_name}, T={contract.schedule_T}), this"
            f" device's is {cut.schedule.schedule_id} ({cut.schedule.name}, T={cut.schedule.T}): set schedule and"
            " schedule_steps to the server's"
        )
    if not contract.cut_min <= cut.cut_ratio <= contract.cut_max:
        raise ContributionError(
            f"the server takes cut ratios from {contract.cut_min} to {contract.cut_max}, this device is set to"
            f" {cut.cut_ratio}: change cut_ratio, if your privacy allows"
        )


class _Batches:
    """Collects releases until a message is full, then accepts message and ledger rows together.

    Those of one index share a message, the labelled ones apart from the others: a message has all labels or none.
    """

    def __init__(self, spool: Spool, settings: EdgeSettings) -> None:
        self.made = 0
        self.released = 0
        self._spool = spool
        self._settings = settings
        self._waiting: dict[tuple[int, bool], list[Release]] = {}
        self._pending: dict[str, set[int]] = {}

    def pending(self, digest: str) -> set[int]:
        """Releases of an image that wait here: the same picture may lie in a folder twice."""
        return self._pending.get(digest, set())

    def add(self, release: Release) -> None:
        kind = (release.release, release.label is not None)
        waiting = self._waiting.setdefault(kind, [])
        waiting.append(release)
        self._pending.setdefault(release.digest, set()).add(release.release)
        if len(waiting) >= self._batch_images(release):
            self._flush(kind)

    def flush_all(self) -> None:
        for kind in sorted(self._waiting):
            self._flush(kind)

    def _batch_images(self, release: Release) -> int:
        image_bytes = math.prod(release.x_c.shape) * _ITEM_BYTES[self._settings.release_dtype]
        if image_bytes > MAX_BODY_BYTES - 2**16:
            raise ContributionError(
                f"one image takes {image_bytes} bytes as {self._settings.release_dtype}, more than a message of"
                f" {MAX_BODY_BYTES} holds: make the images smaller, or send int8"
            )
        return images_per_message(image_bytes)

    def _flush(self, kind: tuple[int, bool]) -> None:
        releases = self._waiting.pop(kind, [])
        if not releases:
            return
        batch = ReleasedBatch.of(releases, self._settings.release_dtype)
        with self._spool.transaction() as transaction:
            accept_batch(transaction, Journal.of(self._spool), batch, self._settings)
        for release in releases:
            self._pending[release.digest].discard(release.release)
        self.made += 1
        self.released += len(releases)


def accept_batch(
    transaction: sqlite3.Connection, journal: Journal, batch: ReleasedBatch, settings: EdgeSettings
) -> None:
    """Put one message into the outbox and its images into the ledger, as part of one transaction.

    The journal has them before the transaction commits, so nothing can be sent that a damaged spool would forget.
    """
    ledger.check_budget(transaction, batch.releases, settings)
    outbox.put_samples(transaction, batch, settings.outbox_max_bytes)
    journal.append(ledger.note(transaction, batch))


def _missing_releases(spool: Spool, digest: str, limit: int, cut: Cut) -> set[int]:
    """Indices below `limit` at which an image has not been released, at whatever cut, or may be released again at this one."""
    rows = spool.rows(
        "SELECT release FROM ledger WHERE image = ?"
        " AND NOT (restored AND content IS NOT NULL AND schedule_id = ? AND t_cut = ?)",
        (digest, cut.schedule.schedule_id, cut.t_cut),
    )
    return set(range(limit)) - {row[0] for row in rows}


def _affordable(
    spool: Spool,
    settings: EdgeSettings,
    cut: Cut,
    image: tuple[str, tuple[int, ...]],
    pending: set[int],
    wanted: set[int],
) -> set[int]:
    """Which of the releases `wanted` of an image its budget bears, beside those that are waiting here.

    image: its digest, and its shape (C, H, W).

    One that the ledger has already, known from the journal, discloses nothing more and costs what it is dearer now.
    """
    if settings.epsilon_budget is None:
        return wanted
    digest, shape = image
    price = privacy.gdp_mu(privacy.norm_bound(settings.clip_norm, shape), cut.t_cut, cut.schedule) ** 2
    known = ledger.prices(spool, digest)
    spent = ledger.squares(spool, digest) + sum(ledger.added(known, index, price) for index in pending)
    borne = set()
    for index in sorted(wanted):
        more = ledger.added(known, index, price)
        if more and not ledger.is_affordable(spent + more, settings):
            continue
        spent += more
        borne.add(index)
    return borne


def _why_refused(settings: EdgeSettings, refused: int) -> str:
    return (
        f"{refused} releases were refused: each would take its image's epsilon past the budget of"
        f" {settings.epsilon_budget:g} (at delta {settings.delta:g}, cut ratio {settings.cut_ratio:g}); raise cut_ratio, lower"
        " clip_norm, or raise epsilon_budget"
    )


def _releases_asked(spool: Spool, contract: RoundV1) -> int:
    """How often an image may be released as far as the server is concerned; not at all once the round is closed."""
    return 0 if contracts.is_closed(spool, contract, clock.now()) else contract.releases_wanted


def _is_wanted(image: Image, contract: RoundV1 | None) -> bool:
    if contract is None or contract.labels_wanted is None:
        return True
    return image.label in contract.labels_wanted


def _check_image(image: Image, contract: RoundV1 | None) -> None:
    if contract is None:
        return
    if image.x0.shape != contract.shape:
        raise ContributionError(
            f"{image.name} is {image.x0.shape} (channels, height, width), the server learns {contract.shape}: resize it"
        )
    if image.label is not None and contract.num_classes is not None and image.label >= contract.num_classes:
        raise ContributionError(
            f"{image.name} has the label {image.label}, the server knows 0..{contract.num_classes - 1}"
        )
