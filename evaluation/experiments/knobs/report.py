"""The two knobs in tables, charts, a heat map and sentences."""

from collections.abc import Mapping, Sequence

import numpy as np

from diffusion.privacy import epsilon_of_mu, gdp_mu, norm_bound
from edge_agent.release.statement import meaning, number
from evaluation.data.images import LabelledImages
from evaluation.experiments.knobs.grid import (
    Grid,
    GridKey,
    Measured,
    SamplerKey,
    best_of,
    fid_of,
    within_spread_of_best,
)
from evaluation.measuring.quality import COLUMNS, ClientQuality, Figure, Real, floor_band
from evaluation.measuring.verdicts import Named, against, better_of, in_words
from evaluation.metrics.claim import better
from evaluation.metrics.comparison import Unit
from evaluation.metrics.spread import Spread
from evaluation.reporting.gallery import png_data_uri
from evaluation.reporting.outcome import (
    Band,
    Cell,
    Chart,
    Column,
    Finding,
    Outcome,
    PictureRow,
    Pictures,
    Table,
    Weight,
    series_of,
)
from evaluation.running.workbench import Workbench

FID = COLUMNS[Figure.FID]
IMAGES_IN_A_ROW = 5
DELTA = 1e-5
_SHADE = "The shade is one standard deviation over seeds on both sides."


def outcome(
    bench: Workbench,
    title: str,
    grid: Grid,
    floor: Sequence[ClientQuality],
    shown: Sequence[tuple[int, LabelledImages]],
) -> Outcome:
    """Puts it together.  shown: head evaluations and images, of one client and seed at the most private cut."""
    design = bench.design
    servers = sorted({key.server_steps for key in grid.cells})
    private = max(key.cut_ratio for key in grid.cells)
    band = floor_band(floor, Real.HELD_OUT, Figure.FID)
    level = grid.level(servers[-1])
    return Outcome(
        suite="knobs",
        title=title,
        question="Is a late, private cut usable with few evaluations on the device?",
        method=(
            f"The networks of the cut sweep, {len(design.seeds)} seeds. For each inner cut the server's part is made with "
            f"{', '.join(map(str, servers))} evaluations ({design.sampler}), and each result is finished by the client's head "
            f"with {', '.join(str(n) for n in _heads(level))}. At c = {private:g}, the most private cut, all samplers and both "
            f"spacings of steps are tried with {_evaluations(servers[-1])} on the server. FID against each client's held-out "
            f"images, {design.images} images each, in the features of {bench.extractor.name}; means over clients."
        ),
        findings=(
            *(finding for n in servers for finding in private_findings(grid.level(n))),
            *sampler_findings(grid.samplers, (design.sampler, "uniform")),
            *device_findings(private, level, servers[-1], _epsilon(bench, private)),
        ),
        tables=(_grid_table(grid, servers), _sampler_table(grid.samplers, private)),
        charts=(
            *(_grid_chart(grid.level(n), n, band) for n in servers),
            _sampler_chart(grid.samplers, private, band),
        ),
        pictures=(_heat_map(level), _images(shown, private, servers[-1])),
        limits=(
            (
                "The best of many cells is better than it would be again: cells within the spread of it are as good as the run "
                "can tell, and may be better or worse."
            ),
            "Beyond a handful of head evaluations these small heads may have nothing to add, where a larger one would.",
        ),
    )


def _epsilon(bench: Workbench, cut_ratio: float) -> float:
    mu = gdp_mu(norm_bound(None, bench.federation.shape), bench.t_cut(cut_ratio), bench.schedule, 1)
    return epsilon_of_mu(mu, DELTA)


