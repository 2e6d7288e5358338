"""Exact dot products of gate rows with AVX2, each element at the precision its mask asks for.

Weights of an element are one run of blocks, first those of the x part, then those of the h part; a block holds the same columns of
the four gate rows, 32 bytes a row (`fxp.packed`). Activations are prepared once a step as pairs of 32 bytes a block.

- *Bytes*: 32 columns a block; activations (s, |v|) with s all ones where v < 0. `w ^ s` is w or -w - 1, within -128 to 127 for
  |w| <= 127, so a pair |v| * (w ^ s) stays within 2 * 127 * 128 < 2^15 and `maddubs` cannot saturate; it is widened to 32 bits at
  once. The sum over a row lacks the sum of |v| over all v < 0, which is the same for all rows. (`vpsignb` would need no
  correction, but runs on the multipliers' ports.)
- *Nibbles* (low width up to 4): 64 columns a block, as unsigned nibbles u = w + 8, the first 32 columns in the low halves of the
  bytes. With the byte t = 16 u2 + u1 and the activations v1, v2 in [-8, 7]:
  t * v2 + u1 * (16 v1 - v2 + 7) = 16 (u1 v1 + u2 v2) + 7 u1. The factor 16 v1 - v2 + 7 just fits int8, and the low halves need one
  AND. A pair of bytes stays within 2 * 3840 < 2^13, so four blocks are summed in 16 bits. The sum over a row is
  16 (sum w v + 8 sum v) + 7 sum u1: the last term is a constant of the row, the middle one the same for all rows.

Rows are fetched into the nearest cache one element ahead (`ahead`: bytes to the next one's rows): which element is next, the
hardware cannot know.

What is the same for all rows is stored before the activations of a precision, for the x and the h part.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fxp.kernels import vector
from fxp.kernels.build import inlined
from fxp.kernels.vector import add16, add32, both, flip, load, maddubs, maddwd, prefetch


class Rows(NamedTuple):
    """Packed weights of one direction of a layer, as addresses, and its sizes."""

    high: int  # uint8, all elements
    low: int  # uint8, all elements
    low_terms: int  # int32 [H, 8]: 7 * sum u1 of the x and h rows (nibbles)
    projection: int  # uint8, four rows a block
    hidden: int
    output: int
    inputs: int
    x_blocks: int  # of 32 columns
    h_blocks: int
    x_pairs: int  # of 64 columns
    h_pairs: int
    nibbles: int  # 1: low rows are nibbles, 0: bytes
    projected: int
    overflow: int  # 0: no sum can leave the accumulator; 1: wrap; 2: clamp
    accumulator_bits: int
    shift: int
    low_top: int


@inlined
def byte_rows(w, v, blocks, ahead):
    """Sums (as vectors) over four rows of bytes."""
    one = vector.ones16()
    a, b, c, d = vector.zero(), vector.zero(), vector.zero(), vector.zero()
    for _ in range(blocks):
        prefetch(w + ahead)
        prefetch(w + ahead + 64)
        signs, sizes = load(v), load(v + 32)
        a = add32(a, maddwd(maddubs(sizes, flip(load(w), signs)), one))
        b = add32(b, maddwd(maddubs(sizes, flip(load(w + 32), signs)), one))
        c = add32(c, maddwd(maddubs(sizes, flip(load(w + 64), signs)), one))
        d = add32(d, maddwd(maddubs(sizes, flip(load(w + 96), signs)), one))
        w += 128
        v += 64
    return a, b, c, d


@inlined
def nibble_block(total, t, second, crossed):
    return add16(total, add16(maddubs(t, second), maddubs(both(t, vector.nibbles()), crossed)))


@inlined
def nibble_rows(w, v, blocks, ahead):
    """Sums (as vectors) over four rows of nibbles."""
    one = vector.ones16()
    a, b, c, d = vector.zero(), vector.zero(), vector.zero(), vector.zero()
    while blocks > 0:
        p, q, r, s = vector.zero(), vector.zero(), vector.zero(), vector.zero()
        for _ in range(min(blocks, 4)):
            prefetch(w + ahead)
            prefetch(w + ahead + 64)
            second, crossed = load(v), load(v + 32)
            p = nibble_block(p, load(w), second, crossed)
            q = nibble_block(q, load(w + 32), second, crossed)
            r = nibble_block(r, load(w + 64), second, crossed)
            s = nibble_block(s, load(w + 96), second, crossed)
            w += 128
            v += 64
        a, b = add32(a, maddwd(p, one)), add32(b, maddwd(q, one))
        c, d = add32(c, maddwd(r, one)), add32(d, maddwd(s, one))
        blocks -= 4
    return a, b, c, d


@inlined
def settled(total, rows, overflows):
    """Finished sums brought to the accumulator's width; overflows are added to the int64 at that address."""
    if rows.overflow == 0:
        return total
    unused = vector.spread(np.int32(32 - rows.accumulator_bits))
    wrapped = vector.shift_right(vector.shift_left(total, unused), unused)
    vector.store_long(overflows, vector.load_long(overflows) + vector.differing(total, wrapped))
    if rows.overflow == 1:
        return wrapped
    most = np.int64(1) << (rows.accumulator_bits - 1)
    return vector.least32(
        vector.most32(total, vector.spread(np.int32(-most))), vector.spread(np.int32(most - 1))
    )


