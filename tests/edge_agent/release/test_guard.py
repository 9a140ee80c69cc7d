"""Nothing but a release can be put into the outbox, and only the outbox is sent: shown by trying, and by reading the code."""

import ast
import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_agent
from broker import codec
from broker.contract.denoise import DenoiseV1
from broker.contract.samples import SamplesV1
from diffusion import privacy
from diffusion.errors import ReleaseRefused
from diffusion.privacy import Release
from diffusion.schedule import NoiseSchedule
from diffusion.split import Cut
from edge_agent.link import outbox
from edge_agent.release.batch import ReleasedBatch
from edge_agent.storage.spool import Spool

CUT = Cut(NoiseSchedule.cosine(200), 0.3)
SECRET = bytes(range(32))
QUOTA_BYTES = 2**20


def clean(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (1, 8, 8)).astype(np.float32)


def released(seed: int = 0, cut: Cut = CUT, index: int = 0, label: int | None = None) -> Release:
    return privacy.release(cut, clean(seed), SECRET, index, label=label)


def batch() -> ReleasedBatch:
    return ReleasedBatch.of([released(0), released(1)], "float16")


def samples() -> SamplesV1:
    return SamplesV1.pack(clean()[None], schedule_id=CUT.schedule.schedule_id, t_cut=CUT.t_cut, release=0)


def request(**changes: Any) -> DenoiseV1:
    fields: dict[str, Any] = {
        "request_id": "ab" * 16,
        "shape": (1, 8, 8),
        "n": 2,
        "schedule_id": CUT.schedule.schedule_id,
        "plan": (200, 60),
        "seed": 1,
    }
    return DenoiseV1(**(fields | changes))


def test_a_batch_carries_its_releases_and_nothing_else(spool: Spool) -> None:
    made = batch()
    with spool.transaction() as transaction:
        outbox.put_samples(transaction, made, QUOTA_BYTES)

    (entry,) = outbox.next_entries(spool, besides=(), limit=9, limit_bytes=QUOTA_BYTES)
    message = codec.decode(entry.type, entry.body)
    assert isinstance(message, SamplesV1)
    np.testing.assert_array_equal(message.x, np.stack([released(0).x_c, released(1).x_c]).astype(np.float16))
    assert (entry.kind, entry.message_id) == ("samples", codec.digest(entry.body))
    assert (message.labels, message.t, message.noise) == (None, None, None)


def a_message_made_by_hand() -> Any:
    return samples()


def its_bytes() -> Any:
    return codec.encode(samples())


def bare_releases() -> Any:
    return [released()]


def without_its_constructor() -> Any:
    forged = object.__new__(ReleasedBatch)
    body = codec.encode(samples())
    for name, value in (vars(batch()) | {"body": body, "message_id": codec.digest(body)}).items():
        object.__setattr__(forged, name, value)
    return forged


def empty_of_everything() -> Any:
    return object.__new__(ReleasedBatch)


def with_another_body() -> Any:
    return dataclasses.replace(batch(), body=codec.encode(samples()))


def with_other_releases() -> Any:
    return dataclasses.replace(batch(), releases=(released(3),))


def without_some_of_its_releases() -> Any:
    return dataclasses.replace(batch(), releases=batch().releases[:1])


def of_a_subclass() -> Any:
    class Lenient(ReleasedBatch):
        def __post_init__(self) -> None:
            pass

    return Lenient(**(vars(batch()) | {"body": codec.encode(samples())}))


def of_a_forged_release() -> Any:
    forged = object.__new__(Release)
    for name, value in (vars(released()) | {"x_c": clean()}).items():
        object.__setattr__(forged, name, value)
    return ReleasedBatch.of([forged], "float16")


def of_an_overwritten_release() -> Any:
    made = released()
    made.x_c.flags.writeable = True
    made.x_c[...] = clean()
    return ReleasedBatch.of([made], "float16")


