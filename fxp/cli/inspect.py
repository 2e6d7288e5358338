"""Commands that look into files: report, plot, diff, dump."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fxp.cli import output
from fxp.cli.models import Json
from traces import InputError

TracePath = Annotated[Path, typer.Argument(help="Trace file.")]
ModelPath = Annotated[Path | None, typer.Option("--model", help="The model that the trace came from.")]
DataPath = Annotated[Path | None, typer.Option("--data", help="The data that the trace came from.")]
Compare = Annotated[Path | None, typer.Option("--compare", help="What fxp compare --json printed.")]
EstimatePath = Annotated[Path | None, typer.Option("--estimate", help="Estimate file of the trace.")]
MachineName = Annotated[
    str | None, typer.Option("--machine", "-m", help="Preset or machine file to estimate with, instead of --estimate.")
]
Baseline = Annotated[str, typer.Option("--baseline", "-b", help="Machine to compare with, or none.")]

def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("report")(report)
    app.command("plot")(plot)


def _pairs(text: str | None) -> list[tuple[int, int]] | None:
    """Layers and elements of `0:3,0:17`."""
    if text is None:
        return None
    try:
        parts = [part.split(":") for part in text.split(",")]
        return [(int(layer), int(element)) for layer, element in parts]
    except ValueError:
        raise InputError(f"--elements {text}: expected layer:element pairs, such as 0:3,0:17") from None


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--sequences {text}: expected positions, such as 0,5") from None


def report(
    trace: TracePath,
    destination: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")],
    model: ModelPath = None,
    data: DataPath = None,
    compare: Compare = None,
    estimate: EstimatePath = None,
    machine: MachineName = None,
    baseline: Baseline = "epur-sip",
    elements: Annotated[
        str | None, typer.Option(help="Elements whose cell state is drawn: layer:element pairs, such as 0:3,0:17.")
    ] = None,
    sequences: Annotated[
        str | None, typer.Option(help="Positions of the sequences that are drawn, such as 0,5.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Sequences that run side by side.")] = 1,
    json: Json = False,
) -> None:
    """One HTML page about a run: quality, precision over time, errors, energy, cycles. It needs no network.

    Example: fxp report run.h5 -o report.html --model lm.h5 --data held-out.h5 --machine epur-dyn
    """
    output.keep(destination, *filter(None, (trace, model, data, compare, estimate)))
    if not destination.absolute().parent.is_dir():
        raise InputError(f"{destination}: there is no such folder to write to")
    from fxp import report

    with output.stages(json) as tell:
        material = report.gather(
            trace, model, data, compare, estimate, machine, None if baseline == "none" else baseline,
            _pairs(elements), _numbers(sequences), threads, tell,
        )  # fmt: skip
        tell("drawing")
        report.write(material, destination)
    if json:
        output.emit_json({"report": str(destination), "bytes": destination.stat().st_size})
    else:
        output.console().print(f"report: {destination}", markup=False)


def plot(
    kind: Annotated[
        str,
        typer.Argument(
            help="cell, precision, share-by-layer, share-by-element, share-by-position, dwell, error, energy, cycles, "
            "loss."
        ),
    ],
    trace: TracePath,
    destination: Annotated[Path, typer.Option("--output", "-o", help="Picture to write: .pdf, .png or .svg.")],
    model: ModelPath = None,
    data: DataPath = None,
    compare: Compare = None,
    estimate: EstimatePath = None,
    machine: MachineName = None,
    baseline: Baseline = "epur-sip",
    layer: Annotated[int, typer.Option(min=0, help="Layer.")] = 0,
    direction: Annotated[int, typer.Option(min=0, max=1, help="0 forward, 1 backward.")] = 0,
    sequence: Annotated[int, typer.Option(min=0, help="Position of the sequence.")] = 0,
    element: Annotated[int | None, typer.Option(min=0, help="Element; a middling one by default.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Sequences that run side by side.")] = 1,
    json: Json = False,
) -> None:
    """Draw one figure of the report.

    Example: fxp plot dwell run.h5 -o dwell.pdf
    """
    output.keep(destination, *filter(None, (trace, model, data, compare, estimate)))
    from fxp import figures, report

    with output.stages(json) as tell:
        material = report.gather(
            trace, model, data, compare, estimate, machine, None if baseline == "none" else baseline,
            None if element is None else [(layer, element)], [sequence], threads, tell, report.parts_of(kind),
        )  # fmt: skip
        figures.save(report.draw(kind, material, layer, direction, sequence, element), destination)
    if json:
        output.emit_json({"figure": str(destination)})
    else:
        output.console().print(f"figure: {destination}", markup=False)
