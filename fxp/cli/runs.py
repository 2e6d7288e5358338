"""Commands that emulate: run, compare, demo."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from fxp.cli import controllers, output
from fxp.cli.models import Json, Lines, Threads
from fxp.cli.sources import Sources
from traces import InputError

Model = Annotated[Path, typer.Argument(help="Model file.")]
DataPath = Annotated[Path, typer.Argument(help="Data file (HDF5, .npy or .npz).")]
Engine = Annotated[str, typer.Option(help="fast, portable, reference, or kernels: amx, vnni, avx2. The same bits.")]
Metric = Annotated[
    str | None,
    typer.Option(help="Built-in metric, or your own (its code is run): file.py:Name, module:Name, entry point."),
]
Head = Annotated[
    str | None, typer.Option(help="Your own head in place of the model's: named as a metric is; its code is run.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("run")(run)
    app.command("compare")(compare)
    app.command("demo")(demo)


def run(
    model: Model,
    data: DataPath,
    controller: Annotated[str, typer.Option("--controller", "-C", help=controllers.HELP)] = "peak",
    trace: Annotated[Path | None, typer.Option("--trace", "-t", help="Trace file to write.")] = None,
    record: Annotated[
        list[str] | None, typer.Option(help="Also into the trace: cell, hidden, accumulators (repeatable).")
    ] = None,
    metric: Metric = None,
    head: Head = None,
    engine: Engine = "fast",
    threads: Threads = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep finished sequences in TRACE.partial, and go on from those in it.")
    ] = False,
    progress: Lines = False,
    json: Json = False,
) -> None:
    """Emulate a model on data, bit for bit, and write the trace.

    Example: fxp run lm.h5 held-out.h5 --controller peak --trace run.h5
    """
    sources = Sources(model, data)
    from accel.controllers import identity
    from fxp import datafile, engines, evaluation, network
    from fxp.run import QUANTITIES

    record = record or []
    for quantity in record:
        if quantity not in (*QUANTITIES, "plan"):
            raise InputError(f"--record {quantity}: possible are {', '.join(QUANTITIES)}")
    if (record or resume) and trace is None:
        raise InputError(f"--{'record' if record else 'resume'} needs --trace, the file to write to")
    engines.check(engine)
    output.keep(trace, model, data)
    sources.wait()
    net = network.load(model)
    chosen = controllers.parse(controller, net.formats.high, net.formats.low, net)
    with datafile.read(data) as source:
        scorer = evaluation.Scorer(net, source, str(data), **plugged(metric, head))
        judged = scorer.labelled or metric is not None
        digest = source.digest() if trace else ""
        key = {"command": "run", "controller": identity(chosen), "record": sorted({*record} - {"plan"})}
        with (
            resuming(resume and Path(f"{trace}.partial"), scorer, digest, metric, head, key) as journal,
            output.progress("emulating", steps_left(journal, scorer, 1), json, progress) as advance,
        ):
            scored = evaluation.emulate_scored(
                scorer, chosen, engine=engine, threads=threads, record=record, trace=trace, keep=False,
                data_digest=digest, progress=advance, score=judged, journal=journal,
            )  # fmt: skip
    done = scored.run
    result: dict[str, Any] = {
        "controller": done.controller,
        "sequences": len(done.lengths),
        "steps": int(done.offsets[-1]),
        "low_share": done.low_share,
        "metric": {"name": scorer.name, "value": scorer.value(scored.totals)} if judged else None,
        "overflows": done.overflows,
        "layers": [
            {"low_share": layer.low_share, "overflows": int(layer.overflow_count.sum())} for layer in done.layers
        ],
        "trace": None if trace is None else str(trace),
    }
    if json:
        output.emit_json(result)
        return
    rows = [
        [f"layer {n}", output.percent(layer["low_share"]), str(layer["overflows"])]
        for n, layer in enumerate(result["layers"])
    ]
    rows.append(["network", output.percent(done.low_share), str(done.overflows)])
    caption = f"{result['sequences']} sequences, {result['steps']:,} steps"
    if judged:
        caption += f"; {scorer.name.replace('_', ' ')} {scorer.value(scored.totals):.4f}"
    output.table(f"{controller} on {model.name}", ["", "low share", "overflows"], rows, caption)
    if trace is not None:
        output.console().print(f"trace: {trace}", markup=False)


def compare(
    model: Model,
    data: DataPath,
    controller: Annotated[
        list[str] | None,
        typer.Option(
            "--controller",
            "-C",
            help="Controllers instead of the default set (repeatable). " + controllers.HELP,
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every controller at equal low shares; the default for a calibrated model.")
    ] = False,
    shares: Annotated[
        str | None,
        typer.Option(help="Low shares to compare at, such as 40%,57%,76%,90%; default: the controller's own."),
    ] = None,
    oracle: Annotated[
        bool, typer.Option(help="With every controller: also the oracle, which knows the future. It takes gradients.")
    ] = True,
    plot: Annotated[
        Path | None, typer.Option(help="Picture of loss against low share to write (.png, .svg or .pdf).")
    ] = None,
    metric: Metric = None,
    head: Head = None,
    engine: Engine = "fast",
    threads: Threads = 1,
    resume: Annotated[
        Path | None, typer.Option(help="Keep finished sequences in this file, and go on from those in it.")
    ] = None,
    progress: Lines = False,
    json: Json = False,
) -> None:
    """Compare controllers on one model and data set, with paired 95 % intervals.

    Default set: float, static high, static low, random at the low share of peak, peak. For a calibrated model, with
    --all or with --shares also random, peak, delta, static mask and calibrated controller at equal low shares, and the
    oracle, which knows the future: it runs low what the loss feels least by first-order changes of single decisions.
    Example: fxp compare lm-60.h5 held-out.h5 --shares 40%,57%,76%,90% --plot loss.svg; with your own metric: fxp
    compare lm.h5 held-out.h5 --metric my_metric.py:Metric
    """
    sources = Sources(model, data)
    from fxp import calibration, datafile, engines, evaluation, matching, network

    engines.check(engine)
    output.keep(plot, model, data)
    if controller and (everything or shares):
        raise InputError("give --all or --shares, or --controller, not both")
    wanted = None if shares is None else [output.share("--shares", text) for text in shares.split(",")]
    sources.wait()
    net = network.load(model)
    chosen: list[Any] = [
        c if c in ("float", evaluation.MATCHED) else controllers.parse(c, net.formats.high, net.formats.low, net)
        for c in controller or ()
    ]
    carried = None if chosen else calibration.stored(net)
    with datafile.read(data) as source:
        scorer = evaluation.Scorer(net, source, str(data), **plugged(metric, head))
        digest = source.digest() if resume else ""
        points = len(wanted or [0])
        everyone = not chosen and (carried is not None or everything or wanted is not None)
        runs = len(chosen) + 1 if chosen else 4 + (6 * points if everyone else 0)
        with (
            resuming(resume, scorer, digest, metric, head, {"command": "compare"}) as journal,
            output.progress("emulating", steps_left(journal, scorer, runs), json, progress) as advance,
        ):
            finished = evaluation.Finished(scorer, advance, engine=engine, threads=threads, journal=journal)
            if everyone:
                chosen = matching.rivals(scorer, carried, finished, wanted, oracle)
            table = evaluation.compare(scorer, chosen or evaluation.default_controllers(net), finished)
    if plot is not None:
        from fxp import figures

        figures.save(figures.loss_against_share(table.rows, table.metric, table.unit), plot)
    if json:
        output.emit_json(table.to_dict())
        return
    rows = [
        [
            row.label,
            output.number(row.metric),
            output.number(row.difference, sign=True),
            output.interval(row.interval),
            output.percent(row.low_share),
        ]
        for row in table
    ]
    caption = (
        f"{table.sequences} sequences, {table.steps:,} steps; differences from static high precision, paired "
        f"over sequences; {'higher' if table.higher_is_better else 'lower'} is better"
    )
    if any(row.controller == "oracle" for row in table):
        caption += "; oracle: no controller, knows the future, by first-order changes (errors that add up escape it)"
    output.table(
        f"{model.name} on {data.name}: {table.metric.replace('_', ' ')}{f' ({table.unit})' if table.unit else ''}",
        ["controller", "metric", "difference", "95 % interval", "low share"],
        rows,
        caption,
    )


def plugged(metric: str | None, head: str | None) -> dict[str, Any]:
    """The metric and the head that were asked for by name, as a `Scorer` takes them."""
    from fxp import metrics, plugins

    built_in = (*metrics.METRICS, metrics.OutputError.name)
    chosen = metric if metric is None or metric in built_in else plugins.load(metric, "metric")
    return {"metric": chosen, "head": None if head is None else plugins.load(head, "head")}


@contextmanager
def resuming(
    path: Any, scorer: Any, digest: str, metric: str | None, head: str | None, key: dict[str, Any]
) -> Iterator[Any]:
    """The file of partial work at a path, removed once the work is complete; None without a path."""
    if not path:
        yield None
        return
    from fxp import __version__
    from fxp.journal import Journal

    key |= {"version": __version__, "model": scorer.network.digest, "data": digest, "metric": scorer.name}
    key |= {"metric code": fingerprint(metric), "head code": fingerprint(head)}
    with Journal(path, key) as journal:
        if journal.note:
            output.notice(journal.note)
        try:
            yield journal
        except KeyboardInterrupt:
            output.notice(f"finished sequences are kept in {path}; the same command goes on from them")
            raise
        journal.remove()


def fingerprint(reference: str | None) -> str | None:
    """What a user's own code is called, and the digest of its file."""
    source = Path((reference or "").rpartition(":")[0])
    if source.suffix != ".py" or not source.is_file():
        return reference
    return f"{reference} {hashlib.sha256(source.read_bytes()).hexdigest()}"


