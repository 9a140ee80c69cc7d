"""Asking for something more strongly than the network would answer by itself: classifier-free guidance.

Ho & Salimans, *Classifier-Free Diffusion Guidance*, arXiv 2207.12598. One network learns to predict with what was
asked and, for a share of the samples, without; the difference of the two predictions says which way the request lies.

What is asked is a tensor with one row for each sample: labels (B,) int64, or vectors (B, D) float32. Which of them, only
`predict` knows. Server and head are guided apart, each by its own prediction, so a chain may be asked on one side of the
cut alone: a head that is guided below a server that is not keeps the request on the device.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from diffusion.errors import DiffusionError
from diffusion.network import UNet
from diffusion.objective import Predict

PredictEps = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, ...), t (B,) int64) → ε̂ (B, ...): what `diffusion.sampling.run` takes."""


def guided(predict: Predict, asked: Tensor, nothing: Tensor, scale: float) -> PredictEps:
    """ε̂ = ε_θ(x_t, ∅) + s·(ε_θ(x_t, asked) − ε_θ(x_t, ∅)), both from one batch of twice the size.

    Ho & Salimans (2022), eq. 6, with s = 1 + w: at 1 the network's own answer to what is asked, at 0 its answer to nothing,
    beyond 1 more than it would. At 0 and 1 a single batch suffices, and no more is computed.

    predict: of (x_t, t, asked);  asked: (B,) int64 or (B, D) float32;  nothing: () or (D,), what `predict` takes for "nothing
    asked" in one sample's place (`nothing_asked`);  scale: s, finite and not negative.

    Returns a prediction for batches of just these B samples. Raises DiffusionError for a scale that guides nowhere, and,
    when called, for a batch of another size.
    """
    if not 0 <= scale < float("inf"):
        raise DiffusionError(f"a guidance scale of {scale} guides nowhere: choose 0 or more")
    # Told apart here, not per step: a chain has one scale.
    rows = [nothing.expand_as(asked)] if scale != 1 else []
    rows += [asked] if scale != 0 else []

    def predict_eps(x_t: Tensor, t: Tensor) -> Tensor:
        if len(x_t) != len(asked):
            raise DiffusionError(f"something is asked of {len(asked)} samples, but the batch has {len(x_t)}")
        times = len(rows)
        predicted = predict(torch.cat([x_t] * times), torch.cat([t] * times), torch.cat(rows))
        if times == 1:
            return predicted
        without, wanted = predicted.chunk(2)
        return without + scale * (wanted - without)

    return predict_eps


def dropped(asked: Tensor, nothing: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Replace what is asked by nothing in a share of the samples, so that a network learns both (Ho & Salimans, algorithm 1).

    asked: (B,) int64 or (B, D) float32;  nothing: () or (D,);  share: in [0, 1], each sample drawn by itself;  generator:
    on the device of `asked`.  Returns like `asked`; gradients reach both.
    """
    if not 0 <= share <= 1:
        raise DiffusionError(f"a share of {share} cannot be dropped: choose one in [0, 1]")
    lost = torch.rand(len(asked), generator=generator, device=asked.device) < share
    return torch.where(lost.reshape(-1, *[1] * (asked.ndim - 1)), nothing, asked)


def nothing_asked(network: UNet) -> Tensor:
    """What means nothing to this network: its last label, () int64, or its learned null condition, (D,) float32.

    A network with labels and a condition is asked by its condition here. Raises DiffusionError for one with neither.
    """
    if network.null_condition is not None:
        return network.null_condition
    if network.config.num_classes is None:
        raise DiffusionError("this network can be asked for nothing: give it labels or a condition")
    return torch.tensor(network.config.num_classes, device=next(network.parameters()).device)


def prediction_of(network: UNet) -> Predict:
    """predict(x_t, t, asked) of a network, its condition where it has one and else its label; None asks for nothing."""
    if network.config.condition_size is None:
        return network
    return lambda x_t, t, asked: network(x_t, t, condition=asked)
