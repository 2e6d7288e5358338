"""The engine of `fxp.kernels.fast`: groups of sequences in lock-step with 256-bit vectors."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from fxp.engines import CompiledEngine, Job, LayerState, Piece
from fxp.formats import Profile
from fxp.kernels import fast
from fxp.kernels.rows import Rows
from fxp.packed import LINE, FastDirection, aligned

GROUP = 16  # sequences side by side


@cache
def machine() -> tuple[str, str, str]:
    """Triple, processor and features that Numba compiles for."""
    from numba.core.registry import cpu_target

    return cpu_target.target_context.codegen().magic_tuple()


def available() -> bool:
    """Whether this machine, as Numba compiles for it, has AVX2; the environment variable FXP_PORTABLE=1 says no."""
    if os.environ.get("FXP_PORTABLE", "0") not in ("", "0"):
        return False
    return _has_avx2(*machine())


@cache
def _has_avx2(triple: str, processor: str, features: str) -> bool:
    return triple.startswith("x86_64") and "+avx2" in features.split(",")


def _up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


class FastEngine(CompiledEngine):
    """AVX2 kernels; same bits as `portable`."""

    group_size = GROUP

    def run(self, controller: Any, jobs: Sequence[Job], cell: bool, accumulators: bool) -> list[Piece]:
        order = sorted(range(len(jobs)), key=lambda n: -len(jobs[n].x))
        workspace = Workspace(
            [jobs[n] for n in order], self._network.prepared[jobs[0].site.layer].directions[jobs[0].site.direction].fast
        )
        pieces: list[Any] = [None] * len(jobs)
        run = fast.run_float if jobs[0].site.profile == Profile.FLOAT32 else fast.run_fixed
        for n, piece in zip(order, workspace.process(run, self._network.formats.top, cell, accumulators), strict=True):
            pieces[n] = piece
        return pieces


# The set bits of every byte, in order; the rest of a row is not used.
TABLE = np.zeros((256, 8), np.uint8)
for _byte in range(256):
    _bits = [bit for bit in range(8) if _byte >> bit & 1]
    TABLE[_byte, : len(_bits)] = _bits
_TABLE_PLACE = TABLE.ctypes.data


@cache
def _starts(rows: Rows, count: int, cell: int) -> tuple[int, ...]:
    """Where the parts of a workspace begin, then its size; cell: bytes of an element's c."""
    size, wide = _up(rows.hidden, 8), _up(rows.hidden, 64)
    reach = 256 * (rows.x_pairs + rows.h_pairs) + 128
    starts = [0]
    for length in (
        count * 64 * rows.h_pairs, count * size * cell, count * size, count * 16 * rows.hidden, count * 16,
        64 * rows.x_pairs, count * reach, count * size * 32, 16 * size, 8 * (max(size, count) + 16), wide, 2 * wide,
        4 * _up(rows.output, 8) + 32, 8 * (14 * count + 1),
    ):  # fmt: skip
        starts.append(starts[-1] + _up(length, LINE))
    return tuple(starts)


