"""Events and energy of a workload on a machine, by component.

Dynamic energy is a sum of events times the energy of one; static energy is leakage times the time of the run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from accel import control as controls
from accel.control import Control
from accel.cycles import Timing, group_sizes, low_uses_offsets
from accel.machine import GATES, WORD_BITS, Machine, Memory, PrecisionUnit
from accel.traffic import Traffic
from accel.workload import Shape, Workload

UPPER, LOWER = "weight_buffer_upper", "weight_buffer_lower"
OFFSETS, INPUTS, INTERMEDIATE = "offset_memory", "input_buffers", "intermediate_memory"
DOT, MULTIFUNCTION, PRECISION, DRAM = "dot_product_units", "multifunction_units", "precision_unit", "dram"
COMPONENTS = (UPPER, LOWER, OFFSETS, INPUTS, INTERMEDIATE, DOT, MULTIFUNCTION, PRECISION, DRAM)
ON_CHIP_MEMORIES = (UPPER, LOWER, OFFSETS, INPUTS, INTERMEDIATE)


@dataclass
class Component:
    """Events (count and pJ of one, by name) and leakage of a part of the machine."""

    events: dict[str, tuple[int, float]] = field(default_factory=dict)
    static_pj: float = 0.0

    def add(self, name: str, count: float, energy: float) -> None:
        """Count an event `count` times, at `energy` pJ each."""
        self.events[name] = (self.events.get(name, (0, energy))[0] + int(count), energy)

    @property
    def dynamic_pj(self) -> float:
        """Energy of the events, in pJ."""
        return sum(count * energy for count, energy in self.events.values())


def run(
    workload: Workload, machine: Machine, timings: list[Timing], traffic: Traffic
) -> dict[str, Component]:
    """Energy of every component."""
    ledger = {name: Component() for name in COMPONENTS}
    for number, shape in enumerate(workload.layers):
        low = int(timings[number].low_count.sum())
        total = workload.steps * shape.directions * shape.hidden_size
        for bits, count, offsets in (
            (shape.high, total - low, False),
            (shape.low, low, low_uses_offsets(machine, shape)),
        ):
            _products(ledger, machine, (shape.input_size, shape.output_size), bits, GATES * count, offsets)
        steps = workload.steps * shape.directions
        if shape.projected:
            _products(ledger, machine, (shape.hidden_size,), shape.high, shape.output_size * steps, False)
        _readout(ledger, machine, workload, number)
        _units(ledger, machine, shape, steps)
        if machine.dynamic and machine.precision_unit is not None:
            _decisions(ledger[PRECISION], machine.precision_unit, workload.control, shape, steps)
        _buffers(ledger, machine, shape, steps, number == 0, traffic.demands[number].step_words)
        _loads(ledger, machine, traffic, number, steps, _readout_weights(machine, shape, workload, number))
    _static(ledger, workload, machine, timings, traffic)
    return ledger


def readout_pj(workload: Workload, machine: Machine) -> float:
    """Dynamic energy of the readout neurons alone, which `run` counts with the memories and units that they use."""
    ledger = {name: Component() for name in COMPONENTS}
    for number in range(len(workload.layers)):
        _readout(ledger, machine, workload, number)
    return sum(part.dynamic_pj for part in ledger.values())


def _readout(ledger: dict[str, Component], machine: Machine, workload: Workload, number: int) -> None:
    """The readout neuron of a layer: one more row at high precision, in one unit."""
    inputs, shape = workload.control.inputs(number), workload.layers[number]
    if inputs and machine.dynamic:
        # The last step of a sequence has no decision to prepare.
        asked = (workload.steps - len(workload.lengths)) * shape.directions
        _products(ledger, machine, (inputs,), shape.high, asked, False)
    own = workload.control.element_inputs(number)
    if own and machine.dynamic:
        asked = workload.steps * shape.directions * shape.hidden_size
        _products(ledger, machine, (own,), shape.high, asked, False)


def _readout_weights(machine: Machine, shape: Shape, workload: Workload, number: int) -> tuple[int, int]:
    """Weights that readouts of a layer hold: of the neuron, and of the elements' own, filled up to whole units."""
    if not machine.dynamic:
        return 0, 0
    units = int(machine.units)
    own = math.ceil(shape.hidden_size / units) * units * workload.control.element_inputs(number)
    return workload.control.inputs(number), own


