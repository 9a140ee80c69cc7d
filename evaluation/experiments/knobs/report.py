"""The two knobs in tables, charts and a heat map."""

from collections.abc import Mapping, Sequence

import numpy as np

from diffusion.privacy import epsilon_of_mu, gdp_mu, norm_bound
from evaluation.data.images import LabelledImages
from evaluation.experiments.knobs.findings import (
    DELTA,
    FID,
    device_findings,
    evaluations,
    private_findings,
    sampler_findings,
)
from evaluation.experiments.knobs.grid import (
    Grid,
    GridKey,
    Measured,
    SamplerKey,
    fid_of,
    within_spread_of_best,
)
from evaluation.measuring.quality import (
    COLUMNS,
    ClientQuality,
    Figure,
    Real,
    floor_band,
    floor_cells,
    floor_note,
)
from evaluation.metrics.spread import Spread
from evaluation.reporting.gallery import png_data_uri
from evaluation.reporting.outcome import (
    Band,
    Cell,
    Chart,
    Column,
    Outcome,
    PictureRow,
    Pictures,
    Table,
    series_of,
)
from evaluation.running.workbench import Workbench

IMAGES_IN_A_ROW = 5
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
            f"spacings of steps are tried with {evaluations(servers[-1])} on the server. FID against each client's held-out "
            f"images, {design.images} images each, in the features of {bench.extractor.name}; means over clients."
        ),
        findings=(
            *(finding for n in servers for finding in private_findings(grid.level(n))),
            *sampler_findings(grid.samplers, (design.sampler, "uniform")),
            *device_findings(private, level, servers[-1], _epsilon(bench, private)),
        ),
        tables=(_grid_table(grid, servers, floor), _sampler_table(grid.samplers, private)),
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


def _grid_table(grid: Grid, servers: Sequence[int], floor: Sequence[ClientQuality]) -> Table:
    real = floor_cells(floor, Real.HELD_OUT)[list(COLUMNS).index(Figure.FID)]
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
        *(Column(f"FID, {evaluations(head)}", "", FID.better, FID.decimals) for head in heads),
        Column("not told from the best"),
    )
    return Table(
        "FID over the cut and the head's evaluations",
        columns,
        (*rows, ("real against real", "", *(real for _ in heads), "")),
        note="Against held-out images. The last column: head evaluations that the seeds do not separate from the best cell with "
        f"as many server evaluations. {floor_note(floor, Real.HELD_OUT)}",
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
        *(Column(f"FID, {evaluations(head)}", "", FID.better, FID.decimals) for head in heads),
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
        f"FID after {evaluations(server_steps)} on the server",
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
        f"FID after {evaluations(server_steps)} on the server, as a map",
        tuple(evaluations(head) for head in heads),
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
        rows.append(PictureRow(f"{evaluations(head_steps)} on the device", uris))
    return Pictures(
        f"Images at c = {private:g} after {evaluations(server_steps)} on the server",
        ("",) * IMAGES_IN_A_ROW,
        tuple(rows),
        note="The same handed-over images, finished by one client's head.",
    )


def _heads(level: Mapping[GridKey, Spread]) -> list[int]:
    return sorted({key.head_steps for key in level})


def _cuts(level: Mapping[GridKey, Spread]) -> list[float]:
    return sorted({key.cut_ratio for key in level})
