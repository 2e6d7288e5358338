"""The command that trains a network for its quantised arithmetic and its controller: finetune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fxp.cli import controllers, output
from fxp.cli.models import Json, Lines
from fxp.cli.sources import Sources
from traces import InputError


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("finetune")(finetune)


def finetune(
    model: Annotated[Path, typer.Argument(help="Model file; a calibrated one brings its controller.")],
    data: Annotated[
        Path, typer.Argument(help="Data file to train on; without labels, what the float network answers is learnt.")
    ],
    destination: Annotated[Path, typer.Option("--output", "-o", help="Model file to write.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps of the optimiser.")] = 200,
    static: Annotated[int | None, typer.Option(help="Train for one precision throughout: its bits.")] = None,
    controller: Annotated[str | None, typer.Option("--controller", "-C", help=controllers.HELP)] = None,
    judge: Annotated[
        Path | None, typer.Option(help="Data file to judge on; default: every fifth sequence of the data, held out.")
    ] = None,
    alone: Annotated[bool, typer.Option(help="Leave out the static high network that is tuned as long.")] = False,
    part: Annotated[
        str, typer.Option(help="all, or low: offset bits and low biases alone; static high keeps every bit.")
    ] = "all",
    learning_rate: Annotated[float, typer.Option(help="Of Adam, at its highest, for weights and biases.")] = 1e-3,
    bit_rate: Annotated[float, typer.Option(help="The same for offset bits, in low steps.")] = 0.03,
    teacher: Annotated[
        float, typer.Option(help="Weight, 0 to 1, of what the float network expects, beside the labels.")
    ] = 0.0,
    batch: Annotated[int, typer.Option(min=1, help="Sequences of a step.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of sequences.")] = 0,
    progress: Lines = False,
    json: Json = False,
) -> None:
    """Train a model for its quantised arithmetic, every forward pass being the emulation under the controller.

    The result is compared with the static high network tuned as long, since tuning alone may improve a network.
    Example: fxp finetune lm-60.h5 train.h5 -o tuned.h5 --steps 200
    """
    sources = Sources(*(path for path in (model, data, judge) if path is not None))
    from fxp import calibration, datafile, finetuning, network, observation

    output.keep(destination, model, data)
    if static is not None and controller is not None:
        raise InputError("give --static or --controller, not both")
    sources.wait()
    net = network.load(model)
    text = f"static:bits={static}" if static is not None else controller
    chosen = None if text is None else controllers.parse(text, net.formats.high, net.formats.low, net)
    with datafile.read(data) as source, output.naming(data):
        training = calibration.as_data(net, source)
        observation.labels_of(net, training)
    if judge is None:
        training, judged = finetuning.held_out(training)
    else:
        with datafile.read(judge) as source, output.naming(judge):
            judged = calibration.as_data(net, source)
        if training.scope is not None and judged.scope is None:
            raise InputError(f"{judge}: has no labels, and {data} has some")
    with output.progress("tuning", steps * (1 if alone else 2), json, progress) as advance:
        made, rows = finetuning.tune_and_judge(
            net, training, judged, chosen, alone=alone, part=part, steps=steps, learning_rate=learning_rate,
            bit_rate=bit_rate, seed=seed, batch=batch, teacher=teacher, progress=advance,
        )  # fmt: skip
    network.save(made, destination)
    if json:
        output.emit_json({"file": str(destination), "rows": rows})
        return
    against = "static high before tuning" if alone else "static high tuned as long"
    output.table(
        f"{model.name} tuned on {data.name}: {rows[0]['metric'].replace('_', ' ')}",
        ["network, controller", "metric", f"difference from {against}", "95 % interval", "low share"],
        [
            [
                f"{row['network']}, {row['controller']}",
                output.number(row["value"]),
                output.number(row["difference"], sign=True),
                output.interval(row["interval"]),
                output.percent(row["low_share"]),
            ]
            for row in rows
        ],
        f"judged on {len(judged)} sequences, {judged.total:,} steps, none of them trained on",
    )
    output.console().print(f"model: {destination}", markup=False)

