"""Until when the broker's certificate is good, so that somebody renews it before everybody is turned away.

Links that stand outlive a certificate, and nothing else tells of its end before it is there.
"""

import datetime as dt
import time
from collections.abc import Callable, Iterable

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from broker.errors import BrokerError

LOOK_SECONDS = 600.0
"""Between two looks: each is a connection of its own."""
RETRY_SECONDS = 60.0


class CertificateCollector(Collector):
    """Tells the end of the certificate that was seen last, also while the broker is away or its certificate has expired.

    Whoever looks is not who scrapes: a broker that does not answer would hold up the scrape that is to say so.

    Args:
        ends_at: looks, and gives None for a broker that shows no certificate.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self, ends_at: Callable[[], dt.datetime | None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ends_at = ends_at
        self._clock = clock
        self._look_at = float("-inf")
        self._end: dt.datetime | None = None

    def describe(self) -> Iterable[Metric]:
        """The metric without samples: what registering needs."""
        return [_family()]

    def collect(self) -> Iterable[Metric]:
        """Give the metric as it was seen last, at once."""
        family, end = _family(), self._end
        if end is not None:
            family.add_metric([], end.timestamp())
        return [family]

    def turn(self) -> None:
        """Look where it is due, which takes some seconds at most; always on the same thread."""
        if self._clock() < self._look_at:
            return
        try:
            self._end = self._ends_at()
            self._look_at = self._clock() + LOOK_SECONDS
        except (OSError, BrokerError):  # that it does not answer, others tell
            self._look_at = self._clock() + RETRY_SECONDS


def _family() -> GaugeMetricFamily:
    return GaugeMetricFamily(
        "collafuse_broker_certificate_expiry_timestamp_seconds",
        "Unix time at which the broker's certificate ends, as it was seen last; none over an unencrypted link.",
    )
