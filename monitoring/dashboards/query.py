"""What a panel asks Prometheus."""

from dataclasses import dataclass

WINDOW = "$__rate_interval"
"""Grafana's own variable: at least four scrapes, and not less than what one point of the drawing stands for."""

OUR_PROCESSES = 'up{job=~"exporter|trainer|denoiser|edge|rabbitmq"}'
"""Whether each of them answers Prometheus, which may watch others too."""


@dataclass(frozen=True)
class Query:
    """One expression of a panel.

    expr: PromQL, in which Grafana's variables may stand.
    legend: the name of a series, in which `{{label}}` stands for a label's value; of a table, that of the column.
    unit: of a table's column, where it is not the panel's.
    """

    expr: str
    legend: str
    unit: str | None = None


def rate(metric: str, legend: str, by: str = "") -> Query:
    """A counter's growth in a second, over all processes, parted by a label if one is given."""
    return Query(f"sum{_by(by)}(rate({metric}[{WINDOW}]))", legend)


def increase(metric: str, legend: str, by: str = "", window: str = "5m") -> Query:
    """A counter's growth in a window, for what happens seldom."""
    return Query(f"sum{_by(by)}(increase({metric}[{window}]))", legend)


def quantiles(
    histogram: str, *levels: float, by: str = "", prefix: str = "", where: str = ""
) -> tuple[Query, ...]:
    """Quantiles of a histogram over all processes.

    levels: 0.5, 0.95 and so on;  by: a label by which they are parted;  prefix: of their legends;  where: labels' matchers.
    """
    labels = f"le, {by}" if by else "le"
    matchers = f"{{{where}}}" if where else ""
    buckets = f"sum by ({labels}) (rate({histogram}_bucket{matchers}[{WINDOW}]))"
    return tuple(
        Query(f"histogram_quantile({level:g}, {buckets})", f"{prefix}{_share(level)}") for level in levels
    )


def buckets(histogram: str) -> tuple[Query, ...]:
    """What a heatmap draws of a histogram."""
    return (Query(f"sum by (le) (increase({histogram}_bucket[{WINDOW}]))", "{{le}}"),)


def _by(label: str) -> str:
    return f" by ({label}) " if label else ""


def _share(level: float) -> str:
    return "median" if level == 0.5 else f"{100 * level:g} %"
