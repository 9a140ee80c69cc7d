"""The tables, charts and pictures of the attacks."""

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from evaluation.attacks.attribute_inference import COIN
from evaluation.attacks.averaging import closed_form_psnr_db
from evaluation.attacks.roc import Separation
from evaluation.experiments.attacks import measures as made
from evaluation.experiments.attacks.figures import ByCut
from evaluation.experiments.attacks.measures import Memberships
from evaluation.experiments.attacks.scene import Scene
from evaluation.metrics.spread import spread
from evaluation.reporting.gallery import png_data_uri
from evaluation.reporting.outcome import (
    Band,
    Better,
    Cell,
    Chart,
    Column,
    PictureRow,
    Pictures,
    Table,
    series_of,
)

MOST_SHOWN_CUTS, SHOWN_IMAGES = 6, 2


def reconstruction_table(figures: ByCut) -> Table:
    """What is gained over a blind guess, and the errors behind it."""
    ways = (made.LINEAR, made.LEARNED, made.BACKBONE)
    columns = [Column(way, "% of the blind error removed", Better.LESS, 1, 100.0) for way in ways]
    columns.append(Column(made.RECOGNISED, "% of the learned ones", Better.LESS, 1, 100.0))
    columns += [Column(f"MSE {way}", "values in [-1, 1]", Better.MORE, 4) for way in ways]
    columns.append(Column(f"MSE {made.BLIND}", "values in [-1, 1]", Better.NEITHER, 4))
    return figures.table(
        "Reconstruction of an image from one release",
        [column for column in columns if column.name in figures.figures],
        "Less is better for the owner of the image. Blind: the mean of the attacker's own images, a guess without any release. "
        "Recognised: nearer to its own original than to any other image attacked. Cuts 0 and 1 are the controls: the clean "
        "image, and noise.",
    )


def averaging_table(figures: ByCut, scene: Scene) -> Table:
    """Decibels by number of releases, beside the closed form."""
    counts = made.COUNTS
    columns = [Column(f"K = {count}", "dB", Better.LESS, 1) for count in counts]
    columns += [Column(f"K = {count}, prior", "dB", Better.LESS, 1) for count in (counts[0], counts[-1])]
    closed = [Column(f"closed form, K = {count}", "dB", Better.NEITHER, 1) for count in counts]
    rows = tuple(
        (
            cut,
            *(figures.at(column.name, cut) for column in columns),
            *(closed_form_psnr_db(scene.alpha_bar(cut), count) for count in counts),
        )
        for cut in figures.cuts
    )
    return Table(
        "Averages of K linked releases of one image: peak signal-to-noise ratio",
        (Column("cut", decimals=2), *columns, *closed),
        rows,
        f"Plain averages over √ᾱ of {made.AVERAGED_IMAGES} images for each seed; prior: the Wiener filter on the same average. "
        "The system releases an image once unless its owner says otherwise.",
    )


def averaging_chart(figures: ByCut) -> Chart:
    """Decibels over the number of releases, a line for each of six cuts at most."""
    counts = tuple(float(count) for count in made.COUNTS)
    lines = []
    for cut in _some(figures.cuts):
        found = [figures.at(f"K = {count}", cut) for count in made.COUNTS]
        lines.append(series_of(f"cut {cut:g}", counts, tuple(figure for figure in found if figure)))
    return Chart(
        "What linking many releases recovers",
        "releases of one image, averaged",
        "PSNR (dB)",
        tuple(lines),
        log_x=True,
        note="Mean and one standard deviation over seeds; the closed form stands in the table.",
    )


def attribute_table(figures: ByCut) -> Table:
    """Areas under the ROC curve."""
    return figures.table(
        "Attribute inference: area under the ROC curve",
        [Column(name, "", Better.NEITHER if name == COIN else Better.LESS, 3) for name in figures.figures],
        "At cut 0 the classifier sees the clean images, at cut 1 noise: the controls. ½ is chance. Label: every label against "
        "the rest, averaged.",
    )


def membership_table(found: Memberships, main_cut: float) -> Table:
    """One row for each cut and attack, then the controls."""
    rows: list[tuple[Cell, ...]] = [
        (f"cut {cut:g}" + _what_it_is(cut), name, *_row(parts)) for (name, cut), parts in found.by_cut.items()
    ]
    rows += [
        ("overfitted network (must succeed)", name, *_row((part,))) for name, part in found.memorised.items()
    ]
    rows += [
        (f"networks overfitted on releases at cut {main_cut:g}", name, *_row(parts))
        for name, parts in found.heavily.items()
    ]
    rows += [
        ("overfitted networks, training images not shown (must fail)", name, *_row(parts))
        for name, parts in found.not_shown.items()
    ]
    one = next(iter(found.by_cut.values()))[0]
    columns = (
        Column("of"),
        Column("attack"),
        Column("area under the ROC curve", "", Better.LESS, 3),
        Column("95 % from", "", Better.NEITHER, 3),
        Column("95 % to", "", Better.NEITHER, 3),
        Column("true positives at 1 % false", "%", Better.LESS, 1, 100.0),
        Column("TPR 95 % from", "%", Better.NEITHER, 1, 100.0),
        Column("TPR 95 % to", "%", Better.NEITHER, 1, 100.0),
    )
    return Table(
        "Membership inference: training images against held-out ones",
        columns,
        tuple(rows),
        f"{one.positives} training against {one.negatives} held-out images; 1 % of the latter are {one.false_positives}. Areas "
        "with DeLong's interval, true positive rates with that of a bootstrap over images; of several seeds the widest ends. "
        "± is over seeds, in the last rows over the overfitted networks.",
    )


