"""The policies of sending, and what each costs whoever sends: bytes on the wire, and the privacy ledger."""

from dataclasses import dataclass

import numpy as np

from diffusion.privacy import epsilon_of_mu, gdp_mu, norm_bound
from diffusion.split import Cut
from edge_agent.release.batch import Dtype
from evaluation.experiments.releases.pairs_training import PairsTraining, epochs_of
from evaluation.experiments.releases.upload import pair_bodies, pairs_of_epoch, release_bodies, sent_bytes
from evaluation.running.design import Design
from evaluation.running.federation import Federation
from evaluation.running.trainings import BackboneTraining, Budget, Training

RELEASES = (1, 2, 4, 16)
DELTA = 1e-5


@dataclass(frozen=True)
class Policy:
    """How images are sent.

    sent: how often each is, K releases or one pair in each of so many epochs;  pairs: whether what is sent are pairs.
    """

    sent: int
    pairs: bool = False

    @property
    def name(self) -> str:
        """For tables and sentences."""
        if not self.pairs:
            return f"K = {self.sent}"
        return f"pairs, {self.sent} epoch{'' if self.sent == 1 else 's'}"

    def training(self, design: Design, seed: int) -> Training:
        """The backbone trained on what this policy sends, by as many updates as any other."""
        budget = Budget.backbone(design)
        if self.pairs:
            return PairsTraining(design.main_cut, budget, seed)
        return BackboneTraining(design.main_cut, budget, seed, self.sent)


def policies(design: Design, federation: Federation) -> tuple[Policy, ...]:
    """K releases for every K of `RELEASES`, and the papers' pairs for as many epochs as the design's updates begin."""
    epochs = epochs_of(Budget.backbone(design), len(federation.pooled))
    return (*(Policy(releases) for releases in RELEASES), Policy(epochs, pairs=True))


@dataclass(frozen=True)
class Account:
    """What a policy costs: bytes that all clients send together, by payload, and μ and ε of the ledger for one image."""

    sent_bytes: dict[Dtype, int]
    mu: float
    epsilon: float


def account(federation: Federation, cut_ratio: float, policy: Policy, dtypes: tuple[Dtype, ...]) -> Account:
    """The account of a policy at a cut.

    Bytes: the messages of the first sending, encoded and framed as a device sends them, times the number of sendings, which
    differ in what they hold and not in its size, with any seed (but for an epoch beyond the 127th, whose number takes up to
    four bytes more in each message).
    Ledger: from x_t, ε_s and t anyone computes x_c, so a pair costs what the release in it costs.
    """
    cut = Cut(federation.schedule, cut_ratio)
    first = {dtype: _first_sending_bytes(federation, cut, policy, dtype) for dtype in dtypes}
    mu = gdp_mu(norm_bound(None, federation.shape), cut.t_cut, federation.schedule, policy.sent)
    sent = {dtype: count * policy.sent for dtype, count in first.items()}
    return Account(sent, mu, epsilon_of_mu(mu, DELTA))


def _first_sending_bytes(federation: Federation, cut: Cut, policy: Policy, dtype: Dtype) -> int:
    total = 0
    for client in federation.clients:
        releases = federation.releases(client, cut.cut_ratio, seed=0)
        if policy.pairs:
            made = pairs_of_epoch(federation, releases, cut.t_cut, np.random.default_rng(0))
            bodies = pair_bodies(made, cut, 0, dtype)
        else:
            bodies = release_bodies(releases, dtype)
        total += sent_bytes(bodies, client.name)
    return total
