"""The calibrated controller: every element's sensitivity against one threshold, moved in each step by readouts.

`docs/numerics.md`, 7.6 and 7.7; `fxp.calibrate` makes it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from accel.controller import MOST_COLUMNS
from accel.controllers import Controller, Encoded, Site
from accel.controllers import _encoded as encoded
from accel.controllers import _is_integer as is_integer
from accel.controllers import _require as require
from traces import InputError


@dataclass(frozen=True)
class Readout:
    """A neuron that reads the h indices of one direction of a layer and moves the threshold of the whole next step.

    weights : ints within +-127, one an output; shift : 0 to 31; bias : int.
    """

    weights: tuple[int, ...]
    shift: int
    bias: int


@dataclass(frozen=True)
class ElementReadout:
    """A readout of its own for every element of one direction of a layer; all read the same few activations of a step.

    x_columns, h_columns : ascending ints, of the step's input indices and of the h indices before it
    weights : [hidden] tuples of ints within +-127, one a column, those of x first
    bias : [hidden] ints
    shift : 0 to 31
    """

    x_columns: tuple[int, ...]
    h_columns: tuple[int, ...]
    weights: tuple[tuple[int, ...], ...]
    bias: tuple[int, ...]
    shift: int


@dataclass(frozen=True)
class Calibrated(Controller):
    """Low where an element's score and the step's readout stay within a threshold; made by `fxp.calibrate`.

    Parameters
    ----------
    threshold : int
    scores : [layer][direction][hidden] ints
        The larger, the more an element's low precision costs: a logarithm, so that the readout adds to it.
    readout : [layer][direction] of `Readout` or of a dict with its fields, optional
        Without any readout the mask is the same in every step: a static mask.
    element_readout : [layer][direction] of `ElementReadout` or of a dict with its fields, optional
        In place of `readout`.
    """

    threshold: int
    scores: tuple[tuple[tuple[int, ...], ...], ...]
    readout: tuple[tuple[Readout, ...], ...] | None = None
    element_readout: tuple[tuple[ElementReadout, ...], ...] | None = None

    def __post_init__(self) -> None:
        try:
            scores = tuple(tuple(tuple(_ints(side)) for side in layer) for layer in self.scores)
            readout = self.readout and tuple(tuple(_readout(side) for side in layer) for layer in self.readout)
            own = self.element_readout and tuple(
                tuple(_element_readout(side) for side in layer) for layer in self.element_readout
            )
        except (TypeError, KeyError):
            raise InputError(
                "Calibrated: scores are lists [layer][direction][hidden] of ints, the readout is a list "
                "[layer][direction] of weights, shift and bias, the element readout one of x_columns, h_columns, "
                "weights, bias and shift"
            ) from None
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "readout", readout or None)
        object.__setattr__(self, "element_readout", own or None)
        require(not (readout and own), "Calibrated: give a readout or an element readout, not both")
        require(is_integer(self.threshold), f"Calibrated: threshold is {self.threshold!r}, expected an int")
        object.__setattr__(self, "threshold", int(self.threshold))
        flat = [value for layer in scores for side in layer for value in side]
        empty = not scores or not all(layer and all(layer) for layer in scores)
        require(not empty, "Calibrated: a layer or direction has no scores")
        require(
            all(abs(value) < 2**30 for value in (self.threshold, *flat)),
            "Calibrated: threshold and scores have to stay below 2**30 in magnitude",
        )
        for parts in (self.readout, self.element_readout):
            require(
                parts is None or [len(layer) for layer in parts] == [len(layer) for layer in scores],
                "Calibrated: the readout has to have one entry for each layer and direction of the scores",
            )

    def encode(self, site: Site) -> Encoded:
        where = f"Calibrated: layer {site.layer}, direction {site.direction}"
        require(
            site.layer < len(self.scores) and site.direction < len(self.scores[site.layer]),
            f"{where}: the controller has no scores for it; it was made for another network",
        )
        scores = np.array(self.scores[site.layer][site.direction], np.int32)
        require(
            scores.size == site.hidden,
            f"{where}: {scores.size} scores for {site.hidden} elements; it was made for another network",
        )
        if self.element_readout is not None:
            return _foreseen(self.threshold, scores, self.element_readout[site.layer][site.direction], site, where)
        neuron = None if self.readout is None else self.readout[site.layer][site.direction]
        weights = np.array(() if neuron is None else neuron.weights, np.int8)
        outputs = site.hidden if site.output is None else site.output
        require(weights.size <= outputs, f"{where}: {weights.size} readout weights for {outputs} outputs")
        plan = np.zeros(-(-(4 * site.hidden + weights.size) // site.hidden) * site.hidden, np.uint8)
        plan[: 4 * site.hidden] = scores.view(np.uint8)
        plan[4 * site.hidden : 4 * site.hidden + weights.size] = weights.view(np.uint8)
        moving = (0, 0) if neuron is None else (neuron.bias, neuron.shift)
        counts = [self.threshold, *moving, weights.size]
        return encoded("Calibrated", site, counts, plan=plan.reshape(-1, site.hidden))

    @property
    def parameters(self) -> dict[str, Any]:
        record = super().parameters
        if self.element_readout is None:
            del record["element_readout"]  # as files have recorded it since before there were any
        return record

    def with_threshold(self, threshold: int) -> Calibrated:
        """The same scores and readout with another threshold."""
        return replace(self, threshold=threshold)

    @property
    def is_mask(self) -> bool:
        """Whether decisions are the same in every step."""
        return self.readout is None and self.element_readout is None

    def static(self, low_share: float) -> Calibrated:
        """Without the readout: the static mask nearest to a share of low elements (ties of scores go together)."""
        flat = np.sort([value for layer in self.scores for side in layer for value in side])
        count = round(low_share * flat.size)
        return Calibrated(int(flat[count - 1]) if count else int(flat[0]) - 1, self.scores)


def _ints(values: Any) -> list[int]:
    require(all(is_integer(value) for value in values), "Calibrated: scores have to be ints")
    return [int(value) for value in values]


def _check_products(weights: Iterable[int], shift: Any) -> None:
    require(all(abs(w) <= 127 for w in weights), "Calibrated: readout weights have to lie within ±127")
    require(is_integer(shift) and 0 <= shift <= 31, f"Calibrated: readout shift is {shift!r}, expected 0 to 31")


def _readout(entry: Any) -> Readout:
    given = asdict(entry) if isinstance(entry, Readout) else entry
    weights, shift, bias = tuple(_ints(given["weights"])), given["shift"], given["bias"]
    _check_products(weights, shift)
    require(is_integer(bias) and abs(bias) < 2**30, f"Calibrated: readout bias is {bias!r}, expected less than 2**30")
    return Readout(weights, int(shift), int(bias))


def _element_readout(entry: Any) -> ElementReadout:
    given = vars(entry) if isinstance(entry, ElementReadout) else entry
    x, h, bias = (tuple(_ints(given[name])) for name in ("x_columns", "h_columns", "bias"))
    weights, shift = tuple(tuple(_ints(row)) for row in given["weights"]), given["shift"]
    for columns in (x, h):
        require(
            all(a < b for a, b in itertools.pairwise((-1, *columns))),
            "Calibrated: columns of an element readout have to be ascending and at least 0",
        )
    count = len(x) + len(h)
    require(count <= MOST_COLUMNS, f"Calibrated: an element readout reads {count} columns, at most {MOST_COLUMNS}")
    require(
        all(len(row) == count for row in weights) and len(weights) == len(bias),
        "Calibrated: an element readout has a bias and a weight for each column of every element",
    )
    _check_products(itertools.chain.from_iterable(weights), shift)
    require(all(abs(b) < 2**30 for b in bias), "Calibrated: readout biases have to stay below 2**30 in magnitude")
    return ElementReadout(x, h, weights, bias, int(shift))


def _foreseen(threshold: int, scores: np.ndarray, part: ElementReadout, site: Site, where: str) -> Encoded:
    """Arguments of `entry_mask` (`accel/controller.pyx`)."""
    outputs = site.hidden if site.output is None else site.output
    for name, columns, size in (("x", part.x_columns, site.inputs), ("h", part.h_columns, outputs)):
        require(
            not columns or (size is not None and columns[-1] < size),
            f"{where}: the element readout reads {name}[{columns[-1] if columns else 0}], of {size}; it was made for "
            "another network",
        )
    require(
        len(part.weights) == site.hidden,
        f"{where}: {len(part.weights)} element readouts for {site.hidden} elements; it was made for another network",
    )
    parts = (
        scores + np.array(part.bias, np.int32),
        np.array((*part.x_columns, *part.h_columns), np.int32),
        np.array(part.weights, np.int8).reshape(-1),
    )
    data = np.concatenate([values.view(np.uint8) for values in parts])
    plan = np.zeros(-(-data.size // site.hidden) * site.hidden, np.uint8)
    plan[: data.size] = data
    counts = [threshold, len(part.x_columns), len(part.h_columns), part.shift]
    return encoded("Foreseen", site, counts, plan=plan.reshape(-1, site.hidden))
