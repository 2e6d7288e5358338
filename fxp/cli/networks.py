"""Networks to try the accelerator on: list, build, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fxp.cli import output
from fxp.cli.models import Json, Threads
from traces import InputError

Name = Annotated[str, typer.Argument(help="Network, such as kjv (fxp networks list).")]
Folder = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder of the files; the cache if none is given.")
]

group = typer.Typer(help="Networks to try the accelerator on: list, build, evaluate.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.add_typer(group, name="networks")


@group.command("list")
def show(json: Json = False) -> None:
    """List the networks: topology, metric, where files come from, licence.

    Example: fxp networks list
    """
    from fxp import networks

    entries = [networks.entry(name) for name in networks.names()]
    if json:
        keys = ("name", "topology", "task", "metric", "source", "origin", "licence")
        output.emit_json({"networks": [{key: getattr(entry, key) for key in keys} for entry in entries]})
        return
    screen = output.console()
    for entry in entries:
        screen.print(f"{entry.name}: {entry.task}; {entry.topology}; {entry.metric}")
        screen.print(f"    files: {entry.source}; data: {entry.origin}; licence: {entry.licence}")


@group.command("build")
def build(name: Name, destination: Folder = None, json: Json = False) -> None:
    """Make model.h5, data.h5 (held out) and calibration.h5 of a network; what is not bundled is fetched and checked.

    Example: fxp networks build chorales -o chorales
    """
    from fxp import networks

    built = networks.build(name, destination)
    if json:
        output.emit_json({"network": name, "files": {file: str(path) for file, path in built.items()}})
        return
    for file, path in built.items():
        output.console().print(f"{file}: {path}", markup=False)


@group.command("evaluate")
def evaluate(
    name: Name,
    low_share: Annotated[str | None, typer.Option(help="Low share, such as 57% or 0.57 (the default).")] = None,
    shares: Annotated[str | None, typer.Option(help="Several low shares, such as 40%,57%,76%.")] = None,
    at_tolerance: Annotated[
        bool,
        typer.Option(
            "--at-tolerance",
            help="Choose the largest low share that the network's tolerance allows, on the calibration data alone, and "
            "judge that on the held-out data; shares are those of a ladder to show beside it (57% to 100%).",
        ),
    ] = False,
    metric: Annotated[
        str | None, typer.Option(help="A built-in metric that has a tolerance, in place of the network's own.")
    ] = None,
    destination: Folder = None,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """What low precision costs a network: controllers at matched low shares against static high precision.

    The network is calibrated on its calibration data at each share and judged on its held-out data.
    Example: fxp networks evaluate kjv --shares 40%,57%,76%, or fxp networks evaluate g2p --at-tolerance
    """
    from fxp.networks import evaluation, registry

    if low_share is not None and shares is not None:
        raise InputError("give --low-share or --shares, not both")
    if metric not in (None, *registry.TOLERANCES):
        raise InputError(
            f"--metric {metric}: there is no tolerance to judge it by; there are some for "
            f"{', '.join(registry.TOLERANCES)} (fxp compare takes every metric)"
        )
    text = shares if shares is not None else low_share
    parsed = None if text is None else tuple(share(part) for part in text.split(","))
    options: dict[str, Any] = {"metric": metric, "folder": destination, "threads": threads}
    if at_tolerance:
        ladder = evaluation.LADDER if parsed is None else parsed
        count = evaluation.steps_at_tolerance(name, ladder, destination)
        with output.progress("emulating", count, json) as advance:
            result = evaluation.evaluate_at_tolerance(name, ladder, **options, progress=advance)
        rows = [result["held_out"], *result["ladder"]]
    else:
        wanted = evaluation.SHARES if parsed is None else parsed
        with output.progress("emulating", evaluation.steps(name, wanted, destination), json) as advance:
            result = evaluation.evaluate(name, wanted, **options, progress=advance)
        rows = result["rows"]
    if json:
        output.emit_json(result)
        return
    output.table(
        f"{name}: {result['metric'].replace('_', ' ')} ({result['unit']}), float {result['float']:.4f}, static high "
        f"{result['static_high']:.4f}",
        ["controller", "low share", "loss", "upper end", "tolerance", "verdict"],
        [
            [
                row["controller"],
                output.percent(row["low_share"]),
                output.number(row["loss"], sign=True),
                output.number(row["loss_upper"], sign=True),
                output.number(row["tolerance"]),
                row["verdict"],
            ]
            for row in rows
        ],
        f"static high against float: loss {result['static_high_vs_float']['loss']:+.5f}"
        f"{output.interval(result['static_high_vs_float']['interval'])}, {result['static_high_vs_float']['verdict']}; "
        f"{result['sequences']} held-out sequences, {result['steps']:,} steps; loss: from static high precision, "
        f"paired; upper end of its one-sided 95 % interval" + (_chosen(result) if at_tolerance else ""),
    )


def _chosen(result: dict[str, Any]) -> str:
    """How a share was chosen, in words; the first row is that choice."""
    judged, found = result["calibration"], result["chosen"]
    by = f"{judged['sequences']} calibration sequences ({judged['judged_by'].replace('_', ' ')})"
    if found is None:
        return f"\nfirst row: static high precision, since on {by} no low share holds {judged['tolerance']:.5f}"
    return (
        f"\nfirst row: chosen on {by}, where at {output.percent(found['low_share'])} low the loss is "
        f"{found['loss']:+.5f}, upper end {found['loss_upper']:+.5f}, and the chance that the held-out data finds it "
        f"held is {output.percent(found['chance'])}; the others are a ladder that nothing was chosen by"
    )


def share(text: str) -> float:
    """A share from a number, or from a percentage with its sign."""
    stripped = text.strip()
    try:
        return float(stripped[:-1]) / 100 if stripped.endswith("%") else float(stripped)
    except ValueError:
        raise InputError(f"low share {text!r}: expected a number such as 57% or 0.57") from None
