"""What a timeline makes of log lines: whose they are, how long each stretch took, and what it says where clocks differ."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from monitoring.trace.errors import BadId, LogUnreadable, NothingFound
from monitoring.trace.log_reader import find
from monitoring.trace.timeline import Timeline, timeline
from tests.monitoring.trace import story
from tests.monitoring.trace.story import JOB, OTHER_JOB, OTHER_REQUEST, REQUEST, STOCK_REQUEST, line

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a log file of these lines; returns its path."""

    def make(*lines: str, name: str = "log") -> str:
        path = tmp_path / name
        path.write_text("".join(f"{each}\n" for each in lines))
        return str(path)

    return make


def of(wanted: str, *logs: str) -> Timeline:
    return timeline(find(wanted, logs))


def seconds(found: Timeline, *, stock: bool = False) -> dict[str, float]:
    return {each.name: round(each.seconds, 6) for each in found.stretches if each.stock == stock}


def collafuse(
    *arguments: str, told: bytes = b"", stdin: IO[bytes] | None = None
) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-m", "collafuse", "trace", *arguments],
        stdin=stdin,
        input=told if stdin is None else None,
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, "COLUMNS": "200", "PYTHONPATH": str(Path(__file__).parents[3])},
    )


ALL = {
    "waiting to begin": 1.0,
    "in the outbox": 0.5,
    "in the broker's queue": 0.25,
    "waiting in the scheduler": 0.5,
    "computing": 3.0,
    "way back": 1.25,
    "waiting for the head": 0.5,
    "head": 2.0,
    "in all": 9.0,
}


def test_the_stretches_of_the_way_add_up_to_the_whole(write: Write) -> None:
    found = of(JOB, write(*story.device(), name="edge"), write(*story.worker(), name="denoise"))

    assert seconds(found) == ALL
    assert sum(ALL.values()) == 2 * ALL["in all"]
    assert found.notes == ()
    assert [each.where for each in found.lines] == ["edge"] * 4 + ["denoise"] * 5 + ["edge"] * 3


def test_nobody_elses_lines_are_among_them_and_a_request_leads_to_its_job(write: Write) -> None:
    others = (
        *story.device(OTHER_JOB, OTHER_REQUEST, at=0.1),
        *story.worker(OTHER_JOB, OTHER_REQUEST, at=0.1),
    )
    log = write(*story.device(), *others, *story.worker(), line("edge", 3.0, "agent_started"))

    by_job, by_request = of(JOB, log), of(REQUEST, log)

    assert {each.fields["job_id"] for each in by_job.lines} == {JOB}
    assert len(by_job.lines) == 12
    assert [each.fields for each in by_request.lines] == [each.fields for each in by_job.lines]


def test_a_worker_that_was_not_told_the_job_is_found_by_the_request(write: Write) -> None:
    found = of(JOB, write(*story.device(), *story.worker(None)))
    assert seconds(found) == ALL


def test_what_the_command_line_accepted_begins_when_it_was_accepted(write: Write) -> None:
    found = of(JOB, write(*story.device(of_cli=True), *story.worker()))
    assert seconds(found) == ALL


def test_a_job_from_the_stock_leads_to_the_request_that_filled_it(write: Write) -> None:
    on_device, on_server = story.stock(at=0.0)
    job = [
        line(
            "edge", 100.0, "job_started_from_stock", job_id=JOB, requests=[STOCK_REQUEST], waited_seconds=0.25
        ),
        line("edge", 100.5, "head_begun", job_id=JOB, evaluations=4),
        line("edge", 102.0, "job_completed", job_id=JOB),
    ]
    another = line("edge", 200.0, "job_started_from_stock", job_id=OTHER_JOB, requests=[STOCK_REQUEST])
    log = write(*on_device, *on_server, *job, another)

    found = of(JOB, log)

    assert seconds(found) == {
        "waiting to begin": 0.25,
        "waiting for the head": 0.5,
        "head": 1.5,
        "in all": 2.25,
    }
    assert seconds(found, stock=True) == {
        "in the outbox": 0.5,
        "in the broker's queue": 1.25,
        "waiting in the scheduler": 0.5,
        "computing": 3.0,
        "way back": 1.25,
    }
    assert OTHER_JOB not in {each.job_id for each in found.lines}
    assert of(STOCK_REQUEST, log).job_id is None


def test_a_stock_filled_before_these_logs_is_said_to_be(write: Write) -> None:
    started = line("edge", 0.0, "job_started_from_stock", job_id=JOB, requests=[STOCK_REQUEST])
    notes = of(JOB, write(started)).notes
    assert any("from the stock by 1 earlier requests" in note and STOCK_REQUEST in note for note in notes)