def _words(bits: float, memory: Memory) -> int:
    return math.ceil(bits / int(memory.word))


def _products(
    ledger: dict[str, Component],
    machine: Machine,
    parts: tuple[int, ...],
    bits: int,
    rows: int,
    offsets: bool,
) -> None:
    """Dot products of `rows` weight rows over vectors of the given sizes."""
    bank_bits, banks = int(machine.weights.bank_bits), machine.read_banks(bits)
    sizes = group_sizes(machine, parts, bits)
    bank = machine.weights.bank
    words = rows * sum(_words(size * bank_bits, bank) for size in sizes)
    ledger[UPPER].add("read", words, float(bank.read))
    if banks > 1:
        ledger[LOWER].add("read", words * (banks - 1), float(bank.read))
    if offsets and machine.offsets is not None:
        ledger[OFFSETS].add(
            "read", rows * sum(_words(size, machine.offsets) for size in sizes), float(machine.offsets.read)
        )
    path = machine.datapath
    # A plane of the whole group is read, whether all its lanes are used or not.
    planes = _words(path.group(bits) * path.mode(bits), machine.input_buffer)
    ledger[INPUTS].add("read", rows * len(sizes) * planes, float(machine.input_buffer.read))
    products = rows * sum(parts)
    ledger[DOT].add(f"multiply_{bits}_bits", products, path.multiply_energy(bits))
    staged = products * (banks * bank_bits + (1 if offsets else 0))
    ledger[DOT].add("staged_bit", staged, float(path.staging_energy))


def _units(ledger: dict[str, Component], machine: Machine, shape: Shape, steps: int) -> None:
    """Multifunction units."""
    unit, part = machine.multifunction, ledger[MULTIFUNCTION]
    parts, elements = int(unit.parts), steps * shape.hidden_size
    outputs = steps * shape.output_size if shape.projected else 0
    # Three sigmoids, two tanh (two additions each), i*g, f*c, o*tanh(c), and h (or m) to its index.
    peepholes = steps * shape.peephole_weights
    part.add("multiply", elements * (GATES * parts + 4) + outputs * 2 + peepholes, float(unit.multiply_energy))
    part.add("add", elements * (GATES * parts + 3 + 4 + 1 + 1) + outputs + peepholes, float(unit.add_energy))
    part.add("exponential", elements * 5, float(unit.exponential_energy))
    part.add("divide", elements * 5, float(unit.divide_energy))
    row = _words(int(unit.row_constants) * 8, unit.constants)
    weight = _words(int(machine.cell_state) * 8, unit.constants)
    words = (elements * GATES + outputs) * row + peepholes * weight
    part.add("constants_read", words, float(unit.constants.read))


def _decisions(part: Component, unit: PrecisionUnit, control: Control, shape: Shape, steps: int) -> None:
    """Decisions on every element, and their state; elements share a word where several fit."""
    wanted = controls.need(unit, control)
    part.add("decision", steps * shape.hidden_size, wanted.decision_pj)
    for name, bits, energy in (
        ("read", wanted.read_bits, unit.buffer.read),
        ("write", wanted.written_bits, unit.buffer.write),
    ):
        together = int(unit.buffer.word) // bits if bits else 0
        words = math.ceil(shape.hidden_size / together) if together else _words(bits, unit.buffer) * shape.hidden_size
        part.add(name, steps * words, float(energy))


def _buffers(
    ledger: dict[str, Component], machine: Machine, shape: Shape, steps: int, first: bool, reloaded: int
) -> None:
    """Vectors between layers and steps."""
    units, memory, buffer = int(machine.units), machine.intermediate, machine.input_buffer
    vectors = [shape.input_size, shape.output_size] + ([shape.hidden_size] if shape.projected else [])
    copies = [WORD_BITS] + ([shape.low] if low_uses_offsets(machine, shape) else [])
    # x and h go to every unit, with a copy at low precision that all elements share; m only at high.
    writes = sum(_words(size * bits, buffer) for size in vectors[:2] for bits in copies)
    writes += sum(_words(size * WORD_BITS, buffer) for size in vectors[2:])
    ledger[INPUTS].add("write", steps * units * writes, float(buffer.write))
    state = _words(shape.hidden_size * int(machine.cell_state) * 8, memory)
    x = 0 if first else _words(shape.input_size * 8, memory)
    ledger[INTERMEDIATE].add("read", steps * (state + x + reloaded), float(memory.read))
    ledger[INTERMEDIATE].add(
        "write", steps * (state + _words(shape.output_size * 8, memory)), float(memory.write)
    )


