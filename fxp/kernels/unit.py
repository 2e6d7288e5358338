"""The multifunction unit, element by element: `docs/numerics.md`, sections 5 (float32) and 6 (fixed).

Every floating-point operation is binary32 and none is fused: constants are binary32 scalars, and nothing is promoted.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fxp.kernels.build import helper

ROUND = np.float32(12582912.0)  # 1.5 * 2^23: adding and subtracting it rounds |v| < 2^22 to an integer, ties to even
LOG2E = np.uint32(0x3FB8AA3B).view(np.float32)
LN2_HI = np.uint32(0x3F318000).view(np.float32)
LN2_LO = np.uint32(0xB95E8083).view(np.float32)
E6 = np.uint32(0x3AB60B61).view(np.float32)
E5 = np.uint32(0x3C088889).view(np.float32)
E4 = np.uint32(0x3D2AAAAB).view(np.float32)
E3 = np.uint32(0x3E2AAAAB).view(np.float32)
HALF = np.float32(0.5)
ZERO = np.float32(0)
ONE = np.float32(1)
TWO = np.float32(2)
LOWEST = np.float32(-87)


@intrinsic
def power_of_two(typing_context, n):  # type: ignore[no-untyped-def]
    """2^n as binary32 for -126 <= n <= 127, by building its bits."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        word = ir.IntType(32)
        exponent = builder.add(arguments[0], ir.Constant(word, 127))
        return builder.bitcast(builder.shl(exponent, ir.Constant(word, 23)), ir.FloatType())

    return types.float32(types.int32), generate


@helper
def nearest(v):
    """v rounded to an integer, ties to even, for |v| < 2^22 (binary32)."""
    return (v + ROUND) - ROUND


@helper
def exponential(x):
    """exp(x) for x <= 0."""
    a = x if x > LOWEST else LOWEST
    n = nearest(a * LOG2E)
    r = (a - n * LN2_HI) - n * LN2_LO
    p = E6 * r + E5
    p = p * r + E4
    p = p * r + E3
    p = p * r + HALF
    p = p * r + ONE
    p = p * r + ONE
    return p * power_of_two(np.int32(n))


@helper
def sigmoid(z):
    t = exponential(-abs(z))
    return (ONE if z >= ZERO else t) / (ONE + t)


@helper
def tanh(z):
    t = exponential(-(TWO * abs(z)))
    y = (ONE - t) / (ONE + t)
    return -y if z < ZERO else y


@helper
def to_index(value, scale, top):
    """Index of a binary32 value: divided by the scale, clipped to +-top (binary32), rounded."""
    v = value / scale
    v = -top if v < -top else v
    v = top if v > top else v
    return np.int8(nearest(v))


@helper
def saturate16(v):
    return np.int64(-32768) if v < -32768 else (np.int64(32767) if v > 32767 else v)


@helper
def saturate32(v):
    return np.int64(-2147483648) if v < -2147483648 else (np.int64(2147483647) if v > 2147483647 else v)


@helper
def scaled(a, m, e):
    """sat32(floor(a * m / 2^e + 1/2)) for |a * m| < 2^47."""
    product = np.int64(a) * np.int64(m)
    if e <= 0:
        # Saturating first changes nothing and keeps the shift in range: 2^17 times anything but 0 saturates again.
        return saturate32(saturate32(product) << min(np.int64(-e), np.int64(32)))
    if e > 62:
        return np.int64(0)
    return saturate32((product + (np.int64(1) << np.int64(e - 1))) >> np.int64(e))


@helper
def interpolate(table, p, n):
    j = p >> n
    d = p - (j << n)
    a = np.int64(table[j])
    # The last entry has no neighbour; it is met with d = 0 only.
    b = np.int64(table[min(j + 1, 1024)])
    return a + (((b - a) * d + (np.int64(1) << (n - 1))) >> n)


@helper
def sigmoid_fixed(table, z):
    return (32768 + interpolate(table, z + 32768, np.int64(6))) >> 1


@helper
def tanh_fixed(table, z):
    z = np.int64(-16384) if z < -16384 else (np.int64(16383) if z > 16383 else z)
    return interpolate(table, z + 16384, np.int64(5))


@helper
def cell_fixed(f, c, i, g):
    return saturate16((f * c + ((i * g + 8) >> 4) + 16384) >> 15)


@helper
def to_index_fixed(value, m, e, top):
    v = scaled(value, m, e)
    v = -top if v < -top else v
    return np.int8(top if v > top else v)