@pytest.mark.parametrize(
    ("skew", "stretch", "words"),
    [
        (
            -10.0,
            "in the broker's queue",
            "the clock of the device is at least 9.750 s ahead of that of the server",
        ),
        (10.0, "way back", "the clock of the server is at least 8.750 s ahead of that of the device"),
    ],
)
def test_clocks_that_differ_are_noticed_and_the_sum_stays_right(
    write: Write, skew: float, stretch: str, words: str
) -> None:
    found = of(JOB, write(*story.device(), *story.worker(at=skew)))

    took = seconds(found)
    assert took[stretch] < 0
    assert took["in the broker's queue"] + took["way back"] == 1.5
    assert [note for note in found.notes if words in note]


def test_of_several_sendings_and_workers_those_count_that_led_to_the_answer(write: Write) -> None:
    both = {"job_id": JOB, "request_id": REQUEST}
    found = of(
        JOB,
        write(
            *story.device(),
            line("edge", 1.1, "request_sent", **both),  # its link went before the confirm
            line("edge", 8.5, "request_sent", **both),  # asked again, for nothing
            line("denoise", 1.6, "request_taken", **both, user="ward_one"),  # by a worker that died
            *story.worker(),
        ),
    )
    assert seconds(found) == ALL
    assert any(f"request {REQUEST} was taken 2 times" in note for note in found.notes)


def test_a_large_job_has_the_way_of_each_of_its_requests_and_waits_for_the_last(write: Write) -> None:
    second = [each for each in story.device(JOB, OTHER_REQUEST, at=0.25) if OTHER_REQUEST in each]
    found = of(
        JOB, write(*story.device(), *second, *story.worker(), *story.worker(JOB, OTHER_REQUEST, at=0.25))
    )

    assert found.requests == (REQUEST, OTHER_REQUEST)
    ways = {name: [each for each in found.stretches if each.request_id == name] for name in found.requests}
    assert [each.name for each in ways[REQUEST]] == [each.name for each in ways[OTHER_REQUEST]] == [*ALL][1:6]
    own = {each.name: round(each.seconds, 6) for each in found.stretches if each.request_id is None}
    assert own == {"waiting to begin": 1.0, "waiting for the head": 0.25, "head": 2.0, "in all": 9.0}


def test_two_devices_that_chose_the_same_id_are_told_apart(write: Write) -> None:
    found = of(
        JOB, write(*story.device(), *story.worker(), *story.worker(JOB, OTHER_REQUEST, user="ward_two"))
    )
    assert any("requests of ward_one, ward_two carry this id" in note for note in found.notes)


@pytest.mark.parametrize(
    "nonsense",
    [
        "",
        "Traceback (most recent call last):",
        f"about {JOB}",
        f'{{"job_id": "{JOB}"',
        f'{{"job_id": "{JOB}", "timestamp": "yesterday", "event": "x"}}',
        f'{{"job_id": "{JOB}", "timestamp": 7, "event": "x"}}',
        f'{{"job_id": "{JOB}", "timestamp": "2026-03-02T10:00:00Z", "event": {{}}}}',
        f'["{JOB}"]',
        f'{{"job_id": ["{JOB}"], "timestamp": "2026-03-02T10:00:00Z", "event": "x"}}',
        '{"a":' * 5_000 + JOB,
        "\udc80".encode("utf-8", "surrogateescape").decode("latin-1") + JOB,
        "x" * 3_000_000 + JOB,
    ],
)
def test_what_is_no_line_of_ours_is_passed_over(write: Write, nonsense: str) -> None:
    found = of(JOB, write(nonsense, *story.device(), nonsense, *story.worker(), nonsense))
    assert seconds(found) == ALL


@pytest.mark.parametrize("prefix", ["edge-1  | ", "Mar 02 10:00:00 host collafuse[7]: "])
def test_the_prefix_of_a_collector_is_where_it_was(write: Write, prefix: str) -> None:
    found = of(JOB, write(*(prefix + each for each in story.device())))
    assert {each.where for each in found.lines} == {prefix.strip(" |:")}


def test_what_is_meant_for_a_terminal_is_no_part_of_where_it_was(write: Write) -> None:
    found = of(JOB, write(*("\x1b[2K\x1b[36medge-1  |\x1b[0m " + each for each in story.device())))
    assert {each.where for each in found.lines} == {"edge-1"}


def test_what_is_no_id_or_unknown_or_unreadable_is_one_line(write: Write, tmp_path: Path) -> None:
    log = write(*story.device())
    with pytest.raises(BadId, match="'4f1a' is no id"):
        find("4f1a", [log])
    with pytest.raises(NothingFound, match=OTHER_JOB):
        find(OTHER_JOB, [log])
    with pytest.raises(LogUnreadable, match="absent"):
        find(JOB, [str(tmp_path / "absent")])
    with pytest.raises(LogUnreadable, match="cannot read"):
        find(JOB, [str(tmp_path)])


