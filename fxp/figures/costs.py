"""Energy and cycles of an accelerator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fxp.figures.canvas import INK, LOW, MUTED, RULE, SERIES, legend_above, sheet

_PREFIXES = ((1e12, "J"), (1e9, "mJ"), (1e6, "µJ"), (1e3, "nJ"), (1.0, "pJ"))


def energy_unit(picojoules: float) -> tuple[float, str]:
    """Picojoules of the unit that suits an energy, and its name."""
    return next(((size, name) for size, name in _PREFIXES if picojoules >= size), _PREFIXES[-1])


def component_energy(cost: Mapping[str, Any]) -> dict[str, float]:
    """Energy of each component in pJ, dynamic and static together."""
    return {name: part["dynamic_pj"] + part["static_pj"] for name, part in cost["components"].items()}


def energy(costs: Sequence[Mapping[str, Any]]) -> Figure:
    """Energy of one or two machines by component.

    Parameters
    ----------
    costs : records of `accel.Estimate.to_dict`, the baseline first
    """
    tables = [component_energy(cost) for cost in costs]
    names = [name for name in dict.fromkeys(n for table in tables for n in table) if any(t.get(name) for t in tables)]
    rows = -(-len(names) // 2)
    figure, axes = sheet(0.6 + 0.42 * len(costs) + 0.19 * rows, _room(costs), 0.08 + 0.19 * rows)
    size, unit = energy_unit(max(sum(table.values()) for table in tables))
    parts = {
        name.replace("_", " "): (
            np.array([table.get(name, 0.0) for table in tables]) / size,
            {"color": SERIES[number % len(SERIES)], "edgecolor": "#ffffff", "linewidth": 0.8},
        )
        for number, name in enumerate(names)
    }
    _stacked(axes, costs, parts, digits=3, room=1.12)
    axes.set_xlabel(f"energy of the whole trace ({unit})")
    legend_above(axes, 2)
    return figure


def _stacked(
    axes: Axes, costs: Sequence[Mapping[str, Any]], parts: Mapping[str, tuple[np.ndarray, dict[str, Any]]],
    digits: int, room: float,
) -> None:  # fmt: skip
    """A bar a machine, of parts (values, style) end to end and their sum; the axis is `room` times as long."""
    places, begin = np.arange(len(costs)), np.zeros(len(costs))
    for name, (values, style) in parts.items():
        axes.barh(places, values, 0.62, left=begin, label=name, **style)
        begin += values
    for place, total in zip(places, begin, strict=True):
        text = f"{total:.{digits}g}"
        axes.annotate(text, (total, place), (4, 0), textcoords="offset points", va="center", color=INK)
    axes.set_yticks(places, [_name(cost) for cost in costs])
    axes.invert_yaxis()
    axes.set_xlim(0, room * begin.max() or 1.0)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def _room(costs: Sequence[Mapping[str, Any]]) -> float:
    """Inches for the names of the machines, which are cut to 24 characters."""
    return 0.3 + 0.075 * max(len(_name(cost)) for cost in costs)


def _name(cost: Mapping[str, Any]) -> str:
    name = str(cost["machine"])
    return name if len(name) <= 24 else name[:23] + "\u2026"


def cycle_parts(cost: Mapping[str, Any]) -> dict[str, int]:
    """Clock cycles in which the dot-product units work, in which they have nothing to do, and of waiting for DRAM."""
    return {
        "dot products": cost["compute_cycles"] - cost["stall_cycles"],
        "stalled": cost["stall_cycles"],
        "waiting for DRAM": cost["cycles"] - cost["compute_cycles"],
    }


def cycles(costs: Sequence[Mapping[str, Any]]) -> Figure:
    """Clock cycles of one or two machines; records as for `energy`."""
    figure, axes = sheet(0.85 + 0.42 * len(costs), _room(costs), 0.3)
    most = max(cost["cycles"] for cost in costs)
    scales = ((1e9, " (10⁹)"), (1e6, " (10⁶)"), (1e3, " (10³)"), (1.0, ""))
    size, unit = next((scale for scale in scales if most >= scale[0]), scales[-1])
    tables = [cycle_parts(cost) for cost in costs]
    parts = {
        name: (
            np.array([table[name] for table in tables]) / size,
            {"color": colour, "edgecolor": MUTED, "linewidth": 0.5},
        )
        for name, colour in zip(tables[0], (LOW, MUTED, RULE), strict=True)
    }
    _stacked(axes, costs, parts, digits=4, room=1.14)
    axes.set_xlabel(f"clock cycles of the whole trace{unit}")
    legend_above(axes)
    return figure


