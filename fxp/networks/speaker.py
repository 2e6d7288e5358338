"""Speaker verification: the encoder of Resemblyzer 0.1.4 (Wan et al., ICASSP 2018) on telephone prompts of five
speakers. Everything is fetched and computed when the network is built; recordings and weights are not handed on here.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from functools import cache
from typing import Any

import numpy as np

import traces
from fxp import export
from fxp.networks import debian, fetch, recordings
from traces import InputError

FRAMES = 160  # of a sequence: what the encoder was trained on
METRIC = "equal_error"

# Of the prompts of a speaker in the order of their names, every fourth calibrates.
PERIOD = 4
CALIBRATION, HELD_OUT = 30, 60  # prompts of a speaker
QUIET = 1e-4  # power, less than what is typical of speech

RESEMBLYZER = fetch.Package(
    "Resemblyzer", "0.1.4", "8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f", False, "Apache-2.0"
)
WEIGHTS = "resemblyzer/pretrained.pt"

_CORE = ("1.6.1-1", "a/asterisk-core-sounds")
_SHARE_ALIKE, _BY = "CC-BY-SA-3.0", "CC-BY-3.0"
PACKAGES = {
    package.name: package
    for package in (
        debian.Package(
            "asterisk-core-sounds-en-wav", *_CORE, "2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d"
        ),
        debian.Package(
            "asterisk-core-sounds-es-wav", *_CORE, "9283a09a6d56fccdcc2bcfe86c48f0f844289cfbd46a3184d8785a6f7f569903"
        ),
        debian.Package(
            "asterisk-core-sounds-fr-wav", *_CORE, "8d4e1bc32ed5ba7fbda40841ca1825ed20cc6232724a473c90f8bb0e53e6073e"
        ),
        debian.Package(
            "asterisk-core-sounds-it-wav", *_CORE, "5a26638089e134b8ac39363fe249c5c93c50cd8bfdc9b2499ae61ec4a35e2fcb"
        ),
        debian.Package(
            "asterisk-core-sounds-ru-wav", *_CORE, "ccbfaebfa450b7a9ddf644ae0f3d1e9017d5df7c0aebe816e946345589d38201"
        ),
        debian.Package(
            "asterisk-prompt-it-menardi-wav",
            "1:1.4.22+mm20110907-3.1",
            "a/asterisk-prompt-it",
            "3094530d98f8758ac275572d59624c41f60969fef883f34f4886d144f3dfeb21",
        ),
    )
}

# The Spanish prompts are Allison Smith's too. Whether pairs across languages are alike is another question than the one
# asked here, so that they calibrate only.
SPEAKERS = {
    "asterisk-core-sounds-en-wav": ("Allison Smith", _SHARE_ALIKE),
    "asterisk-core-sounds-fr-wav": ("June Wallack", _SHARE_ALIKE),
    "asterisk-core-sounds-it-wav": ("Carlo Flora", _BY),
    "asterisk-core-sounds-ru-wav": ("the voice of ivrvoice.ru, provided by Maxim Topal", _BY),
    "asterisk-prompt-it-menardi-wav": (
        "Paola Dal Zot (recorded with Marco Menardi, http://www.voip.ammdomus.it)",
        _SHARE_ALIKE,
    ),
}
CALIBRATION_ONLY = "asterisk-core-sounds-es-wav"

ORIGIN = "recorded prompts of Debian's packages " + ", ".join(sorted(PACKAGES))
LICENCE = "recordings: " + "; ".join(f"{who}: {terms}" for who, terms in SPEAKERS.values())


def held_out() -> traces.Data:
    """Prompts of five speakers that nothing was calibrated on; groups are the speakers."""
    return _data(
        [_evenly(_prompts(name)[1], HELD_OUT) for name in SPEAKERS], list(range(len(SPEAKERS))), "speaker data"
    )


def calibration() -> traces.Data:
    """Prompts to calibrate on, of the five speakers and in Spanish."""
    names = [*SPEAKERS, CALIBRATION_ONLY]
    groups = [*range(len(SPEAKERS)), list(SPEAKERS).index("asterisk-core-sounds-en-wav")]
    return _data([_evenly(_prompts(name)[0], CALIBRATION) for name in names], groups, "speaker calibration")


def model(scaled: bool = True) -> traces.Model:
    """The encoder, quantised: three LSTM layers of 256 and a linear head on the last step. The weights of a band are
    those of both its inputs, so that the float network is the encoder as it came.

    Parameters
    ----------
    scaled : bool
        A scale for each input: the range of the lower part of a band is what its threshold says, that of the excess
        ends at its 99th percentile. With one scale for all inputs, eight bits lose the quiet bands.
    """
    state = weights()
    lstm = dict(export.select(state, "lstm"))
    lstm["weight_ih_l0"] = np.concatenate([np.asarray(lstm["weight_ih_l0"])] * 2, axis=1)
    low, high = _thresholds()
    scale = np.concatenate([low, high - low])
    seen = [np.minimum(features, scale) if scaled else features for features in calibration()]
    network = export.from_state_dict(
        lstm,
        seen,
        export.readout(export.select(state, "linear"), "last"),
        input_scale=scale if scaled else None,
        name="speaker encoder 3x256",
        metric=METRIC,
        origin="resemblyzer/pretrained.pt of Resemblyzer 0.1.4",
        licence="Apache-2.0",
    )
    return network.model


def weights() -> dict[str, Any]:
    """State dict of the encoder; nothing in the file is executed."""
    torch = export.torch_module()
    with zipfile.ZipFile(fetch.fetch(RESEMBLYZER)) as wheel:
        stored = torch.load(io.BytesIO(wheel.read(WEIGHTS)), map_location="cpu", weights_only=True)
    return dict(stored["model_state"])


@cache
def _prompts(name: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Features float32 [FRAMES, bands] of a package's prompts that are long enough, without copies: those that
    calibrate, and those that are held out."""
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    seen: set[bytes] = set()
    for place, content in debian.files(debian.package(PACKAGES[name]), ".wav"):
        digest = hashlib.sha256(content).digest()
        samples, rate = recordings.read_wave(content, place)
        if digest in seen or len(samples) * recordings.RATE < FRAMES * recordings.HOP * rate:
            continue
        seen.add(digest)
        raised = recordings.raised(recordings.resample(samples, rate))
        features = recordings.spoken(recordings.mel_power(raised))[:FRAMES]
        if len(features) == FRAMES:
            parts[(len(parts[0]) + len(parts[1])) % PERIOD != 0].append(features)
    return parts


