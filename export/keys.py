"""Who may vouch for a head: ed25519 keys, signatures, and the signed lists by which keys are changed.

The model is TUF's root role. A device starts from the keys that its owner wrote into its settings. From there it
follows a history of key lists: a list is accepted when enough keys of the list before it and enough of its own keys
have signed it, and never one of an older version. Every signature is made over a domain, a zero byte and the
document, so that a signature of one kind of document is none of another.

`cryptography` is imported where it is used: a device that takes no heads need not hold its seven megabytes.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from export.canonical import Canonical
from export.errors import BundleError, KeyUnusable, SignatureRefused

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PREFIX: Final = "ed25519:"
BUNDLE_DOMAIN: Final = b"collafuse-bundle-v2\0"
KEYS_DOMAIN: Final = b"collafuse-keys-v1\0"
PUBLIC_KEY_BYTES = 32
MAX_KEYS = 64
MAX_SIGNATURES = 64
MAX_LISTS = 64
MAX_SIGNATURES_BYTES = 64 * 2**10
MAX_KEYS_BYTES = 512 * 2**10


@dataclass(frozen=True)
class PublicKey:
    """Half of a pair that everybody may know: 32 bytes, in texts "ed25519:" and base64."""

    raw: bytes

    @classmethod
    def from_text(cls, text: str) -> "PublicKey":
        """Raises KeyUnusable for anything but the one spelling of a key."""
        try:
            raw = base64.b64decode(text.removeprefix(PREFIX), validate=True)
        except (binascii.Error, ValueError) as error:
            raise KeyUnusable(f"{text!r} is not a public key; one looks like {PREFIX}<44 letters>") from error
        if len(raw) != PUBLIC_KEY_BYTES:
            raise KeyUnusable(
                f"{text!r} is not a public key: it has {len(raw)} bytes, not {PUBLIC_KEY_BYTES}"
            )
        key = cls(raw)
        if key.text != text:
            raise KeyUnusable(f"{text!r} is not a public key as it is written; it should be {key.text}")
        return key

    @property
    def text(self) -> str:
        """The key as it stands in settings and lists."""
        return PREFIX + base64.b64encode(self.raw).decode()

    @property
    def key_id(self) -> str:
        """16 hex digits by which a signature names its key."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    def vouches(self, signature: bytes, message: bytes) -> bool:
        """Whether this key's owner made `signature` (64 bytes) over `message`."""
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature:
            return False
        return True


class Signature(Canonical):
    """One key's word for one document."""

    key: str = Field(pattern=r"^[0-9a-f]{16}$", description="the key's id")
    signature: str = Field(pattern=r"^[0-9a-f]{128}$")


@dataclass(frozen=True, repr=False)
class PrivateKey:
    """The half that signs; it never leaves its owner's machine."""

    key: "Ed25519PrivateKey"

    @classmethod
    def generate(cls) -> "PrivateKey":
        """A new key from the system's randomness."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

        return cls(Ed25519PrivateKey.generate())

    @property
    def public(self) -> PublicKey:
        """The other half."""
        return PublicKey(self.key.public_key().public_bytes_raw())

    def sign(self, domain: bytes, document: bytes) -> Signature:
        """Vouch for `document`; the same key and document give the same signature."""
        return Signature(key=self.public.key_id, signature=self.key.sign(domain + document).hex())


class Signatures(Canonical):
    """The signatures of one document, each key's at most once."""

    signatures: Annotated[tuple[Signature, ...], Field(strict=False, max_length=MAX_SIGNATURES)] = ()

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        if len({signature.key for signature in self.signatures}) != len(self.signatures):
            raise ValueError("one key signed twice")
        return self

    def plus(self, added: Signature) -> "Signatures":
        """These and `added`, which replaces an older one of the same key."""
        kept = tuple(signature for signature in self.signatures if signature.key != added.key)
        return Signatures(signatures=(*kept, added))

    @classmethod
    def from_bytes(cls, text: bytes) -> Self:
        """Read signatures.json. Raises BundleError."""
        _check_length(text, MAX_SIGNATURES_BYTES, "signatures.json")
        return cls.parse(text, "signatures.json")


UNSIGNED: Final = Signatures()


def _checked_key(text: str) -> str:
    try:
        return PublicKey.from_text(text).text
    except KeyUnusable as error:
        raise ValueError(str(error)) from error


class KeyList(Canonical):
    """The keys that may vouch for heads, and how many of them it takes.

    `version` grows with every list; after `expires_at` (unix seconds, None for never) no head is accepted until a
    newer list comes.
    """

    format: Literal["collafuse-keys-v1"] = "collafuse-keys-v1"
    version: int = Field(ge=1, le=2**31)
    keys: Annotated[
        tuple[Annotated[str, AfterValidator(_checked_key)], ...],
        Field(strict=False, min_length=1, max_length=MAX_KEYS),
    ]
    threshold: int = Field(ge=1, le=MAX_KEYS)
    expires_at: int | None = Field(default=None, ge=0, le=2**53)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if len(set(self.keys)) != len(self.keys):
            raise ValueError("a key is listed twice")
        if self.threshold > len(self.keys):
            raise ValueError(f"{self.threshold} of {len(self.keys)} keys cannot sign")
        return self

    @property
    def public_keys(self) -> tuple[PublicKey, ...]:
        """The listed keys."""
        return tuple(PublicKey.from_text(text) for text in self.keys)


class SignedKeyList(Canonical):
    """A list and those who vouch for it."""

    content: KeyList
    signatures: Signatures = UNSIGNED

    def signed_by(self, key: PrivateKey) -> "SignedKeyList":
        """The same list with the signature of one more key."""
        signature = key.sign(KEYS_DOMAIN, self.content.to_bytes())
        return SignedKeyList(content=self.content, signatures=self.signatures.plus(signature))


class KeyHistory(Canonical):
    """Signed lists of growing version, oldest first: what a device that slept through some of them needs to follow."""

    lists: Annotated[tuple[SignedKeyList, ...], Field(strict=False, max_length=MAX_LISTS)] = ()

    @model_validator(mode="after")
    def _grows(self) -> Self:
        versions = [signed.content.version for signed in self.lists]
        if versions != sorted(set(versions)):
            raise ValueError("the versions of the key lists do not grow")
        return self

    @classmethod
    def from_bytes(cls, text: bytes) -> Self:
        """Read keys.json. Raises BundleError."""
        _check_length(text, MAX_KEYS_BYTES, "keys.json")
        return cls.parse(text, "keys.json")


NO_KEY_LIST: Final = KeyHistory()


@dataclass(frozen=True)
class Keyring:
    """The keys that a device trusts now.

    keys: whose signatures count;  threshold: how many it takes;  current: the list this comes from, None for the keys
    of the device's own settings.
    """

    keys: tuple[PublicKey, ...]
    threshold: int = 1
    current: KeyList | None = None

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> "Keyring":
        """The keys written into a device's settings, each of which may vouch alone. Raises KeyUnusable."""
        return cls(tuple(PublicKey.from_text(text) for text in texts))

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
        renewed = Keyring(content.public_keys, content.threshold, content)
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


def _check_length(text: bytes, limit: int, name: str) -> None:
    if len(text) > limit:
        raise BundleError(f"{name} has {len(text)} bytes, over {limit}")
