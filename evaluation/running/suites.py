"""The experiments by name. Each is a module with TITLE, `trainings(bench)` and `measure(bench, progress)`."""

import importlib
from collections.abc import Sequence
from typing import Protocol, cast

from evaluation.errors import RunError
from evaluation.reporting.outcome import Outcome
from evaluation.running.trainings import Training
from evaluation.running.workbench import Progress, Workbench

SUITES = {
    "sweep": "evaluation.experiments.sweep.suite",
    "baselines": "evaluation.experiments.baselines.suite",
    "knobs": "evaluation.experiments.knobs.suite",
    "releases": "evaluation.experiments.releases.suite",
    "attacks": "evaluation.experiments.attacks.suite",
    "payload": "evaluation.experiments.payload.suite",
    "conditioning": "evaluation.experiments.conditioning.suite",
    "refinement": "evaluation.experiments.refinement.suite",
}
"""Name on the command line → module, in the order of the report."""


ASKED_IN_WORDS = frozenset({"conditioning"})
"""Those that read prompts, and in which an encoder of texts has something to read."""


class Suite(Protocol):
    """What a module of an experiment has."""

    TITLE: str

    def trainings(self, bench: Workbench) -> Sequence[Training]:
        """Every network it will ask for, so that they can be trained beforehand, side by side."""

    def measure(self, bench: Workbench, progress: Progress) -> Outcome:
        """Measures, with the networks at hand."""


def suite(name: str) -> Suite:
    """The experiment of this name."""
    if name not in SUITES:
        raise RunError(f"no experiment is called {name!r}: choose one of {', '.join(SUITES)}, or all")
    return cast("Suite", importlib.import_module(SUITES[name]))


def check_asked(names: Sequence[str], given: Sequence[str]) -> None:
    """Raise RunError when options about texts are given to experiments that read none.

    names: of the experiments;  given: the options, as they are written.
    """
    if given and not ASKED_IN_WORDS & set(names):
        raise RunError(
            f"{' and '.join(given)}: {', '.join(names)} will read no text; add {' or '.join(ASKED_IN_WORDS)}, or leave it out"
        )