@inlined
def high_element(w, v, ahead, rows):
    """The eight sums of an element (x part of the four gates, then h part) from bytes; v: address of activations."""
    a, b, c, d = byte_rows(w, v, rows.x_blocks, ahead)
    e, f, g, h = byte_rows(w + 128 * rows.x_blocks, v + 128 * rows.x_pairs, rows.h_blocks, ahead)
    return add32(vector.sums(a, b, c, d, e, f, g, h), load(v - 32))


@inlined
def low_element(w, v, ahead, terms, rows):
    """The same from nibbles; terms: address of 7 * sum u1."""
    a, b, c, d = nibble_rows(w, v, rows.x_pairs, ahead)
    e, f, g, h = nibble_rows(w + 128 * rows.x_pairs, v + 64 * rows.x_pairs, rows.h_pairs, ahead)
    total = vector.sub32(vector.sums(a, b, c, d, e, f, g, h), load(terms))
    return vector.sub32(vector.shift_right(total, vector.spread(np.int32(4))), load(v - 32))


@inlined
def low_start(rows):
    """Offset of the low activations from the high ones."""
    return 128 * (rows.x_pairs + rows.h_pairs) + 64


@inlined
def store_bytes(values, place):
    """Activations of 32 columns for the byte rows; returns the sum of |v| over v < 0."""
    sizes = vector.magnitude8(values)
    signs = vector.negative8(values)
    vector.store(place, signs)
    vector.store(place + 32, sizes)
    return vector.total8(both(sizes, signs))


@inlined
def expand(source, pairs, high, low, rows):
    """Activations of both precisions from `64 * pairs` int8 at `source`; returns the sums that correct high and low rows."""
    high_sum, low_sum = np.int32(0), np.int32(0)
    for n in range(pairs):
        first, second = load(source + 64 * n), load(source + 64 * n + 32)
        high_sum += store_bytes(first, high + 128 * n) + store_bytes(second, high + 128 * n + 64)
        first = vector.lower8(first, np.int32(rows.shift), np.int32(rows.low_top))
        second = vector.lower8(second, np.int32(rows.shift), np.int32(rows.low_top))
        if rows.nibbles:
            vector.store(low + 64 * n, second)
            vector.store(low + 64 * n + 32, vector.crossed8(first, second))
            low_sum += 8 * (vector.total8(first) + vector.total8(second))
        else:
            low_sum += store_bytes(first, low + 128 * n) + store_bytes(second, low + 128 * n + 64)
    return high_sum, low_sum


@inlined
def byte_rows_of_two(w, v, u, blocks):
    """Sums over four rows of bytes for two sequences, each row fetched once."""
    one = vector.ones16()
    a, b, c, d = vector.zero(), vector.zero(), vector.zero(), vector.zero()
    e, f, g, h = vector.zero(), vector.zero(), vector.zero(), vector.zero()
    for _ in range(blocks):
        signs, sizes = load(v), load(v + 32)
        other_signs, other_sizes = load(u), load(u + 32)
        row = load(w)
        a = add32(a, maddwd(maddubs(sizes, flip(row, signs)), one))
        e = add32(e, maddwd(maddubs(other_sizes, flip(row, other_signs)), one))
        row = load(w + 32)
        b = add32(b, maddwd(maddubs(sizes, flip(row, signs)), one))
        f = add32(f, maddwd(maddubs(other_sizes, flip(row, other_signs)), one))
        row = load(w + 64)
        c = add32(c, maddwd(maddubs(sizes, flip(row, signs)), one))
        g = add32(g, maddwd(maddubs(other_sizes, flip(row, other_signs)), one))
        row = load(w + 96)
        d = add32(d, maddwd(maddubs(sizes, flip(row, signs)), one))
        h = add32(h, maddwd(maddubs(other_sizes, flip(row, other_signs)), one))
        w += 128
        v += 64
        u += 64
    return a, b, c, d, e, f, g, h


