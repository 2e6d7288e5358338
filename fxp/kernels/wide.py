"""The multifunction unit of `fxp.kernels.unit`, eight elements at a time: the same operations in the same order, so the same bits.

The `fixed` profile forms `scaled(a, m, e)` in binary64: a * m / 2^e is exact there (at most 47 bits), and so is adding 1/2 for
e <= 52; for larger e the value is below 2^-5 in magnitude and the floor 0 either way. Everything else fits 32-bit integers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fxp.kernels import activation, unit, vector
from fxp.kernels.build import helper, inlined
from fxp.kernels.vector import add32, load_doubles, load_reals, mul32, shift_left, shift_right, spread, spread_real

LEAST32, MOST32 = np.float64(-2147483648.0), np.float64(2147483647.0)
LEAST16, MOST16 = np.float64(-32768.0), np.float64(32767.0)
HALF = np.float64(0.5)


class Constants(NamedTuple):
    """Constants of the multifunction unit, as addresses of arrays whose last axis is filled up to whole vectors."""

    x_scale: int  # float32 [2, 4, H] high and low; `fixed`: float64 [4, H], m / 2^e of high precision
    h_scale: int
    bias: int  # float32 or int32 [2, 4, H]
    projection: int  # float32 or float64 [R]
    peephole: int  # float32 or float64 [3, H] of i, f, o; 0: no peepholes
    table: int  # int16 [1025], `fixed` only
    first: float  # step of the first quantisation of h (`fixed`: its multiplier), and of the one after a projection
    second: float


@inlined
def nearest(v):
    return (v + spread_real(unit.ROUND)) - spread_real(unit.ROUND)


@inlined
def to_index(value, scale, top):
    """Indices as words."""
    v = vector.larger(value / scale, spread_real(-top))
    return vector.to_words(nearest(vector.smaller(v, spread_real(top))))


@inlined
def either_constant(low, place, size):
    """Constants of eight elements, each of its precision; size: bytes of those of one precision."""
    return vector.choose(low, load_reals(place + size), load_reals(place))


@inlined
def preactivation(constants, low, place, size, x, h):
    """z of eight elements; place: offset of their constants."""
    kx = either_constant(low, constants.x_scale + place, size)
    kh = either_constant(low, constants.h_scale + place, size)
    return (vector.to_reals(x) * kx + vector.to_reals(h) * kh) + either_constant(low, constants.bias + place, size)


@inlined
def columns(s):
    """The eight sums of eight elements from address s, sum by sum."""
    return vector.transposed(
        vector.load(s), vector.load(s + 32), vector.load(s + 64), vector.load(s + 96),
        vector.load(s + 128), vector.load(s + 160), vector.load(s + 192), vector.load(s + 224),
    )  # fmt: skip


@inlined
def peephole(place, z, c):
    """z with the peephole of a cell state; place: address of the weights."""
    return z + load_reals(place) * c


@inlined
def gates_float(constants, start, stop, size, sums, flags, z):
    """Pre-activations of a sequence's elements from `start` to `stop`, without peepholes, in rows i, f, o and g of z.

    start, stop : multiples of 16; size : elements that there are, filled up
    Addresses: sums int32 [H, 8], flags uint8 [H], z: workspace of four words an element (of these)
    """
    row, own = 4 * size, 4 * (stop - start)
    for k in range(start, stop, 8):
        s = columns(sums + 32 * k)
        low = vector.mask(flags + k)
        place = z + 4 * (k - start)
        vector.store_reals(place, preactivation(constants, low, 4 * k, 4 * row, s[0], s[4]))
        vector.store_reals(place + own, preactivation(constants, low, 4 * k + row, 4 * row, s[1], s[5]))
        vector.store_reals(place + 3 * own, preactivation(constants, low, 4 * k + 2 * row, 4 * row, s[2], s[6]))
        vector.store_reals(place + 2 * own, preactivation(constants, low, 4 * k + 3 * row, 4 * row, s[3], s[7]))


@helper
def states_float(constants, start, stop, size, z, c, m, top):
    """Cell states float32 [H] and output indices m int8 [H] (before a projection) of a sequence's elements from `start` to
    `stop`, from their pre-activations.

    In passes, so that the long chains of several vectors overlap.
    """
    row = 4 * (stop - start)
    o, g = z + 2 * row, z + 3 * row
    c, m = c + 4 * start, m + start
    weights, apart = constants.peephole + 4 * start, 4 * size
    if constants.peephole:
        for n in range(0, row, 32):
            place, before = weights + n, load_reals(c + n)
            vector.store_reals(z + n, peephole(place, load_reals(z + n), before))
            vector.store_reals(z + n + row, peephole(place + apart, load_reals(z + n + row), before))
        activation.sigmoids(z, o)
    else:
        activation.sigmoids(z, g)
    activation.tanhs(g, g + row)
    for n in range(0, row, 32):
        activation.state_8(c + n, z + n, z + row + n, g + n)
    if constants.peephole:
        for n in range(0, row, 32):
            vector.store_reals(o + n, peephole(weights + 2 * apart + n, load_reals(o + n), load_reals(c + n)))
        activation.sigmoids(o, g)
    n, step = np.int64(0), np.float32(constants.first)
    while row - n >= 4 * activation.LANES:
        activation.output_32(c + n, o + n, m + (n >> 2), step, top)
        n += 4 * activation.LANES
    while n < row:
        activation.output_8(c + n, o + n, m + (n >> 2), step, top)
        n += 32


@inlined
def output_float(constants, size, sums, h, top):
    """Output indices of a projection."""
    limit = np.float32(top)
    for p in range(0, size, 8):
        y = vector.to_reals(vector.load(sums + 4 * p)) * load_reals(constants.projection + 4 * p)
        vector.store_bytes(h + p, to_index(y, spread_real(np.float32(constants.second)), limit))


@inlined
def limited(v, least, most):
    return vector.smaller_double(vector.larger_double(v, vector.spread_double(least)), vector.spread_double(most))


@inlined
def rounded(v):
    return vector.floor(v + vector.spread_double(HALF))


@inlined
def scaled(v):
    return limited(rounded(v), LEAST32, MOST32)


@inlined
def preactivation_fixed(constants, low, factors, k, gate, size, x, h):
    """z of eight elements, as words."""
    place = 8 * (gate * size + k)
    kx, kh = constants.x_scale + place, constants.h_scale + place
    high_bias = constants.bias + 4 * (gate * size + k)
    bias = vector.choose_words(low, vector.load(high_bias + 16 * size), vector.load(high_bias))
    first, last = factors
    a = scaled(vector.first_doubles(x) * (load_doubles(kx) * first))
    b = scaled(vector.last_doubles(x) * (load_doubles(kx + 32) * last))
    a = (a + scaled(vector.first_doubles(h) * (load_doubles(kh) * first))) + vector.first_doubles(bias)
    b = (b + scaled(vector.last_doubles(h) * (load_doubles(kh + 32) * last))) + vector.last_doubles(bias)
    return vector.join(limited(a, LEAST16, MOST16), limited(b, LEAST16, MOST16))


@inlined
def peephole_fixed(place, z, c):
    """z with the peephole of a cell state, as words; place: address of the weights."""
    a = scaled(vector.first_doubles(c) * load_doubles(place)) + vector.first_doubles(z)
    b = scaled(vector.last_doubles(c) * load_doubles(place + 32)) + vector.last_doubles(z)
    return vector.join(limited(a, LEAST16, MOST16), limited(b, LEAST16, MOST16))


@inlined
def interpolate(table, p, n):
    j = shift_right(p, spread(n))
    d = vector.sub32(p, shift_left(j, spread(n)))
    pair = vector.neighbours(table, j)
    a = shift_right(shift_left(pair, spread(np.int32(16))), spread(np.int32(16)))
    b = shift_right(pair, spread(np.int32(16)))
    step = add32(mul32(vector.sub32(b, a), d), spread(np.int32(1 << (n - 1))))
    return add32(a, shift_right(step, spread(n)))


@inlined
def sigmoid_fixed(table, z):
    value = interpolate(table, add32(z, spread(np.int32(32768))), np.int32(6))
    return shift_right(add32(value, spread(np.int32(32768))), spread(np.int32(1)))


@inlined
def tanh_fixed(table, z):
    z = vector.least32(vector.most32(z, spread(np.int32(-16384))), spread(np.int32(16383)))
    return interpolate(table, add32(z, spread(np.int32(16384))), np.int32(5))


@inlined
def half_up(v, bits):
    """floor(v / 2^bits + 1/2)."""
    return shift_right(add32(v, spread(np.int32(1 << (bits - 1)))), spread(np.int32(bits)))


@inlined
def to_index_fixed(v, first, last, top):
    """Indices as words; first, last: multipliers of the lanes as doubles."""
    a = limited(rounded(vector.first_doubles(v) * first), -top, top)
    b = limited(rounded(vector.last_doubles(v) * last), -top, top)
    return vector.join(a, b)


@helper
def unit_fixed(constants, start, stop, size, shift, sums, flags, z, c, m, top):
    """`gates_float` and `states_float` in the `fixed` profile; c int16 [H]."""
    table, row, own = constants.table, 4 * size, 4 * (stop - start)
    scale = vector.spread_double(constants.first)
    raised = np.int32((1 << (2 * shift)) - 1)
    for k in range(start, stop, 8):
        s = columns(sums + 32 * k)
        low = vector.mask(flags + k)
        place = z + 4 * (k - start)
        # 2^(2 shift) in low lanes, 1 in the others.
        factor = add32(vector.both(low, spread(raised)), spread(np.int32(1)))
        factors = vector.first_doubles(factor), vector.last_doubles(factor)
        vector.store(place, preactivation_fixed(constants, low, factors, k, 0, size, s[0], s[4]))
        vector.store(place + own, preactivation_fixed(constants, low, factors, k, 1, size, s[1], s[5]))
        vector.store(place + 2 * own, preactivation_fixed(constants, low, factors, k, 2, size, s[2], s[6]))
        vector.store(place + 3 * own, preactivation_fixed(constants, low, factors, k, 3, size, s[3], s[7]))
    c, m, weights = c + 2 * start, m + start, constants.peephole + 8 * start
    for n in range(0, own, 32):
        before = vector.load_shorts(c + (n >> 1))
        zi, zf, zo = vector.load(z + n), vector.load(z + n + own), vector.load(z + n + 3 * own)
        if constants.peephole:
            place = weights + 2 * n
            zi, zf = peephole_fixed(place, zi, before), peephole_fixed(place + 2 * row, zf, before)
        i, f = sigmoid_fixed(table, zi), sigmoid_fixed(table, zf)
        g = tanh_fixed(table, vector.load(z + n + 2 * own))
        new = half_up(mul32(i, g), np.int32(4))
        state = half_up(add32(mul32(f, before), new), np.int32(15))
        state = vector.least32(vector.most32(state, spread(np.int32(-32768))), spread(np.int32(32767)))
        vector.store_shorts(c + (n >> 1), state)
        if constants.peephole:
            zo = peephole_fixed(weights + 4 * row + 2 * n, zo, state)
        o = sigmoid_fixed(table, zo)
        output = half_up(mul32(o, tanh_fixed(table, state)), np.int32(15))
        vector.store_bytes(m + (n >> 2), to_index_fixed(output, scale, scale, top))


@inlined
def output_fixed(constants, size, sums, h, top):
    """Output indices of a projection."""
    limit = np.float64(top)
    for p in range(0, size, 8):
        place = constants.projection + 8 * p
        v = vector.load(sums + 4 * p)
        vector.store_bytes(h + p, to_index_fixed(v, load_doubles(place), load_doubles(place + 32), limit))
