"""The first place in which two files of a kind differ, cause before effect. Files are read in blocks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import traces
from fxp.bits import Shown, shown, shown_plan, shown_values
from traces import InputError, Trace, schema
from traces.fields import Group, Node
from traces.ragged import position
from traces.schema import SCHEMAS

Pathlike = str | os.PathLike[str]

QUANTITIES = ("plan", "accumulators", "cell", "hidden")
"""Of one step, in the order in which they come about."""
VALUES = 1 << 20
"""Values of each file that are held at once."""
PROVENANCE = {
    "trace": ("controller", "seed", "package_version"),
    "model": ("name", "calibration", "origin", "licence"),
    "data": ("name", "origin", "licence"),
    "estimate": (),
}
"""Attributes that are named but do not make files differ: their digests leave them out, too."""


@dataclass(frozen=True)
class First:
    """The first difference.

    Attributes
    ----------
    quantity : str
        Array of a model or of data; plan, accumulators, cell, hidden, low_count or overflow_count of a trace.
    place : dict
        Where: sequence, id, step, position, layer, direction, element and more, as far as they apply.
    values : (Shown, Shown)
    """

    quantity: str
    place: dict[str, Any]
    values: tuple[Shown, Shown]


@dataclass
class Differences:
    """What is different between two files.

    Attributes
    ----------
    kind : str
    headers : list of (name, first value, second value)
        Attributes and shapes that differ.
    notes : list of (name, first value, second value)
        Differences that do not count: provenance, and quantities that only one of the files recorded.
    first : First or None
        The first difference in the content; None also where shapes forbid to compare it.
    compared : list of str
        Quantities that both files have.
    """

    kind: str
    headers: list[tuple[str, Any, Any]] = field(default_factory=list)
    notes: list[tuple[str, Any, Any]] = field(default_factory=list)
    first: First | None = None
    compared: list[str] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether the files say the same."""
        return not self.headers and self.first is None


def find(first: Pathlike, second: Pathlike, model: traces.Model | None = None) -> Differences:
    """Find the first difference between two files of a kind.

    Traces are compared sequence by sequence; in a sequence step by step, in a step layer by layer, in a layer from
    cause to effect (plan, accumulators, cell, hidden), then by element. Where a network is bidirectional, a layer needs
    the whole sequence of the one below: there, layers come before steps, the forward direction before the backward one,
    and steps in the order in which they were processed. Counts of a sequence come after its steps.

    Parameters
    ----------
    first, second : paths
    model : traces.Model, optional
        Gives accumulators and h indices of a trace as real numbers.

    Raises
    ------
    InputError
        A file cannot be read, or they are of different kinds.
    """
    with ExitStack() as stack:
        kinds: list[str] = []
        opened: list[Any] = []
        for path in (first, second):
            file = traces.open(path)
            if hasattr(file, "close"):
                stack.callback(file.close)
            opened.append(file)
            kinds.append(type(file).__name__.removesuffix("File").lower())
        if kinds[0] != kinds[1]:
            raise InputError(
                f"{os.fspath(second)}: is a {kinds[1]} file, but {os.fspath(first)} is a {kinds[0]} file"
            )
        if kinds[0] == "trace":
            return _traces(opened[0], opened[1], model)
        nodes = [stack.enter_context(schema.opened(path, kinds[0])) for path in (first, second)]
        found = Differences(kinds[0])
        _nodes(found, SCHEMAS[kinds[0]], nodes[0], nodes[1], "")
        return found


# Models, data, estimates: attribute by attribute, array by array, in the order of their schema


def _nodes(found: Differences, spec: Group, a: Node, b: Node, where: str) -> None:
    for attribute in spec.attributes:
        pair = a.attributes.get(attribute.name), b.attributes.get(attribute.name)
        if pair[0] != pair[1]:
            provenance = not where and attribute.name in PROVENANCE[found.kind]
            (found.notes if provenance else found.headers).append((where + attribute.name, *pair))
    for array in spec.arrays:
        _arrays(found, a.arrays.get(array.name), b.arrays.get(array.name), where + array.name)
    for child in spec.groups:
        if child.repeated:
            pair = len(a.lists.get(child.name, [])), len(b.lists.get(child.name, []))
            if pair[0] != pair[1]:
                found.headers.append((f"number of {where}{child.name}", *pair))
            for number, (x, y) in enumerate(zip(a.lists[child.name], b.lists[child.name], strict=False)):
                _nodes(found, child, x, y, f"{where}{child.name}/{number}/")
        elif (child.name in a.groups) != (child.name in b.groups):
            found.headers.append((where + child.name, child.name in a.groups, child.name in b.groups))
        elif child.name in a.groups:
            _nodes(found, child, a.groups[child.name], b.groups[child.name], f"{where}{child.name}/")


