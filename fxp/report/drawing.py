"""Single figures of the material of a report."""

from __future__ import annotations

from typing import Any

from fxp import figures
from fxp.report.material import DIRECTIONS, Material
from traces import InputError

_PARTS = {
    "cell": ("cells",), "precision": ("maps",), "share-by-layer": (), "share-by-element": (), "share-by-position": (),
    "dwell": (), "error": ("errors",), "energy": ("estimate",), "cycles": ("estimate",), "loss": ("table",),
}  # fmt: skip
"""Kinds of figures, and what has to be gathered for each besides the plan."""


def parts_of(kind: str) -> tuple[str, ...]:
    """What `gather` has to make for a kind of figure; InputError for an unknown kind."""
    if kind not in _PARTS:
        raise InputError(f"figure {kind!r} is unknown; possible are {', '.join(_PARTS)}")
    return _PARTS[kind]


def draw(
    kind: str, material: Material, layer: int = 0, direction: int = 0, sequence: int = 0, element: int | None = None
) -> Any:
    """A figure of the report.

    Parameters
    ----------
    kind : see `fxp plot --help`
    layer, direction, sequence, element : what it shows; of the elements at hand, a middling one by default

    Raises
    ------
    InputError
        The material lacks what the figure shows; says which option provides it.
    """
    parts_of(kind)
    if layer >= len(material.usages) or direction >= len(material.usages[layer]):
        raise InputError(f"{material.title}: has no layer {layer} with direction {direction}")
    bits = material.bits
    place = f"Layer {layer}" + (f", {DIRECTIONS[direction]}" if len(material.usages[layer]) == 2 else "")
    used = material.usages[layer][direction]
    if kind == "cell":
        if material.cells is None:
            raise InputError(
                "the trace holds no cell states: give --model and --data, or record them (fxp run --record cell)"
            )
        chosen = material.elements[layer]
        column = 0 if element is not None else len(chosen) // 2
        where = layer, direction, sequence
        title = f"{place}, sequence {sequence}, element {chosen[column]}"
        return figures.cell_state(material.cells[where][:, column], material.low[where][:, column], title, 0, bits)
    if kind == "precision":
        title = f"{place}, sequence {sequence}, all elements"
        return figures.precision(material.maps[layer, direction, sequence], title, bits)
    if kind == "share-by-layer":
        return figures.share_by_layer(material.layer_shares)
    if kind == "share-by-element":
        return figures.share_by_element(used, f"{place}: by element")
    if kind == "share-by-position":
        return figures.share_by_position(used, f"{place}: by position")
    if kind == "dwell":
        return figures.dwell(used, f"{place}: dwell times", bits)
    if kind == "error":
        if material.errors is None:
            raise InputError("the error against the float network needs --model and --data")
        return figures.phase_errors(material.errors, bits)
    if kind == "loss":
        if material.table is None:
            raise InputError("there is no comparison to draw: give --compare, or --model and --data with labels")
        return figures.loss_against_share(material.table.rows, material.table.metric, material.table.unit)
    if not material.costs:
        raise InputError(f"{kind} needs --machine or --estimate")
    return figures.energy(material.costs) if kind == "energy" else figures.cycles(material.costs)