def test_more_lines_than_anybody_reads_are_cut_and_it_says_so(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitoring.trace.log_reader.MAX_LINES", 5)
    found = of(JOB, write(*story.device()))
    assert len(found.lines) == 5
    assert "(5 lines)" in found.notes[-1]


def test_the_command_reads_a_pipe_and_a_file_together(write: Write) -> None:
    piped = "".join(f"denoiser-2  | {each}\n" for each in story.worker()).encode()
    done = collafuse(JOB, "-", write(*story.device(), name="agent.log"), "--json", told=piped)

    assert done.returncode == 0, done.stderr
    shown: dict[str, Any] = json.loads(done.stdout)
    assert {each["name"]: each["seconds"] for each in shown["stretches"]} == ALL
    assert {each["where"] for each in shown["events"]} == {"denoiser-2", "agent.log"}
    assert shown["events"][0]["offset_seconds"] == 0
    assert shown["requests"] == [REQUEST]


def test_the_command_shows_a_person_every_event_and_no_control_characters(write: Write) -> None:
    evil = line("denoise", 4.0, "request_failed", job_id=JOB, request_id=REQUEST, detail="\x1b[2Jgone")
    done = collafuse(JOB, write(*story.device(), evil, *story.worker()))

    text = done.stdout.decode()
    assert done.returncode == 0, done.stderr
    for words in ("job_accepted", "request_computed", "calls=16", "head", "10:00:09.000", "9.000"):
        assert words in text
    assert "\x1b" not in text
    assert "·[2Jgone" in text


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e400", "1" + 400 * "0", "-7", "1e300"])
def test_a_number_that_no_process_of_ours_writes_is_none(write: Write, number: str) -> None:
    started = line("edge", 1.0, "job_started", job_id=JOB, waited_seconds=0.5).replace("0.5", number)
    done = collafuse(JOB, write(started, *story.worker()), "--json")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    assert done.returncode == 0, done.stderr
    shown: dict[str, Any] = json.loads(done.stdout, parse_constant=refuse)
    assert "waiting to begin" not in {each["name"] for each in shown["stretches"]}


@pytest.mark.parametrize(
    "stamp", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999Z", "1969-12-31T00:00:00Z"]
)
def test_a_line_of_a_time_that_cannot_be_is_passed_over(write: Write, stamp: str) -> None:
    odd = json.dumps({"timestamp": stamp, "event": "job_started", "job_id": JOB})
    assert seconds(of(JOB, write(odd, *story.device(), *story.worker()))) == ALL
    with pytest.raises(NothingFound):
        of(JOB, write(odd))


def test_a_user_in_a_note_moves_no_cursor(write: Write) -> None:
    done = collafuse(JOB, write(*story.device(), *story.worker(), *story.worker(user="\x1b]0;gone\x07")))
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stdout
    assert "requests of ·]0;gone·, ward_one" in done.stdout.decode()


def test_an_unknown_id_is_one_line_and_exit_code_1(write: Write) -> None:
    done = collafuse(OTHER_JOB, write(*story.device()))
    (error,) = done.stderr.decode().splitlines()
    assert (done.returncode, done.stdout) == (1, b"")
    assert error.startswith("error: nothing is said of")


def test_a_rotated_log_that_gzip_packed_is_read_as_it_is(write: Write, tmp_path: Path) -> None:
    packed = tmp_path / "worker.log.2.gz"
    packed.write_bytes(gzip.compress("".join(f"{each}\n" for each in story.worker()).encode()))
    found = of(JOB, write(*story.device()), str(packed))
    assert seconds(found) == seconds(of(JOB, write(*story.device()), write(*story.worker(), name="worker")))
    assert {each.where for each in found.lines if each.process == "denoise"} == {"worker.log.2.gz"}


def test_what_gzip_packed_is_read_from_stdin_as_well(tmp_path: Path) -> None:
    packed = tmp_path / "all.gz"
    packed.write_bytes(gzip.compress("".join(f"{each}\n" for each in story.device()).encode()))
    plain = collafuse(JOB, "--json", told=gzip.decompress(packed.read_bytes()))
    assert plain.returncode == 0
    assert collafuse(JOB, "--json", told=packed.read_bytes()).stdout == plain.stdout, "a pipe"
    with packed.open("rb") as stream:
        redirected = collafuse(JOB, "--json", stdin=stream)
    assert redirected.stdout == plain.stdout


@pytest.mark.parametrize("spoilt", [slice(None, -20), slice(None, 12)], ids=["cut off", "its head alone"])
def test_a_packed_log_that_is_damaged_is_one_clear_line(spoilt: slice, tmp_path: Path) -> None:
    packed = tmp_path / "worker.log.2.gz"
    packed.write_bytes(gzip.compress("\n".join(story.worker()).encode())[spoilt])
    ended = collafuse(JOB, str(packed))
    said = ended.stderr.decode()
    assert (ended.returncode, said.count("\n")) == (1, 1)
    assert said.startswith("error: cannot read worker.log.2.gz: ")


def test_a_packed_log_of_rubbish_is_one_clear_line(tmp_path: Path) -> None:
    packed = tmp_path / "worker.log.2.gz"
    packed.write_bytes(gzip.compress(b"x" * 1000)[:10] + b"\xff" * 500)
    ended = collafuse(JOB, str(packed))
    assert (ended.returncode, ended.stderr.decode().count("\n")) == (1, 1)