def private_findings(level: Mapping[GridKey, Spread]) -> list[Finding]:
    """For one number of server evaluations: what the most private cut needs to be within the spread of the best cell."""
    best, usable = best_of(level), within_spread_of_best(level)
    private = max(key.cut_ratio for key in level)
    at_private = sorted(key for key in level if key.cut_ratio == private)
    told = (
        f"With {_evaluations(best.server_steps)} on the server the least FID is {in_words(FID, level[best])}, at c = "
        f"{best.cut_ratio:g} with {_evaluations(best.head_steps)} on the device. At c = {private:g}"
    )
    near = [key for key in at_private if key in usable]
    far = [key for key in at_private if key not in usable]
    found = []
    if near:
        # That nothing is seen says little where little could be: so it is said how much worse the least mean may yet be.
        least = min(near, key=lambda key: level[key].mean)
        claim = better(
            FID.name,
            Unit.DISTANCE,
            level[best],
            level[least],
            ("best", "private"),
            among=max(1, len(level) - 1),
        )
        yet = f" With {_evaluations(least.head_steps)} it may be worse by as much as {claim.high:.1f}."
        found.append(
            Finding(
                f"{told} the seeds do not tell these from it, so that nothing is claimed: {_cells(near, level)}."
                f"{'' if least == best else yet}",
                Weight.UNDECIDED,
            )
        )
    if far:
        found.append(
            Finding(
                f"{told} these are worse beyond the spread over seeds: {_cells(far, level)}.", Weight.CLAIM
            )
        )
    return found


def sampler_findings(samplers: Mapping[SamplerKey, Measured], reference: tuple[str, str]) -> list[Finding]:
    """Every sampler and spacing against one of them, for every number of head evaluations."""
    figures = {key: fid_of(measured) for key, measured in samplers.items()}
    found = []
    for head_steps in sorted({key.head_steps for key in figures}):
        here = {key: figure for key, figure in figures.items() if key.head_steps == head_steps}
        ours = SamplerKey(*reference, head_steps)
        rivals = [Named(_sampler(key), figure) for key, figure in here.items() if key != ours]
        where = f"with {_evaluations(head_steps)} on the device"
        found += against(FID, rivals, Named(_sampler(ours), here[ours]), where=where)
    return found


def device_findings(
    private: float, level: Mapping[GridKey, Spread], server_steps: int, epsilon: float
) -> list[Finding]:
    """The fewest head evaluations at the most private cut against the most.  epsilon: of one release there, at `DELTA`."""
    at_private = {key.head_steps: figure for key, figure in level.items() if key.cut_ratio == private}
    fewest, most = min(at_private), max(at_private)
    verdict = better_of(FID, at_private[fewest], at_private[most])
    words = {
        1: "better beyond the spread over seeds",
        -1: "worse beyond the spread over seeds",
        0: "not separated by the seeds",
    }[verdict]
    return [
        Finding(
            f"At c = {private:g} after {_evaluations(server_steps)} on the server, {_evaluations(fewest)} on the device "
            f"({in_words(FID, at_private[fewest])}) against {most} ({in_words(FID, at_private[most])}): {words}.",
            Weight.CLAIM if verdict else Weight.UNDECIDED,
        ),
        Finding(
            f"The cut alone fixes what is disclosed: at c = {private:g} it is the same with {_evaluations(fewest)} on the "
            f"device as with {most}, and the device computes {most / fewest:.0f} times less.",
            Weight.FACT,
        ),
        Finding(
            f"How private c = {private:g} is: one release of an image, not clipped further, has ε = {number(epsilon)} at "
            f"δ = {DELTA:g}. {meaning(epsilon, DELTA)}",
            Weight.FACT,
        ),
    ]


def _grid_table(grid: Grid, servers: Sequence[int]) -> Table:
    heads = _heads(grid.level(servers[0]))
    rows: list[tuple[Cell, ...]] = []
    for server_steps in servers:
        level = grid.level(server_steps)
        usable = within_spread_of_best(level)
        for cut in _cuts(level):
            keys = [GridKey(server_steps, cut, head) for head in heads]
            near = ", ".join(str(key.head_steps) for key in keys if key in usable)
            rows.append((server_steps, f"c = {cut:g}", *(level[key] for key in keys), near or "none"))
    columns = (
        Column("server evaluations", decimals=0),
        Column("cut"),
        *(Column(f"FID, {_evaluations(head)}", "", FID.better, FID.decimals) for head in heads),
        Column("not told from the best"),
    )
    return Table(
        "FID over the cut and the head's evaluations",
        columns,
        tuple(rows),
        note="Against held-out images. The last column: head evaluations that the seeds do not separate from the best cell with "
        "as many server evaluations.",
    )


