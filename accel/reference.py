"""Slow twins of the built-in precision controllers, for the reference engine.

Written from section 7 of ``docs/numerics.md`` in plain Python: integers stay Python integers, every binary32
step is one operation on NumPy float32 scalars. No code is shared with the compiled controllers, so that the
two can be compared bit by bit.

A twin serves one sequence, layer and direction. Masks are lists of bool, one an element of the cell state,
True where the element's step runs at low precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from traces.errors import InputError

MASK64 = 2**64 - 1

Cell = Any
"""One element of the cell state: np.float32 (profile ``float32``) or int (profile ``fixed``)."""


def rne(value: float) -> int:
    """Integer nearest to a finite binary32 or binary64 value, ties to even; exact."""
    return round(float(value))


def count_of(value: int | float, length: int | None) -> int:
    """Number of steps meant by an int (a count) or a float in (0, 1] (a share of ``length`` steps)."""
    if not isinstance(value, (int, np.integer)):
        if length is None:
            raise InputError(f"a share of the sequence ({value}) needs its length; give sequence_length")
        return max(1, math.ceil(float(value) * length))
    return int(value)


def mix(value: int) -> int:
    """One step of SplitMix64 on an unsigned 64-bit integer: advance by the golden gamma, then finalise."""
    value = (value + 0x9E3779B97F4A7C15) & MASK64
    value ^= value >> 30
    value = (value * 0xBF58476D1CE4E5B9) & MASK64
    value ^= value >> 27
    value = (value * 0x94D049BB133111EB) & MASK64
    return value ^ (value >> 31)


@dataclass(frozen=True)
class Place:
    """Where a twin decides; ``length`` is None while the whole length of a stream is unknown."""

    profile: str
    hidden: int
    length: int | None
    sequence: int
    layer: int
    direction: int
    high: int
    low: int

    @property
    def fixed(self) -> bool:
        return self.profile == "fixed"

    def word(self, value: Cell) -> int:
        """A cell value as a signed 32-bit word: the integer itself, or the bit pattern of the float32."""
        return int(value) if self.fixed else int(np.float32(value).view(np.int32))

    def cell(self, word: int) -> Cell:
        """The cell value of a word, the inverse of ``word``."""
        return int(word) if self.fixed else np.int32(word).view(np.float32)

    def zero(self) -> Cell:
        return 0 if self.fixed else np.float32(0)


class Twin(Protocol):
    """What the reference engine asks of a controller."""

    def first(self) -> list[bool]:
        """Low mask of step 0 (of the next step after ``restore``)."""

    def enter(self, mask: list[bool], x: Sequence[int], h: Sequence[int]) -> list[bool]:
        """Low mask of the step that begins: `mask`, or what its input indices and the outputs before it make of it."""

    def step(self, c: Sequence[Cell], h: Sequence[int]) -> list[bool]:
        """Low mask of the next step, from the cell state and output indices that a step left behind."""

    def words(self) -> np.ndarray:
        """State as int32 [4, hidden], the form shared by all engines."""

    def restore(self, words: np.ndarray, steps: int) -> None:
        """Take up a state given by ``words`` after ``steps`` processed steps."""


class Ahead:
    """A controller whose mask is ready before the step: nothing is decided as it begins."""

    def enter(self, mask: list[bool], x: Sequence[int], h: Sequence[int]) -> list[bool]:
        return mask


class StepTwin(Ahead):
    """A controller whose decisions depend on nothing but the number of the step."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.steps = 0

    def decide(self, step: int) -> list[bool]:
        raise NotImplementedError

    def first(self) -> list[bool]:
        return self.decide(self.steps)

    def step(self, c: Sequence[Cell], h: Sequence[int]) -> list[bool]:
        self.steps += 1
        return self.decide(self.steps)

    def words(self) -> np.ndarray:
        return np.zeros((4, self.place.hidden), np.int32)

    def restore(self, words: np.ndarray, steps: int) -> None:
        self.steps = int(steps)


class StaticTwin(StepTwin):
    """Section 7.1: one precision throughout."""

    def __init__(self, controller: Any, place: Place) -> None:
        super().__init__(place)
        if controller.bits not in (place.high, place.low):
            raise InputError(
                f"Static({controller.bits}) fits no precision of the model; use {place.high} or {place.low}"
            )
        self.is_low = controller.bits != place.high

    def decide(self, step: int) -> list[bool]:
        return [self.is_low] * self.place.hidden


class RandomTwin(StepTwin):
    """Section 7.2: a hash of seed, sequence, layer, direction, step and element against a share."""

    def __init__(self, controller: Any, place: Place) -> None:
        super().__init__(place)
        # The product is exact: it only moves the exponent.
        self.limit = math.floor(controller.low_share * 2.0**53)
        key = mix(int(controller.seed) & MASK64)
        key = mix(key ^ (place.sequence & MASK64))
        self.key = mix(key ^ (2 * place.layer + place.direction))

    def decide(self, step: int) -> list[bool]:
        at_step = mix(self.key ^ step)
        return [(mix(at_step ^ k) >> 11) < self.limit for k in range(self.place.hidden)]


