"""The part of `collafuse export` that makes keys, signs with them, and asks whether the signatures suffice."""

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from export.errors import ExportError

PASSPHRASE_VARIABLE = "COLLAFUSE_EXPORT_PASSPHRASE"  # noqa: S105 - the name, not the word
_DAY_SECONDS = 86_400

Key = Annotated[Path, typer.Option("--key", "-k", help="Private key made by keygen.")]


def passphrase() -> str | None:
    """Of private keys: from the environment, so that it stands in no command line."""
    return os.environ.get(PASSPHRASE_VARIABLE) or None


def keygen(
    file: Annotated[Path, typer.Argument(help="The private key to write.")],
    *,
    encrypt: Annotated[
        bool, typer.Option("--encrypt", help=f"Ask for a passphrase, or take {PASSPHRASE_VARIABLE}.")
    ] = False,
    key_list: Annotated[
        Path | None, typer.Option("--list", help="Also begin a list of keys in this file.")
    ] = None,
) -> None:
    """Make a key pair, and print the public half for the devices' head_keys."""
    from export.bundle.keys import NO_KEY_LIST, PrivateKey
    from export.signing.key_files import write_key_list, write_private_key
    from export.signing.signing import next_list

    secret = passphrase()
    if encrypt and secret is None:
        secret = typer.prompt("passphrase", hide_input=True, confirmation_prompt=True, err=True)
    if key_list is not None and key_list.exists():
        raise ExportError(f"{key_list} exists; add a list to it with `collafuse export keys`")
    key = PrivateKey.generate()
    write_private_key(file, key, secret)
    if key_list is not None:
        write_key_list(key_list, next_list(NO_KEY_LIST, (key.public.text,), 1, None, (key,)))
    print(key.public.text)


def keys(
    file: Annotated[
        Path, typer.Argument(help="The signed lists; a list is added, the file made if need be.")
    ],
    *,
    trust: Annotated[list[str], typer.Option("--trust", help="A public key of the new list (ed25519:...).")],
    sign_with: Annotated[
        list[Path] | None, typer.Option("--key", "-k", help="Private keys that sign it: old and new ones.")
    ] = None,
    threshold: Annotated[int, typer.Option(min=1, help="How many of the keys must sign a head.")] = 1,
    expires_in_days: Annotated[
        float | None, typer.Option(min=0, help="After so long no head is taken under this list.")
    ] = None,
) -> None:
    """Change the keys that may vouch for heads: add the next signed list, which travels in every bundle."""
    from export.signing.key_files import read_key_list_if_any, read_private_key, write_key_list
    from export.signing.signing import next_list

    signers = [read_private_key(path, passphrase()) for path in sign_with or []]
    expires_at = None if expires_in_days is None else round(time.time() + expires_in_days * _DAY_SECONDS)
    history = next_list(read_key_list_if_any(file), trust, threshold, expires_at, signers)
    write_key_list(file, history)
    newest = history.lists[-1]
    print(
        f"{file}: list {newest.content.version}, {len(trust)} keys, {threshold} must sign, "
        f"{len(newest.signatures.signatures)} have signed it"
    )
    signed_by = {signature.key for signature in newest.signatures.signatures}
    for key in newest.content.public_keys:
        if key.key_id not in signed_by:
            print(
                f"note: {key.text} has not signed it: devices enrolled with this key alone take no head until it has; "
                f"add its signature with `collafuse export sign {file} --key ...`",
                file=sys.stderr,
            )


def sign(
    file: Annotated[Path, typer.Argument(help="A bundle, or the signed lists of keys.")],
    *,
    key: Key,
    key_list: Annotated[
        Path | None, typer.Option("--keys", help="Lists of keys to put into the bundle.")
    ] = None,
) -> None:
    """Add a key's signature to a bundle, or to the newest list of keys."""
    from export.signing.key_files import read_key_list, read_private_key
    from export.signing.signing import sign_file

    if not file.exists():
        raise ExportError(f"{file} does not exist; give a bundle or a list of keys")
    private = read_private_key(key, passphrase())
    sign_file(file, private, read_key_list(key_list) if key_list else None)
    print(f"{file}: signed by key {private.public.key_id}")


def verify(
    bundle: Annotated[Path, typer.Argument(help="The bundle to verify.")],
    *,
    trusted: Annotated[
        list[str], typer.Option("--keys", help="Public keys a device would start from (ed25519:...).")
    ],
) -> None:
    """Ask what a device would ask: digests, signatures, key lists, expiry and the figures of the gates."""
    from export.bundle.bundle import read_bundle
    from export.signing.signing import verify_bundle

    found = read_bundle(bundle)
    key_id = verify_bundle(found, trusted, time.time())
    manifest = found.manifest
    print(
        f"{bundle}: good; head {manifest.name} {manifest.version} (counter {manifest.counter}) of {manifest.client}, "
        f"signed by key {key_id}"
    )
