"""One optimiser step after another on the exact objective, over samples released at different cuts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion.errors import DiffusionError
from diffusion.network import EMA, UNet, UNetConfig
from diffusion.objective import pairs_loss, released_loss
from diffusion.schedule import NoiseSchedule
from monitoring.metrics import NOISE_LEVELS
from server_worker.errors import ContractMismatch, Damaged
from server_worker.samples.batch import NO_LABEL
from server_worker.samples.store import SampleBatch
from server_worker.training.checkpoints import Checkpoint

_MODEL, _EMA, _OPTIMISER, _GENERATOR = "model.", "ema.", "optimiser.", "generator"


@dataclass(frozen=True)
class TrainPlan:
    """How to train.

    lr: AdamW's learning rate after `warmup_steps`; gradient_norm: gradients are clipped to this L2 norm;
    ema_decay: of the weights' average; seed: of the weights, the draws from the store, t and ε_s.
    """

    lr: float
    weight_decay: float
    warmup_steps: int
    gradient_norm: float
    ema_decay: float
    seed: int


@dataclass(frozen=True)
class StepReport:
    """What one step says of itself: the mean loss, and the mean by third of the noise range where it was hit."""

    loss: float
    by_level: Mapping[str, float]


class Trainer:
    """The backbone in training: network, average, optimiser, randomness and count, all of which a checkpoint holds."""

    def __init__(
        self, config: UNetConfig, schedule: NoiseSchedule, plan: TrainPlan, device: torch.device
    ) -> None:
        self.config = config
        self.schedule = schedule
        self.device = device
        self.step_number = 0
        self.samples_seen = 0
        self.rng = np.random.default_rng(plan.seed)
        self._plan = plan
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plan.seed)
            self._model = UNet(config)
        self._model.to(device).train()
        self._ema = EMA(self._model, plan.ema_decay)
        self._optimiser = torch.optim.AdamW(
            self._model.parameters(), lr=plan.lr, weight_decay=plan.weight_decay
        )
        self._generator = torch.Generator(device).manual_seed(plan.seed)

    def step(self, batch: SampleBatch) -> StepReport:
        """Take one optimiser step on a batch drawn from the store."""
        for group in self._optimiser.param_groups:
            group["lr"] = self._plan.lr * min(1.0, (self.step_number + 1) / max(1, self._plan.warmup_steps))
        loss, t, per_sample = self._loss(batch)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._plan.gradient_norm)
        self._optimiser.step()
        self._ema.update(self._model)
        self.step_number += 1
        self.samples_seen += len(batch.t)
        return StepReport(float(loss.detach()), _by_level(t, per_sample, self.schedule.T))

    def averaged_weights(self) -> dict[str, Tensor]:
        """The weights to publish: their moving average."""
        network = UNet(self.config)
        self._ema.copy_to(network)
        return dict(network.state_dict())

    def checkpoint(self) -> Checkpoint:
        """All of it, at this moment."""
        tensors = {_MODEL + name: tensor.clone() for name, tensor in self._model.state_dict().items()}
        tensors |= {_EMA + name: tensor for name, tensor in self._ema.state_dict().items()}
        for index, values in self._optimiser.state_dict()["state"].items():
            tensors |= {f"{_OPTIMISER}{index}.{name}": tensor.clone() for name, tensor in values.items()}
        tensors[_GENERATOR] = self._generator.get_state()
        state = {
            "network": self.config.to_dict(),
            "numpy_rng": self.rng.bit_generator.state,
            "samples_seen": self.samples_seen,
            "schedule_id": self.schedule.schedule_id,
        }
        return Checkpoint(self.step_number, tensors, state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises ContractMismatch when it is of another schedule or network, Damaged when parts of it are missing.
        """
        self._check_fits(checkpoint.state)
        try:
            self._model.load_state_dict(_below(_MODEL, checkpoint.tensors))
            self._ema.load_state_dict(_below(_EMA, checkpoint.tensors))
            optimiser = self._optimiser.state_dict()
            optimiser["state"] = _optimiser_state(_below(_OPTIMISER, checkpoint.tensors))
            self._optimiser.load_state_dict(optimiser)
            self._generator.set_state(checkpoint.tensors[_GENERATOR])
            self.rng.bit_generator.state = checkpoint.state["numpy_rng"]
            self.samples_seen = int(checkpoint.state["samples_seen"])
        except (KeyError, ValueError, RuntimeError, DiffusionError) as error:
            raise Damaged(f"the checkpoint of step {checkpoint.step} is incomplete: {error}") from error
        self.step_number = checkpoint.step

    def _check_fits(self, state: Mapping[str, Any]) -> None:
        if state.get("schedule_id") != self.schedule.schedule_id:
            raise ContractMismatch(
                f"the checkpoint was trained on schedule {state.get('schedule_id')}, the configuration says "
                f"{self.schedule.schedule_id}: use the configuration it was made with, or another storage"
            )
        if state.get("network") != self.config.to_dict():
            raise ContractMismatch(
                f"the checkpoint is of the network {state.get('network')}, the configuration says "
                f"{self.config.to_dict()}: use the configuration it was made with, or another storage"
            )

    def _loss(self, batch: SampleBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Mean over the batch, whether a sample is a release (t is drawn here) or a pair (t came with it)."""
        x, t_cut, t = (torch.from_numpy(values).to(self.device) for values in (batch.x, batch.t_cut, batch.t))
        labels = self._labels(batch)
        is_pair = batch.t > 0
        parts = []
        released = torch.from_numpy(np.flatnonzero(~is_pair)).to(self.device)
        if len(released):
            label = None if labels is None else labels[released]
            parts.append(
                released_loss(
                    self._model, self.schedule, x[released], t_cut[released], label, generator=self._generator
                )
            )
        paired = torch.from_numpy(np.flatnonzero(is_pair)).to(self.device)
        if len(paired):
            noise = torch.from_numpy(batch.noise).to(self.device)[paired]
            label = None if labels is None else labels[paired]
            parts.append(
                pairs_loss(
                    self._model, self.schedule, x[paired], noise, t[paired], t_cut=t_cut[paired], label=label
                )
            )
        total = sum(
            (loss * len(steps) for loss, steps, _ in parts), start=torch.zeros((), device=self.device)
        )
        steps, per_sample = (torch.cat([part[i] for part in parts]) for i in (1, 2))
        return total / len(t), steps, per_sample

    def _labels(self, batch: SampleBatch) -> Tensor | None:
        if self.config.num_classes is None:
            return None
        labels = np.where(batch.labels == NO_LABEL, self.config.num_classes, batch.labels)
        return torch.from_numpy(labels).to(self.device)


def _by_level(t: Tensor, per_sample: Tensor, T: int) -> dict[str, float]:
    thirds = torch.clamp((t - 1) * len(NOISE_LEVELS) // T, max=len(NOISE_LEVELS) - 1)
    return {
        name: float(per_sample[thirds == index].mean())
        for index, name in enumerate(NOISE_LEVELS)
        if bool((thirds == index).any())
    }


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _optimiser_state(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    return state
