"""Weights of a layer in the layout of the vector kernels (`fxp.kernels.rows`)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fxp.formats import Formats, Profile
from fxp.kernels import rows
from fxp.kernels.portable import Weights
from fxp.kernels.rows import Rows
from fxp.kernels.wide import Constants

LINE = 64  # bytes of a cache line: no block straddles two
ELEMENTS = 16  # of the longest vectors: what has an entry an element is filled up to a multiple


def aligned(shape: tuple[int, ...], kind: Any) -> np.ndarray:
    """Zeros that start on a cache line."""
    size = math.prod(shape) * np.dtype(kind).itemsize
    raw = np.zeros(size + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + size].view(kind).reshape(shape)


def _ceil(n: int, unit: int) -> int:
    return -(-n // unit)


def _byte_blocks(rows: np.ndarray, columns: int) -> np.ndarray:
    """int8 [elements, 4, K] to uint8 [elements, ceil(K / columns), 4, columns]."""
    count, gates, size = rows.shape
    blocks = _ceil(size, columns)
    padded = np.zeros((count, gates, columns * blocks), np.int8)
    padded[..., :size] = rows
    return padded.reshape(count, gates, blocks, columns).transpose(0, 2, 1, 3).view(np.uint8)


def _nibble_blocks(rows: np.ndarray, columns: int) -> np.ndarray:
    """int8 [elements, 4, K] in [-8, 7] to uint8 [elements, ceil(K / (2 * columns)), 4, columns].

    Columns beyond K are 0 in both halves.
    """
    count, gates, size = rows.shape
    blocks = _ceil(size, 2 * columns)
    padded = np.zeros((count, gates, 2 * columns * blocks), np.uint8)
    padded[..., :size] = rows + np.int8(8)
    halves = padded.reshape(count, gates, blocks, 2, columns)
    return (halves[..., 0, :] | halves[..., 1, :] << 4).transpose(0, 2, 1, 3)


def _joined(*parts: np.ndarray) -> np.ndarray:
    """Blocks of each element one after the other: uint8 [elements, stride]."""
    count = len(parts[0])
    size = sum(part[0].size for part in parts) if count else 0
    # Rows of several elements are read side by side: not all from the same set of the first-level cache.
    stride = size + 3 * LINE if size and size % (32 * LINE) == 0 else size
    out = aligned((count, stride), np.uint8)
    start = 0
    for part in parts:
        flat = part.reshape(count, part[0].size if count else 0)
        out[:, start : start + flat.shape[1]] = flat
        start += flat.shape[1]
    return out


def _tiles(rows: np.ndarray) -> np.ndarray:
    """int8 [elements, 4, K] to int8 [2 ceil(elements / 16), ceil(K / 64), 2, 16 (K // 4), 16 (elements), 4].

    The first axis has gates i and f of sixteen elements, then g and o; the last three axes are one register of AMX
    as `tdpbssd` takes its second factor.
    """
    count, gates, size = rows.shape
    padded = np.zeros((16 * _ceil(count, 16), gates, 64 * _ceil(size, 64)), np.int8)
    padded[:count, :, :size] = rows
    parts = padded.reshape(len(padded) // 16, 16, 2, 2, _ceil(size, 64), 16, 4).transpose(0, 2, 4, 3, 5, 1, 6)
    parts = parts.reshape(len(padded) // 8, _ceil(size, 64), 2, 16, 16, 4)
    out = aligned(parts.shape, np.int8)
    out[...] = parts
    return out


def _nibble_tiles(rows: np.ndarray) -> np.ndarray:
    """`_tiles` of int8 in [-8, 7] with two blocks of columns in one: uint8, the first in the low halves of bytes."""
    parts = _tiles(rows)
    elements, blocks = parts.shape[:2]
    pairs = np.full((elements, 2 * _ceil(blocks, 2), 2048), 8, np.uint8)
    pairs[:, :blocks] = parts.reshape(elements, blocks, 2048).view(np.uint8) + np.uint8(8)
    out = aligned((elements, _ceil(blocks, 2), 2048), np.uint8)
    out[...] = pairs[:, 0::2] | pairs[:, 1::2] << 4
    return out


def _terms(x: np.ndarray, h: np.ndarray, nibbles: bool) -> np.ndarray:
    """What the kernels' sums over each row have too much: int32 [H, 8], x part of the four gates, then h part.

    x, h : blocks; 7 * sum u1 of nibbles, 128 * sum w of bytes
    """
    parts = [7 * (part & 15).sum(axis=(1, 3), dtype=np.int32) if nibbles
             else 128 * part.view(np.int8).sum(axis=(1, 3), dtype=np.int32) for part in (x, h)]  # fmt: skip
    out = aligned((len(x), 8), np.int32)
    out[...] = np.concatenate(parts, axis=1)
    return out


def _largest_sum(weights: Weights, formats: Formats) -> int:
    """An upper bound of every accumulator's magnitude."""
    bounds = [0]
    for array, limit in (
        (weights.x_high, formats.top), (weights.h_high, formats.top), (weights.projection, formats.top),
        (weights.x_low, formats.low_top + 1), (weights.h_low, formats.low_top + 1),
    ):  # fmt: skip
        if array.size:
            bounds.append(limit * int(np.abs(array.astype(np.int32)).sum(axis=-1).max()))
    return max(bounds)


def _padded(array: np.ndarray, kind: Any) -> np.ndarray:
    """The last axis filled up with zeros to a multiple of `ELEMENTS`."""
    size = array.shape[-1]
    out = aligned((*array.shape[:-1], ELEMENTS * _ceil(size, ELEMENTS)), kind)
    out[..., :size] = array
    return out


class FastDirection:
    """Arguments of the vector kernels (`fxp.kernels.group`) for one direction of a layer.

    The kernels get addresses: keep this object while they run.

    Attributes
    ----------
    rows : Rows
    unit : Constants
        Constants of the multifunction unit, filled up to whole vectors.
    profile : str
    spare : list
        Workspaces of earlier calls (`fxp.fast`) that are not in use.

    Parameters
    ----------
    columns : int
        Bytes of a gate row that lie together in a block.
    tiles : bool
        Also pack for AMX; then the rows that vectors read are of the h part only.
    """

    def __init__(self, weights: Weights, unit: Any, formats: Formats, columns: int, tiles: bool):
        hidden, _, inputs = weights.x_high.shape
        output = weights.h_high.shape[2]
        nibbles = formats.low <= 4
        pack = _nibble_blocks if nibbles else _byte_blocks
        in_rows = 0 if tiles else inputs
        high = _byte_blocks(weights.x_high[..., :in_rows], columns), _byte_blocks(weights.h_high, columns)
        low = pack(weights.x_low[..., :in_rows], columns), pack(weights.h_low, columns)
        in_tiles: tuple[np.ndarray, ...] = (np.zeros(0, np.int8),) * 4
        if tiles:
            low_tiles = _nibble_tiles if nibbles else _tiles
            in_tiles = (
                _tiles(weights.x_high), low_tiles(weights.x_low), _tiles(weights.h_high), low_tiles(weights.h_low)
            )  # fmt: skip
        quads = np.zeros((_ceil(len(weights.projection), 4), 4, hidden), np.int8)
        quads.reshape(-1, hidden)[: len(weights.projection)] = weights.projection
        overflow = 0
        if _largest_sum(weights, formats) >= 2 ** (formats.accumulator_bits - 1):
            overflow = 2 if formats.overflow == "clamp" else 1
        arrays = (
            _joined(*high),
            _joined(*low),
            _terms(*high, nibbles=False),
            _terms(*low, nibbles=nibbles),
            *in_tiles,
            _byte_blocks(quads, rows.COLUMNS).copy(),  # by AVX2 everywhere
        )
        self.rows = Rows(
            *(array.ctypes.data for array in arrays),
            hidden, output, inputs, arrays[0].shape[1], arrays[1].shape[1],
            _ceil(in_rows, columns), _ceil(output, columns), _ceil(in_rows, 2 * columns), _ceil(output, 2 * columns),
            _ceil(inputs, 64), _ceil(output, 64),
            int(nibbles), int(len(weights.projection) > 0), overflow,
            formats.accumulator_bits, formats.shift, formats.low_top,
        )  # fmt: skip
        constants, scales = _constants(unit, formats)
        self.unit = Constants(*(array.ctypes.data if array.size else 0 for array in constants), *scales)
        self.profile = formats.profile
        self.spare: list[Any] = []
        self._alive = (arrays, constants)


def _constants(unit: Any, formats: Formats) -> tuple[tuple[np.ndarray, ...], tuple[Any, Any]]:
    """x_scale, h_scale, bias, projection, peephole, table; steps of the first and second quantisation of h."""
    if formats.profile == Profile.FLOAT32:
        reals = (unit.x_scale, unit.h_scale, unit.bias, unit.projection, unit.peephole)
        steps = (float(unit.output[0]), float(unit.output[1]))
        return (*(_padded(a, np.float32) for a in reals), np.zeros(0, np.int16)), steps
    pairs = (unit.x_scale[0], unit.h_scale[0], unit.projection, unit.peephole)
    x, h, projection, peephole = (_padded(_reals(p), np.float64) for p in pairs)
    # The second step is part of the projection's multipliers.
    first = _reals(unit.output[None])[0]
    return (x, h, _padded(unit.bias, np.int32), projection, peephole, unit.table), (first, first)


def _reals(pairs: np.ndarray) -> np.ndarray:
    """m / 2^e of pairs [..., 2] as binary64.

    Exact: m has 15 bits and the exponents of a valid model are far from its limits.
    """
    return np.ldexp(pairs[..., 0].astype(np.float64), -pairs[..., 1])
