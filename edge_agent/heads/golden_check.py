"""The first run of a new head, in a process of its own: its golden probe on this device's provider.

A runtime that crashes, hangs or takes all memory ends this process and not the agent. What it found is the last line of its
standard output; an end without one is a verdict too.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import structlog

from edge_agent.errors import HeadError
from edge_agent.heads.head import Head
from export.bundle import read_bundle
from export.errors import BundleError

log = structlog.get_logger(__name__)

LIMIT_SECONDS = 120
_FIRST_TO_GO = "1000"
_NICENESS = 10


class GoldenCheck:
    """One check under way.

    path: the bundle's file; its parts are held against its own manifest, whose bytes must be `manifest_digest`'s.
    provider, threads: as the agent would run it.
    limit_seconds: after so long it has failed.
    """

    def __init__(
        self,
        path: Path,
        *,
        manifest_digest: str | None,
        provider: str,
        threads: int | None,
        limit_seconds: float = LIMIT_SECONDS,
    ) -> None:
        self.path = path
        self._not_after = time.monotonic() + limit_seconds
        asked = {
            "path": str(path),
            "manifest_digest": manifest_digest,
            "provider": provider,
            "threads": threads,
            "limit_seconds": limit_seconds,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edge_agent.heads.golden_check", json.dumps(asked)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def poll(self) -> tuple[str, str] | None:
        """What was found, when it was: a reason and a sentence, the reason empty when all is well; None while it runs."""
        code = self._process.poll()
        if code is None:
            if time.monotonic() < self._not_after:
                return None
            self.stop()
            return "check_timed_out", "its golden probe was not finished in time on this device"
        assert self._process.stdout is not None
        said = self._process.stdout.read(65_536).decode(errors="replace")
        self._process.stdout.close()
        return _read(said, code)

    def stop(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()
        self._process.wait()


def _read(said: str, code: int) -> tuple[str, str]:
    try:
        found = json.loads(said.splitlines()[-1])
        return str(found["reason"])[:64], str(found["detail"])[:300]
    except (IndexError, KeyError, TypeError, ValueError):
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return "check_crashed", f"the process that tried it ended with {how}"


def check(path: Path, manifest_digest: str | None, provider: Any, threads: int | None) -> tuple[str, str]:
    """Load the head and make its probe: a reason and a sentence, the reason empty when its answers are as they should be."""
    try:
        bundle = read_bundle(path)
    except BundleError as error:
        return "malformed", str(error)
    if manifest_digest not in (None, hashlib.sha256(bundle.manifest_bytes).hexdigest()):
        return "not_as_announced", "its manifest is another than the one that was announced"
    try:
        head = Head.load(path, provider, threads)
    except HeadError as error:
        return "load_failed", str(error)
    golden, allowed = bundle.golden, bundle.manifest.golden.allowed_relative_rms
    try:
        error_found = golden.relative_rms(head.predict(golden.x, golden.t, golden.label))
    except HeadError as error:
        return "run_failed", str(error)
    if not error_found <= allowed:  # not a number is no agreement either
        return (
            "wrong_answers",
            f"its answers are off by {error_found:.1e} on this device, allowed is {allowed:.1e}",
        )
    return "", f"its answers are off by {error_found:.1e}, allowed is {allowed:.1e}"


def main() -> None:
    """The process; its one argument is what `GoldenCheck` asks, as JSON."""
    asked = json.loads(sys.argv[1])
    signal.alarm(int(asked["limit_seconds"]) + 5)  # should the agent die, nobody else would end this
    os.nice(_NICENESS)
    try:
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO)
    except OSError:
        log.debug("oom_score_not_set")
    reason, detail = check(Path(asked["path"]), asked["manifest_digest"], asked["provider"], asked["threads"])
    sys.stdout.write(json.dumps({"reason": reason, "detail": detail}) + "\n")


if __name__ == "__main__":
    main()
