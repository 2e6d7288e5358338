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
    triple, _, features = machine()
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


class Workspace:
    """Arrays of one call of the kernels. They get addresses only, so everything they touch stays an attribute here.

    Parameters
    ----------
    jobs : in the order of falling length
    direction : packed weights and constants
    """

    def __init__(self, jobs: Sequence[Job], direction: FastDirection):
        self.jobs, self.direction = jobs, direction
        rows = direction.rows
        count, size = len(jobs), _up(rows.hidden, 8)
        self.offsets = np.concatenate([[0], np.cumsum([len(job.x) for job in jobs])]).astype(np.int64)
        self.begins = np.array([job.step for job in jobs], np.int64)
        self.x = np.ascontiguousarray(np.concatenate([job.x for job in jobs]) if count > 1 else jobs[0].x)
        reach = 256 * (rows.x_pairs + rows.h_pairs) + 128
        kind = jobs[0].state.c.dtype
        wide = _up(rows.hidden, 64)
        sizes = (
            count * 64 * rows.h_pairs, count * size * kind.itemsize, count * size, 64 * rows.x_pairs, count * reach,
            count * size * 32, 16 * size, 4 * max(size, count) + 32, wide, 2 * wide, 4 * _up(rows.output, 8) + 32,
        )  # fmt: skip
        starts = [0]
        for length in sizes:
            starts.append(starts[-1] + _up(length, LINE))
        self.memory = aligned((starts[-1],), np.uint8)
        base = self.memory.ctypes.data
        self.h = self.memory[: sizes[0]].view(np.int8).reshape(count, -1)
        self.c = self.memory[starts[1] : starts[1] + sizes[1]].view(kind).reshape(count, -1)
        self.low = self.memory[starts[2] : starts[2] + sizes[2]].reshape(count, -1)
        self.words = np.stack([job.state.words for job in jobs])
        for g, job in enumerate(jobs):
            self.h[g, : rows.output] = job.state.h
            self.c[g, : rows.hidden], self.low[g, : rows.hidden] = job.state.c, job.state.low
        places = [base + start for start in starts[:-1]]
        inputs = [array.ctypes.data for array in (self.x, self.offsets, self.begins)]
        numbers = [count, size, reach, *inputs, *places[:3], self.words.ctypes.data, *places[3:]]
        self.group = fast.Group(*numbers)
        encoded = [job.encoded for job in jobs]
        self.plans = [e.plan for e in encoded]
        self.controls = (
            np.stack([e.counts for e in encoded]),
            np.stack([e.reals for e in encoded]),
            np.array([e.plan.ctypes.data - e.first * rows.hidden for e in encoded], np.int64),
            np.array([e.first + len(e.plan) for e in encoded], np.int64),
        )

    def process(self, run: Any, top: int, cell: bool, accumulators: bool) -> list[Piece]:
        """Run the kernel; the jobs' states move along."""
        rows, site = self.direction.rows, self.jobs[0].site
        whole = Piece.empty(int(self.offsets[-1]), site, rows.output, cell, accumulators)
        counts = np.zeros((len(self.jobs), 2), np.int64)
        record = fast.Record(
            whole.hidden.ctypes.data, whole.plan.ctypes.data, whole.cell.ctypes.data if cell else 0,
            whole.accumulators.ctypes.data if accumulators else 0, counts.ctypes.data,
        )  # fmt: skip
        controls = fast.Controls(self.jobs[0].encoded.kind, *(array.ctypes.data for array in self.controls))
        run(site.direction == 1, rows, self.direction.unit, top, controls, self.group, record)
        pieces = []
        for g, job in enumerate(self.jobs):
            job.state.h[:] = self.h[g, : rows.output]
            job.state.c[:], job.state.low[:] = self.c[g, : rows.hidden], self.low[g, : rows.hidden]
            job.state.words[:] = self.words[g]
            span = slice(int(self.offsets[g]), int(self.offsets[g + 1]))
            parts = (whole.hidden[span], whole.plan[span], whole.cell[span], whole.accumulators[span])
            pieces.append(Piece(*parts, int(counts[g, 0]), int(counts[g, 1])))
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
    counts = np.zeros((len(jobs), 2), np.int64)
    record = fast.Record(0, 0, 0, 0, counts.ctypes.data)
    rows, group = workspace.direction.rows, workspace.group

    def run() -> object:
        fast.accumulate_only(rows, group, record, rounds)
        return workspace, counts

    return run
