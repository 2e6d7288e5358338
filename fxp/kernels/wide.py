"""The multifunction unit of `fxp.kernels.unit`, eight elements at a time: the same operations in the same order, so the same bits.

The `fixed` profile forms `scaled(a, m, e)` in binary64: a * m / 2^e is exact there (at most 47 bits), and so is adding 1/2 for
e <= 52; for larger e the value is below 2^-5 in magnitude and the floor 0 either way. Everything else fits 32-bit integers.
"""

from __future__ import annotations

import numpy as np

from fxp.kernels import unit, vector
from fxp.kernels.build import inlined
from fxp.kernels.vector import add32, address, load_doubles, load_reals, mul32, shift_left, shift_right, spread, spread_real

LEAST32, MOST32 = np.float64(-2147483648.0), np.float64(2147483647.0)
LEAST16, MOST16 = np.float64(-32768.0), np.float64(32767.0)
HALF = np.float64(0.5)


@inlined
def nearest(v):
    return (v + spread_real(unit.ROUND)) - spread_real(unit.ROUND)


@inlined
def exponential(x):
    """exp(x) for x <= 0."""
    a = vector.larger(x, spread_real(unit.LOWEST))
    n = nearest(a * spread_real(unit.LOG2E))
    r = (a - n * spread_real(unit.LN2_HI)) - n * spread_real(unit.LN2_LO)
    p = spread_real(unit.E6) * r + spread_real(unit.E5)
    p = p * r + spread_real(unit.E4)
    p = p * r + spread_real(unit.E3)
    p = p * r + spread_real(unit.HALF)
    p = p * r + spread_real(unit.ONE)
    p = p * r + spread_real(unit.ONE)
    power = shift_left(add32(vector.to_words(n), spread(np.int32(127))), spread(np.int32(23)))
    return p * vector.as_reals(power)


@inlined
def sigmoid(z):
    one = spread_real(unit.ONE)
    t = exponential(vector.negative(z))
    return vector.choose_positive(z, one, t) / (one + t)


@inlined
def tanh(z):
    one = spread_real(unit.ONE)
    t = exponential(spread_real(unit.TWO) * vector.negative(z))
    return vector.opposite_if_negative(z, (one - t) / (one + t))


@inlined
def to_index(value, scale, top):
    """Indices as words."""
    v = vector.larger(value / scale, spread_real(-top))
    return vector.to_words(nearest(vector.smaller(v, spread_real(top))))


@inlined
def preactivation(constants, low, place, size, x, h):
    """z of eight elements; place: offset of their constants, size: bytes of the constants of one precision."""
    kx = vector.choose(low, load_reals(address(constants.x_scale) + place + size), load_reals(address(constants.x_scale) + place))
    kh = vector.choose(low, load_reals(address(constants.h_scale) + place + size), load_reals(address(constants.h_scale) + place))
    bias = vector.choose(low, load_reals(address(constants.bias) + place + size), load_reals(address(constants.bias) + place))
    return (vector.to_reals(x) * kx + vector.to_reals(h) * kh) + bias


@inlined
def columns(group, g, k):
    """The eight sums of eight elements, sum by sum."""
    s = address(group.sums) + 32 * (g * group.sums.shape[1] + k)
    return vector.transposed(
        vector.load(s), vector.load(s + 32), vector.load(s + 64), vector.load(s + 96),
        vector.load(s + 128), vector.load(s + 160), vector.load(s + 192), vector.load(s + 224),
    )  # fmt: skip


