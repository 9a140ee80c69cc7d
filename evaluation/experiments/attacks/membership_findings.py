"""What may be said of membership inference: of the backbones, of overfitted networks, and of the store beside them."""

from collections.abc import Iterable, Sequence
from itertools import chain
from statistics import fmean

from evaluation.attacks.roc import Separation, deviation_by_chance
from evaluation.experiments.attacks import measures as made
from evaluation.experiments.attacks.findings import (
    FALSE_ALARMS,
    claimed,
    control,
    listed,
    percent,
    reach_of_all,
)
from evaluation.experiments.attacks.measures import Memberships
from evaluation.metrics.spread import spread
from evaluation.reporting.outcome import Finding, Weight

LEAST_MEMORISED_AREA = 0.8
_SIDES = {
    1: "with every seed the 95 % interval of the area lies above ½",
    -1: "with every seed the 95 % interval of the area lies below ½, so that members look less like members than others do, and "
    "whoever knows it turns the score round",
    0: "not with every seed is that told from chance",
}
"""What the intervals of all seeds say together, by `_side`."""


def about_membership(found: Memberships, main_cut: float) -> list[Finding]:
    """Who was trained on."""
    weakest = min(found.memorised.values(), key=lambda part: part.auc_low)
    one = next(iter(found.by_cut.values()))[0]
    attacks = dict.fromkeys(name for name, _ in found.by_cut)
    return [
        control(
            weakest.auc_low >= LEAST_MEMORISED_AREA,
            f"Membership, control that must succeed: a network overfitted on {weakest.positives} images gives them away to both "
            f"attacks (area {weakest.auc:.3f} or more).",
            f"Membership, control that must succeed: a network overfitted on {weakest.positives} images does not give them away "
            f"(area {weakest.auc:.3f}).",
        ),
        _division_is_not_read([part for parts in found.not_shown.values() for part in parts]),
        *chain.from_iterable(_told_members(found, name) for name in attacks),
        *_store_beside_backbone(found, main_cut),
        *(_heavily(name, parts, main_cut) for name, parts in found.heavily.items()),
        Finding(
            f"1 % of {one.negatives} held-out images are {one.false_positives}: a true positive rate at 1 % false positives "
            "rests on that many, and its interval is accordingly wide.",
            Weight.FACT,
        ),
    ]


def _division_is_not_read(parts: Sequence[Separation]) -> Finding:
    """The attacks that find what an overfitted network was shown must find nothing in training images that it was not.

    Else they tell how training images differ from held-out ones, which is no membership. All comparisons share an error rate.
    """
    off, reach = max(
        ((abs(part.auc - 0.5), deviation_by_chance(part.positives, part.negatives)) for part in parts),
        key=lambda pair: pair[0] / pair[1],
    )
    reach *= reach_of_all(len(parts))
    allowed = (
        f"chance allows {reach:.3f}, {100 * (1 - FALSE_ALARMS):g} % for all {len(parts)} comparisons together"
    )
    return control(
        off <= reach,
        f"Membership, control that must fail: {parts[0].positives} training images that the overfitted networks were not shown "
        f"are not told from held-out ones by the same attacks (area within {off:.3f} of ½; {allowed}).",
        "Membership, control that must fail: training images that the overfitted networks were not shown are told from held-out "
        f"ones (area {off:.3f} off ½; {allowed}), so the attacks read how the images were divided, and not membership alone.",
    )


def _told_members(found: Memberships, name: str) -> Iterable[Finding]:
    """One finding for the cuts at which the intervals of all seeds lie on one side of chance, one for the others.

    Below ½ is no failure: whoever has seen that turns the score round. The candidates of several seeds overlap, so a spread over
    seeds alone would be too narrow: every seed must show it by itself.  At the cut 1 nothing is held, which is the control of
    the match with the store.
    """
    told: dict[int, list[str]] = {1: [], -1: [], 0: []}
    for (attack, cut), parts in found.by_cut.items():
        if attack == name and 0 < cut < 1:
            words = (
                f"area {fmean(part.auc for part in parts):.3f}, {percent(fmean(part.true_positive_rate for part in parts))} "
                f"found at 1 % false at cut {cut:g}"
            )
            told[_side(parts)].append(words)
    for side, places in told.items():
        if places:
            weight = Weight.CLAIM if side else Weight.UNDECIDED
            yield Finding(f"Membership by {name}: {listed(places)}; {_SIDES[side]}.", weight)


def _heavily(name: str, parts: Sequence[Separation], main_cut: float) -> Finding:
    """What training for too long gives away of images that the network has seen only as releases."""
    side = _side(parts)
    return Finding(
        f"Networks overfitted on {parts[0].positives} releases at cut {main_cut:g}, asked for the clean images by {name}: area "
        f"{fmean(part.auc for part in parts):.3f}; {_SIDES[side]}.",
        Weight.CLAIM if side else Weight.UNDECIDED,
    )


def _side(parts: Sequence[Separation]) -> int:
    """1 where the intervals of all seeds lie above ½, -1 where all lie below, else 0."""
    return int(all(part.auc_low > 0.5 for part in parts)) - int(all(part.auc_high < 0.5 for part in parts))


def _store_beside_backbone(found: Memberships, main_cut: float) -> Iterable[Finding]:
    """Whether whoever holds the store needs to ask the backbone at all."""
    store, loss = (found.by_cut.get((name, main_cut)) for name in (made.STORE, made.LOSS))
    if store and loss:
        yield claimed(
            f"area under the ROC curve for members at cut {main_cut:g}",
            spread(part.auc for part in store),
            spread(part.auc for part in loss),
            (made.STORE, made.LOSS),
        )
