"""From a recording to the features that the speaker encoder reads, as Resemblyzer 0.1.4 computes them with librosa:
volume at -30 dB of full scale, then the power in 40 mel bands of windows of 25 ms every 10 ms, no logarithm.

Unlike there, louder recordings are lowered to -30 dB, since how loud they are is their makers' doing, not the
speaker's; silence is told by loudness alone rather than by a trained detector of voices; and recordings are resampled
by cutting or extending their spectrum rather than by a polyphase filter. Nothing above 4 kHz is kept of any: that is
all that the telephone passes.
"""

from __future__ import annotations

import io
import math
import wave
from typing import Any

import numpy as np

from traces import InputError

RATE = 16_000  # samples a second that the encoder was trained at
TELEPHONE = 8_000  # samples a second: what is above half of it is cut
WINDOW, HOP = 400, 160  # samples: 25 ms and 10 ms
BANDS = 40
GRID = 20  # bits after the point of the power of a band
LEVEL = -30.0  # dB of full scale that recordings are brought to
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


def read_vorbis(content: bytes, name: str) -> tuple[np.ndarray, int]:
    """Samples of an Ogg Vorbis file, the mean of its channels, float64 [samples], and its rate in 1/s.

    Decoded by libsndfile to float32. `mel_power` rounds, so that decoders that differ in their last bits give the same
    features but for rare ties.
    """
    soundfile = _soundfile()
    try:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise InputError(f"{name}: not an Ogg Vorbis file that can be read ({error})") from None
    return samples.astype(np.float64).mean(axis=1), int(rate)


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError):
        raise InputError("Ogg Vorbis needs soundfile: pip install 'fxp-lstm[speaker]'") from None
    return soundfile


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """Samples at `RATE` of what a recording has below 4 kHz: its spectrum, cut there and extended with zeros.

    Parameters
    ----------
    samples : float64 [samples]
        Zeros are appended where a number of samples at `RATE` would not last as long.
    rate : int, at least `TELEPHONE`
    """
    if rate < TELEPHONE:
        raise InputError(f"a rate of {rate} samples a second is less than {TELEPHONE}")
    if not len(samples):
        return samples
    block = rate // math.gcd(rate, RATE)
    samples = np.pad(samples, (0, -len(samples) % block))
    spectrum = np.fft.rfft(samples)
    if rate == TELEPHONE and len(samples) % 2 == 0:
        spectrum[-1] /= 2  # the highest frequency stands for two lines, one of either sign
    elif rate > TELEPHONE:
        spectrum = spectrum[: -(-TELEPHONE * len(samples) // (2 * rate))]
    count = len(samples) * RATE // rate
    return np.fft.irfft(spectrum, count) * (count / len(samples))


def levelled(samples: np.ndarray) -> np.ndarray:
    """Samples at a root mean square of -30 dB of full scale."""
    rms = np.sqrt(np.mean(samples**2)) if len(samples) else 0.0
    return samples * (10 ** (LEVEL / 20) / rms) if rms else samples


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
