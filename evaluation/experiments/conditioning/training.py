"""Networks that can be asked by label, by attributes and in words: a backbone on releases, a head on clean images.

One network learns all three: of each sample it is told one of them, drawn by chance, or nothing. So the ways are compared
within one network, and three do not cost three trainings.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.guidance import dropped, nothing_asked
from diffusion.network import UNetConfig
from diffusion.objective import Predict, local_loss, released_loss
from diffusion.split import Cut
from evaluation.conditioning.asked_network import AskedNetwork
from evaluation.conditioning.asking import Asked, Way, all_captions
from evaluation.conditioning.projected_texts import remembered
from evaluation.conditioning.t5_directory import T5Directory
from evaluation.conditioning.text import TextEncoder
from evaluation.data.phantoms import WORDINGS
from evaluation.running.federation import Federation, FederationPlan
from evaluation.running.fitting import Tell, fit, unet_config
from evaluation.running.trainings import LABEL_DROPOUT, Budget, Trained

_WAYS = torch.tensor([{Way.TEXT: 2.0}.get(way, 1.0) for way in Way])
"""How often each way is told, in their order: captions as often as both others, since words are the longest to learn."""


@dataclass(frozen=True)
class AskedTraining:
    """A backbone for t in (t_c, T], or a head for t in [1, t_c], on phantoms.

    client: whose images a head learns from, clean; None for the backbone, on the releases of all.
    phantoms: the data, which need not be that of the rest of the evaluation.
    texts: what reads the captions; None for a small encoder that learns beside the network.
    """

    phantoms: FederationPlan
    client: str | None
    cut_ratio: float
    budget: Budget
    seed: int
    texts: T5Directory | None = None

    @property
    def title(self) -> str:
        """A few words for the progress display."""
        whose = "backbone" if self.client is None else f"head of {self.client}"
        return f"{whose} that can be asked, at cut {self.cut_ratio:g}"

    @property
    def total_updates(self) -> int:
        """Optimiser updates in all."""
        return self.budget.updates

    def train(self, federation: Federation, tell: Tell) -> Trained:
        """Trains on the phantoms, on the chain of the federation."""
        phantoms = self.phantoms.open(federation.schedule)
        encoder = None if self.texts is None else remembered(self.texts)
        made = _new(unet_config(phantoms.shape, self.budget.width, phantoms.num_classes), self.seed, encoder)
        loss_of = (
            _backbone_loss(self, phantoms, made) if self.client is None else _head_loss(self, phantoms, made)
        )
        fitted = fit(
            made,
            loss_of,
            updates=self.budget.updates,
            learning_rate=self.budget.learning_rate,
            seed=self.seed,
            tell=tell,
        )
        return Trained(made.network, fitted, made.encoders)


def _new(config: UNetConfig, seed: int, encoder: TextEncoder | None) -> AskedNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AskedNetwork(config, encoder)


def _backbone_loss(
    training: AskedTraining, phantoms: Federation, made: AskedNetwork
) -> Callable[[torch.Generator], Tensor]:
    """The exact loss on the releases of all clients, and what came with each: label, attributes, caption."""
    released = [
        phantoms.released(client, training.cut_ratio, seed=training.seed)[0] for client in phantoms.clients
    ]
    samples = torch.from_numpy(np.concatenate(released))
    known = _Known(np.concatenate([client.train.attributes for client in phantoms.clients]))
    t_cut = Cut(phantoms.schedule, training.cut_ratio).t_cut

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(samples), (training.budget.batch_size,), generator=generator)
        cuts = torch.full_like(rows, t_cut)
        predict = known.told(made, rows, generator)
        return released_loss(predict, phantoms.schedule, samples[rows], cuts, None, generator=generator)[0]

    return loss_of


def _head_loss(
    training: AskedTraining, phantoms: Federation, made: AskedNetwork
) -> Callable[[torch.Generator], Tensor]:
    """The plain loss on one client's clean images, and what it knows of each."""
    assert training.client is not None
    data = phantoms.client(training.client).train
    images, known = torch.from_numpy(data.images), _Known(data.attributes)
    t_cut = Cut(phantoms.schedule, training.cut_ratio).t_cut

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(images), (training.budget.batch_size,), generator=generator)
        predict = known.told(made, rows, generator)
        return local_loss(predict, phantoms.schedule, images[rows], None, t_cut, generator)

    return loss_of


class _Known:
    """What is known of N images, in the three ways."""

    def __init__(self, attributes: NDArray[np.float32]) -> None:
        asked = Asked(attributes)
        self._labels = torch.from_numpy(asked.labels).long()
        self._vectors = torch.from_numpy(asked.vectors)
        texts = all_captions()
        place = {text: index for index, text in enumerate(texts)}
        wordings = [[place[text] for text in asked.captions(wording)] for wording in range(WORDINGS)]
        self._captions = torch.tensor(wordings)
        self._texts = texts

    def told(self, made: AskedNetwork, rows: Tensor, generator: torch.Generator) -> Predict:
        """The prediction of a network that is told one thing of each sample, or nothing; what `label` says is not heard.

        rows: (B,) int64, which images.
        """
        way = torch.multinomial(_WAYS, len(rows), replacement=True, generator=generator)
        wording = torch.randint(WORDINGS, rows.shape, generator=generator)
        texts = made.texts.conditions(self._texts)[self._captions[wording, rows]]
        vectors = made.attributes(self._vectors[rows])
        by_vector, by_text = (way == list(Way).index(each) for each in (Way.ATTRIBUTES, Way.TEXT))
        nothing, no_label = nothing_asked(made.network), torch.tensor(made.network.config.num_classes)
        condition = torch.where(by_text[:, None], texts, torch.where(by_vector[:, None], vectors, nothing))
        label = torch.where(by_text | by_vector, no_label, self._labels[rows])
        # Dropped by two draws of one share: a sample told by one way has nothing to lose by the other.
        condition = dropped(condition, nothing, LABEL_DROPOUT, generator)
        label = dropped(label, no_label, LABEL_DROPOUT, generator)

        def predict(x_t: Tensor, t: Tensor, _: Tensor | None) -> Tensor:
            predicted: Tensor = made.network(x_t, t, label, condition)
            return predicted

        return predict
