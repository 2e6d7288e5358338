"""Cell states over time."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from fxp.figures.canvas import HIGH, INK, headed, legend_above, sheet


def cell_state(
    values: np.ndarray, low: np.ndarray, title: str, first: int = 0, bits: tuple[int, int] = (8, 4)
) -> Figure:
    """The cell state of one element over time, with the steps computed at high precision marked.

    Parameters
    ----------
    values : float64 [time]
    low : bool [time]
    first : position of the first step
    bits : high and low precision
    """
    figure, axes = sheet(2.7)
    steps = first + np.arange(len(values))
    axes.plot(steps, values, color=INK, linewidth=1.1, label="cell state", zorder=2)
    high = np.where(low, np.nan, values)
    axes.plot(
        steps, high, color=HIGH, linewidth=1.6, marker="o", markersize=3, markeredgewidth=0,
        label=f"step computed at {bits[0]} bits", zorder=3,
    )  # fmt: skip
    axes.grid(axis="y")
    axes.margins(x=0.01)
    axes.set_xlabel("position in the sequence (steps)")
    axes.set_ylabel("cell state c")
    headed(axes, title)
    legend_above(axes, 2)
    return figure
