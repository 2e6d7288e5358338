"""Cycles of a workload on a machine, layer by layer (the rules: `docs/accelerator.md`)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from accel import pipeline
from accel.control import Control
from accel.machine import GATES, Machine
from accel.workload import BLOCK, Shape, Workload
from traces import InputError


@dataclass(frozen=True)
class Parameters:
    """What the kernel knows of a machine and a layer."""

    numbers: np.ndarray  # int64 [pipeline.PARAMETERS]
    fetch: np.ndarray  # int64 [4, most groups], cycles
    groups: np.ndarray  # int64 [4]
    recurrent: np.ndarray  # int64 [4]
    cycles: np.ndarray  # int64 [4], cycles of a group

    def key(self) -> bytes:
        """Equal for equal parameters."""
        return b"".join(
            array.tobytes() for array in (self.numbers, self.fetch, self.groups, self.recurrent, self.cycles)
        )


@dataclass
class Timing:
    """Cycles of one layer.

    Attributes
    ----------
    cycles : int64 [D, S]
        Cycles of the pipeline for each sequence.
    busy : int64 [D, S]
        Cycles in which the dot-product units work, by the plan alone.
    low_count : int64 [D, S]
    readout : int64 [D, S]
        Part of `busy` that is the readout neuron's.
    """

    cycles: np.ndarray
    busy: np.ndarray
    low_count: np.ndarray
    readout: np.ndarray


@dataclass
class Memo:
    """Results of the kernel, kept for machines that differ in what does not concern it."""

    results: dict[tuple[Any, ...], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


def group_sizes(machine: Machine, parts: tuple[int, ...], bits: int) -> list[int]:
    """Weights in each group of one row whose inputs are vectors of the given sizes."""
    width = machine.datapath.group(bits)
    vectors = (sum(parts),) if machine.datapath.padding.value == "joint" else parts
    return [min(width, size - start) for size in vectors for start in range(0, size, width)]


def fetch_cycles(machine: Machine, weights: int, bits: int, offsets: bool) -> int:
    """Cycles to fetch a group of weights, and their offset bits meanwhile."""
    read = machine.read_banks(bits) * int(machine.weights.bank_bits)
    cycles = math.ceil(weights * read / int(machine.weights.port))
    if offsets and machine.offsets is not None:
        cycles = max(cycles, math.ceil(weights / int(machine.offsets.word)))
    return cycles


def group_cycles(machine: Machine, bits: int) -> int:
    """Cycles of one group: those of the datapath, or of the input buffer's port if that is slower."""
    path = machine.datapath
    return max(
        path.group_cycles(bits),
        math.ceil(path.group(bits) * path.mode(bits) / int(machine.input_buffer.word)),
    )


def low_uses_offsets(machine: Machine, shape: Shape) -> bool:
    """Whether elements at low precision read offset bits."""
    return machine.dynamic and shape.low < shape.high


def latencies(machine: Machine, peepholes: bool = False) -> dict[str, int]:
    """Latencies through the multifunction units, in cycles, without or with peepholes.

    to_cell: from a result's hand-over to c; to_hidden: to h as an index in all input buffers;
    to_projected: the same for a projected output; to_readout: to the readout neuron's value.
    """
    unit = machine.multifunction
    add, multiply, communicate = int(unit.add), int(unit.multiply), int(unit.communicate)
    scaled = multiply + add * int(unit.parts)
    activation = int(unit.exponential) + add + int(unit.divide)
    cell = scaled + activation + communicate + multiply + add
    quantised = multiply + add + communicate
    # The products with the old cell state are formed meanwhile and only added; the one with the new cell state is not.
    before, after = (add, multiply + add) if peepholes else (0, 0)
    return {
        "to_cell": cell + before,
        "to_hidden": cell + before + after + activation + communicate + multiply + quantised,
        "to_projected": multiply + quantised,
        "to_readout": multiply + add,
    }


def check_precisions(machine: Machine, workload: Workload) -> None:
    """Raises InputError where the datapath cannot process an index."""
    widest = int(machine.datapath.max_bits)
    for number, shape in enumerate(workload.layers):
        if shape.high > widest:
            raise InputError(
                f"layer {number} runs at {shape.high} bits; "
                f"machine {machine.name} processes at most {widest} (datapath.max_bits)"
            )