def steps_left(journal: Any, scorer: Any, variants: int) -> int:
    """Steps that so many variants of a network have to run, without those that are finished."""
    lengths = scorer.inputs.lengths
    done = [] if journal is None else [n for _, n in journal.finished() if n < len(lengths)]
    return max(1, int(lengths.sum()) * variants - int(lengths[done].sum()))


def demo(
    destination: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for model, trace, estimate and picture.")
    ] = Path("demo-out"),
    sequences: Annotated[int, typer.Option(min=2, help="Held-out sequences to use (256 are bundled).")] = 256,
    threads: Threads = 1,
    progress: Lines = False,
    json: Json = False,
) -> None:
    """The whole path on the bundled network: emulate, compare, estimate, draw.

    A character language model on the King James text; a table of quality, precision, cycles and energy. Example: fxp
    demo -o out
    """
    from fxp import demo

    with output.progress("emulating", demo.total_steps(sequences), json, progress) as advance:
        result = demo.run(destination, sequences, threads, advance)
    if json:
        output.emit_json({"rows": result["rows"], "files": result["files"]})
        return
    rows = [
        [
            row["controller"],
            output.number(row["metric"]),
            output.number(row["difference"], sign=True),
            output.interval(row["interval"]),
            output.percent(row["low_share"]),
            "-" if row["cycles"] is None else f"{row['cycles']:,}",
            "-" if row["speedup"] is None else f"{row['speedup']:.3f}x",
            "-" if row["energy_pj"] is None else f"{row['energy_pj']:.4g}",
            output.percent(row["energy_saving"], sign=True),
        ]
        for row in result["rows"]
    ]
    output.table(
        result["title"],
        [
            "controller",
            result["metric"],
            "difference",
            "95 % interval",
            "low share",
            "cycles",
            "speedup",
            "energy pJ",
            "saving",
        ],
        rows,
        result["caption"],
    )
    for name, path in result["files"].items():
        output.console().print(f"{name}: {path}", markup=False)
