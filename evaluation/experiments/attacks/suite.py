"""Attacks, each against what the server really holds, and each with a control that must succeed and one that must fail."""

from collections.abc import Sequence

from evaluation.experiments.attacks import findings as say
from evaluation.experiments.attacks import measures as made
from evaluation.experiments.attacks import report as show
from evaluation.experiments.attacks.membership_findings import about_membership
from evaluation.experiments.attacks.scene import Scene, trainings_of
from evaluation.reporting.outcome import Finding, Outcome, Weight
from evaluation.running.trainings import Training
from evaluation.running.workbench import Progress, Workbench

TITLE = "Attacks"

QUESTION = (
    "What can the server, or whoever takes its store or its backbone, find out about the images behind the releases: the image "
    "itself, a property of it, whether it was trained on, whether two releases are of one image?"
)
LIMITS = (
    "The attacker's own images are the held-out images of the same clients: it knows the kind of image better than most would.",
    "Labels travel beside a release. Here they stand in for any property that does not, and membership inference is given them.",
    "An attack is as strong as what its budget allows to train: that one fails does not show that none succeeds. Only ε does.",
    "Membership inference uses no shadow models; with them it would find more, at the price of training many backbones.",
    (
        "Where images come in groups (slices of a patient, patches of a region), no group is on both sides of training: "
        "membership inference may then tell groups apart, and its intervals, which take images for independent, are too narrow."
    ),
    (
        "Every seed attacks another half of the same training images, with other networks and other noise of the releases; the "
        "division of the data is the same for all."
    ),
    "The heads stay with their owners, so the server cannot ask them; a head that is stolen is outside this experiment.",
    "Files that differ in one pixel are two images to a device: near-duplicates average and link like releases of one image.",
)


def trainings(bench: Workbench) -> Sequence[Training]:
    """The backbones of the cut sweep, an attacker's network for each seed, and networks overfitted on purpose."""
    backbones, attackers, memorised = trainings_of(bench.design)
    return [*backbones, *attackers, *memorised]


def measure(bench: Workbench, progress: Progress) -> Outcome:
    """Makes all five attacks at every cut."""
    scene, design = Scene(bench), bench.design
    # Every attack tells of every cut and seed; averaging has no figure at the two ends.
    of, done = len(design.seeds) * (5 * len(design.cuts) - 2), 0

    def tell(words: str) -> None:
        nonlocal done
        done += 1
        progress(done, of, words)

    reconstruction = made.measure_reconstruction(scene, tell)
    averaging = made.measure_averaging(scene, tell)
    attributes = made.measure_attributes(scene, tell)
    membership = made.measure_membership(scene, tell)
    linkage = made.measure_linkage(scene, tell)
    attacked = scene.attacked(design.seeds[0])
    values = len(attacked.first(made.AVERAGED_IMAGES).rows) * attacked.truth.images[0].size
    alpha_bar = {cut: scene.alpha_bar(cut) for cut in averaging.cuts}
    return Outcome(
        suite="attacks",
        title=TITLE,
        question=QUESTION,
        method=_method(scene),
        findings=(
            *say.about_reconstruction(reconstruction, design.main_cut),
            *say.about_averaging(averaging, alpha_bar, values),
            *say.about_attributes(attributes, design.main_cut, made.chance_of_attributes(scene)),
            *about_membership(membership, design.main_cut),
            *say.about_linkage(linkage, design.main_cut, len(attacked.first(made.MOST_LINKED).rows)),
            Finding(
                "The heads are not attacked: the server does not hold them, and what it publishes is the backbone alone.",
                Weight.FACT,
            ),
        ),
        tables=(
            show.reconstruction_table(reconstruction),
            show.averaging_table(averaging, scene),
            show.attribute_table(attributes),
            show.membership_table(membership, design.main_cut),
            show.linkage_table(linkage),
        ),
        charts=show.charts(
            reconstruction,
            attributes,
            linkage,
            (show.averaging_chart(averaging), show.membership_chart(membership)),
        ),
        pictures=(show.pictures(scene),),
        limits=(*LIMITS, _seen(scene)),
    )


def _seen(scene: Scene) -> str:
    """How often a backbone has looked at each release: what membership inference depends on most."""
    design = scene.bench.design
    times = design.updates * design.batch_size / len(scene.bench.federation.pooled)
    return (
        f"Each backbone was shown every release {times:.3g} times on average. Longer training learns more by heart: membership "
        "inference says something about backbones trained as long as these, and no longer."
    )


def _method(scene: Scene) -> str:
    n, own = len(scene.attacked(scene.bench.design.seeds[0]).rows), len(scene.own)
    return (
        f"The server holds one release x_c of every training image, its label and the backbone. With every seed {n} training "
        f"images are attacked, by somebody who owns {own} held-out images of the same kind and knows the schedule and the cut. "
        "Reconstruction: the Wiener filter of a Gaussian fitted to the attacker's images (covariance after Ledoit and Wolf); a "
        "network trained on them to correct it; and one evaluation of the backbone itself, given the label, whose prediction is "
        "the mean of all images behind x_c and needs no image of the attacker's. "
        f"Averaging: {made.COUNTS[0]} to {made.COUNTS[-1]} releases that the attacker is told are of one image. "
        "Attribute inference: a small network on the best linear reconstruction, trained on the attacker's images noised as the "
        "device noises. Membership: thresholds on the backbone's loss over several (t, ε) (Carlini et al. 2023) and on the error "
        "of deterministic steps up and back (SecMI, Duan et al. 2023), each standardised over the candidates; and, since the "
        "server holds more than the backbone, the likelihood that its store contains a release of the candidate. "
        "Linkage: two releases of every image, compared by pixels, after the Wiener filter, and by the "
        "likelihood ratio of the same Gaussian. Networks overfitted on a few releases show what longer training could give away. "
        "At the cut 0 every attack is given the clean images and must succeed (a reconstruction has nothing to undo there, so "
        "that its control finds mistakes of arithmetic alone), at the cut 1 it is given noise and must fail. For membership a "
        "network overfitted on clean images must give its own images away; and the same attacks on the overfitted networks must "
        "not tell other training images, which these networks were not shown, from held-out ones."
    )
