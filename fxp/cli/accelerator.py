"""Commands of the accelerator model: estimate, arch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fxp.cli import output
from fxp.cli.models import Json
from fxp.cli.sources import Sources


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("estimate")(estimate)
    app.command("reproduce")(reproduce)
    arch = typer.Typer(help="Machine descriptions: list, show, validate.", no_args_is_help=True)
    arch.command("list")(arch_list)
    arch.command("show")(arch_show)
    arch.command("validate")(arch_validate)
    app.add_typer(arch, name="arch")


def estimate(
    trace: Annotated[Path, typer.Argument(help="Trace file.")],
    machine: Annotated[
        str, typer.Option("--machine", "-m", help="Preset (fxp arch list) or machine file.")
    ] = "epur-dyn",
    baseline: Annotated[str, typer.Option("--baseline", "-b", help="Machine to compare with, or none.")] = "epur-sip",
    destination: Annotated[Path | None, typer.Option("--output", "-o", help="Estimate file to write.")] = None,
    json: Json = False,
) -> None:
    """Cycles, energy and area of an accelerator on a trace.

    Example: fxp estimate run.h5 --machine epur-dyn --baseline epur-sip
    """
    sources = Sources(trace)
    import accel

    output.keep(destination, trace)
    sources.wait()
    result = accel.estimate(trace, machine, baseline=None if baseline == "none" else baseline)
    if destination is not None:
        result.write(destination)
    if json:
        output.emit_json(result.to_dict())
        return
    total = result.energy_pj
    rows = [
        [
            name,
            f"{part['dynamic_pj']:.4g}",
            f"{part['static_pj']:.4g}",
            output.percent((part["dynamic_pj"] + part["static_pj"]) / total),
            output.number(part["area_mm2"], 3),
        ]
        for name, part in result.components.items()
    ]
    rows.append(
        [
            "total",
            f"{result.cost.dynamic_pj:.4g}",
            f"{result.cost.static_pj:.4g}",
            "100.0 %",
            output.number(result.area_mm2, 3),
        ]
    )
    output.table(
        f"{result.machine} on {trace.name}", ["component", "dynamic pJ", "static pJ", "of energy", "area mm2"], rows,
        f"{result.cycles:,} cycles ({1e3 * result.time_s:.4g} ms), low share {output.percent(result.low_share)}",
    )  # fmt: skip
    screen = output.console()
    control = result.cost.control
    if control["kind"] != "none":
        screen.print(
            f"choosing the precision ({control['kind']}): {output.percent(control['precision_unit_pj'] / total)} of "
            f"the energy in the precision unit, {output.percent(control['readout_pj'] / total)} in readout neurons; "
            f"{output.number(control['area_mm2'], 3)} mm2"
        )
    if result.baseline is not None:
        screen.print(
            f"against {result.baseline}: speedup {result.speedup:.3f}x, energy saving "
            f"{output.percent(result.energy_saving, True)}, "
            f"area {output.percent(result.area_overhead, True)}"
        )
    for note in result.notes:
        screen.print(f"note: {note}", markup=False)
    if destination is not None:
        screen.print(f"estimate: {destination}", markup=False)


def reproduce(json: Json = False) -> None:
    """The paper's tables beside the model's: reported, modelled with its range, and the ideal bound.

    Example: fxp reproduce
    """
    import accel

    result = accel.reproduce()
    if json:
        output.emit_json(result)
        return
    rows = [
        [
            row["network"],
            row["quantity"].replace("_", " "),
            output.percent(row["low_share"]),
            output.number(row["reported"], 3),
            output.number(row["modelled"], 3),
            "-" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}",
            output.number(row["bound"], 3),
            "above its bound" if row["above_bound"] else "",
        ]
        for row in result["rows"]
    ]
    output.table(
        "Reported and modelled",
        ["network", "quantity", "low share", "reported", "modelled", "range", "bound", ""],
        rows,
        "bound: 1 / (1 - p / 2); ranges over the stated assumptions; notes with --json",
    )  # fmt: skip


def arch_list(json: Json = False) -> None:
    """List the presets.

    Example: fxp arch list
    """
    import accel

    found = [{"name": name, "description": accel.Machine.load(name).description} for name in accel.machines()]
    if json:
        output.emit_json(found)
        return
    for entry in found:
        output.console().print(f"{entry['name']}: {entry['description']}", markup=False)


def arch_show(
    machine: Annotated[str, typer.Argument(help="Preset or machine file.")],
    json: Json = False,
) -> None:
    """Show every constant of a machine with its unit and source.

    Example: fxp arch show epur-dyn
    """
    import accel

    design = accel.Machine.load(machine)
    constants: list[dict[str, Any]] = [
        {"name": name, **quantity.model_dump(exclude_none=True)} for name, quantity in design.constants()
    ]
    if json:
        output.emit_json(constants)
        return
    screen = output.console()
    for constant in constants:
        name, value, unit = constant.pop("name"), constant.pop("value"), constant.pop("unit", "")
        rest = "; ".join(f"{key} {text}" for key, text in constant.items())
        screen.print(f"{name} = {value} {unit}  ({rest})".replace("  ()", ""), markup=False)


def arch_validate(
    machine: Annotated[Path, typer.Argument(help="Machine file.")],
    json: Json = False,
) -> None:
    """Check a machine file.

    Example: fxp arch validate mine.yaml
    """
    import accel

    design = accel.Machine.load(machine)
    if json:
        output.emit_json({"file": str(machine), "name": design.name, "valid": True})
    else:
        output.console().print(f"{machine}: valid ({design.name})", markup=False)
