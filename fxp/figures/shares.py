"""Quality against low precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from fxp.figures.canvas import INK, MUTED, SERIES, legend_above, percent_axis, sheet

_MARKERS = "osD^vPX*<>"


def loss_against_share(rows: Sequence[Any], metric: str = "metric", unit: str = "") -> Figure:
    """What each controller loses against static high precision, over its low share.

    Parameters
    ----------
    rows : rows of `fxp.evaluate` (`fxp.evaluation.Row`); those without a low share, as the float network, are left out
    metric, unit : what the difference is of
    """
    shown = [row for row in rows if row.low_share is not None]
    lines = max(0, (len(shown) - 1) // 3)
    figure, axes = sheet(2.9 + 0.19 * lines, 0.75, 0.3 + 0.19 * lines)
    for number, row in enumerate(shown):
        reach = None
        if row.interval is not None:
            reach = [[max(0.0, row.difference - row.interval[0])], [max(0.0, row.interval[1] - row.difference)]]
        axes.errorbar(
            [row.low_share], [row.difference], yerr=reach, fmt=_MARKERS[number % len(_MARKERS)], markersize=6,
            color=SERIES[number % len(SERIES)], capsize=3, linewidth=1.1, label=row.label,
        )  # fmt: skip
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set_xlim(-0.03, 1.03)
    percent_axis(axes.xaxis)
    axes.grid()
    axes.set_xlabel("low share of the element-steps")
    name = metric.replace("_", " ")
    if unit and not name.startswith(unit):
        name += f" ({unit})"
    axes.set_ylabel(f"difference in {name}", color=INK)
    legend_above(axes)
    return figure
