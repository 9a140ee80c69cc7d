"""The exponential moving average of a network's weights over its training: what is kept, published and exported."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from diffusion.errors import DiffusionError

_UPDATES = "ema.updates"


class EMA:
    """An exponential moving average that starts fast.

    After n updates the decay is min(decay, (1+n)/(10+n)), so that the average forgets the random start
    within a few steps.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise DiffusionError(f"decay {decay} averages nothing: choose one in [0, 1)")
        self.decay = decay
        self.updates = 0
        self._shadow = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's weights."""
        self.updates += 1
        step = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, value in model.state_dict().items():
            shadow = self._shadow[name]
            if shadow.is_floating_point():
                shadow.lerp_(value.to(shadow), step)
            else:
                shadow.copy_(value)

    def copy_to(self, model: nn.Module) -> None:
        """Give `model` the averaged weights."""
        model.load_state_dict(self._shadow)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights by name, and the number of updates; tensors only, so that safetensors can hold it."""
        weights = {name: value.clone() for name, value in self._shadow.items()}
        return {**weights, _UPDATES: torch.tensor(self.updates, dtype=torch.int64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a `state_dict`; DiffusionError when it belongs to another network."""
        weights = {name: value for name, value in state.items() if name != _UPDATES}
        shapes = {name: value.shape for name, value in weights.items()}
        if _UPDATES not in state or shapes != {name: value.shape for name, value in self._shadow.items()}:
            raise DiffusionError("these averaged weights belong to another network: check its configuration")
        self.updates = int(state[_UPDATES])
        for name, value in weights.items():
            self._shadow[name].copy_(value)
