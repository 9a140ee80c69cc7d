"""Keys and key lists on their owner's disk."""

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from broker.contract.heads import MAX_KEY_LIST_BYTES
from export.bundle.keys import NO_KEY_LIST, KeyHistory, PrivateKey
from export.errors import BundleError, KeyUnusable
from export.files import replace_file

_MAX_PEM_BYTES = 16 * 2**10


def write_private_key(path: Path, key: PrivateKey, passphrase: str | None) -> None:
    """Write a new PKCS#8 PEM file that only its owner may read; an existing file is never replaced.

    Raises:
        KeyUnusable: the file exists, or cannot be written.
    """
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase:
        encryption = BestAvailableEncryption(passphrase.encode())
    pem = key.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise KeyUnusable(f"{path} exists; a key is never overwritten, choose another name") from error
    except OSError as error:
        raise KeyUnusable(f"cannot write {path}: {error.strerror}; choose a writable place") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())


def read_private_key(path: Path, passphrase: str | None) -> PrivateKey:
    """Read what `write_private_key` wrote.

    Raises:
        KeyUnusable: unreadable, not an ed25519 key, or the passphrase is missing or wrong.
    """
    try:
        with path.open("rb") as file:
            pem = file.read(_MAX_PEM_BYTES)
    except OSError as error:
        raise KeyUnusable(
            f"cannot read the key {path}: {error.strerror}; make one with `collafuse export keygen`"
        ) from error
    try:
        key = load_pem_private_key(pem, passphrase.encode() if passphrase and b"ENCRYPTED" in pem else None)
    except TypeError as error:
        raise KeyUnusable(f"{path} needs its passphrase; set COLLAFUSE_EXPORT_PASSPHRASE") from error
    except ValueError as error:
        raise KeyUnusable(f"{path} is no key, or its passphrase is wrong; check both") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyUnusable(f"{path} is not an ed25519 key; make one with `collafuse export keygen`")
    return PrivateKey(key)


def read_key_list(path: Path) -> KeyHistory:
    """The signed key lists in the file `path`. Raises KeyUnusable."""
    try:
        with path.open("rb") as file:
            return KeyHistory.from_bytes(file.read(MAX_KEY_LIST_BYTES + 1))
    except (OSError, BundleError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise KeyUnusable(
            f"cannot read the key list {path}: {reason}; make one with `collafuse export keys`"
        ) from error


def read_key_list_if_any(path: Path) -> KeyHistory:
    """As `read_key_list`; no lists where there is no file."""
    return read_key_list(path) if path.exists() else NO_KEY_LIST


def write_key_list(path: Path, history: KeyHistory) -> None:
    """Write the lists to `path`, whole or not at all. Raises KeyUnusable."""
    try:
        replace_file(path, history.to_bytes())
    except OSError as error:
        raise KeyUnusable(f"cannot write {path}: {error.strerror}; choose a writable place") from error
