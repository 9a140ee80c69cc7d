"""What an experiment is given: the design, the federation, the trained networks, and an extractor of features."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffusion.network import UNet
from diffusion.schedule import NoiseSchedule
from diffusion.split import Cut
from evaluation.conditioning.t5_directory import T5Directory
from evaluation.data.images import ClientData, concatenate, labels_like
from evaluation.errors import DataError, RunError
from evaluation.metrics.extractors import Extractor, open_extractor
from evaluation.metrics.recogniser import Recogniser, load_recogniser, save_recogniser, train_recogniser
from evaluation.running.design import Design
from evaluation.running.federation import Federation, FederationPlan
from evaluation.running.generation import Generated, StepPlan, generate
from evaluation.running.networks import NetworkStore
from evaluation.running.trainings import Training

Progress = Callable[[int, int, str], None]
"""Told (parts done, of how many, in words) while an experiment measures."""


@dataclass(frozen=True)
class Setting:
    """All that an evaluation depends on, as plain values that can be handed to another process.

    folder: where networks, results and the report are kept.  extractor: a local weights file, or None for a classifier
    trained on the data at hand.  prompts: what images are to be made of, beside what the experiment asks for itself.
    text_encoder: what reads captions and prompts, or None for a small encoder that learns beside the network.
    """

    design: Design
    plan: FederationPlan
    folder: Path
    extractor: Path | None = None
    prompts: tuple[str, ...] = ()
    text_encoder: T5Directory | None = None


class Workbench:
    """Opens what a setting describes, each part when it is first asked for."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.design = setting.design
        self.schedule = NoiseSchedule.named(setting.design.schedule, setting.design.timesteps)

    @cached_property
    def federation(self) -> Federation:
        """The clients and their data."""
        return self.setting.plan.open(self.schedule)

    @cached_property
    def networks(self) -> NetworkStore:
        """The trained networks."""
        return NetworkStore(self.setting.folder / "networks", self.federation)

    @cached_property
    def recogniser(self) -> Recogniser:
        """The classifier of the data at hand: trained on the training images of all clients, once, and kept."""
        path = self.setting.folder / "networks" / f"recogniser-{self.federation.fingerprint}.safetensors"
        if not path.exists():
            held_out = concatenate([client.held_out for client in self.federation.clients])
            made = train_recogniser(self.federation.pooled, held_out)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                draft = path.with_suffix(f".{os.getpid()}.new")
                save_recogniser(draft, made)
                draft.replace(path)
            except OSError as error:
                raise RunError(
                    f"cannot write to {path.parent}: {error.strerror}; choose another --out"
                ) from error
        try:
            return load_recogniser(path)
        except DataError as error:
            raise RunError(f"{path} cannot be read: remove the file and run again") from error

    @cached_property
    def extractor(self) -> Extractor:
        """In whose features images are compared: the user's own, or the recogniser."""
        return self.recogniser if self.setting.extractor is None else open_extractor(self.setting.extractor)

    def network(self, training: Training) -> UNet:
        """The network of a training, trained now if nobody has yet."""
        return self.networks.trained(training).network

    def t_cut(self, cut_ratio: float) -> int:
        """The step of a cut."""
        return Cut(self.schedule, cut_ratio).t_cut

    def labels_for(self, client: ClientData) -> NDArray[np.int32]:
        """What is asked of a generator for this client: its labels in their proportions, `design.images` of them."""
        return labels_like(client.train.labels, self.design.images)

    def steps(self) -> StepPlan:
        """The design's plan for a chain cut anywhere."""
        return StepPlan(self.design.server_steps, self.design.head_steps, self.design.sampler)

    def steps_at(self, cut_ratio: float) -> StepPlan:
        """The same number of evaluations in all, at every cut: where one side owns the whole chain it makes them all."""
        total = self.design.server_steps + self.design.head_steps
        if cut_ratio in (0, 1):
            return StepPlan(total, total, self.design.sampler)
        return self.steps()

    def generated(
        self,
        client: ClientData,
        backbone: UNet | None,
        head: UNet | None,
        cut_ratio: float,
        seed: int,
        steps: StepPlan | None = None,
    ) -> Generated:
        """Images for a client by a chain cut at `cut_ratio`."""
        return generate(
            self.schedule,
            backbone,
            head,
            self.t_cut(cut_ratio),
            self.labels_for(client),
            steps or self.steps_at(cut_ratio),
            shape=self.federation.shape,
            seed=seed,
        )
