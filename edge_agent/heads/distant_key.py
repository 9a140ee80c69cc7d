"""A public key whose signatures are judged by a process that ends again.

`cryptography` takes eight megabytes. An agent that lives for months needs them for a moment, when a head comes.
"""

import hashlib
import subprocess
import sys
import threading
from dataclasses import dataclass

import structlog

from edge_agent.child import python
from export.bundle.keys import PUBLIC_KEY_BYTES, PublicKey

log = structlog.get_logger(__name__)

SIGNATURE_BYTES = 64
GOOD, FALSE = 10, 11
"""Exit codes. Any other one says nothing of the signature."""
_LIMIT_SECONDS = 10.0  # below the time for which others wait for the spool, which may be held meanwhile
_LIBRARY = "cryptography.hazmat.primitives.asymmetric.ed25519"
_REMEMBERED = 64

_verdicts: dict[bytes, bool] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class DistantKey(PublicKey):
    """As `PublicKey`, but for where it judges; the same key compares unequal to a plain one."""

    def vouches(self, signature: bytes, message: bytes) -> bool:
        """Whether this key's owner made `signature` (64 bytes) over `message`.

        It is judged once, and remembered by its digest. Where no process can be had it is judged here; the library is loaded
        then, so that nothing is gained by trying a process again.
        """
        asked = hashlib.sha256(self.raw + signature + message).digest()
        with _lock:
            if asked not in _verdicts:
                if len(_verdicts) >= _REMEMBERED:
                    del _verdicts[next(iter(_verdicts))]
                _verdicts[asked] = self._judged(signature, message)
            return _verdicts[asked]

    def _judged(self, signature: bytes, message: bytes) -> bool:
        if _LIBRARY in sys.modules:
            return super().vouches(signature, message)
        try:
            return _judged_elsewhere(self.raw + signature + message)
        except (OSError, subprocess.SubprocessError) as error:
            log.warning("signature_judged_here", error=str(error))
            return super().vouches(signature, message)


def _judged_elsewhere(question: bytes) -> bool:
    """Ask a process of its own. Raises OSError or SubprocessError when it does not answer."""
    words = python("edge_agent.heads.distant_key")
    done = subprocess.run(
        words,
        input=question,
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
