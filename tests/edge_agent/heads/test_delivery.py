"""Heads on their way to a real agent, while processes are killed, links cut and the broker restarted: a head always works."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from broker import identities
from broker.node.local_node import NodeInfo
from broker.settings import BrokerSettings
from edge_agent.heads import store
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from tests.brokers import Brokers
from tests.conftest import wait_until
from tests.edge_agent.agents import MORTAL, Process, collafuse, edge_json
from tests.edge_agent.conftest import Device
from tests.edge_agent.heads.conftest import KEY
from tests.edge_agent.heads.deliveries import live, path_digest, send, states, status
from tests.link import Link

Publish = Callable[..., Path]
RunAgent = Callable[..., Process]


def test_a_head_comes_over_a_link_that_is_cut_again_and_again(
    node: NodeInfo,
    device: Device,
    owner: BrokerSettings,
    state: StateDirectory,
    publish: Publish,
    run_agent: RunAgent,
) -> None:
    bundle = send(owner, device.user, publish(1))
    with Link(node.ports.amqp, bytes_per_second=600_000) as link:
        run_agent(device.url.replace(f":{node.ports.amqp}/", f":{link.port}/"))
        wait_until(lambda: states(state) == {bundle: "receiving"}, "the device receives")
        for pieces in (3, 8, 14):

            def enough(pieces: int = pieces) -> bool:
                with Spool(state.spool) as spool:
                    return int(spool.rows("SELECT count(*) FROM head_chunks")[0][0]) >= pieces

            wait_until(enough, f"{pieces} pieces are there")
            assert link.cut() > 0
        wait_until(lambda: states(state) == {bundle: "live"}, "the head is live")


def test_a_head_comes_through_a_restart_of_the_broker(
    state: StateDirectory, publish: Publish, run_agent: RunAgent, tmp_path: Path
) -> None:
    with Brokers(tmp_path / "brokers") as brokers:
        with brokers.management as management:
            credentials = identities.enroll(management, "ward", "one", address=brokers.settings)
            owner = identities.owner(management, "ward", address=brokers.settings)
        bundle = send(owner, "ward_one", publish(1))
        brokers.kill(0)
        agent = run_agent(credentials.amqp_url)
        brokers.start(0)
        wait_until(lambda: states(state) == {bundle: "live"}, "the head is live")
        assert agent.exit_code is None


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_step_of_a_delivery_a_head_always_works(
    device: Device,
    owner: BrokerSettings,
    state: StateDirectory,
    publish: Publish,
    run_agent: RunAgent,
    when: str,
) -> None:
    old = publish(1)
    bundle = send(owner, device.user, publish(2))
    deaths, commits = 0, 2
    while deaths < 40 and states(state).get(bundle) not in ("live", "rolled_back", "failed"):
        agent = run_agent(device.url, "--head", old, code=MORTAL, COMMITS=str(commits), WHEN=when)
        wait_until(
            lambda agent=agent: (
                agent.exit_code is not None  # type: ignore[misc]
                or states(state).get(bundle) in ("live", "rolled_back", "failed")
            ),
            "the agent dies or is done",
        )
        if agent.exit_code is None:
            agent.kill()
            break
        assert agent.wait() == -signal.SIGKILL, agent.log.read_text()
        deaths, commits = deaths + 1, commits + 3

    assert deaths >= 5
    run_agent(device.url, "--head", old)
    wait_until(
        lambda: (
            states(state)[bundle] in ("live", "rolled_back", "failed")
            and (status(state)["head"] or {}).get("identity") is not None
        ),
        "the device is done with the head and has one that works",
    )
    head = status(state)["head"]
    assert head["error"] is None
    assert head["delivered"] == (states(state)[bundle] == "live")
    assert not list((state.heads).glob(".*"))


def test_a_head_is_installed_looked_at_and_taken_back_by_hand(
    device: Device, state: StateDirectory, publish: Publish, run_agent: RunAgent
) -> None:
    common = ("--state", state.path)
    config = state.path.parent / "device.toml"
    config.write_text(f'client = "ward"\nhead_keys = ["{KEY.public.text}"]\n')
    first, second = publish(3), publish(4)

    unsigned = collafuse("edge", "head", "install", publish(9, key=None), *common, "--config", config)
    assert unsigned.returncode == 1
    assert "sign it with" in unsigned.stderr
    assert len(unsigned.stderr.splitlines()) == 1

    nothing = collafuse("edge", "head", "rollback", *common)
    assert nothing.returncode == 1
    assert "there is no delivered or installed head to go back from" in nothing.stderr

    run_agent(device.url)
    for path in (first, second):
        done = collafuse("edge", "head", "install", path, *common, "--config", config)
        assert done.returncode == 0, done.stderr
        assert "is staged" in done.stdout
        wait_until(lambda path=path: live(state) == path_digest(path), "the head is live")  # type: ignore[misc]
    older = collafuse("edge", "head", "install", publish(2), *common, "--config", config)
    assert "is not newer than the installed counter 4" in older.stderr

    back = collafuse("edge", "head", "rollback", *common)
    assert "is given up" in back.stdout
    wait_until(lambda: live(state) == path_digest(first), "the head before is live")
    again = collafuse("edge", "head", "install", second, *common, "--config", config)
    assert again.returncode == 0, "the operator's hand undoes what the operator's hand did"
    wait_until(lambda: live(state) == path_digest(second), "the head is live again")
    shown = edge_json("head", "status", *common)["heads"]
    assert {head["counter"]: head["state"] for head in shown} == {4: "live", 3: "previous"}
    assert "previous" in collafuse("edge", "head", "status", *common).stdout


def test_of_a_head_that_waits_for_the_trial_of_another_the_status_says_so(state: StateDirectory) -> None:
    waits = "it is tried when the trial of the other has ended"

    def shown() -> str:
        return collafuse("edge", "head", "status", "--state", state.path, COLUMNS="200").stdout

    def put(counter: int, in_state: store.State) -> None:
        with Spool(state.spool) as spool, spool.transaction() as transaction:
            digest = str(counter) * 64
            store.put(transaction, digest, name="ward", version="1", counter=counter, state=in_state)

    put(2, "staged")
    assert "staged" in shown()
    assert waits not in shown()
    put(1, "trial")
    assert waits in shown()
