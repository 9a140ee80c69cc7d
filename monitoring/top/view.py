"""A snapshot on the screen, and as one JSON object."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from broker.topology import QUEUE_DEAD
from monitoring.top import units
from monitoring.top.snapshot import FleetState, QueueState, Snapshot, WorkerState

_OLD_SECONDS = 120.0


def rendered(snapshot: Snapshot) -> RenderableType:
    """Everything, from what is most urgent to what is least."""
    at = datetime.fromtimestamp(snapshot.at, UTC)
    parts: list[RenderableType] = [
        Text(f"{at:%H:%M:%S} UTC  {snapshot.broker or 'no broker was asked'}", "bold")
    ]
    parts += [Text(f"! {_plain(problem)}", "bold red") for problem in snapshot.problems]
    for table in (
        _queues(snapshot),
        _workers(snapshot),
        None if snapshot.fleet is None else _fleet(snapshot.fleet),
    ):
        if table is not None:
            parts += [Text(), table]
    return Group(*parts)


def as_object(snapshot: Snapshot) -> dict[str, Any]:
    """The same for programs; what is not known, and a queue that does not shrink, is null."""
    return {
        "time": snapshot.at,
        "broker": snapshot.broker,
        "problems": list(snapshot.problems),
        "queues": [
            asdict(queue) | {"drain_seconds": _finite(queue.drain_seconds)} for queue in snapshot.queues
        ],
        "workers": [asdict(worker) for worker in snapshot.workers],
        "fleet": None if snapshot.fleet is None else _fleet_object(snapshot.fleet),
    }


def _fleet_object(fleet: FleetState) -> dict[str, Any]:
    fullest = None
    if fleet.fullest is not None:
        user, messages = fleet.fullest
        fullest = {"user": user or None, "messages": messages}
    return asdict(fleet) | {"fullest": fullest}


def _queues(snapshot: Snapshot) -> Table | None:
    if not snapshot.queues:
        return None
    table = _table(
        "queue",
        ready="right",
        unacked="right",
        in_="right",
        out="right",
        oldest="right",
        empty_in="right",
        read_by="right",
    )
    for queue in snapshot.queues:
        table.add_row(
            Text(queue.name),
            Text(f"{queue.ready:,}", _alarming(queue.name == QUEUE_DEAD and queue.ready > 0)),
            Text(f"{queue.unacked:,}"),
            Text(_rate(queue.in_per_second)),
            Text(_rate(queue.out_per_second)),
            Text(units.seconds(queue.oldest_seconds), _alarming((queue.oldest_seconds or 0) >= _OLD_SECONDS)),
            Text(units.seconds(queue.drain_seconds)),
            Text(f"{queue.consumers:,}", _alarming(_unread(queue))),
        )
    return table


def _workers(snapshot: Snapshot) -> Table | None:
    if not snapshot.workers:
        return None
    table = _table("worker", at="left", reads="left", tells="left")
    for worker in snapshot.workers:
        table.add_row(
            Text(_plain(worker.name)),
            Text(_plain(worker.where)),
            Text(", ".join(worker.queues)),
            _told(worker),
        )
    return table


def _fleet(fleet: FleetState) -> Table:
    table = _table("fleet", figure="left")
    table.add_row(Text("devices"), Text(f"{fleet.connected:,} of {fleet.inboxes:,} connected"))
    table.add_row(Text("in their inboxes"), Text(f"{fleet.waiting:,} messages"))
    if fleet.fullest is not None and fleet.fullest[1]:
        user, messages = fleet.fullest
        table.add_row(Text("the fullest"), Text(f"{messages:,} messages {_plain(user)}".rstrip()))
    for name, value in fleet.told.items():
        table.add_row(Text(_plain(name)), Text(value))
    return table


def _table(first: str, **columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(first, no_wrap=True, min_width=16)
    for name, justify in columns.items():
        table.add_column(
            name.rstrip("_").replace("_", " "), justify="right" if justify == "right" else "left"
        )
    return table


def _told(worker: WorkerState) -> Text:
    text = Text(_plain(worker.problem or ""), "red")
    for name, value in _known(worker.told).items():
        text.append(", " if text.plain else "", "default")
        text.append(f"{name} {_plain(value)}", "default")
    return text


def _known(told: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in told.items() if value != units.UNKNOWN}


def _rate(per_second: float | None) -> str:
    return units.UNKNOWN if per_second is None else f"{units.number(per_second)}/s"


def _unread(queue: QueueState) -> bool:
    return queue.consumers == 0 and queue.ready > 0 and queue.name != QUEUE_DEAD


def _alarming(is_so: bool) -> str:
    return "bold red" if is_so else "default"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _plain(text: str) -> str:
    """Without what would move a terminal's cursor: names come from others."""
    return "".join(character if character.isprintable() else "·" for character in text)
