"""Adding a key's word to a bundle or to a list of keys, and asking whether the words suffice."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from export.bundle.bars import check_bars
from export.bundle.bundle import Bundle, read_bundle, write_bundle
from export.bundle.canonical import first_problem
from export.bundle.keyring import Keyring
from export.bundle.keys import BUNDLE_DOMAIN, KeyHistory, KeyList, PrivateKey, SignedKeyList
from export.bundle.policy import check_install
from export.errors import KeyUnusable
from export.signing.key_files import read_key_list, write_key_list

_ZIP = b"PK"


def sign_file(path: Path, key: PrivateKey, key_list: KeyHistory | None = None) -> None:
    """Add a signature to the bundle at `path`, or to the newest list of the key lists at `path`.

    key_list: replaces the lists within the bundle; None leaves them.

    Raises:
        BundleError, KeyUnusable: it is neither.
    """
    if not _is_bundle(path):
        history = read_key_list(path)
        if not history.lists:
            raise KeyUnusable(f"{path} holds no list to sign; make one with `collafuse export keys`")
        write_key_list(path, KeyHistory(lists=(*history.lists[:-1], history.lists[-1].signed_by(key))))
        return
    bundle = read_bundle(path)
    signatures = bundle.signatures.plus(key.sign(BUNDLE_DOMAIN, bundle.manifest_bytes))
    lists = bundle.key_list if key_list is None else key_list
    write_bundle(path, dataclasses.replace(bundle, signatures=signatures, key_list=lists))


def _is_bundle(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(2) == _ZIP
    except OSError as error:
        raise KeyUnusable(f"cannot sign {path}: {error.strerror}; give a bundle or a list of keys") from error


def next_list(
    history: KeyHistory,
    trusted: Sequence[str],
    threshold: int,
    expires_at: int | None,
    keys: Iterable[PrivateKey],
) -> KeyHistory:
    """`history` and one list more, of the public keys `trusted`, signed by `keys`.

    Raises:
        KeyUnusable: a key is none, is listed twice, or there are fewer than `threshold`.
    """
    version = history.lists[-1].content.version + 1 if history.lists else 1
    try:
        content = KeyList(version=version, keys=tuple(trusted), threshold=threshold, expires_at=expires_at)
        signed = SignedKeyList(content=content)
        for key in keys:
            signed = signed.signed_by(key)
        return KeyHistory(lists=(*history.lists, signed))
    except ValidationError as error:
        raise KeyUnusable(f"this list of keys cannot be made: {first_problem(error)}; change it") from error


def verify_bundle(bundle: Bundle, trusted: Iterable[str], known_time_unix: float) -> str:
    """All that can be asked of a bundle without running it: signatures, key lists, expiry, and today's bars.

    trusted: public keys from which the bundle's key lists are followed.

    Returns the id of the key that vouches for it.

    Raises:
        BundleRefused: with its reason.
        ParityFailed: its own figures are not good enough.
        KeyUnusable: a text of `trusted` is no key.
    """
    ring = Keyring.from_texts(trusted).follow(bundle.key_list)
    ring.check_fresh(known_time_unix)
    key_id = ring.verify(bundle.manifest_bytes, bundle.signatures)
    check_install(bundle.manifest, None, bundle.manifest.minimum_agent, known_time_unix)
    check_bars(bundle.manifest)
    return key_id
