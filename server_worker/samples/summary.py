"""What a sample store holds and what was erased from it, for people and for programs."""

import time
from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table

from server_worker.samples.forgetting import Receipt
from server_worker.samples.segments import QUARANTINE_FOLDER
from server_worker.samples.store import SampleStore
from server_worker.storage import Storage


def of(storage: Storage, store: SampleStore) -> dict[str, Any]:
    """Everything that `collafuse worker samples` shows, as one JSON object."""
    found = [{"batch": batch, "reason": reason} for batch, reason in sorted(store.quarantined.items())]
    aside = [
        {"batch": name.partition(".")[0], "reason": f"set aside in {QUARANTINE_FOLDER}/"}
        for name in sorted(storage.names(QUARANTINE_FOLDER))
    ]
    return {
        "samples": store.samples,
        "held_out": store.held_out_samples,
        "bytes": store.size_bytes,
        "segments": len(store.snapshot()),
        "groups": _groups(store),
        "quarantined": found + aside,
        "forgotten": _forgotten(store),
        "expired_batches": store.tombstones.expired,
    }


def show(summary: dict[str, Any]) -> None:
    """Print it as tables."""
    title = f"{summary['samples']} samples, {summary['bytes'] / 1e6:.1f} MB in {summary['segments']} segments"
    table = Table(title=title + (f", {summary['held_out']} held out" if summary["held_out"] else ""))
    for name in ("client", "device", "cut t_c", "batches", "samples", "MB", "labels"):
        table.add_column(name, justify="left" if name in ("client", "device", "labels") else "right")
    for row in summary["groups"]:
        numbers = (row["t_cut"], row["batches"], row["samples"], f"{row['bytes'] / 1e6:.1f}")
        shown = " ".join(f"{label}:{count}" for label, count in row["labels"].items()) or "none"
        table.add_row(row["client"], row["device"], *map(str, numbers), shown)
    console = Console()
    console.print(table)
    for each in summary["forgotten"]:
        whose = _whose(each["client"], each["device"])
        console.print(f"forgotten: {whose}: {each['state']}, {each['batches']} batches erased")
    if summary["expired_batches"]:
        console.print(f"erased for their age: {summary['expired_batches']} batches")
    for damaged in summary["quarantined"]:
        console.print(f"damaged: {damaged['batch']}: {damaged['reason']}", style="red")


def receipt_text(receipt: Receipt) -> str:
    """A receipt for people."""
    whose = _whose(receipt.client, receipt.device)
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(receipt.forgotten_at))
    versions = ", ".join(map(str, receipt.versions)) or "none"
    lines = [
        f"{whose} was forgotten on {when}.",
        f"erased              {receipt.batches} batches, {receipt.samples} samples, {receipt.size_bytes:,} bytes",
        f"sha256 of their ids {receipt.ids_digest}",
        f"segments rewritten  {receipt.segments_rewritten}",
        f"versions trained    {versions}",
    ]
    if receipt.versions_by == "time":
        lines.append(
            "                    (some told by their age alone: published since the first of the samples was stored)"
        )
    lines += [f"damaged, removed    {path}" for path in receipt.quarantine_removed]
    lines += [
        f"NOT CHECKED         {path}: cannot be read, delete it yourself if it may be theirs"
        for path in receipt.quarantine_not_checked
    ]
    return "\n".join(lines)


def _groups(store: SampleStore) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str, int], dict[str, Any]] = {}
    labels: dict[tuple[str, str, int], Counter[int]] = {}
    for entry in store.entries():
        key = (entry.client, entry.device, entry.t_cut)
        row = groups.setdefault(
            key, {"client": key[0], "device": key[1], "t_cut": key[2], "batches": 0, "samples": 0, "bytes": 0}
        )
        row["batches"] += 1
        row["samples"] += entry.samples
        row["bytes"] += entry.size_bytes
        labels.setdefault(key, Counter()).update(label for label in entry.labels if label >= 0)
    for key, row in groups.items():
        row["labels"] = {str(label): count for label, count in sorted(labels[key].items())}
    return [groups[key] for key in sorted(groups)]


def _forgotten(store: SampleStore) -> list[dict[str, Any]]:
    return [
        {
            "client": tombstone.client,
            "device": tombstone.device,
            "state": "lifted"
            if not tombstone.active
            else "complete"
            if tombstone.complete
            else "not finished",
            "batches": len(tombstone.ids) + len(tombstone.pending),
            "receipts": list(tombstone.receipts),
        }
        for tombstone in store.tombstones.forgotten
    ]


def _whose(client: str, device: str | None) -> str:
    return client if device is None else f"{client} {device}"
