"""The head in use: the one that the settings name, loaded again when its file changes, or a delivered one in its place."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from edge_agent.errors import HeadError
from edge_agent.heads.facts import HeadFacts
from edge_agent.heads.head import Head
from edge_agent.heads.provider import Fallback, Provider
from export.bundle.bundle import Bundle, read_bundle
from export.bundle.manifest import Manifest
from export.errors import BundleError, BundleRefused

log = structlog.get_logger(__name__)

Admit = Callable[[Bundle], None]
OpenHead = Callable[[Path, str], Head]
"""Loads the head in a file whose SHA-256 is known."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """A head that works, what planning has to know of it, and the SHA-256 of its file."""

    head: Head
    facts: HeadFacts
    bundle: str


class HeadSlot:
    """Holds at most one head. When another is to come, the one in use goes only after it is loaded.

    path: the bundle that the settings name, which may come later; None for a device without one.
    provider, threads, fallback: where the head runs; see `Head.load`.
    admit: raises BundleError for a bundle at `path` that must not be used; None takes any.
    open_head: loads a head in place of `Head.load`, for agents of one process that share theirs.
    """

    def __init__(
        self,
        path: Path | None,
        provider: Provider = "auto",
        threads: int | None = None,
        fallback: Fallback = "error",
        admit: Admit | None = None,
        open_head: OpenHead | None = None,
    ) -> None:
        self.loaded: Loaded | None = None
        self.error: str | None = None
        self.own: Manifest | None = None
        """Of the last good bundle at `path`, loaded or not."""
        self.delivered: str | None = None
        """SHA-256 of the delivered bundle in use; None while it is the settings' own."""
        self.images = 0
        """Finished since the slot was made, by whatever head."""
        self.on_failure: Callable[[str], None] | None = None
        """Told when the head in use fails at its work; set while that would not be the job's fault but the head's."""
        self._path = path
        self._open = open_head or (lambda path, _: Head.load(path, provider, threads, fallback))
        self._admit = admit
        self._seen: tuple[int, int, int] | None = None
        self._wanted = False

    @property
    def facts(self) -> HeadFacts | None:
        """What planning has to know; None while there is no usable head."""
        return self.loaded.facts if self.loaded else None

    @property
    def on_trial(self) -> bool:
        """Whether the head in use is not believed yet."""
        return self.on_failure is not None

    def refresh(self) -> None:
        """Load the settings' bundle if its file changed since the last look, unless a delivered head is in its place.

        A bad one is reported once and changes nothing else.
        """
        self.look()
        if self.delivered is None:
            self._load_own()

    def look(self) -> None:
        """Judge the settings' bundle without loading it, if its file changed since the last look."""
        if self._path is None:
            return
        signature = _signature(self._path)
        if signature == self._seen and (signature is not None or self.error is not None):
            return
        self._seen = signature
        try:
            self.own = _judged(self._path, self._admit)
            self._wanted, self.error = True, None
        except HeadError as error:
            self._refuse(error)

    def prefers_own(self, counter: int) -> bool:
        """Whether the settings' bundle is at least as new as a delivered one of this counter."""
        return self.own is not None and self.own.counter >= counter

    def serve(self, path: Path, bundle: str, manifest_digest: str | None) -> None:
        """Take up a delivered head. Raises HeadError, and then changes nothing.

        bundle: SHA-256 of the file at `path`.
        manifest_digest: SHA-256 of the manifest that was vouched for; None believes the file.
        """
        loaded = self._opened(path, bundle)
        found = hashlib.sha256(loaded.head.manifest.to_bytes()).hexdigest()
        if manifest_digest not in (None, found):
            raise HeadError(f"{path} is another bundle than the one that was vouched for; have it sent again")
        self.loaded, self.delivered = loaded, bundle

    def serve_own(self) -> None:
        """Go back from a delivered head to the settings' own, or to none where there is none that works."""
        if self.delivered is None:
            return
        self.delivered = None
        self._wanted = self.own is not None
        if not self._load_own() or self.error is not None:
            self.loaded = None

    def note_failure(self, detail: str) -> bool:
        """The head failed at its work. True when that ended its trial: what is loaded now is another head, or none."""
        if self.on_failure is None:
            return False
        self.on_failure(detail)
        return True

    def _load_own(self) -> bool:
        if not self._wanted or self._path is None:
            return False
        self._wanted = False
        try:
            self.loaded = self._opened(self._path, file_digest(self._path))
        except HeadError as error:
            self._refuse(error)
        return True

    def _opened(self, path: Path, bundle: str) -> Loaded:
        return _loaded(self._open(path, bundle), bundle)

    def _refuse(self, error: HeadError) -> None:
        self.error = str(error)
        log.warning("head_refused", error=self.error, kept=self.facts.identity if self.facts else None)


def _judged(path: Path, admit: Admit | None) -> Manifest:
    if not path.exists():
        raise HeadError(f"the head bundle {path} does not exist: export one with `collafuse export head`")
    try:
        bundle = read_bundle(path)
        if admit is not None:
            admit(bundle)
    except BundleRefused as error:
        raise HeadError(f"the head {path} is not used: {error}") from error
    except BundleError as error:
        raise HeadError(str(error)) from error
    return bundle.manifest


def _loaded(head: Head, bundle: str) -> Loaded:
    manifest = head.manifest
    digest = hashlib.sha256(manifest.to_bytes()).hexdigest()
    facts = HeadFacts(
        identity=f"{manifest.name}-{manifest.version}-{digest[:12]}",
        schedule=head.schedule,
        t_cut=manifest.t_cut,
        shape=manifest.image_shape,
        num_classes=manifest.num_classes,
    )
    return Loaded(head, facts, bundle)


def file_digest(path: Path) -> str:
    """SHA-256 of a bundle's file. Raises HeadError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise HeadError(f"the head bundle {path} cannot be read: {error.strerror}") from error


def _signature(path: Path) -> tuple[int, int, int] | None:
    """Changes when the file is written or replaced; None while it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
