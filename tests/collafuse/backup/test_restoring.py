"""What a restore does with backups made by hand: judged before anything is touched, and nobody let in too early."""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.management import Management
from broker.node.local_node import NodeInfo
from broker.settings import BrokerSettings
from collafuse.backup import archive
from collafuse.backup.archive import Manifest
from collafuse.backup.errors import BackupDamaged, BackupRefused, HalfRestored
from collafuse.backup.making import make
from collafuse.backup.restoring import restore
from server_worker.copying import Copied
from server_worker.errors import Damaged, StorageUnusable
from server_worker.samples.store import SampleStore
from server_worker.storage import Storage
from tests.collafuse.backup.test_backup import flip
from tests.server_worker.backbones import sample_batch


@pytest.mark.parametrize("where", ["segments/backup", "backup", "a link"])
def test_a_backup_into_the_storage_itself_is_refused(tmp_path: Path, where: str) -> None:
    SampleStore(Storage(tmp_path / "server")).add(sample_batch(1), 64 * "a", "clinic", "d")
    (tmp_path / "a link").symlink_to(tmp_path / "server")
    out = tmp_path / "a link" / "backup" if where == "a link" else tmp_path / "server" / where
    before = sorted((tmp_path / "server").rglob("*"))

    with pytest.raises(BackupRefused, match=r"lies in the storage .*: a backup's place is outside of it$"):
        make(out, Storage(tmp_path / "server"), None)

    assert sorted((tmp_path / "server").rglob("*")) == before


def written(backup: Path, manifest: Manifest, definitions: bytes = b"", round_: bytes | None = None) -> Path:
    """A backup that somebody made by hand, with the digest that its list has to have."""
    (backup / "storage").mkdir(parents=True)
    listed = []
    for path, data in {"definitions.json": definitions, "storage/round.json": round_}.items():
        if data is not None:
            (backup / path).write_bytes(data)
            listed.append(Copied(path, len(data), hashlib.sha256(data).hexdigest()))
    files = tuple(listed) if manifest.vhost else manifest.files
    (backup / "backup.json").write_bytes(replace(manifest, files=files).to_bytes())
    return backup


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "storage/../../secret",
        "storage/../definitions.json",
        "/etc/hostname",
        "storage//etc/hostname",
        "storage/",
    ],
)
def test_a_backup_that_names_a_file_outside_itself_is_refused(tmp_path: Path, path: str) -> None:
    listed = Copied(path, 1, 64 * "0")
    backup = written(tmp_path / "backup", Manifest(0.0, None, "s", (listed,)))

    with pytest.raises(BackupDamaged, match="not in it"):
        archive.check(backup)


@pytest.mark.parametrize(
    ("field", "value"),
    [("began_at", 1e300), ("began_at", "then"), ("files", [{"path": 5}]), ("files", 5), ("left_out", None)],
)
def test_a_list_of_files_that_is_none_is_one_line(tmp_path: Path, field: str, value: object) -> None:
    listed: dict[str, Any] = {field: value}
    backup = written(tmp_path / "backup", replace(Manifest(0.0, None, "s", ()), **listed))

    with pytest.raises(BackupDamaged, match=rf"does not say .* \({field}[^\n]*$"):
        archive.check(backup)


@pytest.mark.parametrize("what", ["a link", "a pipe", "a longer file"])
def test_what_stands_in_the_place_of_a_file_is_not_read(tmp_path: Path, what: str) -> None:
    backup = written(tmp_path / "backup", Manifest(0.0, "v", None, ()), b"{}")
    listed = backup / "definitions.json"
    archive.check(backup)
    if what == "a longer file":
        listed.write_bytes(b"{}" + bytes(10))
    elif what == "a link":
        listed.rename(tmp_path / "elsewhere")
        listed.symlink_to(tmp_path / "elsewhere")
    else:
        listed.unlink()
        os.mkfifo(listed)

    with pytest.raises(BackupDamaged, match=r"definitions\.json is damaged: its size or digest"):
        archive.check(backup)


@pytest.mark.parametrize(
    "definitions", [b"[]", b"{}", b'{"vhosts": [{"name": "v"}]}', 10_000 * b"[", b"\xff"]
)
def test_definitions_that_are_none_are_refused_before_anything_is_changed(
    tmp_path: Path, definitions: bytes
) -> None:
    backup = written(tmp_path / "backup", Manifest(0.0, "v", None, ()), definitions)

    with (
        Management("http://127.0.0.1:1", "nobody", "is-asked") as management,
        pytest.raises(BackupDamaged, match=r"definitions\.json cannot be read"),
    ):
        restore(backup, None, (management, "v"), force=True)


