"""A chain cut in two is the same chain: with one network on both sides, and the same steps."""

import numpy as np
import torch

from diffusion.network import UNet
from diffusion.noise import initial_noise
from diffusion.plan import plan
from diffusion.sampling import run
from evaluation.running.federation import Federation
from evaluation.running.fitting import new_network, unet_config
from evaluation.running.generation import StepPlan, generate

LABELS = np.arange(10, dtype=np.int32) % 3


def network(federation: Federation) -> UNet:
    made = new_network(unet_config(federation.shape, 8, federation.num_classes), seed=1)
    for parameter in made.parameters():  # the last layer starts at zero, and would predict nothing
        torch.nn.init.normal_(parameter, std=0.05)
    return made.eval().requires_grad_(False)


def test_one_network_on_both_sides_of_the_cut_makes_what_it_makes_alone(federation: Federation) -> None:
    both = network(federation)
    steps = StepPlan(server_steps=3, head_steps=2, sampler="ddpm")
    made = generate(federation.schedule, both, both, 20, LABELS, steps, shape=federation.shape, seed=5)

    whole = plan(federation.schedule, 50, 20, 3) + plan(federation.schedule, 20, 0, 2)[1:]
    x = torch.from_numpy(initial_noise(5, np.arange(10), 50, federation.shape))
    label = torch.from_numpy(LABELS.astype(np.int64))
    expected = run(
        federation.schedule, lambda x, t: both(x, t, label), x, whole, "ddpm", clip=1.0, seeds=5
    ).numpy()

    assert np.abs(made.finished - expected).max() < 1e-5
    assert np.abs(made.at_cut - made.finished).max() > 1e-2


def test_a_side_that_owns_nothing_does_nothing(federation: Federation) -> None:
    one = network(federation)
    steps = StepPlan(3, 2)
    local = generate(federation.schedule, None, one, 50, LABELS, steps, shape=federation.shape, seed=5)
    remote = generate(federation.schedule, one, None, 0, LABELS, steps, shape=federation.shape, seed=5)

    assert np.array_equal(local.at_cut, initial_noise(5, np.arange(10), 50, federation.shape))
    assert np.array_equal(remote.at_cut, remote.finished)
    assert float(np.abs(remote.as_images().images).max()) <= 1


def test_an_image_does_not_depend_on_how_many_are_made_with_it(federation: Federation) -> None:
    one = network(federation)
    steps = StepPlan(2, 2)
    many = np.zeros(300, dtype=np.int32)  # more than one batch
    long = generate(federation.schedule, one, one, 20, many, steps, shape=federation.shape, seed=5)
    short = generate(federation.schedule, one, one, 20, many[:7], steps, shape=federation.shape, seed=5)
    assert np.abs(long.finished[:7] - short.finished).max() < 1e-5
