"""Errors of cell states against the float network."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from fxp.figures.canvas import HIGH, INK, LOW, MUTED, legend_above, percent_axis, sheet
from fxp.replay import PhaseErrors


def phase_errors(errors: PhaseErrors, bits: tuple[int, int] = (8, 4)) -> Figure:
    """Relative error of the cell states where the trace ran at low and where it ran at high precision."""
    figure, axes = sheet(2.7, top=0.3)
    phases = [
        (name, side)
        for side, name in enumerate((f"stable: steps at {bits[1]} bits", f"peaks: steps at {bits[0]} bits"))
        if errors.counts[side]
    ]
    colours = {"this trace": INK, errors.rows[0].variant: LOW, errors.rows[-1].variant: HIGH}
    width = 0.8 / len(errors.rows)
    for number, row in enumerate(errors.rows):
        values = [row.relative[side] or 0.0 for _, side in phases]
        places = np.arange(len(phases)) + (number - (len(errors.rows) - 1) / 2) * width
        axes.bar(places, values, 0.92 * width, color=colours.get(row.variant, MUTED), label=row.variant)
        for place, value in zip(places, values, strict=True):
            axes.annotate(
                f"{100 * value:.3g} %", (place, value), (0, 2), textcoords="offset points", ha="center", fontsize=8.5,
                color=INK,
            )  # fmt: skip
    axes.set_xticks(np.arange(len(phases)), [name for name, _ in phases])
    axes.set_xlim(-0.55, len(phases) - 0.45)
    percent_axis(axes.yaxis)
    axes.grid(axis="y")
    axes.margins(y=0.12)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("relative error of c")
    legend_above(axes)
    return figure