class Workspace:
    """Memory of one call of the kernels, a single block: taking addresses and making arrays would cost as much as a
    hundred steps of a small layer. The kernels get addresses only, so everything they touch stays an attribute here.

    Parameters
    ----------
    jobs : in the order of falling length
    direction : packed weights and constants
    """

    def __init__(self, jobs: Sequence[Job], direction: FastDirection):
        self.jobs, self.direction = jobs, direction
        rows = direction.rows
        count, size = len(jobs), _up(rows.hidden, 8)
        kind = jobs[0].state.c.dtype
        starts = _starts(rows, count, kind.itemsize)
        self.memory = aligned((starts[-1],), np.uint8)
        base = self.memory.ctypes.data

        def part(number: int, length: int, dtype: Any) -> np.ndarray:
            return self.memory[starts[number] : starts[number] + length].view(dtype).reshape(count, -1)

        self.h = part(0, count * 64 * rows.h_pairs, np.int8)
        self.c = part(1, count * size * kind.itemsize, kind)
        self.low = part(2, count * size, np.uint8)
        self.words = part(3, count * 16 * rows.hidden, np.int32)
        reals = part(4, count * 16, np.float32)
        numbers = self.memory[starts[13] : starts[13] + 8 * (14 * count + 1)].view(np.int64)
        self.offsets, begins, plans, ends = numbers[: count + 1], *(numbers[n * count + 1 :] for n in (1, 2, 3))
        counts = numbers[4 * count + 1 : 12 * count + 1].reshape(count, 8)
        self.tally = numbers[12 * count + 1 :].reshape(count, 2)
        for g, job in enumerate(jobs):
            state, encoded = job.state, job.encoded
            self.h[g, : rows.output] = state.h
            self.c[g, : rows.hidden] = state.c
            self.low[g, : rows.hidden] = state.low
            self.words[g] = state.words.reshape(-1)
            counts[g], reals[g] = encoded.counts, encoded.reals
            self.offsets[g + 1] = self.offsets[g] + len(job.x)
            begins[g] = job.step
            if len(encoded.plan):
                plans[g] = encoded.plan.ctypes.data - encoded.first * rows.hidden
                ends[g] = encoded.first + len(encoded.plan)
        self.x = np.ascontiguousarray(np.concatenate([job.x for job in jobs]) if count > 1 else jobs[0].x)
        places = [base + start for start in starts]
        at = [places[13] + 8 * (n * count + 1) for n in (1, 2, 3, 4, 12)]
        reach = 256 * (rows.x_pairs + rows.h_pairs) + 128
        inputs = [self.x.ctypes.data, places[13], at[0]]
        given = [count, size, reach, *inputs, *places[:4], *places[5:10], _TABLE_PLACE, *places[10:13]]
        self.group = fast.Group(*given)
        self.controls = fast.Controls(jobs[0].encoded.kind, at[3], places[4], at[1], at[2])
        self.tally_place = at[4]

    def process(self, run: Any, top: int, cell: bool, accumulators: bool) -> list[Piece]:
        """Run the kernel; the jobs' states move along."""
        rows, site = self.direction.rows, self.jobs[0].site
        whole = Piece.empty(int(self.offsets[-1]), site, rows.output, cell, accumulators)
        record = fast.Record(
            whole.hidden.ctypes.data, whole.plan.ctypes.data, whole.cell.ctypes.data if cell else 0,
            whole.accumulators.ctypes.data if accumulators else 0, self.tally_place,
        )  # fmt: skip
        run(site.direction == 1, rows, self.direction.unit, top, self.controls, self.group, record)
        pieces = []
        for g, job in enumerate(self.jobs):
            state = job.state
            state.h[:] = self.h[g, : rows.output]
            state.c[:], state.low[:] = self.c[g, : rows.hidden], self.low[g, : rows.hidden]
            state.words.reshape(-1)[:] = self.words[g]
            span = slice(int(self.offsets[g]), int(self.offsets[g + 1]))
            parts = (whole.hidden[span], whole.plan[span], whole.cell[span], whole.accumulators[span])
            pieces.append(Piece(*parts, int(self.tally[g, 0]), int(self.tally[g, 1])))
        return pieces


def accumulation(network: Any, low: np.ndarray, rounds: int) -> Callable[[], object]:
    """A function that forms the products of one step of a network's first layer `rounds` times, for measurements.

    Parameters
    ----------
    low : bool [sequences, hidden]
        Elements at low precision.
    """
    from accel.controllers import Site, Static

    layer, formats = network.layers[0], network.formats
    x = np.random.default_rng(0).integers(-formats.top, formats.top + 1, (1, layer.input_size)).astype(np.int8)
    jobs = []
    for number, flags in enumerate(low):
        site = Site(number, 1, 0, 0, layer.hidden_size, formats.high, formats.low, formats.profile, layer.output_size)
        state = LayerState.zero(layer.hidden_size, layer.output_size, formats.profile)
        state.low[:] = flags
        state.h[:] = np.random.default_rng(number).integers(-formats.top, formats.top + 1, state.h.size)
        jobs.append(Job(site, Static(formats.high).encode(site), state, x, 0))
    workspace = Workspace(jobs, network.prepared[0].directions[0].fast)
    record = fast.Record(0, 0, 0, 0, workspace.tally_place)
    rows, group = workspace.direction.rows, workspace.group

    def run() -> object:
        fast.accumulate_only(rows, group, record, rounds)
        return workspace

    return run
