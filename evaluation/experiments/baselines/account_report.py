"""What each scheme takes, as a table and a sentence."""

from evaluation.experiments.baselines.lineup import COLLAFUSE, EQUAL_EPOCHS, LINEUP, OFTEN, SELDOM
from evaluation.reporting.outcome import Better, Cell, Column, Finding, Table, Weight
from evaluation.running.workbench import Workbench


def account_table(bench: Workbench) -> Table:
    """All schemes, a device's side and the server's."""
    sides = ("a device", "the server")
    columns = (
        Column("scheme"),
        *(Column(f"updates, {side}", decimals=0) for side in sides),
        *(Column(f"training, {side}", "TFLOP", Better.NEITHER, 2, 1e-12) for side in sides),
        *(Column(f"parameters, {side}", decimals=0) for side in sides),
        *(Column(f"evaluations for an image, {side}", decimals=0) for side in sides),
        Column("sent by a device", "kB", Better.LESS, 0, 1e-3),
        Column("what leaves a device"),
    )
    rows: list[tuple[Cell, ...]] = []
    for rival in LINEUP:
        account = rival.account(bench)
        rows.append(
            (
                rival.name,
                account.device_updates,
                account.server_updates,
                float(account.device_flops),
                float(account.server_flops),
                account.device_parameters,
                account.server_parameters,
                account.device_evaluations,
                account.server_evaluations,
                float(account.sent_bytes),
                account.leaves,
            )
        )
    return Table(
        "What each scheme takes",
        columns,
        tuple(rows),
        note="Counted, for one device in the mean over clients, in float32 and without compression; operations of training are "
        "of its convolutions and matrix products, forwards and backwards. What a device receives, and images made later, are "
        "left out.",
    )


def account_finding(bench: Workbench) -> Finding:
    """What a device pays in training: for CollaFuse Edge, federated averaging, and alone."""
    ours, seldom, often, epochs = (rival.account(bench) for rival in (COLLAFUSE, SELDOM, OFTEN, EQUAL_EPOCHS))
    return Finding(
        f"To train, a device sends {ours.sent_bytes / 1e3:,.0f} kB and makes {ours.device_updates:,} updates of "
        f"{ours.device_parameters:,} parameters ({ours.device_flops / 1e12:.2f} TFLOP); with federated averaging it sends "
        f"{seldom.sent_bytes / 1e3:,.0f} kB ({seldom.leaves}) or {often.sent_bytes / 1e3:,.0f} kB ({often.leaves}) and makes "
        f"{seldom.device_updates:,} updates of {seldom.device_parameters:,} ({seldom.device_flops / 1e12:.2f} TFLOP); alone for "
        f"equal epochs it sends nothing and makes {epochs.device_updates:,} of as many ({epochs.device_flops / 1e12:.2f} TFLOP).",
        Weight.FACT,
    )