class ScheduleTwin(StepTwin):
    """Section 7.5: a plan given by time position; a plan of one row holds at every position."""

    def __init__(self, controller: Any, place: Place) -> None:
        super().__init__(place)
        self.rows = controller.rows(place.sequence, place.layer, place.direction, place.hidden)

    def decide(self, step: int) -> list[bool]:
        length = len(self.rows)
        if length == 1:
            return [bool(low) for low in self.rows[0]]
        if step >= length:
            # No step follows the last one; the mask after it is never used.
            return [False] * self.place.hidden
        position = length - 1 - step if self.place.direction else step
        return [bool(low) for low in self.rows[position]]


PROFILING, STABLE, PEAK = 0, 1, 2


@dataclass
class Watch:
    """State of the Peak rule for one element; the window is empty while both ends are None."""

    phase: int = PROFILING
    counter: int = 0
    minimum: Cell = None
    maximum: Cell = None

    def enter(self, phase: int) -> None:
        self.phase = phase
        self.counter = 0
        if phase == PROFILING:
            self.minimum = self.maximum = None

    def join(self, c: Cell) -> None:
        if self.minimum is None or c < self.minimum:
            self.minimum = c
        if self.maximum is None or c > self.maximum:
            self.maximum = c


class PeakTwin(Ahead):
    """Section 7.3: high precision while the cell state is outside its profiled range."""

    def __init__(self, controller: Any, place: Place) -> None:
        self.place = place
        self.beta = np.float32(controller.beta)
        self.beta_fixed = rne(float(self.beta) * 2.0**12)
        self.profile_steps = count_of(controller.profile_steps, place.length)
        self.max_stable = count_of(controller.max_stable, place.length)
        self.max_peak = count_of(controller.max_peak, place.length)
        self.watches = [Watch() for _ in range(place.hidden)]

    def outside(self, watch: Watch, c: Cell) -> bool:
        """Whether c lies beyond the window widened on either side by beta times its range."""
        if self.place.fixed:
            margin = (self.beta_fixed * (watch.maximum - watch.minimum) + 2**11) >> 12
        else:
            margin = self.beta * (watch.maximum - watch.minimum)
        return bool(c > watch.maximum + margin or c < watch.minimum - margin)

    def advance(self, watch: Watch, c: Cell) -> None:
        watch.counter += 1
        if watch.phase == PROFILING:
            watch.join(c)
            if watch.counter == self.profile_steps:
                watch.enter(STABLE)
            return
        outside = self.outside(watch, c)
        limit = self.max_stable if watch.phase == STABLE else self.max_peak
        if watch.phase == STABLE and outside:
            watch.enter(PEAK)
        elif watch.phase == PEAK and not outside:
            watch.enter(STABLE)
        elif watch.counter > limit:
            watch.enter(PROFILING)

    def first(self) -> list[bool]:
        return [watch.phase != PEAK for watch in self.watches]

    def step(self, c: Sequence[Cell], h: Sequence[int]) -> list[bool]:
        for watch, value in zip(self.watches, c, strict=True):
            self.advance(watch, value)
        return self.first()

    def words(self) -> np.ndarray:
        words = np.zeros((4, self.place.hidden), np.int32)
        for k, watch in enumerate(self.watches):
            words[0, k] = watch.phase
            words[1, k] = watch.counter
            if watch.minimum is not None:
                words[2, k] = self.place.word(watch.minimum)
                words[3, k] = self.place.word(watch.maximum)
        return words

    def restore(self, words: np.ndarray, steps: int) -> None:
        for k, watch in enumerate(self.watches):
            watch.phase = int(words[0, k])
            watch.counter = int(words[1, k])
            # The first profiled step fills the window, so it is empty exactly at the start of profiling.
            empty = watch.phase == PROFILING and watch.counter == 0
            watch.minimum = None if empty else self.place.cell(words[2, k])
            watch.maximum = None if empty else self.place.cell(words[3, k])


class DeltaTwin(Ahead):
    """Section 7.4: high precision after a large change of the cell state."""

    def __init__(self, controller: Any, place: Place) -> None:
        self.place = place
        self.threshold = np.float32(controller.threshold)
        self.relative = bool(controller.relative)
        self.previous: list[Cell] = [place.zero()] * place.hidden
        self.steps = 0

    def changed(self, c: Cell, previous: Cell) -> bool:
        """Whether the change from ``previous`` to c exceeds the threshold."""
        change = abs(c - previous)
        if self.place.fixed:
            theta = float(self.threshold)
            if self.relative:
                return change * 2**12 > rne(theta * 2.0**12) * abs(c)
            return change > rne(theta * 2.0**11)
        return bool(change > (self.threshold * abs(c) if self.relative else self.threshold))

    def first(self) -> list[bool]:
        if self.steps:
            raise ValueError("Delta's next mask is part of the stream's state, not of the controller's words")
        return [True] * self.place.hidden

    def step(self, c: Sequence[Cell], h: Sequence[int]) -> list[bool]:
        low = [not self.changed(now, before) for now, before in zip(c, self.previous, strict=True)]
        self.previous = list(c)
        self.steps += 1
        return low

    def words(self) -> np.ndarray:
        words = np.zeros((4, self.place.hidden), np.int32)
        words[0] = [self.place.word(value) for value in self.previous]
        return words

    def restore(self, words: np.ndarray, steps: int) -> None:
        self.previous = [self.place.cell(word) for word in words[0]]
        self.steps = int(steps)


