"""What a layer needs of the memories: whether it fits, what DRAM moves, how long the machine waits for it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from accel import control as controls
from accel.control import Control
from accel.cycles import Timing
from accel.machine import GATES, WORD_BITS, Machine
from accel.workload import Shape, Workload
from traces import InputError


@dataclass(frozen=True)
class Demand:
    """Memory of one layer and direction.

    Attributes
    ----------
    weight_bytes : int
        Weight buffer of one computation unit.
    input_bytes : int
        Input buffer of one computation unit.
    state_bytes : int
        Buffer of the precision unit.
    load_bytes : int
        What DRAM delivers before the layer starts.
    step_bytes : int
        DRAM traffic of each step, for what does not fit (weights, state of the precision unit).
    reloaded_bytes : int
        Part of it that is weights of one computation unit.
    step_words : int
        Words of the intermediate memory read in each step for inputs that do not fit.
    step_stall : int
        Cycles that each step waits for them.
    """

    weight_bytes: int
    input_bytes: int
    state_bytes: int
    load_bytes: int
    step_bytes: int
    reloaded_bytes: int
    step_words: int
    step_stall: int


@dataclass
class Traffic:
    """DRAM and waiting of a workload, a list entry for each layer.

    Attributes
    ----------
    demands : list of Demand
    load_bytes, other_bytes : list of float64 [D, S]
        DRAM traffic before the layer (weights) and during it.
    spilled_bytes : list of float64 [D, S]
        Part of the outputs that the intermediate memory cannot hold.
    stall_cycles : list of int64 [D, S]
        On-chip cycles beyond the pipeline's.
    wait_s : list of float64 [D, S]
        Seconds that the machine waits for DRAM.
    """

    demands: list[Demand]
    load_bytes: list[np.ndarray]
    other_bytes: list[np.ndarray]
    spilled_bytes: list[np.ndarray]
    stall_cycles: list[np.ndarray]
    wait_s: list[np.ndarray]


def demand(machine: Machine, shape: Shape, number: int, control: Control) -> Demand:
    """What one direction of a layer needs.

    Raises
    ------
    InputError
        Something does not fit and the machine's capacity policy is to refuse it.
    """
    layer = f"layer {number}"
    units = int(machine.units)
    inputs = shape.input_size + shape.output_size
    weights = GATES * shape.hidden_size * inputs
    projected = shape.output_size * shape.hidden_size if shape.projected else 0
    extra = control.inputs(number) if machine.dynamic else 0
    own = control.element_inputs(number) if machine.dynamic else 0
    weight_bytes = (
        weights // units
        + math.ceil(shape.output_size / units) * shape.hidden_size * shape.projected
        + extra
        + math.ceil(shape.hidden_size / units) * own
    )
    copy = inputs * min(shape.low, WORD_BITS) if machine.dynamic and shape.low < shape.high else 0
    input_bytes = math.ceil((max(inputs, shape.hidden_size * shape.projected) * WORD_BITS + copy) / WORD_BITS)
    offset_bytes = math.ceil(weights / WORD_BITS) if machine.dynamic else 0
    rows = GATES * shape.hidden_size + (shape.output_size if shape.projected else 0)
    constants = rows * int(machine.multifunction.row_constants) + shape.peephole_weights * int(machine.cell_state)
    load_bytes = weights + projected + extra + own * shape.hidden_size + offset_bytes + constants

    step_bytes = reloaded_bytes = step_words = step_stall = 0
    room = int(machine.weights.banks) * int(machine.weights.bank.size)
    if _excess(machine, "weights", weight_bytes, room, f"{layer} has {weight_bytes} bytes of weights a unit"):
        reloaded_bytes = weight_bytes - room
        step_bytes += math.ceil(reloaded_bytes * units * ((1 + 1 / WORD_BITS) if machine.dynamic else 1))
    if _excess(
        machine,
        "inputs",
        input_bytes,
        int(machine.input_buffer.size),
        f"{layer} has {input_bytes} bytes of x and h",
    ):
        words = math.ceil((input_bytes - int(machine.input_buffer.size)) * 8 / int(machine.intermediate.word))
        step_words = words * shape.hidden_size
        step_stall = step_words
    state_bytes = 0
    if machine.dynamic and machine.precision_unit is not None:
        wanted = controls.need(machine.precision_unit, control)
        state_bytes = math.ceil(shape.hidden_size * max(wanted.read_bits, wanted.written_bits) / WORD_BITS)
        room = int(int(machine.precision_unit.buffer.size) * controls.buffer_share(machine.precision_unit, control))
        if control.kind in (controls.MASK, controls.SCORES):
            load_bytes += state_bytes
        if _excess(
            machine,
            "precision_state",
            state_bytes,
            room,
            f"{layer} has {shape.hidden_size} cells, {state_bytes} bytes of state",
        ):
            step_bytes += (state_bytes - room) * (1 + (wanted.written_bits > 0))
    return Demand(
        weight_bytes, input_bytes, state_bytes, load_bytes, step_bytes, reloaded_bytes, step_words, step_stall
    )


_PLACES = {
    "weights": "the weight buffer",
    "inputs": "the input buffer",
    "precision_state": "the precision unit's buffer",
    "intermediate": "half of the intermediate memory",
}


def _excess(machine: Machine, policy: str, needed: int, room: int, what: str) -> bool:
    if needed <= room:
        return False
    if getattr(machine.capacity, policy).value == "refuse":
        raise InputError(
            f"machine {machine.name}: {what}, more than {_PLACES[policy]} holds ({room} bytes); "
            f"set capacity.{policy} to reload, or enlarge it, in a machine file that extends {machine.name}"
        )
    return True


def run(workload: Workload, machine: Machine, timings: list[Timing]) -> Traffic:
    """DRAM traffic and waiting of every layer, direction and sequence.

    Raises
    ------
    InputError
        The network does not fit the machine.
    """
    demands = [
        demand(machine, shape, number, workload.control) for number, shape in enumerate(workload.layers)
    ]
    lengths = workload.lengths
    traffic = Traffic(demands, [], [], [], [], [])
    bandwidth = float(machine.dram.bandwidth) * 1e9
    half = int(machine.intermediate.size) // 2
    for number, (shape, need, timing) in enumerate(zip(workload.layers, demands, timings, strict=True)):
        last = number == len(workload.layers) - 1
        width = shape.directions * shape.output_size
        spilled = np.zeros(len(lengths))
        if not last:
            longest = int(lengths.max()) * width
            what = f"layer {number} has up to {longest} bytes of outputs a sequence"
            if _excess(machine, "intermediate", longest, half, what):
                spilled = np.maximum(lengths * width - half, 0).astype(float)
        per_step = (
            need.step_bytes + (shape.input_size if number == 0 else 0) + (shape.output_size if last else 0)
        )
        sides = np.ones((shape.directions, 1))
        # Outputs that did not fit are written once and read once by each direction of the layer above.
        above = workload.layers[number + 1].directions if not last else 0
        traffic.load_bytes.append(np.full(timing.cycles.shape, float(need.load_bytes)))
        traffic.other_bytes.append(sides * (lengths * per_step + spilled * (1 + above) / shape.directions))
        traffic.spilled_bytes.append(sides * spilled / shape.directions)
        traffic.stall_cycles.append((sides * (lengths * need.step_stall)).astype(np.int64))
        compute = (timing.cycles + traffic.stall_cycles[-1]) / machine.clock_hz
        serial = (lengths * need.step_bytes + traffic.spilled_bytes[-1] * (1 + above)) / bandwidth
        streamed = (traffic.other_bytes[-1] / bandwidth) - serial
        traffic.wait_s.append(serial + np.maximum(streamed - compute, 0))
    _loads(workload, machine, timings, traffic, bandwidth)
    return traffic


def _loads(
    workload: Workload, machine: Machine, timings: list[Timing], traffic: Traffic, bandwidth: float
) -> None:
    """Add the waiting for weights, in the order in which layers and directions run."""
    room = int(machine.weights.banks) * int(machine.weights.bank.size)
    jobs = [(layer, side) for layer, shape in enumerate(workload.layers) for side in range(shape.directions)]
    needs = [min(traffic.demands[layer].weight_bytes, room) for layer, _ in jobs]
    once = machine.dram.loads.value == "once" and sum(needs) <= room
    busy = [
        (timings[layer].cycles[side] + traffic.stall_cycles[layer][side]) / machine.clock_hz
        for layer, side in jobs
    ]
    for position, (layer, side) in enumerate(jobs):
        if once:
            traffic.load_bytes[layer][side, 1:] = 0
        load = traffic.load_bytes[layer][side] / bandwidth
        before = (position - 1) % len(jobs)
        if machine.dram.overlap.value == "double" and needs[position] + needs[before] <= room:
            hidden = busy[before] if position else np.concatenate([[0.0], busy[before][:-1]])
            load = np.maximum(load - hidden, 0)
        traffic.wait_s[layer][side] += load
