"""What a process says at its `/metrics`, and how it differs from what it said before."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

from monitoring.top.errors import NoAnswer

MAX_BYTES = 16 * 2**20
"""No process of ours says more: an exporter of a thousand devices says about one."""

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Scrape:
    """One answer: samples by name and labels; at: monotonic seconds."""

    at: float
    samples: Mapping[tuple[str, Labels], float]

    def has(self, name: str) -> bool:
        """Whether there is such a metric."""
        return any(found == name for found, _ in self.samples)

    def total(self, name: str, **labels: str) -> float | None:
        """The sum over every series of this name with these labels; None when there is none."""
        wanted = set(labels.items())
        found = [value for (each, with_), value in self.samples.items() if each == name and wanted <= with_]
        return sum(found) if found else None

    def by_label(self, name: str, label: str) -> dict[str, float]:
        """The sums by the value of one label."""
        found: dict[str, float] = {}
        for value, labels in self.series(name):
            if label in labels:
                found[labels[label]] = found.get(labels[label], 0.0) + value
        return found

    def series(self, name: str) -> Iterator[tuple[float, dict[str, str]]]:
        """Every series of this name: its value and its labels."""
        for (each, labels), value in self.samples.items():
            if each == name:
                yield value, dict(labels)


@dataclass(frozen=True)
class Change:
    """Two answers of one process; before: None at the first look, or where the process is another since."""

    now: Scrape
    before: Scrape | None

    def per_second(self, counter: str, **labels: str) -> float | None:
        """How fast a counter rises; None when that is not known yet."""
        if self.before is None:
            return None
        new, old = self.now.total(counter, **labels), self.before.total(counter, **labels)
        seconds = self.now.at - self.before.at
        return None if new is None or seconds <= 0 else max(0.0, new - (old or 0.0)) / seconds

    def mean(self, histogram: str) -> float | None:
        """The mean of what a histogram saw since the last look, or in its life where it saw nothing since; None for nothing."""
        for before in (self.before, None):
            total, count = (
                (self.now.total(f"{histogram}_{part}") or 0.0)
                - ((before.total(f"{histogram}_{part}") or 0.0) if before else 0.0)
                for part in ("sum", "count")
            )
            if count > 0:
                return total / count
        return None


def scrape(client: httpx.Client, url: httpx.URL, at: float) -> Scrape:
    """Ask for the metrics at `url`.

    at: monotonic seconds.

    Raises NoAnswer with one line.
    """
    try:
        families = list(text_string_to_metric_families(_text(client, url)))
    except httpx.HTTPError as error:
        raise NoAnswer(place(url), f"does not answer: {error}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise NoAnswer(place(url), "answers with something else than metrics") from error
    samples = {
        (sample.name, frozenset(sample.labels.items())): float(sample.value)
        for family in families
        for sample in family.samples
    }
    return Scrape(at, samples)


def metrics_url(text: str) -> httpx.URL:
    """The whole URL of a process's metrics; scheme and path may be left out.

    Raises NoAnswer for what is no URL.
    """
    try:
        url = httpx.URL(text if "://" in text else f"http://{text}")
        whole = url.scheme in {"http", "https"} and url.host
    except httpx.InvalidURL:
        whole = ""
    if not whole:
        raise NoAnswer(
            repr(text[:80]), "is no URL of metrics: write host:port or http[s]://host:port/metrics"
        )
    return url if url.path.strip("/") else url.copy_with(path="/metrics")


def place(url: httpx.URL) -> str:
    """Where that is, without a password."""
    return url.netloc.decode("ascii", "replace")


def _text(client: httpx.Client, url: httpx.URL) -> str:
    body = bytearray()
    # Uncompressed, so that a few bytes cannot become many.
    with client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as answer:
        if not answer.is_success:
            raise NoAnswer(place(url), f"answers {answer.status_code} {answer.reason_phrase}")
        for piece in answer.iter_raw():
            body += piece
            if len(body) > MAX_BYTES:
                raise NoAnswer(
                    place(url), f"answers with more than {MAX_BYTES >> 20} MiB: no process of ours does"
                )
    return body.decode()