def _form(dataset: Any) -> str:
    return "absent" if dataset is None else f"{dataset.dtype} {list(dataset.shape)}"


def _arrays(found: Differences, a: Any, b: Any, name: str) -> None:
    if a is None and b is None:
        return
    if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
        found.headers.append((name, _form(a), _form(b)))
        return
    found.compared.append(name)
    if found.first is not None:
        return
    for start, x, y in _pieces(a, b):
        unequal = bits_of(x) != bits_of(y)
        if unequal.any():
            place = [int(axis) for axis in np.unravel_index(int(np.argmax(unequal)), unequal.shape)]
            values = shown(x[tuple(place)]), shown(y[tuple(place)])
            if a.shape:
                place[0] += start
            found.first = First(name, {"index": place} if a.shape else {}, values)
            return


def _pieces(a: Any, b: Any) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    if not a.shape:
        yield 0, np.asarray(a[()]), np.asarray(b[()])
        return
    step = max(1, VALUES // max(1, int(np.prod(a.shape[1:], dtype=np.int64))))
    for start in range(0, a.shape[0], step):
        yield start, a[start : start + step], b[start : start + step]


def bits_of(values: np.ndarray) -> np.ndarray:
    """Values to compare by their bits: floats as integers, so that -0 is not 0 and NaN equals itself."""
    values = np.asarray(values)
    return values.view(f"i{values.dtype.itemsize}") if values.dtype.kind == "f" else values


# Traces


def _traces(a: Trace, b: Trace, model: traces.Model | None) -> Differences:
    found = Differences("trace")
    for attribute in SCHEMAS["trace"].attributes:
        pair = getattr(a, attribute.name), getattr(b, attribute.name)
        if pair[0] != pair[1]:
            (found.notes if attribute.name in PROVENANCE["trace"] else found.headers).append((attribute.name, *pair))
    if not _same_shapes(found, a, b):
        return found
    if model is not None:
        digest = model.digest()
        if digest not in (a.model_digest, b.model_digest) and (a.model_digest or b.model_digest):
            raise InputError(f"the model (digest {digest[:12]}) is the model of neither trace")
    recorded = [{name for name in QUANTITIES[1:] if all(name in n.recorded for n in t.layers)} for t in (a, b)]
    for name in sorted(recorded[0] ^ recorded[1]):
        words = ["recorded" if name in side else "not recorded" for side in recorded]
        found.notes.append((name, words[0], words[1]))
    found.compared = [name for name in QUANTITIES if name == "plan" or name in recorded[0] & recorded[1]]
    both = max(layer.directions for layer in a.layers) == 2
    for sequence in range(len(a.ids)):
        place = (_first_of_layers if both else _first_of_steps)(a, b, sequence, found.compared)
        place = place or _counts(a, b, sequence)
        if place is not None:
            found.first = _described(a, b, sequence, model, place)
            break
    return found


def _same_shapes(found: Differences, a: Trace, b: Trace) -> bool:
    """Name differing shapes; False where the content cannot be compared."""
    before = len(found.headers)
    for name, x, y in (("ids", a.ids, b.ids), ("lengths", a.lengths, b.lengths)):
        if len(x) != len(y):
            found.headers.append((f"number of {name}", len(x), len(y)))
        elif (x != y).any():
            at = int(np.argmax(x != y))
            found.headers.append((f"{name}[{at}]", int(x[at]), int(y[at])))
    if len(a.layers) != len(b.layers):
        found.headers.append(("number of layers", len(a.layers), len(b.layers)))
    for number, layers in enumerate(zip(a.layers, b.layers, strict=False)):
        for name in ("input_size", "hidden_size", "output_size", "directions", "projected", "peepholes"):
            sizes = [getattr(layer, name) for layer in layers]
            if sizes[0] != sizes[1]:
                found.headers.append((f"layers/{number}/{name}", sizes[0], sizes[1]))
    return len(found.headers) == before and a.profile == b.profile


Place = tuple[str, int, int, int, tuple[int, ...]]
"""Quantity, layer, direction, position in the sequence (-1: none), and index in the row of that position."""


def _rows(trace: Trace, layer: int, direction: int, name: str, start: int, stop: int) -> np.ndarray:
    stored = trace.layers[layer]
    if name == "plan":
        return traces.plan.unpack(stored.packed(start, stop, direction), stored.hidden_size)
    return stored.rows(name, start, stop, direction)


def _block(trace: Trace, compared: list[str]) -> int:
    """Steps that are held at once."""
    wide = 8 if "accumulators" in compared else 1
    return max(1, VALUES // max(wide * layer.hidden_size for layer in trace.layers))


def _first_row(
    a: Trace, b: Trace, layer: int, direction: int, names: list[str], start: int, stop: int, last: bool
) -> tuple[int, str, tuple[int, ...]] | None:
    """First step of rows start to stop (backwards with `last`) in which a layer differs: (row, quantity, index)."""
    best: tuple[int, int] | None = None
    index: tuple[int, ...] = ()
    for rank, name in enumerate(names):
        x, y = (_rows(trace, layer, direction, name, start, stop) for trace in (a, b))
        unequal = bits_of(x) != bits_of(y)
        steps = np.flatnonzero(unequal.reshape(len(unequal), -1).any(axis=1))
        if not len(steps):
            continue
        at = len(unequal) - 1 - int(steps[-1]) if last else int(steps[0])
        if best is None or (at, rank) < best:
            best = at, rank
            row = unequal[int(steps[-1]) if last else at]
            index = tuple(int(axis) for axis in np.unravel_index(int(np.argmax(row)), row.shape))
    if best is None:
        return None
    return (stop - 1 - best[0] if last else start + best[0]), names[best[1]], index


def _first_of_steps(a: Trace, b: Trace, sequence: int, names: list[str]) -> Place | None:
    """Step by step, and in a step layer by layer (one direction)."""
    begin, end = a.bounds(sequence)
    block = _block(a, names)
    for start in range(begin, end, block):
        stop = min(start + block, end)
        best: tuple[int, Place] | None = None
        for layer in range(len(a.layers)):
            # A layer above counts only at an earlier step than those below.
            until = stop if best is None else best[0]
            hit = _first_row(a, b, layer, 0, names, start, until, False) if until > start else None
            if hit is not None:
                best = hit[0], (hit[1], layer, 0, hit[0] - begin, hit[2])
        if best is not None:
            return best[1]
    return None


def _first_of_layers(a: Trace, b: Trace, sequence: int, names: list[str]) -> Place | None:
    """Layer by layer, direction by direction, and in each in the order of processing."""
    begin, end = a.bounds(sequence)
    block = _block(a, names)
    for layer, stored in enumerate(a.layers):
        for direction in range(stored.directions):
            starts = range(begin, end, block)
            for start in reversed(starts) if direction else starts:
                hit = _first_row(a, b, layer, direction, names, start, min(start + block, end), bool(direction))
                if hit is not None:
                    return hit[1], layer, direction, hit[0] - begin, hit[2]
    return None


def _counts(a: Trace, b: Trace, sequence: int) -> Place | None:
    for layer, (x, y) in enumerate(zip(a.layers, b.layers, strict=True)):
        for direction in range(x.directions):
            for name in ("low_count", "overflow_count"):
                if getattr(x, name)[direction, sequence] != getattr(y, name)[direction, sequence]:
                    return name, layer, direction, -1, ()
    return None


def _described(a: Trace, b: Trace, sequence: int, model: traces.Model | None, found: Place) -> First:
    name, layer, direction, at, index = found
    number = position(sequence, len(a.ids))
    place: dict[str, Any] = {"sequence": number, "id": int(a.ids[number])}
    if at >= 0:
        place |= {"step": int(a.lengths[number]) - 1 - at if direction else at, "position": at}
    place |= {"layer": layer, "direction": ("forward", "backward")[direction]}
    if at < 0:
        counts = [int(getattr(t.layers[layer], name)[direction, number]) for t in (a, b)]
        return First(name, place, (shown(counts[0]), shown(counts[1])))
    hidden = a.layers[layer].hidden_size
    if name == "accumulators":
        place |= {"part": "xh"[index[0]], "gate": "ifgo"[index[1] // hidden], "element": index[1] % hidden}
        place["row"] = index[1]
    else:
        place["output" if name == "hidden" and a.layers[layer].projected else "element"] = index[0]
    values = []
    for trace in (a, b):
        row = int(trace.offsets[number]) + at
        value = _rows(trace, layer, direction, name, row, row + 1)[(0, *index)]
        if name == "plan":
            values.append(shown_plan(bool(value), trace.high, trace.low))
            continue
        low = False
        if name == "accumulators":
            low = bool(_rows(trace, layer, direction, "plan", row, row + 1)[0, index[1] % hidden])
        values.append(shown_values(name, value, trace, model, layer, direction, index, low))
    return First(name, place, (values[0], values[1]))
