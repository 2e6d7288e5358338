"""The calibrated controller: every element's sensitivity against one threshold, moved in each step by a readout neuron.

`docs/numerics.md`, 7.6; `fxp.calibrate` makes it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

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
class Calibrated(Controller):
    """Low where an element's score and the step's readout stay within a threshold; made by `fxp.calibrate`.

    Parameters
    ----------
    threshold : int
    scores : [layer][direction][hidden] ints
        The larger, the more an element's low precision costs: a logarithm, so that the readout adds to it.
    readout : [layer][direction] of `Readout` or of a dict with its fields, optional
        Without it the mask is the same in every step: a static mask.
    """

    threshold: int
    scores: tuple[tuple[tuple[int, ...], ...], ...]
    readout: tuple[tuple[Readout, ...], ...] | None = None

    def __post_init__(self) -> None:
        try:
            scores = tuple(tuple(tuple(_ints(side)) for side in layer) for layer in self.scores)
            readout = self.readout and tuple(tuple(_readout(side) for side in layer) for layer in self.readout)
        except (TypeError, KeyError):
            raise InputError(
                "Calibrated: scores are lists [layer][direction][hidden] of ints, the readout is a list "
                "[layer][direction] of weights, shift and bias"
            ) from None
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "readout", readout or None)
        require(is_integer(self.threshold), f"Calibrated: threshold is {self.threshold!r}, expected an int")
        object.__setattr__(self, "threshold", int(self.threshold))
        flat = [value for layer in scores for side in layer for value in side]
        empty = not scores or not all(layer and all(layer) for layer in scores)
        require(not empty, "Calibrated: a layer or direction has no scores")
        require(
            all(abs(value) < 2**30 for value in (self.threshold, *flat)),
            "Calibrated: threshold and scores have to stay below 2**30 in magnitude",
        )
        if self.readout is not None:
            require(
                [len(layer) for layer in self.readout] == [len(layer) for layer in scores],
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

    def with_threshold(self, threshold: int) -> Calibrated:
        """The same scores and readout with another threshold."""
        return Calibrated(threshold, self.scores, self.readout)

    def static(self, low_share: float) -> Calibrated:
        """Without the readout: the static mask nearest to a share of low elements (ties of scores go together)."""
        flat = np.sort([value for layer in self.scores for side in layer for value in side])
        count = round(low_share * flat.size)
        return Calibrated(int(flat[count - 1]) if count else int(flat[0]) - 1, self.scores)


def _ints(values: Any) -> list[int]:
    require(all(is_integer(value) for value in values), "Calibrated: scores have to be ints")
    return [int(value) for value in values]


def _readout(entry: Any) -> Readout:
    given = asdict(entry) if isinstance(entry, Readout) else entry
    weights, shift, bias = tuple(_ints(given["weights"])), given["shift"], given["bias"]
    require(all(abs(w) <= 127 for w in weights), "Calibrated: readout weights have to lie within ±127")
    require(is_integer(shift) and 0 <= shift <= 31, f"Calibrated: readout shift is {shift!r}, expected 0 to 31")
    require(is_integer(bias) and abs(bias) < 2**30, f"Calibrated: readout bias is {bias!r}, expected less than 2**30")
    return Readout(weights, int(shift), int(bias))
