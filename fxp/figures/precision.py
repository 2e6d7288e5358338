"""Where, when and for how long elements run at low precision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fxp.figures.canvas import HIGH, INK, LOW, MUTED, PAPER, headed, legend_above, percent_axis, sheet
from fxp.plans import Map, Usage

POINTS = 400
"""Most points of a curve; longer ones are merged to exact means of blocks."""


def precision(shown: Map, title: str, bits: tuple[int, int] = (8, 4)) -> Figure:
    """The precision of every element at every step of a sequence."""
    figure, axes = sheet(3.3)
    # High precision is opaque and low transparent, so that the picture suits any background.
    picture = np.empty((*shown.low.shape, 4))
    picture[..., :3] = to_rgb(HIGH)
    picture[..., 3] = 1 - shown.low
    axes.imshow(
        picture, aspect="auto", interpolation="none", origin="lower",
        extent=(-0.5, shown.steps - 0.5, -0.5, shown.elements - 0.5),
    )  # fmt: skip
    axes.set_xlabel("position in the sequence (steps)")
    axes.set_ylabel("element")
    headed(axes, title)
    merged = shown.element_block * shown.step_block > 1
    handles = [
        Patch(facecolor=HIGH, label=f"{bits[0]} bits" + (" (depth: share of the block)" if merged else "")),
        Patch(facecolor=PAPER, edgecolor=MUTED, label=f"{bits[1]} bits"),
    ]
    legend_above(axes, 2, handles=handles)
    return figure


def share_by_layer(shares: Sequence[tuple[str, float]]) -> Figure:
    """Low share of each layer and direction: (name, share)."""
    figure, axes = sheet(0.6 + 0.3 * len(shares), 0.75 if max(len(name) for name, _ in shares) < 10 else 1.35, 0.08)
    names, values = [name for name, _ in shares], [share for _, share in shares]
    axes.barh(names, values, height=0.6, color=LOW)
    for number, value in enumerate(values):
        inside = value > 0.8
        axes.text(
            value + (-0.01 if inside else 0.01), number, f"{100 * value:.1f} %", va="center",
            ha="right" if inside else "left", color=PAPER if inside else INK,
        )  # fmt: skip
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    percent_axis(axes.xaxis)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("low share of the element-steps")
    return figure


def share_by_element(used: Usage, title: str) -> Figure:
    """How the elements of a layer differ in their low share."""
    figure, axes = sheet()
    axes.hist(used.element_share, bins=20, range=(0, 1), color=LOW, rwidth=0.9)
    mean = used.low_share
    axes.axvline(mean, color=INK, linewidth=1.1, linestyle=(0, (4, 2)), label=f"mean {100 * mean:.1f} %")
    axes.set_xlim(0, 1)
    percent_axis(axes.xaxis)
    axes.grid(axis="y")
    axes.set_xlabel("low share of an element (bins of 5 points)")
    axes.set_ylabel("elements")
    headed(axes, title)
    legend_above(axes)
    return figure


def position_means(used: Usage) -> tuple[np.ndarray, np.ndarray, int]:
    """Positions, the low share there, and how many positions each value is the mean of."""
    longest = len(used.position_low)
    block = -(-longest // POINTS)
    edges = np.arange(0, longest, block)
    rows = np.add.reduceat(used.position_rows, edges)
    return edges, np.add.reduceat(used.position_low, edges) / (rows * used.hidden), block


def share_by_position(used: Usage, title: str) -> Figure:
    """The low share at each position of the sequences."""
    figure, axes = sheet(left=0.74)
    positions, share, _ = position_means(used)
    if len(positions) == 1:
        axes.plot(positions, share, "o", color=LOW)
    else:
        axes.plot(positions, share, color=LOW, linewidth=1.4)
    axes.axhline(used.low_share, color=INK, linewidth=1.1, linestyle=(0, (4, 2)), label="mean of all steps")
    axes.set_ylim(0, 1.02)
    axes.margins(x=0.01)
    percent_axis(axes.yaxis)
    axes.grid(axis="y")
    axes.set_xlabel("position in the sequence (steps)")
    axes.set_ylabel("low share")
    headed(axes, title)
    legend_above(axes)
    return figure


def run_classes(used: Usage) -> tuple[list[str], np.ndarray]:
    """Names of classes of run lengths (powers of two), and the share of all element-steps that lie in high (0) and low
    (1) runs of each: float64 [2, classes]."""
    longest = int(np.nonzero(used.runs.sum(axis=0))[0].max())
    edges = 2 ** np.arange(longest.bit_length())
    lengths = np.arange(used.runs.shape[1])
    steps = np.add.reduceat(used.runs * lengths, edges, axis=1)
    names = [f"{a}" if a == b else f"{a}\u2013{b}" for a, b in zip(edges, 2 * edges - 1, strict=True)]
    return names, steps / (used.steps * used.hidden)


def dwell(used: Usage, title: str, bits: tuple[int, int] = (8, 4)) -> Figure:
    """How long elements stay at one precision: the element-steps by the length of the run that they lie in."""
    figure, axes = sheet(left=0.74)
    names, share = run_classes(used)
    places = np.arange(len(names))
    for side, colour, shift in ((1, LOW, -0.21), (0, HIGH, 0.21)):
        axes.bar(places + shift, share[side], 0.4, color=colour, label=f"at {bits[side]} bits")
    axes.set_xticks(places, [name.split("\u2013")[0] for name in names], rotation=0 if len(names) <= 12 else 45)
    percent_axis(axes.yaxis)
    axes.grid(axis="y")
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel("length of the run (steps, from here to the next)")
    axes.set_ylabel("share of element-steps")
    headed(axes, title)
    legend_above(axes)
    return figure
