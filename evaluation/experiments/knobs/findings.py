"""What the two knobs allow to be said."""

from collections.abc import Mapping, Sequence

from edge_agent.release.statement import meaning, number
from evaluation.experiments.knobs.grid import (
    GridKey,
    Measured,
    SamplerKey,
    best_of,
    fid_of,
    within_spread_of_best,
)
from evaluation.measuring.quality import COLUMNS, Figure
from evaluation.measuring.verdicts import Named, against, better_of, in_words
from evaluation.metrics.claim import better
from evaluation.metrics.comparison import Unit
from evaluation.metrics.spread import Spread
from evaluation.reporting.outcome import Finding, Weight

FID = COLUMNS[Figure.FID]
DELTA = 1e-5


def private_findings(level: Mapping[GridKey, Spread]) -> list[Finding]:
    """For one number of server evaluations: what the most private cut needs to be within the spread of the best cell."""
    best, usable = best_of(level), within_spread_of_best(level)
    private = max(key.cut_ratio for key in level)
    at_private = sorted(key for key in level if key.cut_ratio == private)
    told = (
        f"With {evaluations(best.server_steps)} on the server the least FID is {in_words(FID, level[best])}, at c = "
        f"{best.cut_ratio:g} with {evaluations(best.head_steps)} on the device. At c = {private:g}"
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
        yet = f" With {evaluations(least.head_steps)} it may be worse by as much as {claim.high:.1f}."
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
        where = f"with {evaluations(head_steps)} on the device"
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
            f"At c = {private:g} after {evaluations(server_steps)} on the server, {evaluations(fewest)} on the device "
            f"({in_words(FID, at_private[fewest])}) against {most} ({in_words(FID, at_private[most])}): {words}.",
            Weight.CLAIM if verdict else Weight.UNDECIDED,
        ),
        Finding(
            f"The cut alone fixes what is disclosed: at c = {private:g} it is the same with {evaluations(fewest)} on the "
            f"device as with {most}, and the device computes {most / fewest:.0f} times less.",
            Weight.FACT,
        ),
        Finding(
            f"How private c = {private:g} is: one release of an image, not clipped further, has ε = {number(epsilon)} at "
            f"δ = {DELTA:g}. {meaning(epsilon, DELTA)}",
            Weight.FACT,
        ),
    ]


def evaluations(count: int) -> str:
    """So many, in words."""
    return f"{count} evaluation" + ("" if count == 1 else "s")


def _cells(keys: Sequence[GridKey], level: Mapping[GridKey, Spread]) -> str:
    return ", ".join(f"{evaluations(key.head_steps)} ({in_words(FID, level[key])})" for key in keys)


def _sampler(key: SamplerKey) -> str:
    return f"{key.sampler} with {key.spacing} steps"
