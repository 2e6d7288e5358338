"""Cycles, energy and area of an accelerator that runs a trace."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import traces
from accel import area, cycles, energy, traffic, workload
from accel import control as controls
from accel.cycles import Memo
from accel.machine import Machine
from accel.workload import Workload


@dataclass(frozen=True)
class Cost:
    """What one machine needs for a workload.

    Attributes
    ----------
    machine : str
    time_s : float
        Seconds, waiting for DRAM included.
    compute_cycles : int
        Clock cycles on the chip.
    stall_cycles : int
        Part of them in which the dot-product units have nothing to do.
    wait_s : float
        Seconds of waiting for DRAM.
    cycles : int
        Clock cycles of the whole time.
    layer_cycles : list of list of int
        On-chip cycles of each layer and direction.
    components : dict
        For each component: dynamic_pj, static_pj, area_mm2, events (counts by name).
    dram_bytes : int
    low_share : float
        Low element-steps that the machine made use of, over all.
    control : dict
        What choosing the precision costs, of the totals above: kind of controller, energy of the precision unit and of
        the readout neurons (their dynamic part) in pJ, cycles in which readout neurons occupy a unit, area in mm2.
    """

    machine: str
    time_s: float
    compute_cycles: int
    stall_cycles: int
    wait_s: float
    cycles: int
    layer_cycles: list[list[int]]
    components: dict[str, dict[str, Any]]
    dram_bytes: int
    low_share: float
    control: dict[str, Any]

    @property
    def busy_cycles(self) -> int:
        """On-chip cycles in which the dot-product units work."""
        return self.compute_cycles - self.stall_cycles

    @property
    def dynamic_pj(self) -> float:
        return sum(part["dynamic_pj"] for part in self.components.values())

    @property
    def static_pj(self) -> float:
        return sum(part["static_pj"] for part in self.components.values())

    @property
    def energy_pj(self) -> float:
        return sum(part["dynamic_pj"] + part["static_pj"] for part in self.components.values())

    @property
    def area_mm2(self) -> float:
        return sum(part["area_mm2"] for part in self.components.values())

    @property
    def memory_energy_share(self) -> float:
        """Share of the on-chip memories in the energy."""
        parts = (self.components[name] for name in energy.ON_CHIP_MEMORIES)
        return sum(part["dynamic_pj"] + part["static_pj"] for part in parts) / self.energy_pj

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can express it."""
        return {
            "machine": self.machine,
            "cycles": self.cycles,
            "compute_cycles": self.compute_cycles,
            "stall_cycles": self.stall_cycles,
            "time_s": self.time_s,
            "dram_wait_s": self.wait_s,
            "dram_bytes": self.dram_bytes,
            "energy_pj": self.energy_pj,
            "dynamic_pj": self.dynamic_pj,
            "static_pj": self.static_pj,
            "area_mm2": self.area_mm2,
            "memory_energy_share": self.memory_energy_share,
            "low_share": self.low_share,
            "layer_cycles": self.layer_cycles,
            "control": self.control,
            "components": self.components,
        }


