"""Exact dot products of gate rows with AVX-512 and VNNI, each element at the precision its mask asks for.

The weights lie as in `fxp.kernels.rows`, but 32 bytes of a gate row together: a block holds the same columns of gates i and f in
one vector and those of g and o in the next, and 32 bytes of activations are broadcast to both halves, one load for two sums. `dot`
forms four products of an unsigned and a signed byte in each 32-bit word and adds them up there: nothing can saturate.

- *Bytes*: activations v + 128 as unsigned bytes by weights w as they lie. The sum over a row is too large by 128 * sum w, a
  constant of the row.
- *Nibbles*: with the byte t = 16 u2 + u1 of two unsigned nibbles u = w + 8, and the activations v1, v2:
  t * v2 + u1 * (16 v1 - v2 + 7) = 16 (u1 v1 + u2 v2) + 7 u1, as in `fxp.kernels.rows`, here without widening.

Here four elements of one sequence share the activations; in `fxp.kernels.batch512` sequences share an element's rows.
"""

from __future__ import annotations

from fxp.kernels import vector512
from fxp.kernels.build import inlined
from fxp.kernels.vector512 import both, dot, load, twice

COLUMNS = 32  # bytes of a gate row in a block
BLOCK = 128  # bytes

# Four elements of one sequence: addresses a to d of their rows, v of the activations


@inlined
def bytes_of_elements(a, b, c, d, v, blocks):
    """Sums (as vectors) of each element: gates i and f, then g and o."""
    zero = vector512.zero()
    e, f, g, h, i, j, k, m = zero, zero, zero, zero, zero, zero, zero, zero
    for _ in range(blocks):
        x = twice(v)
        e, f = dot(e, x, load(a)), dot(f, x, load(a + 64))
        g, h = dot(g, x, load(b)), dot(h, x, load(b + 64))
        i, j = dot(i, x, load(c)), dot(j, x, load(c + 64))
        k, m = dot(k, x, load(d)), dot(m, x, load(d + 64))
        a, b, c, d, v = a + BLOCK, b + BLOCK, c + BLOCK, d + BLOCK, v + 32
    return e, f, g, h, i, j, k, m


@inlined
def add_nibbles(total, t, mask, second, crossed):
    return dot(dot(total, t, second), both(t, mask), crossed)


@inlined
def nibbles_of_elements(a, b, c, d, v, blocks):
    zero, mask = vector512.zero(), vector512.nibbles()
    e, f, g, h, i, j, k, m = zero, zero, zero, zero, zero, zero, zero, zero
    for _ in range(blocks):
        second, crossed = twice(v), twice(v + 32)
        e, f = add_nibbles(e, load(a), mask, second, crossed), add_nibbles(f, load(a + 64), mask, second, crossed)
        g, h = add_nibbles(g, load(b), mask, second, crossed), add_nibbles(h, load(b + 64), mask, second, crossed)
        i, j = add_nibbles(i, load(c), mask, second, crossed), add_nibbles(j, load(c + 64), mask, second, crossed)
        k, m = add_nibbles(k, load(d), mask, second, crossed), add_nibbles(m, load(d + 64), mask, second, crossed)
        a, b, c, d, v = a + BLOCK, b + BLOCK, c + BLOCK, d + BLOCK, v + 64
    return e, f, g, h, i, j, k, m


@inlined
def four_elements(process, a, b, c, d, v, x_blocks, h_blocks, h_start):
    """The eight sums of each of four elements (x part of the four gates, then h part), two elements a vector.

    h_start : bytes from the activations of the x part to those of the h part
    """
    e, f, g, h, i, j, k, m = process(a, b, c, d, v, x_blocks)
    skip = BLOCK * x_blocks
    n, o, p, q, r, s, t, u = process(a + skip, b + skip, c + skip, d + skip, v + h_start, h_blocks)
    return vector512.folded(e, f, n, o, g, h, p, q), vector512.folded(i, j, r, s, k, m, t, u)
