"""The ledger in words: what an ε means for whoever is on the images, said so that nobody takes a number for a promise."""

import math
import time
from collections.abc import Sequence
from typing import Any

from edge_agent.release import ledger
from edge_agent.release.ledger import Account

DIGEST_CHARACTERS = 12
_NOTHING_FROM = 100.0
_LITTLE_FROM = 10.0


def row(account: Account) -> tuple[str, str, str, str, str]:
    """One line of the table: image, releases, cuts, μ, ε."""
    return (
        account.image[:DIGEST_CHARACTERS],
        str(account.releases),
        ", ".join(str(t_cut) for t_cut in account.cuts),
        number(account.mu),
        number(account.epsilon),
    )


def number(value: float) -> str:
    """Three digits; a price that is not known is said to be so."""
    return "unknown" if math.isinf(value) else f"{value:.3g}"


def meaning(epsilon: float, delta: float) -> str:
    """What may be said of an image that has cost ε at δ."""
    if math.isinf(epsilon):
        return "Of a release whose price is not known, nothing can be promised."
    if epsilon >= _NOTHING_FROM:
        return (
            f"An epsilon of {epsilon:.3g} promises nothing: at such a cut only measurements say what the releases give away"
            ", and a larger cut_ratio or a smaller clip_norm is what makes it a promise."
        )
    factor = f"{math.exp(epsilon):.3g}"
    weak = ", which is little of a promise" if epsilon >= _LITTLE_FROM else ""
    return (
        f"Whoever holds every release of an image can tell it from any other image with odds at most {factor} times what they"
        f" were before, but for a chance of {delta:g}{weak}."
    )


def as_lines(total: dict[str, Any], dearest: Account | None, group: int) -> list[str]:
    """What stands below the table: the device's totals, what they mean, and what is not in them.

    total: `ledger.summary`;  dearest: the image that has cost most, or None;  group: how many images one person may be on.
    """
    budget = total["epsilon_budget"]
    lines = [
        f"{total['images']} images, {total['releases']} releases; budget per image: "
        + ("none" if budget is None else f"epsilon {budget:g}")
        + f" at delta {total['delta']:g}; refused for it: {total['refused']}"
    ]
    if total["incomplete_since"] is not None:
        noticed = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(total["incomplete_since"]))
        lines.append(
            f"This account is incomplete: the record of releases was found damaged together with the spool ({noticed}). What is"
            " above is the least that was released, and nothing can be promised of any image."
        )
        if not total["loss_acknowledged"]:
            lines.append(
                "Put ledger.journal back from a backup if there is one; with --acknowledge-loss you say that you know."
            )
        return lines
    if dearest is None:
        return lines
    lines.append(
        f"Per image, epsilon is at most {number(dearest.epsilon)}. {meaning(dearest.epsilon, total['delta'])}"
    )
    if group > 1:
        together = ledger.of_group(dearest.mu, group, total["delta"])
        lines.append(
            f"Somebody who is on {group} of the images: mu {number(dearest.mu * math.sqrt(group))}, epsilon"
            f" {number(together)} at most. {meaning(together, total['delta'])}"
        )
    else:
        lines.append(
            "That is for one image in place of another; somebody who is on k of them has given away more: see --group k."
        )
    lines.append("Labels are sent as they are and are not part of this account.")
    return lines


def as_json(total: dict[str, Any], accounts: Sequence[Account], group: int) -> dict[str, Any]:
    """The same as plain values; what is not known is None."""
    dearest = accounts[0] if accounts else None
    return total | {
        "group": group,
        "epsilon_group": None
        if dearest is None or total["incomplete_since"] is not None
        else _known(ledger.of_group(dearest.mu, group, total["delta"])),
        "accounts": [
            {
                "image": account.image,
                "releases": account.releases,
                "cuts": list(account.cuts),
                "mu": _known(account.mu),
                "epsilon": _known(account.epsilon),
            }
            for account in accounts
        ],
    }


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
