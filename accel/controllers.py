"""Precision controllers: what decides, for every cell-state element and time-step, between high and low precision.

The classes here hold validated parameters; `encode` turns them into the arguments of the C functions in
`accel/controller.pyx`, which the kernels call inside the time loop. Rules: `docs/numerics.md`, section 7.
A user's own controller is any object with

- `reset(sequence, length)`, called at the start of a sequence; it may return the mask of the first step (else all
low). If it
  takes keyword arguments `layer`, `direction` or `hidden`, it gets them;
- `step(c, h)` (or `__call__`), called after every step with the layer's whole c (float32 or int16 [hidden]) and h
indices
  (int8 [output]); it returns the low mask of the next step (bool [hidden], True = low).

Each sequence, layer and direction works on a deep copy of the object.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np

from accel import controller as compiled
from traces import InputError
from traces import plan as plans

Count = int | float

MOST_STEPS = 2**62
"""More steps than any sequence has."""


@runtime_checkable
class PythonController(Protocol):
    """The protocol of a controller written by the user."""

    def reset(self, sequence: int, length: int) -> Any: ...


class Site(NamedTuple):
    """Where and for what a controller works: one sequence in one direction of one layer."""

    sequence: int  # sequence id
    length: int | None  # steps of the whole sequence; None: unknown
    layer: int
    direction: int  # 0 forward, 1 backward
    hidden: int
    high: int  # bits
    low: int  # bits
    profile: str  # "float32" or "fixed"
    output: int | None = None  # outputs of the layer in this direction; None: as many as elements
    inputs: int | None = None  # of the layer; None: unknown


@dataclass
class Encoded:
    """A controller as the C functions take it (see `accel/controller.pyx`)."""

    kind: int
    counts: np.ndarray  # int64 [8]
    reals: np.ndarray  # float32 [4]
    plan: np.ndarray  # uint8 [time, hidden]; [0, hidden] unless a schedule or calibrated
    first: int = 0  # step of the plan's first row


def _encoded(
    name: str,
    site: Site,
    counts: Sequence[int] = (),
    reals: Sequence[float] = (),
    plan: np.ndarray | None = None,
) -> Encoded:
    integers = np.zeros(8, np.int64)
    integers[: len(counts)] = counts
    numbers = np.zeros(4, np.float32)
    numbers[: len(reals)] = reals
    if plan is None:
        plan = np.zeros((0, site.hidden), np.uint8)
    return Encoded(compiled.KINDS[name], integers, numbers, plan)


def _require(condition: bool | np.bool_, message: str) -> None:
    if not condition:
        raise InputError(message)


def _rounded(value: float, bits: int) -> int:
    """The value in binary32 times 2^bits, exact, rounded to nearest, ties to even (int)."""
    return round(Fraction(float(np.float32(value))) * 2**bits)


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))


def _is_real(value: Any) -> bool:
    return _is_integer(value) or (isinstance(value, (float, np.floating)) and math.isfinite(value))


def _check_count(name: str, value: Count) -> None:
    good = value >= 1 if _is_integer(value) else isinstance(value, (float, np.floating)) and 0 < value <= 1
    _require(
        good,
        f"{name} is {value!r}: give a count of steps (an int >= 1) or a share of the sequence (a float in (0, 1])",
    )
    if _is_integer(value):
        _require(value < 2**31, f"{name} is {value!r}: a count of steps has to stay below 2**31")


class Controller:
    """Base of the built-in controllers. `parameters` are what a trace records."""

    needs_length: ClassVar[bool] = False
    windowed: ClassVar[bool] = False
    """Whether `window` depends on the steps, so that a long sequence asks for them piece by piece."""

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters by name, JSON-able (what a trace records)."""
        return asdict(self)  # type: ignore[call-overload]

    def encode(self, site: Site) -> Encoded:
        """Arguments of the C functions for one sequence, layer and direction. Raises InputError where it does not
        fit."""
        raise NotImplementedError

    def window(self, site: Site, start: int, stop: int) -> Encoded:
        """As `encode`, for the steps `start` to `stop` (exclusive) and the mask of the step after them."""
        return self.encode(site)

    def _unwrap(self) -> None:
        """NumPy scalars among the parameters as Python's own, which JSON and exact fractions know."""
        for name, value in list(vars(self).items()):
            if isinstance(value, np.generic):
                object.__setattr__(self, name, value.item())


@dataclass(frozen=True)
class Static(Controller):
    """Every element at `bits` in every step; `bits` is the network's high or low width."""

    bits: int = 8

    def __post_init__(self) -> None:
        self._unwrap()
        _require(
            _is_integer(self.bits) and 2 <= self.bits <= 8,
            f"Static: bits is {self.bits!r}, expected an int from 2 to 8",
        )

    def encode(self, site: Site) -> Encoded:
        _require(
            self.bits in (site.high, site.low),
            f"Static({self.bits}): the network has precisions {site.high} and {site.low}; choose one of them",
        )
        return _encoded("Static", site, [int(self.bits != site.high)])


