"""The engine of `fxp.kernels.fast`: groups of sequences in lock-step with 256-bit vectors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from fxp.engines import CompiledEngine, Job, Piece
from fxp.formats import Profile
from fxp.network import Network
from fxp.packed import aligned

GROUP = 16  # sequences side by side


def available() -> bool:
    """Whether this machine, as Numba compiles for it, has AVX2; the environment variable FXP_PORTABLE=1 says no."""
    if os.environ.get("FXP_PORTABLE", "0") not in ("", "0"):
        return False
    from numba.core.registry import cpu_target

    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    return triple.startswith("x86_64") and "+avx2" in features.split(",")


def _up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


class FastEngine(CompiledEngine):
    """AVX2 kernels; same bits as `portable`."""

    group_size = GROUP

    def __init__(self, network: Network):
        super().__init__(network)
        from fxp.kernels import fast

        self._fast = fast
        self._loop = fast.run_float if network.formats.profile == Profile.FLOAT32 else fast.run_fixed

    def run(self, controller: Any, jobs: Sequence[Job], cell: bool, accumulators: bool) -> list[Piece]:
        order = sorted(range(len(jobs)), key=lambda n: -len(jobs[n].x))
        sorted_jobs = [jobs[n] for n in order]
        site = jobs[0].site
        part = self._network.prepared[site.layer].directions[site.direction]
        rows = part.fast.rows
        lengths = [len(job.x) for job in sorted_jobs]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        whole = Piece.empty(int(offsets[-1]), site, rows.output, cell, accumulators)
        counts = np.zeros((len(jobs), 2), np.int64)
        x = np.concatenate([job.x for job in sorted_jobs]) if len(jobs) > 1 else np.ascontiguousarray(jobs[0].x)
        group = self._group(sorted_jobs, offsets, rows)
        record = self._fast.Record(whole.hidden, whole.plan, whole.cell, whole.accumulators, counts)
        self._loop(
            x, site.direction == 1, rows, part.fast.unit, self._network.formats.top, self._controls(sorted_jobs), group, record
        )
        pieces: list[Any] = [None] * len(jobs)
        for g, job in enumerate(sorted_jobs):
            job.state.h[:] = group.h[g, : rows.output]
            job.state.c[:], job.state.low[:] = group.c[g, : rows.hidden], group.low[g, : rows.hidden]
            job.state.words[:] = group.words[g]
            span = slice(int(offsets[g]), int(offsets[g + 1]))
            pieces[order[g]] = Piece(
                whole.hidden[span], whole.plan[span], whole.cell[span], whole.accumulators[span],
                int(counts[g, 0]), int(counts[g, 1]),
            )  # fmt: skip
        return pieces

    def _controls(self, jobs: Sequence[Job]) -> Any:
        plans = [job.encoded.plan for job in jobs]
        return self._fast.Controls(
            jobs[0].encoded.kind,
            np.stack([job.encoded.counts for job in jobs]),
            np.stack([job.encoded.reals for job in jobs]),
            np.array([plan.ctypes.data for plan in plans], np.int64),
            np.array([len(plan) for plan in plans], np.int64),
        )

    def _group(self, jobs: Sequence[Job], offsets: np.ndarray, rows: Any) -> Any:
        count, hidden = len(jobs), _up(rows.hidden, 8)
        pairs = rows.x_pairs + rows.h_pairs
        group = self._fast.Group(
            offsets,
            np.array([job.step for job in jobs], np.int64),
            aligned((count, 64 * rows.h_pairs), np.int8),
            aligned((count, hidden), jobs[0].state.c.dtype),
            aligned((count, hidden), np.uint8),
            np.stack([job.state.words for job in jobs]),
            aligned((64 * rows.x_pairs,), np.int8),
            aligned((count, 256 * pairs + 128), np.uint8),
            aligned((count, hidden, 8), np.int32),
            np.zeros(max(hidden, count) + 8, np.int32),
            aligned((_up(rows.hidden, 64),), np.int8),
            aligned((2 * _up(rows.hidden, 64),), np.uint8),
            aligned((_up(rows.output, 8) + 8,), np.int32),
        )
        for g, job in enumerate(jobs):
            group.h[g, : rows.output] = job.state.h
            group.c[g, : rows.hidden], group.low[g, : rows.hidden] = job.state.c, job.state.low
        return group
