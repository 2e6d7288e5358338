"""What other ways to choose precision cost on the same trace (costs only; nothing here is about accuracy)."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from accel import workload
from accel.control import MASK, Control
from accel.cycles import Memo
from accel.estimates import Cost, measure
from accel.machine import Machine
from accel.workload import Rows, Workload, constant_rows
from traces.plan import pack, unpack


def baselines(
    trace: Any,
    machine: str | os.PathLike[str] | Machine = "epur-dyn",
    baseline: str | os.PathLike[str] | Machine = "epur-sip",
) -> list[dict[str, Any]]:
    """Costs of fixed, static and dynamic precision on one trace.

    The static and coarser dynamic schemes get the trace's low share, layer and direction by layer and
    direction (rounded down to what they can express), so that rows differ in granularity alone.

    Parameters
    ----------
    trace : path, traces.Trace, fxp.Run with its plan recorded
    machine : str, path or Machine
        Machine of dynamic precision.
    baseline : str, path or Machine
        Machine of fixed precision, which ratios refer to.

    Returns
    -------
    list of dict
        "scheme", "machine", "low_share", "cycles", "time_s", "energy_pj", "speedup", "energy_saving".

    Raises
    ------
    InputError
        As `accel.estimate`.
    """
    design, reference = Machine.load(machine), Machine.load(baseline)
    memo = Memo()
    with workload.opened(trace) as work:
        shares = _shares(work)
        reference_cost = measure(work, reference, memo)
        by_layer = [_mean_bits(work, shares, layer) for layer in range(len(work.layers))]
        lowest = work.fixed([shape.low for shape in work.layers])
        runs = [
            ("fixed high", reference, work),
            ("fixed low", reference, lowest),
            ("static, bits per layer", reference, work.fixed(by_layer)),
            ("static, per element", design, work.planned(_per_element(work, shares), Control(MASK))),
            ("dynamic, per layer and step", design, work.planned(_per_step(work, shares))),
            ("dynamic, per element", design, work),
            ("dynamic, never low", design, work.planned(constant_rows(work.layers, False))),
            ("dynamic, always low", design, work.planned(constant_rows(work.layers, True))),
        ]
        return [_row(scheme, measure(job, chosen, memo), reference_cost) for scheme, chosen, job in runs]


def _row(scheme: str, cost: Cost, reference: Cost) -> dict[str, Any]:
    return {
        "scheme": scheme,
        "machine": cost.machine,
        "low_share": cost.low_share,
        "cycles": cost.cycles,
        "time_s": cost.time_s,
        "energy_pj": cost.energy_pj,
        "speedup": reference.time_s / cost.time_s,
        "energy_saving": 1 - cost.energy_pj / reference.energy_pj,
    }


def _pieces(work: Workload, layer: int, direction: int) -> Any:
    """Masks of a layer and direction piece by piece: bool [rows, H]."""
    shape = work.layers[layer]
    rows = max(1, workload.BLOCK // (8 * shape.packed_width))
    for start in range(0, work.steps, rows):
        packed = np.ascontiguousarray(work.rows(layer, direction, start, min(start + rows, work.steps)))
        yield unpack(packed, shape.hidden_size)


def _shares(work: Workload) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
    """Low steps of each element [H], and low elements of each step [total], for each layer and direction."""
    found = {}
    for layer, shape in enumerate(work.layers):
        for direction in range(shape.directions):
            elements, steps = np.zeros(shape.hidden_size, np.int64), []
            for mask in _pieces(work, layer, direction):
                elements += mask.sum(axis=0)
                steps.append(mask.sum(axis=1, dtype=np.int32))
            found[layer, direction] = elements, np.concatenate(steps)
    return found


def _mean_bits(
    work: Workload, shares: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]], layer: int
) -> int:
    """The fewest bits that are no less than the mean of the plan in a layer."""
    shape = work.layers[layer]
    low = sum(int(shares[layer, direction][0].sum()) for direction in range(shape.directions))
    share = low / (work.steps * shape.directions * shape.hidden_size)
    return math.ceil(shape.high - share * (shape.high - shape.low))


def _top(counts: np.ndarray, number: int) -> np.ndarray:
    """Mask of the `number` largest counts; the earlier of equals."""
    mask = np.zeros(len(counts), bool)
    mask[np.argsort(-counts, kind="stable")[:number]] = True
    return mask


def _per_element(work: Workload, shares: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]) -> Rows:
    """The elements that are low most often are low always."""
    masks = {
        place: pack(_top(elements, int(elements.sum()) // work.steps))
        for place, (elements, _) in shares.items()
    }

    def rows(layer: int, direction: int, start: int, stop: int) -> np.ndarray:
        mask = masks[layer, direction]
        return np.broadcast_to(mask, (stop - start, len(mask)))

    return rows


def _per_step(work: Workload, shares: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]) -> Rows:
    """The steps with most low elements are low as a whole."""
    masks = {
        (layer, direction): _top(steps, int(steps.sum()) // work.layers[layer].hidden_size)
        for (layer, direction), (_, steps) in shares.items()
    }

    def rows(layer: int, direction: int, start: int, stop: int) -> np.ndarray:
        all_low = pack(np.ones(work.layers[layer].hidden_size, bool))
        return np.where(masks[layer, direction][start:stop, None], all_low, np.uint8(0))

    return rows