def _sampler_table(samplers: Mapping[SamplerKey, Measured], private: float) -> Table:
    heads = sorted({key.head_steps for key in samplers})
    ways = list(dict.fromkeys((key.sampler, key.spacing) for key in samplers))
    rows: list[tuple[Cell, ...]] = [
        (*way, *(fid_of(samplers[SamplerKey(*way, head)]) for head in heads)) for way in ways
    ]
    columns = (
        Column("sampler"),
        Column("spacing"),
        *(Column(f"FID, {_evaluations(head)}", "", FID.better, FID.decimals) for head in heads),
    )
    return Table(f"Samplers at c = {private:g}, both sides with the same", columns, tuple(rows))


def _grid_chart(level: Mapping[GridKey, Spread], server_steps: int, band: Band) -> Chart:
    heads = _heads(level)
    lines = tuple(
        series_of(
            f"c = {cut:g}",
            tuple(float(head) for head in heads),
            tuple(level[GridKey(server_steps, cut, head)] for head in heads),
        )
        for cut in _cuts(level)
    )
    return Chart(
        f"FID after {_evaluations(server_steps)} on the server",
        "evaluations on the device",
        "FID against held-out images",
        lines,
        (band,),
        note=_SHADE,
    )


def _sampler_chart(samplers: Mapping[SamplerKey, Measured], private: float, band: Band) -> Chart:
    heads = sorted({key.head_steps for key in samplers})
    ways = list(dict.fromkeys((key.sampler, key.spacing) for key in samplers))
    lines = tuple(
        series_of(
            f"{sampler}, {spacing}",
            tuple(float(head) for head in heads),
            tuple(fid_of(samplers[SamplerKey(sampler, spacing, head)]) for head in heads),
        )
        for sampler, spacing in ways
    )
    title = f"Samplers at c = {private:g}"
    return Chart(
        title,
        "evaluations on the device",
        "FID against held-out images",
        lines,
        (band,),
        note=_SHADE,
    )


def _heat_map(level: Mapping[GridKey, Spread]) -> Pictures:
    """A tile for each cell, from black at the least FID to white at the largest, in logarithms."""
    heads, cuts = _heads(level), _cuts(level)
    logs = {key: float(np.log(max(figure.mean, 1e-9))) for key, figure in level.items()}
    low, high = min(logs.values()), max(logs.values())
    (server_steps,) = {key.server_steps for key in level}

    def tile(key: GridKey) -> str:
        shade = 2.0 * (logs[key] - low) / (high - low or 1.0) - 1.0
        return png_data_uri(np.full((1, 8, 8), shade))

    return Pictures(
        f"FID after {_evaluations(server_steps)} on the server, as a map",
        tuple(_evaluations(head) for head in heads),
        tuple(
            PictureRow(f"c = {cut:g}", tuple(tile(GridKey(server_steps, cut, head)) for head in heads))
            for cut in cuts
        ),
        note="Darker is nearer to held-out images; logarithms, between the least and the largest of the cells. The columns are "
        "evaluations on the device.",
    )


def _images(shown: Sequence[tuple[int, LabelledImages]], private: float, server_steps: int) -> Pictures:
    rows = []
    for head_steps, made in shown:
        chosen = np.linspace(0, len(made) - 1, IMAGES_IN_A_ROW).round().astype(int)
        uris = tuple(png_data_uri(made.images[row]) for row in chosen)
        rows.append(PictureRow(f"{_evaluations(head_steps)} on the device", uris))
    return Pictures(
        f"Images at c = {private:g} after {_evaluations(server_steps)} on the server",
        ("",) * IMAGES_IN_A_ROW,
        tuple(rows),
        note="The same handed-over images, finished by one client's head.",
    )


def _heads(level: Mapping[GridKey, Spread]) -> list[int]:
    return sorted({key.head_steps for key in level})


def _cuts(level: Mapping[GridKey, Spread]) -> list[float]:
    return sorted({key.cut_ratio for key in level})


def _cells(keys: Sequence[GridKey], level: Mapping[GridKey, Spread]) -> str:
    return ", ".join(f"{_evaluations(key.head_steps)} ({in_words(FID, level[key])})" for key in keys)


def _evaluations(count: int) -> str:
    return f"{count} evaluation" + ("" if count == 1 else "s")


def _sampler(key: SamplerKey) -> str:
    return f"{key.sampler} with {key.spacing} steps"
