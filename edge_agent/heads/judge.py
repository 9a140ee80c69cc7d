"""Which heads this device may take: whose signature it believes, and what the policy says; decided before anything is kept."""

import hashlib
import importlib.metadata
import sqlite3
from collections.abc import Sequence

from edge_agent import clock
from edge_agent.errors import HeadError
from edge_agent.heads import known_time, proofs, store
from edge_agent.heads.distant_key import DistantKey
from edge_agent.heads.proofs import Proof
from edge_agent.storage.spool import Spool
from export.bundle.bundle import Bundle
from export.bundle.keyring import Keyring
from export.bundle.keys import KeyHistory, Signatures
from export.bundle.manifest import Manifest
from export.bundle.policy import check_figures, check_install
from export.errors import KeyUnusable

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
            self._ring = Keyring.from_texts(keys, DistantKey)
        except KeyUnusable as error:
            raise HeadError(f"head_keys: {error}") from error
        self._settings = hashlib.sha256(
            "\n".join(sorted(key.text for key in self._ring.keys)).encode()
        ).hexdigest()
        self.own: Manifest | None = None
        """Of the head that the settings name, as far as it could be read."""
        self._own_proof: Proof | None = None

    @property
    def has_keys(self) -> bool:
        """Whether a head needs a signature at all."""
        return bool(self._ring.keys)

    def keyring(self, connection: sqlite3.Connection) -> Keyring:
        """The keys in force: the list that a chain of signed ones has led to, until the settings name other keys.

        Raises BundleError when what was kept cannot be read: revoked keys do not come back by damage.
        """
        row = connection.execute("SELECT history, settings FROM head_keys").fetchone()
        if row is None or row["settings"] not in (None, self._settings):
            return self._ring  # the owner has written other keys into the settings: they count
        lists = KeyHistory.from_bytes(bytes(row["history"])).lists
        if not lists:
            return self._ring
        return Keyring.of_list(lists[-1].content, DistantKey)

    def verify(
        self,
        connection: sqlite3.Connection,
        manifest_bytes: bytes,
        signatures: bytes,
        key_list: bytes | None,
        *,
        fresh: bool = True,
    ) -> Manifest:
        """The manifest, if somebody vouches for it whom this device trusts; a new list of keys is kept.

        fresh: whether a list in force that has expired is an objection.

        Raises BundleError (BundleRefused with its reason) for anything else.
        """
        history = KeyHistory() if key_list is None else KeyHistory.from_bytes(key_list)
        known_ring = self.keyring(connection)
        ring = known_ring.follow(history)
        if ring.version > known_ring.version:
            self._keep(connection, history)
            known_time.forget_signed(connection, [key.key_id for key in ring.keys])
            proofs.drop_revoked(connection, ring)
        if fresh:
            ring.check_fresh(known_time.known(connection, clock.now()))
        key_id = ring.verify(manifest_bytes, Signatures.from_bytes(signatures))
        manifest = Manifest.from_bytes(manifest_bytes)
        known_time.note_signed(connection, key_id, manifest.issued_at)
        return manifest

    def verify_file(self, connection: sqlite3.Connection, bundle: Bundle, *, fresh: bool = True) -> None:
        """Judge a bundle that lies on this device; it needs a signature only where keys are set.

        Raises BundleError (BundleRefused with its reason).
        """
        if self.has_keys:
            self.verify(
                connection,
                bundle.manifest_bytes,
                bundle.signatures.to_bytes(),
                bundle.key_list.to_bytes(),
                fresh=fresh,
            )
        else:
            known_time.note_signed(connection, "", bundle.manifest.issued_at)

    def admit_own(self, spool: Spool, bundle: Bundle) -> None:
        """Judge the bundle that the settings name, which may be of any age. Raises BundleError.

        What was taken once is taken again, also when its key has been replaced since: a change of keys leaves no device
        without a head. Only other `head_keys` in the settings make it be judged anew.
        """
        digest = bundle.manifest_digest
        with spool.transaction() as transaction:
            taken = transaction.execute(
                "SELECT 1 FROM own_head WHERE manifest = ? AND settings = ?", (digest, self._settings)
            ).fetchone()
            if taken is None:
                self.verify_file(transaction, bundle, fresh=False)
                transaction.execute(
                    "INSERT OR REPLACE INTO own_head (only, manifest, settings) VALUES (1, ?, ?)",
                    (digest, self._settings),
                )
        self.own = bundle.manifest
        self._own_proof = bundle.manifest_bytes, bundle.signatures.to_bytes()

    def _keep(self, connection: sqlite3.Connection, history: KeyHistory) -> None:
        """Remember the list in force by itself: a sender may leave out the lists that led to it."""
        connection.execute(
            "INSERT OR REPLACE INTO head_keys (only, history, settings) VALUES (1, ?, ?)",
            (KeyHistory(lists=history.lists[-1:]).to_bytes(), self._settings),
        )

    def admit(
        self,
        connection: sqlite3.Connection,
        manifest: Manifest,
        *,
        allow_older: bool = False,
        fresh: bool = True,
    ) -> None:
        """Apply the policy to a head whose signature was verified. Raises BundleRefused with its reason.

        allow_older: the operator's word that its counter does not matter.
        fresh: whether it is an objection that it has expired.
        """
        check_install(
            manifest,
            self._held_counter(connection),
            AGENT_VERSION,
            known_time.known(connection, clock.now()) if fresh else 0.0,
            allow_older,
            client=self._client,
            name=None if allow_older else self._held_name(connection),
        )
        check_figures(manifest)

    def reconsider(self, connection: sqlite3.Connection, bundle: str) -> None:
        """Judge a head on its way once more, by what is known now. Raises BundleError as it did when it was announced."""
        proof = proofs.get(connection, bundle)
        if proof is not None:
            self.admit(connection, self.verify(connection, *proof, None))

    def drop_revoked(self, connection: sqlite3.Connection) -> None:
        """Give up what is on its way by keys that the settings name no longer. Raises BundleError when the keys are damaged."""
        if self.has_keys:
            proofs.drop_revoked(connection, self.keyring(connection))

    def is_revoked(self, connection: sqlite3.Connection, delivered: str | None) -> bool:
        """Whether those who vouched for a head are trusted no longer: for a delivered one, or, with None, the settings' own.

        Raises BundleError when the keys in force are damaged.
        """
        if not self.has_keys:
            return False
        proof = self._own_proof if delivered is None else proofs.get(connection, delivered)
        return proofs.is_revoked(proof, self.keyring(connection))

    def _held_counter(self, connection: sqlite3.Connection) -> int | None:
        """The greatest counter that counts: a thief's does not, once his key is trusted no longer."""
        counters = [
            row.counter for row in store.held(connection) if not self.is_revoked(connection, row.bundle)
        ]
        if self.own is not None:
            counters.append(self.own.counter)
        return max(counters, default=None)

    def _held_name(self, connection: sqlite3.Connection) -> str | None:
        live = store.in_state(connection, "live")
        if live is not None and not self.is_revoked(connection, live.bundle):
            return live.name
        return None if self.own is None else self.own.name