def membership_chart(found: Memberships) -> Chart:
    """Areas over the cut, with what the overfitted networks make of images that they were not shown."""
    names = dict.fromkeys(name for name, _ in found.by_cut)
    lines = []
    for name in names:
        known = [(cut, parts) for (attack, cut), parts in found.by_cut.items() if attack == name]
        areas = tuple(spread(part.auc for part in parts) for _, parts in known)
        lines.append(series_of(name, tuple(cut for cut, _ in known), areas))
    unseen = [part.auc for parts in found.not_shown.values() for part in parts]
    return Chart(
        "Who can tell training images from others",
        "cut: the client's share of the chain",
        "area under the ROC curve",
        tuple(lines),
        (Band("overfitted, images not shown", min(unseen), max(unseen)),),
        note="Mean and one standard deviation over seeds. At cut 0 the server holds the images, at cut 1 nothing.",
    )


def linkage_table(figures: ByCut) -> Table:
    """Areas and shares by cut."""
    ways = (made.PIXELS, made.WIENER, made.RATIO)
    columns = [Column(f"rank 1 {way}", "% found", Better.LESS, 1, 100.0) for way in ways]
    columns.append(Column("by luck", "% found", Better.NEITHER, 1, 100.0))
    columns += [Column(f"AUC {way}", "", Better.LESS, 3) for way in ways]
    return figures.table(
        "Linkage: is this second release of the same image?",
        columns,
        "Rank 1: the best rated of all second releases is the right one. AUC: chance that a pair of one image is rated above a "
        "pair of two. Cuts 0 and 1 are the controls: clean images, and noise.",
    )


def charts(
    reconstruction: ByCut, attributes: ByCut, linkage: ByCut, areas: Sequence[Chart]
) -> tuple[Chart, ...]:
    """Everything over the cut; areas: those charts that have been drawn already."""
    ways = [way for way in (made.LINEAR, made.LEARNED, made.BACKBONE) if way in reconstruction.figures]
    asked = [name for name in attributes.figures if name != COIN]
    coins = [figure for figure in attributes.figures[COIN] if figure]
    coin = Band(COIN, min(figure.low for figure in coins), max(figure.high for figure in coins))
    ranks = [f"rank 1 {way}" for way in (made.PIXELS, made.WIENER, made.RATIO)]
    return (
        reconstruction.chart("What one release gives away", "share of the blind error removed", ways),
        attributes.chart(
            "What a classifier tells from a release", "area under the ROC curve", asked, (coin,)
        ),
        linkage.chart("Second releases found", "share of images", ranks),
        *areas,
    )


def pictures(scene: Scene) -> Pictures:
    """Two images at every cut (six cuts at most): clean, released, and reconstructed by the learned attack."""
    seed = scene.bench.design.seeds[0]
    attacked = scene.attacked(seed)
    places = np.random.default_rng(31).permutation(len(attacked.rows))[:SHOWN_IMAGES]
    rows = []
    for cut in _some(scene.bench.design.cuts):
        x_c, guess = attacked.released(cut)[0], made.reconstructions(scene, cut, seed)[made.LEARNED]
        images = [
            image for place in places for image in (attacked.truth.images[place], x_c[place], guess[place])
        ]
        rows.append(PictureRow(f"cut {cut:g}{_what_it_is(cut)}", tuple(map(png_data_uri, images))))
    return Pictures(
        "What the server holds, and what a trained network makes of it",
        ("image", "released", "reconstructed") * len(places),
        tuple(rows),
        "Released values beyond [-1, 1] are shown as black or white.",
    )


def _some(cuts: Sequence[float]) -> list[float]:
    """Six of them at most, the first and the last among them."""
    places = np.linspace(0, len(cuts) - 1, min(MOST_SHOWN_CUTS, len(cuts))).round().astype(int)
    return [cuts[place] for place in places]


def _what_it_is(cut: float) -> str:
    """The controls stand at both ends."""
    return {0.0: " (clean)", 1.0: " (noise)"}.get(cut, "")


def _row(parts: Sequence[Separation]) -> tuple[Cell, ...]:
    """Area and true positive rate, each with the ends of its interval."""
    areas, rates = [part.auc for part in parts], [part.true_positive_rate for part in parts]
    several = len(parts) > 1
    return (
        spread(areas) if several else fmean(areas),
        min(part.auc_low for part in parts),
        max(part.auc_high for part in parts),
        spread(rates) if several else fmean(rates),
        min(part.tpr_low for part in parts),
        max(part.tpr_high for part in parts),
    )
