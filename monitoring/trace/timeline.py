"""What the lines about an image add up to: the stretches of its way, and what has to be known to believe them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from monitoring.trace.log_line import LogLine
from monitoring.trace.log_reader import Found

OUTBOX, BROKER, SCHEDULER = "in the outbox", "in the broker's queue", "waiting in the scheduler"
COMPUTING, WAY_BACK = "computing", "way back"
BEFORE, BETWEEN, HEAD, WHOLE = "waiting to begin", "waiting for the head", "head", "in all"
BETWEEN_CLOCKS = (BROKER, WAY_BACK)
"""Stretches that begin by one machine's clock and end by another's."""
_SWAPPED_SECONDS = 0.1
ENDS = ("job_completed", "job_failed", "job_expired", "job_cancelled")


@dataclass(frozen=True)
class Stretch:
    """A part of the way.

    request_id: of the request whose way it is; None where it is the job's.
    stock: whether it was asked for ahead of the job, for the stock.
    process: who tells of its end.
    begin, end: unix seconds.
    """

    name: str
    request_id: str | None
    stock: bool
    process: str
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it took; below 0 where two clocks differ."""
        return self.end - self.begin


@dataclass(frozen=True, eq=False)
class Timeline:
    """An image's way.

    job_id: None for a request of the stock.  requests: its requests, the first sent first.  stock: of them, those of the stock.
    stretches: in the order of the way, whatever the clocks say; those of the stock first.
    """

    job_id: str | None
    requests: tuple[str, ...]
    stock: frozenset[str]
    lines: list[LogLine]
    stretches: tuple[Stretch, ...]
    notes: tuple[str, ...]


def timeline(found: Found) -> Timeline:
    """Put together what the logs say."""
    lines = found.lines
    job_id = next((line.job_id for line in lines if line.job_id in found.known), None)
    of_job = [line for line in lines if line.job_id == job_id and line.request_id is None]
    brought = frozenset(each for line in of_job for each in line.brought_by)
    requests = tuple(dict.fromkeys(line.request_id for line in lines if line.request_id in found.known))
    named = tuple(each for each in requests if each is not None)
    stock = frozenset(named) if job_id is None else brought & set(named)
    stretches = tuple(_stretches(lines, of_job, named, stock))
    notes = tuple(_notes(lines, stretches, brought - set(named), cut=found.cut))
    return Timeline(job_id, named, stock, lines, stretches, notes)


def _stretches(
    lines: Sequence[LogLine], of_job: Sequence[LogLine], requests: Sequence[str], stock: frozenset[str]
) -> Iterator[Stretch]:
    started = _last(of_job, "job_started", "job_started_from_stock")
    accepted = _accepted(of_job, started)
    ended = _last(of_job, *ENDS)
    begun = _last(of_job, "head_begun")
    for request_id in (each for each in requests if each in stock):
        its_own = [line for line in lines if line.request_id == request_id]
        yield from _of_request(request_id, its_own, _last(its_own, "stock_asked_for"), stock=True)
    if started is not None and accepted is not None:
        yield Stretch(BEFORE, None, False, started.process, accepted, started.at)
    for request_id in (each for each in requests if each not in stock):
        its_own = [line for line in lines if line.request_id == request_id]
        yield from _of_request(request_id, its_own, started, stock=False)
    if begun is not None:
        own = [line for line in lines if line.request_id in requests and line.request_id not in stock]
        since = _last(own, "part_received") or started
        if since is not None:
            yield Stretch(BETWEEN, None, False, begun.process, since.at, begun.at)
        if ended is not None:
            yield Stretch(HEAD, None, False, ended.process, begun.at, ended.at)
    if ended is not None and accepted is not None:
        yield Stretch(WHOLE, None, False, ended.process, accepted, ended.at)


def _of_request(
    request_id: str, lines: Sequence[LogLine], asked: LogLine | None, *, stock: bool
) -> Iterator[Stretch]:
    """The stations of a request, each from the one before that is known."""
    # Of several workers that had it, the last is the one that answered; of several sendings, the first that was confirmed is
    # the one that they had.
    stations = (
        (OUTBOX, asked, _sent(lines)),
        (BROKER, _sent(lines), _last(lines, "request_taken")),
        (SCHEDULER, _last(lines, "request_taken"), _last(lines, "request_begun")),
        (COMPUTING, _last(lines, "request_begun"), _last(lines, "request_computed")),
        (WAY_BACK, _last(lines, "request_computed"), _last(lines, "part_received")),
    )
    for name, begin, end in stations:
        if begin is not None and end is not None:
            yield Stretch(name, request_id, stock, end.process, _begin(begin, end), end.at)


def _begin(begin: LogLine, end: LogLine) -> float:
    """When a stretch began; two threads of a process may write their lines in either order."""
    swapped = begin.process == end.process and begin.at - _SWAPPED_SECONDS < end.at < begin.at
    return end.at if swapped else begin.at


def _accepted(of_job: Sequence[LogLine], started: LogLine | None) -> float | None:
    """When the job was accepted: the command line has no log, and then the agent says how long it had waited."""
    accepted = _last(of_job, "job_accepted")
    if accepted is not None:
        return accepted.at
    waited_seconds = None if started is None else started.seconds("waited_seconds")
    return None if started is None or waited_seconds is None else started.at - waited_seconds


def _sent(lines: Sequence[LogLine]) -> LogLine | None:
    """The sending that reached the broker first."""
    sendings = [line for line in lines if line.event == "request_sent"]
    confirmed = next((line for line in lines if line.event == "request_confirmed"), None)
    if confirmed is not None:
        return max((line for line in sendings if line.at <= confirmed.at), key=_time, default=None)
    return sendings[0] if sendings else None


def _last(lines: Iterable[LogLine], *events: str) -> LogLine | None:
    return max((line for line in lines if line.event in events), key=_time, default=None)


def _time(line: LogLine) -> float:
    return line.at


def _notes(
    lines: Sequence[LogLine], stretches: Sequence[Stretch], unknown: frozenset[str], *, cut: bool
) -> Iterator[str]:
    backwards = [each for each in stretches if each.seconds < 0]
    for each in backwards:
        if each.name in BETWEEN_CLOCKS:
            ahead, behind = ("device", "server") if each.name == BROKER else ("server", "device")
            yield (
                f"{each.name!r} is negative: the clock of the {ahead} is at least {-each.seconds:.3f} s ahead of that of the"
                f" {behind}. Of {BROKER!r} and {WAY_BACK!r} only the sum is right, and the order of lines may be wrong."
            )
        else:
            yield f"{each.name!r} is negative: a clock was set meanwhile, or two machines tell of it."
    taken = [line for line in lines if line.event == "request_taken"]
    for request_id in dict.fromkeys(line.request_id for line in taken):
        times = sum(line.request_id == request_id for line in taken)
        if times > 1:
            yield (
                f"request {request_id} was taken {times} times: {BROKER!r} holds the time with those who did not finish it."
            )
    users = sorted({str(line.fields["user"]) for line in lines if line.fields.get("user")})
    if len(users) > 1:
        yield f"requests of {', '.join(users)} carry this id, which the device chooses: not all of them are of one image."
    if unknown:
        yield (
            f"the samples came from the stock by {len(unknown)} earlier requests of which these logs say nothing:"
            f" {', '.join(sorted(unknown)[:3])}{', …' if len(unknown) > 3 else ''}"
        )
    if not any(line.event == "request_taken" for line in lines):
        yield "no denoise worker tells of it: none has taken it yet, their logs are not among these, or the job needs none."
    if cut:
        yield f"there are more lines or ids than are shown here ({len(lines)} lines)."
