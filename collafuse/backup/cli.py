"""`collafuse backup`: copy what a federation's server keeps, while it runs, and bring it back."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker.command import Directory, Json, ManagementUrl, Status, Url, management
from broker.inspection.finding import number
from broker.settings import NODE_DIRECTORY, broker_settings
from monitoring import logs

if TYPE_CHECKING:
    from broker.management import Management
    from collafuse.backup.archive import Manifest
    from server_worker.copying import Copied

app = typer.Typer(
    help="Copy samples, versions, checkpoint, users and queues while they are in use, and bring them back.",
    no_args_is_help=True,
)

StorageUrl = Annotated[
    str, typer.Option("--storage", help="The directory or URL that the train worker writes to.")
]
WithoutStorage = Annotated[bool, typer.Option("--without-storage", help="The broker's definitions alone.")]
WithoutDefinitions = Annotated[
    bool, typer.Option("--without-definitions", help="The storage alone; needs no broker.")
]
Backup = Annotated[Path, typer.Argument(help="The backup's folder.")]


@app.command()
def create(
    out: Annotated[Path, typer.Argument(help="The folder that it becomes; must not exist yet.")],
    *,
    storage: StorageUrl = ".collafuse/server",
    without_storage: WithoutStorage = False,
    without_definitions: WithoutDefinitions = False,
    url: Url = None,
    management_url: ManagementUrl = None,
    directory: Directory = NODE_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Make a backup while workers and devices go on. What waits in queues is not in it.

    All that was stored when it began is in it. The folder holds the hashes of passwords, and is open to you alone.
    """
    from collafuse.backup.making import make
    from server_worker.storage import Storage

    logs.configure("backup", level="warning")
    source = None if without_storage else Storage(storage)
    with (
        _broker(url, management_url, directory, without=without_definitions) as broker,
        Status(f"copying to {out}") as status,
    ):
        manifest = make(out, source, broker, _counted(status))
    _tell({"backup": str(out), **_facts(manifest)}, f"{out} holds {_in_words(manifest)}", as_json=as_json)


@app.command()
def check(backup: Backup, *, as_json: Json = False) -> None:
    """Read a whole backup and compare every file with its digest; exit 1 when one differs."""
    from collafuse.backup import archive

    with Status(f"reading {backup}") as status:
        manifest = archive.check(backup, _counted(status))
    _tell(
        {"backup": str(backup), **_facts(manifest)},
        f"{backup} is whole: {_in_words(manifest)}",
        as_json=as_json,
    )


@app.command()
def restore(
    backup: Backup,
    *,
    storage: StorageUrl = ".collafuse/server",
    without_storage: WithoutStorage = False,
    without_definitions: WithoutDefinitions = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Overwrite: what is there is moved aside, and users get the backup's passwords. Stop the workers first.",
        ),
    ] = False,
    url: Url = None,
    management_url: ManagementUrl = None,
    directory: Directory = NODE_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Bring a backup back; nothing is changed unless all of it is whole and finds its place free.

    No worker may use the storage meanwhile. Devices go on with the credentials they have; the queues come back empty.
    """
    from collafuse.backup.restoring import restore as bring_back
    from server_worker.storage import Storage

    logs.configure("restore", level="warning")
    target = None if without_storage else Storage(storage)
    with (
        _broker(url, management_url, directory, without=without_definitions) as broker,
        Status(f"restoring {backup}"),
    ):
        done = bring_back(backup, target, broker, force=force)
    facts = {"users": done.users, "queues": done.queues, "files": done.files, "aside": done.aside}
    made = [number(done.files, "file"), number(done.users, "user"), number(done.queues, "queue")]
    text = f"{backup} is restored: {', '.join(made)}; queues come back empty"
    kept = "" if done.aside is None else f"; what was in {storage} before is in {storage}/{done.aside}"
    _tell({"backup": str(backup), **facts}, text + kept, as_json=as_json)


@contextmanager
def _broker(
    url: str | None, management_url: str | None, directory: Path, *, without: bool
) -> Iterator["tuple[Management, str] | None"]:
    if without:
        yield None
        return
    settings = broker_settings(url, directory)
    with management(settings, management_url, directory) as api:
        yield api, settings.vhost


def _counted(status: Status) -> "Callable[[Copied], None]":
    files = size_bytes = 0

    def count(copied: "Copied") -> None:
        nonlocal files, size_bytes
        files, size_bytes = files + 1, size_bytes + copied.size_bytes
        status.update_text(f"{files:,} files, {size_bytes / 1e6:,.0f} MB")

    return count


def _facts(manifest: "Manifest") -> dict[str, Any]:
    return {
        "began_at": manifest.began_at,
        "vhost": manifest.vhost,
        "storage": manifest.storage,
        "files": len(manifest.files),
        "bytes": manifest.size_bytes,
        "left_out": list(manifest.left_out),
    }


def _in_words(manifest: "Manifest") -> str:
    import datetime

    moment = datetime.datetime.fromtimestamp(manifest.began_at, datetime.UTC).strftime(
        "%Y-%m-%d %H:%M:%S UTC"
    )
    parts = [f"{number(len(manifest.files), 'file')}, {manifest.size_bytes / 1e6:,.1f} MB, as of {moment}"]
    parts += ["without the broker's definitions"] * (manifest.vhost is None)
    parts += ["without a storage"] * (manifest.storage is None)
    parts += [f"LEFT OUT, for it is damaged: {name}" for name in manifest.left_out]
    return "; ".join(parts)


def _tell(facts: dict[str, Any], text: str, *, as_json: bool) -> None:
    print(json.dumps(facts) if as_json else text)
