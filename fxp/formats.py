"""Number formats of a network, validated once at the border; kernels see only their integers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from traces import InputError


class Profile(StrEnum):
    """Arithmetic of the multifunction unit (`docs/numerics.md`, sections 5 and 6)."""

    FLOAT32 = "float32"
    FIXED = "fixed"


class Overflow(StrEnum):
    """What an accumulator does with a sum outside its range (`docs/numerics.md`, 4.1)."""

    WRAP = "wrap"
    CLAMP = "clamp"


class Granularity(StrEnum):
    """Which weights share one step: a gate row, the rows of a gate, or the whole matrix."""

    ROW = "row"
    GATE = "gate"
    TENSOR = "tensor"


@dataclass(frozen=True)
class Formats:
    """Widths and modes of a quantised network.

    Parameters
    ----------
    high, low : int
        Bits of the two precisions, 2 <= low <= high <= 8.
    profile : {"float32", "fixed"}
    accumulator_bits : int
        Signed width of the accumulators, 8 to 32.
    overflow : {"wrap", "clamp"}
    granularity : {"row", "gate", "tensor"}

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    high: int = 8
    low: int = 4
    profile: str = Profile.FLOAT32
    accumulator_bits: int = 24
    overflow: str = Overflow.WRAP
    granularity: str = Granularity.ROW

    def __post_init__(self) -> None:
        for name, least, most in (("high", 2, 8), ("low", 2, 8), ("accumulator_bits", 8, 32)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise InputError(f"{name} is {value!r}: expected an int from {least} to {most}")
        if self.low > self.high:
            raise InputError(
                f"low is {self.low} and high is {self.high}: low precision may not have more bits than high"
            )
        for name, kind in (("profile", Profile), ("overflow", Overflow), ("granularity", Granularity)):
            value = getattr(self, name)
            if value not in list(kind):
                raise InputError(f"{name} is {value!r}: expected one of {', '.join(kind)}")
            object.__setattr__(self, name, str(value))

    @property
    def shift(self) -> int:
        """Bits dropped between a high and a low index."""
        return self.high - self.low

    @property
    def top(self) -> int:
        """Largest high index."""
        return 2 ** (self.high - 1) - 1

    @property
    def low_top(self) -> int:
        """Largest low index; the smallest is -low_top - 1."""
        return 2 ** (self.low - 1) - 1
