"""What each scheme takes, as a table and a sentence."""

from evaluation.experiments.baselines.lineup import COLLAFUSE, EQUAL_EPOCHS, LINEUP, OFTEN, SELDOM
from evaluation.experiments.baselines.rival import Account
from evaluation.reporting.outcome import Better, Cell, Column, Finding, Table, Weight
from evaluation.running.workbench import Workbench


def account_table(bench: Workbench) -> Table:
    """All schemes, a device's side and the server's."""
    sides = ("a device", "the server")
    columns = (
        Column("scheme"),
        *(Column(f"updates, {side}", decimals=0) for side in sides),
        *(Column(f"training, {side}", "GFLOP", Better.NEITHER, 0, 1e-9) for side in (*sides, "all together")),
        *(Column(f"parameters, {side}", decimals=0) for side in sides),
        *(Column(f"evaluations for an image, {side}", decimals=0) for side in sides),
        Column("sent by a device", "kB", Better.LESS, 0, 1e-3),
        Column("what leaves a device"),
    )
    clients = len(bench.federation.clients)
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
                float(clients * account.device_flops + account.server_flops),
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
        f"To train, a device sends {_kilobytes(ours)} and makes {_updates(ours)}; with federated averaging it sends "
        f"{_kilobytes(seldom)} ({seldom.leaves}) or {_kilobytes(often)} ({often.leaves}) and makes {_updates(seldom)}; alone for "
        f"equal epochs it sends nothing and makes {_updates(epochs)}.",
        Weight.FACT,
    )


def _kilobytes(account: Account) -> str:
    return f"{account.sent_bytes / 1e3:,.0f} kB"


def _updates(account: Account) -> str:
    return (
        f"{account.device_updates:,} updates of {account.device_parameters:,} parameters "
        f"({account.device_flops / 1e9:,.0f} GFLOP)"
    )
