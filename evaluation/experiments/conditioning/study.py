"""What the experiment on asking works with: phantoms, requests, a judge, and chains that can be asked on either side."""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from evaluation.conditioning.asked_network import AskedNetwork
from evaluation.conditioning.asking import Asked, Way
from evaluation.conditioning.judging import train_judge
from evaluation.conditioning.projected_texts import remembered
from evaluation.conditioning.text import TextEncoder
from evaluation.data.images import ClientData
from evaluation.experiments.conditioning.generation import Chain, Guidance, head_part, server_part
from evaluation.experiments.conditioning.training import AskedTraining
from evaluation.metrics.recogniser import Recogniser
from evaluation.running.design import Design
from evaluation.running.federation import Federation, FederationPlan
from evaluation.running.trainings import Budget
from evaluation.running.workbench import Setting, Workbench

SCALES = (1.0, 2.0, 3.0)
STRONG = SCALES[-1]
"""Where ways and sides are compared. Of 64 small lesions asked of one network, the judge called 29 large at 3, 41 at 4."""
NOBODY, BOTH = Guidance(0.0, 0.0), Guidance(STRONG, STRONG)
SERVER_ONLY, HEAD_ONLY = Guidance(STRONG, 0.0), Guidance(0.0, STRONG)
_PHANTOMS = ("phantoms32", "phantoms64")
_NARROW, _FEW_PIXELS = 32, 16
"""A network narrower than this many channels draws phantoms of so few pixels; more would take it longer than a quick run has."""
SAMPLER = "ddpm"
"""Fresh noise in every step (Ho et al. 2020). A chain without it carries what a shortly trained network gets wrong to the cut
as noise of the wrong strength, which no head removes: with DDIM some of the same networks' pictures are grain."""
_MORE_UPDATES, _SMALLER_BATCHES = 4, 2
"""A network hears of one thing in three ways, and a lesion of few pixels hardly moves the loss: what was asked is learned long
after what a head looks like. Half a batch pays for half of it."""


@dataclass(frozen=True)
class Case:
    """One way of asking, on one or both sides of one hand-over."""

    cut_ratio: float
    way: Way
    guidance: Guidance


def hand_overs(design: Design) -> tuple[float, ...]:
    """Where the server hands over: at the main cut, and as early as the design has it, which leaves most to the head."""
    return tuple(dict.fromkeys((design.main_cut, design.cuts[-2])))


def cases(design: Design) -> tuple[Case, ...]:
    """All that is measured: every way and scale with both sides asked, and, in words, each side alone."""
    main = design.main_cut
    found = [Case(main, Way.TEXT, Guidance(scale, scale)) for scale in (0.0, *SCALES)]
    found += [
        Case(main, way, Guidance(scale, scale))
        for way, scale in product((Way.LABEL, Way.ATTRIBUTES), (SCALES[0], STRONG))
    ]
    found += [Case(cut, Way.TEXT, guidance) for cut in hand_overs(design) for guidance in sides()]
    return tuple(dict.fromkeys(found))


def sides() -> tuple[Guidance, ...]:
    """Nobody, each side alone, and both, at the strong scale."""
    return (NOBODY, SERVER_ONLY, HEAD_ONLY, BOTH)


def phantom_plan(setting: Setting) -> FederationPlan:
    """The phantoms: those of the evaluation where it is about phantoms, else some of their own, divided by clinic."""
    plan = setting.plan
    if plan.source not in _PHANTOMS:
        size = _FEW_PIXELS if setting.design.width < _NARROW else None
        plan = FederationPlan(_PHANTOMS[0], image_size=size, limit=plan.limit, seed=plan.seed)
    return replace(plan, partition=None, clients=3)


