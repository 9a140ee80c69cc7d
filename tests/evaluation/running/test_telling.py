import io

from rich.console import Console

from evaluation.reporting.narrator import Narrator
from evaluation.running.runner import MEASURING, TRAINING, Part
from evaluation.running.telling import Teller


def told(*parts: Part) -> str:
    page = io.StringIO()
    with Narrator(Console(file=page, width=200)) as narrator:
        teller = Teller(narrator)
        for part in parts:
            teller(part)
    return page.getvalue()


def test_trainings_are_one_line_that_ends_with_the_last() -> None:
    text = told(
        Part(TRAINING, "one", 10, 10),  # from an earlier run
        Part(TRAINING, "two", 0, 5),
        Part(TRAINING, "two", 2, 5, "loss 0.5"),
        Part(TRAINING, "two", 5, 5, "loss 0.4"),
    )
    assert text.count("training networks …") == 1
    assert "training networks: done, 2 networks" in text


def test_one_training_with_several_seeds_is_several_networks() -> None:
    seeds = [Part(TRAINING, "head", 0, 5, key=str(seed)) for seed in range(3)]
    ended = [Part(TRAINING, "head", 5, 5, "loss 0.4", key=str(seed)) for seed in range(3)]
    assert "done" not in told(*seeds, *ended[:2])
    text = told(*seeds, *ended)
    assert text.count("training networks: done, 3 networks") == text.count("done") == 1


def test_nothing_is_said_of_trainings_when_all_are_there() -> None:
    assert "training" not in told(Part(TRAINING, "one", 10, 10), Part(TRAINING, "two", 5, 5))


def test_each_experiment_has_its_line() -> None:
    text = told(Part(MEASURING, "The cut", 1, 3, "cut 0.2"), Part(MEASURING, "The cut", 1, 1, "done"))
    assert "The cut …" in text
    assert "The cut: done" in text
