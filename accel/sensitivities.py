"""How far the results depend on what the papers leave open."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from accel import workload
from accel.cycles import Memo
from accel.estimates import measure
from accel.machine import Machine
from accel.quantity import Quantity
from accel.workload import Workload
from traces import InputError

METRICS = ("speedup", "energy_saving", "area_overhead")

FACTORS: dict[str, tuple[str, ...]] = {
    "SRAM leakage (cell type)": (
        "weights.bank.leakage",
        "offsets.leakage",
        "input_buffer.leakage",
        "intermediate.leakage",
        "*.constants.leakage",
        "precision_unit.buffer.leakage",
    ),
    "SRAM access energy": (
        "weights.bank.read",
        "weights.bank.write",
        "offsets.read",
        "offsets.write",
        "input_buffer.read",
        "input_buffer.write",
        "intermediate.read",
        "intermediate.write",
        "*.constants.read",
        "*.constants.write",
        "precision_unit.buffer.read",
        "precision_unit.buffer.write",
    ),
    "offset memory access energy": ("offsets.read", "offsets.write"),
    "logic energy (node scaling)": ("datapath.*_energy", "multifunction.*_energy", "*.decision_energy"),
    "logic leakage": ("datapath.leakage", "multifunction.leakage", "*.logic_leakage"),
    "SRAM area": (
        "weights.bank.area",
        "input_buffer.area",
        "intermediate.area",
        "*.constants.area",
    ),
    "logic area": ("datapath.area", "multifunction.area"),
    "area added by dynamic precision": (
        "offsets.area",
        "precision_unit.*logic_area",
        "precision_unit.buffer.area",
    ),
    "DRAM energy": ("dram.energy",),
    "DRAM background power": ("dram.background",),
    "DRAM bandwidth": ("dram.bandwidth",),
    "weight loads overlap": ("dram.overlap",),
    "weight loads a sequence": ("dram.loads",),
    "bytes of constants a row": ("multifunction.row_constants",),
    "blocks gated": ("*.gated_blocks", "weights.bank.gated_blocks"),
    "leakage of a gated block": ("gating.residual",),
    "padding of x and h": ("datapath.padding",),
    "prefetched groups": ("datapath.prefetched_groups",),
    "weight port": ("weights.port",),
    "adder tree latency": ("datapath.reduction",),
    "forward part overlaps the step before": ("datapath.forward_overlap",),
    "divider latency": ("multifunction.divide",),
    "multifunction interval": ("multifunction.interval",),
    "accumulators a row": ("multifunction.parts",),
    "precision unit latency": ("precision_unit.latency",),
    "precision unit interval": ("precision_unit.interval",),
    "readout neuron": ("precision_unit.readout",),
    "bits of a score": ("precision_unit.scores.read",),
}
"""Assumptions that are varied together, as patterns of constants' names.

Sizes and word widths of memories are left out, since their energies would change with them, and so are policies.
"""

Options = Mapping[str, Sequence[Any]]
Evaluate = Callable[[dict[str, Any]], dict[str, float]]


def settings(machine: Machine, factor: str, end: int) -> dict[str, float | str]:
    """Changes that put a factor's constants at the low (0) or high (-1) end of their ranges."""
    changes: dict[str, float | str] = {}
    for name, constant in machine.constants():
        if constant.range is not None and any(fnmatchcase(name, pattern) for pattern in FACTORS[factor]):
            changes[name] = constant.range[end]
    return changes


def scaled(machine: Machine, factor: str, ratio: float) -> dict[str, float | str]:
    """Changes that multiply a factor's constants."""
    return {
        name: constant.value * ratio
        for name, constant in machine.constants()
        if isinstance(constant, Quantity) and any(fnmatchcase(name, pattern) for pattern in FACTORS[factor])
    }


def compare(work: Workload, machine: Machine, baseline: Machine, memo: Memo) -> dict[str, float]:
    """The three headlines of a machine against a baseline."""
    cost, other = measure(work, machine, memo), measure(work, baseline, memo)
    return {
        "speedup": other.time_s / cost.time_s,
        "energy_saving": 1 - cost.energy_pj / other.energy_pj,
        "area_overhead": cost.area_mm2 / other.area_mm2 - 1,
        "memory_energy_share": cost.memory_energy_share,
    }


