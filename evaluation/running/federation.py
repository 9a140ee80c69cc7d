"""The clients of an evaluation, their data and their releases: what the server and the devices of an experiment hold.

Everything runs in one process here. The mathematics is that of the deployed system, function for function
(`diffusion.privacy.release`, `diffusion.objective`, `diffusion.sampling`); the queue between the parties changes no number.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from diffusion.privacy import Release, release
from diffusion.schedule import NoiseSchedule
from diffusion.split import Cut
from evaluation.data.images import ClientData, LabelledImages, concatenate
from evaluation.data.sources import divide, open_source
from evaluation.errors import DataError


@dataclass(frozen=True)
class FederationPlan:
    """Where the data comes from and who holds what.

    source: as `evaluation.data.sources.open_source` reads it;  partition: as `divide` reads it, None for the source's own;
    clients: how many, None for as many as the source or the partition has;  image_size: pixels to resize to, None to keep;
    limit: images at most, None for all.
    """

    source: str = "digits"
    partition: str | None = None
    clients: int | None = None
    image_size: int | None = None
    limit: int | None = None
    held_out_share: float = 0.2
    seed: int = 0

    def open(self, schedule: NoiseSchedule) -> "Federation":
        """Reads and divides the data; DataError says what is wrong with it."""
        dataset = open_source(self.source, image_size=self.image_size, limit=self.limit, seed=self.seed)
        clients = divide(
            dataset, self.partition, clients=self.clients, seed=self.seed, held_out_share=self.held_out_share
        )
        return Federation(dataset.name, clients, dataset.label_names, schedule)


@dataclass(frozen=True, eq=False)
class Federation:
    """Clients with their data, on one chain.

    label_names: one for each label 0 … K-1 that any client may hold.
    """

    name: str
    clients: tuple[ClientData, ...]
    label_names: tuple[str, ...]
    schedule: NoiseSchedule

    @property
    def num_classes(self) -> int:
        """K: labels are 0 … K-1."""
        return len(self.label_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        channels, height, width = self.clients[0].train.images.shape[1:]
        return channels, height, width

    @cached_property
    def pooled(self) -> LabelledImages:
        """The training images of all clients together, which no party of the real system ever holds."""
        return concatenate([client.train for client in self.clients])

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over all that is known of every client's images, and the schedule: what a figure belongs to."""
        digest = hashlib.sha256(self.schedule.schedule_id.encode())
        digest.update(repr(self.label_names).encode())
        for client in self.clients:
            for part in (client.train, client.held_out):
                digest.update(repr((client.name, part.images.shape, part.attribute_names)).encode())
                for array in (part.images, part.labels, part.attributes):
                    digest.update(array.tobytes())
        return digest.hexdigest()[:16]

    def client(self, name: str) -> ClientData:
        """The client of this name."""
        found = [client for client in self.clients if client.name == name]
        if not found:
            raise DataError(
                f"no client is called {name!r}: there are {', '.join(c.name for c in self.clients)}"
            )
        return found[0]

    def releases(
        self,
        client: ClientData,
        cut_ratio: float,
        index: int = 0,
        *,
        seed: int,
        clip_norm: float | None = None,
    ) -> tuple[Release, ...]:
        """Release `index` of every training image of a client with its label, made as a device makes it.

        seed: of the training that learns from them. The device's secret, and with it all noise of its releases, is derived
        from the client's name and this seed, so that running again gives the same bytes and another seed other noise; a
        real device draws its own.
        """
        cut = Cut(self.schedule, cut_ratio)
        secret = hashlib.sha256(f"evaluation of {client.name}, seed {seed}".encode()).digest()
        return tuple(
            release(cut, image, secret, index, clip_norm=clip_norm, label=int(label))
            for image, label in zip(client.train.images, client.train.labels, strict=True)
        )

    def known_of_others(self, client: ClientData) -> LabelledImages:
        """What an attacker on this client is granted: the training images of all others; where it is alone, its held-out ones."""
        others = [other.train for other in self.clients if other.name != client.name]
        return concatenate(others) if others else client.held_out

    def released(
        self,
        client: ClientData,
        cut_ratio: float,
        releases: int = 1,
        *,
        seed: int,
        clip_norm: float | None = None,
    ) -> NDArray[np.float32]:
        """What the server receives of a client: releases 0 … K-1 of every training image, (K, N, C, H, W) float32.

        seed: as of `releases`.
        """
        made = [
            [one.x_c for one in self.releases(client, cut_ratio, index, seed=seed, clip_norm=clip_norm)]
            for index in range(releases)
        ]
        return np.asarray(made, dtype=np.float32)