def parameters(machine: Machine, shape: Shape, control: Control, layer: int = 0) -> Parameters:
    """Parameters of the kernel for a layer."""
    readout = control.inputs(layer)
    per_unit = GATES // int(machine.units)
    numbers = np.zeros(pipeline.PARAMETERS, np.int64)
    chain = latencies(machine, shape.peepholes)
    interval = int(machine.multifunction.interval)
    if machine.precision_unit is not None and machine.dynamic:
        numbers[pipeline.DYNAMIC] = int(control.follows_cell)
        numbers[pipeline.DECIDE] = int(machine.precision_unit.latency)
        if control.follows_cell:
            interval = max(interval, int(machine.precision_unit.interval))
        if readout:
            numbers[pipeline.READOUT] = 2 if machine.precision_unit.readout.value == "exposed" else 1
    numbers[pipeline.DEPTH] = int(machine.datapath.prefetched_groups)
    numbers[pipeline.TREE] = int(machine.datapath.reduction)
    numbers[pipeline.INTERVAL] = interval
    numbers[pipeline.TO_CELL] = chain["to_cell"]
    numbers[pipeline.TO_HIDDEN] = chain["to_hidden"]
    numbers[pipeline.TO_PROJECTED] = chain["to_projected"]
    numbers[pipeline.TO_READOUT] = chain["to_readout"]
    if shape.projected:
        numbers[pipeline.PROJECTIONS] = math.ceil(shape.output_size / int(machine.units))
    inputs = (shape.input_size, shape.output_size)
    kinds = (
        (inputs, shape.high, per_unit, False),
        (inputs, shape.low, per_unit, low_uses_offsets(machine, shape)),
        ((shape.hidden_size,) if shape.projected else (), shape.high, 1, False),
        ((readout,) if readout else (), shape.high, 1, False),
    )
    sizes = [group_sizes(machine, parts, bits) * times for parts, bits, times, _ in kinds]
    fetch = np.zeros((len(kinds), max(map(len, sizes))), np.int64)
    recurrent = np.full(len(kinds), -1, np.int64)
    for kind, (_, bits, _, offsets) in enumerate(kinds):
        fetch[kind, : len(sizes[kind])] = [fetch_cycles(machine, size, bits, offsets) for size in sizes[kind]]
    for kind in (pipeline.HIGH, pipeline.LOW):
        width = machine.datapath.group(kinds[kind][1])
        joint = machine.datapath.padding.value == "joint"
        first = shape.input_size // width if joint else math.ceil(shape.input_size / width)
        recurrent[kind] = first if machine.datapath.forward_overlap.value == "yes" else 0
    return Parameters(
        numbers=numbers,
        fetch=fetch,
        groups=np.array([len(size) for size in sizes], np.int64),
        recurrent=recurrent,
        cycles=np.array([group_cycles(machine, bits) for _, bits, _, _ in kinds], np.int64),
    )


def run(workload: Workload, machine: Machine, memo: Memo | None = None) -> list[Timing]:
    """Cycles of every layer, direction and sequence.

    The plan is read in pieces, so memory does not grow with it.

    Raises
    ------
    InputError
        The machine cannot process the network's precisions.
    """
    check_precisions(machine, workload)
    memo = memo if memo is not None else Memo()
    timings = []
    for number, shape in enumerate(workload.layers):
        par = parameters(machine, shape, workload.control, number)
        spent, low = [], []
        for direction in range(shape.directions):
            key = (number, direction, workload.rows, shape, par.key())
            if key not in memo.results:
                memo.results[key] = _direction(workload, number, direction, par)
            spent.append(memo.results[key][0])
            low.append(memo.results[key][1])
        cycles, low_count = np.stack(spent), np.stack(low)
        asked = np.zeros_like(low_count)
        if par.numbers[pipeline.READOUT]:
            asked += (workload.lengths - 1) * par.groups[pipeline.READ] * par.cycles[pipeline.READ]
        work, latency = element_readouts(machine, shape, workload.control, number)
        asked += workload.lengths * work
        cycles = cycles + workload.lengths * (work + latency)
        timings.append(Timing(cycles, _busy(workload, shape, par, low_count) + asked, low_count, asked))
    return timings


def element_readouts(machine: Machine, shape: Shape, control: Control, layer: int) -> tuple[int, int]:
    """Cycles by which the readouts of all elements put off each step of a direction: work of the units, and latency.

    The rows are shared out to the units. They read h, so nothing of a step's gates begins before the last of them is
    decided (`precision_unit.readout`: hidden leaves out the latency).
    """
    inputs, unit = control.element_inputs(layer), machine.precision_unit
    if not inputs or unit is None or not machine.dynamic:
        return 0, 0
    groups = len(group_sizes(machine, (inputs,), shape.high))
    rows = math.ceil(shape.hidden_size / int(machine.units))
    chain = latencies(machine, shape.peepholes)
    latency = int(machine.datapath.reduction) + chain["to_readout"] + int(unit.latency)
    return rows * groups * group_cycles(machine, shape.high), latency if unit.readout.value == "exposed" else 0


def _direction(
    workload: Workload, layer: int, direction: int, par: Parameters
) -> tuple[np.ndarray, np.ndarray]:
    shape = workload.layers[layer]
    lengths, total = np.ascontiguousarray(workload.lengths, np.int64), workload.steps
    backward = direction == 1
    depth = int(par.numbers[pipeline.DEPTH])
    states = np.zeros((pipeline.MAX_STATES, 3 + depth), np.int64)
    count = np.zeros(1, np.int64)
    following = np.full((pipeline.MAX_STATES, 2, 2), -1, np.int64)
    turning = np.full((pipeline.MAX_STATES, 2, 2), -1, np.int64)
    limit = np.zeros(pipeline.MAX_STATES, np.int64)
    carry = np.array([len(lengths) - 1 if backward else 0, 0, 0, 0, 0], np.int64)
    spent, low = np.zeros(len(lengths), np.int64), np.zeros(len(lengths), np.int64)
    rows = max(1, BLOCK // shape.packed_width)
    starts = range(0, total, rows)
    for start in reversed(starts) if backward else starts:
        piece = workload.rows(layer, direction, start, min(start + rows, total))
        pipeline.advance(
            np.ascontiguousarray(piece), shape.hidden_size, backward, lengths, carry,
            par.numbers, par.fetch, par.groups, par.recurrent, par.cycles,
            states, count, following, turning, limit, spent, low,
        )  # fmt: skip
    return spent, low


def _busy(workload: Workload, shape: Shape, par: Parameters, low_count: np.ndarray) -> np.ndarray:
    each = par.groups * par.cycles
    steps = workload.lengths * (par.numbers[pipeline.PROJECTIONS] * each[pipeline.PROJECTED])
    high = workload.lengths * shape.hidden_size - low_count
    return high * each[pipeline.HIGH] + low_count * each[pipeline.LOW] + steps
