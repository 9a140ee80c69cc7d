"""A complete result with small, quick and honestly computed figures, for the tests of the report."""

import numpy as np
from numpy.typing import NDArray

from diffusion.schedule import NoiseSchedule
from evaluation.data.images import ClientData, LabelledImages, concatenate, labels_like
from evaluation.metrics.comparison import compare_fidelity
from evaluation.metrics.disclosure import disclosure
from evaluation.metrics.features import Classifier
from evaluation.metrics.fidelity import floor, measure
from evaluation.metrics.spread import spread
from evaluation.reporting.demo_results import (
    Accounting,
    BudgetSide,
    ClassifierResult,
    ClientResult,
    Curve,
    DemoResult,
    EqualBudget,
    evaluation_share,
)
from evaluation.reporting.gallery import Gallery

SCHEDULE = NoiseSchedule.cosine(100)
T_CUT = 30


def noisy_copies(client: ClientData, strength: float, sets: int, seed: int) -> list[LabelledImages]:
    """Stand-ins for a generator: the client's own images with noise of the given strength."""
    rng = np.random.default_rng(seed)
    real = client.everything
    return [LabelledImages(_noised(real.images, 1.0, strength, rng), real.labels) for _ in range(sets)]


def released(client: ClientData, seed: int = 0) -> NDArray[np.float32]:
    """The client's training images at the cut."""
    alpha_bar = float(SCHEDULE.alpha_bar[T_CUT])
    rng = np.random.default_rng(seed)
    return _noised(client.train.images, np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar), rng)


def demo_result(clients: tuple[ClientData, ...], classifier: Classifier) -> tuple[DemoResult, list[Gallery]]:
    """A result and the galleries that belong to it."""
    curves = tuple(Curve(name, (10, 20, 30), (0.9, 0.5, 0.4)) for name in ("low", "middle", "high"))
    result = DemoResult(
        started_at="2000-01-01T00:00:00+00:00",
        duration_seconds=123.0,
        machine="a test machine <&>",
        versions={"numpy": np.__version__},
        processes={"edge agents": len(clients)},
        dataset="scikit-learn's digits",
        schedule_name="cosine",
        schedule_steps=SCHEDULE.T,
        schedule_id=SCHEDULE.schedule_id,
        sampler="ddim",
        backbone_parameters=123_456,
        head_parameters=34_567,
        backbone_versions=4,
        classifier=ClassifierResult(
            classifier.name, classifier.held_out_accuracy, classifier.held_out_images
        ),
        backbone_curves=curves,
        clients=tuple(_client_result(client, clients, classifier) for client in clients),
        queue_lag_seconds={"samples": spread((0.01, 0.02, 0.04))},
        samples_per_network_call=spread((8.0, 16.0, 64.0)),
        accounting={"samples": Accounting(900, 899, 898, 7, 11, 13, 17, 19)},
    )
    return result, [_gallery(client) for client in clients]


def _client_result(
    client: ClientData, clients: tuple[ClientData, ...], classifier: Classifier
) -> ClientResult:
    collaborative = measure(noisy_copies(client, 0.1, 2, 1), client, classifier, subsets=3)
    isolated = measure(noisy_copies(client, 0.4, 2, 2), client, classifier, subsets=3)
    side = BudgetSide(98_765, 432, 64, len(client.train), 20)
    return ClientResult(
        name=client.name,
        device_name=f"{client.name}_device",
        digits=client.labels,
        train_images=len(client.train),
        held_out_images=len(client.held_out),
        cut_ratio=0.3,
        t_cut=T_CUT,
        provider="CPUExecutionProvider",
        budget=EqualBudget("As many updates of as many parameters.", side, side),
        collaborative=collaborative,
        isolated=isolated,
        real_floor=floor(client, classifier, subsets=5),
        comparisons=compare_fidelity(collaborative, isolated),
        disclosure=disclosure(
            client.train.images,
            released(client),
            t_cut=T_CUT,
            alpha_bar=float(SCHEDULE.alpha_bar[T_CUT]),
            prior_images=concatenate([other.train for other in clients if other is not client]).images,
        ),
        evaluations=evaluation_share(16, 4),
        server_step_seconds=spread((0.0041, 0.0043)),
        device_step_seconds=spread((0.0011, 0.0013)),
        queue_lag_seconds=spread((0.021, 0.035)),
        request_seconds=None,
        accounting=Accounting(24, 23, 22, 1, 2, 3, 4, 5),
        head_curve=Curve("head", (10, 20), (0.5, 0.3)),
        isolated_curve=Curve("isolated", (10, 20), (0.6, 0.2)),
    )


def _gallery(client: ClientData) -> Gallery:
    labels = labels_like(client.held_out.labels, 6)
    rows = np.asarray([np.flatnonzero(client.held_out.labels == label)[0] for label in labels])
    images = client.held_out.images[rows]
    return Gallery(client.name, labels, images, images, images, images)


def _noised(
    images: NDArray[np.float32], signal: float, noise: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    return (signal * images + noise * rng.standard_normal(images.shape)).astype(np.float32)
