"""Reports as devices make them, of which a test says only what matters to it."""

from typing import Any

from broker.contract.telemetry import HeadReport, StepTimes, TelemetryV1, UpdateReport, UpdateState


def head(
    name: str = "ward", version: str = "1", provider: Any = "cpu", fallback: str | None = None
) -> HeadReport:
    return HeadReport(
        bundle="ab" * 32, name=name, version=version, counter=1, provider=provider, fallback=fallback
    )


def update(state: UpdateState) -> UpdateReport:
    return UpdateReport(bundle="ab" * 32, state=state, reason=None, missing=(), attempts=0)


def report(
    sequence: int = 1,
    *,
    interval_seconds: float = 60.0,
    counters: dict[str, int] | None = None,
    gauges: dict[str, float] | None = None,
    runs: HeadReport | None = None,
    dealt_with: UpdateReport | None = None,
    steps: StepTimes | None = None,
) -> TelemetryV1:
    return TelemetryV1(
        sequence=sequence,
        interval_seconds=interval_seconds,
        uptime_seconds=12.5,
        agent_version="0.1.0",
        head=runs,
        update=dealt_with,
        counters=counters or {},
        gauges=gauges or {},
        step_seconds=steps,
    )
