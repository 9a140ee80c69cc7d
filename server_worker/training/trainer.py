"""One optimiser step after another on the exact objective, over samples released at different cuts."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from diffusion.ema import EMA
from diffusion.errors import DiffusionError
from diffusion.network import UNet, UNetConfig
from diffusion.objective import pairs_loss
from diffusion.schedule import NoiseSchedule
from server_worker.compute import memory_as_error
from server_worker.errors import ContractMismatch, Damaged
from server_worker.samples.store import SampleBatch, SampleStore
from server_worker.training.checkpoints import Checkpoint
from server_worker.training.draws import draw, picks
from server_worker.training.levels import by_level
from server_worker.training.pairs import pairs_of
from server_worker.training.plan import TrainPlan, learning_rate
from server_worker.training.ranks import ALONE, Ranks

log = structlog.get_logger(__name__)

_MODEL, _EMA, _OPTIMISER = "model.", "ema.", "optimiser."


@dataclass(frozen=True)
class StepReport:
    """What one step says of itself.

    loss: the mean, of this rank's part.  by_level: the mean by third of the noise range where it was hit.
    is_updated: whether the weights were changed; they are not where the gradient, of all ranks together, is not finite.
    """

    loss: float
    by_level: Mapping[str, float]
    is_updated: bool = True


class Trainer:
    """The backbone in training: network, average, optimiser and count, all of which a checkpoint holds.

    With several ranks each of them has a trainer of the same plan and takes every step together with the others, on its share
    of the global batch; network, average and optimiser are then the same on all of them.
    """

    def __init__(
        self,
        config: UNetConfig,
        schedule: NoiseSchedule,
        plan: TrainPlan,
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        self.config = config
        self.schedule = schedule
        self.device = device
        self.step_number = 0
        self.samples_seen = 0
        self.samples_by_client: dict[str, int] = {}
        self.seed = plan.seed
        self._plan = plan
        self._ranks = ranks
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plan.seed)
            self._model = UNet(config)
        self._model.to(device).train()
        self._network: nn.Module = self._model
        if ranks.size > 1:
            # A 1×1 convolution's gradient has other strides than its bucket: torch copies it, rightly, and says so.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            self._network = DistributedDataParallel(self._model)
        self._ema = EMA(self._model, plan.ema_decay)
        self._optimiser = torch.optim.AdamW(
            self._model.parameters(), lr=plan.lr, weight_decay=plan.weight_decay
        )

    def next_batch(self, store: SampleStore, size: int) -> SampleBatch:
        """Draw this rank's part, `size` samples, of the global batch of the next step. Raises Damaged in an empty store."""
        rows = slice(self._ranks.rank * size, (self._ranks.rank + 1) * size)
        return store.batch(picks(self.seed, self.step_number), self._ranks.size * size, rows=rows)

    def step(self, batch: SampleBatch) -> StepReport:
        """Take one optimiser step on a batch drawn from the store; with several ranks, all of them at the same time.

        Raises RanksApart when another one is gone, NoMemory when the batch does not fit into the GPU's memory.
        """
        with memory_as_error(len(batch.t)):
            return self._step(batch)

    def note_clients(self, samples: Mapping[str, int]) -> None:
        """Remember for good how many samples of each client there were to train on, at the most."""
        for client, count in samples.items():
            self.samples_by_client[client] = max(count, self.samples_by_client.get(client, 0))

    def _step(self, batch: SampleBatch) -> StepReport:
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate(self._plan, self.step_number)
        loss, t, per_sample = self._loss(batch)
        self._optimiser.zero_grad(set_to_none=True)
        with self._ranks.together():
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        norm = nn.utils.clip_grad_norm_(self._model.parameters(), self._plan.gradient_norm)
        # The gradients are those of all ranks together already, so all of them see the same norm and do the same.
        is_updated = bool(torch.isfinite(norm))
        if is_updated:
            self._optimiser.step()
            self._ema.update(self._model)
        self.step_number += 1
        self.samples_seen += self._ranks.size * len(batch.t)
        per_sample = per_sample.cpu()
        return StepReport(
            float(per_sample.mean()), by_level(t.cpu(), per_sample, self.schedule.T), is_updated
        )

    def averaged_network(self) -> UNet:
        """A network of its own with the moving average of the weights, in eval mode, on the trainer's device."""
        network = UNet(self.config).to(self.device)
        self._ema.copy_to(network)
        return network.eval().requires_grad_(False)

    def averaged_weights(self) -> dict[str, Tensor]:
        """The weights to publish: their moving average."""
        return dict(self.averaged_network().state_dict())

    def checkpoint(self) -> Checkpoint:
        """All of it, at this moment."""
        tensors = {_MODEL + name: tensor.clone() for name, tensor in self._model.state_dict().items()}
        tensors |= {_EMA + name: tensor for name, tensor in self._ema.state_dict().items()}
        for index, values in self._optimiser.state_dict()["state"].items():
            tensors |= {f"{_OPTIMISER}{index}.{name}": tensor.clone() for name, tensor in values.items()}
        state = {
            "network": self.config.to_dict(),
            "samples_by_client": dict(self.samples_by_client),
            "samples_seen": self.samples_seen,
            "schedule_id": self.schedule.schedule_id,
            "seed": self.seed,
        }
        return Checkpoint(self.step_number, tensors, state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint, with its seed.

        Raises ContractMismatch when it is of another schedule or network, Damaged when parts of it are missing.
        """
        self._check_fits(checkpoint.state)
        try:
            self._model.load_state_dict(_below(_MODEL, checkpoint.tensors))
            self._ema.load_state_dict(_below(_EMA, checkpoint.tensors))
            optimiser = self._optimiser.state_dict()
            optimiser["state"] = _optimiser_state(_below(_OPTIMISER, checkpoint.tensors))
            self._optimiser.load_state_dict(optimiser)
            self.samples_seen = int(checkpoint.state["samples_seen"])
            self.seed = int(checkpoint.state["seed"])
            noted = checkpoint.state.get("samples_by_client", {})  # not in checkpoints of before
            self.samples_by_client = {str(client): int(count) for client, count in noted.items()}
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, DiffusionError) as error:
            raise Damaged(f"the checkpoint of step {checkpoint.step} is incomplete: {error}") from error
        if self.seed != self._plan.seed:
            log.warning("seed_of_checkpoint_kept", checkpoint_seed=self.seed, configured_seed=self._plan.seed)
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
        """Mean over this rank's part of the batch, of releases (t is drawn here) and pairs (it came with them)."""
        first = self._ranks.rank * len(batch.t)
        rows = range(first, first + len(batch.t))
        places, noise = draw(self.seed, self.step_number, rows, batch.x.shape[1:], self.device)
        pairs = pairs_of(batch, self.schedule, places, noise, self.config.num_classes)
        return pairs_loss(
            self._predict,
            self.schedule,
            pairs.x_t,
            pairs.noise,
            pairs.t,
            t_cut=pairs.t_cut,
            label=pairs.label,
        )

    def _predict(self, x_t: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        lower = self._plan.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=lower):
            predicted: Tensor = self._network(x_t, t, label)
        return predicted.float()


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _optimiser_state(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    return state
