"""The sample store: every released batch, durable, stored once however often it is delivered.

Batches lie in immutable segments; several processes may write and read at the same time without waiting for each other. The index
lives in memory and is rebuilt from the segments' headers.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import structlog

from broker.contract.samples import SamplesV1
from server_worker.errors import BrokenSegment, Damaged, StorageFull, StorageUnusable, Unreadable, Vanished
from server_worker.samples import forgetting, rewriting
from server_worker.samples.batch import Incoming, Kind, Outcome, StoredBatch, Tensors, payload_of
from server_worker.samples.forgetting import Receipt
from server_worker.samples.gather import SampleBatch, gather
from server_worker.samples.index import Index
from server_worker.samples.limits import StoreLimits
from server_worker.samples.patience import Patience
from server_worker.samples.retention import Retention
from server_worker.samples.rewriting import Shelf
from server_worker.samples.segments import Segments
from server_worker.samples.tombstones import Tombstone, Tombstones
from server_worker.storage import Storage

__all__ = ["SampleBatch", "SampleStore"]

log = structlog.get_logger(__name__)

OLD_FOLDER = "samples"
OLD_FORMAT = "collafuse-samples-v1"
NO_LIMITS = StoreLimits()


class SampleStore:
    """Released samples of all clients of one federation.

    storage: where the segments are.
    cache_bytes: how much memory is for tensors that are not mapped.
    quarantine: move damaged files aside and erase what tombstones cover; without it both are only disregarded, as a mere reader
        should.
    held_out_share: so much of each batch is never drawn for training, and is what `held_out=True` draws from.
    limits: how much is kept, and for how long.
    clock: unix seconds, which may be set wrong; monotonic: seconds that only pass.

    Safe to use from several threads; other processes may write at any time (`refresh` sees what they did).
    """

    def __init__(
        self,
        storage: Storage,
        *,
        cache_bytes: int = 1 << 30,
        quarantine: bool = True,
        held_out_share: float = 0.0,
        limits: StoreLimits = NO_LIMITS,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if storage.folders(OLD_FOLDER):
            raise StorageUnusable(
                f"{storage.url}/{OLD_FOLDER} holds samples in the format {OLD_FORMAT}, which is not read any more: "
                f"delete or move away the folder {OLD_FOLDER}, or use another storage, and let the devices contribute again"
            )
        self._storage = storage
        self._writes = quarantine
        self._limits = limits
        self._clock = clock
        self._monotonic = monotonic
        self._retention = Retention(limits.retention_days)
        self._shelf = Shelf(Segments(storage, cache_bytes), Tombstones(storage))
        self._index = Index(self._shelf, moves_damaged=quarantine, held_out_share=held_out_share)
        self._index.sync()

    @property
    def samples(self) -> int:
        """How many samples are stored."""
        return self._index.samples

    @property
    def client_samples(self) -> dict[str, int]:
        """How many samples are stored of each client that has any."""
        return self._index.client_samples()

    @property
    def held_out_samples(self) -> int:
        """How many of those that are drawn from are kept from training."""
        return self._index.table(held_out=True).samples

    @property
    def size_bytes(self) -> int:
        """The size of all segments together."""
        return self._index.size_bytes

    @property
    def quotas_used(self) -> dict[str, float]:
        """The share that is used, 1 for all, of the quotas that are set: `store`, and `client`, of the client that has most."""
        used = {
            "store": (self._index.size_bytes, self._limits.max_bytes),
            "client": (self._index.largest_client_bytes, self._limits.client_max_bytes),
        }
        return {quota: used_bytes / limit for quota, (used_bytes, limit) in used.items() if limit}

    @property
    def copies(self) -> int:
        """How many batches are stored a second time; they count once, and merging drops them."""
        return self._index.copies

    @property
    def quarantined(self) -> dict[str, str]:
        """Damage found by this process: message id, or a segment's name where no more is known, to what is wrong with it."""
        return self._index.quarantined

    @property
    def tombstones(self) -> Tombstones:
        """Who was forgotten, and what was erased for its age."""
        return self._shelf.tombstones

    def entries(
        self,
        *,
        client: str | None = None,
        device: str | None = None,
        t_cut: int | None = None,
        label: int | None = None,
    ) -> list[StoredBatch]:
        """The batches that fit every given condition, in the order of their ids; a label fits when any sample has it."""
        return [
            entry
            for entry in self._index.entries()
            if (client is None or entry.client == client)
            and (device is None or entry.device == device)
            and (t_cut is None or entry.t_cut == t_cut)
            and (label is None or label in entry.labels)
        ]

    def least_t_cut(self) -> int | None:
        """The smallest cut that any stored sample was released at; None in an empty store."""
        return min((entry.t_cut for entry in self._index.entries()), default=None)

    def add(self, message: SamplesV1, message_id: str, client: str, device: str) -> Outcome:
        """Store one batch; see `add_many`."""
        return self.add_many([Incoming(message, message_id, client, device)])[0]

    def add_many(self, incoming: Sequence[Incoming]) -> list[Outcome]:
        """Store batches, those of one kind together as one segment; they are durable when this returns.

        Raises StorageFull when the disk has no room for them: then some may be stored, and are repeats the next time.
        """
        with self._index.writing:
            self._index.sync()
            outcomes: dict[str, Outcome] = {}
            accepted: dict[str, Incoming] = {}
            client_bytes: Counter[str] = Counter()
            for each in incoming:
                if each.message_id in accepted or each.message_id in outcomes:
                    continue
                outcome = self._refusal(each, client_bytes)
                if outcome is None:
                    accepted[each.message_id] = each
                    client_bytes[each.client] += each.size_bytes
                else:
                    outcomes[each.message_id] = outcome
            outcomes |= self._commit(accepted.values())
        return _told(incoming, outcomes)

    def check_quota(self, size_bytes: int, least_bytes: int) -> None:
        """Raises StorageFull unless so much more may be stored, or a quarter of what may be in all if that is less.

        least_bytes: of tensors that wait; so much is needed in any case, even if it is more than the quarter.
        """
        limit, used = self._limits.max_bytes, self._index.size_bytes
        if limit is not None and used and used + max(min(size_bytes, limit // 4), least_bytes) > limit:
            raise StorageFull(
                f"the sample store {self._storage.url} takes no more data: {used:,} bytes are stored, "
                f"store_max_bytes is {limit:,}: raise it, or forget what is not needed"
            )

    def refresh(self) -> int:
        """List again what is there: what other processes stored, merged or erased. Returns how many batches were new.

        Where the storage cannot be read at the moment, what is known already stands. What is known is drawn from at once.
        """
        try:
            new = self._index.sync()
        except Unreadable as error:
            log.warning("store_not_refreshed", error=str(error))
            return 0
        self._index.draw_anew()
        return new

    def check_readable(self) -> None:
        """Raises Unreadable when the storage cannot be listed at the moment."""
        self._index.sync()

    def snapshot(self) -> tuple[str, ...]:
        """The names of the segments known, sorted: what `adopt` takes, here or in another process."""
        return self._index.snapshot()

    def adopt(self, names: Iterable[str]) -> None:
        """From now on draw from exactly what these segments hold, wherever it is moved; what is erased is not drawn any more.

        Raises Damaged when one cannot be read: it was merged or erased before this process knew it. Take a new snapshot then.
        """
        self._index.adopt(names)

    def batch(
        self, rng: np.random.Generator, size: int, *, rows: slice = slice(None), held_out: bool = False
    ) -> SampleBatch:
        """Draw `size` samples with replacement, every client with the same probability whatever it has stored.

        rows: of the samples drawn, those to return: a rank of data-parallel training takes its part of the global batch.
        held_out: draw from what is kept from training instead.

        Raises Damaged when nothing is left to draw from, Unreadable when what was drawn cannot be read however often it is tried.
        """
        state = rng.bit_generator.state
        patience = Patience()
        while True:
            table = self._index.table(held_out=held_out)
            if not table.samples:
                raise Damaged(f"the sample store {self._storage.url} holds no samples to train on")
            picks = table.pick(rng, size).part(rows)
            try:
                return gather(table, picks, self._shelf.segments.arrays)
            except (Vanished, Unreadable) as error:
                patience.lose(error)
                self.refresh()
            except BrokenSegment as broken:
                self._index.salvage(broken)
            # A draw that is repeated takes the same numbers again, so that ranks stay in step with each other.
            rng.bit_generator.state = state

    def tensors(self, entry: StoredBatch) -> Tensors:
        """The arrays of one batch. Raises Damaged when they are not what was written, or were erased; Unreadable as `batch`."""
        patience = Patience()
        while True:
            place = self._index.place(entry.message_id)
            if place is None:
                raise Damaged(f"sample batch {entry.message_id} is not in the store, or is damaged")
            try:
                arrays = place.segment.rows(self._shelf.segments.arrays(place.segment), place.number)
            except (Vanished, Unreadable) as error:
                patience.lose(error)
                self.refresh()
            except BrokenSegment as broken:
                self._index.salvage(broken)
            else:
                return Tensors(arrays["x"], arrays.get("scale"), arrays.get("t"), arrays.get("noise"))

    def compact(self, *, everything: bool = True) -> int:
        """Merge small segments; returns how many fewer there are. Without `everything`, only where many have gathered.

        Raises StorageFull.
        """
        with self._index.writing:
            self._index.sync()
            before = self._index.segments()
        groups = rewriting.packed(before) if everything else rewriting.due(before)
        for group in groups:
            try:
                with self._index.in_turn():
                    rewriting.merge(self._shelf, group)
            except (Vanished, Unreadable) as error:
                # another process is at it, or it cannot be read
                log.info("segments_not_merged", reason=str(error))
        if groups:
            self._index.sync()
            log.info("segments_merged", before=len(before), after=len(self._index.segments()))
        return len(before) - len(self._index.segments())

    def maintain(self) -> None:
        """Finish erasures that were begun, erase what is too old, merge what is small. Raises StorageFull."""
        self._storage.sweep()
        self._finish_erasing()
        self._expire()
        self.compact()

    def forget(self, client: str, device: str | None = None) -> Receipt:
        """Erase what a client, or one device, has stored, and take no more of it.

        Raises StorageFull; what was begun then is finished by calling it again, or by the next `maintain`.
        """
        with self._index.writing:
            receipt = forgetting.forget(self._storage, self._shelf, client, device, self._clock())
            self._index.sync()
            return receipt

    def lift(self, client: str, device: str | None = None) -> Tombstone | None:
        """Let a forgotten sender contribute again; None when it was not forgotten. Raises StorageFull."""
        with self._index.writing:
            lifted = forgetting.lift(self._storage, client, device)
            self._index.sync()
            return lifted

    def _refusal(self, incoming: Incoming, accepted_bytes: "Counter[str]") -> Outcome | None:
        """Why a batch is not stored, beside those of the same group by client; None when it may be."""
        refusal = self.tombstones.refusal(incoming.message_id, incoming.client, incoming.device)
        if refusal == "forgotten":
            return Outcome.FORGOTTEN
        if refusal == "expired" or self._index.place(incoming.message_id) is not None:
            return Outcome.REPEATED
        limit = self._limits.client_max_bytes
        used = self._index.client_bytes(incoming.client) + accepted_bytes[incoming.client]
        if limit is not None and used + incoming.size_bytes > limit:
            return Outcome.OVER_QUOTA
        limit, used = self._limits.max_bytes, self._index.size_bytes + accepted_bytes.total()
        if limit is not None and incoming.size_bytes > limit:
            return Outcome.OVER_QUOTA
        if limit is not None and used + incoming.size_bytes > limit:
            return Outcome.NO_ROOM
        return None

    def _commit(self, accepted: Iterable[Incoming]) -> dict[str, Outcome]:
        # No earlier than what is stored: a clock that was set wrong must not make the newest the oldest.
        stored_at = max(self._clock(), self._index.newest_stored_at)
        payloads = [payload_of(each, stored_at) for each in accepted]
        kinds: dict[Kind, list[int]] = {}
        for number, payload in enumerate(payloads):
            kinds.setdefault(payload.entry.kind, []).append(number)
        outcomes = {payload.entry.message_id: Outcome.FORGOTTEN for payload in payloads}
        for numbers in kinds.values():
            segment = rewriting.put(self._shelf, [payloads[number] for number in numbers])
            if segment is not None:
                self._index.insert(segment)
                outcomes |= {entry.message_id: Outcome.STORED for entry in segment.batches}
        return outcomes

    def _finish_erasing(self) -> None:
        """What a killed process has begun, and what one wrote that did not live to see a tombstone."""
        self._index.sync()
        for tombstone in self.tombstones.forgotten:
            if tombstone.active and not tombstone.complete:
                self.forget(tombstone.client, tombstone.device)
        if self._index.has_refused:
            left = rewriting.erase_refused(self._shelf, self._index.in_turn)
            self._index.sync()
            self._index.has_refused = bool(left)

    def _expire(self) -> None:
        if self._limits.retention_days is None:
            return
        entries = self._index.entries()
        old = self._retention.due(entries, self._clock(), self._monotonic())
        if old:
            with self._index.writing:
                self.tombstones.add_expired(old)
            left = rewriting.erase_refused(self._shelf, self._index.in_turn)
            self._index.sync()
            self._index.has_refused = bool(left)
            log.info("samples_expired", batches=len(old), retention_days=self._limits.retention_days)
        with self._index.writing:
            self.tombstones.merge_expired()


def _told(incoming: Sequence[Incoming], outcomes: dict[str, Outcome]) -> list[Outcome]:
    """One outcome per batch; what came twice in one group was stored the first time."""
    told: list[Outcome] = []
    seen: set[str] = set()
    for each in incoming:
        outcome = outcomes[each.message_id]
        is_repeat = outcome == Outcome.STORED and each.message_id in seen
        told.append(Outcome.REPEATED if is_repeat else outcome)
        seen.add(each.message_id)
    return told