@cache
def _thresholds() -> tuple[np.ndarray, np.ndarray]:
    """Power of each band, float32 [bands], that 80 % and 99 % of the calibration frames stay below; at least `QUIET`
    apart from zero and from each other, since bands above 4 kHz are empty."""
    frames = np.concatenate(
        [x for name in (*SPEAKERS, CALIBRATION_ONLY) for x in _evenly(_prompts(name)[0], CALIBRATION)]
    )
    low, high = np.quantile(frames, (0.8, 0.99), axis=0)
    low = np.maximum(low, QUIET)
    return low.astype(np.float32), np.maximum(high, low + QUIET).astype(np.float32)


def _parts(power: np.ndarray) -> np.ndarray:
    """Each band as two inputs that add up to it, float32 [frames, 2 * bands]: power up to a threshold, and the excess.

    Speech is quiet most of the time: one input of eight bits would see little but its loudest moments.
    """
    low = np.minimum(power, _thresholds()[0])
    return np.concatenate([low, power - low], axis=1)


def _evenly(prompts: list[np.ndarray], count: int) -> list[np.ndarray]:
    """`count` of the prompts, evenly spaced."""
    if len(prompts) < count:
        raise InputError(f"a speaker has {len(prompts)} prompts that are long enough; {count} are needed")
    return [prompts[i * len(prompts) // count] for i in range(count)]


def _data(prompts: list[list[np.ndarray]], groups: list[int], name: str) -> traces.Data:
    return traces.Data.of(
        [_parts(features) for some in prompts for features in some],
        groups=np.repeat(groups, [len(some) for some in prompts]),
        name=name,
        metric=METRIC,
        origin=ORIGIN,
        licence=LICENCE,
    )
