"""Full disks, real ones: small file systems that the test fills."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pika

from broker import identities
from broker.address import BrokerSettings
from broker.codec import digest, encode
from broker.management import Management
from broker.node.local_node import NodeInfo
from broker.publisher import Outgoing
from broker.topology import EXCHANGE_UP, QUEUE_SAMPLES
from export.bundle.bundle import read_bundle
from export.bundle.keys import PrivateKey
from export.checkpoint import save_checkpoint
from export.head_export import export_head
from server_worker.samples.store import SampleStore
from server_worker.storage import Storage
from tests.conftest import WAIT_SECONDS
from tests.edge_agent.heads.bundles import signed, with_ballast, write
from tests.edge_agent.heads.deliveries import send
from tests.edge_agent.server import Server
from tests.export.heads import SCHEDULE as HEAD_SCHEDULE
from tests.export.heads import metadata_of, random_network, write_checkpoint
from tests.faults.conftest import Connect, SmallDisk, wait_for_event
from tests.server_worker.backbones import SCHEDULE, SHAPE, sample_batch

Start = Callable[..., SmallDisk]


def test_a_full_store_stops_taking_says_so_and_goes_on_by_itself(
    node: NodeInfo,
    server_settings: BrokerSettings,
    device_url: str,
    connect: Connect,
    on_small_disk: Start,
    tmp_path: Path,
) -> None:
    connection = connect(BrokerSettings.from_url(device_url))
    publisher = connection.publisher()
    connection.wait_connected(WAIT_SECONDS)

    def send(first: int, count: int) -> set[str]:
        bodies = [encode(sample_batch(number, 500)) for number in range(first, first + count)]
        for body in bodies:
            publisher.publish(
                Outgoing(EXCHANGE_UP, f"{connection.user}.samples", digest(body), "samples.v1", body),
                timeout_seconds=WAIT_SECONDS,
            )
        return {digest(body) for body in bodies}

    shape = [
        "--channels",
        SHAPE[0],
        "--image-size",
        SHAPE[1],
        "--base-channels",
        8,
        "--channel-multipliers",
        "1,2",
    ]
    disk = on_small_disk(
        "worker", "train", "--storage", tmp_path / "small" / "server", "--min-samples", 10**9, "--device", "cpu", *shape,
        "--schedule", "linear", "--schedule-steps", SCHEDULE.T, "--cut-min", 0.2, "--cut-max", 0.8, "--num-classes", 3,
        "--threads", 1, "--ingest-prefetch", 4,
        megabytes=8,
        environment={"COLLAFUSE_BROKER_URL": server_settings.url.get_secret_value()},
    )  # fmt: skip
    first = send(0, 3)
    wait_for_event(disk, "samples_stored", 3)

    disk.fill()
    second = send(100, 12)
    wait_for_event(disk, "ingest_paused")
    assert disk.process.poll() is None
    port = json.loads(next(line for line in disk.events().splitlines() if "metrics_listening" in line))[
        "port"
    ]
    assert _metric(port, "collafuse_ingest_paused") == 1.0
    waiting = _depth(node, QUEUE_SAMPLES)
    assert waiting > 0

    disk.make_room()
    wait_for_event(disk, "ingest_resumed")
    wait_for_event(disk, "samples_stored", 15)
    assert _metric(port, "collafuse_ingest_paused") == 0.0
    stored = SampleStore(Storage(disk.outside / "server"), quarantine=False)
    assert {entry.message_id for entry in stored.entries()} == first | second
    assert stored.quarantined == {}


def test_a_full_device_says_so_and_keeps_what_it_had_accepted(on_small_disk: Start, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name, count in (("few", 8), ("many", 3000)):
        np.savez(tmp_path / f"{name}.npz", images=rng.uniform(-1, 1, (count, 1, 8, 8)).astype(np.float32))
    state = tmp_path / "small" / "edge"
    agent = on_small_disk("edge", "run", "--state", state, megabytes=3, environment={
        "COLLAFUSE_BROKER_URL": "amqp://ward_x:secret@127.0.0.1:1/nowhere"
    })  # fmt: skip
    wait_for_event(agent, "agent_started")

    def contribute(name: str) -> tuple[int, str]:
        return _inside(agent, "edge", "contribute", tmp_path / f"{name}.npz", "--state", state, "--json")

    code, text = contribute("few")
    assert code == 0, text
    before = json.loads(text)
    agent.fill()

    code, text = contribute("many")

    assert code == 1
    assert len(text.strip().splitlines()) == 1
    assert "error: " in text
    assert "full" in text
    assert agent.process.poll() is None
    agent.make_room()
    code, text = contribute("few")
    assert code == 0, text
    again = json.loads(text)
    assert (again["released"], again["released_before"]) == (0, before["released"])
    code, text = _inside(agent, "edge", "status", "--state", state, "--json")
    assert json.loads(text)["outbox"]["messages"] >= before["batches"]


def test_pictures_that_find_no_room_wait_for_it_and_are_made_then(
    on_small_disk: Start, tmp_path: Path
) -> None:
    network = random_network()
    save_checkpoint(tmp_path / "whole.safetensors", network, metadata_of(network, t_cut=HEAD_SCHEDULE.T))
    export_head(tmp_path / "whole.safetensors", tmp_path / "whole.bundle")
    state = tmp_path / "small" / "edge"
    agent = on_small_disk(
        "edge", "run", "--state", state, "--head", tmp_path / "whole.bundle", "--threads", 1, "--no-api",
        megabytes=16, environment={"COLLAFUSE_BROKER_URL": "amqp://ward_x:secret@127.0.0.1:1/nowhere"},
    )  # fmt: skip
    wait_for_event(agent, "agent_started")
    agent.fill()
    filler = agent.outside / "filler"
    os.truncate(filler, filler.stat().st_size - 3 * 2**20)

    code, text = _inside(agent, "edge", "generate", "--state", state, "--count", 1024, "--no-wait")

    assert code == 0, text
    wait_for_event(agent, "spool_full")
    assert "the pictures cannot be written" in agent.events()
    agent.make_room()
    wait_for_event(agent, "job_completed")
    assert len(list((agent.outside / "edge" / "results" / text.strip()).glob("*.png"))) == 1024


def test_a_spool_damaged_on_a_full_disk_is_set_aside_once_there_is_room(
    on_small_disk: Start, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "few.npz", images=rng.uniform(-1, 1, (8, 1, 8, 8)).astype(np.float32))
    state = tmp_path / "small" / "edge"
    agent = on_small_disk("edge", "run", "--state", state, megabytes=3, environment={
        "COLLAFUSE_BROKER_URL": "amqp://ward_x:secret@127.0.0.1:1/nowhere"
    })  # fmt: skip
    wait_for_event(agent, "agent_started")
    code, text = _inside(agent, "edge", "contribute", tmp_path / "few.npz", "--state", state, "--json")
    assert code == 0, text
    agent.fill()

    _overwrite(agent.outside / "edge" / "spool.sqlite3")
    _overwrite(agent.outside / "edge" / "spool.sqlite3-wal")
    (agent.outside / "edge" / "spool.suspect").touch()

    wait_for_event(agent, "spool_full")
    assert agent.process.poll() is None
    agent.make_room()
    wait_for_event(agent, "agent_started", 2)
    assert agent.events().count('"event": "spool_quarantined"') == 1
    code, text = _inside(agent, "edge", "status", "--state", state, "--json")
    assert code == 0, text
    facts = json.loads(text)
    assert facts["ledger"]["releases"] == 8
    assert len(facts["quarantine"]) == 1


def test_a_head_for_which_the_disk_is_too_small_is_refused_and_the_device_works_on(
    node: NodeInfo, server_settings: BrokerSettings, device_url: str, on_small_disk: Start, tmp_path: Path
) -> None:
    key = PrivateKey.generate()
    export_head(
        write_checkpoint(tmp_path / "head.safetensors", random_network(seed=0)), tmp_path / "plain.bundle"
    )
    plain = read_bundle(tmp_path / "plain.bundle")
    own = write(tmp_path / "own.bundle", signed(plain, key, client="ward", counter=1, version="1"))
    large = signed(with_ballast(plain, 5 * 2**19), key, client="ward", counter=2, version="2")
    head = write(tmp_path / "head.bundle", large)
    np.savez(tmp_path / "few.npz", images=np.zeros((8, 1, 8, 8), np.float32))
    state = tmp_path / "small" / "edge"
    with Management(node.management_url, node.user, node.password) as management:
        owner = identities.owner(management, "ward", address=server_settings)
    agent = on_small_disk(
        "edge", "run", "--state", state, "--head", own, "--head-keys", key.public.text,
        "--schedule-steps", 200, "--threads", 1, "--no-api",
        megabytes=3, environment={"COLLAFUSE_BROKER_URL": device_url},
    )  # fmt: skip
    wait_for_event(agent, "broker_connected")

    bundle = send(owner, BrokerSettings.from_url(device_url).user, head)

    wait_for_event(agent, "head_refused")
    code, text = _inside(agent, "edge", "head", "status", "--state", state, "--json")
    assert code == 0, text
    row = next(row for row in json.loads(text)["heads"] if row["bundle"] == bundle)
    assert (row["state"], row["reason"]) == ("refused", "no_room")
    code, text = _inside(agent, "edge", "contribute", tmp_path / "few.npz", "--state", state)
    assert code == 0, text
    code, text = _inside(agent, "edge", "generate", "--count", 1, "--no-wait", "--state", state)
    assert code == 0, text
    assert "spool_full" not in agent.events()


def test_an_answer_that_came_while_the_disk_was_full_is_kept_once_there_is_room(
    server_settings: BrokerSettings, device_url: str, on_small_disk: Start, tmp_path: Path
) -> None:
    bundle = tmp_path / "head.bundle"
    export_head(write_checkpoint(tmp_path / "head.safetensors", random_network(seed=0)), bundle)
    state = tmp_path / "small" / "edge"
    agent = on_small_disk(
        "edge", "run", "--state", state, "--head", bundle, "--schedule-steps", 200, "--threads", 1, "--no-api",
        megabytes=30,
        environment={"COLLAFUSE_BROKER_URL": device_url},
    )  # fmt: skip
    wait_for_event(agent, "broker_connected")
    with Server(server_settings) as server:
        server.answering.clear()
        code, job_id = _inside(
            agent, "edge", "generate", "--count", 4, "--seed", 1, "--label", 1, "--no-wait", "--state", state
        )
        assert code == 0, job_id
        wait_for_event(agent, "job_started")
        agent.fill()
        server.answering.set()
        wait_for_event(agent, "spool_full")

        agent.make_room()

        wait_for_event(agent, "job_completed")
    assert agent.events().count('"event": "broker_lost"') == 0


def _overwrite(path: Path) -> None:
    """Damage that needs no room."""
    size = path.stat().st_size
    with path.open("r+b", buffering=0) as file:
        file.seek(min(4096, size // 2))
        file.write(b"\xff" * (size - min(4096, size // 2)))


def _inside(disk: SmallDisk, *arguments: object) -> tuple[int, str]:
    """Run a command where the small disk can be seen; returns its exit code and what it said."""
    user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
    done = subprocess.run(
        ["nsenter", "--target", str(disk.process.pid), "--mount", "--root", "--wd", *user, sys.executable,
         "-m", "collafuse", *(str(argument) for argument in arguments)],
        capture_output=True, text=True, check=False, timeout=WAIT_SECONDS, cwd=Path.cwd(),
    )  # fmt: skip
    return done.returncode, done.stdout or done.stderr


def _metric(port: int, name: str) -> float:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    return float(next(line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith(f"{name} ")))


def _depth(node: NodeInfo, queue: str) -> int:
    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as amqp:
        return int(amqp.channel().queue_declare(queue, passive=True).method.message_count)
