import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from export.bundle.bundle import read_bundle, write_bundle
from export.cli import app
from export.errors import BundleError, KeyUnusable, SignatureRefused
from export.signing.key_files import read_private_key
from tests.export.bundle.small_bundle import small_bundle

runner = CliRunner()


def run(*words: object, secret: str = "") -> Result:
    return runner.invoke(app, [str(word) for word in words], env={"COLLAFUSE_EXPORT_PASSPHRASE": secret})


def made_key(path: Path, *words: object) -> str:
    made = run("keygen", path, *words)
    assert made.exit_code == 0, made.output
    return made.stdout.strip()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle signed by nobody whom these tests know."""
    write_bundle(tmp_path / "head.bundle", small_bundle())
    return tmp_path / "head.bundle"


def test_a_new_key_is_its_owners_alone_and_is_never_overwritten(tmp_path: Path) -> None:
    public = made_key(tmp_path / "key.pem")

    assert public.startswith("ed25519:")
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    before = (tmp_path / "key.pem").read_bytes()
    again = run("keygen", tmp_path / "key.pem")
    assert isinstance(again.exception, KeyUnusable)
    assert (tmp_path / "key.pem").read_bytes() == before


def test_an_encrypted_key_needs_its_passphrase(tmp_path: Path) -> None:
    made = run("keygen", tmp_path / "key.pem", "--encrypt", secret="open sesame")
    path = tmp_path / "key.pem"

    assert b"ENCRYPTED" in path.read_bytes()
    assert read_private_key(path, "open sesame").public.text == made.stdout.strip()
    with pytest.raises(KeyUnusable, match="needs its passphrase"):
        read_private_key(path, None)
    with pytest.raises(KeyUnusable, match="passphrase is wrong"):
        read_private_key(path, "open")


@pytest.mark.parametrize(
    "content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_what_is_no_private_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key.pem").write_bytes(content)

    with pytest.raises(KeyUnusable, match=r"key\.pem"):
        read_private_key(tmp_path / "key.pem", None)


def test_a_signed_bundle_verifies_and_an_unsigned_or_strange_one_does_not(
    tmp_path: Path, bundle: Path
) -> None:
    public = made_key(tmp_path / "key.pem")
    stranger = made_key(tmp_path / "stranger.pem")

    assert isinstance(run("verify", bundle, "--keys", public).exception, SignatureRefused)
    assert run("sign", bundle, "--key", tmp_path / "key.pem").exit_code == 0
    good = run("verify", bundle, "--keys", public)
    assert good.exit_code == 0, good.output
    assert "head ward 1.0-spring (counter 3) of ward" in good.stdout.replace("\n", " ")
    assert isinstance(run("verify", bundle, "--keys", stranger).exception, SignatureRefused)
    bundle.write_bytes(bundle.read_bytes()[:-1])
    assert isinstance(run("verify", bundle, "--keys", public).exception, BundleError)


def test_a_directory_is_nothing_to_sign(tmp_path: Path) -> None:
    made_key(tmp_path / "key.pem")

    refused = run("sign", tmp_path, "--key", tmp_path / "key.pem").exception

    assert isinstance(refused, KeyUnusable)
    assert "cannot sign" in str(refused)


def test_keys_are_changed_by_lists_that_travel_in_the_bundle(tmp_path: Path, bundle: Path) -> None:
    lists = tmp_path / "keys.json"
    first = made_key(tmp_path / "first.pem", "--list", lists)
    second = made_key(tmp_path / "second.pem")
    third = made_key(tmp_path / "third.pem")
    words = ["keys", lists, "--trust", second, "--trust", third, "--threshold", 2]

    changed = run(*words, "--key", tmp_path / "first.pem", "--key", tmp_path / "second.pem")
    # The third key lives elsewhere, and signs what it is sent.
    signed = run("sign", lists, "--key", tmp_path / "third.pem")

    assert "list 2, 2 keys, 2 must sign, 2 have signed it" in changed.output
    assert f"note: {third} has not signed it" in changed.output
    assert f"note: {second}" not in changed.output
    assert signed.exit_code == 0
    run("sign", bundle, "--key", tmp_path / "second.pem", "--keys", lists)
    assert "1 of the 2 signatures" in str(run("verify", bundle, "--keys", first).exception)
    run("sign", bundle, "--key", tmp_path / "third.pem")
    assert run("verify", bundle, "--keys", first).exit_code == 0


def test_a_list_that_the_old_key_did_not_sign_convinces_nobody(tmp_path: Path, bundle: Path) -> None:
    lists = tmp_path / "keys.json"
    first = made_key(tmp_path / "first.pem", "--list", lists)
    second = made_key(tmp_path / "second.pem")
    run("keys", lists, "--trust", second, "--key", tmp_path / "second.pem")
    run("sign", bundle, "--key", tmp_path / "second.pem", "--keys", lists)

    refused = run("verify", bundle, "--keys", first).exception

    assert isinstance(refused, SignatureRefused)
    assert refused.reason == "keys_unsigned"


def test_lists_that_cannot_be_are_refused(tmp_path: Path) -> None:
    public = made_key(tmp_path / "key.pem")

    assert isinstance(run("keys", tmp_path / "k", "--trust", public, "--threshold", 2).exception, KeyUnusable)
    assert isinstance(run("keys", tmp_path / "k", "--trust", "ed25519:no").exception, KeyUnusable)
    assert not (tmp_path / "k").exists()


def test_a_head_is_exported_signed_and_described(checkpoint_path: Path, tmp_path: Path) -> None:
    lists, out = tmp_path / "keys.json", tmp_path / "head.bundle"
    public = made_key(tmp_path / "key.pem", "--list", lists)

    words = ["--version", "spring", "--counter", 7, "--expires-in-days", 30, "--precision", "fp16"]
    made = run("head", checkpoint_path, "--out", out, *words, "--key", tmp_path / "key.pem", "--keys", lists)
    shown = run("inspect", out)

    assert made.exit_code == 0, made.output
    manifest = read_bundle(out).manifest
    assert (manifest.version, manifest.counter, manifest.network.precision) == ("spring", 7, "fp16")
    assert manifest.expires_at == manifest.issued_at + 30 * 86_400
    assert run("verify", out, "--keys", public).exit_code == 0
    assert "images of 4 steps" in shown.output
    assert json.loads(run("inspect", out, "--json").stdout)["counter"] == 7
