"""Which heads this device may take: whose signature it believes, and what the policy says; decided before anything is kept."""

import importlib.metadata
import sqlite3
from collections.abc import Sequence

from edge_agent import clock
from edge_agent.errors import HeadError
from edge_agent.heads import known_time, store
from edge_agent.storage.spool import Spool
from export.bundle import Bundle
from export.errors import BundleError, KeyUnusable
from export.keys import KeyHistory, Keyring, Signatures
from export.manifest import Manifest
from export.policy import check_figures, check_install

AGENT_VERSION = importlib.metadata.version("collafuse-edge")


class Judge:
    """What this device believes and belongs to.

    client: whose device this is; None believes a head of any client.
    keys: of the settings, `ed25519:...`; without any, nothing that is delivered is taken.

    Raises HeadError when a key cannot be read.
    """

    def __init__(self, client: str | None, keys: Sequence[str]) -> None:
        self._client = client
        try:
            self._ring = Keyring.from_texts(keys)
        except KeyUnusable as error:
            raise HeadError(f"head_keys: {error}") from error
        self.own: Manifest | None = None
        """Of the head that the settings name, as far as it could be read."""

    @property
    def has_keys(self) -> bool:
        """Whether a head needs a signature at all."""
        return bool(self._ring.keys)

    def keyring(self, connection: sqlite3.Connection) -> Keyring:
        """The keys in force: those of the settings, or those that a chain of signed lists has led to since."""
        row = connection.execute("SELECT history FROM head_keys").fetchone()
        if row is None:
            return self._ring
        try:
            return self._ring.follow(KeyHistory.from_bytes(bytes(row[0])))
        except BundleError:
            return self._ring  # the owner has written other keys into the settings: they count

    def verify(
        self, connection: sqlite3.Connection, manifest_bytes: bytes, signatures: bytes, key_list: bytes | None
    ) -> Manifest:
        """The manifest, if somebody vouches for it whom this device trusts; a new list of keys is kept.

        Raises BundleError (BundleRefused with its reason) for anything else.
        """
        history = KeyHistory() if key_list is None else KeyHistory.from_bytes(key_list)
        known_ring = self.keyring(connection)
        ring = known_ring.follow(history)
        if ring.version > known_ring.version:
            connection.execute(
                "INSERT INTO head_keys (only, history) VALUES (1, ?)"
                " ON CONFLICT (only) DO UPDATE SET history = excluded.history",
                (history.to_bytes(),),
            )
        ring.check_fresh(known_time.known(connection, clock.now()))
        ring.verify(manifest_bytes, Signatures.from_bytes(signatures))
        return Manifest.from_bytes(manifest_bytes)

    def verify_file(self, connection: sqlite3.Connection, bundle: Bundle) -> None:
        """Judge a bundle that lies on this device; it needs a signature only where keys are set.

        Raises BundleError (BundleRefused with its reason).
        """
        if self.has_keys:
            self.verify(
                connection,
                bundle.manifest_bytes,
                bundle.signatures.to_bytes(),
                bundle.key_list.to_bytes(),
            )

    def admit_own(self, spool: Spool, bundle: Bundle) -> None:
        """Judge the bundle that the settings name, which may be of any age. Raises BundleError."""
        with spool.transaction() as transaction:
            self.verify_file(transaction, bundle)
        self.own = bundle.manifest

    def admit(self, connection: sqlite3.Connection, manifest: Manifest, *, allow_older: bool = False) -> None:
        """Apply the policy to a head whose signature was verified. Raises BundleRefused with its reason."""
        check_install(
            manifest,
            self._held_counter(connection),
            AGENT_VERSION,
            known_time.known(connection, clock.now()),
            allow_older,
            client=self._client,
            name=None if allow_older else self._held_name(connection),
        )
        check_figures(manifest)

    def _held_counter(self, connection: sqlite3.Connection) -> int | None:
        held = store.held_counter(connection)
        counters = [held, None if self.own is None else self.own.counter]
        return max((counter for counter in counters if counter is not None), default=None)

    def _held_name(self, connection: sqlite3.Connection) -> str | None:
        live = store.in_state(connection, "live")
        if live is not None:
            return live.name
        return None if self.own is None else self.own.name
