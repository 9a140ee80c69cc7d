"""How a denoise worker starts, shows how it is, gets stuck and ends: real processes, a real broker."""

import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable

import httpx
import pytest

from server_worker.denoising.watchdog import EXIT_STUCK, Watchdog
from server_worker.storage import Storage
from tests.conftest import WAIT_SECONDS, wait_until
from tests.server_worker.backbones import publish_backbone
from tests.server_worker.conftest import Worker
from tests.server_worker.denoising.test_denoising import LONG_PLAN, request
from tests.server_worker.devices import Device


@pytest.fixture
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return Storage(tmp_path_factory.mktemp("server"))


def probe(worker: Worker, path: str) -> tuple[int, str]:
    answer = httpx.get(f"http://127.0.0.1:{int(worker.port_file.read_text())}{path}")
    return answer.status_code, answer.text.strip()


def test_a_worker_is_live_at_once_ready_with_its_first_version_and_drains_when_told(
    storage: Storage,
    worker: Callable[..., Worker],
    device: Callable[..., Device],
    queue_depth: Callable[[str], int],
) -> None:
    started = worker("denoise", "--storage", storage.url, "--poll", "0.1", "--max-batch", "4")
    started.wait_for("waiting_for_a_version")
    assert probe(started, "/livez") == (200, "ok")
    status, why = probe(started, "/readyz")
    assert status == 503
    assert "waiting for the first backbone version" in why

    publish_backbone(storage)
    wait_until(lambda: probe(started, "/readyz") == (200, "ok"), "the worker was ready")

    sender, long = device(), request(n=12, plan=LONG_PLAN, sampler="ddpm")
    sender.ask(long)
    wait_until(lambda: started.metric("collafuse_samples_running") == 4, "the request was running")
    started.process.terminate()
    assert started.end() == 0, started.log_path.read_text()
    assert sum(len(part.x) for part in sender.latents(long).values()) == long.n
    assert queue_depth("denoise") == 0


def test_a_worker_that_cannot_finish_in_time_gives_its_request_back(
    storage: Storage,
    worker: Callable[..., Worker],
    device: Callable[..., Device],
    queue_depth: Callable[[str], int],
) -> None:
    publish_backbone(storage)
    started = worker("denoise", "--storage", storage.url, "--max-batch", "1", "--drain", "0")
    sender, long = device(), request(n=200, plan=LONG_PLAN)
    sender.ask(long)
    wait_until(lambda: started.metric("collafuse_samples_running") > 0, "the request was running")
    started.process.terminate()
    assert started.end() == 0, started.log_path.read_text()
    wait_until(lambda: queue_depth("denoise") == 1, "the request was back in its queue")


def test_a_stuck_step_ends_the_process_and_another_worker_takes_over(
    storage: Storage,
    worker: Callable[..., Worker],
    device: Callable[..., Device],
) -> None:
    publish_backbone(storage)
    # No step can be this fast, so the first one that counts is stuck by definition.
    stuck = worker("denoise", "--storage", storage.url, "--step-limit", "0.0001")
    assert stuck.end() == EXIT_STUCK, stuck.log_path.read_text()
    assert [each["event"] for each in stuck.events()][-1] == "step_stuck"
    worker("denoise", "--storage", storage.url)
    sender, each = device(), request()
    sender.ask(each)
    assert sum(len(part.x) for part in sender.latents(each).values()) == each.n


def test_a_watchdog_notices_silence_once_and_only_silence() -> None:
    noticed: list[float] = []
    happened = threading.Event()

    def on_stuck() -> None:
        noticed.append(watchdog.silent_seconds)
        happened.set()

    limit_seconds = 0.5
    watchdog = Watchdog(limit_seconds, on_stuck)
    watchdog.start()
    for _ in range(20):
        assert not happened.wait(limit_seconds / 10)
        watchdog.beat()
    assert happened.wait(20)
    watchdog.stop()
    assert len(noticed) == 1
    assert noticed[0] > limit_seconds


def test_a_loop_that_never_comes_round_again_ends_its_process() -> None:
    program = """
        import threading
        from server_worker.denoising.watchdog import Watchdog
        Watchdog(0.2).start()
        threading.Event().wait()
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        timeout=WAIT_SECONDS,
        check=False,
        capture_output=True,
    )
    assert ended.returncode == EXIT_STUCK
