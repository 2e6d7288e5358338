"""`fxp.kernels.batch` with AVX-512 and VNNI: up to eight sequences, whose 16 accumulators take half of the registers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from fxp.kernels.batch import cleared, kernel_of, moved, number
from fxp.kernels.vector import WORDS, _shuffle, _undefined, pointer_to
from fxp.kernels.vector512 import LINE, _dot, _gates_added, _load, _pairs_added, _twice

MOST = 8
BLOCK = 128


def _part(nibbles: bool) -> Any:
    def part(builder: Any, w: Any, places: list[Any], blocks: Any) -> list[Any]:
        """One vector a sequence: the sums of gates i and f, and of g and o, half folded."""
        sums = cleared(builder, 2 * len(places), LINE)
        with cgutils.for_range(builder, blocks) as loop:
            block = builder.add(w, builder.mul(loop.index, number(BLOCK)))
            at = builder.mul(loop.index, number(64 if nibbles else 32))
            weights = [_load(builder, moved(builder, block, offset)) for offset in (0, 64)]
            for half in range(2 if nibbles else 1):
                for n, place in enumerate(places):
                    v = _twice(builder, moved(builder, builder.add(place, at), 32 * half))
                    for total, w_bytes in zip(sums[2 * n : 2 * n + 2], weights, strict=True):
                        factors = (w_bytes, v) if nibbles else (v, w_bytes)
                        builder.store(_dot(builder, builder.load(total), *factors), total)
                weights = [builder.and_(v, ir.Constant(LINE, [0x0F0F0F0F] * 16)) for v in weights]
        totals = [builder.load(total) for total in sums]
        return [_gates_added(builder, *totals[n : n + 2]) for n in range(0, len(totals), 2)]

    return part


def _finish(nibbles: bool) -> Any:
    def finish(builder: Any, x: list[Any], h: list[Any], places: list[Any], terms: Any) -> list[Any]:
        """As `store_bytes` and `store_nibbles` of `fxp.kernels.vnni`, two sequences at a time."""
        half = builder.load(pointer_to(builder, terms, WORDS), align=1)
        excess = _shuffle(builder, half, _undefined(WORDS), list(range(8)) * 2)
        out = []
        for n in range(0, len(x), 2):
            last = min(n + 1, len(x) - 1)
            total = builder.sub(_pairs_added(builder, x[n], h[n], x[last], h[last]), excess)
            if nibbles:
                total = builder.ashr(total, ir.Constant(LINE, [4] * 16))
            for k in range(n, last + 1):
                words = _shuffle(builder, total, _undefined(LINE), list(range(8 * (k - n), 8 * (k - n) + 8)))
                if nibbles:
                    sums = pointer_to(builder, moved(builder, places[k], -32), WORDS)
                    words = builder.sub(words, builder.load(sums, align=1))
                out.append(words)
        return out

    return finish


byte_rows, nibble_rows = (kernel_of(MOST, BLOCK, _part(nibbles), _finish(nibbles)) for nibbles in (False, True))
