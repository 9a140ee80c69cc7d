"""Federated averaging of one whole model: McMahan et al. 2017, arXiv 1602.05629, algorithm 1.

In every round each client starts from the server's weights, makes some updates on its own images, and the server takes the
average of what comes back, w ← Σ_k (n_k/n)·w_k, n_k the client's number of images. All clients take part in every round.

Where the paper leaves it open, or is changed so that this is a fair rival:

- Every client makes equally many updates in a round, whatever it holds (in the paper: equally many epochs), so that a device
  computes as much as one that trains alone.
- The local optimiser is AdamW instead of gradient descent, as everywhere here. Its state and the course of the learning rate
  stay on the client from round to round.
- Images are made with an average of the weights over updates, as everywhere here. Each client keeps one of its own course
  and the server averages them at the end, which is the same as averaging the course of the averages, for both are linear.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from diffusion.network import UNet
from diffusion.objective import local_loss
from evaluation.data.images import LabelledImages
from evaluation.errors import DataError
from evaluation.running.federation import Federation
from evaluation.running.fitting import Fit, Learner, Tell, finite, new_network, unet_config
from evaluation.running.trainings import Budget, Trained, with_some_hidden

_APART = 1_000_003
"""Between the seeds of two clients' batches."""


@dataclass(frozen=True)
class FedAvgTraining:
    """One model of all clients by federated averaging.

    budget: of each client: every device makes `budget.updates`.  clients: how many there are.  local_updates: of each client
    in a round: the more, the less is sent, and the further clients of different labels move apart before they are averaged.
    """

    budget: Budget
    seed: int
    clients: int
    local_updates: int

    @property
    def title(self) -> str:
        """A few words for the progress display."""
        return "federated averaging"

    @property
    def total_updates(self) -> int:
        """Optimiser updates of all clients together."""
        return self.clients * self.budget.updates

    @property
    def rounds(self) -> int:
        """How often the server averages."""
        return -(-self.budget.updates // self.local_updates)

    def train(self, federation: Federation, tell: Tell) -> Trained:
        """Trains in rounds."""
        if len(federation.clients) != self.clients:
            raise DataError(
                f"federated averaging of {self.clients} clients was asked for: there are {len(federation.clients)}"
            )
        started = time.monotonic()
        learners = [self._learner(federation, index) for index in range(self.clients)]
        sizes = [len(client.train) for client in federation.clients]
        curve: list[tuple[int, float]] = []
        done = 0
        while done < self.budget.updates:
            more = min(self.local_updates, self.budget.updates - done)
            losses = [learner.update() for learner in learners for _ in range(more)]
            shared = weighted_average([learner.network.state_dict() for learner in learners], sizes)
            for learner in learners:
                learner.network.load_state_dict(shared)
            done += more
            curve.append((done, finite(fmean(losses), done)))
            tell(self.clients * done, self.total_updates, curve[-1][1])
        network = self._network(federation)
        for learner in learners:
            learner.finish()
        network.load_state_dict(
            weighted_average([learner.network.state_dict() for learner in learners], sizes)
        )
        network.eval().requires_grad_(False)
        return Trained(network, Fit(tuple(curve), time.monotonic() - started))

    def _network(self, federation: Federation) -> UNet:
        config = unet_config(federation.shape, self.budget.width, federation.num_classes)
        return new_network(config, self.seed)

    def _learner(self, federation: Federation, index: int) -> Learner:
        """A client, which begins with the same weights as all others and draws batches of its own."""
        network, data = self._network(federation), federation.clients[index].train
        return Learner(
            network,
            _LocalLoss(network, federation, data, self.budget.batch_size),
            updates=self.budget.updates,
            learning_rate=self.budget.learning_rate,
            seed=self.seed + _APART * index,
        )


class _LocalLoss:
    """The plain loss of a batch of one client's images, over the whole chain."""

    def __init__(self, network: UNet, federation: Federation, data: LabelledImages, batch_size: int) -> None:
        self._network, self._federation, self._batch_size = network, federation, batch_size
        self._images = torch.from_numpy(data.images)
        self._labels = torch.from_numpy(data.labels).long()

    def __call__(self, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(self._images), (self._batch_size,), generator=generator)
        label = with_some_hidden(self._labels[rows], self._federation.num_classes, generator)
        schedule = self._federation.schedule
        return local_loss(self._network, schedule, self._images[rows], label, schedule.T, generator)


def weighted_average(states: Sequence[Mapping[str, Tensor]], sizes: Sequence[int]) -> dict[str, Tensor]:
    """Σ_k (n_k/n)·w_k of tensors by name, summed in float64.  sizes: n_k."""
    total = sum(sizes)
    return {
        name: sum(
            (size / total * state[name].double() for state, size in zip(states, sizes, strict=True)),
            start=torch.zeros_like(value, dtype=torch.float64),
        ).to(value.dtype)
        for name, value in states[0].items()
    }
