import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pika
import pytest
from PIL import Image as PillowImage

from broker import codec
from broker.contract.denoise import LatentsV1
from broker.contract.receipts import ReceiptV1
from broker.contract.rounds import RoundV1
from broker.node.local_node import NodeInfo
from diffusion.schedule import NoiseSchedule
from edge_agent.generation import results
from edge_agent.generation.jobs import find
from edge_agent.generation.recipe import Recipe, Slice, denoise_request, noise_keys
from edge_agent.heads import store
from edge_agent.heads.head import Head
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from tests.conftest import WAIT_SECONDS, wait_until
from tests.edge_agent.agents import MORTAL, NOWHERE, TELLING, RunAgent, collafuse, edge_json, ready, running
from tests.edge_agent.conftest import Device
from tests.edge_agent.server import Server, denoise
from tests.link import Link

SCHEDULE = NoiseSchedule.cosine(200)


@pytest.fixture
def run_agent(state: StateDirectory, tmp_path: Path) -> Iterator[RunAgent]:
    with running(state, tmp_path, "--no-api") as run:
        yield run


def waiting(state: StateDirectory) -> list[str]:
    """The ids of the messages in the outbox, in order; the report of how the device is may come at any time."""
    with Spool(state.spool) as spool:
        rows = spool.rows("SELECT message_id FROM outbox WHERE kind <> 'telemetry' ORDER BY sequence")
    return [row["message_id"] for row in rows]


def accept(state: StateDirectory, *flags: object) -> str:
    answer = edge_json("generate", "--state", state.path, "--no-wait", *flags)
    return str(answer["job_id"])


def state_of(state: StateDirectory, job_id: str) -> str:
    with Spool(state.spool) as spool:
        job = find(spool, job_id)
    assert job is not None
    return job.state


def recipe_of(state: StateDirectory, job_id: str) -> Recipe:
    with Spool(state.spool) as spool:
        job = find(spool, job_id)
    assert job is not None
    assert job.recipe is not None
    return Recipe.from_json(job.recipe)


def expected_images(bundle: Path, recipe: Recipe, count: int, label: int, seed: int) -> np.ndarray:
    """The whole chain in this process: the server's half, narrowed as on the wire, then the head's."""
    request = denoise_request(
        recipe, Slice(0, count, seed), request_id="0" * 32, label=label, dtype="float16", ttl_seconds=None
    )
    at_cut = denoise(SCHEDULE, request).astype(np.float16).astype(np.float32)
    seeds, samples = noise_keys(count, seed)
    head = Head.load(bundle, "cpu", 1)
    return head.finish(
        at_cut,
        recipe.head_plan,
        sampler=recipe.sampler,
        eta=recipe.eta,
        clip=recipe.clip,
        seeds=seeds.astype(np.uint64),
        samples=samples,
        labels=np.full(count, label),
    )


def queued(node: NodeInfo, queue: str) -> list[tuple[str, bytes]]:
    """Message ids and bodies in a queue; they stay there."""
    found: list[tuple[str, bytes]] = []
    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as amqp:
        channel = amqp.channel()
        while True:
            method, properties, body = channel.basic_get(queue)
            if method is None:
                return found
            found.append((properties.message_id, body))


def test_images_are_contributed_and_pictures_made_without_torch(
    node: NodeInfo,
    device: Device,
    server: Server,
    state: StateDirectory,
    head_bundle: Path,
    run_agent: RunAgent,
    tmp_path: Path,
    pictures: np.ndarray,
) -> None:
    np.savez(tmp_path / "data.npz", images=pictures)
    common = ("--state", state.path, "--schedule-steps", 200, "--cut-ratio", 0.3)
    contributed = edge_json("contribute", tmp_path / "data.npz", *common)
    assert (contributed["released"], contributed["released_before"]) == (10, 0)
    loaded_file = tmp_path / "loaded"

    agent = ready(run_agent(device.url, "--head", head_bundle, code=TELLING, LOADED_FILE=str(loaded_file)))
    made = edge_json(
        "generate",
        "--state",
        state.path,
        "--count",
        5,
        "--label",
        1,
        "--seed",
        3,
        "--ttl",
        60,
        "--out",
        tmp_path / "out",
    )
    wait_until(
        lambda: edge_json("status", "--state", state.path)["outbox"]["messages"] == 0, "the outbox is empty"
    )
    status = edge_json("status", "--state", state.path)

    images = np.load(tmp_path / "out" / "images.npy")
    expected = expected_images(head_bundle, recipe_of(state, made["job_id"]), 5, label=1, seed=3)
    np.testing.assert_allclose(images, expected, atol=1e-4)
    assert np.load(tmp_path / "out" / "latents.npy").shape == images.shape
    assert [Path(name).name for name in made["pictures"]] == [f"{index:05d}.png" for index in range(5)]
    for name, image in zip(made["pictures"], images, strict=True):
        np.testing.assert_array_equal(np.asarray(PillowImage.open(name)), results.as_pixels(image))
    ((message_id, body),) = queued(node, "samples")
    assert codec.digest(body) == message_id
    assert status["agent"]["running"]
    assert (status["link"]["connected"], status["link"]["user"]) == (True, device.user)
    assert (status["ledger"]["images"], status["ledger"]["releases"]) == (10, 10)
    assert status["jobs"] == {"completed": 1}
    assert (status["head"]["provider"], status["head"]["t_cut"], status["head"]["error"]) == ("cpu", 60, None)
    assert agent.stop() == 0
    loaded = set(json.loads(loaded_file.read_text()))
    assert "onnxruntime" in loaded
    assert "torch" not in loaded


