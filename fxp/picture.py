"""Pictures of a run (matplotlib, no display)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from fxp.network import Network
from traces import InputError


def busiest_element(run: Any, sequence: int) -> int:
    """The element of layer 0 whose number of high-precision steps is nearest to the mean of those elements that
    have any."""
    high = (~run.layers[0].low(sequence)).sum(axis=0)
    if not high.any():
        return 0
    distance = np.where(high > 0, np.abs(high - high[high > 0].mean()), np.inf)
    return int(np.argmin(distance))


def cell_state(
    run: Any, network: Network, path: str | os.PathLike[str], sequence: int = 0, element: int | None = None
) -> None:
    """Draw the cell state of one element of layer 0 over time, with the steps computed at high precision marked.

    Parameters
    ----------
    run : Run or trace with its plan and cell states recorded
    network : Network
    path : picture to write (.png, .pdf or .svg)
    sequence : position of the sequence
    element : cell-state element; a typical one by default
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    element = busiest_element(run, sequence) if element is None else element
    low = run.layers[0].low(sequence)[:, element]
    values = run.layers[0].cell(sequence)[:, element].astype(np.float64)
    if network.formats.profile == "fixed":
        values = values / 2.0**11
    steps = np.arange(len(values))
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(steps, values, color="0.35", linewidth=1.2, label="cell state", zorder=2)
    axes.plot(
        steps[~low],
        values[~low],
        "o",
        markersize=4,
        color="C3",
        label=f"computed at {run.high} bits",
        zorder=3,
    )
    axes.plot(steps[low], values[low], ".", markersize=3, color="C0", label=f"computed at {run.low} bits", zorder=3)
    axes.set_xlabel("time-step")
    axes.set_ylabel("c")
    axes.set_title(
        f"Layer 0, element {element}, sequence {sequence}: {100 * float(low.mean()):.0f} % of the steps at "
        f"{run.low} bits"
    )
    axes.legend(loc="best", fontsize="small")
    target = Path(path)
    aside = target.with_name(f".{target.stem}-{os.getpid()}{target.suffix}")
    try:
        figure.savefig(aside, dpi=150)
        os.replace(aside, target)
    except (OSError, ValueError) as error:
        aside.unlink(missing_ok=True)
        raise InputError(f"{path}: picture cannot be written ({error})") from None
