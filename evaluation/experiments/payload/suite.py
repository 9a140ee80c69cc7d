"""In how many bytes does a release travel? float32, float16 or int8: fidelity, bytes, error, and what changes in disclosure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from edge_agent.release.batch import Dtype
from evaluation.attacks.averaging import best_linear, of_release
from evaluation.experiments.payload.wire import UNIFORM_SCATTER, PayloadTraining, Wire, wire_of
from evaluation.experiments.releases.reconstructions import Attacked, attacked, known_to_the_attacker
from evaluation.experiments.releases.upload import DEFAULT_DTYPE, DTYPES, arrived, release_bodies
from evaluation.measuring.main_cut import heads, quality_with
from evaluation.measuring.quality import (
    COLUMNS,
    ClientQuality,
    Figure,
    Quality,
    Real,
    floor_band,
    floor_cells,
    floor_note,
    real_floor,
)
from evaluation.measuring.verdicts import Named, against
from evaluation.metrics.disclosure import squared_errors
from evaluation.metrics.spread import spread
from evaluation.reporting.gallery import png_data_uri
from evaluation.reporting.outcome import (
    Better,
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
from evaluation.running.trainings import BackboneTraining, Budget, Training
from evaluation.running.workbench import Progress, Workbench

TITLE = "Payload"
LOSSLESS: Dtype = "float32"
STANDARD_ERRORS = 4.0
NEGLIGIBLE = 0.01
"""A change of an error by less than this share of it is none for any purpose."""
SHOWN = 6
_LIMITS = (
    "One release of each image; with more, what rounding adds averages out with the rest of the noise.",
    "Rounding and reconstruction are measured on the releases of the first seed, and spread over images.",
    "int8 keeps an image's largest magnitude beside its values. Images of more values have a larger one, and lose more.",
)


def trainings(bench: Workbench) -> list[Training]:
    """A backbone for each payload and seed, and every client's heads at the main cut."""
    design = bench.design
    return [*(_backbone(bench, dtype, seed) for dtype in DTYPES for seed in design.seeds), *heads(bench)]


def measure(bench: Workbench, progress: Progress) -> Outcome:
    """Generates with every payload's backbones, and looks at what arrives."""
    cut_ratio, parts = bench.design.main_cut, len(DTYPES) + 1
    qualities: dict[Dtype, Quality] = {}
    for done, dtype in enumerate(DTYPES):
        progress(done, parts, f"images from {dtype}")
        qualities[dtype] = quality_with(bench, partial(_backbone, bench, dtype))
    progress(parts - 1, parts, "what arrives")
    first = bench.design.seeds[0]
    wires = {dtype: wire_of(bench.federation, cut_ratio, dtype, seed=first) for dtype in DTYPES}
    targets = attacked(bench.federation)
    errors = {dtype: reconstruction_errors(bench, targets, dtype) for dtype in DTYPES}
    floor = real_floor(bench)
    return Outcome(
        suite="payload",
        title=TITLE,
        question="Does it cost fidelity to send releases in fewer bytes, and does it hide anything?",
        method=(
            f"At cut {cut_ratio:g} one release of every image is put into the system's own messages as {', '.join(DTYPES)} and "
            f"read out of them as the server reads them ({DEFAULT_DTYPE} is the default). For each payload and seed a backbone "
            "is trained on what arrives, with equal updates, seeds and heads. The attack is the best linear reconstruction from "
            f"what arrives, with the covariance of {known_to_the_attacker(bench.federation)}."
        ),
        findings=(
            *(finding_on_rounding(dtype, wires[dtype]) for dtype in DTYPES),
            *findings_on_fidelity(qualities),
            finding_on_bytes(wires),
            Finding(
                "What arrives is computed from the release alone, so the ledger of the release holds for every payload.",
                Weight.FACT,
            ),
            *(finding_on_disclosure(dtype, errors) for dtype in DTYPES if dtype != LOSSLESS),
        ),
        tables=(_wire_table(wires, errors), *_fidelity_tables(qualities, floor)),
        charts=(_chart(qualities, wires, floor),),
        pictures=(_pictures(bench),),
        limits=_LIMITS,
    )


