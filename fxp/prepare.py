"""From a stored network to the arrays that the kernels read: constants per row and weights in the kernels' layout."""

from __future__ import annotations

import hashlib
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from functools import cache

import numpy as np

import traces
from fxp.formats import Formats, Profile
from fxp.kernels.portable import FixedUnit, FloatUnit, Weights, Widths
from fxp.packed import FastDirection
from fxp.quantise import low_indices

TABLE_DIGEST = "d786df8e79eea2b8f4ad0a279bbd2ac0d44063d1ac7df3cc3108040241fd2461"


@cache
def tanh_table() -> np.ndarray:
    """int16 [1025], 15 fraction bits: tanh over [-8, 8] in steps of 1/64 (`docs/numerics.md`, 6.3)."""
    with localcontext() as context:
        context.prec = 40
        entries = []
        for j in range(513):
            power = (Decimal(j) / 32).exp()
            value = (32768 * (power - 1) / (power + 1)).to_integral_value(ROUND_HALF_EVEN)
            entries.append(min(int(value), 32767))
    table = np.array([-v for v in entries[:0:-1]] + entries, np.int16)
    if hashlib.sha256(table.astype("<i2").tobytes()).hexdigest() != TABLE_DIGEST:
        raise RuntimeError("the tanh table differs from its specification")
    return table


def multiplier(scale: float, fraction_bits: int) -> tuple[int, int]:
    """(m, e) with scale * 2^fraction_bits = m / 2^e, m of 15 bits (`docs/numerics.md`, 6.1)."""
    if scale == 0:
        return 0, 0
    exact = Fraction(float(scale)) * Fraction(2) ** fraction_bits
    exponent = exact.numerator.bit_length() - exact.denominator.bit_length()
    # The quotient lies in (2^(exponent - 1), 2^(exponent + 1)), so one of two exponents normalises it.
    while exact < Fraction(2) ** exponent:
        exponent -= 1
    e = 14 - exponent
    m = round(exact * Fraction(2) ** e)
    return (2**14, e - 1) if m == 2**15 else (m, e)


def _multipliers(scales: np.ndarray, fraction_bits: int) -> np.ndarray:
    pairs = [multiplier(float(s), fraction_bits) for s in scales.reshape(-1)]
    return np.array(pairs, np.int64).reshape(*scales.shape, 2)


def _bias_fixed(bias: np.ndarray) -> np.ndarray:
    exact = np.rint(bias.astype(np.float64) * 2.0**11)
    return np.clip(exact, -(2.0**31), 2.0**31 - 1).astype(np.int64)


def _per_element(rows: np.ndarray, hidden: int) -> np.ndarray:
    """[4H, K] gate by gate to [H, 4, K]: the four rows of an element together."""
    return np.ascontiguousarray(rows.reshape(4, hidden, -1).transpose(1, 0, 2))


class PreparedDirection:
    """Kernel arguments of one direction of a layer."""

    def __init__(self, layer: traces.Layer, direction: int, formats: Formats):
        d, hidden = direction, layer.hidden_size
        self.weights = Weights(
            _per_element(layer.wx_index[d], hidden),
            _per_element(low_indices(layer.wx_index[d], layer.wx_offset[d], formats), hidden),
            _per_element(layer.wh_index[d], hidden),
            _per_element(low_indices(layer.wh_index[d], layer.wh_offset[d], formats), hidden),
            np.ascontiguousarray(layer.wp_index[d]) if layer.wp_index is not None else np.zeros((0, hidden), np.int8),
        )
        self.unit = (_float_unit if formats.profile == Profile.FLOAT32 else _fixed_unit)(layer, d, formats)
        self.widths = Widths(
            formats.shift, formats.top, formats.low_top, formats.accumulator_bits, formats.overflow == "clamp"
        )
        self._formats = formats
        self._fast: dict[tuple[int, bool], FastDirection] = {}

    def fast(self, columns: int, tiles: bool) -> FastDirection:
        """Arguments of the vector kernels with `columns` bytes of a gate row in a block, or of those with tiles, packed
        when first used."""
        if (columns, tiles) not in self._fast:
            self._fast[columns, tiles] = FastDirection(self.weights, self.unit, self._formats, columns, tiles)
        return self._fast[columns, tiles]


def _row_constants(
    layer: traces.Layer, d: int, formats: Formats
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """kx, kh and biases as float32 [2, 4, H] (high, low), and kp float32 [R] (`docs/numerics.md`, 5)."""
    raise_low = np.float32(2.0 ** (2 * formats.shift))
    kx = layer.wx_scale[d] * np.float32(layer.x_scale)
    kh = layer.wh_scale[d] * np.float32(layer.h_scale)
    pairs = (kx, kx * raise_low), (kh, kh * raise_low), (layer.bias[d], layer.bias[d] + layer.low_bias[d])
    x, h, bias = (np.stack(pair).astype(np.float32).reshape(2, 4, -1) for pair in pairs)
    kp = layer.wp_scale[d] * np.float32(layer.m_scale) if layer.wp_scale is not None else np.zeros(0, np.float32)
    return x, h, bias, kp.astype(np.float32)


def _float_unit(layer: traces.Layer, d: int, formats: Formats) -> FloatUnit:
    x, h, bias, kp = _row_constants(layer, d, formats)
    first = layer.m_scale if layer.projected else layer.h_scale
    peephole = _peephole(layer, d)
    return FloatUnit(x, h, bias, np.array([first, layer.h_scale], np.float32), kp, peephole)


def _peephole(layer: traces.Layer, d: int) -> np.ndarray:
    """Peephole weights of the gates i, f, o: float32 [3, H], [0, H] where there are none."""
    if layer.peephole is None:
        return np.zeros((0, layer.hidden_size), np.float32)
    return np.ascontiguousarray(layer.peephole[d].reshape(3, -1))


def _signed_multipliers(values: np.ndarray) -> np.ndarray:
    """(m, e) of values of either sign, m with their sign: int64 [.., 2]."""
    pairs = _multipliers(np.abs(values), 0)
    pairs[..., 0] *= np.where(values < 0, -1, 1)
    return pairs


def _fixed_unit(layer: traces.Layer, d: int, formats: Formats) -> FixedUnit:
    x, h, bias, kp = _row_constants(layer, d, formats)
    first = np.float32(layer.m_scale if layer.projected else layer.h_scale)
    return FixedUnit(
        _shifted(_multipliers(x[0], 11), formats.shift),
        _shifted(_multipliers(h[0], 11), formats.shift),
        _bias_fixed(bias),
        np.array(multiplier(float(np.float32(2.0**-15) / first), 0), np.int64),
        _multipliers(kp / np.float32(layer.h_scale), 0).reshape(-1, 2),
        _signed_multipliers(_peephole(layer, d)),
        tanh_table(),
    )


def _shifted(high: np.ndarray, shift: int) -> np.ndarray:
    """Pairs [4, H, 2] of high precision and, with their exponents lowered by 2 * shift, of low precision: [2, 4, H,
    2]."""
    low = high.copy()
    low[..., 1] -= 2 * shift
    return np.stack([high, low])


class PreparedLayer:
    """Kernel arguments of a layer.

    Attributes
    ----------
    directions : list of PreparedDirection
    layer : the stored layer
    """

    def __init__(self, layer: traces.Layer, formats: Formats):
        self.layer = layer
        self.directions = [PreparedDirection(layer, d, formats) for d in range(layer.directions)]
