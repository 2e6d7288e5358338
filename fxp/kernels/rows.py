"""Exact dot products of gate rows with AVX2, each element at the precision its mask asks for.

Weights of an element are one run of blocks of 64 bytes, first those of the x part, then those of the h part (`fxp.packed`). A
block holds the same columns of the four gate rows, 16 bytes a row, so that one vector holds two rows; activations are prepared
once a step as 32 bytes a block, in two halves that are broadcast to both rows of a vector. A row's sum is then folded with those
of the other rows in few instructions.

- *Bytes*: 16 columns a block; activations (s, |v|) with s all ones where v < 0. `w ^ s` is w or -w - 1, within -128 to 127 for
  |w| <= 127, so a pair |v| * (w ^ s) stays within 2 * 127 * 128 < 2^15 and `maddubs` cannot saturate; it is widened to 32 bits at
  once. The sum over a row lacks the sum of |v| over all v < 0, which is the same for all rows. (`vpsignb` would need no
  correction, but runs on the multipliers' ports.)
- *Nibbles* (low width up to 4): 32 columns a block, as unsigned nibbles u = w + 8, the first 16 columns in the low halves of the
  bytes. With the byte t = 16 u2 + u1 and the activations v1, v2 in [-8, 7]:
  t * v2 + u1 * (16 v1 - v2 + 7) = 16 (u1 v1 + u2 v2) + 7 u1. The factor 16 v1 - v2 + 7 just fits int8, and the low halves need one
  AND. A pair of bytes stays within 2 * 3840 < 2^13, so four blocks are summed in 16 bits. The sum over a row is
  16 (sum w v + 8 sum v) + 7 sum u1: the last term is a constant of the row, the middle one the same for all rows.

Here two elements of one sequence share the activations; in `fxp.kernels.batch256` sequences share an element's rows: loads are
dearer than arithmetic. Which element is next the hardware cannot know, so rows are fetched ahead: all of a short element's, or those 1 KiB
ahead in the chain of a long one and its successor.

What is the same for all rows is stored before the activations of a precision, for the x and the h part.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fxp.kernels import vector
from fxp.kernels.build import inlined
from fxp.kernels.vector import add16, add32, both, flip, load, maddubs, maddwd, prefetch, twice

COLUMNS = 16  # bytes of a gate row in a block
SHORT = 3072  # bytes of an element's rows up to which they are fetched as a whole while its predecessor is processed
AHEAD = 16  # blocks ahead in longer ones


class Rows(NamedTuple):
    """Packed weights of one direction of a layer, as addresses, and its sizes."""

    high: int  # uint8, all elements
    low: int  # uint8, all elements
    high_terms: int  # int32 [H, 8]: 128 * sum w of the x rows of the four gates, then of the h rows
    low_terms: int  # the same of rows of bytes, or 7 * sum u1 of rows of nibbles
    x_tiles: int  # int8, as `fxp.kernels.amx` reads them; 0 elsewhere
    low_x_tiles: int
    h_tiles: int
    low_h_tiles: int
    projection: int  # uint8, four rows a block
    hidden: int
    output: int
    inputs: int
    high_stride: int  # bytes from one element's rows to the next one's
    low_stride: int
    x_bytes: int  # blocks of bytes, of as many columns as the instruction set's rows have in a block
    h_bytes: int
    x_nibbles: int  # blocks of nibbles, of twice as many
    h_nibbles: int
    x_pairs: int  # of 64 columns, as activations are laid out
    h_pairs: int
    nibbles: int  # 1: low rows are nibbles, 0: bytes
    projected: int
    overflow: int  # 0: no sum can leave the accumulator; 1: wrap; 2: clamp
    accumulator_bits: int
    shift: int
    low_top: int


@inlined
def add_bytes(total, row, signs, sizes):
    return add32(total, maddwd(maddubs(sizes, flip(row, signs)), vector.ones16()))


@inlined
def add_nibbles(total, t, low_halves, second, crossed):
    return add16(total, add16(maddubs(t, second), maddubs(low_halves, crossed)))


@inlined
def widened(total, sums):
    return add32(total, maddwd(sums, vector.ones16()))


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


# Two elements of one sequence: addresses w and x of their rows, v of the activations, bytes to what is fetched ahead


@inlined
def bytes_of_pair(w, x, v, blocks, ahead, other, a, b, c, d):
    """Adds the products of some blocks to the accumulators: a, b of the element at w; c, d of the one at x."""
    for _ in range(blocks):
        prefetch(w + ahead)
        prefetch(x + other)
        signs, sizes = twice(v), twice(v + 16)
        a, b = add_bytes(a, load(w), signs, sizes), add_bytes(b, load(w + 32), signs, sizes)
        c, d = add_bytes(c, load(x), signs, sizes), add_bytes(d, load(x + 32), signs, sizes)
        w += 64
        x += 64
        v += 32
    return a, b, c, d


@inlined
def nibble_block_of_pair(w, x, v, ahead, other, p, q, r, s):
    """One block of nibbles, in 16 bits."""
    prefetch(w + ahead)
    prefetch(x + other)
    mask = vector.nibbles()
    second, crossed = twice(v), twice(v + 16)
    t = load(w)
    p = add_nibbles(p, t, both(t, mask), second, crossed)
    t = load(w + 32)
    q = add_nibbles(q, t, both(t, mask), second, crossed)
    t = load(x)
    r = add_nibbles(r, t, both(t, mask), second, crossed)
    t = load(x + 32)
    s = add_nibbles(s, t, both(t, mask), second, crossed)
    return p, q, r, s


@inlined
def nibbles_of_pair(w, x, v, blocks, ahead, other, a, b, c, d):
    """The same for nibbles, four blocks in 16 bits."""
    zero = vector.zero()
    for _ in range(blocks >> 2):
        p, q, r, s = nibble_block_of_pair(w, x, v, ahead, other, zero, zero, zero, zero)
        p, q, r, s = nibble_block_of_pair(w + 64, x + 64, v + 32, ahead, other, p, q, r, s)
        p, q, r, s = nibble_block_of_pair(w + 128, x + 128, v + 64, ahead, other, p, q, r, s)
        p, q, r, s = nibble_block_of_pair(w + 192, x + 192, v + 96, ahead, other, p, q, r, s)
        a, b, c, d = widened(a, p), widened(b, q), widened(c, r), widened(d, s)
        w += 256
        x += 256
        v += 128
    if blocks & 3:
        p, q, r, s = zero, zero, zero, zero
        for _ in range(blocks & 3):
            p, q, r, s = nibble_block_of_pair(w, x, v, ahead, other, p, q, r, s)
            w += 64
            x += 64
            v += 32
        a, b, c, d = widened(a, p), widened(b, q), widened(c, r), widened(d, s)
    return a, b, c, d


@inlined
def parts_of_pair(process, w, x, v, h_v, x_blocks, h_blocks, ahead, other):
    """Sums (as vectors) of the x and h parts of two elements; ahead, other: bytes to their successors."""
    a, b, c, d = vector.zero(), vector.zero(), vector.zero(), vector.zero()
    e, f, g, h = vector.zero(), vector.zero(), vector.zero(), vector.zero()
    last = np.int64(0)
    near, far = ahead, other
    if 64 * (x_blocks + h_blocks) > SHORT and h_blocks >= AHEAD:
        last, near, far = np.int64(AHEAD), np.int64(64 * AHEAD), np.int64(64 * AHEAD)
    a, b, c, d = process(w, x, v, x_blocks, near, far, a, b, c, d)
    w += 64 * x_blocks
    x += 64 * x_blocks
    e, f, g, h = process(w, x, h_v, h_blocks - last, near, far, e, f, g, h)
    if last:
        done = h_blocks - last
        ahead -= 64 * (x_blocks + done)
        other -= 64 * (x_blocks + done)
        e, f, g, h = process(w + 64 * done, x + 64 * done, h_v + 32 * done, last, ahead, other, e, f, g, h)
    return vector.folded(a, b, e, f), vector.folded(c, d, g, h)


@inlined
def high_pair(w, x, v, ahead, other, rows):
    """The eight sums of two elements (x part of the four gates, then h part) from bytes; v: address of activations."""
    one, two = parts_of_pair(
        bytes_of_pair, w, x, v, v + 128 * rows.x_pairs, rows.x_bytes, rows.h_bytes, ahead, other
    )
    common = load(v - 32)
    return add32(one, common), add32(two, common)


@inlined
def low_pair(w, x, v, ahead, other, rows):
    """The same from nibbles, 16 times as large and without the row's constant and the common term."""
    return parts_of_pair(
        nibbles_of_pair, w, x, v, v + 64 * rows.x_pairs, rows.x_nibbles, rows.h_nibbles, ahead, other
    )


