"""What the figures of the attacks allow to be said: first whether the controls came out as they must, then what was gained."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain

from scipy.stats import norm

from evaluation.attacks.attribute_inference import COIN
from evaluation.attacks.averaging import closed_form_psnr_db
from evaluation.experiments.attacks import measures as made
from evaluation.experiments.attacks.figures import ByCut
from evaluation.metrics.claim import better, claim_in_words
from evaluation.metrics.comparison import Unit
from evaluation.metrics.spread import Spread
from evaluation.reporting.demo_report import fixed
from evaluation.reporting.outcome import Finding, Weight

CHANCE_REACH = 4.0
"""Standard deviations around chance within which a single control that must fail has failed."""
FALSE_ALARMS = 0.01
"""How often chance alone makes one of several controls succeed that must fail."""
NOTHING_GAINED, EVERYTHING_GAINED = 0.02, 0.99
LEAST_CLEAN_AREA = 0.7
LEAST_LINKED = 0.9


def control(passed: bool, good: str, bad: str) -> Finding:
    """A control, in the words for how it came out."""
    return Finding(good, Weight.CONTROL) if passed else Finding(bad, Weight.FAILED_CONTROL)


def reach_of_all(comparisons: int) -> float:
    """Standard deviations around chance within which all of so many controls have failed, but for `FALSE_ALARMS` (Bonferroni)."""
    return float(norm.isf(FALSE_ALARMS / comparisons / 2))


def beyond_noise(figures: ByCut, name: str, subject: str) -> list[Finding]:
    """At which inner cuts a share is more than the same attack gets from noise, which stands at the cut 1.

    One finding for the cuts at which it is, one for those at which that is open.
    """
    noise = figures.at(name, 1.0)
    inner = [(cut, figures.at(name, cut)) for cut in figures.cuts if 0 < cut < 1]
    known = [(cut, figure) for cut, figure in inner if figure is not None]
    if noise is None or not known:
        return []
    told: dict[bool, list[str]] = {True: [], False: []}
    for cut, figure in known:
        claim = better(name, Unit.SHARE, figure, noise, ("the release", "noise"), among=len(known))
        told[claim.better == "the release"].append(f"{_share(figure)} at cut {cut:g}")
    control_words = f"the same attack on noise gets {_share(noise)}"
    findings = []
    if told[True]:
        findings.append(
            Finding(
                f"{subject}: {listed(told[True])}; that is more than chance, since {control_words} (Welch's intervals, 5 % for "
                f"all {len(known)} cuts together).",
                Weight.CLAIM,
            )
        )
    if told[False]:
        findings.append(
            Finding(
                f"{subject}: {listed(told[False])}, which these runs do not tell from noise: {control_words}.",
                Weight.UNDECIDED,
            )
        )
    return findings


def versus(
    figures: ByCut, cut: float, metric: str, first: tuple[str, str], second: tuple[str, str]
) -> list[Finding]:
    """One figure against another at one cut; nothing where one of them is missing.  first, second: (figure, in words)."""
    a, b = figures.at(first[0], cut), figures.at(second[0], cut)
    if a is None or b is None:
        return []
    what = f"at cut {cut:g}, {metric} by {first[1]} against {second[1]}"
    return [claimed(what, a, b, (first[1], second[1]))]


def about_reconstruction(figures: ByCut, main_cut: float) -> list[Finding]:
    """Of one image from one release."""
    clean = [_mean(figures.at(name, 0.0)) for name in (made.LINEAR, made.LEARNED)]
    noise = [_mean(figures.at(name, 1.0)) for name in (made.LINEAR, made.LEARNED)]
    removed, learned = "share of the blind error removed", (made.LEARNED, "the learned reconstruction")
    return [
        control(
            min(clean) >= EVERYTHING_GAINED,
            "Reconstruction, control that must succeed: from the clean image (cut 0) both attacks give back the image.",
            f"Reconstruction, control that must succeed: clean images leave an attack at {percent(min(clean))} of the gain.",
        ),
        control(
            max(noise) <= NOTHING_GAINED,
            f"Reconstruction, control that must fail: from noise (cut 1) no attack gains more than {percent(max(noise))}.",
            f"Reconstruction, control that must fail: from noise an attack gains {percent(max(noise))} over the blind guess.",
        ),
        *beyond_noise(
            figures, made.LEARNED, "The learned reconstruction removes of the blind guess's squared error"
        ),
        *beyond_noise(
            figures, made.RECOGNISED, "Reconstructions nearest to their own original among all attacked"
        ),
        *versus(figures, main_cut, removed, learned, (made.LINEAR, "the best linear reconstruction")),
        *versus(figures, main_cut, removed, learned, (made.BACKBONE, "the backbone itself")),
    ]


def about_averaging(figures: ByCut, alpha_bar: dict[float, float], values: int) -> list[Finding]:
    """Of several releases.  alpha_bar: by cut;  values: pixels and channels that one figure is a mean of, over one seed."""
    most, off, seeds = made.COUNTS[-1], 0.0, 1
    for cut in figures.cuts:
        for count in made.COUNTS:
            found = figures.at(f"K = {count}", cut)
            off = max(off, abs(_mean(found) - closed_form_psnr_db(alpha_bar[cut], count)))
            seeds = found.n if found else seeds
    # A mean of n squared normals scatters by √(2/n), and a decibel is a tenth of a decade.
    reach = CHANCE_REACH * 10.0 / math.log(10.0) * math.sqrt(2.0 / (values * seeds))
    mixed = min(_mean(figures.at(made.MIXED, cut)) for cut in figures.cuts)
    steps = [
        f"{fixed(closed_form_psnr_db(alpha_bar[cut], 1), 0)} dB from one and "
        f"{fixed(closed_form_psnr_db(alpha_bar[cut], most), 0)} dB from {most} at cut {cut:g}"
        for cut in figures.cuts
    ]
    return [
        control(
            off <= reach,
            f"Averaging, control that must succeed: every measured average lies within {off:.2f} dB of the closed form.",
            f"Averaging, control that must succeed: an average is {off:.2f} dB off the closed form; {reach:.2f} may be luck.",
        ),
        control(
            mixed >= 0.9,
            f"Averaging, control that must fail: averaged releases of different images leave {percent(mixed)} of the blind "
            "error or more. Only who can link releases gains by averaging.",
            f"Averaging, control that must fail: averages over different images leave but {percent(mixed)} of the blind error.",
        ),
        Finding(f"Plain averages of linked releases come to {listed(steps)} (10·log₁₀(4K/σ²)).", Weight.FACT),
    ]


def about_attributes(figures: ByCut, main_cut: float, by_chance: Mapping[str, float]) -> list[Finding]:
    """What a classifier tells from a release.  by_chance: `measures.chance_of_attributes`."""
    asked = [name for name in figures.figures if name != COIN]
    if not asked:
        return [
            Finding(
                "Attribute inference: of these images nothing is known that could be asked for.",
                Weight.UNDECIDED,
            )
        ]
    off = max(abs(_mean(figures.at(COIN, cut)) - 0.5) for cut in figures.cuts)
    behind_noise = {name: abs(_mean(figures.at(name, 1.0)) - 0.5) for name in asked}
    noise = max(behind_noise.values())
    # A mean over seeds scatters no more than the figure of one seed, which is what chance is known of: their images overlap.
    reach = reach_of_all(len(figures.cuts) + len(asked))
    told = [name for name, area in {COIN: off, **behind_noise}.items() if area > reach * by_chance[name]]
    clean = max(_mean(figures.at(name, 0.0)) for name in asked)
    area = "area under the ROC curve"
    return [
        control(
            clean >= LEAST_CLEAN_AREA,
            f"Attribute inference, control that must succeed: from clean images the classifier reaches an {area} of {clean:.3f}.",
            f"Attribute inference, control that must succeed: even from clean images the {area} is {clean:.3f} at best.",
        ),
        control(
            not told,
            f"Attribute inference, controls that must fail: the toss of a coin is never told ({area} within {off:.3f} of ½), "
            f"and from noise nothing is (within {noise:.3f}).",
            f"Attribute inference, controls that must fail: further from ½ than {reach:.1f} standard deviations of chance "
            f"are {', '.join(told)} (a coin by {off:.3f}, the most behind noise by {noise:.3f}).",
        ),
        *chain.from_iterable(
            beyond_noise(figures, name, f"Chance of telling two images apart by {name}") for name in asked
        ),
        *_hidden_from_classifiers(figures, asked, main_cut),
    ]


def _hidden_from_classifiers(figures: ByCut, asked: Sequence[str], main_cut: float) -> list[Finding]:
    findings = []
    for name in asked:
        clean, released = figures.at(name, 0.0), figures.at(name, main_cut)
        if clean and released:
            names = ("the clean image", f"the release at cut {main_cut:g}")
            findings.append(
                claimed(
                    f"what a classifier tells of {name}", clean, released, names, better_word="tells more"
                )
            )
    return findings


def about_linkage(figures: ByCut, main_cut: float, images: int) -> list[Finding]:
    """Whether two releases are of one image.  images: among how many a partner was sought."""
    ways = (made.PIXELS, made.WIENER, made.RATIO)
    clean = min(_mean(figures.at(f"rank 1 {way}", 0.0)) for way in ways)
    noise = max(_mean(figures.at(f"rank 1 {way}", 1.0)) for way in ways)
    luck = 1.0 / images
    reach = luck + CHANCE_REACH * math.sqrt(luck * (1.0 - luck) / images)
    return [
        control(
            clean >= LEAST_LINKED,
            f"Linkage, control that must succeed: of clean images (cut 0) {percent(clean)} find their partner.",
            f"Linkage, control that must succeed: even of clean images only {percent(clean)} find their partner.",
        ),
        control(
            noise <= reach,
            f"Linkage, control that must fail: in noise {percent(noise)} find theirs, and {percent(luck)} would by luck.",
            f"Linkage, control that must fail: in noise {percent(noise)} find theirs, where {percent(luck)} would by luck.",
        ),
        *beyond_noise(
            figures,
            f"rank 1 {made.RATIO}",
            f"Second releases found among {images} by the likelihood ratio",
        ),
        *beyond_noise(
            figures,
            f"AUC {made.RATIO}",
            "Chance that the likelihood ratio rates two releases of one image above two of different images",
        ),
        *versus(
            figures,
            main_cut,
            "second releases found",
            (f"rank 1 {made.RATIO}", "the likelihood ratio"),
            (f"rank 1 {made.PIXELS}", "the distance of pixels"),
        ),
    ]


def claimed(metric: str, a: Spread, b: Spread, names: tuple[str, str], *, better_word: str = "") -> Finding:
    """One figure against another: a claim, or that it is open.  better_word: instead of "is better"."""
    claim = better(metric, Unit.SHARE, a, b, names)
    # What is repeated here is the attack, of which a training is a part at most.
    words = claim_in_words(claim).replace("trainings", "seeds")
    return Finding(
        words.replace("is better", better_word) if better_word else words,
        Weight.UNDECIDED if claim.better is None else Weight.CLAIM,
    )


def _mean(figure: Spread | None) -> float:
    return math.nan if figure is None else figure.mean


def _share(figure: Spread) -> str:
    return f"{fixed(figure.mean, 1, 100)} ± {fixed(figure.standard_deviation, 1, 100)} %"


def percent(share: float) -> str:
    """A share as people read it."""
    return f"{fixed(share, 1, 100)} %"


def listed(parts: Sequence[str]) -> str:
    """Parts of a sentence, with "and" before the last."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
