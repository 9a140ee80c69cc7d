"""CollaFuse Edge and all its rivals, by the question that each group of them answers."""

from dataclasses import replace

from diffusion.network import UNet
from diffusion.split import Cut
from evaluation.data.images import ClientData
from evaluation.experiments.baselines.double_noising import DoubleNoisingTraining, patched_start
from evaluation.experiments.baselines.fedavg import FedAvgTraining
from evaluation.experiments.baselines.isolated import device_budget, equal_epochs, equal_updates, isolated
from evaluation.experiments.baselines.rival import (
    FLOAT_BYTES,
    Account,
    Rival,
    evaluations,
    image_bytes,
    parameters,
    training_flops,
)
from evaluation.experiments.baselines.two_chain import TwoChainTraining, generate_by_two_chains
from evaluation.measuring.chain import head_at, networks_at, trainings_at
from evaluation.running.design import Design
from evaluation.running.generation import Generated, generate
from evaluation.running.trainings import Budget, LocalTraining, Training
from evaluation.running.workbench import Workbench


def collafuse_trainings(bench: Workbench) -> list[Training]:
    """CollaFuse Edge at the main cut."""
    return list(trainings_at(bench, bench.design.main_cut))


def collafuse_images(bench: Workbench, client: ClientData, seed: int) -> Generated:
    """The exact hand-off."""
    cut_ratio = bench.design.main_cut
    return bench.generated(client, *networks_at(bench, client, cut_ratio, seed), cut_ratio, seed)


def _central_trainings(bench: Workbench) -> list[Training]:
    # The server's network at c = 0, by the same loss on the same images: so it is trained once for both experiments.
    return list(trainings_at(bench, 0.0))


def _central_images(bench: Workbench, client: ClientData, seed: int) -> Generated:
    return bench.generated(client, *networks_at(bench, client, 0.0, seed), 0.0, seed)


def averaging(local_updates: int) -> Rival:
    """Federated averaging of one whole model, after every so many updates of each client."""

    def training(bench: Workbench, seed: int) -> FedAvgTraining:
        clients = len(bench.federation.clients)
        return FedAvgTraining(Budget.backbone(bench.design), seed, clients, local_updates)

    def trainings(bench: Workbench) -> list[Training]:
        return [training(bench, seed) for seed in bench.design.seeds]

    def make(bench: Workbench, client: ClientData, seed: int) -> Generated:
        return bench.generated(client, bench.network(training(bench, seed)), None, 0.0, seed)

    def account(bench: Workbench) -> Account:
        rounds = training(bench, 0).rounds
        alone = EQUAL_UPDATES.account(bench)
        # The weights after every round, and their average over updates once at the end.
        sent = (rounds + 1) * alone.device_parameters * FLOAT_BYTES
        return replace(alone, sent_bytes=sent, leaves=f"the weights, in {rounds} rounds")

    return Rival(f"federated averaging, every {local_updates} updates", trainings, make, account)


def _double(design: Design, seed: int) -> DoubleNoisingTraining:
    return DoubleNoisingTraining(design.main_cut, Budget.backbone(design), seed)


def _double_trainings(bench: Workbench) -> list[Training]:
    return [*(_double(bench.design, seed) for seed in bench.design.seeds), *_heads(bench)]


def _double_images(bench: Workbench, client: ClientData, seed: int, *, patched: bool) -> Generated:
    cut = Cut(bench.schedule, bench.design.main_cut)
    return generate(
        bench.schedule,
        bench.network(_double(bench.design, seed)),
        _head(bench, client, seed),
        cut.t_cut,
        bench.labels_for(client),
        bench.steps(),
        shape=bench.federation.shape,
        seed=seed,
        head_starts_at=patched_start(cut) if patched else None,
    )


def _two_chain(design: Design, seed: int) -> TwoChainTraining:
    return TwoChainTraining(design.main_cut, Budget.backbone(design), seed)


