"""`collafuse broker dead`: what was set aside, why, and back to where it came from."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from broker import codec
from broker.command import Directory, Json, Status, Url
from broker.dead.dead_letters import DeadLetters, Held, keep
from broker.dead.letters import KEY_CHARACTERS, Letter, Wanted, printable, why_skipped
from broker.errors import ConfigError, PublishFailed, Refused
from broker.settings import NODE_DIRECTORY, BrokerSettings, broker_settings

app = typer.Typer(help="What was refused or given up, and why.", no_args_is_help=True)

HEX_BYTES = 64
COLUMNS_WITH_IDS = 110
"""Of a terminal; in a narrower one the list has no message ids."""

Names = Annotated[list[str] | None, typer.Argument(help="Message ids, or keys from the list.")]
All = Annotated[bool, typer.Option("--all", help="Every letter that the filters leave.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Only those set aside for this reason.")]
Client = Annotated[str | None, typer.Option("--client", help="Only those of this client.")]
Device = Annotated[str | None, typer.Option("--device", help="Only those of a device of this name.")]
Queue = Annotated[str | None, typer.Option("--queue", help="Only those set aside from this queue.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="At most so many.")]


@app.command("list")
def list_(
    *,
    reason: Reason = None,
    client: Client = None,
    device: Device = None,
    queue: Queue = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Show at most so many.")] = 100,
    url: Url = None,
    directory: Directory = NODE_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Show what is in the dead-letter queue; everything stays there."""
    wanted = Wanted(None, reason, client, device, queue)
    with Status("looking through the dead letters"), _open(url, directory) as dead:
        total = dead.total
        found = [held.letter for held in _first(dead.letters(wanted), limit)]
    now = time.time()
    if as_json:
        print(json.dumps({"total": total, "letters": [_described(letter, now) for letter in found]}))
        return
    if found:
        _print_table(found, now)
    print(f"{_count(total)} in the queue, {len(found)} shown" if total else "there are no dead letters")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Message id, or key from the list.", metavar="MESSAGE_ID")],
    *,
    out: Annotated[Path | None, typer.Option("--out", help="Save the body to this file.")] = None,
    url: Url = None,
    directory: Directory = NODE_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Show all about a letter but the values in it; it stays where it is."""
    described: list[dict[str, Any]] = []
    with Status("looking through the dead letters"), _open(url, directory) as dead:
        for held in dead.letters(Wanted(frozenset({name}))):
            if out is not None:
                _save(held, out, first=not described)
            described.append(_described(held.letter, time.time()) | _inside(held))
    if not described:
        raise ConfigError(f"there is no dead letter {printable(name)!r}: `collafuse broker dead list`")
    if as_json:
        print(json.dumps({"letters": described}))
        return
    for one in described:
        for key, value in one.items():
            print(f"{key}: {json.dumps(value) if isinstance(value, dict) else printable(str(value), 4000)}")
        print()
    if out is not None:
        print(f"the body is in {out}")


@app.command()
def replay(
    names: Names = None,
    *,
    every: All = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --all: those too that will hardly fare better this time.")
    ] = False,
    reason: Reason = None,
    client: Client = None,
    device: Device = None,
    queue: Queue = None,
    limit: Limit = None,
    url: Url = None,
    directory: Directory = NODE_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Put letters back into the queue they were set aside from, under their sender's name."""
    wanted = _wanted(names, every, Wanted(None, reason, client, device, queue))
    replayed: list[str] = []
    left: dict[str, str] = {}
    failure: PublishFailed | None = None
    with Status("putting letters back") as status, _open(url, directory) as dead:
        for held in dead.letters(wanted):
            why = held.letter.obstacle
            if why is None and every and not force:
                why = why_skipped(held.letter, held.body, time.time())
            if why is not None:
                left[held.letter.key] = why
                continue
            try:
                dead.replay(held)
            except PublishFailed as error:
                failure = error
                break
            replayed.append(held.letter.key)
            status.update_text(f"{len(replayed)} put back")
            if len(replayed) == limit:
                break
    if as_json:
        print(json.dumps({"replayed": replayed, "left": left}))
    else:
        print(f"{_count(len(replayed))} put back, {len(left)} left")
        _print_reasons(left)
    if failure is not None:
        raise failure
    _check_found(names, len(replayed) + len(left))