def asked_budget(budget: Budget) -> Budget:
    """What a network that can be asked is trained with, of the budget that the other experiments' networks have."""
    return replace(
        budget,
        updates=_MORE_UPDATES * budget.updates,
        batch_size=max(1, budget.batch_size // _SMALLER_BATCHES),
    )


class Study:
    """Opens and makes each part when it is first asked for."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.design = bench.design
        self.plan = phantom_plan(bench.setting)
        self._pairs: dict[int, tuple[AskedNetwork, AskedNetwork]] = {}
        self._at_cut: dict[tuple[int, Case], NDArray[np.float32]] = {}

    @cached_property
    def encoder(self) -> TextEncoder | None:
        """What reads captions and prompts, or None for the small encoder that learns beside the network."""
        given = self.bench.setting.text_encoder
        return None if given is None else remembered(given)

    @cached_property
    def phantoms(self) -> Federation:
        """The clinics and their phantoms, on the evaluation's chain."""
        return self.plan.open(self.bench.schedule)

    @cached_property
    def client(self) -> ClientData:
        """The clinic that makes images: the one with the most lesions to learn from."""
        return max(self.phantoms.clients, key=lambda client: float(client.train.attribute("lesion").sum()))

    @cached_property
    def judge(self) -> Recogniser:
        """Names what an image shows; trained on real phantoms."""
        return train_judge(self.phantoms.clients)

    @cached_property
    def asked(self) -> Asked:
        """What is asked in every case: what images of this clinic show, drawn with replacement."""
        known = self.client.train.attributes
        return Asked(known[np.random.default_rng(0).integers(len(known), size=self.design.images)])

    def trainings(self, seed: int) -> tuple[AskedTraining, AskedTraining]:
        """The backbone of a seed, for the main cut and above, and the head, for the earliest hand-over and below.

        Where both own a step, either may make it: one pair of networks serves every hand-over.
        """
        texts = self.bench.setting.text_encoder
        server, client = (
            asked_budget(budget) for budget in (Budget.backbone(self.design), Budget.head(self.design))
        )
        earliest = hand_overs(self.design)[-1]
        return (
            AskedTraining(self.plan, None, self.design.main_cut, server, seed, texts),
            AskedTraining(self.plan, self.client.name, earliest, client, seed, texts),
        )

    def pair(self, seed: int) -> tuple[AskedNetwork, AskedNetwork]:
        """The backbone and the head of a seed, trained now if nobody has yet."""
        if seed not in self._pairs:
            backbone, head = (self.bench.networks.trained(training) for training in self.trainings(seed))
            self._pairs[seed] = (
                AskedNetwork.of(backbone.network, backbone.extra, self.encoder),
                AskedNetwork.of(head.network, head.extra, self.encoder),
            )
        return self._pairs[seed]

    def chain(self, cut_ratio: float) -> Chain:
        """The chain that hands over at this cut: the design's numbers of steps, each with fresh noise."""
        steps = replace(self.bench.steps(), sampler=SAMPLER)
        return Chain(self.bench.schedule, self.bench.t_cut(cut_ratio), steps, self.phantoms.shape)

    def images(self, case: Case, seed: int) -> NDArray[np.float32]:
        """What a case makes of `asked`: (N, C, H, W) float32 in [-1, 1]. Every case starts from the same noise."""
        backbone, head = self.pair(seed)
        chain = self.chain(case.cut_ratio)
        # What the server makes depends on what it is asked and on nothing else: it is made once for every head.
        heard = replace(
            case,
            way=case.way if case.guidance.server else Way.TEXT,
            guidance=Guidance(case.guidance.server, 0.0),
        )
        if (seed, heard) not in self._at_cut:
            question = backbone.question(self.asked, case.way)
            self._at_cut[seed, heard] = server_part(chain, question, case.guidance.server, seed)
        question = head.question(self.asked, case.way)
        made = head_part(chain, question, case.guidance.head, self._at_cut[seed, heard], seed)
        return np.clip(made, -1.0, 1.0)

    def forget(self) -> None:
        """Let the images of the seeds so far go."""
        self._at_cut.clear()
