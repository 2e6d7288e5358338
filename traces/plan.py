"""Precision plans packed eight elements to a byte.

Element k of a layer is bit k % 8 (counted from the least significant) of byte k // 8; 1 means low precision.
Bits beyond the hidden size are 0.
"""

import numpy as np

_ONES = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)


def pack(low: np.ndarray) -> np.ndarray:
    """Pack masks.

    Parameters
    ----------
    low : bool [..., H]

    Returns
    -------
    uint8 [..., ceil(H / 8)]
    """
    return np.packbits(np.asarray(low, dtype=bool), axis=-1, bitorder="little")


def unpack(packed: np.ndarray, hidden_size: int) -> np.ndarray:
    """The masks, bool [..., hidden_size], that `pack` packed into uint8 [..., ceil(hidden_size / 8)]."""
    return np.unpackbits(packed, axis=-1, count=hidden_size, bitorder="little").view(bool)


def count(packed: np.ndarray) -> int:
    """Number of low element-steps in packed masks (uint8, any shape)."""
    return int(_ONES[packed].sum(dtype=np.int64))


def padded(packed: np.ndarray, hidden_size: int) -> bool:
    """Whether all bits beyond `hidden_size` are 0, as they must be."""
    spare = -hidden_size % 8
    return not spare or not (packed[..., -1] >> (8 - spare)).any()