@app.command()
def drop(
    names: Names = None,
    *,
    every: All = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Directory that keeps each body and what is known of it.")
    ] = None,
    reason: Reason = None,
    client: Client = None,
    device: Device = None,
    queue: Queue = None,
    limit: Limit = None,
    url: Url = None,
    directory: Directory = NODE_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Delete letters for good, after asking."""
    wanted = _wanted(names, every, Wanted(None, reason, client, device, queue))
    with Status("looking through the dead letters"), _open(url, directory) as dead:
        meant = [held.letter for held in _first(dead.letters(wanted), limit)]
    _check_found(names, len(meant))
    if meant and not yes:
        if not as_json:
            _print_table(meant[:20], time.time())
        typer.confirm(f"delete {_count(len(meant))} for good?", abort=True, err=True)
    dropped = []
    # Looked for again by their keys: what came in while somebody thought about the answer was not asked about.
    with Status("deleting letters"), _open(url, directory) as dead:
        for held in dead.letters(Wanted(frozenset(letter.key for letter in meant))) if meant else ():
            if out is not None:
                keep(held, out)
            dead.drop(held)
            dropped.append(held.letter)
    if as_json:
        print(json.dumps({"dropped": [letter.key for letter in dropped]}))
        return
    print(f"{_count(len(dropped))} deleted" + (f", kept in {out}" if out is not None and dropped else ""))
    _print_reasons({letter.key: letter.reason for letter in dropped})


def _open(url: str | None, directory: Path) -> DeadLetters:
    settings: BrokerSettings = broker_settings(url, directory)
    return DeadLetters(settings)


def _wanted(names: list[str] | None, every: bool, filters: Wanted) -> Wanted:
    if bool(names) == every:
        raise ConfigError("name the letters by message id or key, or take them all with --all and filters")
    return Wanted(
        frozenset(names) if names else None, filters.reason, filters.client, filters.device, filters.queue
    )


def _first(letters: Iterator[Held], limit: int | None) -> Iterator[Held]:
    for number, held in enumerate(letters, start=1):
        yield held
        if number == limit:
            return


def _check_found(names: list[str] | None, found: int) -> None:
    if names and not found:
        raise ConfigError(
            f"none of {', '.join(printable(name) for name in names)} is a dead letter: `collafuse broker dead list`"
        )


def _save(held: Held, out: Path, *, first: bool) -> None:
    if not first:
        raise ConfigError(
            "several letters have this message id: name one by its key, `collafuse broker dead list`"
        )
    try:
        out.write_bytes(held.body)
    except OSError as error:
        raise ConfigError(f"cannot write the body to {out}: {error.strerror}") from error


def _described(letter: Letter, now: float) -> dict[str, Any]:
    age_seconds = letter.age_seconds(now)
    known = asdict(letter) | {"set_aside_by": "the broker" if letter.by_broker else "a consumer"}
    del known["by_broker"]
    return known | {
        "age_seconds": None if age_seconds is None else round(age_seconds, 1),
        "replayable": letter.obstacle is None,
    }


def _inside(held: Held) -> dict[str, Any]:
    """The headers as they stand, believed or not, and the shape of what is in the body, or how it begins."""
    headers = {str(key): printable(str(value), 500) for key, value in (held.properties.headers or {}).items()}
    try:
        content = {"message": repr(codec.decode(held.letter.type, held.body))}
    except Refused as refusal:
        content = {"undecodable": str(refusal), "begins": held.body[:HEX_BYTES].hex(" ")}
    return {"user_id": printable(str(held.properties.user_id)), "headers": headers, **content}


def _table(letters: list[Letter], now: float, *, with_ids: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("key", no_wrap=True, min_width=KEY_CHARACTERS)
    # Reason and sender are what is looked for; ids, which `show` and `--json` tell, come where there is room.
    if with_ids:
        table.add_column("message id", overflow="ellipsis")
    for heading in ("type", "reason", "from queue"):
        table.add_column(heading, no_wrap=True)
    table.add_column("sender", overflow="fold")
    table.add_column("age", justify="right", no_wrap=True)
    table.add_column("bytes", justify="right", no_wrap=True)
    for letter in sorted(letters, key=lambda letter: letter.set_aside_at or 0.0):
        ids = [letter.message_id] if with_ids else []
        words = (letter.type, letter.reason, letter.origin or "-", letter.sender or "-")
        cells = [letter.key, *ids, *words, _age(letter.age_seconds(now)), f"{letter.size_bytes:,}"]
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _print_table(letters: list[Letter], now: float) -> None:
    console = Console()
    console.print(_table(letters, now, with_ids=console.width >= COLUMNS_WITH_IDS))


def _print_reasons(reasons: dict[str, str]) -> None:
    for reason in sorted(set(reasons.values())):
        keys = [key for key, value in reasons.items() if value == reason]
        more = f" and {len(keys) - 10} more" if len(keys) > 10 else ""
        print(f"  {printable(reason)}: {', '.join(keys[:10])}{more}")


def _count(letters: int) -> str:
    return "1 letter" if letters == 1 else f"{letters} letters"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
