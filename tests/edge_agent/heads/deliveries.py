"""Heads sent to a real agent over the real broker, and what became of them as its spool has it."""

import hashlib
from pathlib import Path
from typing import Any

from broker.settings import BrokerSettings
from broker.topology import device_key
from edge_agent.heads import store
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from export.bundle.bundle import read_bundle
from export.delivery.parcel import wrap
from export.delivery.post import opened
from tests.edge_agent.agents import edge_json


def send(owner: BrokerSettings, user: str, path: Path, chunk_bytes: int = 64 * 1024) -> str:
    parcel = wrap(path.read_bytes(), read_bundle(path), chunk_bytes)
    with opened(owner, "ward", with_reports=False) as post:
        post.send(parcel, device_key(user))
    return parcel.announcement.bundle


def states(state: StateDirectory) -> dict[str, str]:
    with Spool(state.spool) as spool:
        return {row.bundle: row.state for row in store.all_of(spool)}


def status(state: StateDirectory) -> dict[str, Any]:
    return edge_json("status", "--state", state.path)


def live(state: StateDirectory) -> str | None:
    return next((bundle for bundle, found in states(state).items() if found == "live"), None)


def path_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
