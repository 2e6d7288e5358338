"""Decoder of GSM full rate speech (GSM 06.10, ETSI EN 300 961), the form of many telephone prompts: exact, in integers
of 16 bits that saturate. Names are those of the standard."""

from __future__ import annotations

import numpy as np

from fxp.kernels import gsm as kernels
from traces import InputError

RATE = 8_000  # samples a second
FRAME, SAMPLES = 33, 160  # bytes and samples of a frame
MAGIC = 0xD

_LAR_BITS = (6, 6, 5, 5, 4, 4, 3, 3)
_BITS = _LAR_BITS + 4 * ((7, 2, 2, 6) + 13 * (3,))  # LARc; four times Nc, bc, Mc, xmaxc and xMc

# Table 4.1 (B, MIC, and 1 / A), 4.3a (QLB) and 4.6 (FAC) of the standard.
_B = np.array([0, 0, 2048, -2560, 94, -1792, -341, -1144])
_MIC = np.array([-32, -32, -16, -16, -8, -8, -4, -4])
_INVA = np.array([13107, 13107, 13107, 13107, 19223, 17476, 31454, 29708])
_QLB = np.array([3277, 11469, 21299, 32767])
_FAC = np.array([18431, 20479, 22527, 24575, 26623, 28671, 30719, 32767])
_SPANS = np.array([0, 13, 27, 40, 160])  # of the interpolated reflection coefficients


def decode(content: bytes, name: str) -> np.ndarray:
    """Samples of a file of frames, float64 [samples] in [-1, 1), at `RATE`.

    Raises
    ------
    InputError
        The file is not one of whole frames.
    """
    frames = np.frombuffer(content, np.uint8)
    if len(frames) % FRAME or not len(frames) or (frames[::FRAME] >> 4 != MAGIC).any():
        raise InputError(f"{name}: not a GSM 06.10 file that can be read (frames of {FRAME} bytes that begin with D)")
    bits = np.unpackbits(frames.reshape(-1, FRAME), axis=1)[:, 4:]
    fields = np.split(bits, np.cumsum(_BITS)[:-1], axis=1)
    parameters = np.stack([field @ (1 << np.arange(field.shape[1])[::-1]) for field in fields], axis=1).astype(np.int64)
    samples = np.zeros(len(parameters) * SAMPLES, np.int64)
    kernels.decode(parameters, _B, _MIC, _INVA, _QLB, _FAC, _SPANS, samples)
    return samples / 32768
