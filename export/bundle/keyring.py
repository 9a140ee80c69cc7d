"""Whom a device believes: its keys, and how they change by signed lists.

The model is TUF's root role. A device starts from the keys that its owner wrote into its settings. From there it
follows a history of key lists: a list is accepted when enough keys of the list before it and enough of its own keys
have signed it, and never one of an older version.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from export.bundle.keys import (
    BUNDLE_DOMAIN,
    KEYS_DOMAIN,
    KeyHistory,
    KeyList,
    PublicKey,
    Signatures,
    SignedKeyList,
)
from export.errors import SignatureRefused


@dataclass(frozen=True)
class Keyring:
    """The keys that a device trusts now.

    keys: whose signatures count;  threshold: how many it takes;  current: the list this comes from, None for the keys
    of the device's own settings;  kind: of the keys, and of those that follow them, for they differ in where they judge.
    """

    keys: tuple[PublicKey, ...]
    threshold: int = 1
    current: KeyList | None = None
    kind: type[PublicKey] = PublicKey

    @classmethod
    def from_texts(cls, texts: Iterable[str], kind: type[PublicKey] = PublicKey) -> "Keyring":
        """The keys written into a device's settings, each of which may vouch alone. Raises KeyUnusable."""
        return cls(tuple(kind.from_text(text) for text in texts), kind=kind)

    @classmethod
    def of_list(cls, content: KeyList, kind: type[PublicKey] = PublicKey) -> "Keyring":
        """The keys of a list that is in force."""
        return cls(tuple(kind(key.raw) for key in content.public_keys), content.threshold, content, kind)

    @property
    def version(self) -> int:
        """Of the list in force; 0 for the keys of the settings."""
        return self.current.version if self.current else 0

    def accept(self, signed: SignedKeyList) -> "Keyring":
        """The ring after `signed`, which must be newer, and signed by enough of the old keys and enough of its own.

        Raises:
            SignatureRefused: it is not; reason `keys_older`, `keys_forked` or `keys_unsigned`.
        """
        content = signed.content
        if content.version < self.version:
            raise SignatureRefused(
                "keys_older",
                f"the key list has version {content.version}, but version {self.version} is in force; "
                "get the newest list",
            )
        if content == self.current:
            return self
        if content.version == self.version:
            raise SignatureRefused(
                "keys_forked",
                f"there are two key lists of version {content.version}; give the next one a greater version",
            )
        renewed = Keyring.of_list(content, self.kind)
        for ring, whose in ((self, "in force"), (renewed, "in the new list")):
            ring._check(KEYS_DOMAIN + content.to_bytes(), signed.signatures, "keys_unsigned", whose)
        return renewed

    def follow(self, history: KeyHistory) -> "Keyring":
        """The ring at the end of `history`; lists that are already behind this one are passed over.

        Keys of settings enter at the first list that they have signed: a device that began after a change of keys knows the new
        ones alone. A history that is sent without its beginning says no less.

        Raises:
            SignatureRefused: a newer list is not properly signed, or two of one version differ.
        """
        ring = self
        for signed in history.lists:
            before_its_time = (
                ring.current is None and signed is not history.lists[-1] and not ring._signed(signed)
            )
            if signed.content.version >= ring.version and not before_its_time:
                ring = ring.accept(signed)
        return ring

    def _signed(self, signed: SignedKeyList) -> bool:
        """Whether any of these keys is named among those who signed; what its signature is worth is another question."""
        return not {key.key_id for key in self.keys}.isdisjoint(
            signature.key for signature in signed.signatures.signatures
        )

    def check_fresh(self, known_time_unix: float) -> None:
        """Raises SignatureRefused (`keys_expired`) when the list in force is too old to be trusted any longer."""
        expires_at = self.current.expires_at if self.current else None
        if expires_at is not None and known_time_unix > expires_at:
            raise SignatureRefused(
                "keys_expired",
                f"key list {self.version} has expired; publish a newer list with `collafuse export keys`",
            )

    def verify(self, manifest_bytes: bytes, signatures: Signatures) -> str:
        """The id of the first key that vouches for the bundle of this manifest.

        Raises:
            SignatureRefused: fewer than `threshold` of these keys have signed it (`unsigned`), or a signature in the
            name of one of them is false (`signature_false`).
        """
        return self._check(BUNDLE_DOMAIN + manifest_bytes, signatures, "unsigned", "that are trusted")[0]

    def _check(self, message: bytes, signatures: Signatures, reason: str, whose: str) -> Sequence[str]:
        keys = {key.key_id: key for key in self.keys}
        # Signatures of strangers mean nothing: during a change of keys, old and new ones stand side by side.
        known = [signature for signature in signatures.signatures if signature.key in keys]
        for signature in known:
            if not keys[signature.key].vouches(bytes.fromhex(signature.signature), message):
                raise SignatureRefused(
                    "signature_false",
                    f"the signature of key {signature.key} does not fit; it was altered, get it again",
                )
        if not known or len(known) < self.threshold:
            raise SignatureRefused(
                reason,
                f"{len(known)} of the {self.threshold} signatures it takes come from the keys {whose} "
                f"({', '.join(sorted(keys)) or 'none'}); sign it with `collafuse export sign`",
            )
        return [signature.key for signature in known]