def _two_chain_trainings(bench: Workbench) -> list[Training]:
    return [*(_two_chain(bench.design, seed) for seed in bench.design.seeds), *_heads(bench)]


def _two_chain_images(bench: Workbench, client: ClientData, seed: int) -> Generated:
    return generate_by_two_chains(
        bench.schedule,
        bench.network(_two_chain(bench.design, seed)),
        _head(bench, client, seed),
        bench.t_cut(bench.design.main_cut),
        bench.labels_for(client),
        bench.steps(),
        shape=bench.federation.shape,
        seed=seed,
    )


def _heads(bench: Workbench) -> list[LocalTraining]:
    """The heads at the main cut, which all that cut the chain share."""
    return [
        training
        for training in trainings_at(bench, bench.design.main_cut)
        if isinstance(training, LocalTraining)
    ]


def _head(bench: Workbench, client: ClientData, seed: int) -> UNet:
    training = head_at(bench.design, client, bench.design.main_cut, seed)
    assert training is not None  # the main cut is an inner one
    return bench.network(training)


def _split_account(bench: Workbench) -> Account:
    design = bench.design
    return Account(
        device_updates=design.head_updates,
        server_updates=design.updates,
        device_flops=training_flops(bench, design.head_width, design.head_updates),
        server_flops=training_flops(bench, design.width, design.updates),
        device_parameters=parameters(bench, design.head_width),
        server_parameters=parameters(bench, design.width),
        device_evaluations=design.head_steps,
        server_evaluations=design.server_steps,
        sent_bytes=image_bytes(bench),
        leaves=f"one release of each image at c = {design.main_cut:g}",
    )


def _two_chain_account(bench: Workbench) -> Account:
    """The shared network is published, and a device runs both chains with nobody's help."""
    split = _split_account(bench)
    return replace(
        split,
        device_parameters=split.device_parameters + split.server_parameters,
        device_evaluations=split.device_evaluations + split.server_evaluations,
        server_evaluations=0,
    )


def _central_account(bench: Workbench) -> Account:
    split = _split_account(bench)
    return replace(
        split,
        device_updates=0,
        device_flops=0,
        device_parameters=0,
        device_evaluations=0,
        server_evaluations=evaluations(bench),
        leaves="the images themselves",
    )


def _literal_images(bench: Workbench, client: ClientData, seed: int) -> Generated:
    return _double_images(bench, client, seed, patched=False)


def _patched_images(bench: Workbench, client: ClientData, seed: int) -> Generated:
    return _double_images(bench, client, seed, patched=True)


COLLAFUSE = Rival("CollaFuse Edge", collafuse_trainings, collafuse_images, _split_account)
EQUAL_UPDATES = isolated("isolated, equal updates", equal_updates)
EQUAL_EPOCHS = isolated("isolated, equal epochs", equal_epochs)
DEVICE_BUDGET = isolated("isolated, a device's budget", device_budget)
ISOLATED = (EQUAL_UPDATES, EQUAL_EPOCHS, DEVICE_BUDGET)
"""Clients that do without one another."""
SELDOM = averaging(25)
"""An epoch or two of some hundred images, as in the paper."""
OFTEN = averaging(2)
"""Where clients hold different labels the images are better for it; at every update they are not better still."""
WHOLE = (Rival("central model", _central_trainings, _central_images, _central_account), SELDOM, OFTEN)
"""One whole model of all clients."""
DOUBLE = Rival("double noising", _double_trainings, _literal_images, _split_account)
PATCHED = Rival("double noising, patched", _double_trainings, _patched_images, _split_account)
CUT = (
    DOUBLE,
    PATCHED,
    Rival("PFDM's two chains", _two_chain_trainings, _two_chain_images, _two_chain_account),
)
"""Other ways to cut a chain between server and clients."""
RIVALS = (*ISOLATED, *WHOLE, *CUT)
LINEUP = (COLLAFUSE, *RIVALS)