@inlined
def unit_float(constants, hidden, group, g, m, top):
    """Cell state, and output indices (before a projection) at address m, of all elements of a sequence."""
    row = 4 * group.c.shape[1]
    first = constants.output[0]
    c = address(group.c) + g * row
    flags = address(group.low) + g * group.low.shape[1]
    for k in range(0, hidden, 8):
        s = columns(group, g, k)
        low = vector.mask(flags + k)
        zi = preactivation(constants, low, 4 * k, 4 * row, s[0], s[4])
        zf = preactivation(constants, low, 4 * k + row, 4 * row, s[1], s[5])
        zg = preactivation(constants, low, 4 * k + 2 * row, 4 * row, s[2], s[6])
        zo = preactivation(constants, low, 4 * k + 3 * row, 4 * row, s[3], s[7])
        state = sigmoid(zf) * load_reals(c + 4 * k) + sigmoid(zi) * tanh(zg)
        vector.store_reals(c + 4 * k, state)
        output = sigmoid(zo) * tanh(state)
        vector.store_bytes(m + k, to_index(output, spread_real(first), top))


@inlined
def output_float(constants, size, sums, h, top):
    """Output indices of a projection."""
    for p in range(0, size, 8):
        y = vector.to_reals(vector.load(sums + 4 * p)) * load_reals(address(constants.projection) + 4 * p)
        vector.store_bytes(h + p, to_index(y, spread_real(constants.output[1]), top))


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
    kx, kh = address(constants.x_scale) + place, address(constants.h_scale) + place
    high_bias = address(constants.bias) + 4 * (gate * size + k)
    bias = vector.choose_words(low, vector.load(high_bias + 16 * size), vector.load(high_bias))
    first, last = factors
    a = scaled(vector.first_doubles(x) * (load_doubles(kx) * first))
    b = scaled(vector.last_doubles(x) * (load_doubles(kx + 32) * last))
    a = (a + scaled(vector.first_doubles(h) * (load_doubles(kh) * first))) + vector.first_doubles(bias)
    b = (b + scaled(vector.last_doubles(h) * (load_doubles(kh + 32) * last))) + vector.last_doubles(bias)
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


@inlined
def unit_fixed(constants, hidden, shift, group, g, m, top):
    """`unit_float` in the `fixed` profile."""
    size = group.c.shape[1]
    table = address(constants.table)
    scale = vector.spread_double(constants.output[0])
    raised = np.int32((1 << (2 * shift)) - 1)
    c = address(group.c) + 2 * g * size
    flags = address(group.low) + g * group.low.shape[1]
    for k in range(0, hidden, 8):
        s = columns(group, g, k)
        low = vector.mask(flags + k)
        # 2^(2 shift) in low lanes, 1 in the others.
        factor = add32(both_lanes(low, raised), spread(np.int32(1)))
        factors = vector.first_doubles(factor), vector.last_doubles(factor)
        zi = preactivation_fixed(constants, low, factors, k, 0, size, s[0], s[4])
        zf = preactivation_fixed(constants, low, factors, k, 1, size, s[1], s[5])
        zg = preactivation_fixed(constants, low, factors, k, 2, size, s[2], s[6])
        zo = preactivation_fixed(constants, low, factors, k, 3, size, s[3], s[7])
        new = half_up(mul32(sigmoid_fixed(table, zi), tanh_fixed(table, zg)), np.int32(4))
        kept = mul32(sigmoid_fixed(table, zf), vector.load_shorts(c + 2 * k))
        state = half_up(add32(kept, new), np.int32(15))
        state = vector.least32(vector.most32(state, spread(np.int32(-32768))), spread(np.int32(32767)))
        vector.store_shorts(c + 2 * k, state)
        output = half_up(mul32(sigmoid_fixed(table, zo), tanh_fixed(table, state)), np.int32(15))
        vector.store_bytes(m + k, to_index_fixed(output, scale, scale, top))


@inlined
def both_lanes(low, value):
    return vector.both(low, spread(value))


@inlined
def output_fixed(constants, size, sums, h, top):
    """Output indices of a projection."""
    for p in range(0, size, 8):
        place = address(constants.projection) + 8 * p
        v = vector.load(sums + 4 * p)
        vector.store_bytes(h + p, to_index_fixed(v, load_doubles(place), load_doubles(place + 32), top))
