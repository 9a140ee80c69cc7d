"""The directory in which a device keeps everything: where each thing lies, the device's secret, and who may work in it."""

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_agent.errors import AgentRunning, ContributionError, StateError
from export.files import flush_directory

SECRET_BYTES = 32
SECRET_NAME = "secret"  # noqa: S105 - of a file
JOURNAL_NAME = "ledger.journal"
_LOCK_PATIENCE_SECONDS = 1.0


@dataclass(frozen=True)
class StateDirectory:
    """The paths below one state directory; `open_state` makes it."""

    path: Path

    @property
    def spool(self) -> Path:
        """The SQLite file."""
        return self.path / "spool.sqlite3"

    @property
    def agent_lock(self) -> Path:
        """Held by the running agent."""
        return self.path / "agent.lock"

    @property
    def contribution_lock(self) -> Path:
        """Held while images are being released."""
        return self.path / "contribution.lock"

    @property
    def heads(self) -> Path:
        """Where heads lie that were delivered or installed, one file each."""
        return self.path / "heads"

    def results(self, job_id: str) -> Path:
        """Where a job's pictures are once it is completed."""
        return self.path / "results" / job_id

    def secret(self, *, released: bool = False, new: bool = False) -> bytes:
        """The device's 32 random bytes, made at the first call; all release noise is derived from them.

        released: whether the ledger knows of releases: then the secret is missing, and none is made unless a `new` one is wanted.

        Raises StateError when the file is missing, is not what was written, or when others on this machine could read it.
        """
        path = self.path / SECRET_NAME
        with _explained(path):
            if not path.exists():
                if not new and (released or _has_content(self.path / JOURNAL_NAME)):
                    raise StateError(
                        f"the device secret {path} is missing although images were released with it: restore it from a backup; or"
                        " run `collafuse edge contribute --new-secret` to go on with another, with which none is made again"
                    )
                _create_secret(path)
            content, mode = path.read_bytes(), path.stat().st_mode
        if len(content) != SECRET_BYTES:
            raise StateError(
                f"the device secret {path} has {len(content)} bytes instead of {SECRET_BYTES}: restore it from a backup;"
                " with another secret, the same images would be released with different noise"
            )
        if mode & 0o077:
            raise StateError(
                f"the device secret {path} can be read by others on this machine: run chmod 600 {path}"
            )
        return content


def open_state(path: Path) -> StateDirectory:
    """The state directory, made if need be, readable by its owner only."""
    with _explained(path):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        (path / "results").mkdir(exist_ok=True)
        (path / "heads").mkdir(exist_ok=True)
    return StateDirectory(path)


@contextlib.contextmanager
def agent_lock(state: StateDirectory) -> Iterator[None]:
    """Hold the state directory as its one agent; the kernel lets go of it even when the process is killed.

    Raises AgentRunning when another agent holds it. A status command that is just looking is waited for.
    """
    deadline = time.monotonic() + _LOCK_PATIENCE_SECONDS
    with _lock_file(state.agent_lock) as descriptor:
        while not _try_lock(descriptor, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise AgentRunning(
                    f"another agent is running on {state.path}: stop it, or choose another directory with --state"
                )
            time.sleep(0.02)
        yield


def agent_is_running(state: StateDirectory) -> bool:
    """Whether an agent holds the state directory now."""
    if not state.agent_lock.exists():
        return False
    with _lock_file(state.agent_lock) as descriptor:
        return not _try_lock(descriptor, fcntl.LOCK_SH)


@contextlib.contextmanager
def contribution_lock(state: StateDirectory) -> Iterator[None]:
    """Hold the right to release images; raises ContributionError when another process is at it."""
    with _lock_file(state.contribution_lock) as descriptor:
        if not _try_lock(descriptor, fcntl.LOCK_EX):
            raise ContributionError(f"another contribution is running on {state.path}: wait for it to end")
        yield


@contextlib.contextmanager
def _lock_file(path: Path) -> Iterator[int]:
    with _explained(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _has_content(path: Path) -> bool:
    return path.is_dir() or (path.exists() and path.stat().st_size > 0)


def _create_secret(path: Path) -> None:
    """Write it whole under another name first, so that no crash and no second process can leave half a secret."""
    draft = path.with_name(f".secret.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, secrets.token_bytes(SECRET_BYTES))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    with contextlib.suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()
    flush_directory(path.parent)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StateError(
            f"cannot use {path}: {error.strerror or error}; choose another directory with --state"
        ) from error
