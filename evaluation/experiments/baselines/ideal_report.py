"""Hand-offs with ideal networks, as a table, charts and a sentence."""

from evaluation.experiments.baselines.ideal import Gaussian, hand_off_errors
from evaluation.metrics.disclosure import fit_prior
from evaluation.reporting.outcome import Better, Cell, Chart, Column, Finding, Series, Table, Weight
from evaluation.running.workbench import Workbench

Errors = dict[float, dict[str, float]]
"""By cut, then scheme."""


def ideal_errors(bench: Workbench) -> tuple[Errors, Errors]:
    """At every inner cut, with every step of the chain and with the design's: for a Gaussian like the training images."""
    design, schedule = bench.design, bench.schedule
    data = Gaussian.of(fit_prior(bench.federation.pooled.images))
    cuts = design.cuts[1:-1]
    every = {cut: hand_off_errors(schedule, data, cut, schedule.T, schedule.T) for cut in cuts}
    few = {cut: hand_off_errors(schedule, data, cut, design.server_steps, design.head_steps) for cut in cuts}
    return every, few


def ideal_finding(every: Errors) -> Finding:
    """What the hand-off itself costs, without any network's error."""
    names = next(iter(every.values()))
    ends = {
        name: (min(e[name] for e in every.values()), max(e[name] for e in every.values())) for name in names
    }
    ranges = "; ".join(
        f"{name} {low:.2g}" + (f" to {high:.2g}" if f"{high:.2g}" != f"{low:.2g}" else "")
        for name, (low, high) in ends.items()
    )
    return Finding(
        f"With ideal networks, on Gaussian data with the images' mean and covariance and every step of the chain, the Fréchet "
        f"distance to the data over the inner cuts is: {ranges}.",
        Weight.FACT,
    )


def ideal_table(bench: Workbench, every: Errors, few: Errors) -> Table:
    """All schemes over the cut, with many and with few evaluations."""
    names = list(next(iter(every.values())))
    design = bench.design
    rows: list[tuple[Cell, ...]] = [
        (f"c = {cut:g}", words, *(errors[cut][name] for name in names))
        for words, errors in (
            ("every step", every),
            (f"{design.server_steps} and {design.head_steps}", few),
        )
        for cut in errors
    ]
    columns = (
        Column("cut"),
        Column("evaluations"),
        *(Column(name, "", Better.LESS, 5) for name in names),
    )
    return Table(
        "Ideal networks on Gaussian data: Fréchet distance to the data",
        columns,
        tuple(rows),
        note="In closed form, with nothing trained or drawn: what is left is the error of the hand-off and of the steps.",
    )


def ideal_chart(every: Errors) -> Chart:
    """The hand-off's own error over the cut."""
    cuts = tuple(every)
    names = list(next(iter(every.values())))
    series = tuple(Series(name, cuts, tuple(every[cut][name] for cut in cuts)) for name in names)
    return Chart(
        "The hand-off alone: ideal networks, every step of the chain",
        "c, the client's share of the chain",
        "Fréchet distance to the data",
        series,
        log_y=True,
        note="Closed form on Gaussian data with the images' mean and covariance.",
    )