@dataclass(frozen=True)
class Random(Controller):
    """Low with probability `low_share`, from a counter-based generator: the control for every comparison.

    The decision depends on seed, sequence id, layer, direction, step and element only.
    """

    low_share: float
    seed: int = 0

    def __post_init__(self) -> None:
        self._unwrap()
        _require(
            _is_real(self.low_share) and 0 <= self.low_share <= 1,
            f"Random: low_share is {self.low_share!r}, expected 0 to 1",
        )
        _require(
            _is_integer(self.seed) and -(2**63) <= self.seed < 2**63,
            f"Random: seed is {self.seed!r}, expected a 64-bit int",
        )

    def encode(self, site: Site) -> Encoded:
        key = compiled.key(int(self.seed), site.sequence, site.layer, site.direction)
        return _encoded("Random", site, [key, math.floor(Fraction(self.low_share) * 2**53)])


@dataclass(frozen=True)
class Peak(Controller):
    """The paper's state machine: profile an element's range, then high precision while it lies outside of it.

    beta, max_stable and max_peak default to the paper's values (preprint, Table 2: 0.1, 5 %, 5 %); the paper does not
    give `profile_steps`, 10 is this project's choice. Counts are ints, or shares of the sequence length.
    """

    beta: float = 0.1
    profile_steps: Count = 10
    max_stable: Count = 0.05
    max_peak: Count = 0.05

    def __post_init__(self) -> None:
        self._unwrap()
        _require(_is_real(self.beta) and 0 <= self.beta <= 8, f"Peak: beta is {self.beta!r}, expected 0 to 8")
        for name in ("profile_steps", "max_stable", "max_peak"):
            _check_count(f"Peak: {name}", getattr(self, name))

    @property
    def needs_length(self) -> bool:  # type: ignore[override]
        return not all(_is_integer(n) for n in (self.profile_steps, self.max_stable, self.max_peak))

    def encode(self, site: Site) -> Encoded:
        counts = [self._count(name, site) for name in ("profile_steps", "max_stable", "max_peak")]
        return _encoded("Peak", site, [*counts, _rounded(self.beta, 12)], [self.beta])

    def _count(self, name: str, site: Site) -> int:
        value = getattr(self, name)
        if _is_integer(value):
            return int(value)
        if site.length is None:
            raise InputError(
                f"Peak: {name} is a share of the sequence length, which is unknown here: give sequence_length"
            )
        return max(1, math.ceil(float(value) * site.length))


@dataclass(frozen=True)
class Delta(Controller):
    """High after a step that moved c by more than `threshold` (absolute) or `threshold * |c|` (relative)."""

    threshold: float
    relative: bool = True

    def __post_init__(self) -> None:
        self._unwrap()
        _require(
            _is_real(self.threshold) and 0 <= self.threshold <= 2**15,
            f"Delta: threshold is {self.threshold!r}, expected 0 to 32768",
        )
        _require(
            isinstance(self.relative, (bool, np.bool_)),
            f"Delta: relative is {self.relative!r}, expected True or False",
        )

    def encode(self, site: Site) -> Encoded:
        return _encoded(
            "Delta",
            site,
            [int(self.relative), _rounded(self.threshold, 12 if self.relative else 11)],
            [self.threshold],
        )


