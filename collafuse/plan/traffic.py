"""What a fleet sends and receives: by the second, in the mean, in the busiest hour, and while nobody takes it.

Arithmetic alone: no clock, no file, no broker.
"""

from dataclasses import dataclass

from collafuse.plan.demand import Demand
from collafuse.plan.sizes import Sizes, Weight

DAY_SECONDS = 86_400.0
HOUR_SECONDS = 3600.0


@dataclass(frozen=True)
class Stream:
    """Messages of one kind, of the whole fleet.

    mean_per_second: over a day.  peak: how much more it is in the busiest hour; 1 for what is sent by the clock.
    """

    name: str
    weight: Weight
    mean_per_second: float
    peak: float

    @property
    def peak_per_second(self) -> float:
        """In the busiest hour."""
        return self.mean_per_second * self.peak

    @property
    def up_bytes_per_second(self) -> float:
        """From the devices to the broker, in the busiest hour."""
        return self.peak_per_second * self.weight.up_bytes

    @property
    def down_bytes_per_second(self) -> float:
        """From the broker to the devices, in the busiest hour."""
        return self.peak_per_second * self.weight.down_bytes


@dataclass(frozen=True)
class Traffic:
    """Every stream of a fleet; the answer to a request counts once, whatever its parts."""

    samples: Stream
    receipts: Stream
    requests: Stream
    answers: Stream
    telemetry: Stream
    rounds: Stream
    rollout: Stream

    @property
    def streams(self) -> tuple[Stream, ...]:
        """All of them."""
        return (
            self.samples,
            self.receipts,
            self.requests,
            self.answers,
            self.telemetry,
            self.rounds,
            self.rollout,
        )

    @property
    def up_bytes_per_second(self) -> float:
        """From all devices, in the busiest hour."""
        return sum(stream.up_bytes_per_second for stream in self.streams)

    @property
    def down_bytes_per_second(self) -> float:
        """To all devices, in the busiest hour, while a head is rolled out."""
        return sum(stream.down_bytes_per_second for stream in self.streams)


def traffic_of(demand: Demand, sizes: Sizes) -> Traffic:
    """The streams of a demand.

    Letters wait for devices that are not connected, so that their share changes no day's sum. A round is written into every
    inbox, and is counted as if it reached every device.
    """
    batches = demand.devices * demand.released_per_day / sizes.images_per_samples / DAY_SECONDS
    requests = demand.devices * demand.images_per_day / demand.images_per_request / DAY_SECONDS
    connected = demand.devices * demand.connected_share
    return Traffic(
        samples=Stream("samples", sizes.samples, batches, demand.peak_factor),
        receipts=Stream("receipts", sizes.receipt, batches, demand.peak_factor),
        requests=Stream("requests", sizes.request, requests, demand.peak_factor),
        answers=Stream("answers", sizes.answer, requests, demand.peak_factor),
        telemetry=Stream("telemetry", sizes.telemetry, connected / demand.telemetry_seconds, 1.0),
        rounds=Stream("rounds", sizes.round, demand.devices / demand.round_seconds, 1.0),
        rollout=Stream("heads", sizes.rollout, demand.devices / (demand.rollout_hours * HOUR_SECONDS), 1.0),
    )


def worst_hours(hours: float, peak: float) -> float:
    """How many mean hours' worth comes in the worst `hours`: at `peak` times the mean, but no more than a day's in a day."""
    days, rest = divmod(hours, 24.0)
    return days * 24.0 + min(peak * rest, 24.0)


def backlog_messages(stream: Stream, hours: float) -> float:
    """Messages of a stream that wait when nobody has taken them for so long, at the worst time of the day."""
    return stream.mean_per_second * HOUR_SECONDS * worst_hours(hours, stream.peak)
