"""The head in use: loaded when its file appears, replaced when the file changes, kept when the new one is bad."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from edge_agent.errors import HeadError
from edge_agent.generation.recipe import HeadFacts
from edge_agent.heads.head import Head
from edge_agent.heads.provider import Fallback, Provider

log = structlog.get_logger(__name__)


@dataclass(frozen=True, eq=False)
class Loaded:
    """A head that works, and what planning has to know of it."""

    head: Head
    facts: HeadFacts


class HeadSlot:
    """Holds at most one head.

    path: the bundle, which may come later; None for a device without a head.
    provider, threads, fallback: where the head runs; see `Head.load`.
    """

    def __init__(
        self,
        path: Path | None,
        provider: Provider = "auto",
        threads: int | None = None,
        fallback: Fallback = "error",
    ) -> None:
        self.loaded: Loaded | None = None
        self.error: str | None = None
        self._path = path
        self._provider: Provider = provider
        self._threads = threads
        self._fallback: Fallback = fallback
        self._seen: tuple[int, int, int] | None = None

    @property
    def facts(self) -> HeadFacts | None:
        """What planning has to know; None while there is no usable head."""
        return self.loaded.facts if self.loaded else None

    def refresh(self, on_change: Callable[[], None] | None = None) -> None:
        """Load the bundle if its file changed since the last look. A bad one is reported once and changes nothing else."""
        if self._path is None:
            return
        signature = _signature(self._path)
        if signature == self._seen and (signature is not None or self.error is not None):
            return
        self._seen = signature
        try:
            self.loaded = _load(self._path, self._provider, self._threads, self._fallback)
            self.error = None
        except HeadError as error:
            self.error = str(error)
            log.warning(
                "head_refused", error=self.error, kept=self.loaded.facts.identity if self.loaded else None
            )
        if on_change is not None:
            on_change()


def _load(path: Path, provider: Provider, threads: int | None, fallback: Fallback) -> Loaded:
    if not path.exists():
        raise HeadError(f"the head bundle {path} does not exist: export one with `collafuse export head`")
    head = Head.load(path, provider, threads, fallback)
    manifest = head.manifest
    digest = hashlib.sha256(manifest.to_bytes()).hexdigest()
    facts = HeadFacts(
        identity=f"{manifest.name}-{manifest.version}-{digest[:12]}",
        schedule=head.schedule,
        t_cut=manifest.t_cut,
        shape=manifest.image_shape,
        num_classes=manifest.num_classes,
    )
    return Loaded(head, facts)


def _signature(path: Path) -> tuple[int, int, int] | None:
    """Changes when the file is written or replaced; None while it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
