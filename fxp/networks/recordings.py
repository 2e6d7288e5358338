"""From a recording to the features that the speaker encoder reads, as Resemblyzer 0.1.4 computes them with librosa:
volume raised to -30 dB of full scale, then the power in 40 mel bands of windows of 25 ms every 10 ms, no logarithm.

Unlike there, silence is told by loudness alone rather than by a trained detector of voices, and recordings are
resampled by extending their spectrum with zeros rather than by a polyphase filter.
"""

from __future__ import annotations

import io
import wave

import numpy as np

from traces import InputError

RATE = 16_000  # samples a second that the encoder was trained at
WINDOW, HOP = 400, 160  # samples: 25 ms and 10 ms
BANDS = 40
GRID = 20  # bits after the point of the power of a band
LEVEL = -30.0  # dB of full scale that quieter recordings are raised to
SILENCE = 40.0  # dB below the loudest frame

# Slaney's mel scale (Auditory Toolbox, 1998), librosa's default: linear to 1 kHz, logarithmic above.
_HERTZ_PER_MEL, _BREAK, _LOG_STEP = 200 / 3, 1000.0, np.log(6.4) / 27


def read_wave(content: bytes, name: str) -> tuple[np.ndarray, int]:
    """Samples of a mono 16-bit WAV file, float64 [samples] in [-1, 1), and its rate in 1/s."""
    try:
        with wave.open(io.BytesIO(content)) as file:
            channels, width, rate, count = file.getparams()[:4]
            frames = file.readframes(count)
    except (wave.Error, EOFError) as error:
        raise InputError(f"{name}: not a WAV file that can be read ({error})") from None
    if (channels, width) != (1, 2):
        raise InputError(f"{name}: {channels} channels of {8 * width} bits, expected 1 of 16")
    return np.frombuffer(frames, "<i2").astype(np.float64) / 32768, rate


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """Samples at `RATE`, for a rate that divides it: the same band-limited signal, its spectrum extended with zeros."""
    if RATE % rate:
        raise InputError(f"a rate of {rate} samples a second does not divide {RATE}")
    factor = RATE // rate
    if factor == 1 or not len(samples):
        return samples
    spectrum = np.fft.rfft(samples)
    if len(samples) % 2 == 0:
        spectrum[-1] /= 2  # the highest frequency stands for two lines, one of either sign
    return np.fft.irfft(spectrum, factor * len(samples)) * factor


def raised(samples: np.ndarray) -> np.ndarray:
    """Samples at a root mean square of at least -30 dB of full scale."""
    rms = np.sqrt(np.mean(samples**2)) if len(samples) else 0.0
    return samples * max(1.0, 10 ** (LEVEL / 20) / rms) if rms else samples


def mel_filters() -> np.ndarray:
    """Triangular filters over the bins of the spectrum, float64 [BANDS, WINDOW / 2 + 1], each of unit area."""
    highest = _mel(np.array([RATE / 2.0]))[0]
    centres = _hertz(np.linspace(0.0, highest, BANDS + 2))
    bins = np.linspace(0.0, RATE / 2.0, WINDOW // 2 + 1)
    widths = np.diff(centres)
    rising = (bins - centres[:-2, None]) / widths[:-1, None]
    falling = (centres[2:, None] - bins) / widths[1:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return np.asarray(triangles * (2.0 / (centres[2:] - centres[:-2]))[:, None])


def _mel(hertz: np.ndarray) -> np.ndarray:
    above = _BREAK / _HERTZ_PER_MEL + np.log(np.maximum(hertz, _BREAK) / _BREAK) / _LOG_STEP
    return np.where(hertz < _BREAK, hertz / _HERTZ_PER_MEL, above)


def _hertz(mel: np.ndarray) -> np.ndarray:
    edge = _BREAK / _HERTZ_PER_MEL
    return np.where(mel < edge, mel * _HERTZ_PER_MEL, _BREAK * np.exp(_LOG_STEP * (np.maximum(mel, edge) - edge)))


def mel_power(samples: np.ndarray) -> np.ndarray:
    """Power in mel bands, float32 [frames, BANDS]: frame n is centred on sample n * HOP, zeros beyond the ends.

    Rounded to multiples of 2^-20, a hundredth of what is typical of speech, so that builds of the FFT that differ in
    their last bits give the same features.

    Parameters
    ----------
    samples : float64 [samples], at `RATE`
    """
    padded = np.pad(samples, WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    power = np.abs(np.fft.rfft(frames * hann, axis=1)) ** 2
    bands = np.rint(power @ mel_filters().T * 2.0**GRID) / 2.0**GRID
    return np.asarray(bands.astype(np.float32))


def spoken(power: np.ndarray) -> np.ndarray:
    """The frames of `mel_power` that are not silence: within 40 dB of the loudest."""
    loudness = power.sum(axis=1)
    return power[loudness > loudness.max(initial=0.0) * 10 ** (-SILENCE / 10)]
