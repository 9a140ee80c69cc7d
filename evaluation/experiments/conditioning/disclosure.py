"""What a server learns of what was asked: all of it where it is asked, and nothing where only the head is."""

from dataclasses import dataclass

import numpy as np

from broker.codec import encode
from broker.contract.denoise import DenoiseV1
from diffusion.plan import plan
from evaluation.conditioning.asked_network import AskedNetwork
from evaluation.conditioning.asking import Asked, Way
from evaluation.experiments.conditioning.generation import Chain, Guidance, server_part
from evaluation.reporting.outcome import Finding, Weight

_REQUEST_ID = "0" * 32
"""Drawn at random for each request in the real system, whatever is asked."""


@dataclass(frozen=True)
class ServersView:
    """How the server's side of two different requests compares.

    request_bytes: the length of the message;  same_request, same_latents: whether it and what the server computes are equal
    to the bit.
    """

    request_bytes: int
    same_request: bool
    same_latents: bool


def request(chain: Chain, asked: Asked, guidance: Guidance, seed: int) -> bytes:
    """The message that a device sends for the server's part, as it goes over the wire; with labels where the server is asked."""
    steps = plan(chain.schedule, chain.schedule.T, chain.t_cut, chain.steps.server_steps, chain.steps.spacing)
    fields = {
        "request_id": _REQUEST_ID,
        "shape": chain.shape,
        "n": len(asked),
        "schedule_id": chain.schedule.schedule_id,
        "plan": steps,
        "sampler": chain.steps.sampler,
        "eta": chain.steps.eta,
        "clip": chain.steps.clip,
        "seed": seed,
        "labels": asked.labels if guidance.server else None,
    }
    return encode(DenoiseV1.model_validate(fields))


def servers_view(
    chain: Chain, backbone: AskedNetwork, two: tuple[Asked, Asked], guidance: Guidance, seed: int
) -> ServersView:
    """Asks for two things of as many images each, and compares what the server gets and makes."""
    first, second = (request(chain, asked, guidance, seed) for asked in two)
    made = [server_part(chain, backbone.question(asked, Way.LABEL), guidance.server, seed) for asked in two]
    return ServersView(len(first), first == second, bool(np.array_equal(made[0], made[1])))


def disclosure_findings(
    chain: Chain, backbone: AskedNetwork, two: tuple[Asked, Asked], scale: float
) -> list[Finding]:
    """Both controls, and what follows from the contract."""
    head_only = servers_view(chain, backbone, two, Guidance(0.0, scale), seed=0)
    asked = servers_view(chain, backbone, two, Guidance(scale, scale), seed=0)
    hidden = head_only.same_request and head_only.same_latents
    shown = not asked.same_request and not asked.same_latents
    return [
        Finding(
            "Control that must fail: with only the head asked, a server that tries to tell two prompts apart has a request "
            f"({head_only.request_bytes} bytes) and latents that are {'' if hidden else 'NOT '}equal to the bit.",
            Weight.CONTROL if hidden else Weight.FAILED_CONTROL,
        ),
        Finding(
            "Control that must succeed: with the server asked by label, the requests "
            f"({asked.request_bytes} bytes) and the latents of the two {'differ' if shown else 'do NOT differ'}.",
            Weight.CONTROL if shown else Weight.FAILED_CONTROL,
        ),
        Finding(
            "A server that is asked learns the whole of what is asked, for every image and together with the device's name; "
            "an encoded text gives it away as well, since whoever has the encoder can compare. A head that alone is asked "
            "discloses nothing of it.",
            Weight.FACT,
        ),
    ]
