"""`collafuse edge train`: the client's head, on clean images, on this machine alone."""

from pathlib import Path
from typing import Annotated

import typer

from edge_agent.command import Config, CutRatio, Json, Schedule, ScheduleSteps, bar, print_json
from edge_agent.settings import EdgeSettings


def train(
    data: Annotated[Path, typer.Argument(help="Folder of pictures, or .npz with images (and labels).")],
    *,
    out: Annotated[Path, typer.Option("--out", help="Where the head's checkpoint goes.")],
    config: Config = None,
    client: Annotated[
        str | None, typer.Option("--client", help="Whose head it is; from --config if left out.")
    ] = None,
    schedule: Schedule = None,
    schedule_steps: ScheduleSteps = None,
    cut_ratio: CutRatio = None,
    steps: Annotated[int, typer.Option("--steps", help="Optimiser steps.")] = 400,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Images per step.")] = 64,
    base_channels: Annotated[int, typer.Option("--base-channels", help="Width of the network.")] = 24,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Peak of the optimiser's.")] = 4e-3,
    num_classes: Annotated[int | None, typer.Option("--num-classes", help="Labels; left out: none.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of weights, order and noise.")] = 0,
    threads: Annotated[int, typer.Option("--threads", help="CPU threads.")] = 1,
    as_json: Json = False,
) -> None:
    """Train the client's head on clean images, on this machine alone; needs the extra `train`."""
    from broker.errors import ConfigError
    from edge_agent.training.head_training import HeadTraining, TrainingProgress, train_head

    settings = EdgeSettings.load(
        config, client=client, schedule=schedule, schedule_steps=schedule_steps, cut_ratio=cut_ratio
    )
    if settings.client is None:
        raise ConfigError(
            "it is not said whose head this is: give --client, or --config with the credentials file"
        )
    training = HeadTraining(
        client=settings.client,
        schedule=settings.schedule,
        timesteps=settings.schedule_steps,
        cut=settings.cut_ratio,
        steps=steps,
        batch_size=batch_size,
        base_channels=base_channels,
        learning_rate=learning_rate,
        num_classes=num_classes,
        seed=seed,
        threads=threads,
    )
    last: list[TrainingProgress] = []
    with bar("training", steps, quiet=as_json) as update:

        def on_progress(progress: TrainingProgress) -> None:
            last[:] = [progress]
            update(progress.step)

        train_head(data, out, training, on_progress)
    loss = last[0].loss if last else None
    if as_json:
        print_json({"checkpoint": str(out), "steps": steps, "loss": loss})
        return
    print(f"{out}: {steps} steps, loss {'unknown' if loss is None else format(loss, '.4f')}")
