"""The sections of the page, one function each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fxp import figures
from fxp.evaluation import Row
from fxp.figures.costs import component_energy, cycle_parts, energy_unit
from fxp.figures.precision import position_means, run_classes
from fxp.plans import Usage
from fxp.report import markup
from fxp.report.markup import figure, missing, panel, paragraph, section, table, text
from fxp.report.material import DIRECTIONS, WINDOW, Material


def every(material: Material) -> list[tuple[str, str, str]]:
    """(identity, title in the navigation or "", HTML) of everything below the head."""
    return [
        ("run", "Run", run(material)),
        ("quality", "Quality", quality(material)),
        ("show", "", controls(material)),
        ("cell", "Over time", cell(material)),
        ("share", "Low share", share(material)),
        ("error", "Error", error(material)),
        ("costs", "", '<div class="pair">'),
        ("energy", "Energy", energy(material)),
        ("cycles", "Cycles", cycles(material)),
        ("costs-end", "", "</div>"),
    ]


def percent(value: float | None, digits: int = 1, sign: bool = False) -> str:
    """A share as text, or a dash."""
    return "–" if value is None else f"{100 * value:{'+' if sign else ''}.{digits}f}\u00a0%"


def number(value: float, sign: bool = False) -> str:
    """A metric as text: four decimals, or two digits where they would say nothing."""
    plus = "+" if sign else ""
    return f"{value:{plus}.2g}" if 0 < abs(value) < 0.0001 else f"{value:{plus}.4f}"


def _place(material: Material, layer: int, direction: int) -> str:
    return f"layer {layer}" + (f", {DIRECTIONS[direction]}" if len(material.usages[layer]) == 2 else "")


def _title(words: str) -> str:
    return words[0].upper() + words[1:]


def _count(count: int, thing: str) -> str:
    return f"{count:,} {thing}" + ("" if count == 1 else "s")


def _metric(material: Material) -> str:
    assert material.table is not None
    name, unit = material.table.metric.replace("_", " "), material.table.unit
    return name if not unit or name.startswith(unit) else f"{name} ({unit})"


def head(material: Material) -> str:
    """Title, one sentence, and the figures that matter most."""
    high, low = material.bits
    tiles = [("Low share", percent(material.low_share), f"of {material.steps:,} steps at {low} bits")]
    row = material.row
    if row is not None and material.table is not None:
        reach = "" if row.interval is None else f", 95\u00a0% {_reach(row)}"
        note = f"{number(row.difference, True)} from static {high}{reach}"
        tiles.append((_title(_metric(material)), number(row.metric), note))
    if material.estimate is not None:
        cost = material.estimate
        if cost.get("speedup") is not None:
            tiles.append(("Speedup", f"{cost['speedup']:.2f}×", f"{cost['machine']} over {cost['baseline']}"))
            tiles.append(("Energy saved", percent(cost["energy_saving"]), f"of {cost['baseline']}"))
        else:
            size, unit = energy_unit(cost["energy_pj"])
            tiles.append(("Energy", f"{cost['energy_pj'] / size:.3g} {unit}", str(cost["machine"])))
    tiles.append(("Overflows", f"{material.overflows:,}", "sums outside the accumulator"))
    boxes = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}<small>{text(note)}</small></dd></div>"
        for name, value, note in tiles
    )
    lead = f"Precision of every cell-state element at every step, {high} or {low} bits, chosen by the controller "
    return (
        f'<p class="kind">Precision report</p><h1>{text(material.title)}</h1>'
        f'<p class="lead">{text(lead)}<strong>{text(material.controller.get("name", "unnamed"))}</strong>.</p>'
        f'<dl class="tiles">{boxes}</dl>'
    )


def run(material: Material) -> str:
    """What was run."""
    return section("run", "What was run", markup.facts(material.about.items()))


def quality(material: Material) -> str:
    """Variants with their intervals, and quality against low share."""
    title = "Quality of every variant"
    if material.table is None:
        return section(
            "quality", title,
            missing(material.table_note or "There is no comparison of controllers, nor labelled data to make one on.",
                    "--compare compare.json", "--model model.h5 --data labelled.h5"),
        )  # fmt: skip
    made = material.table
    rows = [_variant(row) for row in made]
    mark = next((n for n, row in enumerate(made) if row is material.row), None)
    better = "higher" if made.higher_is_better else "lower"
    numbers = table(
        f"{_title(_metric(material))}, {better} is better; {made.sequences:,} sequences, {made.steps:,} steps",
        ["Variant", "Low share", "Metric", "Difference", "95\u00a0% interval"], rows, mark,
    )  # fmt: skip
    body = [
        paragraph(
            f"Differences are from static {material.bits[0]} bits, paired over sequences, with 95\u00a0% intervals."
            + (" The variant in bold is this trace's." if mark is not None else "")
        )
    ]
    if material.table_note:
        body.append(paragraph(material.table_note, "muted"))
    shown = [row for row in made if row.low_share is not None]
    drawing = ""
    if shown:
        drawn = figures.loss_against_share(shown, made.metric, made.unit)
        words = "; ".join(f"{r.label}: {number(r.difference, True)} at {percent(r.low_share)}" for r in shown)
        drawing = figure(
            figures.svg(drawn, "loss", f"Difference of the metric over low share. {words}."),
            f"Further right saves more; {'above' if made.higher_is_better else 'below'} is better. "
            f"Bars are 95\u00a0% intervals.",
        )
    return section("quality", title, *body, f'<div class="grid leaning"><div>{numbers}</div><div>{drawing}</div></div>')


def _variant(row: Row) -> list[str]:
    return [row.label, percent(row.low_share), number(row.metric), number(row.difference, True), _reach(row)]


def _reach(row: Row) -> str:
    return "–" if row.interval is None else f"[{number(row.interval[0], True)}, {number(row.interval[1], True)}]"


def controls(material: Material) -> str:
    """Native elements that choose what the drawings below show."""
    layers = range(len(material.usages))
    choices: dict[str, list[tuple[int, str, int | None]]] = {
        "layer": [(n, str(n), None) for n in layers],
        "direction": [(d, DIRECTIONS[d], n) for n in layers for d in range(len(material.usages[n]))],
        "sequence": [(n, str(n), None) for n in material.sequences],
        "element": [(k, str(k), n) for n in layers for k in material.elements[n]],
    }
    parts = []
    for name, options in choices.items():
        entries = "".join(
            f'<option value="{value}"' + ("" if layer is None else f' data-layer="{layer}"') + f">{label}</option>"
            for value, label, layer in options
        )
        parts.append(f'<label for="{name}">{name.capitalize()}<select id="{name}">{entries}</select></label>')
    return (
        '<form class="controls" aria-label="Shown in the drawings below" autocomplete="off">'
        + "".join(parts)
        + '<output id="shown" aria-live="polite"></output></form>'
    )


def cell(material: Material) -> str:
    """Cell states and precision of a sequence over time, side by side."""
    note = "Positions are those of the input, for the backward direction too."
    if material.cells is not None:
        note += (
            " The trace holds no cell states: they were emulated again under its plan, which gives the same bits."
            if material.replayed
            else " Cell states are those that the trace recorded."
        )
    lines = _cell_states(material)
    return section(
        "cell", "Cell state and precision over time", paragraph(note),
        f'<div class="grid"><div>{lines}</div><div>{_maps(material)}</div></div>',
    )  # fmt: skip


def _cell_states(material: Material) -> str:
    if material.cells is None:
        return missing("The trace holds no cell states.", "--model model.h5 --data data.h5", "fxp run --record cell")
    panels = []
    for (layer, direction, sequence), values in material.cells.items():
        low = material.low[layer, direction, sequence]
        for column, element in enumerate(material.elements[layer]):
            here, mask = values[:, column], low[:, column]
            place = f"{_place(material, layer, direction)}, sequence {sequence}, element {element}"
            drawn = figures.cell_state(here, mask, _title(place), 0, material.bits)
            words = (
                f"Cell state of {place} over {len(here)} steps, between {here.min():.3g} and {here.max():.3g}; "
                f"{int((~mask).sum())} steps computed at {material.bits[0]} bits."
            )
            key = f"c{layer}-{direction}-{sequence}-{element}"
            caption = f"{int((~mask).sum()):,} of {len(here):,} steps at {material.bits[0]} bits."
            if len(here) < material.lengths[sequence]:
                caption += f" The first {WINDOW:,} of {material.lengths[sequence]:,} steps are drawn."
            drawing = figure(figures.svg(drawn, key, words), caption)
            panels.append(panel(drawing, layer=layer, direction=direction, sequence=sequence, element=element))
    return "".join(panels)


def _maps(material: Material) -> str:
    """Heat maps: element by time."""
    panels = []
    for (layer, direction, sequence), shown in material.maps.items():
        place = f"{_place(material, layer, direction)}, sequence {sequence}"
        drawn = figures.precision(shown, f"{_title(place)}, all elements", material.bits)
        words = (
            f"Precision of {shown.elements} elements over {shown.steps} steps in {place}; "
            f"{percent(shown.low_share)} at low precision."
        )
        caption = f"{percent(shown.low_share)} of the element-steps at {material.bits[1]} bits."
        if shown.element_block * shown.step_block > 1:
            caption += (
                f" Each cell is the exact mean of {_count(shown.element_block, 'element')} × "
                f"{_count(shown.step_block, 'step')} ({shown.elements:,} × {shown.steps:,} in all)."
            )
        key = f"m{layer}-{direction}-{sequence}"
        drawing = figure(figures.svg(drawn, key, words), caption)
        panels.append(panel(drawing, layer=layer, direction=direction, sequence=sequence))
    return "".join(panels)


def share(material: Material) -> str:
    """Low share by layer, element and position, and how long elements dwell at a precision."""
    flat = [used for sides in material.usages for used in sides]
    shares = material.layer_shares
    names = [name for name, _ in shares]
    words = "; ".join(f"{name}: {percent(value)}" for name, value in shares)
    numbers = table(
        "Low share of each layer", ["", "Elements", "Low element-steps", "Low share"],
        [[name, f"{used.hidden:,}", f"{int(used.element_low.sum()):,}", percent(used.low_share, 2)]
         for name, used in zip(names, flat, strict=True)],
    )  # fmt: skip
    top = figure(figures.svg(figures.share_by_layer(shares), "layers", f"Low share. {words}."), "", numbers)
    panels = [
        panel(
            f"<div>{_by_element(used, place)}</div><div>{_by_position(used, place)}</div>"
            f"<div>{_dwell(used, place, material.bits)}</div>",
            "panel flat", layer=used.layer, direction=used.direction,
        )
        for used, place in zip(flat, names, strict=True)
    ]  # fmt: skip
    title = "Where and how long precision is low"
    return section("share", title, f'<div class="grid"><div>{top}</div>{"".join(panels)}</div>')


def _by_element(used: Usage, place: str) -> str:
    values = used.element_share
    marks = [("least", 0.0), ("lower quartile", 0.25), ("median", 0.5), ("upper quartile", 0.75), ("most", 1.0)]
    cuts = [(name, float(np.quantile(values, at))) for name, at in marks]
    words = ", ".join(f"{name} {percent(value)}" for name, value in cuts)
    numbers = table(f"Low share of the {used.hidden:,} elements", ["", "Low share"],
                    [[name, percent(value, 2)] for name, value in cuts])  # fmt: skip
    drawn = figures.share_by_element(used, f"{place}: by element")
    return figure(
        figures.svg(drawn, f"e{used.layer}-{used.direction}", f"Low share of elements, {place}: {words}."), "", numbers
    )


def _by_position(used: Usage, place: str) -> str:
    positions, values, block = position_means(used)
    chosen = np.unique(np.linspace(0, len(positions) - 1, 9).round().astype(int))
    numbers = table(
        "Low share at positions" + (f" (means of {block})" if block > 1 else ""), ["Position", "Low share"],
        [[f"{positions[n]:,}", percent(float(values[n]), 2)] for n in chosen],
    )  # fmt: skip
    words = f"Low share over the position, {place}: from {percent(values.min())} to {percent(values.max())}."
    drawn = figures.share_by_position(used, f"{place}: by position")
    caption = f"Each point is the exact mean of {block} positions." if block > 1 else ""
    return figure(figures.svg(drawn, f"p{used.layer}-{used.direction}", words), caption, numbers)


def _dwell(used: Usage, place: str, bits: tuple[int, int]) -> str:
    names, values = run_classes(used)
    lengths = np.arange(used.runs.shape[1])
    summary = []
    for side in (1, 0):
        count = int(used.runs[side].sum())
        mean = f"{(used.runs[side] * lengths).sum() / count:.1f}" if count else "–"
        summary.append((f"{bits[side]} bits", f"{count:,}", mean))
    numbers = table(
        "Share of all element-steps, by the length of their run",
        ["Length (steps)", f"at {bits[1]} bits", f"at {bits[0]} bits"],
        [[name, percent(low, 2), percent(high, 2)] for name, high, low in zip(names, *values, strict=True)],
    ) + table("Runs", ["Precision", "Runs", "Mean length (steps)"], summary)  # fmt: skip
    words = "; ".join(f"at {name} {count} runs of {mean} steps in the mean" for name, count, mean in summary)
    drawn = figures.dwell(used, f"{place}: dwell times", bits)
    return figure(
        figures.svg(drawn, f"d{used.layer}-{used.direction}", f"Dwell times, {place}: {words}."),
        f"{_title(words)}. A run ends with its sequence.", numbers,
    )  # fmt: skip


def error(material: Material) -> str:
    """Error of the cell states against the float network."""
    title = "Error of the cell state"
    if material.errors is None:
        return section(
            "error", title,
            missing("The error against the float network needs model and data.", "--model model.h5 --data data.h5"),
        )  # fmt: skip
    made, (high, low) = material.errors, material.bits
    names = (f"at {low} bits", f"at {high} bits")
    phases = [side for side in (0, 1) if made.counts[side]]
    columns = ["Variant"] + [names[s] for s in phases] + [f"abs., {names[s][3:]}" for s in phases]
    rows = [
        [row.variant]
        + [percent(row.relative[s], 2) for s in phases]
        + ["–" if row.absolute[s] is None else f"{row.absolute[s]:.4g}" for s in phases]
        for row in made.rows
    ]
    numbers = table("Relative error of c against the float network, then the mean absolute one", columns, rows)
    words = "; ".join(
        f"{row[0]}: " + ", ".join(f"{row[1 + n]} {names[side]}" for n, side in enumerate(phases)) for row in rows
    )
    drawn = figures.phase_errors(made, material.bits)
    picture = figures.svg(drawn, "error", f"Relative error of the cell state. {words}.")
    used = "all" if made.whole else "the first"
    note = (
        f"Sum of |c − c of the float network| over sum of |c of the float network|, over {used} {made.steps:,} steps "
        f"({made.sequences:,} sequences): where this trace ran at {low} bits ({made.counts[0]:,} element-steps) and "
        f"where at {high} bits ({made.counts[1]:,}). Under the peak rule these are its stable phases and its peaks. "
        f"Every variant is measured over the same element-steps."
    )
    alone = "" if len(phases) == 2 else paragraph(f"The trace ran all of these steps {names[phases[0]]}.", "muted")
    return section(
        "error", title, paragraph(note), alone,
        f'<div class="grid"><div>{figure(picture)}</div><div>{numbers}</div></div>',
    )  # fmt: skip


_NO_COSTS = ("--machine epur-dyn", "--estimate estimate.h5")


def energy(material: Material) -> str:
    """Energy by component."""
    title = "Energy by component"
    if not material.costs:
        return section("energy", title, missing("There is no estimate.", *_NO_COSTS))
    costs = material.costs
    tables = [component_energy(cost) for cost in costs]
    size, unit = energy_unit(max(sum(part.values()) for part in tables))
    names = list(dict.fromkeys(name for part in tables for name in part))
    columns = ["Component"]
    for cost in costs:
        columns += [f"{cost['machine']}, dynamic ({unit})", "static", "of all"]
    rows = [_energies(name, costs, size) for name in [*names, ""]]
    numbers = table("Energy of the whole trace", columns, rows)
    words = "; ".join(f"{c['machine']} {sum(t.values()) / size:.4g} {unit}" for c, t in zip(costs, tables, strict=True))
    notes = [paragraph(f"Note: {note}", "muted") for note in costs[-1].get("notes", [])]
    saved = costs[-1].get("energy_saving")
    lead = f"{words[0].upper()}{words[1:]}." if saved is None else f"{words}: {percent(saved)} saved."
    return section(
        "energy", title, paragraph(lead), *notes,
        figure(figures.svg(figures.energy(costs), "energy", f"Energy by component. {words}."),
               "Dynamic and static energy together; the whole trace, DRAM included.", numbers),
    )  # fmt: skip


def _energies(name: str, costs: Sequence[Any], size: float) -> list[str]:
    """A row of the energy table; no name: the sum."""
    row = [name.replace("_", " ") or "all"]
    for cost in costs:
        parts = cost["components"]
        chosen = [parts[name]] if name in parts else list(parts.values()) if not name else []
        dynamic, static = (sum(part[kind] for part in chosen) for kind in ("dynamic_pj", "static_pj"))
        whole = sum(component_energy(cost).values())
        row += [f"{dynamic / size:.4g}", f"{static / size:.4g}", percent((dynamic + static) / whole if whole else None)]
    return row


def cycles(material: Material) -> str:
    """Clock cycles, by what they are spent on and by layer."""
    title = "Clock cycles"
    if not material.costs:
        return section("cycles", title, missing("There is no estimate.", *_NO_COSTS))
    costs = material.costs
    parts = [cycle_parts(cost) for cost in costs]
    machines = [str(cost["machine"]) for cost in costs]
    rows = [[name, *(f"{part[name]:,}" for part in parts)] for name in parts[0]]
    rows.append(["all", *(f"{cost['cycles']:,}" for cost in costs)])
    rows.append(["time (ms)", *(f"{1e3 * cost['time_s']:.4g}" for cost in costs)])
    for layer, sides in enumerate(costs[-1]["layer_cycles"]):
        for direction in range(len(sides)):
            place = f"layer {layer}" + (f", {DIRECTIONS[direction]}" if len(sides) == 2 else "")
            rows.append([f"{place}, on chip", *(f"{cost['layer_cycles'][layer][direction]:,}" for cost in costs)])
    numbers = table("Clock cycles of the whole trace", ["", *machines], rows)
    words = "; ".join(f"{name} {cost['cycles']:,} cycles" for name, cost in zip(machines, costs, strict=True))
    speedup = costs[-1].get("speedup")
    lead = words + ("." if speedup is None else f": {speedup:.3f}× as fast.")
    return section(
        "cycles", title, paragraph(lead),
        figure(figures.svg(figures.cycles(costs), "cycles", f"Clock cycles. {words}."), "", numbers),
    )  # fmt: skip
