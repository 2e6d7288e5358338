"""Exact dot products of gate rows with AVX-512 and VNNI, each element at the precision its mask asks for.

The weights are those of `fxp.kernels.rows`: a block of 64 bytes holds the same columns of the four gate rows, so one vector holds
the four rows in its quarters, and 16 bytes of activations are broadcast to all of them. `dot` forms four products of an unsigned
and a signed byte in each 32-bit word and adds them up there: nothing can saturate.

- *Bytes*: activations v + 128 as unsigned bytes by weights w as they lie. The sum over a row is too large by 128 * sum w, a
  constant of the row.
- *Nibbles*: with the byte t = 16 u2 + u1 of two unsigned nibbles u = w + 8, and the activations v1, v2:
  t * v2 + u1 * (16 v1 - v2 + 7) = 16 (u1 v1 + u2 v2) + 7 u1, as in `fxp.kernels.rows`, here without widening.

Four elements of one sequence share the activations, or four sequences share an element's rows. A sum takes a few cycles, so
there are two of each.
"""

from __future__ import annotations

from fxp.kernels import vector512
from fxp.kernels.build import inlined
from fxp.kernels.vector512 import add32, both, dot, four_times, load

# Four elements of one sequence: addresses a to d of their rows, v of the activations


@inlined
def bytes_of_elements(a, b, c, d, v, blocks):
    """Sums (as vectors) of each element."""
    zero = vector512.zero()
    e, f, g, h, i, j, k, m = zero, zero, zero, zero, zero, zero, zero, zero
    for _ in range(blocks >> 1):
        first, last = four_times(v), four_times(v + 16)
        e, f = dot(e, first, load(a)), dot(f, first, load(b))
        g, h = dot(g, first, load(c)), dot(h, first, load(d))
        i, j = dot(i, last, load(a + 64)), dot(j, last, load(b + 64))
        k, m = dot(k, last, load(c + 64)), dot(m, last, load(d + 64))
        a, b, c, d, v = a + 128, b + 128, c + 128, d + 128, v + 32
    if blocks & 1:
        first = four_times(v)
        e, f = dot(e, first, load(a)), dot(f, first, load(b))
        g, h = dot(g, first, load(c)), dot(h, first, load(d))
    return add32(e, i), add32(f, j), add32(g, k), add32(h, m)


@inlined
def nibbles_of_elements(a, b, c, d, v, blocks):
    zero, mask = vector512.zero(), vector512.nibbles()
    e, f, g, h, i, j, k, m = zero, zero, zero, zero, zero, zero, zero, zero
    for _ in range(blocks):
        second, crossed = four_times(v), four_times(v + 16)
        p, q, r, s = load(a), load(b), load(c), load(d)
        e, f, g, h = dot(e, p, second), dot(f, q, second), dot(g, r, second), dot(h, s, second)
        i, j = dot(i, both(p, mask), crossed), dot(j, both(q, mask), crossed)
        k, m = dot(k, both(r, mask), crossed), dot(m, both(s, mask), crossed)
        a, b, c, d, v = a + 64, b + 64, c + 64, d + 64, v + 32
    return add32(e, i), add32(f, j), add32(g, k), add32(h, m)


@inlined
def four_elements(process, a, b, c, d, v, x_blocks, h_blocks, h_start):
    """The eight sums of each of four elements (x part of the four gates, then h part), two elements a vector.

    h_start : bytes from the activations of the x part to those of the h part
    """
    e, f, g, h = process(a, b, c, d, v, x_blocks)
    skip = 64 * x_blocks
    i, j, k, m = process(a + skip, b + skip, c + skip, d + skip, v + h_start, h_blocks)
    return vector512.folded(e, i, f, j), vector512.folded(g, k, h, m)


# One element for four or two sequences: address w of its rows, others of the activations


@inlined
def bytes_of_four(w, v, u, t, s, blocks):
    zero, at = vector512.zero(), 0
    e, f, g, h = zero, zero, zero, zero
    i, j, k, m = zero, zero, zero, zero
    for _ in range(blocks >> 1):
        first, last = load(w), load(w + 64)
        e, f = dot(e, four_times(v + at), first), dot(f, four_times(u + at), first)
        g, h = dot(g, four_times(t + at), first), dot(h, four_times(s + at), first)
        i, j = dot(i, four_times(v + at + 16), last), dot(j, four_times(u + at + 16), last)
        k, m = dot(k, four_times(t + at + 16), last), dot(m, four_times(s + at + 16), last)
        w += 128
        at += 32
    if blocks & 1:
        first = load(w)
        e, f = dot(e, four_times(v + at), first), dot(f, four_times(u + at), first)
        g, h = dot(g, four_times(t + at), first), dot(h, four_times(s + at), first)
    return add32(e, i), add32(f, j), add32(g, k), add32(h, m)


@inlined
def nibbles_of_four(w, v, u, t, s, blocks):
    zero, mask, at = vector512.zero(), vector512.nibbles(), 0
    e, f, g, h = zero, zero, zero, zero
    i, j, k, m = zero, zero, zero, zero
    for _ in range(blocks):
        whole = load(w)
        half = both(whole, mask)
        e, f = dot(e, whole, four_times(v + at)), dot(f, whole, four_times(u + at))
        g, h = dot(g, whole, four_times(t + at)), dot(h, whole, four_times(s + at))
        i, j = dot(i, half, four_times(v + at + 16)), dot(j, half, four_times(u + at + 16))
        k, m = dot(k, half, four_times(t + at + 16)), dot(m, half, four_times(s + at + 16))
        w += 64
        at += 32
    return add32(e, i), add32(f, j), add32(g, k), add32(h, m)


@inlined
def four_sequences(process, w, v, u, t, s, x_blocks, h_blocks, h_start):
    """The eight sums of an element for each of four sequences, two sequences a vector."""
    e, f, g, h = process(w, v, u, t, s, x_blocks)
    i, j, k, m = process(w + 64 * x_blocks, v + h_start, u + h_start, t + h_start, s + h_start, h_blocks)
    return vector512.folded(e, i, f, j), vector512.folded(g, k, h, m)