def of_clean_images() -> Any:
    images: Any = [clean()]
    return ReleasedBatch.of(images, "float16")


@pytest.mark.parametrize(
    "forge",
    [
        a_message_made_by_hand,
        its_bytes,
        bare_releases,
        without_its_constructor,
        empty_of_everything,
        with_another_body,
        with_other_releases,
        without_some_of_its_releases,
        of_a_subclass,
        of_a_forged_release,
        of_an_overwritten_release,
        of_clean_images,
    ],
)
def test_what_is_no_batch_of_releases_is_refused(spool: Spool, forge: Callable[[], Any]) -> None:
    with pytest.raises(ReleaseRefused), spool.transaction() as transaction:
        outbox.put_samples(transaction, forge(), QUOTA_BYTES)

    assert outbox.load(spool).messages == 0


@pytest.mark.parametrize(
    "releases",
    [
        [],
        [released(0), released(1, Cut(CUT.schedule, 0.4))],
        [released(0), released(1, Cut(NoiseSchedule.linear(200), 0.3))],
        [released(0), released(0, index=1)],
        [released(0), released(1, label=3)],
    ],
    ids=["none", "two cuts", "two schedules", "two indices", "one label for two"],
)
def test_releases_of_different_kinds_make_no_message(releases: list[Release]) -> None:
    with pytest.raises(ReleaseRefused, match="do not make one message"):
        ReleasedBatch.of(releases, "float16")


def test_samples_pass_for_neither_a_request_nor_telemetry(spool: Spool) -> None:
    """That the lines below need an exception from the type checker, which warns of those it needs not, is half of the test."""
    with spool.transaction() as transaction:
        with pytest.raises(ReleaseRefused, match=r"SamplesV1 cannot be put into the outbox as denoise\.v1"):
            outbox.put_request(transaction, samples(), None, QUOTA_BYTES)  # type: ignore[arg-type]
        with pytest.raises(ReleaseRefused, match=r"SamplesV1 cannot be put into the outbox as telemetry\.v1"):
            outbox.put_telemetry(transaction, samples(), QUOTA_BYTES)  # type: ignore[arg-type]
        with pytest.raises(ReleaseRefused):
            outbox.put_samples(transaction, samples(), QUOTA_BYTES)  # type: ignore[arg-type]
        with pytest.raises(ReleaseRefused):
            outbox.put_samples(transaction, codec.encode(samples()), QUOTA_BYTES)  # type: ignore[arg-type]
        with pytest.raises(ReleaseRefused):
            ReleasedBatch.of([clean()], "float16")  # type: ignore[list-item]

    assert outbox.load(spool).messages == 0


class TalkativeRequest(DenoiseV1):
    """Writes an image where its seed should be."""

    def on_wire(self) -> dict[str, Any]:
        return super().on_wire() | {"seed": clean()}


@pytest.mark.parametrize(
    "smuggler",
    [
        lambda: TalkativeRequest(**dict(request())),
        lambda: DenoiseV1.model_construct(**(dict(request()) | {"labels": clean()})),
        lambda: request().model_copy(update={"labels": clean()}),
    ],
    ids=["a subclass", "unvalidated", "a changed copy"],
)
def test_a_request_cannot_carry_an_image_in_its_fields(
    spool: Spool, smuggler: Callable[[], DenoiseV1]
) -> None:
    with pytest.raises(ReleaseRefused), spool.transaction() as transaction:
        outbox.put_request(transaction, smuggler(), None, QUOTA_BYTES)

    assert outbox.load(spool).messages == 0


@pytest.mark.parametrize(("priority", "kind"), [("interactive", "denoise"), ("prefetch", "prefetch")])
def test_a_request_waits_under_its_own_id_and_by_its_priority(spool: Spool, priority: str, kind: str) -> None:
    with spool.transaction() as transaction:
        outbox.put_request(transaction, request(priority=priority), None, QUOTA_BYTES)

    (entry,) = outbox.next_entries(spool, besides=(), limit=9, limit_bytes=QUOTA_BYTES)
    assert (entry.message_id, entry.kind, entry.type) == ("ab" * 16, kind, "denoise.v1")
    assert codec.decode(entry.type, entry.body) == request(priority=priority)


