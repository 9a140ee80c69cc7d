"""What a rival is: what it trains, how it makes images, and what it takes."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from evaluation.data.images import ClientData
from evaluation.measuring.cost import update_flops
from evaluation.running.fitting import new_network, unet_config
from evaluation.running.generation import Generated
from evaluation.running.trainings import Training
from evaluation.running.workbench import Workbench

FLOAT_BYTES = 4


@dataclass(frozen=True)
class Account:
    """What a scheme takes, of one device in the mean over clients and of the server; a side without a network has zeros.

    updates: of an optimiser;  flops: floating-point operations of the training, forwards and backwards;  evaluations: of
    networks, for one image;  sent_bytes: by a device in training, in float32;  leaves: what of the images leaves a device, in
    words.
    """

    device_updates: int
    server_updates: int
    device_flops: int
    server_flops: int
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


def evaluations(bench: Workbench) -> int:
    """For one image on both sides together, the same in every scheme."""
    return bench.design.server_steps + bench.design.head_steps


def parameters(bench: Workbench, width: int) -> int:
    """Of a network of this base width."""
    config = unet_config(bench.federation.shape, width, bench.federation.num_classes)
    return sum(parameter.numel() for parameter in new_network(config, 0).parameters())


def training_flops(bench: Workbench, width: int, updates: int) -> int:
    """Floating-point operations of so many updates of a network of this base width."""
    config = unet_config(bench.federation.shape, width, bench.federation.num_classes)
    return updates * bench.design.batch_size * update_flops(config)


def image_bytes(bench: Workbench) -> int:
    """Of all training images of one client, or their releases, in the mean over clients."""
    clients = bench.federation.clients
    images = sum(len(client.train) for client in clients) / len(clients)
    return round(images * prod(bench.federation.shape) * FLOAT_BYTES)
