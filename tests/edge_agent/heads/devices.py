"""A device as far as heads are concerned: inbox, updater and slot, without broker and without threads."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from broker.contract.message import Message
from edge_agent import inbox
from edge_agent.heads import arrivals, store
from edge_agent.heads.arrivals import Arrivals
from edge_agent.heads.head_slot import HeadSlot
from edge_agent.heads.judge import Judge
from edge_agent.heads.provider import Provider
from edge_agent.heads.trial import Terms
from edge_agent.heads.updater import HeadUpdater
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from tests.conftest import wait_until
from tests.edge_agent.heads import bundles
from tests.edge_agent.letters import Letter


class HeadDevice:
    """An agent's part that deals with heads, on a spool; see `again` for the next agent on it."""

    def __init__(
        self,
        state: StateDirectory,
        spool: Spool,
        *,
        keys: Sequence[str],
        terms: Terms,
        own: Path | None = None,
        max_bytes: int = 256 * 2**20,
        metered: bool = False,
        check_seconds: float = 60.0,
        provider: Provider = "cpu",
    ) -> None:
        self._state, self._keys, self._terms = state, tuple(keys), terms
        self.spool = spool
        self.directory = state.heads
        self.judge = Judge("ward", keys)
        self.slot = HeadSlot(own, provider, 1, admit=partial(self.judge.admit_own, spool))
        self.arrivals = Arrivals(self.judge, state.path, max_bytes, metered=metered)
        self.updater = HeadUpdater(
            spool,
            state.heads,
            self.slot,
            self.judge,
            provider=provider,
            threads=1,
            terms=terms,
            check_seconds=check_seconds,
        )
        self.updater.begin()
        self.slot.refresh()

    def again(
        self, *, keys: Sequence[str] | None = None, own: Path | None = None, provider: Provider = "cpu"
    ) -> "HeadDevice":
        """The device after its agent ended in order."""
        self.updater.close()
        return HeadDevice(
            self._state, self.spool, keys=keys or self._keys, terms=self._terms, own=own, provider=provider
        )

    def killed(self) -> "HeadDevice":
        """The device after its agent was killed: nothing was closed or counted back."""
        return HeadDevice(self._state, self.spool, keys=self._keys, terms=self._terms)

    def take(self, *messages: Message) -> None:
        for message in messages:
            letter = Letter(message)
            inbox.take(self.spool, letter, self.arrivals)
            assert letter.ends == ["ack"], letter

    def deliver(self, path: Path) -> str:
        """All of a bundle; returns its digest."""
        announcement, chunks = bundles.messages(path)
        self.take(announcement, *chunks)
        return announcement.bundle

    def reboot(self) -> None:
        """What came to an end did so before the machine was started."""
        with self.spool.transaction() as transaction:
            transaction.execute("UPDATE heads SET since_boot = 'the one before'")

    def row(self, bundle: str) -> store.HeadRow:
        with self.spool.transaction() as transaction:
            row = store.find(transaction, bundle)
        assert row is not None
        return row

    def state(self, bundle: str) -> tuple[str, str | None]:
        row = self.row(bundle)
        return row.state, row.reason

    def turn_until(self, bundle: str, *states: str) -> None:
        """Let the agent's thread come by until the head is in one of these states."""

        def there() -> bool:
            self.slot.refresh()
            self.updater.turn()
            return self.row(bundle).state in states

        wait_until(there, f"the head is {' or '.join(states)}")

    def install(self, path: Path) -> str:
        """Deliver a head and let its trial go well."""
        bundle = self.deliver(path)
        self.turn_until(bundle, "trial")
        self.updater.turn()
        self.work(2)
        self.turn_until(bundle, "live")
        return bundle

    def work(self, images: int) -> None:
        """Finish images with the head in use, as a job does."""
        assert self.slot.loaded is not None
        head = self.slot.loaded.head
        shape = (images, *head.manifest.image_shape)
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        plan = (head.manifest.t_cut, 0)
        head.finish(x, plan, seeds=np.zeros(images, np.uint64), samples=np.arange(images))
        self.slot.images += images

    def missing(self) -> tuple[int, ...]:
        report = arrivals.report(self.spool)
        assert report is not None
        return report.missing

    @property
    def loaded_counter(self) -> int | None:
        """Of the head in use."""
        return None if self.slot.loaded is None else self.slot.loaded.head.manifest.counter

    @property
    def files(self) -> set[str]:
        return {path.stem for path in self.directory.iterdir()}
