"""Quality against low precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from fxp.figures.canvas import INK, MUTED, SERIES, legend_above, percent_axis, sheet

_MARKERS = "osD^vPX*<>"


def loss_against_share(rows: Sequence[Any], metric: str = "metric", unit: str = "") -> Figure:
    """What each controller loses against static high precision, over its low share; points of one kind are joined.

    Parameters
    ----------
    rows : rows of `fxp.evaluate` (`fxp.evaluation.Row`); those without a low share, as the float network, are left out
    metric, unit : what the difference is of
    """
    families: dict[str, list[Any]] = {}
    for row in rows:
        if row.low_share is not None:
            families.setdefault(row.family, []).append(row)
    lines = max(0, (len(families) - 1) // 3)
    figure, axes = sheet(2.9 + 0.19 * lines, 0.98, 0.3 + 0.19 * lines)
    for number, (name, members) in enumerate(families.items()):
        members = sorted(members, key=lambda row: row.low_share)
        colour = SERIES[number % len(SERIES)]
        for row in members:
            if row.interval is not None:
                axes.plot([row.low_share] * 2, row.interval, color=colour, linewidth=1.1, marker="_", markersize=6)
        axes.plot(
            [row.low_share for row in members], [row.difference for row in members],
            marker=_MARKERS[number % len(_MARKERS)], markersize=6, color=colour, linewidth=1.1,
            label=members[0].label if len(members) == 1 else name,
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