def test_a_backup_that_somebody_changed_gives_nobody_power_over_the_broker(
    tmp_path: Path, node: NodeInfo
) -> None:
    vhost = BrokerSettings.from_url(node.amqp_url).vhost
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    definitions = {
        "vhosts": [{"name": vhost}, {"name": "intruded"}],
        "users": [
            {
                "name": name,
                "password_hash": "",
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": tags,
            }
            for name, tags in (("intruder", ["administrator"]), ("restored", []))
        ],
        "permissions": [{"user": name, "vhost": vhost, **everything} for name in ("intruder", "restored")],
    }
    backup = written(tmp_path / "backup", Manifest(0.0, vhost, None, ()), json.dumps(definitions).encode())

    with Management(node.management_url, node.user, node.password) as management:
        done = restore(backup, None, (management, vhost), force=False)
        users = {each["name"] for each in management.users_in_full()}
        vhosts = {each["name"] for each in management.definitions()["vhosts"]}

    assert done.users == 1
    assert "restored" in users
    assert "intruder" not in users
    assert "intruded" not in vhosts


def federation_of(vhost: str, user: str, *, read: str = ".*") -> bytes:
    """The definitions of a federation with one user and one queue."""
    rights = {"user": user, "vhost": vhost, "configure": "^$", "write": ".*", "read": read}
    topics = {"user": user, "vhost": vhost, "exchange": "amq.topic", "write": f"^{user}$", "read": ".*"}
    definitions: dict[str, Any] = {
        "vhosts": [{"name": vhost}],
        "users": [{
            "name": user, "password_hash": "", "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": [],
        }],
        "permissions": [rights],
        "topic_permissions": [topics],
        "queues": [{"name": f"of-{user}", "vhost": vhost, "durable": True, "auto_delete": False, "arguments": {}}],
    }  # fmt: skip
    return json.dumps(definitions).encode()


@pytest.mark.parametrize("changed", ["definitions.json", "storage/round.json"])
def test_what_changes_while_it_is_restored_lets_nobody_in(
    tmp_path: Path, node: NodeInfo, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    definitions = federation_of(node.vhost, "never-there")
    backup = written(tmp_path / "backup", Manifest(0.0, node.vhost, "s", ()), definitions, b'{"round": 1}')
    judged = archive.check

    def judge_and_change(path: Path) -> Manifest:
        manifest = judged(path)
        flip(path / changed)
        return manifest

    monkeypatch.setattr(archive, "check", judge_and_change)
    with (
        Management(node.management_url, node.user, node.password) as management,
        pytest.raises((BackupDamaged, Damaged), match=changed.removeprefix("storage/")),
    ):
        restore(backup, Storage(tmp_path / "server"), (management, node.vhost), force=False)

    with Management(node.management_url, node.user, node.password) as management:
        assert "never-there" not in {each["name"] for each in management.users_in_full()}
    assert not list(Storage(tmp_path / "server").files(""))


def test_a_half_restore_has_its_storage_lets_nobody_in_and_may_be_made_again(
    tmp_path: Path, node: NodeInfo
) -> None:
    refused = federation_of(
        node.vhost, "half", read="["
    )  # no regular expression: the broker takes all but this
    backup = written(tmp_path / "refused", Manifest(0.0, node.vhost, "s", ()), refused, b'{"round": 1}')
    whole = federation_of(node.vhost, "half")
    mended = written(tmp_path / "mended", Manifest(0.0, node.vhost, "s", ()), whole, b'{"round": 1}')
    storage = Storage(tmp_path / "server")

    with Management(node.management_url, node.user, node.password) as management:
        with pytest.raises(HalfRestored, match=r"server is restored.*again with --without-storage$"):
            restore(backup, storage, (management, node.vhost), force=False)
        half = management.definitions()
        done = restore(mended, None, (management, node.vhost), force=False)
        now = management.definitions()

    def users_with(kind: str, definitions: dict[str, Any]) -> set[str]:
        return {each["user"] for each in definitions[kind]}

    assert storage.read("round.json") == b'{"round": 1}'
    assert "half" in users_with("topic_permissions", half), (
        "what bounds a user is there before the user may come in"
    )
    assert "half" not in users_with("permissions", half)
    assert "half" in users_with("permissions", now)
    assert done.users == 1


def test_who_has_another_password_by_now_is_counted_and_named(tmp_path: Path, node: NodeInfo) -> None:
    definitions = federation_of(node.vhost, "renewed")
    hashed = definitions.replace(b'"password_hash": ""', b'"password_hash": "' + 48 * b"A" + b'"')
    backup = written(tmp_path / "backup", Manifest(0.0, node.vhost, None, ()), definitions)
    other = written(tmp_path / "other", Manifest(0.0, node.vhost, None, ()), hashed)

    with Management(node.management_url, node.user, node.password) as management:
        restore(backup, None, (management, node.vhost), force=False)
        words = (
            r"^the broker has other passwords for 1 user, such as renewed: give --force .* of the backup, or "
        )
        with pytest.raises(BackupRefused, match=words):
            restore(other, None, (management, node.vhost), force=False)
        restore(other, None, (management, node.vhost), force=True)
        passwords = {each["name"]: each["password_hash"] for each in management.users_in_full()}

    assert passwords["renewed"] == 48 * "A"


def test_a_file_where_the_storage_would_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "server").touch()
    backup = written(tmp_path / "backup", Manifest(0.0, None, "s", ()))

    with pytest.raises(StorageUnusable, match="server cannot be used: Not a directory"):
        restore(backup, Storage(tmp_path / "server"), None, force=True)