@inlined
def nibble_rows_of_two(w, v, u, blocks):
    """Sums over four rows of nibbles for two sequences, each row fetched once."""
    one, low_halves = vector.ones16(), vector.nibbles()
    a, b, c, d = vector.zero(), vector.zero(), vector.zero(), vector.zero()
    e, f, g, h = vector.zero(), vector.zero(), vector.zero(), vector.zero()
    while blocks > 0:
        i, j, k, q = vector.zero(), vector.zero(), vector.zero(), vector.zero()
        m, n, o, p = vector.zero(), vector.zero(), vector.zero(), vector.zero()
        for _ in range(min(blocks, 4)):
            second, crossed = load(v), load(v + 32)
            other, their = load(u), load(u + 32)
            t = load(w)
            first = both(t, low_halves)
            i = add16(i, add16(maddubs(t, second), maddubs(first, crossed)))
            m = add16(m, add16(maddubs(t, other), maddubs(first, their)))
            t = load(w + 32)
            first = both(t, low_halves)
            j = add16(j, add16(maddubs(t, second), maddubs(first, crossed)))
            n = add16(n, add16(maddubs(t, other), maddubs(first, their)))
            t = load(w + 64)
            first = both(t, low_halves)
            k = add16(k, add16(maddubs(t, second), maddubs(first, crossed)))
            o = add16(o, add16(maddubs(t, other), maddubs(first, their)))
            t = load(w + 96)
            first = both(t, low_halves)
            q = add16(q, add16(maddubs(t, second), maddubs(first, crossed)))
            p = add16(p, add16(maddubs(t, other), maddubs(first, their)))
            w += 128
            v += 64
            u += 64
        a, b = add32(a, maddwd(i, one)), add32(b, maddwd(j, one))
        c, d = add32(c, maddwd(k, one)), add32(d, maddwd(q, one))
        e, f = add32(e, maddwd(m, one)), add32(f, maddwd(n, one))
        g, h = add32(g, maddwd(o, one)), add32(h, maddwd(p, one))
        blocks -= 4
    return a, b, c, d, e, f, g, h


@inlined
def high_element_of_two(w, v, u, rows):
    """`high_element` for two sequences."""
    v_sums, u_sums = load(v - 32), load(u - 32)
    a, b, c, d, i, j, k, q = byte_rows_of_two(w, v, u, rows.x_blocks)
    w += 128 * rows.x_blocks
    v += 128 * rows.x_pairs
    u += 128 * rows.x_pairs
    e, f, g, h, m, n, o, p = byte_rows_of_two(w, v, u, rows.h_blocks)
    return add32(vector.sums(a, b, c, d, e, f, g, h), v_sums), add32(vector.sums(i, j, k, q, m, n, o, p), u_sums)


@inlined
def low_element_of_two(w, v, u, terms, rows):
    """`low_element` for two sequences."""
    four = vector.spread(np.int32(4))
    constant, v_sums, u_sums = load(terms), load(v - 32), load(u - 32)
    a, b, c, d, i, j, k, q = nibble_rows_of_two(w, v, u, rows.x_pairs)
    w += 128 * rows.x_pairs
    v += 64 * rows.x_pairs
    u += 64 * rows.x_pairs
    e, f, g, h, m, n, o, p = nibble_rows_of_two(w, v, u, rows.h_pairs)
    one = vector.sub32(vector.sums(a, b, c, d, e, f, g, h), constant)
    two = vector.sub32(vector.sums(i, j, k, q, m, n, o, p), constant)
    return vector.sub32(vector.shift_right(one, four), v_sums), vector.sub32(vector.shift_right(two, four), u_sums)
