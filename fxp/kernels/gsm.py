"""Decoder of GSM full rate speech (GSM 06.10, ETSI EN 300 961): integers of 16 bits that saturate."""

from __future__ import annotations

import numpy as np

from fxp.kernels.build import helper, kernel


@helper
def _clip(value):
    return min(max(value, -32768), 32767)


@helper
def _multiply(a, b):
    """Product with rounding."""
    return _clip((a * b + 16384) >> 15)


@helper
def _reflection(ratio):
    """Reflection coefficient from a log area ratio (5.2.9.2)."""
    size = min(abs(ratio), 32767)
    if size < 11059:
        size = size << 1
    elif size < 20070:
        size = size + 11059
    else:
        size = _clip((size >> 2) + 26112)
    return -size if ratio < 0 else size


@kernel
def decode(parameters, b, mic, inva, qlb, fac, spans, samples):
    """Frames one after the other: parameters int64 [frames, 76] to samples int64 [160 frames]."""
    before, now, rrp = np.zeros(8, np.int64), np.zeros(8, np.int64), np.zeros(8, np.int64)
    drp = np.zeros(160, np.int64)  # 120 of the past, 40 of the present
    residual, v = np.zeros(160, np.int64), np.zeros(9, np.int64)
    lag, msr = 40, 0
    for frame in range(parameters.shape[0]):
        for i in range(8):
            value = _clip(((parameters[frame, i] + mic[i]) << 10) - (b[i] << 1))
            now[i] = _clip(2 * _multiply(inva[i], value))
        for part in range(4):
            first = 8 + 17 * part
            asked, bc, mc = parameters[frame, first], parameters[frame, first + 1], parameters[frame, first + 2]
            xmaxc = parameters[frame, first + 3]
            exponent = (xmaxc >> 3) - 1 if xmaxc > 15 else 0
            mantissa = xmaxc - (exponent << 3)
            if mantissa == 0:
                exponent, mantissa = -4, 7
            else:
                while mantissa <= 7:
                    mantissa, exponent = mantissa << 1 | 1, exponent - 1
                mantissa -= 8
            shift = 6 - exponent
            half = 1 << (shift - 1) if shift > 0 else 0
            for k in range(40):
                drp[120 + k] = 0
            for i in range(13):
                pulse = ((parameters[frame, first + 4 + i] << 1) - 7) << 12
                drp[120 + mc + 3 * i] = _clip(_multiply(fac[mantissa], pulse) + half) >> shift
            if 40 <= asked <= 120:
                lag = asked
            for k in range(40):
                drp[120 + k] = _clip(drp[120 + k] + _multiply(qlb[bc], drp[120 + k - lag]))
                residual[40 * part + k] = drp[120 + k]
            for k in range(120):
                drp[k] = drp[k + 40]
        for span in range(4):
            for i in range(8):
                old, new = before[i], now[i]
                if span == 0:
                    ratio = _clip(_clip((old >> 2) + (new >> 2)) + (old >> 1))
                elif span == 1:
                    ratio = _clip((old >> 1) + (new >> 1))
                elif span == 2:
                    ratio = _clip(_clip((old >> 2) + (new >> 2)) + (new >> 1))
                else:
                    ratio = new
                rrp[i] = _reflection(ratio)
            for k in range(spans[span], spans[span + 1]):
                value = residual[k]
                for i in range(7, -1, -1):
                    value = _clip(value - _multiply(rrp[i], v[i]))
                    v[i + 1] = _clip(v[i] + _multiply(rrp[i], value))
                v[0] = value
                msr = _clip(value + _multiply(msr, 28180))
                samples[frame * 160 + k] = _clip(2 * msr) & ~7
        for i in range(8):
            before[i] = now[i]