class CalibratedTwin(Ahead):
    """Section 7.6: scores against a threshold that a readout of h moves."""

    def __init__(self, controller: Any, place: Place) -> None:
        self.place = place
        self.scores = [int(v) for v in controller.scores[place.layer][place.direction]]
        self.threshold = int(controller.threshold)
        self.neuron = None if controller.readout is None else controller.readout[place.layer][place.direction]

    def decide(self, h: Sequence[int]) -> list[bool]:
        moved = 0
        if self.neuron is not None:
            total = sum(int(w) * int(v) for w, v in zip(self.neuron.weights, h, strict=False))
            moved = total // 2**self.neuron.shift + self.neuron.bias
        return [score + moved <= self.threshold for score in self.scores]

    def first(self) -> list[bool]:
        return self.decide([])

    def step(self, c: Sequence[Cell], h: Sequence[int]) -> list[bool]:
        return self.decide(h)

    def words(self) -> np.ndarray:
        return np.zeros((4, self.place.hidden), np.int32)

    def restore(self, words: np.ndarray, steps: int) -> None:
        """Nothing is kept: the mask of the next step is part of the stream's state."""


class ForeseenTwin:
    """Section 7.7: scores and each element's readout of the step's own activations against a threshold."""

    def __init__(self, controller: Any, place: Place) -> None:
        self.place = place
        self.threshold = int(controller.threshold)
        self.scores = [int(v) for v in controller.scores[place.layer][place.direction]]
        self.part = controller.element_readout[place.layer][place.direction]
        self.mask = [True] * place.hidden

    def enter(self, mask: list[bool], x: Sequence[int], h: Sequence[int]) -> list[bool]:
        read = [int(x[j]) for j in self.part.x_columns] + [int(h[j]) for j in self.part.h_columns]
        self.mask = []
        for score, bias, weights in zip(self.scores, self.part.bias, self.part.weights, strict=True):
            total = sum(int(w) * a for w, a in zip(weights, read, strict=True))
            self.mask.append(score + bias + total // 2**self.part.shift <= self.threshold)
        return self.mask

    def first(self) -> list[bool]:
        return self.mask

    def step(self, c: Sequence[Cell], h: Sequence[int]) -> list[bool]:
        return self.mask

    def words(self) -> np.ndarray:
        return np.zeros((4, self.place.hidden), np.int32)

    def restore(self, words: np.ndarray, steps: int) -> None:
        """Nothing is kept."""


def calibrated_twin(controller: Any, place: Place) -> Twin:
    """The twin of either form of Calibrated."""
    return (CalibratedTwin if controller.element_readout is None else ForeseenTwin)(controller, place)


TWINS: dict[str, Callable[[Any, Place], Twin]] = {
    "Static": StaticTwin,
    "Random": RandomTwin,
    "Peak": PeakTwin,
    "Delta": DeltaTwin,
    "Schedule": ScheduleTwin,
    "Calibrated": calibrated_twin,
}


def twin(
    controller: Any,
    *,
    profile: str,
    hidden: int,
    length: int | None,
    sequence: int,
    layer: int,
    direction: int,
    high: int,
    low: int,
) -> Twin:
    """Slow twin of a built-in controller for one sequence, layer and direction.

    Parameters
    ----------
    controller : Static, Random, Peak, Delta, Calibrated or Schedule
        The controller whose parameters the twin takes over; told apart by the name of its class.
    profile : {"float32", "fixed"}
        Numeric profile: the format of the cell state.
    hidden : int
        Hidden size of the layer.
    length : int or None
        Steps of the whole sequence, the base of counts given as shares; None if unknown.
    sequence : int
        Id of the sequence.
    layer, direction : int
        Layer from 0; 0 forward, 1 backward.
    high, low : int
        Bits of the two precisions.

    Raises
    ------
    InputError
        If the class is not a built-in one, ``Static`` names a width that the model does not have, or a share
        meets an unknown length.
    """
    name = type(controller).__name__
    if name not in TWINS:
        raise InputError(f"no reference twin of controller {name}; use one of {', '.join(TWINS)}")
    return TWINS[name](controller, Place(profile, hidden, length, int(sequence), layer, direction, high, low))