# What follows reads the source of the whole room: a second way out would have to be written somewhere.

ROOM = Path(edge_agent.__file__).parent
WRITES_TO_THE_OUTBOX = re.compile(r"\b(INTO|REPLACE|UPDATE(\s+OR\s+\w+)?)\s+[\"'`\[]?outbox\b", re.IGNORECASE)
MAY_WRITE_THE_OUTBOX = {"link/outbox.py"}
PLAYS_THE_SERVER = "fleet/stand_in.py"
"""In a simulated fleet, and in no device: it takes samples and sends receipts."""
WAYS_OUT = {"EXCHANGE_UP", "up_key", "Outgoing", "outgoing", "Publisher", "collafuse.up"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(ROOM.rglob("*.py")):
        yield path.relative_to(ROOM).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def texts(tree: ast.AST) -> Iterator[str]:
    """Every text of a module; one that is put together from pieces counts as one, with a gap for what is filled in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(piece.value) if isinstance(piece, ast.Constant) else "{}" for piece in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def names(tree: ast.AST) -> Iterator[str]:
    """Every name a module imports or uses."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def is_the_door(module: str, function: ast.expr) -> bool:
    """Whether a call is one of `outbox._put`, by that name from elsewhere, or by its own within."""
    if isinstance(function, ast.Attribute):
        return function.attr == "_put"
    return module == "link/outbox.py" and isinstance(function, ast.Name) and function.id == "_put"


def test_no_other_place_writes_rows_of_the_outbox() -> None:
    writers = {
        module for module, tree in modules() if any(WRITES_TO_THE_OUTBOX.search(text) for text in texts(tree))
    }

    assert writers == MAY_WRITE_THE_OUTBOX


def test_no_statement_takes_the_name_of_the_table_it_writes_from_elsewhere() -> None:
    """Else one could write to the outbox without naming it, and the test above would not see it."""
    gap = re.compile(r"\b(INTO|REPLACE|UPDATE(\s+OR\s+\w+)?)\s+(\{\}|%s)", re.IGNORECASE)
    sql = re.compile(r"^\s*(INSERT|REPLACE|UPDATE|WITH)\b")

    assert {m for m, tree in modules() if any(gap.search(t) and sql.search(t) for t in texts(tree))} == set()


def test_the_door_of_the_outbox_itself_is_used_by_its_three_ways_in_alone() -> None:
    users = {
        (module, function.name)
        for module, tree in modules()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for call in ast.walk(function)
        if isinstance(call, ast.Call) and is_the_door(module, call.func)
    }

    ways = {"put_samples", "put_request", "put_telemetry"}
    assert users == {("link/outbox.py", way) for way in ways}


def test_only_the_batch_writes_samples() -> None:
    writers = {module for module, tree in modules() if "SamplesV1" in set(names(tree))}

    assert writers - {PLAYS_THE_SERVER} == {"release/batch.py"}


def test_only_the_relay_publishes_and_only_what_the_outbox_holds() -> None:
    speakers = {module for module, tree in modules() if WAYS_OUT & (set(names(tree)) | set(texts(tree)))}
    publishers = {
        module
        for module, tree in modules()
        if any(isinstance(node, ast.Attribute) and node.attr == "publisher" for node in ast.walk(tree))
    }
    relay = dict(modules())["link/relay.py"]
    bodies = [
        ast.unparse(word.value)
        for word in ast.walk(relay)
        if isinstance(word, ast.keyword) and word.arg == "body"
    ]

    assert speakers - {PLAYS_THE_SERVER} == {"link/relay.py"}
    assert publishers - {PLAYS_THE_SERVER} == {"assembly.py"}, "which hands it to the relay"
    assert bodies == ["entry.body"]
