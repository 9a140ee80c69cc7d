"""A damaged spool is set aside whole and a new one begun, so that a device goes on without anybody coming to see it.

What was waiting in the damaged one is lost to the service, and kept for whoever wants to look. Which images were released is not
lost: the journal knows it (see `edge_agent.storage.journal`); where it does not, that is reported (`edge_agent.storage.loss`).
"""

import contextlib
import errno
from collections.abc import Callable
from pathlib import Path

from edge_agent.errors import AgentRunning, SpoolDamaged, SpoolError, SpoolFull
from edge_agent.storage import aside
from edge_agent.storage.reconciliation import reconcile
from edge_agent.storage.spool import Spool, log_of
from edge_agent.storage.state import StateDirectory, agent_lock


def names(state: StateDirectory) -> list[str]:
    """What was set aside and is still there, oldest first."""
    return [folder.name for folder in aside.folders(state.path)]


def set_aside(state: StateDirectory) -> Path:
    """Move the spool with all that belongs to it out of the way; returns the folder it is in now.

    The caller holds the agent lock and has closed its connections. Those of other processes notice it at their next transaction
    (SpoolReplaced). Interrupted by a power cut, it leaves a log without its database, which counts as damaged again.

    Raises SpoolFull when the disk has no room for the folder, SpoolError when the directory cannot be written.
    """
    try:
        # The database first: without it nobody takes the rest for the log of a good one.
        index = state.spool.with_name(f"{state.spool.name}-shm")
        return aside.move(state.path, (state.spool, log_of(state.spool), index))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise SpoolFull(
                f"the disk is full: the damaged spool {state.spool} cannot be set aside; free some space"
            ) from error
        raise SpoolError(
            f"the damaged spool {state.spool} cannot be set aside: {error.strerror or error}; check the directory"
        ) from error


def suspect(state: StateDirectory) -> None:
    """Leave word for the running agent that the spool looks damaged; it may hold all it needs of it in memory."""
    with contextlib.suppress(OSError):  # a full disk: then the agent finds out by itself
        _suspicion(state).touch(mode=0o600)


def follow_up(state: StateDirectory) -> None:
    """For the running agent: when somebody left word, look with fresh eyes. Raises SpoolDamaged when they were right."""
    if _suspicion(state).exists():
        _suspicion(state).unlink(missing_ok=True)
        Spool(state.spool, verify=True).close()


def open_spool(state: StateDirectory, *, say: Callable[[str], None], verify: bool = False) -> Spool:
    """The spool, for a command beside the agent; a damaged one is set aside first, unless an agent runs, which does that itself.

    say: told in one line when a spool was set aside.

    Raises SpoolDamaged when an agent is running, other SpoolErrors when the spool cannot be used.
    """
    try:
        return Spool(state.spool, verify=verify)
    except SpoolDamaged as error:
        damage = error
    try:
        with agent_lock(state):
            return _begin_anew(state, damage, say=say, verify=verify)
    except AgentRunning:
        suspect(state)
        raise SpoolDamaged(
            f"{damage}; the running agent sets it aside and begins a new one within seconds: try again then"
        ) from damage


def _begin_anew(
    state: StateDirectory, damage: SpoolDamaged, *, say: Callable[[str], None], verify: bool
) -> Spool:
    """Under the agent lock: look again, since another process may have been faster, and set the spool aside."""
    try:
        return Spool(state.spool, verify=verify)
    except SpoolDamaged:
        folder = set_aside(state)
    spool = Spool(state.spool, verify=verify)
    try:
        lost = reconcile(spool).lost
    except BaseException:
        spool.close()
        raise
    released = (
        "some releases may be forgotten, for their record is damaged too: see `collafuse edge ledger`"
        if lost
        else "which images were released is still known"
    )
    say(
        f"{damage}; it was set aside in {folder} and a new one begun: {released}; waiting messages and jobs are lost"
    )
    return spool


def _suspicion(state: StateDirectory) -> Path:
    return state.path / "spool.suspect"
