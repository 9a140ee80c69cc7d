"""The first run of a new head, in a process of its own: its golden probe on this device's provider.

A runtime that crashes, hangs or takes all memory ends this process and not the agent. Its standard output has a line when the
file was read and is what was announced, and from then on an end without a word is a verdict on the head too; the last line says
what was found.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from edge_agent.child import python
from edge_agent.errors import HeadError, ProviderMissing
from edge_agent.heads import reasons
from edge_agent.heads.head import Head
from edge_agent.heads.provider import Fallback
from export.bundle.bundle import Bundle, read_bundle
from export.errors import BundleError

log = structlog.get_logger(__name__)

LIMIT_SECONDS = 120
CHAIN_BATCHES = (1, 3, 16)
"""How many images at once are tried: a runtime that does well with one may fail with another."""
_READ = "read"
_FIRST_TO_GO = "1000"
_NICENESS = 10


class GoldenCheck:
    """One check under way.

    path: the bundle's file; its parts are held against its own manifest, whose bytes must be `manifest_digest`'s.
    provider, threads, fallback: as the agent would run it.
    limit_seconds: after so long it has failed.
    """

    def __init__(
        self,
        path: Path,
        *,
        manifest_digest: str | None,
        provider: str,
        threads: int | None,
        fallback: Fallback = "error",
        limit_seconds: float = LIMIT_SECONDS,
    ) -> None:
        self.path = path
        self._not_after = time.monotonic() + limit_seconds
        asked = {
            "path": str(path),
            "manifest_digest": manifest_digest,
            "provider": provider,
            "threads": threads,
            "fallback": fallback,
            "limit_seconds": limit_seconds,
        }
        self._process = subprocess.Popen(
            python("edge_agent.heads.golden_check", json.dumps(asked)),
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
            return self._verdict(
                reasons.CHECK_TIMED_OUT, "its golden probe was not finished in time on this device"
            )
        reason = reasons.CHECK_KILLED if code == -signal.SIGKILL else reasons.CHECK_CRASHED
        return self._verdict(reason, f"the process that tried it {_ended_how(code)}")

    def stop(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()
        self._process.wait()

    def _verdict(self, reason: str, detail: str) -> tuple[str, str]:
        """What the process said; when it ended without its last word, this reason, if it had come as far as the head."""
        assert self._process.stdout is not None
        said = self._process.stdout.read(65_536).decode(errors="replace").splitlines()
        self._process.stdout.close()
        try:
            found = json.loads(said[-1])
            return str(found["reason"])[:64], str(found["detail"])[:300]
        except (IndexError, KeyError, TypeError, ValueError):
            if said[:1] == [_READ]:
                return reason, detail
            return reasons.NOT_READ, f"its file was not read to the end: {detail}"


def _ended_how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    memory = ", as the kernel does when memory runs out" if -code == signal.SIGKILL else ""
    return f"was ended by signal {-code} ({signal.strsignal(-code)}){memory}"


def check(
    path: Path,
    manifest_digest: str | None,
    provider: Any,
    threads: int | None,
    fallback: Fallback = "error",
    *,
    on_read: Callable[[], None] = lambda: None,
) -> tuple[str, str]:
    """Load the head, make its probe and a few images: a reason and a sentence, the reason empty when all is as it should be.

    on_read: called when the file was read and is what was announced.
    """
    try:
        bundle = read_bundle(path)
    except BundleError as error:
        return reasons.MALFORMED, str(error)
    if manifest_digest not in (None, bundle.manifest_digest):
        return reasons.NOT_AS_ANNOUNCED, "its manifest is another than the one that was announced"
    on_read()
    try:
        head = Head.load(path, provider, threads, fallback)
    except ProviderMissing as error:
        return reasons.PROVIDER_MISSING, str(error)
    except HeadError as error:
        return "load_failed", str(error)
    try:
        return _tried(head, bundle)
    except HeadError as error:
        return "run_failed", str(error)


def _tried(head: Head, bundle: Bundle) -> tuple[str, str]:
    golden, allowed = bundle.golden, bundle.manifest.golden.allowed_relative_rms
    error_found = golden.relative_rms(head.predict(golden.x, golden.t, golden.label))
    if not error_found <= allowed:  # not a number is no agreement either
        return (
            "wrong_answers",
            f"its answers are off by {error_found:.1e} on this device, allowed is {allowed:.1e}",
        )
    if not all(_chain_is_finite(head, count) for count in CHAIN_BATCHES):
        return "wrong_answers", "the images it makes on this device are not all finite numbers"
    return "", f"its answers are off by {error_found:.1e}, allowed is {allowed:.1e}"


def _chain_is_finite(head: Head, count: int) -> bool:
    """Make `count` images at once, in two steps from noise as a job does; says whether they are numbers."""
    manifest = head.manifest
    start = np.random.default_rng(count).standard_normal((count, *manifest.image_shape)).astype(np.float32)
    plan = (manifest.t_cut, *({(manifest.t_first + manifest.t_cut) // 2} - {manifest.t_cut, 0}), 0)
    made = head.finish(start, plan, seeds=np.zeros(count, np.uint64), samples=np.arange(count))
    return bool(np.isfinite(made).all())


def main() -> None:
    """The process; its one argument is what `GoldenCheck` asks, as JSON."""
    asked = json.loads(sys.argv[1])
    signal.alarm(int(asked["limit_seconds"]) + 5)  # should the agent die, nobody else would end this
    os.nice(_NICENESS)
    try:
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO)
    except OSError:
        log.debug("oom_score_not_set")
    reason, detail = check(
        Path(asked["path"]),
        asked["manifest_digest"],
        asked["provider"],
        asked["threads"],
        asked["fallback"],
        on_read=lambda: _say(_READ),
    )
    _say(json.dumps({"reason": reason, "detail": detail}))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()  # whatever ends this process next


if __name__ == "__main__":
    main()
