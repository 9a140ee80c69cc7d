"""`collafuse evaluate`: the experiments, on data that is at hand or on one's own."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

_ALL = "all"


@app.command()
def evaluate(
    suites: Annotated[
        list[str],
        typer.Argument(
            metavar="SUITE…",
            help="sweep, baselines, knobs, releases, attacks, payload, conditioning, refinement, or all.",
        ),
    ],
    quick: Annotated[
        bool, typer.Option("--quick", help="Small networks, three seeds: all in twenty minutes on two cores.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON at the end.")] = False,
    out: Annotated[
        Path,
        typer.Option("--out", help="Where networks, results and the report go; the same command goes on."),
    ] = Path("evaluation_out"),
    data: Annotated[
        str,
        typer.Option(
            help="digits, patches, phantoms32, phantoms64, or folder:DIR, cifar10:DIR, celeba:DIR, awa2:DIR, nifti:DIR, npz:FILE."
        ),
    ] = "digits",
    partition: Annotated[
        str | None,
        typer.Option(
            help="Who holds what: owner, labels, attribute:NAME, dirichlet:ALPHA, size:SHARE,SHARE,…; else the data's own."
        ),
    ] = None,
    clients: Annotated[
        int | None, typer.Option(min=1, help="How many share the data; the data's own number, or 3.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=8, help="Resize to so many pixels; a multiple of 8 is best.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=16, help="Read at most so many images.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=3, help="How many trainings of everything; three or more.")
    ] = None,
    updates: Annotated[
        int | None, typer.Option(min=1, help="Optimiser updates of a backbone; heads get their share of it.")
    ] = None,
    extractor: Annotated[
        Path | None,
        typer.Option(
            help="Whose features images are compared in: a TorchScript or ONNX file (Inception); else a classifier trained here."
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help='With conditioning: also make images of this, "a small lesion on the left"; may be repeated.'
        ),
    ] = None,
    text_encoder: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="With conditioning: the T5 saved in this directory reads captions and prompts, which may then be in any words.",
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes side by side; one for each core when left out.")
    ] = None,
) -> None:
    """Measure what collaboration gains, what it gives away and what it costs; ends with one HTML report.

    Trains on two cores for twenty minutes with --quick, for days without. What was finished is kept in --out: the same command
    goes on where it was stopped.
    """
    import os
    import signal
    import sys

    from rich.console import Console

    from evaluation.conditioning.t5_directory import T5Directory
    from evaluation.reporting.evaluation_report import to_json, write
    from evaluation.reporting.narrator import Narrator
    from evaluation.running.design import Design
    from evaluation.running.federation import FederationPlan
    from evaluation.running.run_facts import facts_of, in_words
    from evaluation.running.runner import evaluate as run
    from evaluation.running.runner import interrupt_once
    from evaluation.running.suites import SUITES, check_asked, suite
    from evaluation.running.telling import Teller
    from evaluation.running.workbench import Setting

    # Also where the shell started it in the background, and ignores the keyboard for it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, interrupt_once)
    names = list(SUITES) if _ALL in suites else list(dict.fromkeys(suites))
    for name in (*(name for name in suites if name != _ALL), *names):
        suite(name)
    asked = {"--prompt": prompt, "--text-encoder": text_encoder}
    check_asked(names, [option for option, value in asked.items() if value])
    design = (Design.quick() if quick else Design()).changed(seeds=seeds, updates=updates)
    plan = FederationPlan(data, partition, clients, image_size, limit)
    encoder = None if text_encoder is None else T5Directory.at(text_encoder)
    setting = Setting(design, plan, out, extractor, tuple(prompt or ()), encoder)
    with Narrator(Console(stderr=True)) as narrator:
        evaluation = run(setting, names, workers=jobs or os.cpu_count() or 1, on_part=Teller(narrator))
    facts = facts_of(evaluation, command=" ".join(["collafuse", *sys.argv[1:]]))
    report, summary = write(out, evaluation.outcomes, facts)
    print(to_json(evaluation.outcomes, facts) if as_json else in_words(evaluation.outcomes), end="")
    Console(stderr=True).print(f"report  {report}\nsummary {summary}", highlight=False, soft_wrap=True)
