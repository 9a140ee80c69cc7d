"""Clients that train alone, by three readings of what an equal budget is.

A client alone makes images with a whole model of its own, trained on its own images only. How long it may train, and how large
the model may be, decides what the comparison says:

- *equal updates*: as large a network as the server's and as many updates, on every device. All devices together compute as
  many times what the server does as there are clients.
- *equal epochs*: a client passes over its images as often as the server passes over everybody's, u_k = u·n_k/n updates of the
  server's network, n_k the client's number of images. All devices together then compute what the server does. So it is in the
  published code of CollaFuse's papers (SimeonAllmendinger/collafuse, commit f7cb0a0, `model/diffusion.py`): every batch of a
  client is one update of its network and one of the server's, and a client that owns the whole chain has no others.
- *a device's budget*: what the split asks of a device in training, a network of the head's width and the head's updates, spent
  on the whole chain.
"""

from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

from evaluation.data.images import ClientData
from evaluation.experiments.baselines.rival import Account, Rival, evaluations, parameters, training_flops
from evaluation.running.generation import Generated
from evaluation.running.trainings import Budget, LocalTraining, Training
from evaluation.running.workbench import Workbench

BudgetOf = Callable[[Workbench, ClientData], Budget]
"""What a client may spend alone."""


def equal_updates(bench: Workbench, client: ClientData) -> Budget:
    """The server's whole budget, whatever the client holds."""
    del client
    return Budget.backbone(bench.design)


def equal_epochs(bench: Workbench, client: ClientData) -> Budget:
    """The server's network, and the client's share of its updates by images; one update at least."""
    budget = Budget.backbone(bench.design)
    share = len(client.train) / len(bench.federation.pooled)
    return replace(budget, updates=max(1, round(share * budget.updates)))


def device_budget(bench: Workbench, client: ClientData) -> Budget:
    """The head's."""
    del client
    return Budget.head(bench.design)


def isolated(name: str, budget_of: BudgetOf) -> Rival:
    """Every client for itself, with what `budget_of` allows it."""

    def training(bench: Workbench, client: ClientData, seed: int) -> LocalTraining:
        return LocalTraining(client.name, 1.0, budget_of(bench, client), seed)

    def trainings(bench: Workbench) -> list[Training]:
        clients = bench.federation.clients
        return [training(bench, client, seed) for seed in bench.design.seeds for client in clients]

    def make(bench: Workbench, client: ClientData, seed: int) -> Generated:
        return bench.generated(client, None, bench.network(training(bench, client, seed)), 1.0, seed)

    def account(bench: Workbench) -> Account:
        budgets = [budget_of(bench, client) for client in bench.federation.clients]
        width, updates = budgets[0].width, round(fmean(budget.updates for budget in budgets))
        return Account(
            device_updates=updates,
            server_updates=0,
            device_flops=training_flops(bench, width, updates),
            server_flops=0,
            device_parameters=parameters(bench, width),
            server_parameters=0,
            device_evaluations=evaluations(bench),
            server_evaluations=0,
            sent_bytes=0,
            leaves="nothing",
        )

    return Rival(name, trainings, make, account)