def reconstruction_errors(bench: Workbench, targets: Sequence[Attacked], dtype: Dtype) -> NDArray[np.float64]:
    """Mean squared error of the best linear reconstruction of each image from what arrives: (N,) float64."""
    cut_ratio, seed = bench.design.main_cut, bench.design.seeds[0]
    alpha_bar = float(bench.schedule.alpha_bar[bench.t_cut(cut_ratio)])
    found = []
    for each in targets:
        sent = bench.federation.releases(each.client, cut_ratio, seed=seed)
        read = arrived(release_bodies(sent, dtype))
        guess = best_linear(of_release(read, alpha_bar), each.prior)
        found.append(squared_errors(each.client.train.images, guess))
    return np.concatenate(found)


def finding_on_rounding(dtype: Dtype, wire: Wire) -> Finding:
    """Control: a payload loses what rounding to its steps must lose, to four standard errors, and float32 loses nothing."""
    if wire.ratio is None or wire.decibels is None:
        weight = Weight.CONTROL if dtype == LOSSLESS else Weight.FAILED_CONTROL
        return Finding(f"{dtype} arrives as it was sent, to the last bit.", weight)
    reach = STANDARD_ERRORS * UNIFORM_SCATTER / sqrt(wire.values)
    holds = dtype != LOSSLESS and abs(wire.ratio - 1) <= reach
    return Finding(
        f"{dtype} arrives {wire.decibels.mean:.1f} ± {wire.decibels.standard_deviation:.1f} dB above its rounding error, which "
        f"is {wire.ratio:.3f} times what arithmetic says; chance allows 1 ± {reach:.3f}.",
        Weight.CONTROL if holds else Weight.FAILED_CONTROL,
    )


def findings_on_fidelity(qualities: Mapping[Dtype, Quality]) -> list[Finding]:
    """Every narrower payload against float32, by FID and by KID on held-out images."""
    return [
        finding
        for figure in (Figure.FID, Figure.KID)
        for finding in against(
            COLUMNS[figure],
            [Named(d, each.known(Real.HELD_OUT, figure)) for d, each in qualities.items() if d != LOSSLESS],
            Named(LOSSLESS, qualities[LOSSLESS].known(Real.HELD_OUT, figure)),
            where=f"against {Real.HELD_OUT}",
        )
    ]


def finding_on_bytes(wires: Mapping[Dtype, Wire]) -> Finding:
    """What each payload saves, frames and labels counted."""
    whole = wires[LOSSLESS].sent_bytes
    saved = ", ".join(
        f"{dtype} {wire.sent_bytes / wire.images:,.0f} bytes for an image ({100 * wire.sent_bytes / whole:.0f} %)"
        for dtype, wire in wires.items()
    )
    return Finding(f"On the wire: {saved}.", Weight.FACT)


def finding_on_disclosure(dtype: Dtype, errors: Mapping[Dtype, NDArray[np.float64]]) -> Finding:
    """Whether the attack errs otherwise than on float32, image by image: the mean change with its interval of 95 %.

    An interval that lies within `NEGLIGIBLE` is a claim too: that nothing is hidden, and nothing more given away.
    """
    change = spread(errors[dtype] - errors[LOSSLESS])
    whole = float(errors[LOSSLESS].mean())
    reach = 1.96 * change.standard_deviation / sqrt(change.n)
    low, high = ((change.mean + side * reach) / whole for side in (-1, 1))
    between = f"{100 * low:+.2g} % and {100 * high:+.2g} % (95 %, mean over {change.n} images)"
    what = "the error of the best linear reconstruction"
    if max(abs(low), abs(high)) < NEGLIGIBLE:
        return Finding(f"{dtype} leaves {what} as it is: it changes by between {between}.", Weight.CLAIM)
    if low > 0 or high < 0:
        return Finding(f"{dtype} changes {what} by between {between}.", Weight.CLAIM)
    return Finding(f"{dtype} changes {what} by between {between}, which may be nothing.", Weight.UNDECIDED)


