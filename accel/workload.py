"""What an accelerator has to run: layer shapes, sequence lengths, and the precision of every element."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import traces
from accel import control as controls
from accel.control import Control
from traces import InputError, plan

BLOCK = 1 << 21
"""Bytes of a plan held at once."""

Rows = Callable[[int, int, int, int], np.ndarray]
"""Rows of a plan: (layer, direction, start, stop) -> uint8 [rows, ceil(H / 8)], as in a trace file."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a layer, and the precisions at which it runs (bits)."""

    input_size: int
    hidden_size: int
    output_size: int
    directions: int = 1
    projected: bool = False
    high: int = 8
    low: int = 4
    peepholes: bool = False

    @property
    def packed_width(self) -> int:
        """Bytes of a packed row."""
        return (self.hidden_size + 7) // 8

    @property
    def peephole_weights(self) -> int:
        """Weights from the cell state to the gates i, f and o of one direction."""
        return 3 * self.hidden_size * self.peepholes


@dataclass(frozen=True)
class Workload:
    """Layers, sequences and a plan.

    Attributes
    ----------
    layers : tuple of Shape
    lengths : int64 [S]
        Steps of each sequence.
    rows : callable
        Reads packed rows of the plan.
    accumulator_bits : int or None
    control : Control
        What the controller needs of the hardware.
    digest : str
        Digest of the trace, or "".
    name : str
    controller : str or None
        Name of the controller that made the plan.
    """

    layers: tuple[Shape, ...]
    lengths: np.ndarray
    rows: Rows
    accumulator_bits: int | None = None
    control: Control = field(default_factory=Control)
    digest: str = ""
    name: str = ""
    controller: str | None = None

    @property
    def steps(self) -> int:
        """Time-steps of all sequences."""
        return int(self.lengths.sum())

    @property
    def element_steps(self) -> int:
        """Element-steps of all layers and directions."""
        return self.steps * sum(shape.directions * shape.hidden_size for shape in self.layers)

    def low_share(self) -> float:
        """Low element-steps of the plan over all element-steps."""
        low = 0
        for layer, shape in enumerate(self.layers):
            rows = max(1, BLOCK // shape.packed_width)
            for direction in range(shape.directions):
                for start in range(0, self.steps, rows):
                    low += plan.count(self.rows(layer, direction, start, min(start + rows, self.steps)))
        return low / self.element_steps

    def fixed(self, bits: Sequence[int] | int) -> Workload:
        """The same work with every element at `bits` bits (one number, or one a layer)."""
        each = [bits] * len(self.layers) if isinstance(bits, int) else list(bits)
        layers = tuple(replace(shape, high=b, low=b) for shape, b in zip(self.layers, each, strict=True))
        return replace(self, layers=layers, rows=constant_rows(layers, False), control=Control(controls.NONE))

    def planned(self, rows: Rows, control: Control | None = None) -> Workload:
        """The same work with another plan, and by another control if one is given."""
        return replace(self, rows=rows, control=self.control if control is None else control)


@dataclass(frozen=True)
class Constant:
    """Rows of a plan in which every element is low, or none is. Equal ones compare equal."""

    hidden_sizes: tuple[int, ...]
    low: bool

    def __call__(self, layer: int, direction: int, start: int, stop: int) -> np.ndarray:
        row = np.packbits(np.full(self.hidden_sizes[layer], self.low), bitorder="little")
        return np.broadcast_to(row, (stop - start, len(row)))


def constant_rows(layers: Sequence[Shape], low: bool) -> Rows:
    """A plan in which every element is low, or none is."""
    return Constant(tuple(shape.hidden_size for shape in layers), low)


def synthetic(
    layers: Sequence[Shape], lengths: Sequence[int], low_share: float, seed: int = 0, dwell: float = 1.0
) -> Workload:
    """A workload whose elements are low with a given probability.

    Parameters
    ----------
    layers, lengths
        Topology, and steps of each sequence.
    low_share : float
        Probability of low precision.
    seed : int
    dwell : float
        Mean number of neighbouring elements that share a decision (1: independent elements).
    """
    shapes = tuple(layers)
    total = int(np.sum(lengths))
    plans: dict[tuple[int, int], np.ndarray] = {}

    def packed(layer: int, direction: int) -> np.ndarray:
        if (layer, direction) not in plans:
            generator = np.random.Generator(np.random.Philox(key=[seed, layer * 2 + direction]))
            shape = (total, shapes[layer].hidden_size)
            low = generator.random(shape) < low_share
            if dwell > 1:
                fresh = generator.random(shape) < 1 / dwell
                fresh[:, 0] = True
                latest = np.maximum.accumulate(np.where(fresh, np.arange(shape[1]), 0), axis=1)
                low = np.take_along_axis(low, latest, axis=1)
            plans[layer, direction] = np.packbits(low, axis=1, bitorder="little")
        return plans[layer, direction]

    return Workload(
        layers=shapes,
        lengths=np.asarray(lengths, np.int64),
        rows=lambda layer, direction, start, stop: packed(layer, direction)[start:stop],
        name=f"synthetic, {low_share:.0%} low",
    )


@contextmanager
def opened(source: Any) -> Iterator[Workload]:
    """The workload of a trace file (by path), an opened trace, a run in memory, or a workload itself.

    Raises
    ------
    InputError
        Not a trace, or a run whose plan was not recorded.
    """
    if isinstance(source, Workload):
        yield source
    elif isinstance(source, (str, os.PathLike)):
        with traces.open(source, kind="trace") as trace:
            yield _of(trace, os.fspath(source))
    else:
        yield _of(source, "")


def _of(trace: Any, name: str) -> Workload:
    try:
        layers = tuple(
            Shape(
                input_size=int(layer.input_size),
                hidden_size=int(layer.hidden_size),
                output_size=int(layer.output_size),
                directions=int(layer.directions),
                projected=bool(layer.projected),
                high=int(trace.high),
                low=int(trace.low),
                peepholes=bool(getattr(layer, "peepholes", False)),
            )
            for layer in trace.layers
        )
        lengths = np.asarray(trace.lengths, np.int64)
        sources = [layer.packed for layer in trace.layers]
    except AttributeError as error:
        raise InputError(
            f"expected a trace file, an opened trace or a run, not {type(trace).__name__}"
        ) from error
    if not layers or not len(lengths) or (lengths < 1).any():
        raise InputError("the trace is empty: it has no layer, no sequence, or a sequence without steps")

    def rows(layer: int, direction: int, start: int, stop: int) -> np.ndarray:
        return sources[layer](start, stop, direction)

    controller = getattr(trace, "controller", None)
    accumulator = getattr(trace, "accumulator_bits", None)
    digest = getattr(trace, "digest", None)
    return Workload(
        layers=layers,
        lengths=lengths,
        rows=rows,
        accumulator_bits=None if accumulator is None else int(accumulator),
        control=controls.of(controller),
        controller=controller.get("name") if isinstance(controller, dict) else None,
        digest=digest() if callable(digest) else "",
        name=name,
    )