@inlined
def from_nibbles(total, terms, v):
    """Finished sums of nibbles; terms: address of 7 * sum u1."""
    total = vector.shift_right(vector.sub32(total, load(terms)), vector.spread(np.int32(4)))
    return vector.sub32(total, load(v - 32))


# Four rows of a projection


@inlined
def bytes_of_one(w, v, blocks):
    a, b = vector.zero(), vector.zero()
    for _ in range(blocks):
        signs, sizes = twice(v), twice(v + 16)
        a, b = add_bytes(a, load(w), signs, sizes), add_bytes(b, load(w + 32), signs, sizes)
        w += 64
        v += 32
    return a, b


# Activations


@inlined
def store_bytes(values, place):
    """Activations of 32 columns for the byte rows; returns sums (as a vector) of |v| over v < 0."""
    sizes = vector.magnitude8(values)
    signs = vector.negative8(values)
    vector.store(place, vector.first_halves(signs, sizes))
    vector.store(place + 32, vector.last_halves(signs, sizes))
    return maddwd(maddubs(both(sizes, signs), vector.ones8()), vector.ones16())


@inlined
def store_nibbles(values, place):
    """Activations of 32 columns for the nibble rows; returns 8 times their sums (as a vector)."""
    second = vector.last_halves(values, values)
    vector.store(place, vector.first_halves(second, vector.crossed8(values, second)))
    return sums_of_nibbles(values, vector.zero())


@inlined
def sums_of_nibbles(first, last):
    """8 times the sums (as a vector) of small int8."""
    pairs = add16(maddubs(vector.ones8(), first), maddubs(vector.ones8(), last))
    return vector.shift_left(maddwd(pairs, vector.ones16()), vector.spread(np.int32(3)))


@inlined
def expand(source, pairs, high, low, rows):
    """Activations of both precisions from `64 * pairs` int8 at `source`; returns the sums that correct high and low rows."""
    high_sum, low_sum = vector.zero(), vector.zero()
    for n in range(2 * pairs):
        values = load(source + 32 * n)
        high_sum = add32(high_sum, store_bytes(values, high + 64 * n))
        values = vector.lower8(values, np.int32(rows.shift), np.int32(rows.low_top))
        if rows.nibbles:
            low_sum = add32(low_sum, store_nibbles(values, low + 32 * n))
        else:
            low_sum = add32(low_sum, store_bytes(values, low + 64 * n))
    return vector.total32(high_sum), vector.total32(low_sum)