def _backbone(bench: Workbench, dtype: Dtype, seed: int) -> Training:
    """Of float32 it is the backbone that other experiments have, since nothing is lost."""
    cut_ratio, budget = bench.design.main_cut, Budget.backbone(bench.design)
    if dtype == LOSSLESS:
        return BackboneTraining(cut_ratio, budget, seed)
    return PayloadTraining(cut_ratio, budget, seed, dtype)


def _wire_table(wires: Mapping[Dtype, Wire], errors: Mapping[Dtype, NDArray[np.float64]]) -> Table:
    columns = (
        Column("payload"),
        Column("upload", "MB", Better.LESS, 3, 1e-6),
        Column("for an image", "bytes", Better.LESS, 0),
        Column("signal over rounding error", "dB", Better.MORE, 1),
        Column("error over arithmetic", "", Better.NEITHER, 3),
        Column("MSE, best linear reconstruction", "", Better.MORE, 4),
    )
    rows = tuple(
        (d, float(w.sent_bytes), w.sent_bytes / w.images, w.decibels, w.ratio, spread(errors[d]))
        for d, w in wires.items()
    )
    return Table(
        "On the wire",
        columns,
        rows,
        "Upload of all clients together, one release of each image, with AMQP's frames and without TLS. Decibels and errors are "
        "spread over images; nothing is said of float32's error, which is none.",
    )


def _fidelity_tables(qualities: Mapping[Dtype, Quality], floor: Sequence[ClientQuality]) -> tuple[Table, ...]:
    return tuple(
        Table(
            f"Fidelity against {real}",
            (Column("payload"), *COLUMNS.values()),
            (
                *((dtype, *each.cells(real)) for dtype, each in qualities.items()),
                ("real against real", *floor_cells(floor, real)),
            ),
            f"Means over clients, with the standard deviation over seeds. {floor_note(floor, real)}",
        )
        for real in Real
    )


def _chart(
    qualities: Mapping[Dtype, Quality], wires: Mapping[Dtype, Wire], floor: Sequence[ClientQuality]
) -> Chart:
    ascending = sorted(qualities, key=lambda dtype: wires[dtype].sent_bytes)
    return Chart(
        "Fidelity over bytes",
        "bytes on the wire for an image",
        f"FID against {Real.HELD_OUT}",
        (
            series_of(
                "int8, float16, float32",
                tuple(wires[dtype].sent_bytes / wires[dtype].images for dtype in ascending),
                tuple(qualities[dtype].known(Real.HELD_OUT, Figure.FID) for dtype in ascending),
            ),
        ),
        (floor_band(floor, Real.HELD_OUT, Figure.FID),),
        note="One standard deviation over seeds.",
    )


def _pictures(bench: Workbench) -> Pictures:
    """The first client's first releases as they arrive, and what rounding to int8 did to them."""
    client = bench.federation.clients[0]
    few = replace(client, train=client.train.take(np.arange(min(SHOWN, len(client.train)))))
    releases = bench.federation.releases(few, bench.design.main_cut, seed=bench.design.seeds[0])
    read = {dtype: arrived(release_bodies(releases, dtype)) for dtype in DTYPES}
    rows = [("the image itself", few.train.images), *read.items()]
    rows.append(("int8 error, 30 times larger", 30 * (read["int8"] - read[LOSSLESS])))
    return Pictures(
        "Releases as they arrive",
        tuple(str(index + 1) for index in range(len(releases))),
        tuple(PictureRow(name, tuple(png_data_uri(image) for image in images)) for name, images in rows),
    )
