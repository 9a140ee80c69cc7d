"""Tables, charts and pictures of the release policies."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from evaluation.experiments.releases.account import DELTA, Account, Policy
from evaluation.experiments.releases.reconstructions import Reconstruction
from evaluation.measuring.quality import (
    COLUMNS,
    ClientQuality,
    Figure,
    Quality,
    Real,
    floor_band,
    floor_cells,
    floor_note,
)
from evaluation.metrics.spread import Spread
from evaluation.reporting.gallery import png_data_uri
from evaluation.reporting.outcome import (
    Band,
    Better,
    Cell,
    Chart,
    Column,
    PictureRow,
    Pictures,
    Series,
    Table,
    series_of,
)

_POLICY = Column("policy")


def fidelity_tables(qualities: Mapping[Policy, Quality], floor: Sequence[ClientQuality]) -> tuple[Table, ...]:
    """Against training and against held-out images: one row for each policy, and the floor."""
    return tuple(
        Table(
            f"Fidelity against {real}",
            (_POLICY, *COLUMNS.values()),
            (
                *((policy.name, *each.cells(real)) for policy, each in qualities.items()),
                ("real against real", *floor_cells(floor, real)),
            ),
            f"Means over clients, with the standard deviation over seeds. {floor_note(floor, real)}",
        )
        for real in Real
    )


def account_table(accounts: Mapping[Policy, Account]) -> Table:
    """One row for each policy: what its clients send, and what one image costs."""
    dtypes = tuple(next(iter(accounts.values())).sent_bytes)
    return Table(
        "Upload and ledger",
        (
            _POLICY,
            Column("times sent", "", Better.LESS, 0),
            *(Column(f"upload as {dtype}", "MB", Better.LESS, 3, 1e-6) for dtype in dtypes),
            Column("μ", "", Better.LESS, 2),
            Column(f"ε at δ = {DELTA:g}", "", Better.LESS, 1),
        ),
        tuple(
            (policy.name, policy.sent, *map(float, each.sent_bytes.values()), each.mu, each.epsilon)
            for policy, each in accounts.items()
        ),
        "Upload of all clients together, with AMQP's frames and without TLS; the noise of a pair is float16 whatever x_t is. "
        "The ledger is that of one image in place of any other; a pair costs what its release costs, since x_c follows from it.",
    )


def reconstruction_table(found: Mapping[Policy, Reconstruction], blind: Spread) -> Table:
    """One row for each policy, and the guess that sees nothing."""
    columns = (
        _POLICY,
        Column("MSE of the mean", "", Better.MORE, 4),
        Column("by arithmetic", "", Better.NEITHER, 4),
        Column("MSE, best linear", "", Better.MORE, 4),
        Column("PSNR, best linear", "dB", Better.LESS, 1),
    )
    rows: list[tuple[Cell, ...]] = [
        (policy.name, each.averaged_mse, each.expected_mse, each.linear_mse, each.linear_psnr_db)
        for policy, each in found.items()
    ]
    return Table(
        "Reconstruction from all that is sent of an image",
        columns,
        (*rows, ("nothing is sent", None, None, blind, None)),
        "Errors per value in [-1, 1], spread over images; larger errors protect. The mean of K releases misses an image by σ²/K; "
        "pairs are read as they arrive, in float16, whose rounding is part of what arithmetic says.",
    )


def fidelity_chart(qualities: Mapping[Policy, Quality], floor: Sequence[ClientQuality]) -> Chart:
    """FID over how often an image is sent."""
    return Chart(
        "Fidelity over how often an image is sent",
        "times each image is sent",
        f"FID against {Real.HELD_OUT}",
        tuple(
            series_of(
                name,
                _sent(kind),
                tuple(qualities[policy].known(Real.HELD_OUT, Figure.FID) for policy in kind),
            )
            for name, kind in _kinds(qualities)
        ),
        (floor_band(floor, Real.HELD_OUT, Figure.FID),),
        log_x=True,
        note="One standard deviation over seeds.",
    )


def reconstruction_chart(found: Mapping[Policy, Reconstruction], blind: Spread) -> Chart:
    """Errors of the attack over how often an image is sent."""
    ascending = sorted(found, key=lambda policy: policy.sent)
    series = [
        Series("by arithmetic", _sent(ascending), tuple(found[policy].expected_mse for policy in ascending)),
        *(
            _middle(f"{words}, {name}", kind, [value(found[policy]) for policy in kind])
            for words, value in (("mean", _averaged), ("best linear", _linear))
            for name, kind in _kinds(found)
        ),
    ]
    return Chart(
        "Reconstruction error over how often an image is sent",
        "times each image is sent",
        "mean squared error",
        tuple(series),
        (Band("nothing is sent", blind.mean, blind.mean),),
        log_x=True,
        log_y=True,
        note="The middle 95 % of images.",
    )


def pictures(found: Mapping[Policy, Reconstruction], originals: NDArray[np.float32]) -> Pictures:
    """The first client's first images as the attacker sees them."""
    shown = len(next(iter(found.values())).guesses)
    rows: list[tuple[str, NDArray[np.floating]]] = [("original", originals[:shown])]
    rows += [(policy.name, each.guesses) for policy, each in found.items()]
    return Pictures(
        "What an attacker reconstructs",
        tuple(str(index + 1) for index in range(shown)),
        tuple(PictureRow(name, tuple(png_data_uri(image) for image in images)) for name, images in rows),
        "The best linear guess from all that is sent of an image.",
    )


def _kinds(found: Mapping[Policy, object]) -> list[tuple[str, tuple[Policy, ...]]]:
    """The policies that are one line of a chart."""
    kinds = [
        ("K releases", tuple(p for p in found if not p.pairs)),
        ("pairs", tuple(p for p in found if p.pairs)),
    ]
    return [(name, kind) for name, kind in kinds if kind]


def _sent(kind: Sequence[Policy]) -> tuple[float, ...]:
    return tuple(float(policy.sent) for policy in kind)


def _averaged(found: Reconstruction) -> Spread:
    return found.averaged_mse


def _linear(found: Reconstruction) -> Spread:
    return found.linear_mse


def _middle(name: str, kind: Sequence[Policy], figures: Sequence[Spread]) -> Series:
    return Series(
        name,
        _sent(kind),
        tuple(each.mean for each in figures),
        tuple(each.low for each in figures),
        tuple(each.high for each in figures),
    )
