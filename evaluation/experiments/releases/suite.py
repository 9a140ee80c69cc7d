"""How often is an image sent? K releases of each, or the papers' fresh pair in every epoch: what each brings and costs."""

from collections.abc import Mapping
from functools import partial
from math import sqrt

from edge_agent.release.batch import Dtype
from edge_agent.release.statement import meaning, number
from evaluation.experiments.releases.account import DELTA, Account, Policy, account, policies
from evaluation.experiments.releases.reconstructions import (
    Reconstruction,
    attacked,
    blind_mse,
    known_to_the_attacker,
    reconstructed,
)
from evaluation.experiments.releases.tables import (
    account_table,
    fidelity_chart,
    fidelity_tables,
    pictures,
    reconstruction_chart,
    reconstruction_table,
)
from evaluation.experiments.releases.upload import DEFAULT_DTYPE
from evaluation.measuring.main_cut import heads, quality_with
from evaluation.measuring.quality import COLUMNS, Figure, Quality, Real, real_floor
from evaluation.measuring.verdicts import Named, against
from evaluation.metrics.claim import better
from evaluation.metrics.comparison import Unit
from evaluation.metrics.spread import Spread
from evaluation.reporting.outcome import Finding, Outcome, Weight
from evaluation.running.trainings import Training
from evaluation.running.workbench import Progress, Workbench

TITLE = "Release policies"
PAYLOADS: tuple[Dtype, ...] = tuple(dict.fromkeys(("float32", DEFAULT_DTYPE)))
STANDARD_ERRORS = 4.0
"""A mean further than this from what arithmetic says it must be is a mistake and no chance (1 in 16,000)."""
_QUESTION = (
    "The papers send a fresh noisy copy of every image in every epoch; this system sends K releases in an image's life, one by "
    "default. What do more of them buy in fidelity, and what do they cost in upload and in privacy?"
)
_LIMITS = (
    "The updates are the same for every policy and few; what K buys in a training of many epochs is not measured here.",
    "Pairs are sent for as many epochs as these updates last. The papers' training lasts hundreds, and gives away the more.",
    "The attacker is linear and knows which messages belong to one image; a learned one can do better.",
    "The spread of a reconstruction is over images, with the first seed's noise; that of the fidelity is over seeds.",
)


def trainings(bench: Workbench) -> list[Training]:
    """A backbone for each policy and seed, and every client's heads at the main cut."""
    design = bench.design
    chosen = policies(design, bench.federation)
    return [*(policy.training(design, seed) for policy in chosen for seed in design.seeds), *heads(bench)]


def measure(bench: Workbench, progress: Progress) -> Outcome:
    """Generates with every policy's backbones, adds up what the policies send, and attacks it."""
    federation, cut_ratio = bench.federation, bench.design.main_cut
    chosen = policies(bench.design, federation)
    qualities: dict[Policy, Quality] = {}
    for done, policy in enumerate(chosen):
        progress(done, 2 * len(chosen), f"images by {policy.name}")
        qualities[policy] = quality_with(bench, partial(policy.training, bench.design))
    floor = real_floor(bench)
    targets = attacked(federation)
    accounts: dict[Policy, Account] = {}
    found: dict[Policy, Reconstruction] = {}
    for done, policy in enumerate(chosen, start=len(chosen)):
        progress(done, 2 * len(chosen), f"attack on {policy.name}")
        accounts[policy] = account(federation, cut_ratio, policy, PAYLOADS)
        found[policy] = reconstructed(federation, cut_ratio, policy, targets, seed=bench.design.seeds[0])
    blind = blind_mse(targets)
    return Outcome(
        suite="releases",
        title=TITLE,
        question=_QUESTION,
        method=_method(bench),
        findings=(
            *(finding_on_averaging(policy, found[policy]) for policy in chosen),
            finding_on_blindness(found[chosen[0]], blind),
            *findings_on_fidelity(qualities),
            *findings_on_disclosure(found),
            *findings_on_cost(accounts, federation.name),
        ),
        tables=(
            *fidelity_tables(qualities, floor),
            account_table(accounts),
            reconstruction_table(found, blind),
        ),
        charts=(fidelity_chart(qualities, floor), reconstruction_chart(found, blind)),
        pictures=(pictures(found, targets[0].client.train.images),),
        limits=_LIMITS,
    )


