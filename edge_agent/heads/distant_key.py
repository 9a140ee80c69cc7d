"""A public key whose signatures are judged by a process that ends again.

`cryptography` takes eight megabytes. An agent that lives for months needs them for a moment, when a head comes.
"""

import functools
import subprocess
import sys
from dataclasses import dataclass

import structlog

from export.bundle.keys import PUBLIC_KEY_BYTES, PublicKey

log = structlog.get_logger(__name__)

SIGNATURE_BYTES = 64
GOOD, FALSE = 10, 11
"""Exit codes. Any other one says nothing of the signature."""
_LIMIT_SECONDS = 60.0
_REMEMBERED = 64


@dataclass(frozen=True)
class DistantKey(PublicKey):
    """As `PublicKey`, but for where it judges; the same key compares unequal to a plain one."""

    def vouches(self, signature: bytes, message: bytes) -> bool:
        """Whether this key's owner made `signature` (64 bytes) over `message`; judged here where no process can be had."""
        try:
            return _judged(self.raw, signature, message)
        except (OSError, subprocess.SubprocessError) as error:
            log.warning("signature_judged_here", error=str(error))
            return super().vouches(signature, message)


@functools.lru_cache(maxsize=_REMEMBERED)
def _judged(key: bytes, signature: bytes, message: bytes) -> bool:
    """Ask a process of its own, once for each signature. Raises OSError or SubprocessError when it does not answer."""
    words = [sys.executable, "-m", "edge_agent.heads.distant_key"]
    done = subprocess.run(
        words,
        input=key + signature + message,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=_LIMIT_SECONDS,
        check=False,
    )
    if done.returncode not in (GOOD, FALSE):
        raise subprocess.CalledProcessError(done.returncode, words)
    return done.returncode == GOOD


def main() -> None:
    """The process: key, signature and message come on its standard input, one after the other."""
    given = sys.stdin.buffer.read()
    message_at = PUBLIC_KEY_BYTES + SIGNATURE_BYTES
    key = PublicKey(given[:PUBLIC_KEY_BYTES])
    vouched = key.vouches(given[PUBLIC_KEY_BYTES:message_at], given[message_at:])
    sys.exit(GOOD if vouched else FALSE)


if __name__ == "__main__":
    main()
