"""The command that fits low precision and controller to data: calibrate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fxp.cli import output
from fxp.cli.models import Json, Lines, Threads
from fxp.cli.sources import Sources
from traces import InputError


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("calibrate")(calibrate)


def calibrate(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    data: Annotated[
        Path, typer.Argument(help="Real inputs other than those to be judged on (data file, .npy or .npz).")
    ],
    destination: Annotated[Path, typer.Option("--output", "-o", help="Model file to write.")],
    low_share: Annotated[
        str | None, typer.Option(help="Share of element-steps to run low, such as 0.6 or 60% (the default).")
    ] = None,
    max_loss: Annotated[
        str | None,
        typer.Option(help="Instead: tolerated loss relative to static high precision, such as 0.001 or 0.1%."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random projection used without labels.")] = 0,
    scales: Annotated[
        str,
        typer.Option(
            help="Scales of inputs and ranges of h: auto (chosen anew where 8 bits are lossy), keep, or fit; choosing "
            "them anew changes the bits of the high precision."
        ),
    ] = "auto",
    columns: Annotated[
        str,
        typer.Option(
            help="Activations that every element's own readout reads, or auto (an eighth of them or up to a quarter, "
            "in groups of 128); 0: one readout neuron a layer. More spend low precision better, and cost more of what "
            "it saves."
        ),
    ] = "0",
    threads: Threads = 1,
    progress: Lines = False,
    json: Json = False,
) -> None:
    """Fit the low precision to data, choose a controller, and write a model that carries both.

    The high precision keeps its bits unless its scales are chosen anew; what is printed says so.
    Example: fxp calibrate lm.h5 train.h5 -o lm-60.h5 --low-share 0.6
    """
    sources = Sources(model, data)
    from fxp import calibration, datafile, network, observation

    output.keep(destination, model, data)
    share = None if low_share is None else output.share("--low-share", low_share)
    loss = None if max_loss is None else output.share("--max-loss", max_loss)
    if columns != "auto" and not columns.isdecimal():
        raise InputError(f"--columns is {columns!r}: give a number of at least 0, or auto")
    read = None if columns == "auto" else int(columns)
    sources.wait()
    net = network.load(model)
    with datafile.read(data) as source, output.naming(data):
        loaded = calibration.as_data(net, source)
        observation.labels_of(net, loaded)
    with output.progress("calibrating", 1000, json, progress) as advance:
        made, controller = calibration.calibrate(
            net, loaded, share, loss, seed, scales=scales, columns=read, threads=threads,
            progress=None if advance is None else _thousandths(advance),
        )  # fmt: skip
    network.save(made, destination)
    record = {key: value for key, value in made.model.calibration.items() if key != "controller"}
    if json:
        output.emit_json({"file": str(destination), "threshold": controller.threshold, **record})
        return
    rows = [
        [
            f"layer {number}",
            f"{layer['changed']:,} of {layer['bits']:,}",
            output.number(layer["error_before"]),
            output.number(layer["error_after"]),
        ]
        for number, layer in enumerate(record["layers"])
    ]
    used = record["data"]
    caption = f"{used['sequences']} sequences, {used['steps']:,} of {used['of']:,} steps; loss: {record['loss']}"
    if "held_out" in record:
        held = record["held_out"]
        lost = round(100 * held["loss"], 3) + 0.0  # no minus before a zero
        caption += (
            f"\njudged on {held['sequences']} held-out sequences of this data: at "
            f"{output.percent(held['low_share'])} low they lose {lost:.3f} %, upper end of the one-sided "
            f"95 % interval {100 * held['loss_upper']:.3f} %. Other data may lose more: judge with fxp compare"
        )
    output.table(
        f"{model.name} calibrated on {data.name}",
        ["", "offset bits changed", "error of z before", "after"],
        rows,
        caption,
    )
    treatment = record["scales"]
    output.warn(treatment["warnings"])
    output.console().print(_about(treatment, made.formats.high), markup=False)
    output.console().print(f"model: {destination} (run it with --controller calibrated)", markup=False)


def _about(treatment: dict[str, Any], high: int) -> str:
    """What became of the high precision."""
    off = f"h of the last layer is off by {treatment['output_error']:.1%} of its spread against float"
    if not treatment["changed"]:
        return f"the {high}-bit path keeps its bits; {off}"
    equalised = "" if treatment["inputs"] is None else "inputs equalised, "
    ranges = ", ".join(output.number(value, 3) for value in treatment["h"])
    return (
        f"the {high}-bit path changed its bits: {equalised}range of h {ranges}; {off} "
        f"({treatment['output_error_before']:.1%} before)"
    )


def _thousandths(advance: Any) -> Any:
    return lambda part: advance(1000 * part)