def test_killed_at_every_commit_in_turn_a_job_still_completes_once(
    device: Device, server: Server, state: StateDirectory, head_bundle: Path, run_agent: RunAgent
) -> None:
    job_id = accept(state, "--count", 6, "--label", 2, "--seed", 11)
    deaths = 0
    while state_of(state, job_id) != "completed" and deaths < 60:
        when = ("before", "after")[deaths % 2]
        agent = run_agent(
            device.url, "--head", head_bundle, code=MORTAL, COMMITS=str(2 + deaths // 2), WHEN=when
        )
        wait_until(
            lambda agent=agent: agent.exit_code is not None or state_of(state, job_id) == "completed",  # type: ignore[misc]
            "the agent dies or the job completes",
        )
        if agent.exit_code is None:
            agent.stop()
            continue
        assert agent.wait() == -signal.SIGKILL, agent.log.read_text()
        deaths += 1

    assert deaths >= 4
    images = np.load(state.results(job_id) / "images.npy")
    np.testing.assert_allclose(
        images, expected_images(head_bundle, recipe_of(state, job_id), 6, label=2, seed=11), atol=1e-4
    )


def test_without_a_broker_the_agent_starts_and_the_job_expires_in_its_own_time(
    state: StateDirectory, head_bundle: Path, run_agent: RunAgent
) -> None:
    agent = ready(run_agent(NOWHERE, "--head", head_bundle))

    failed = collafuse("edge", "generate", "--state", state.path, "--count", 2, "--ttl", 1)

    assert failed.returncode == 1
    assert re.fullmatch(
        r"the job waits for the link to the server\n"
        r"error: job [0-9a-f]{32} expired .*within 1 s; at the end it was requested\n",
        failed.stderr,
    )
    status = edge_json("status", "--state", state.path)
    assert not status["link"]["connected"]
    assert status["jobs"] == {"expired": 1}
    assert waiting(state) == []
    assert "secret" not in agent.log.read_text()
    assert agent.stop() == 0


def test_whoever_asks_for_images_before_the_first_head_is_there_is_told_what_they_wait_for(
    state: StateDirectory, run_agent: RunAgent
) -> None:
    ready(run_agent(NOWHERE))
    with Spool(state.spool) as spool, spool.transaction() as transaction:
        store.put(transaction, "a" * 64, name="ward", version="1", counter=1, state="receiving")

    failed = collafuse("edge", "generate", "--state", state.path, "--ttl", 1)

    assert failed.returncode == 1
    assert re.fullmatch(
        r"the job waits for the first head, which is on its way\n"
        r"error: job [0-9a-f]{32} expired .*at the end it was accepted\n",
        failed.stderr,
    )


def test_a_link_that_breaks_again_and_again_loses_nothing(
    node: NodeInfo, device: Device, server: Server, state: StateDirectory, run_agent: RunAgent, tmp_path: Path
) -> None:
    images = np.random.default_rng(0).uniform(-1, 1, (1200, 1, 64, 64)).astype(np.float32)
    np.savez(tmp_path / "data.npz", images=images)
    edge_json("contribute", tmp_path / "data.npz", "--state", state.path, "--schedule-steps", 200)
    with Spool(state.spool) as spool:
        accepted = {row[0] for row in spool.rows("SELECT message_id FROM outbox")}
    assert len(accepted) >= 18
    with Link(node.ports.amqp) as link:
        url = device.url.replace(f":{node.ports.amqp}/", f":{link.port}/")
        ready(run_agent(url, "--cut-ratio", 0.2))
        cuts = 0
        with Spool(state.spool) as spool:

            def drained_with_interruptions() -> bool:
                nonlocal cuts
                waiting = int(spool.rows("SELECT count(*) FROM outbox")[0][0])
                if waiting < len(accepted) - 4 * cuts and cuts < 3:
                    cuts += link.cut() > 0
                return waiting == 0

            wait_until(drained_with_interruptions, "the outbox drains")
    assert cuts >= 2
    assert {message_id for message_id, _ in queued(node, "samples")} == accepted


def test_days_without_a_broker_fill_the_outbox_to_its_quota_and_cost_nothing_that_was_accepted(
    node: NodeInfo, device: Device, state: StateDirectory, run_agent: RunAgent, tmp_path: Path
) -> None:
    config = tmp_path / "small.toml"
    config.write_text("outbox_max_bytes = 1048576\n")

    def contribute(number: int) -> "subprocess.CompletedProcess[str]":
        images = np.random.default_rng(number).uniform(-1, 1, (30, 1, 64, 64)).astype(np.float32)
        np.savez(tmp_path / f"{number}.npz", images=images)
        data = tmp_path / f"{number}.npz"
        quota = ("--outbox-max-bytes", 2**20) if number % 2 else ("--config", config)  # either way
        return collafuse(
            "edge", "contribute", data, "--state", state.path, "--schedule-steps", 200, *quota, "--json"
        )

    with Link(node.ports.amqp) as link:
        link.refuses = True
        agent = ready(
            run_agent(device.url.replace(f":{node.ports.amqp}/", f":{link.port}/"), "--cut-ratio", 0.2)
        )
        answers = [contribute(number) for number in range(6)]
        refused = [answer for answer in answers if answer.returncode != 0]
        assert len(refused) >= 2
        assert all(
            "would pass the quota of 786,432 (outbox_max_bytes 1,048,576, less 262,144 kept for requests"
            in answer.stderr
            for answer in refused
        )
        accepted = waiting(state)
        assert len(accepted) == len(answers) - len(refused)
        assert agent.exit_code is None

        link.refuses = False

        with Spool(state.spool) as spool:
            wait_until(lambda: spool.rows("SELECT count(*) FROM outbox")[0][0] == 0, "the outbox drains")
        assert contribute(9).returncode == 0, "there is room again"
    arrived = [message_id for message_id, _ in queued(node, "samples") if message_id in accepted]
    assert arrived == accepted


WRONG_CLOCK = """
    import os, time

    true, off = time.time, float(os.environ["OFF_SECONDS"])
    time.time = lambda: true() + off
    from collafuse.cli import main
    main()
"""


@pytest.mark.parametrize("years", [-56, 30])
def test_a_device_whose_clock_is_decades_off_is_served_like_any_other(
    device: Device,
    server: Server,
    state: StateDirectory,
    head_bundle: Path,
    run_agent: RunAgent,
    years: float,
) -> None:
    off = str(years * 365.25 * 86_400)
    ready(run_agent(device.url, "--head", head_bundle, code=WRONG_CLOCK, OFF_SECONDS=off))

    done = collafuse(
        "edge", "generate", "--state", state.path, "--count", 3, "--label", 1, "--ttl", 300, "--json",
        code=WRONG_CLOCK, OFF_SECONDS=off,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["state"] == "completed"
    hopeless = collafuse(
        "edge", "generate", "--state", state.path, "--ttl", 0.001, "--json", code=WRONG_CLOCK, OFF_SECONDS=off
    )
    assert json.loads(hopeless.stdout)["reason"] == "expired"


def test_a_folder_that_cannot_take_the_pictures_is_said_before_the_job_is_accepted(
    state: StateDirectory, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    refused = collafuse("edge", "generate", "--state", state.path, "--out", tmp_path / "file", "--ttl", 0.5)
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
    assert "choose another folder with --out" in refused.stderr
    with Spool(state.spool) as spool:
        assert spool.rows("SELECT * FROM jobs") == []


def test_a_server_that_cannot_help_fails_the_job_with_its_reason(
    device: Device, server: Server, state: StateDirectory, head_bundle: Path, run_agent: RunAgent
) -> None:
    server.fail = True
    ready(run_agent(device.url, "--head", head_bundle))

    failed = collafuse("edge", "generate", "--state", state.path, "--count", 2, "--json")

    assert failed.returncode == 1
    assert json.loads(failed.stdout)["reason"] == "no_version"
    assert "no backbone is published yet" in failed.stderr


def test_a_request_that_was_swallowed_is_asked_again_and_answered(
    device: Device, server: Server, state: StateDirectory, head_bundle: Path, run_agent: RunAgent
) -> None:
    server.swallows = 1
    agent = ready(run_agent(device.url, "--head", head_bundle, "--reask", 1))

    made = edge_json("generate", "--state", state.path, "--count", 2, "--ttl", 300)

    assert made["state"] == "completed"
    assert len(agent.events("request_repeated")) == 1
    first, second = server.requests
    assert codec.encode(first) == codec.encode(second), (
        "word for word: the server refuses another with its id"
    )


def test_repeated_and_late_answers_are_recognised_and_counted(
    device: Device, server: Server, state: StateDirectory, head_bundle: Path, run_agent: RunAgent
) -> None:
    server.repeats = 2
    ready(run_agent(device.url, "--head", head_bundle))
    edge_json("generate", "--state", state.path, "--count", 4)
    unknown = LatentsV1(
        request_id="f" * 32,
        part=0,
        parts=1,
        first=0,
        x=np.zeros((1, 1, 8, 8), np.float16),
        t_stop=60,
        schedule_id=SCHEDULE.schedule_id,
        backbone_version=1,
        evaluations=1,
        step_seconds=0.0,
        queued_seconds=0.0,
    )
    server.tell(device.user, unknown, "late-1")

    def counted() -> bool:
        status = edge_json("status", "--state", state.path)
        return bool(
            status["late_results"] == 1 and status["duplicates"] == 2 and status["jobs"] == {"completed": 1}
        )

    wait_until(counted, "the repeats and the late answer are counted")


def test_a_second_agent_on_the_same_directory_is_refused(
    device: Device, state: StateDirectory, run_agent: RunAgent
) -> None:
    ready(run_agent(device.url))

    second = run_agent(device.url)

    assert second.wait() == 1
    assert f"error: another agent is running on {state.path}" in second.log.read_text()


def test_a_new_head_is_taken_up_and_a_bad_one_is_reported_and_not(
    device: Device,
    server: Server,
    state: StateDirectory,
    make_head: Callable[[int], Path],
    run_agent: RunAgent,
    tmp_path: Path,
) -> None:
    bundle = tmp_path / "head.bundle"
    bundle.write_bytes(make_head(0).read_bytes())
    ready(run_agent(device.url, "--head", bundle))

    def head() -> dict[str, Any]:
        return dict(edge_json("status", "--state", state.path)["head"])

    wait_until(lambda: head()["error"] is None, "the head is loaded")
    first = head()["identity"]
    replace(bundle, b"not a bundle")
    wait_until(lambda: head()["error"] is not None, "the bad head is reported")
    assert head()["identity"] == first
    edge_json("generate", "--state", state.path, "--count", 1)
    replace(bundle, make_head(1).read_bytes())
    wait_until(lambda: head()["identity"] != first, "the new head is loaded")
    assert head()["error"] is None


def replace(path: Path, content: bytes) -> None:
    draft = path.with_suffix(".draft")
    draft.write_bytes(content)
    draft.rename(path)


def test_a_head_of_the_whole_chain_needs_no_server(
    state: StateDirectory, run_agent: RunAgent, whole_head: Path
) -> None:
    ready(run_agent(NOWHERE, "--head", whole_head))

    made = edge_json("generate", "--state", state.path, "--count", 20, "--seed", 8)

    images = np.load(Path(made["folder"]) / "images.npy")
    assert images.shape == (20, 1, 8, 8)
    assert np.isfinite(images).all()
    assert len(np.unique(images.reshape(20, -1), axis=0)) == 20


def test_without_a_head_the_server_makes_the_pictures_once_their_shape_is_known(
    device: Device, server: Server, state: StateDirectory, run_agent: RunAgent
) -> None:
    ready(run_agent(device.url, "--cut-ratio", 0))
    job_id = accept(state, "--count", 64, "--seed", 2)
    server.tell(
        device.user,
        RoundV1(
            number=1,
            schedule_name="cosine",
            schedule_T=200,
            schedule_id=SCHEDULE.schedule_id,
            shape=(1, 8, 8),
            cut_min=0.0,
            cut_max=1.0,
            releases_wanted=1,
            backbone_version=1,
        ),
        "round-1",
    )

    wait_until(lambda: state_of(state, job_id) == "completed", "the job completes")

    images = np.load(state.results(job_id) / "images.npy")
    assert images.shape == (64, 1, 8, 8)
    assert abs(images.mean() - 0.25) < 0.05


def test_metrics_are_served_on_the_port_that_is_written_down(
    device: Device,
    server: Server,
    state: StateDirectory,
    head_bundle: Path,
    run_agent: RunAgent,
    tmp_path: Path,
) -> None:
    port_file = tmp_path / "port"
    agent = ready(
        run_agent(device.url, "--head", head_bundle, "--metrics-port", 0, "--metrics-port-file", port_file)
    )
    edge_json("generate", "--state", state.path, "--count", 3)
    server.tell(device.user, ReceiptV1(batch_id="a" * 64, samples=3, duplicate=False), "receipt-1")
    port = int(port_file.read_text())
    assert agent.events("metrics_listening")[0]["port"] == port

    def metrics() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WAIT_SECONDS) as answer:
            return str(answer.read().decode())

    wait_until(lambda: "collafuse_receipts_total 1.0" in metrics(), "the receipt is counted")
    text = metrics()
    assert 'collafuse_jobs_total{outcome="completed"} 1.0' in text
    assert 'collafuse_head_info{provider="cpu"} 1.0' in text
    assert 'collafuse_head_step_seconds_count{provider="cpu"} 4.0' in text
    assert "collafuse_connected 1.0" in text


def test_a_head_that_fell_back_to_the_cpu_is_seen_in_the_status_and_the_metrics(
    device: Device, state: StateDirectory, head_bundle: Path, run_agent: RunAgent, tmp_path: Path
) -> None:
    port_file = tmp_path / "port"
    flags = ("--provider", "cuda", "--provider-fallback", "cpu", "--metrics-port", 0)
    ready(run_agent(device.url, "--head", head_bundle, *flags, "--metrics-port-file", port_file))

    wait_until(
        lambda: (edge_json("status", "--state", state.path).get("head") or {}).get("provider") == "cpu",
        "the status names the provider",
    )
    told = edge_json("status", "--state", state.path)["head"]
    assert "CUDAExecutionProvider is not available" in told["fallback"]
    with urllib.request.urlopen(
        f"http://127.0.0.1:{int(port_file.read_text())}/metrics", timeout=WAIT_SECONDS
    ) as answer:
        assert "collafuse_head_fallback 1.0" in answer.read().decode()


def test_credentials_of_another_device_are_refused(state: StateDirectory, tmp_path: Path) -> None:
    credentials = tmp_path / "device.toml"
    credentials.write_text(
        'client = "ward"\ndevice = "two"\nbroker_url = "amqp://ward_one:secret@127.0.0.1:1/c"\n'
    )

    done = collafuse("edge", "run", "--config", credentials, "--state", state.path)

    assert done.returncode == 1
    assert "the broker URL logs in as 'ward_one', but client and device are 'ward' and 'two'" in done.stderr
    assert "secret" not in done.stderr
    assert "COLLAFUSE_BROKER_URL" not in done.stderr
    overridden = {"COLLAFUSE_BROKER_URL": "amqp://operator:secret@127.0.0.1:1/c"}
    done = collafuse("edge", "run", "--config", credentials, "--state", state.path, **overridden)
    assert (
        "the broker URL of COLLAFUSE_BROKER_URL, which comes before the file, logs in as 'operator'"
        in done.stderr
    )


def test_help_loads_nothing_heavy() -> None:
    code = """
        import atexit, sys
        heavy = {"torch", "numpy", "onnxruntime", "PIL", "starlette", "cryptography"}
        atexit.register(lambda: print("HEAVY", sorted(heavy & set(sys.modules))))
        from collafuse.cli import main
        main()
    """
    done = collafuse("edge", "--help", code=code)

    assert "HEAVY []" in done.stdout


def test_every_module_of_the_agent_can_be_imported_without_torch() -> None:
    code = (
        "import importlib, pkgutil, sys, edge_agent\n"
        "for module in pkgutil.walk_packages(edge_agent.__path__, 'edge_agent.'):\n"
        "    if not module.name.endswith('.local_training'):\n"
        "        importlib.import_module(module.name)\n"
        "print(len([name for name in sys.modules if name.startswith('edge_agent.')]))\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=WAIT_SECONDS
    )

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 20
