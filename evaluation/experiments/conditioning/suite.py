"""Asking for an image: by label, by attributes or in words, on the server, on the head or on both; and images of a prompt."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evaluation.conditioning.asked_network import AskedNetwork, check_prompts
from evaluation.conditioning.asking import KINDS, Asked, all_captions, every_kind, vocabulary
from evaluation.experiments.conditioning import outcome as asked_outcome
from evaluation.experiments.conditioning.disclosure import disclosure_findings
from evaluation.experiments.conditioning.figures import measure_cases, real_cells, real_heard
from evaluation.experiments.conditioning.generation import Guidance, head_part, server_part
from evaluation.experiments.conditioning.study import (
    BOTH,
    HEAD_ONLY,
    NOBODY,
    SAMPLER,
    STRONG,
    Study,
    asked_budget,
    hand_overs,
)
from evaluation.reporting.gallery import png_data_uri
from evaluation.reporting.outcome import Finding, Outcome, PictureRow, Pictures
from evaluation.running.trainings import Budget, Training
from evaluation.running.workbench import Progress, Workbench

TITLE = "Conditioning"
PROMPT_IMAGES = 8


def trainings(bench: Workbench) -> list[Training]:
    """A backbone and a head for each seed.

    Raises TextError for a prompt in words that none of them will know, and for an encoder that cannot be opened.
    """
    study = Study(bench)
    if study.encoder is not None:
        study.encoder.encode(all_captions())
    check_prompts(bench.setting.prompts, study.encoder)
    return [training for seed in bench.design.seeds for training in study.trainings(seed)]


def measure(bench: Workbench, progress: Progress) -> Outcome:
    """Measures every way of asking, at several scales, on one or both sides of the cut."""
    study = Study(bench)
    cuts = hand_overs(bench.design)
    found = measure_cases(study, progress)
    real = real_heard(study)
    return Outcome(
        suite="conditioning",
        title=TITLE,
        question=(
            "Does an image show what was asked, how strongly must it be asked, what does that cost in fidelity, and can what is "
            "asked stay on the device?"
        ),
        method=_method(study),
        findings=(
            *asked_outcome.control_findings(found, cuts[0], real, study.judge.name),
            *_disclosure(study),
            *asked_outcome.claim_findings(found, cuts),
        ),
        tables=(
            asked_outcome.way_table(found, cuts[0], real_cells(study)),
            asked_outcome.side_table(found, cuts),
        ),
        charts=(
            asked_outcome.heard_chart(found, cuts[0], real),
            asked_outcome.fidelity_chart(found, cuts[0]),
        ),
        pictures=(_grid(study), *_prompted(study)),
        limits=_limits(study),
    )


def images_for_prompt(
    bench: Workbench,
    prompt: str,
    *,
    count: int = PROMPT_IMAGES,
    guidance: Guidance = BOTH,
    cut_ratio: float | None = None,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Images of what a prompt says, by the networks of the first seed, trained now if nobody has yet.

    guidance: who is asked, `HEAD_ONLY` keeping the prompt from the server;  cut_ratio: where the server hands over, one of
    `hand_overs`, the main cut when left out;  seed: of the noise.

    Returns (count, C, H, W) float32 in [-1, 1].  Raises TextError for words that were not learned.
    """
    study = Study(bench)
    check_prompts([prompt], study.encoder)
    return _of_texts(study, [prompt] * count, guidance, cut_ratio, seed)


def _of_texts(
    study: Study, texts: Sequence[str], guidance: Guidance, cut_ratio: float | None, seed: int
) -> NDArray[np.float32]:
    backbone, head = study.pair(study.design.seeds[0])
    chain = study.chain(study.design.main_cut if cut_ratio is None else cut_ratio)
    at_cut = server_part(chain, backbone.question_in_words(texts), guidance.server, seed)
    made = head_part(chain, head.question_in_words(texts), guidance.head, at_cut, seed)
    return np.clip(made, -1.0, 1.0)


def _disclosure(study: Study) -> list[Finding]:
    kinds = every_kind(contrast=0.5)
    two = tuple(kinds.take(np.full(4, KINDS.index(kind))) for kind in ("small, left", "large, right"))
    backbone: AskedNetwork = study.pair(study.design.seeds[0])[0]
    return disclosure_findings(study.chain(study.design.main_cut), backbone, (two[0], two[1]), STRONG)


