"""The five attacks, each made at every cut with every seed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion.network import UNet
from evaluation.attacks import averaging, linkage, membership, reconstruction
from evaluation.attacks.attribute_inference import answers, areas, questions
from evaluation.attacks.roc import Separation, deviation_by_chance, separation
from evaluation.data.images import LabelledImages, concatenate
from evaluation.experiments.attacks.figures import ByCut, by_cut
from evaluation.experiments.attacks.scene import Scene, trainings_of
from evaluation.experiments.attacks.trainings import MemorisedTraining
from evaluation.metrics.disclosure import reconstruct, squared_errors

Tell = Callable[[str], None]
"""Told in words what has been measured."""

LINEAR, LEARNED, BACKBONE, BLIND = "best linear", "learned", "backbone's own", "blind"
RECOGNISED = "recognised"
COUNTS = (1, 4, 16, 64, 450)
AVERAGED_IMAGES, MIXED = 8, "of different images"
LABELS = "label"
LOSS, STEPS, STORE = "loss of the backbone", "steps of the backbone (SecMI)", "match with the store"
MOST_CANDIDATES = 400
PIXELS, WIENER, RATIO = "pixels", "after the Wiener filter", "likelihood ratio"
MOST_LINKED = 300
MOST_OWN_ROWS = 3000


def reconstructions(scene: Scene, cut: float, seed: int) -> dict[str, NDArray[np.float64]]:
    """x̂_0 of all images attacked, by every attack that can be made at this cut: name → (n, C, H, W) float64."""
    attacked, bench = scene.attacked(seed), scene.bench
    x_c, t_cut, a = attacked.released(cut)[0], bench.t_cut(cut), scene.alpha_bar(cut)
    network = bench.network(trainings_of(bench.design)[1][bench.design.seeds.index(seed)])
    found = {
        LINEAR: reconstruct(x_c, a, scene.prior),
        LEARNED: reconstruction.learned(network, x_c, t_cut, a, scene.prior),
    }
    if 0 < cut < 1:
        backbone = scene.backbone(cut, seed)
        found[BACKBONE] = reconstruction.one_step(backbone, bench.schedule, x_c, t_cut, attacked.truth.labels)
    return found


def measure_reconstruction(scene: Scene, tell: Tell) -> ByCut:
    """Gains over blind by LINEAR, LEARNED and BACKBONE, "MSE …" of each and of BLIND, and RECOGNISED by the learned one."""

    def measure(cut: float, seed: int) -> Mapping[str, float]:
        truth = scene.attacked(seed).truth.images
        mean = scene.prior.mean.reshape(truth.shape[1:])
        blind = squared_errors(truth, np.broadcast_to(mean, truth.shape))
        found = {f"MSE {BLIND}": float(blind.mean())}
        for name, guess in reconstructions(scene, cut, seed).items():
            errors = squared_errors(truth, guess)
            found[name] = reconstruction.gain_over_blind(errors, blind)
            found[f"MSE {name}"] = float(errors.mean())
            if name == LEARNED:
                found[RECOGNISED] = reconstruction.recognised(guess, truth)
        tell(f"reconstruction at cut {cut:g}")
        return found

    return by_cut(scene.bench.design.cuts, scene.bench.design.seeds, measure)


def measure_averaging(scene: Scene, tell: Tell) -> ByCut:
    """PSNR in dB of the plain average, "K = …"; of the same with a prior, "K = …, prior"; and two figures of the control.

    MIXED: the mean squared error of the average of as many releases of different images over that of the blind guess.
    """

    def measure(cut: float, seed: int) -> Mapping[str, float]:
        attacked, a = scene.attacked(seed).first(AVERAGED_IMAGES), scene.alpha_bar(cut)
        truth, x_c = attacked.truth.images, attacked.released(cut, COUNTS[-1])
        found = {}
        for count in COUNTS:
            evidence = averaging.of_mean(x_c[:count], a)
            informed = averaging.best_linear(evidence, scene.prior)
            found[f"K = {count}"] = averaging.psnr_db(float(averaging.mean_errors(evidence, truth).mean()))
            found[f"K = {count}, prior"] = averaging.psnr_db(float(squared_errors(truth, informed).mean()))
        # As many releases, each of another image: what an attacker averages who cannot link them.
        mixed = averaging.of_mean(scene.attacked(seed).released(cut)[0][:, None], a).mean
        blind = squared_errors(truth, np.broadcast_to(scene.prior.mean.reshape(truth.shape[1:]), truth.shape))
        found[MIXED] = float(squared_errors(truth, np.broadcast_to(mixed, truth.shape)).mean() / blind.mean())
        tell(f"averaging at cut {cut:g}")
        return found

    inner = [cut for cut in scene.bench.design.cuts if 0 < cut < 1]
    return by_cut(inner, scene.bench.design.seeds, measure)


def measure_attributes(scene: Scene, tell: Tell) -> ByCut:
    """Areas under the ROC curve: LABELS (mean over labels, each against the rest), every attribute, and the coin."""
    names = scene.bench.federation.label_names

    def measure(cut: float, seed: int) -> Mapping[str, float]:
        attacked, own = scene.attacked(seed), scene.own
        asked = questions(own, attacked.truth, names, seed=seed)
        copies = max(1, min(8, MOST_OWN_ROWS // len(own)))
        own_x = np.stack([scene.noised(own.images, cut, 100 * seed + copy) for copy in range(copies)])
        x_c = attacked.released(cut)[0]
        likely = answers(own_x, asked.own, x_c, scene.alpha_bar(cut), scene.prior, seed=seed)
        found = areas(likely, asked.truth)
        tell(f"attribute inference at cut {cut:g}")
        labels = {LABELS: float(found[: asked.labels].mean())} if asked.labels else {}
        return labels | {
            name: float(found[index]) for index, name in enumerate(asked.names) if index >= asked.labels
        }

    return by_cut(scene.bench.design.cuts, scene.bench.design.seeds, measure)


def chance_of_attributes(scene: Scene) -> dict[str, float]:
    """How far the area of each figure of `measure_attributes` scatters where nothing can be told.

    A standard deviation for the fewest of a kind over seeds: of a rare property chance alone tells more than of a coin.
    """
    found: dict[str, float] = {}
    for seed in scene.bench.design.seeds:
        asked = questions(
            scene.own, scene.attacked(seed).truth, scene.bench.federation.label_names, seed=seed
        )
        for index, name in enumerate(asked.names):
            yes, shown = int(asked.truth[:, index].sum()), LABELS if index < asked.labels else name
            scatter = deviation_by_chance(yes, len(asked.truth) - yes)
            found[shown] = max(found.get(shown, 0.0), scatter)
    return found


@dataclass(frozen=True)
class Memberships:
    """What membership inference came to.

    by_cut: (attack, cut) → one separation for each seed;  memorised: attack → that of a network overfitted on clean images;
    heavily: attack → those of networks overfitted on as many releases at the main cut, one for each seed;
    not_shown: attack → those of training images that an overfitted network was not shown against held-out ones, one for each
    of these networks.
    """

    by_cut: Mapping[tuple[str, float], tuple[Separation, ...]]
    memorised: Mapping[str, Separation]
    heavily: Mapping[str, tuple[Separation, ...]]
    not_shown: Mapping[str, tuple[Separation, ...]]


def measure_membership(scene: Scene, tell: Tell) -> Memberships:
    """Tells training images from held-out ones, at every cut that has a backbone, and both controls."""
    design = scene.bench.design
    by_cut: dict[tuple[str, float], list[Separation]] = {}
    for cut in design.cuts:
        for seed in design.seeds:
            members, others = _candidates(scene, seed)
            everybody = concatenate((members, others))
            scores = {
                STORE: membership.by_store(everybody.images, scene.held(cut, seed), scene.alpha_bar(cut))
            }
            if cut < 1:
                scores |= _asked(scene, scene.backbone(cut, seed), everybody, scene.bench.t_cut(cut), seed)
            for name, values in scores.items():
                found = separation(values[: len(members)], values[len(members) :], seed=seed)
                by_cut.setdefault((name, cut), []).append(found)
            tell(f"membership inference at cut {cut:g}")
    overfitted = [overfitted_asked(scene, training) for training in trainings_of(design)[2]]
    shown, not_shown = (
        {name: tuple(parts[name][place] for parts in overfitted) for name in (LOSS, STEPS)}
        for place in (0, 1)
    )
    return Memberships(
        {key: tuple(found) for key, found in by_cut.items()},
        {name: parts[0] for name, parts in shown.items()},
        {name: parts[1:] for name, parts in shown.items()},
        not_shown,
    )


def _candidates(scene: Scene, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """As many training images as held-out ones, others for every seed."""
    rng, pooled = np.random.default_rng((seed, 23)), scene.bench.federation.pooled
    n = min(MOST_CANDIDATES, len(scene.own), len(pooled))
    return pooled.take(rng.permutation(len(pooled))[:n]), scene.own.take(rng.permutation(len(scene.own))[:n])


def _asked(
    scene: Scene, network: UNet, everybody: LabelledImages, t_cut: int, seed: int
) -> dict[str, NDArray[np.float64]]:
    predict, schedule = membership.predictor(network, everybody.labels), scene.bench.schedule
    steps, path = membership.loss_steps(t_cut, schedule.T), membership.secmi_path(t_cut, schedule.T)
    return {
        LOSS: membership.by_loss(predict, schedule, everybody.images, steps, seed=seed),
        STEPS: membership.by_steps(predict, schedule, everybody.images, path, seed=seed),
    }


def overfitted_asked(scene: Scene, training: MemorisedTraining) -> dict[str, tuple[Separation, Separation]]:
    """An overfitted network, asked by each attack for its own images and for training images that it was not shown.

    Both clean, and each against the held-out ones: attack → (shown, not shown).
    """
    federation = scene.bench.federation
    members, others = training.members(federation), training.not_shown(federation, MOST_CANDIDATES)
    network, t_cut = scene.bench.network(training), scene.bench.t_cut(training.cut_ratio)
    scores = _asked(scene, network, concatenate((members, others, scene.own)), t_cut, training.seed)
    ends = (len(members), len(members) + len(others))
    found = {}
    for name, values in scores.items():
        shown, not_shown, held_out = np.split(values, ends)
        found[name] = (separation(shown, held_out), separation(not_shown, held_out))
    return found


def measure_linkage(scene: Scene, tell: Tell) -> ByCut:
    """Figures "AUC …" and "rank 1 …" by PIXELS, WIENER and RATIO, and "by luck", the share found without looking."""

    def measure(cut: float, seed: int) -> Mapping[str, float]:
        attacked, a = scene.attacked(seed).first(MOST_LINKED), scene.alpha_bar(cut)
        first, second = attacked.released(cut, 2)
        similarities = {
            PIXELS: linkage.by_pixels(first, second),
            WIENER: linkage.by_wiener(first, second, a, scene.prior),
            RATIO: linkage.by_likelihood(first, second, a, scene.prior),
        }
        found = {"by luck": 1.0 / len(first)}
        for name, similarity in similarities.items():
            link = linkage.linkage(similarity)
            found |= {f"AUC {name}": link.auc, f"rank 1 {name}": link.rank_1}
        tell(f"linkage at cut {cut:g}")
        return found

    return by_cut(scene.bench.design.cuts, scene.bench.design.seeds, measure)
