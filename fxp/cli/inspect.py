"""Commands that look into files: report, plot, diff, dump."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fxp.cli import output
from fxp.cli.models import Json, Threads
from fxp.cli.sources import Sources
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
DIFFERENT = 3  # exit code of `diff`; 1 is kept for faults of the program


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("report")(report)
    app.command("plot")(plot)
    app.command("diff")(diff)
    app.command("dump")(dump)


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


def _inputs(
    destination: Path, trace: Path, model: Path | None, data: Path | None, compare: Path | None, estimate: Path | None
) -> Sources:
    """The files of a report being checked, none of which is the one to write."""
    output.keep(destination, *filter(None, (trace, model, data, compare, estimate)))
    return Sources(*filter(None, (trace, model, data, estimate)))


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
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """One HTML page about a run: quality, precision over time, errors, energy, cycles. It needs no network.

    Example: fxp report run.h5 -o report.html --model lm.h5 --data held-out.h5 --machine epur-dyn
    """
    if not destination.absolute().parent.is_dir():
        raise InputError(f"{destination}: there is no such folder to write to")
    sources = _inputs(destination, trace, model, data, compare, estimate)
    from fxp import report

    sources.wait()
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
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Draw one figure of the report.

    Example: fxp plot dwell run.h5 -o dwell.pdf
    """
    sources = _inputs(destination, trace, model, data, compare, estimate)
    from fxp import figures, report

    sources.wait()
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


def diff(
    first: Annotated[Path, typer.Argument(help="Trace, model, data or estimate file.")],
    second: Annotated[Path, typer.Argument(help="File of the same kind.")],
    model: Annotated[
        Path | None, typer.Option("--model", help="Model of the traces: gives accumulators and h as real numbers.")
    ] = None,
    json: Json = False,
) -> None:
    """Name the first place in which two files differ, cause before effect.

    Of traces: sequence, step, layer, quantity (plan, accumulators, cell, hidden), element; in a bidirectional network
    sequence, layer, direction, step as processed. Exit code 0: the same; 3: they differ. Provenance (controller, seed,
    versions, names) and quantities that only one file recorded are named, but do not count. Example: fxp diff a.h5 b.h5
    --model lm.h5
    """
    sources = Sources(*filter(None, (first, second, model)))
    import traces
    from fxp import differences

    sources.wait()
    found = differences.find(first, second, None if model is None else traces.Model.read(model))
    if json:
        output.emit_json(_difference_record(found, first, second))
    else:
        _show_difference(found, first, second)
    if not found.same:
        raise typer.Exit(DIFFERENT)


def _difference_record(found: Any, first: Path, second: Path) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "same": found.same, "kind": found.kind, "files": [str(first), str(second)], "compared": found.compared,
        "headers": [{"name": name, "values": list(pair)} for name, *pair in found.headers],
        "notes": [{"name": name, "values": list(pair)} for name, *pair in found.notes],
        "first": None if found.first is None else {
            "quantity": found.first.quantity, **found.first.place, "values": [asdict(v) for v in found.first.values],
        },
    }  # fmt: skip


def _show_difference(found: Any, first: Path, second: Path) -> None:
    screen = output.console()
    screen.print(f"{first} and {second}: {'the same' if found.same else 'different'} ({found.kind})", markup=False)
    for title, entries in (("header", found.headers), ("not counted", found.notes)):
        for name, *pair in entries:
            screen.print(f"{title}: {name}: {pair[0]} | {pair[1]}", markup=False)
    if found.first is not None:
        place = ", ".join(f"{name} {value}" for name, value in found.first.place.items())
        screen.print(f"first difference: {found.first.quantity}{' at ' if place else ''}{place}", markup=False)
        for path, value in zip((first, second), found.first.values, strict=True):
            screen.print(f"  {path}: {value}", markup=False)
    screen.print(f"compared: {', '.join(found.compared) or 'no content, as the shapes differ'}", markup=False)


def dump(
    source: Annotated[Path, typer.Argument(help="Trace or model file.")],
    destination: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    quantity: Annotated[
        str,
        typer.Option(
            "--quantity", "-q",
            help="Of a trace: plan, accumulators, cell, hidden. Of a model: see above.",
        ),
    ] = "plan",
    layer: Annotated[int, typer.Option(min=0, help="Layer.")] = 0,
    direction: Annotated[int, typer.Option(min=0, max=1, help="0 forward, 1 backward.")] = 0,
    sequence: Annotated[int, typer.Option(min=0, help="Position of the sequence.")] = 0,
    steps: Annotated[str | None, typer.Option(help="Positions A:B, B exclusive; all by default.")] = None,
    kind: Annotated[str, typer.Option("--format", "-f", help="hex ($readmemh), csv or npy.")] = "hex",
    data: Annotated[Path | None, typer.Option("--data", help="Data whose input indices a model makes.")] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Write a part of a trace or a model for a test bench: hexadecimal words, CSV or NPY, with the widths stated.

    Of a model: wx, wx-upper, wx-lower, wx-offset, wx-low (and wh-...), scales, biases, constants of the multifunction
    unit, the table of low activations, tanh of the fixed profile, and (with --data) input. Example: fxp dump run.h5 -q
    accumulators --steps 0:8 -o acc.hex
    """
    output.keep(destination, *filter(None, (source, data)))
    sources = Sources(*filter(None, (source, data)))
    import traces
    from fxp import datafile, network
    from fxp import dump as dumping

    sources.wait()
    opened = traces.open(source)
    if isinstance(opened, traces.Trace):
        with opened, output.naming(source):
            part = dumping.trace_part(opened, quantity, layer, direction, sequence, steps)
            dumping.write(part, destination, kind)
    elif isinstance(opened, traces.Model):
        net = network.Network(opened)
        if quantity == "input":
            if data is None:
                raise InputError("--quantity input needs --data, whose indices it writes")
            with datafile.read(data) as values:
                part = dumping.input_part(net, values, sequence, steps)
                dumping.write(part, destination, kind)
        else:
            parts = dumping.model_parts(net, layer, direction)
            if quantity not in parts:
                raise InputError(f"quantity {quantity!r} is unknown; this model has {', '.join(parts)}, input")
            part = parts[quantity]()
            dumping.write(part, destination, kind)
    else:
        raise InputError(f"{source}: is neither a trace nor a model")
    result = {
        "file": str(destination), "format": kind, "quantity": quantity, "about": part.about, "width": part.width,
        "dtype": part.dtype, "rows": part.rows, "columns": part.columns,
    }  # fmt: skip
    if json:
        output.emit_json(result)
    else:
        words = f"{part.rows} x {part.columns}, {part.width} bits; {part.about}"
        output.console().print(f"{destination}: {words}", markup=False)