def _grid(study: Study) -> Pictures:
    """Every kind of request in a column, and who was asked in a row."""
    texts = every_kind(contrast=0.5).captions()
    early = hand_overs(study.design)[-1]
    rows = [
        (f"{guidance.words}, handed over at {cut:g}", _of_texts(study, texts, guidance, cut, 0))
        for cut, guidance in (
            (study.design.main_cut, BOTH),
            (study.design.main_cut, HEAD_ONLY),
            (early, HEAD_ONLY),
            (study.design.main_cut, NOBODY),
        )
    ]
    return Pictures(
        "Images by prompt",
        texts,
        (_real_row(study), *(_row(title, images) for title, images in dict(rows).items())),
        f"One network of the first seed, scale {STRONG:g}. In a column all rows start from the same noise.",
    )


def _real_row(study: Study) -> PictureRow:
    """A real phantom of each kind from the clinic, the first kind's in the place of one that it has none of."""
    own = study.client.everything
    kinds = Asked(own.attributes).kinds
    first = [
        int(np.flatnonzero(kinds == kind)[0]) if (kinds == kind).any() else 0 for kind in range(len(KINDS))
    ]
    return _row("real", own.images[first])


def _prompted(study: Study) -> list[Pictures]:
    """What the user asked for."""
    prompts = study.bench.setting.prompts
    if not prompts:
        return []
    who = (("server and head asked", BOTH), ("head only", HEAD_ONLY))
    rows = [
        _row(f"{prompt} ({words})", _of_texts(study, [prompt] * PROMPT_IMAGES, guidance, None, 0))
        for prompt in prompts
        for words, guidance in who
    ]
    numbers = tuple(str(number) for number in range(1, PROMPT_IMAGES + 1))
    return [
        Pictures(
            "Images of your prompts", numbers, tuple(rows), f"Scale {STRONG:g}, the first seed's networks."
        )
    ]


def _row(title: str, images: NDArray[np.float32]) -> PictureRow:
    return PictureRow(title, tuple(png_data_uri(image) for image in images))


def _method(study: Study) -> str:
    budget = asked_budget(Budget.backbone(study.design))
    phantoms, cuts = study.phantoms, " and ".join(f"{cut:g}" for cut in hand_overs(study.design))
    reader = (
        "a small encoder of texts that learns beside the network"
        if study.encoder is None
        else f"{study.encoder.name} for the texts, which learns nothing here, and a projection that learns beside the network"
    )
    features = "its features" if study.bench.setting.extractor is None else "those of the extractor given"
    return (
        f"Phantoms of {phantoms.shape[1]} pixels ({phantoms.name}) from {len(phantoms.clients)} clinics. For each seed a "
        f"backbone is trained on all releases at cut {study.design.main_cut:g}, and a head on the clean images of "
        f"{study.client.name}. Of every sample each is told its label, its attributes, its caption or nothing, by chance, with "
        f"{reader}; that takes {budget.updates} updates of {budget.batch_size} for the backbone, more than others need. In every "
        f"case {len(study.asked)} images are asked for, as that clinic's patients are, and all cases start from the same noise "
        f"and step by {SAMPLER.upper()}, with the same fresh noise. Guidance is Ho and Salimans' (2022): at scale 0 nothing "
        f"is asked, at 1 the network answers by itself. The server hands over at {cuts}, with the same two networks. What an "
        "image shows is said by a classifier trained on real phantoms; distances to all real images of the clinic are taken in "
        f"{features}."
    )


def _limits(study: Study) -> tuple[str, ...]:
    wire = (
        "The message that asks a server carries labels, and a head that is exported to a device takes labels. Attributes and "
        "texts are measured in one process here."
    )
    training = (
        "What the server learns in training is another matter: this backbone learned from labels, attributes and captions that "
        "came with the releases. One that is never asked needs none of them."
    )
    return (
        _words(study),
        "A text is one vector here: its words are not attended to one by one.",
        wire,
        training,
        "The judge errs: what is missing to 100 % is not all the network's fault, as its row of real images shows.",
        "The judge has a name for every picture, noise included: what is seen counts beside FID and precision only.",
    )


def _words(study: Study) -> str:
    """Which words were learned from, and what that means for a prompt."""
    known, prompts = vocabulary(), study.bench.setting.prompts
    drawn = f"Phantoms are drawn by a program, and their captions come from {len(known.words)} words"
    if study.encoder is None:
        return f"{drawn}. Free text needs an encoder that has read more (--text-encoder), and none was used here."
    strange = dict.fromkeys(word for prompt in prompts for word in known.unknown(prompt))
    beside = f" The prompts also say: {', '.join(strange)}." if strange else ""
    return (
        f"{drawn}: {', '.join(known.words)}. Networks learned no others; what others do rests on where the encoder puts them "
        f"beside these.{beside}"
    )
