"""The experiment on payloads: what rounding does, and that its sentences follow from its figures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edge_agent.release.batch import Dtype
from evaluation.experiments.payload.suite import (
    finding_on_bytes,
    finding_on_disclosure,
    finding_on_rounding,
    measure,
    trainings,
)
from evaluation.experiments.payload.wire import PayloadTraining, rounding_variance, wire_of
from evaluation.reporting.outcome import Weight, read_outcome, to_json
from evaluation.running.federation import Federation
from evaluation.running.trainings import BackboneTraining, Budget, name_of
from evaluation.running.workbench import Workbench
from tests.evaluation.tiny import TINY

BUDGET = Budget.backbone(TINY)


def test_the_outcome_can_be_kept_and_its_controls_hold(bench: Workbench, tmp_path: Path) -> None:
    outcome = measure(bench, lambda *_: None)
    path = tmp_path / "outcome.json"
    path.write_text(to_json(outcome), encoding="utf-8")

    assert read_outcome(path) == outcome
    weights = [finding.weight for finding in outcome.findings]
    assert weights.count(Weight.CONTROL) == 3
    assert Weight.FAILED_CONTROL not in weights


def test_float32_is_the_training_that_other_experiments_share(bench: Workbench) -> None:
    wanted = trainings(bench)
    assert all(BackboneTraining(0.4, BUDGET, seed) in wanted for seed in TINY.seeds)
    assert sum(isinstance(training, PayloadTraining) for training in wanted) == 2 * len(TINY.seeds)


def test_float32_gives_the_server_what_it_has_without_any_message(federation: Federation) -> None:
    x_c, labels = PayloadTraining(0.4, BUDGET, 0, "float32").samples(federation)
    whole = BackboneTraining(0.4, BUDGET, 0).samples(federation)
    assert np.array_equal(x_c, whole[0])
    assert np.array_equal(labels, whole[1])


def test_each_payload_is_a_training_of_its_own(federation: Federation) -> None:
    half, byte = PayloadTraining(0.4, BUDGET, 0, "float16"), PayloadTraining(0.4, BUDGET, 0, "int8")
    assert name_of(half, federation) != name_of(byte, federation)
    weights = [each.train(federation, lambda *_: None).network.first.weight for each in (half, byte)]
    assert not torch.equal(weights[0], weights[1])


@pytest.mark.parametrize(("dtype", "decibels"), [("float16", 74.0), ("int8", 39.0)])
def test_rounding_standard_normals_loses_what_the_contract_says(dtype: Dtype, decibels: float) -> None:
    """For many values in an image; small images have a smaller largest magnitude, and lose less as int8."""
    x = np.random.default_rng(0).standard_normal((4, 3, 128, 128)).astype(np.float32)
    assert -10 * np.log10(rounding_variance(x, dtype).mean()) == pytest.approx(decibels, abs=1.0)


def test_what_arrives_errs_by_the_closed_form(federation: Federation) -> None:
    half, byte, whole = (wire_of(federation, 0.4, dtype, seed=0) for dtype in ("float16", "int8", "float32"))
    assert half.ratio == pytest.approx(1, abs=0.04)
    assert byte.ratio == pytest.approx(1, abs=0.04)
    assert whole.ratio is None
    assert half.decibels is not None
    assert byte.decibels is not None
    assert 72 < half.decibels.mean < 76
    assert (
        41 < byte.decibels.mean < 50
    )  # 64 values: their largest is some 2.4, not the 4 of an image of thousands


def test_the_control_on_rounding_can_fail(federation: Federation) -> None:
    wire = wire_of(federation, 0.4, "int8", seed=0)
    assert finding_on_rounding("int8", wire).weight is Weight.CONTROL
    assert finding_on_rounding("int8", replace(wire, ratio=1.2)).weight is Weight.FAILED_CONTROL
    assert finding_on_rounding("float32", wire).weight is Weight.FAILED_CONTROL
    lossless = replace(wire, ratio=None, decibels=None)
    assert finding_on_rounding("float32", lossless).weight is Weight.CONTROL
    assert finding_on_rounding("int8", lossless).weight is Weight.FAILED_CONTROL


def test_bytes_are_said_for_an_image_and_against_float32(federation: Federation) -> None:
    payloads: tuple[Dtype, ...] = ("float32", "int8")
    wires = {dtype: wire_of(federation, 0.4, dtype, seed=0) for dtype in payloads}
    text = finding_on_bytes(wires).text
    assert "float32" in text
    assert "(100 %)" in text
    share = 100 * wires["int8"].sent_bytes / wires["float32"].sent_bytes
    assert 25 < share < 50
    assert f"({share:.0f} %)" in text


@pytest.mark.parametrize(
    ("factor", "noise", "weight", "words"),
    [
        (1.0, 1e-4, Weight.CLAIM, "as it is"),
        (1.03, 1e-4, Weight.CLAIM, "changes the error"),
        (1.0, 0.05, Weight.UNDECIDED, "may be nothing"),
    ],
)
def test_what_is_said_of_disclosure_follows_from_the_interval_of_the_change(
    factor: float, noise: float, weight: Weight, words: str
) -> None:
    rng = np.random.default_rng(0)
    whole = rng.uniform(0.1, 0.2, 400)
    errors: dict[Dtype, NDArray[np.float64]] = {
        "float32": whole,
        "int8": factor * whole + noise * rng.standard_normal(400),
    }
    finding = finding_on_disclosure("int8", errors)
    assert finding.weight is weight
    assert words in finding.text