def altered(machine: Machine, choice: Mapping[str, Any]) -> Machine:
    """The machine with the ends chosen for some factors (None: as it is)."""
    changes: dict[str, float | str] = {}
    for factor, end in choice.items():
        if factor in FACTORS and end is not None:
            changes.update(settings(machine, factor, end))
    return machine.replaced(changes) if changes else machine


def machine_options(*designs: Machine) -> dict[str, list[Any]]:
    """The factors that exist in any of the machines, each as it is and at both ends."""
    return {
        factor: [None, 0, -1] for factor in FACTORS if any(settings(design, factor, 0) for design in designs)
    }


def sweep(evaluate: Evaluate, options: Options, metrics: Sequence[str]) -> dict[str, Any]:
    """Vary one option at a time, then all together.

    Parameters
    ----------
    evaluate
        Metrics of a choice (a value for every option).
    options
        Values of each option, the nominal one first.

    Returns
    -------
    dict
        "nominal" metrics, "single" (for each option and value the metrics) and "range": for each metric
        its value when every option is at the value that lowers, or raises, it most on its own.
    """
    nominal_choice = {name: values[0] for name, values in options.items()}
    nominal = evaluate(nominal_choice)
    single = {
        name: {value: evaluate({**nominal_choice, name: value}) for value in values[1:]}
        for name, values in options.items()
    }
    ranges = {}
    for metric in metrics:
        ends = []
        for pick in (min, max):
            choice = {}
            for name, results in single.items():
                seen = {
                    nominal_choice[name]: nominal[metric],
                    **{value: r[metric] for value, r in results.items()},
                }
                choice[name] = pick(seen, key=lambda value: seen[value])
            extreme = evaluate(choice)[metric]
            # Options can counteract each other, so a single one may reach further than all.
            reached = [
                extreme,
                nominal[metric],
                *(r[metric] for results in single.values() for r in results.values()),
            ]
            ends.append(pick(reached))
        ranges[metric] = (ends[0], ends[1])
    return {"nominal": nominal, "single": single, "range": ranges}


def sensitivity(
    trace: Any,
    machine: str | os.PathLike[str] | Machine = "epur-dyn",
    baseline: str | os.PathLike[str] | Machine = "epur-sip",
) -> dict[str, Any]:
    """Speedup, energy saving and area overhead over the ranges of all assumptions.

    A change concerns both machines. Ranges are those of the machine files.

    Returns
    -------
    dict
        "nominal": {metric: value}; "range": {metric: [low, high]} with all assumptions at their worst and
        at their best together; "rows": one an assumption, {"factor", "constants", "low", "high"} with the
        metrics at either end of it.

    Raises
    ------
    InputError
        As `accel.estimate`.
    """
    design, reference = Machine.load(machine), Machine.load(baseline)
    memo = Memo()
    with workload.opened(trace) as work:

        def evaluate(choice: dict[str, Any]) -> dict[str, float]:
            return compare(work, altered(design, choice), altered(reference, choice), memo)

        options = machine_options(design, reference)
        for factor in list(options):
            for end in (0, -1):
                try:
                    evaluate({factor: end})
                except InputError:
                    # The network does not fit a machine at this end: it is no machine for it.
                    options[factor] = [value for value in options[factor] if value != end]
        result = sweep(evaluate, options, METRICS)
    rows = [
        {
            "factor": factor,
            "constants": sorted({*settings(design, factor, 0), *settings(reference, factor, 0)}),
            **{
                name: {metric: results[end][metric] for metric in METRICS}
                for name, end in (("low", 0), ("high", -1))
                if end in results
            },
        }
        for factor, results in result["single"].items()
    ]
    return {
        "nominal": {metric: result["nominal"][metric] for metric in METRICS},
        "range": {metric: list(result["range"][metric]) for metric in METRICS},
        "rows": rows,
    }