def finding_on_averaging(policy: Policy, found: Reconstruction) -> Finding:
    """Control: image by image the mean of what was sent misses it by what arithmetic says, to four standard errors.

    The mean of n squares of standard normal values scatters by √(2/n).
    """
    reach = STANDARD_ERRORS * sqrt(2 / found.values)
    return Finding(
        f"{policy.name}: the mean of all that is sent of an image misses it by {found.ratio:.3f} times the mean squared error "
        f"that arithmetic says; chance allows 1 ± {reach:.3f}.",
        Weight.CONTROL if abs(found.ratio - 1) <= reach else Weight.FAILED_CONTROL,
    )


def finding_on_blindness(one: Reconstruction, blind: Spread) -> Finding:
    """Control: the attack on one release does better than a guess without it."""
    return Finding(
        f"The attack on one release errs by {one.linear_mse.mean:.3g}, a guess that sees nothing of the image by "
        f"{blind.mean:.3g}.",
        Weight.CONTROL if one.linear_mse.mean < blind.mean else Weight.FAILED_CONTROL,
    )


def findings_on_fidelity(qualities: Mapping[Policy, Quality]) -> list[Finding]:
    """Every other policy against the first, by FID and by KID on held-out images."""
    first, *others = qualities
    return [
        finding
        for figure in (Figure.FID, Figure.KID)
        for finding in against(
            COLUMNS[figure],
            [Named(policy.name, qualities[policy].known(Real.HELD_OUT, figure)) for policy in others],
            Named(first.name, qualities[first].known(Real.HELD_OUT, figure)),
            where=f"against {Real.HELD_OUT}",
        )
    ]


def findings_on_disclosure(found: Mapping[Policy, Reconstruction]) -> list[Finding]:
    """What every other policy gives away to whoever links all it sends of an image, against the first."""
    first, *others = found
    return [_compared((first, found[first]), (policy, found[policy]), among=len(others)) for policy in others]


def _compared(
    one: tuple[Policy, Reconstruction], other: tuple[Policy, Reconstruction], *, among: int
) -> Finding:
    """By the mean error over images, every one of which has noise of its own."""
    names = (other[0].name, one[0].name)
    judged = better("error", Unit.DISTANCE, other[1].linear_mse, one[1].linear_mse, names, among=among)
    in_db = [
        f"{each.linear_psnr_db.mean:.1f} ± {each.linear_psnr_db.standard_deviation:.1f} dB"
        for _, each in (other, one)
    ]
    by = [f"{decibels} by {name}" for decibels, name in zip(in_db, names, strict=True)]
    sentence = f"Whoever links all that is sent of an image reconstructs it to {by[0]}, to {by[1]}"
    if judged.better is None:
        return Finding(
            f"{sentence}; over {one[1].linear_mse.n} images the mean errors do not separate.",
            Weight.UNDECIDED,
        )
    return Finding(f"{sentence}; the mean errors separate.", Weight.CLAIM)


def findings_on_cost(accounts: Mapping[Policy, Account], data: str) -> list[Finding]:
    """Upload and ledger of every policy, which are counted and computed."""
    first, *others = accounts
    uploads = "; ".join(f"{policy.name}: {_times(accounts[policy], accounts[first])}" for policy in others)
    prices = "; ".join(f"{policy.name}: {number(each.epsilon)}" for policy, each in accounts.items())
    return [
        Finding(f"Upload for {data}, over that of {first.name}: {uploads}.", Weight.FACT),
        Finding(f"ε for each image at δ = {DELTA:g}: {prices}.", Weight.FACT),
        Finding(f"Of {first.name}: {meaning(accounts[first].epsilon, DELTA)}", Weight.FACT),
    ]


def _times(more: Account, one: Account) -> str:
    return " and ".join(
        f"{more.sent_bytes[dtype] / one.sent_bytes[dtype]:.1f} × as {dtype}" for dtype in one.sent_bytes
    )


def _method(bench: Workbench) -> str:
    design = bench.design
    return (
        f"At cut {design.main_cut:g} one backbone for each policy and seed is trained by {design.updates} updates of "
        f"{design.batch_size} samples. With K releases the server draws as many fresh (t, ε_s) from what it holds as it likes; "
        "with pairs every image is sent anew for each epoch as (x_t, ε_s, t) and is used once. Heads, seeds and noise are the "
        "same for all. Upload is the system's own messages in their frames. The attack links all that is sent of an image, "
        "averages it (a pair gives x_c away, from which x_t was made) and applies the Wiener filter with the covariance of "
        f"{known_to_the_attacker(bench.federation)}."
    )
