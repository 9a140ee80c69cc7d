"""What a person sees of an evaluation: one line for all trainings together, one for each experiment that measures."""

from evaluation.reporting.narrator import Narrator
from evaluation.reporting.narrator import Part as Line
from evaluation.running.runner import TRAINING, Part


class Teller:
    """Puts the parts of the work together for a narrator. Called from one thread."""

    def __init__(self, narrator: Narrator) -> None:
        self._narrator = narrator
        self._trainings: dict[tuple[str, str], tuple[int, int]] = {}
        self._training: Line | None = None
        self._measuring: dict[str, Line] = {}

    def __call__(self, part: Part) -> None:
        """Take one report."""
        if part.kind == TRAINING:
            self._train(part)
        else:
            self._measure(part)

    def _train(self, part: Part) -> None:
        self._trainings[part.name, part.key] = (part.done, part.of)
        if not part.note:  # the first round, which says what there is; what was trained before is in it
            return
        done, of = (sum(pair[i] for pair in self._trainings.values()) for i in (0, 1))
        ready = sum(pair[0] >= pair[1] for pair in self._trainings.values())
        if self._training is None:
            self._training = self._narrator.part("training networks", of)
        self._training.update(
            done, f"updates, {ready} of {len(self._trainings)} networks; {part.name}: {part.note}"
        )
        if ready == len(self._trainings):
            self._training.end(f"{ready} networks")

    def _measure(self, part: Part) -> None:
        line = self._measuring.get(part.name)
        if line is None:
            line = self._measuring[part.name] = self._narrator.part(part.name, part.of)
        if part.done >= part.of:
            line.end()
        else:
            line.update(part.done, part.note)
