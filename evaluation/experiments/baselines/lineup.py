"""Every rival as one thing: what it trains, how it makes images, and what it takes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

from diffusion.network import UNet
from diffusion.split import Cut
from evaluation.data.images import ClientData
from evaluation.experiments.baselines.double_noising import DoubleNoisingTraining, patched_start
from evaluation.experiments.baselines.fedavg import FedAvgTraining
from evaluation.experiments.baselines.two_chain import TwoChainTraining, generate_by_two_chains
from evaluation.measuring.chain import head_at, networks_at, trainings_at
from evaluation.running.design import Design
from evaluation.running.fitting import new_network, unet_config
from evaluation.running.generation import Generated, generate
from evaluation.running.trainings import Budget, LocalTraining, Training
from evaluation.running.workbench import Workbench

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Account:
    """What a scheme takes, of one device and of the server; a side without a network has zeros.

    updates: of an optimiser;  evaluations: of networks, for one image;  sent_bytes: by a device in training, in the mean over
    clients, in float32;  leaves: what of the images leaves a device, in words.
    """

    device_updates: int
    server_updates: int
    device_parameters: int
    server_parameters: int
    device_evaluations: int
    server_evaluations: int
    sent_bytes: int
    leaves: str


@dataclass(frozen=True)
class Rival:
    """A scheme under a name.

    trainings: all its networks;  make: images for a client with the networks of one seed.
    """

    name: str
    trainings: Callable[[Workbench], list[Training]]
    make: Callable[[Workbench, ClientData, int], Generated]
    account: Callable[[Workbench], Account]


def collafuse_trainings(bench: Workbench) -> list[Training]:
    """CollaFuse Edge at the main cut."""
    return list(trainings_at(bench, bench.design.main_cut))


def collafuse_images(bench: Workbench, client: ClientData, seed: int) -> Generated:
    """The exact hand-off."""
    cut_ratio = bench.design.main_cut
    return bench.generated(client, *networks_at(bench, client, cut_ratio, seed), cut_ratio, seed)


def _isolated_trainings(bench: Workbench) -> list[Training]:
    return list(trainings_at(bench, 1.0))


def _isolated_images(bench: Workbench, client: ClientData, seed: int) -> Generated:
    return bench.generated(client, *networks_at(bench, client, 1.0, seed), 1.0, seed)


def _central_trainings(bench: Workbench) -> list[Training]:
    # The server's network at c = 0, by the same loss on the same images: so it is trained once for both experiments.
    return list(trainings_at(bench, 0.0))


def _central_images(bench: Workbench, client: ClientData, seed: int) -> Generated:
    return bench.generated(client, *networks_at(bench, client, 0.0, seed), 0.0, seed)


def _fedavg(bench: Workbench, seed: int) -> FedAvgTraining:
    return FedAvgTraining(Budget.backbone(bench.design), seed, len(bench.federation.clients))


def _fedavg_trainings(bench: Workbench) -> list[Training]:
    return [_fedavg(bench, seed) for seed in bench.design.seeds]


def _fedavg_images(bench: Workbench, client: ClientData, seed: int) -> Generated:
    return bench.generated(client, bench.network(_fedavg(bench, seed)), None, 0.0, seed)


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
    design, values = bench.design, _image_bytes(bench)
    return Account(
        design.head_updates,
        design.updates,
        _parameters(bench, design.head_width),
        _parameters(bench, design.width),
        design.head_steps,
        design.server_steps,
        values,
        f"one release of each image at c = {design.main_cut:g}",
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


def _isolated_account(bench: Workbench) -> Account:
    design = bench.design
    steps = design.server_steps + design.head_steps
    return Account(design.updates, 0, _parameters(bench, design.width), 0, steps, 0, 0, "nothing")


def _central_account(bench: Workbench) -> Account:
    design = bench.design
    steps = design.server_steps + design.head_steps
    parameters = _parameters(bench, design.width)
    return Account(0, design.updates, 0, parameters, 0, steps, _image_bytes(bench), "the images themselves")


def _fedavg_account(bench: Workbench) -> Account:
    alone = _isolated_account(bench)
    rounds = _fedavg(bench, 0).rounds
    # The weights after every round, and their average over updates once at the end.
    sent = (rounds + 1) * alone.device_parameters * _FLOAT_BYTES
    return Account(
        alone.device_updates,
        0,
        alone.device_parameters,
        0,
        alone.device_evaluations,
        0,
        sent,
        f"the weights, in {rounds} rounds",
    )


def _image_bytes(bench: Workbench) -> int:
    """Of all training images or their releases of one client, in the mean."""
    clients = bench.federation.clients
    images = sum(len(client.train) for client in clients) / len(clients)
    return round(images * prod(bench.federation.shape) * _FLOAT_BYTES)


def _parameters(bench: Workbench, width: int) -> int:
    config = unet_config(bench.federation.shape, width, bench.federation.num_classes)
    return sum(parameter.numel() for parameter in new_network(config, 0).parameters())


def _literal_images(bench: Workbench, client: ClientData, seed: int) -> Generated:
    return _double_images(bench, client, seed, patched=False)


def _patched_images(bench: Workbench, client: ClientData, seed: int) -> Generated:
    return _double_images(bench, client, seed, patched=True)


COLLAFUSE = Rival("CollaFuse Edge", collafuse_trainings, collafuse_images, _split_account)
RIVALS = (
    Rival("isolated clients", _isolated_trainings, _isolated_images, _isolated_account),
    Rival("central model", _central_trainings, _central_images, _central_account),
    Rival("federated averaging", _fedavg_trainings, _fedavg_images, _fedavg_account),
    Rival("double noising", _double_trainings, _literal_images, _split_account),
    Rival("double noising, patched", _double_trainings, _patched_images, _split_account),
    Rival("PFDM's two chains", _two_chain_trainings, _two_chain_images, _two_chain_account),
)