class Schedule(Controller):
    """Replays a plan.

    A plan of an opened trace is read piece by piece, an array is not copied.

    Parameters
    ----------
    plan : an opened trace, a run with its plan recorded, or a hand-made plan
        Hand-made: an array `[hidden]` (the same mask in every step) or `[time, hidden]` (time positions of the
        input; True = low) for
        a network of one layer and direction; a list of those (or of lists over directions), one entry a layer; or a
        dict from
        sequence id to any of these.
    """

    windowed = True

    def __init__(self, plan: Any):
        self.plan = plan
        self._rows_of: dict[int, int] | None = None
        if hasattr(plan, "layers") and hasattr(plan, "ids"):
            self._rows_of = {int(identity): row for row, identity in enumerate(plan.ids)}
        elif plan is None or isinstance(plan, (str, bytes)):
            raise InputError(
                "Schedule: give an opened trace (traces.open), a run with its plan recorded, or masks as arrays"
            )

    @property
    def parameters(self) -> dict[str, Any]:
        source = getattr(self.plan, "controller", None)
        if source is None or self._rows_of is None:
            return {"plan": "hand-made"}
        return {"plan": source if isinstance(source, dict) else str(source)}

    def rows(self, sequence: int, layer: int, direction: int, hidden: int) -> np.ndarray:
        """Masks of one sequence (its id), layer and direction: bool [time, hidden] in time positions ([1, hidden]:
        every step)."""
        where = f"Schedule: sequence {sequence}, layer {layer}, direction {direction}"
        source = self._recorded(sequence, layer, direction, where)
        if source is None:
            return _masks(_pick(self.plan, sequence, layer, direction, where), hidden, where)
        return _masks(source[0].low(source[1], direction), hidden, where)

    def _recorded(self, sequence: int, layer: int, direction: int, where: str) -> tuple[Any, int] | None:
        """Layer of a recorded plan and position of a sequence in it; None for a hand-made plan."""
        if self._rows_of is None:
            return None
        if sequence not in self._rows_of:
            raise InputError(f"{where}: the plan has no sequence of this id")
        _require(layer < len(self.plan.layers), f"{where}: the plan has {len(self.plan.layers)} layers")
        _require(
            direction < self.plan.layers[layer].directions, f"{where}: the plan has only the forward direction"
        )
        return self.plan.layers[layer], self._rows_of[sequence]

    def encode(self, site: Site) -> Encoded:
        return self.window(site, 0, site.length if site.length is not None else MOST_STEPS)

    def window(self, site: Site, start: int, stop: int) -> Encoded:
        """Masks of the steps `start` to `stop`, both included, in the order of processing; fewer where the plan ends.

        Recorded plans are read piece by piece, masks of one byte are not copied.
        """
        where = f"Schedule: sequence {site.sequence}, layer {site.layer}, direction {site.direction}"
        source = self._recorded(site.sequence, site.layer, site.direction, where)
        if source is None:
            masks = _masks(_pick(self.plan, site.sequence, site.layer, site.direction, where), site.hidden, where)
            rows = len(masks)
        else:
            recorded, number = source
            before = int(self.plan.offsets[number])
            rows = int(self.plan.offsets[number + 1]) - before
            if recorded.hidden_size != site.hidden:
                shape = (rows, recorded.hidden_size)
                raise InputError(f"{where}: mask of shape {shape}, expected [time, {site.hidden}]")
        length = site.length if site.length is not None else rows
        if rows > 1 and rows < length:
            raise InputError(
                f"Schedule: sequence {site.sequence} has {length} steps, its plan in layer {site.layer} only {rows}"
            )
        if rows > 1 and site.direction and rows != length:
            raise InputError(f"Schedule: sequence {site.sequence}: a backward plan has to cover the sequence exactly")
        last = min(stop + 1, rows) if rows > 1 else 1
        first = min(start, last) if rows > 1 else 0
        begin, end = (rows - last, rows - first) if site.direction else (first, last)
        if source is None:
            part = masks[begin:end]
        else:
            part = plans.unpack(recorded.packed(before + begin, before + end, site.direction), site.hidden)
        if rows == 1:
            part = np.repeat(part, min(stop, length) - start + 1, axis=0)
        part = part[::-1] if site.direction else part
        encoded = _encoded("Schedule", site, plan=np.ascontiguousarray(part).view(np.uint8))
        encoded.first = start
        return encoded


def _masks(mask: Any, hidden: int, where: str) -> np.ndarray:
    """Masks of a hand-made plan, one byte each: bool, or int8 or uint8 of 0 and 1, [time, hidden]."""
    mask = np.asarray(mask)
    if mask.dtype != bool:
        _require(mask.dtype.kind in "iu" and np.isin(mask, (0, 1)).all(), f"{where}: masks have to be booleans")
        mask = mask.astype(bool)
    mask = np.atleast_2d(mask)
    if mask.ndim != 2 or mask.shape[1] != hidden:
        raise InputError(f"{where}: mask of shape {mask.shape}, expected [time, {hidden}]")
    return mask


def _pick(plan: Any, sequence: int, layer: int, direction: int, where: str) -> Any:
    if isinstance(plan, Mapping):
        if sequence not in plan:
            raise InputError(f"{where}: the plan has no sequence of this id")
        plan = plan[sequence]
    if isinstance(plan, np.ndarray) and plan.ndim <= 2:
        if layer or direction:
            raise InputError(f"{where}: the plan is one array, so for one layer and direction only")
        return plan
    try:
        entry = plan[layer]
        if not (isinstance(entry, np.ndarray) and entry.ndim <= 2):
            entry = entry[direction]
        elif direction:
            raise IndexError
    except (IndexError, KeyError, TypeError):
        raise InputError(f"{where}: the plan has no such layer or direction") from None
    return entry


def describe(controller: Any) -> dict[str, Any]:
    """Name and parameters as a trace records them (a user's own controller: its class)."""
    if isinstance(controller, Controller):
        return {"name": controller.name, **controller.parameters}
    return {"name": f"{type(controller).__module__}.{type(controller).__qualname__}"}


def identity(controller: Any) -> dict[str, Any]:
    """What `describe` says, and the digest of the plan that a schedule replays: equal only for the same decisions."""
    plan: Any = getattr(controller, "plan", None)
    return {**describe(controller), **({"plan_digest": plan.digest()} if hasattr(plan, "digest") else {})}


def check(controller: Any) -> None:
    """Raises InputError unless `controller` is built in or has the protocol of a user's own."""
    if isinstance(controller, Controller):
        return
    if isinstance(controller, type) or not (
        hasattr(controller, "reset") and (hasattr(controller, "step") or callable(controller))
    ):
        raise InputError(
            f"controller is {controller!r}: expected accel.Static, Random, Peak, Delta, Calibrated, Schedule, or an "
            f"object with reset and step"
        )
