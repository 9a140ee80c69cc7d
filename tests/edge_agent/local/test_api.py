import io
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image as PillowImage

from edge_agent.generation import finishing, jobs, results
from edge_agent.local.jobs_answers import LIST_DEFAULT
from edge_agent.settings import EdgeSettings
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from tests.conftest import WAIT_SECONDS, wait_until
from tests.edge_agent.agents import NOWHERE, edge_json
from tests.edge_agent.conftest import Device
from tests.edge_agent.generation.stock import stocked
from tests.edge_agent.local.agents import Serve, Served, events
from tests.edge_agent.server import Server

NO_JOB = "0" * 32


def pixels(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    return np.asarray(PillowImage.open(io.BytesIO(answer.content)))


def problem(answer: httpx.Response, status: int) -> str:
    """The reason of a problem document, which has to be whole."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert set(document) == {"type", "title", "status", "detail", "reason"}
    assert document["status"] == status
    assert "\n" not in document["detail"]
    return str(document["reason"])


def test_images_are_made_shown_at_the_cut_and_downloaded(
    device: Device, server: Server, head_bundle: Path, serve: Serve
) -> None:
    page = serve(device.url, "--head", head_bundle)

    answer = page.http.post("/v1/images", json={"count": 3, "label": 1, "seed": 7, "steps": 3})
    assert answer.status_code == 202
    job_id = answer.json()["job_id"]
    assert answer.headers["location"] == f"/v1/jobs/{job_id}"
    job = page.wait(job_id)

    assert (job["count"], job["done"], job["label"], job["seed"], job["seeded"]) == (3, 3, 1, 7, True)
    assert (job["steps"], job["source"], job["reason"]) == (3, "server", None)
    images = np.load(io.BytesIO(page.http.get(job["links"]["images_npy"]).content))
    latents = np.load(io.BytesIO(page.http.get(job["links"]["latents_npy"]).content))
    assert images.shape == latents.shape == (3, 1, 8, 8)
    for n in range(3):
        finished = pixels(page.http.get(job["links"]["image"].format(n=n)))
        cut = pixels(page.http.get(job["links"]["cut"].format(n=n)))
        np.testing.assert_array_equal(finished, results.as_pixels(images[n]))
        np.testing.assert_array_equal(cut, results.as_pixels(latents[n]))
        assert (finished != cut).any()
    assert problem(page.http.get(f"/v1/jobs/{job_id}/images/3.png"), 404) == "no_such_picture"


@pytest.mark.parametrize("channels", [1, 3])
def test_a_film_strip_shows_the_steps_from_the_cut_to_the_image(
    device: Device, server: Server, head_bundle: Path, serve: Serve, channels: int
) -> None:
    page = serve(device.url, "--head", head_bundle)
    job_id = page.make(count=2)
    page.wait(job_id)
    shape = (2, 5, 8, 8) if channels == 1 else (2, 5, 8, 8, channels)
    steps = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    np.save(page.results / job_id / "steps.npy", steps)

    job = page.job(job_id)
    strip = pixels(page.http.get(job["links"]["steps"].format(n=1)))

    assert job["frames"] == 5
    np.testing.assert_array_equal(strip, np.concatenate(list(steps[1]), axis=1))


def test_of_many_steps_the_first_and_the_last_are_in_the_strip(
    device: Device, server: Server, head_bundle: Path, serve: Serve
) -> None:
    page = serve(device.url, "--head", head_bundle)
    job_id = page.make(count=1)
    page.wait(job_id)
    steps = np.random.default_rng(0).integers(0, 256, (1, 301, 4, 4)).astype(np.uint8)
    np.save(page.results / job_id / "steps.npy", steps)

    strip = pixels(page.http.get(page.job(job_id)["links"]["steps"].format(n=0)))

    assert strip.shape == (4, 64 * 4)
    np.testing.assert_array_equal(strip[:, :4], steps[0, 0])
    np.testing.assert_array_equal(strip[:, -4:], steps[0, -1])


def test_progress_is_streamed_to_the_end_and_resumed(
    device: Device, server: Server, head_bundle: Path, serve: Serve
) -> None:
    server.answering.clear()
    page = serve(device.url, "--head", head_bundle)
    job_id = page.make(count=40)
    path = f"/v1/jobs/{job_id}/events"

    with page.http.stream("GET", path) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        seen = []
        for kind, place, job in events(stream):
            seen.append((kind, place, job["state"]))
            if len(seen) == 1:
                server.answering.set()
    assert seen[0][0] == "progress"
    assert [kind for kind, _, _ in seen].count("end") == 1
    assert seen[-1] == ("end", "completed-40", "completed")
    assert len({place for _, place, _ in seen}) == len(seen), "nothing is told twice"

    resumed = page.http.get(path, headers={"Last-Event-ID": seen[-2][1]})
    assert [event[:2] for event in events(resumed)] == [("end", "completed-40")]
    assert page.http.get(path, headers={"Last-Event-ID": "completed-40"}).status_code == 204


def test_streams_are_bounded_and_make_room_again(serve: Serve, head_bundle: Path) -> None:
    page = serve(NOWHERE, "--head", head_bundle)
    path = f"/v1/jobs/{page.make()}/events"
    full, leave = threading.Barrier(33), threading.Event()

    def hold() -> None:
        with (
            httpx.Client(base_url=page.url, timeout=WAIT_SECONDS) as client,
            client.stream("GET", path) as stream,
        ):
            told = events(stream)  # kept: a stream that is forgotten is closed
            next(told)
            full.wait(30)
            leave.wait(30)

    with ThreadPoolExecutor(32) as pool:
        held = [pool.submit(hold) for _ in range(32)]
        full.wait(30)
        assert problem(page.http.get(f"{path}?seconds=0"), 503) == "too_many_streams"
        assert page.http.get("/v1/status").status_code == 200
        leave.set()
        for one in held:
            one.result()
    wait_until(lambda: page.http.get(f"{path}?seconds=0").status_code == 200, "there is room again")


def test_of_many_streams_opened_at_once_no_more_are_served_than_there_may_be(
    serve: Serve, head_bundle: Path
) -> None:
    page = serve(NOWHERE, "--head", head_bundle)
    path = f"/v1/jobs/{page.make()}/events"
    place = httpx.URL(page.url)
    ask = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with ExitStack() as held:
        asked = [
            held.enter_context(socket.create_connection((place.host, place.port or 0), timeout=WAIT_SECONDS))
            for _ in range(80)
        ]
        for one in asked:
            one.sendall(ask)
        statuses = [int(one.recv(12).split()[1]) for one in asked]
        assert (statuses.count(200), statuses.count(503)) == (32, 48)
    wait_until(lambda: page.http.get(f"{path}?seconds=0").status_code == 200, "there is room again")


def test_the_agent_stops_at_once_with_streams_open(serve: Serve, head_bundle: Path) -> None:
    page = serve(NOWHERE, "--head", head_bundle)
    path = f"/v1/jobs/{page.make()}/events"
    with page.http.stream("GET", path) as stream:
        told = events(stream)
        next(told)
        assert page.process.stop() == 0
        assert list(told) == [], "the stream ends whole"
    assert not page.process.events("page_ended")


def test_a_cancelled_job_ends_once_and_the_agent_goes_on(
    device: Device, server: Server, head_bundle: Path, serve: Serve
) -> None:
    server.answering.clear()
    page = serve(device.url, "--head", head_bundle)
    unwanted = page.make()
    page.wait(unwanted, "requested")

    cancelled = page.http.delete(f"/v1/jobs/{unwanted}")
    again = page.http.delete(f"/v1/jobs/{unwanted}")
    server.answering.set()
    wanted = page.make()
    page.wait(wanted)

    for answer in (cancelled, again):
        assert (answer.status_code, answer.json()["state"]) == (200, "failed")
        assert answer.json()["reason"] == "cancelled"
    assert page.job(unwanted)["state"] == "failed", "the late answer changes nothing"
    assert problem(page.http.delete(f"/v1/jobs/{wanted}"), 409) == "ended"
    assert problem(page.http.get(f"/v1/jobs/{unwanted}/images/0.png"), 404) == "no_images"


def test_a_job_cancelled_while_it_is_planned_or_finished_stays_cancelled(
    state: StateDirectory, spool: Spool
) -> None:
    with spool.transaction() as transaction:
        transaction.execute(
            "INSERT INTO jobs (job_id, state, count, seed, anchor_boot, anchor_seconds, created_at)"
            " VALUES ('a', 'finishing', 1, 1, 'boot', 0, 0)"
        )
    job = jobs.find(spool, "a")
    assert job is not None
    # The head's work is done and on the disk when the wish is taken back.
    results.save(state, "a", np.zeros((1, 1, 8, 8), np.float32), None)
    assert jobs.cancel(spool, "a")

    finishing.finish(spool, job, state, slot=None, stopping=lambda: False)  # type: ignore[arg-type]  # no head is needed any more

    with spool.transaction() as transaction:
        assert not jobs.move(transaction, "a", "requested")
    found = jobs.find(spool, "a")
    assert found is not None
    assert (found.state, found.reason, found.done) == ("failed", "cancelled", 0)
    assert not state.results("a").exists()


def test_the_same_key_makes_one_job(serve: Serve, head_bundle: Path) -> None:
    page = serve(NOWHERE, "--head", head_bundle)

    def ask(count: int, key: str) -> httpx.Response:
        return httpx.post(
            f"{page.url}/v1/images",
            json={"count": count},
            headers={"Idempotency-Key": key},
            timeout=WAIT_SECONDS,
        )

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(2, "one"), range(16)))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["job_id"] for answer in answers}) == 1
    assert problem(ask(3, "one"), 409) == "key_reused"
    assert ask(3, "two").json()["job_id"] != answers[0].json()["job_id"]
    assert len(page.http.get("/v1/jobs").json()["jobs"]) == 2


def test_a_budget_of_milliseconds_reaches_the_job(serve: Serve, head_bundle: Path) -> None:
    page = serve(NOWHERE, "--head", head_bundle)
    assert page.job(page.make(budget_ms=12.5))["budget_ms"] == 12.5
    assert problem(page.http.post("/v1/images", json={"count": 1, "budget_ms": 0}), 422) == "bad_body"


def test_a_key_is_remembered_by_the_next_agent_for_as_long_as_its_job_is_kept(
    serve: Serve, head_bundle: Path, state: StateDirectory
) -> None:
    def ask(page: Served, count: int) -> httpx.Response:
        return page.http.post("/v1/images", json={"count": count}, headers={"Idempotency-Key": "one"})

    first = serve(NOWHERE, "--head", head_bundle)
    made = ask(first, 2).json()["job_id"]
    assert first.process.stop() == 0
    page = serve(NOWHERE, "--head", head_bundle)

    assert ask(page, 2).json()["job_id"] == made
    assert problem(ask(page, 3), 409) == "key_reused"

    page.http.delete(f"/v1/jobs/{made}")
    with Spool(state.spool) as spool, spool.transaction() as transaction:
        transaction.execute("DELETE FROM jobs WHERE job_id = ?", (made,))  # as housekeeping does
    assert ask(page, 3).json()["job_id"] != made


def test_jobs_are_listed_newest_first_page_by_page(serve: Serve, head_bundle: Path) -> None:
    page = serve(NOWHERE, "--head", head_bundle)
    made = [page.make() for _ in range(23)]

    first = page.http.get("/v1/jobs").json()
    second = page.http.get("/v1/jobs", params={"before": first["next"], "limit": 20}).json()

    assert len(first["jobs"]) == LIST_DEFAULT
    assert second["next"] is None
    listed = [job["job_id"] for job in first["jobs"] + second["jobs"]]
    assert listed == made[::-1]


@pytest.mark.parametrize(
    ("body", "kind", "status", "reason"),
    [
        (b'{"count": 0}', "application/json", 422, "bad_body"),
        (b'{"count": 1025}', "application/json", 422, "bad_body"),
        (b'{"count": true}', "application/json", 422, "bad_body"),
        (b'{"count": "4"}', "application/json", 422, "bad_body"),
        (b'{"count": 1, "seed": 9223372036854775808}', "application/json", 422, "bad_body"),
        (b'{"count": 1, "deadline_seconds": 1e999}', "application/json", 422, "bad_body"),
        (b'{"count": 1, "colour": "red"}', "application/json", 422, "bad_body"),
        (b"[" * 60_000, "application/json", 422, "bad_body"),
        (b"\xff\xfe", "application/json", 422, "bad_body"),
        (b"", "application/json", 422, "bad_body"),
        (b'{"count": 1}', "text/plain", 415, "not_json"),
        (b" " * 65_537, "application/json", 413, "too_large"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_in_one_sentence(
    offline_page: Served, body: bytes, kind: str, status: int, reason: str
) -> None:
    answer = offline_page.http.post("/v1/images", content=body, headers={"Content-Type": kind})
    assert problem(answer, status) == reason


def test_a_body_without_a_declared_length_is_bounded_as_well(offline_page: Served) -> None:
    answer = offline_page.http.post(
        "/v1/images",
        content=(b" " * 1024 for _ in range(200)),
        headers={"Content-Type": "application/json"},
    )
    assert problem(answer, 413) == "too_large"


def test_a_body_that_does_not_come_is_not_waited_for(offline_page: Served) -> None:
    place = httpx.URL(offline_page.url)
    head = b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    with socket.create_connection((place.host, place.port or 0), timeout=WAIT_SECONDS) as slow:
        slow.sendall(head)
        with socket.create_connection((place.host, place.port or 0), timeout=WAIT_SECONDS) as gone:
            gone.sendall(head)
        assert slow.recv(4096).startswith(b"HTTP/1.1 408")
    assert not offline_page.process.events("page_failed"), "who goes away is no failure either"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/v1/jobs/{NO_JOB}", 404),
        (f"/v1/jobs/{NO_JOB}/events", 404),
        (f"/v1/jobs/{NO_JOB}/images/0.png", 404),
        (f"/v1/jobs/{NO_JOB}/latents.npy", 404),
        ("/v1/jobs/..", 404),
        ("/v1/jobs/%2e%2e%2fspool.sqlite3", 404),
        ("/v1/jobs/..%2f..%2fsecret/images.npy", 404),
        (f"/v1/jobs/{NO_JOB}/images/..%2f..%2f..%2fsecret/cut.png", 404),
        (f"/v1/jobs/{NO_JOB}/images/-1.png", 404),
        (f"/v1/jobs/{NO_JOB}/images/99999999999999999999.png", 404),
        ("/page/..%2fserver.py", 404),
        ("/page/%2fetc%2fpasswd", 404),
        ("/page/index.html", 404),
        ("/v1/jobs?limit=0", 422),
        ("/v1/jobs?limit=1&limit=2", 422),
        ("/v1/jobs?before=x", 422),
        ("/v1/status?x=1", 422),
        ("/nowhere", 404),
    ],
)
def test_addresses_that_lead_nowhere_say_so(offline_page: Served, path: str, status: int) -> None:
    problem(offline_page.http.get(path), status)


def test_a_full_outbox_and_unfinished_images_are_told(
    serve: Serve, head_bundle: Path, tmp_path: Path
) -> None:
    config = tmp_path / "small.toml"
    config.write_text("outbox_max_bytes = 1048576\n")
    images = np.random.default_rng(0).uniform(-1, 1, (120, 1, 64, 64)).astype(np.float32)
    page = serve(NOWHERE, "--head", head_bundle, "--config", config)
    job_id = page.make()
    assert problem(page.http.get(f"/v1/jobs/{job_id}/images.npy"), 409) == "not_finished"
    with Spool(page.results.parent / "spool.sqlite3") as spool, spool.transaction() as transaction:
        transaction.execute(
            "INSERT INTO outbox (message_id, priority, kind, type, size_bytes, created_at, body)"
            " VALUES ('x', 2, 'samples', 'samples.v1', 1048576, 0, ?)",
            (images.tobytes()[:1048576],),
        )

    refused = page.http.post("/v1/images", json={"count": 1})

    assert problem(refused, 507) == "outbox_full"
    assert "quota" in refused.json()["detail"]


def test_a_full_outbox_refuses_nothing_that_the_stock_can_serve(
    serve: Serve,
    state: StateDirectory,
    head_bundle: Path,
    settings: Callable[..., EdgeSettings],
    tmp_path: Path,
) -> None:
    stocked(state, head_bundle, settings)
    config = tmp_path / "small.toml"
    config.write_text("outbox_max_bytes = 1048576\n")
    page = serve(NOWHERE, "--head", head_bundle, "--config", config)
    with Spool(state.spool) as spool, spool.transaction() as transaction:
        transaction.execute(
            "INSERT INTO outbox (message_id, priority, kind, type, size_bytes, created_at, body)"
            " VALUES ('x', 2, 'samples', 'samples.v1', 1048576, 0, zeroblob(1048576))"
        )

    job_id = page.make(count=3, label=1)

    assert page.wait(job_id)["source"] == "pool"
    for wish in ({"count": 6, "label": 1}, {"count": 1, "label": 2}, {"count": 1, "label": 1, "seed": 5}):
        assert problem(page.http.post("/v1/images", json=wish), 507) == "outbox_full", wish


def test_status_ledger_and_metrics_are_those_of_the_command_line(
    state: StateDirectory, serve: Serve, head_bundle: Path, pictures: np.ndarray, tmp_path: Path
) -> None:
    np.savez(tmp_path / "data.npz", images=pictures)
    edge_json("contribute", tmp_path / "data.npz", "--state", state.path, "--schedule-steps", 200)
    page = serve(NOWHERE, "--head", head_bundle)
    wait_until(lambda: page.http.get("/v1/status").json()["head"] is not None, "the head is loaded")

    shown = page.http.get("/v1/status").json()
    printed = edge_json("status", "--state", state.path)
    for facts in (shown, printed):
        facts["outbox"].pop("oldest_seconds")
    assert shown == printed
    assert shown["agent"]["api_port"] == httpx.URL(page.url).port

    few = page.http.get("/v1/ledger", params={"limit": 4}).json()
    rest = page.http.get("/v1/ledger", params={"after": few["next"]}).json()
    assert few["summary"]["images"] == 10
    assert len({image["image"] for image in few["images"] + rest["images"]}) == 10
    assert rest["next"] is None

    metrics = page.http.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert "collafuse_outbox_messages" in metrics.text


def test_many_callers_are_served_while_the_spool_is_held(
    serve: Serve, head_bundle: Path, state: StateDirectory
) -> None:
    page = serve(NOWHERE, "--head", head_bundle)
    job_id = page.make()
    page.wait(job_id, "requested")
    with Spool(state.spool) as spool, spool.transaction(), ThreadPoolExecutor(16) as pool:
        # Somebody writes for a long time: readers do not wait for it.
        answers = list(
            pool.map(
                lambda _: httpx.get(f"{page.url}/v1/jobs/{job_id}", timeout=WAIT_SECONDS).status_code,
                range(200),
            )
        )
    assert answers == [200] * 200
    assert page.process.exit_code is None