@dataclass(frozen=True)
class Estimate:
    """A machine on a trace, and the baseline on the same trace.

    Cycles, seconds, pJ and mm2 are those of the whole trace. Energy saving and area overhead are fractions of
    the baseline's energy and area; without a baseline they are None, as is the speedup.
    """

    cost: Cost
    baseline_cost: Cost | None
    low_share: float
    trace_digest: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def machine(self) -> str:
        return self.cost.machine

    @property
    def baseline(self) -> str | None:
        return self.baseline_cost.machine if self.baseline_cost else None

    @property
    def cycles(self) -> int:
        return self.cost.cycles

    @property
    def time_s(self) -> float:
        return self.cost.time_s

    @property
    def energy_pj(self) -> float:
        return self.cost.energy_pj

    @property
    def area_mm2(self) -> float:
        return self.cost.area_mm2

    @property
    def components(self) -> dict[str, dict[str, Any]]:
        return self.cost.components

    @property
    def layer_cycles(self) -> list[list[int]]:
        return self.cost.layer_cycles

    @property
    def baseline_cycles(self) -> int | None:
        return self.baseline_cost.cycles if self.baseline_cost else None

    @property
    def baseline_time_s(self) -> float | None:
        return self.baseline_cost.time_s if self.baseline_cost else None

    @property
    def baseline_energy_pj(self) -> float | None:
        return self.baseline_cost.energy_pj if self.baseline_cost else None

    @property
    def baseline_area_mm2(self) -> float | None:
        return self.baseline_cost.area_mm2 if self.baseline_cost else None

    @property
    def baseline_components(self) -> dict[str, dict[str, Any]] | None:
        return self.baseline_cost.components if self.baseline_cost else None

    @property
    def baseline_layer_cycles(self) -> list[list[int]] | None:
        return self.baseline_cost.layer_cycles if self.baseline_cost else None

    @property
    def speedup(self) -> float | None:
        """Time of the baseline over that of the machine."""
        return self.baseline_cost.time_s / self.time_s if self.baseline_cost else None

    @property
    def energy_saving(self) -> float | None:
        """1 - energy of the machine / energy of the baseline."""
        return 1 - self.energy_pj / self.baseline_cost.energy_pj if self.baseline_cost else None

    @property
    def area_overhead(self) -> float | None:
        """Area of the machine / area of the baseline - 1."""
        return self.area_mm2 / self.baseline_cost.area_mm2 - 1 if self.baseline_cost else None

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can express it; the baseline's costs under "baseline_cost"."""
        return {
            **self.cost.to_dict(),
            "baseline": self.baseline,
            "speedup": self.speedup,
            "energy_saving": self.energy_saving,
            "area_overhead": self.area_overhead,
            "low_share": self.low_share,
            "trace_digest": self.trace_digest,
            "notes": list(self.notes),
            "baseline_cost": self.baseline_cost.to_dict() if self.baseline_cost else None,
        }

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write an estimate file.

        Raises
        ------
        InputError
            The path cannot be written.
        """
        names = list(self.components)
        columns = {
            name: np.array([self.components[part][name] for part in names], np.float64)
            for name in ("dynamic_pj", "static_pj", "area_mm2")
        }
        sides = max(map(len, self.layer_cycles))
        layers = [row + [0] * (sides - len(row)) for row in self.layer_cycles]
        traces.Estimate(
            machine=self.machine,
            baseline=self.baseline,
            trace_digest=self.trace_digest,
            record=self.to_dict(),
            components=names,
            layer_cycles=np.array(layers, np.int64),
            **columns,
        ).write(path)


def estimate(
    trace: Any,
    machine: str | os.PathLike[str] | Machine = "epur-dyn",
    baseline: str | os.PathLike[str] | Machine | None = "epur-sip",
) -> Estimate:
    """Cycles, energy and area of a machine on a trace, compared with a baseline machine on the same trace.

    Parameters
    ----------
    trace : path, traces.Trace, fxp.Run with its plan recorded
        A machine of fixed precision ignores its plan: every element runs at the high precision.
    machine, baseline : str, path or Machine
        Presets by name (`accel.machines()`) or machine files. `baseline=None`: no comparison.

    Raises
    ------
    InputError
        Not a trace, a bad machine file, or a network that the machine cannot run or hold.
    """
    design = Machine.load(machine)
    reference = None if baseline is None else Machine.load(baseline)
    with workload.opened(trace) as work:
        memo = Memo()
        cost = measure(work, design, memo)
        other = None if reference is None else measure(work, reference, memo)
        share = cost.low_share if design.dynamic else work.low_share()
        return Estimate(cost, other, share, work.digest, _notes(work, design))


def measure(work: Workload, machine: Machine, memo: Memo | None = None) -> Cost:
    """Costs of one machine on a workload.

    Raises
    ------
    InputError
        The machine cannot run or hold the network.
    """
    if not machine.dynamic:
        work = work.fixed([shape.high for shape in work.layers])
    timings = cycles.run(work, machine, memo)
    moved = traffic.run(work, machine, timings)
    ledger = energy.run(work, machine, timings, moved)
    areas = area.run(machine, work.control)
    on_chip = [timing.cycles + stall for timing, stall in zip(timings, moved.stall_cycles, strict=True)]
    compute = sum(int(layer.sum()) for layer in on_chip)
    busy = sum(int(timing.busy.sum()) for timing in timings)
    wait = float(sum(layer.sum() for layer in moved.wait_s))
    low = sum(int(timing.low_count.sum()) for timing in timings)
    return Cost(
        machine=machine.name,
        time_s=compute / machine.clock_hz + wait,
        compute_cycles=compute,
        stall_cycles=compute - busy,
        wait_s=wait,
        cycles=compute + math.ceil(wait * machine.clock_hz),
        layer_cycles=[[int(side.sum()) for side in layer] for layer in on_chip],
        components={
            name: {
                "dynamic_pj": float(part.dynamic_pj),
                "static_pj": float(part.static_pj),
                "area_mm2": areas[name],
                "events": {event: count for event, (count, _) in part.events.items()},
            }
            for name, part in ledger.items()
        },
        dram_bytes=int(
            sum(a.sum() + b.sum() for a, b in zip(moved.load_bytes, moved.other_bytes, strict=True))
        ),
        low_share=low / work.element_steps,
        control=_control(work, machine, timings, ledger, areas),
    )


def _control(
    work: Workload, machine: Machine, timings: list[Any], ledger: dict[str, Any], areas: dict[str, float]
) -> dict[str, Any]:
    decisions = ledger[energy.PRECISION]
    return {
        "kind": work.control.kind if machine.dynamic else controls.NONE,
        "precision_unit_pj": float(decisions.dynamic_pj + decisions.static_pj),
        "readout_pj": float(energy.readout_pj(work, machine)),
        "readout_cycles": sum(int(timing.readout.sum()) for timing in timings),
        "area_mm2": areas[energy.PRECISION],
    }


def _notes(work: Workload, machine: Machine) -> list[str]:
    notes = []
    if machine.dynamic and work.control.kind == controls.DETECTOR and work.controller not in (None, "peak"):
        notes.append(f"no hardware is known for the controller {work.controller}: charged as the paper's detector")
    bits = int(machine.datapath.accumulator)
    if work.accumulator_bits is not None and work.accumulator_bits > bits:
        notes.append(
            f"emulated with {work.accumulator_bits}-bit accumulators; {machine.name} has {bits} bits"
        )
    if machine.dynamic and machine.read_banks(work.layers[0].low) > 1:
        notes.append(
            f"{work.layers[0].low} bits need both weight banks: low precision saves no weight reads"
        )
    return notes