def _loads(
    ledger: dict[str, Component], machine: Machine, traffic: Traffic, number: int, steps: int, readout: tuple[int, int]
) -> None:
    """DRAM traffic, and the writing of weights that it brings.

    readout : weights of a neuron, which lie in one unit, and of the elements' readouts in all units; no offset bits
    """
    loaded = float(traffic.load_bytes[number].sum())
    moved = loaded + float(traffic.other_bytes[number].sum())
    ledger[DRAM].add("bit", round(moved * 8), float(machine.dram.energy))
    need = traffic.demands[number]
    loads = loaded / need.load_bytes
    neuron, own = readout
    held = need.weight_bytes * int(machine.units) - (int(machine.units) - 1) * neuron
    loads += steps * need.reloaded_bytes / need.weight_bytes
    bank, banks = machine.weights.bank, int(machine.weights.banks)
    words = loads * _words(held * int(machine.weights.bank_bits), bank)
    ledger[UPPER].add("write", words, float(bank.write))
    if banks > 1:
        ledger[LOWER].add("write", words * (banks - 1), float(bank.write))
    if machine.dynamic and machine.offsets is not None:
        ledger[OFFSETS].add("write", loads * _words(held - neuron - own, machine.offsets), float(machine.offsets.write))


def _leak(machine: Machine, memory: Memory, needed: np.ndarray | float) -> np.ndarray:
    """Leakage in mW of a bank of which `needed` bytes are used; the other blocks are gated."""
    if machine.gating.enabled.value == "no":
        return np.full(np.shape(needed), float(memory.leakage))
    blocks = int(memory.gated_blocks)
    used = np.minimum(np.ceil(np.asarray(needed) / (int(memory.size) / blocks)), blocks) / blocks
    return float(memory.leakage) * (used + (1 - used) * float(machine.gating.residual))


def _static(
    ledger: dict[str, Component],
    workload: Workload,
    machine: Machine,
    timings: list[Timing],
    traffic: Traffic,
) -> None:
    units = int(machine.units)
    for number, shape in enumerate(workload.layers):
        need = traffic.demands[number]
        seconds = (timings[number].cycles + traffic.stall_cycles[number]) / machine.clock_hz + traffic.wait_s[
            number
        ]
        time = seconds.sum(axis=0)
        total = float(time.sum()) * 1e9  # mW times s to pJ
        banks = int(machine.weights.banks)
        bank = units * float(_leak(machine, machine.weights.bank, need.weight_bytes / banks)) * total
        ledger[UPPER].static_pj += bank
        ledger[LOWER].static_pj += bank * (banks - 1)
        ledger[INPUTS].static_pj += (
            units * float(_leak(machine, machine.input_buffer, need.input_bytes)) * total
        )
        inputs = shape.input_size if number else 0
        outputs = shape.directions * shape.output_size if number < len(workload.layers) - 1 else 0
        held = workload.lengths * (inputs + outputs) + int(machine.cell_state) * shape.hidden_size
        ledger[INTERMEDIATE].static_pj += (
            float((_leak(machine, machine.intermediate, held) * time).sum()) * 1e9
        )
        ledger[DOT].static_pj += units * float(machine.datapath.leakage) * total
        unit = machine.multifunction
        weights = shape.peephole_weights * int(machine.cell_state)
        constants = (GATES * shape.hidden_size * int(unit.row_constants) + weights) / units
        leak = float(unit.leakage) + float(_leak(machine, unit.constants, constants))
        ledger[MULTIFUNCTION].static_pj += units * leak * total
        if machine.dynamic and machine.offsets is not None and machine.precision_unit is not None:
            precision = machine.precision_unit
            ledger[OFFSETS].static_pj += (
                units * float(_leak(machine, machine.offsets, need.weight_bytes / 8)) * total
            )
            share = controls.buffer_share(precision, workload.control)
            leak = float(_leak(machine, precision.buffer, need.state_bytes)) * share
            leak += controls.need(precision, workload.control).leakage_mw
            ledger[PRECISION].static_pj += leak * total
        ledger[DRAM].static_pj += float(machine.dram.background) * total
