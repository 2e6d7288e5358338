"""Values as the bits that a piece of hardware holds, and as the real numbers that these stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import traces
from fxp.formats import Profile
from fxp.replay import CELL_FRACTION


@dataclass(frozen=True)
class Shown:
    """One value.

    Attributes
    ----------
    value : int, float or str
    width : int or None
        Bits, where it is a number of a known width.
    hex, binary : str or None
        The pattern, in two's complement where it is an integer.
    real : float or None
        The real number that the pattern stands for, where it is known.
    """

    value: Any
    width: int | None = None
    hex: str | None = None
    binary: str | None = None
    real: float | None = None

    def __str__(self) -> str:
        parts = [str(self.value)]
        if self.hex is not None:
            parts += [f"0x{self.hex}", f"0b{self.binary}"]
        if self.real is not None:
            parts.append(f"= {self.real:.9g}")
        return "  ".join(parts)


def pattern(value: int, width: int) -> tuple[str, str]:
    """Hexadecimal and binary digits of an integer in two's complement of a width."""
    masked = int(value) & ((1 << width) - 1)
    return f"{masked:0{-(-width // 4)}x}", f"{masked:0{width}b}"


def shown(value: Any, width: int | None = None, real: float | None = None) -> Shown:
    """A stored number; its own width by default. A float is its own real number."""
    value = np.asarray(value)
    if value.dtype.kind == "f":
        width = 8 * value.dtype.itemsize
        digits = pattern(int(value.view(f"i{value.dtype.itemsize}")), width)
        return Shown(float(value), width, *digits, float(value))
    if value.dtype.kind not in "iub":
        return Shown(bytes(value).decode(errors="replace"))
    width = width or 8 * value.dtype.itemsize
    return Shown(int(value), width, *pattern(int(value), width), real)


def shown_plan(low: bool, high_bits: int, low_bits: int) -> Shown:
    """The precision of an element-step."""
    bit = str(int(low))
    return Shown(f"low, {low_bits} bits" if low else f"high, {high_bits} bits", 1, bit, bit)


def accumulator_step(model: traces.Model, layer: int, direction: int, part: int, row: int, low: bool) -> float:
    """What one unit of an accumulator stands for (`docs/numerics.md`, 5: kx, kh, lx, lh)."""
    stored = model.layers[layer]
    weight, source = ((stored.wx_scale, stored.x_scale), (stored.wh_scale, stored.h_scale))[part]
    step = np.float32(weight[direction, row]) * np.float32(source)
    return float(step * np.float32(4.0 ** (model.high - model.low))) if low else float(step)


def shown_values(
    name: str, value: Any, trace: Any, model: traces.Model | None, layer: int, direction: int, index: Any, low: bool
) -> Shown:
    """An accumulator, a cell state or an index of h of a trace; real with the help of the model where it needs one."""
    if name == "cell":
        return shown(value, real=int(value) * CELL_FRACTION if trace.profile == Profile.FIXED else None)
    if name == "hidden":
        return shown(value, trace.high, None if model is None else int(value) * float(model.layers[layer].h_scale))
    real = None
    if model is not None:
        real = int(value) * accumulator_step(model, layer, direction, index[0], index[1], low)
    return shown(value, trace.accumulator_bits, real)
