"""Speaker verification: the encoder of Resemblyzer 0.1.4 (Wan et al., ICASSP 2018) on telephone prompts of seven
speakers. Everything is fetched and computed when the network is built; recordings and weights are not handed on here.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import zipfile
from functools import cache
from typing import Any

import numpy as np

import traces
from fxp import export
from fxp.networks import debian, fetch, gsm, recordings
from fxp.rounding import fit_rounding

FRAMES = 160  # of a sequence: what the encoder was trained on
METRIC = "equal_error"

# Of the prompts of a speaker in the order of their names, every fourth calibrates.
PERIOD = 4
CALIBRATION, HELD_OUT = 60, 160  # prompts of a speaker at most

# A band is given in parts: they end at these quantiles of its power, the last is open, and none whose range times the
# largest weight of its band exceeds LARGEST, since the loudest part sets the weight steps of all.
QUANTILES = (0.7, 0.9, 0.99)
LARGEST = 4.0
QUIET = 1e-4  # power, less than what is typical of speech: no part is narrower

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
        debian.Package(
            "asterisk-prompt-es-co",
            "0.20070403-2.1",
            "a/asterisk-prompt-es-co",
            "6702696e045514699e87dc8fb70f370717e5df91f821f7bec8dd0df1be008e83",
        ),
        debian.Package(
            "asterisk-prompt-fr-armelle",
            "20070613-2.2",
            "a/asterisk-prompt-fr-armelle",
            "162570b1a9b3512a98f06b89f60c7c17cf1b9b52297315adca9a4e5be728bea3",
        ),
    )
}

# The Mexican Spanish prompts are Allison Smith's too. Whether pairs across languages are alike is another question than
# the one asked here, so that they calibrate only.
SPEAKERS = {
    "asterisk-core-sounds-en-wav": ("Allison Smith", _SHARE_ALIKE),
    "asterisk-core-sounds-fr-wav": ("June Wallack", _SHARE_ALIKE),
    "asterisk-core-sounds-it-wav": ("Carlo Flora", _BY),
    "asterisk-core-sounds-ru-wav": ("the voice of ivrvoice.ru, provided by Maxim Topal", _BY),
    "asterisk-prompt-it-menardi-wav": (
        "Paola Dal Zot (recorded with Marco Menardi, http://www.voip.ammdomus.it)",
        _SHARE_ALIKE,
    ),
    "asterisk-prompt-es-co": ("the voice of Avatar Ltda. (July E. Jiménez)", "GPL-2.0-only"),
    "asterisk-prompt-fr-armelle": ("Armelle Desjardins (© 2006 Michel Gutierrez)", "BSD"),
}
GSM = ("asterisk-prompt-es-co", "asterisk-prompt-fr-armelle")  # as the telephone sends them; the others are WAV files
CALIBRATION_ONLY = "asterisk-core-sounds-es-wav"

ORIGIN = "recorded prompts of Debian's packages " + ", ".join(sorted(PACKAGES))
LICENCE = "recordings: " + "; ".join(f"{who}: {terms}" for who, terms in SPEAKERS.values())


def held_out() -> traces.Data:
    """Prompts of seven speakers that nothing was calibrated on; groups are the speakers."""
    return _data(
        [_evenly(_prompts(name)[1], HELD_OUT) for name in SPEAKERS], list(range(len(SPEAKERS))), "speaker data"
    )


def calibration() -> traces.Data:
    """Prompts to calibrate on, of the seven speakers and in Mexican Spanish."""
    names = [*SPEAKERS, CALIBRATION_ONLY]
    groups = [*range(len(SPEAKERS)), list(SPEAKERS).index("asterisk-core-sounds-en-wav")]
    return _data([_evenly(_prompts(name)[0], CALIBRATION) for name in names], groups, "speaker calibration")


def model(scaled: bool = True, fitted: bool = True) -> traces.Model:
    """The encoder, quantised: three LSTM layers of 256 and a linear head on the last step. The weights of a band are
    those of all its inputs, so that the float network is the encoder as it came.

    Parameters
    ----------
    scaled : bool
        A scale for each input, the range of its part. With one scale for all inputs, eight bits lose the quiet bands.
    fitted : bool
        The input weights rounded for the sums of the calibration prompts (`fxp.fit_rounding`), not each for itself.
    """
    state = weights()
    lstm = dict(export.select(state, "lstm"))
    band, start, end = _parts()
    lstm["weight_ih_l0"] = np.asarray(lstm["weight_ih_l0"])[:, band]
    # A full part is the largest index: 127 of 128 steps.
    scale = ((end - start) * np.float32(128 / 127)).astype(np.float32)
    prompts = calibration()
    seen = [np.minimum(features, scale) if scaled else features for features in prompts]
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
    return (fit_rounding(network, prompts) if fitted else network).model


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
    ending = ".gsm" if name in GSM else ".wav"
    for place, content in debian.files(debian.package(PACKAGES[name]), ending):
        digest = hashlib.sha256(content).digest()
        samples, rate = (gsm.decode(content, place), gsm.RATE) if name in GSM else recordings.read_wave(content, place)
        if digest in seen or len(samples) * recordings.RATE < FRAMES * recordings.HOP * rate:
            continue
        seen.add(digest)
        raised = recordings.raised(recordings.resample(samples, rate))
        features = recordings.spoken(recordings.mel_power(raised))[:FRAMES]
        if len(features) == FRAMES:
            parts[(len(parts[0]) + len(parts[1])) % PERIOD != 0].append(features)
    return parts


@cache
def _parts() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Band of each input, and the power at which it starts and ends: int64, float32 and float32 [inputs].

    Ends are multiples of 2^-20, as the power itself is, so that the parts of a band add up to it exactly.
    """
    frames = np.concatenate(
        [x for name in (*SPEAKERS, CALIBRATION_ONLY) for x in _evenly(_prompts(name)[0], CALIBRATION)]
    )
    grid = 2.0**recordings.GRID
    ends = np.rint(np.quantile(frames.astype(np.float64), QUANTILES, axis=0) * grid) / grid
    largest = np.abs(np.asarray(weights()["lstm.weight_ih_l0"])).max(axis=0).astype(np.float64)
    found: list[tuple[int, float, float]] = []
    for band in range(recordings.BANDS):
        start = 0.0
        for number, end in enumerate(ends[:, band]):
            top = number == len(QUANTILES) - 1
            if end - start < QUIET:
                if not top:
                    continue
                end = start + QUIET
            pieces = max(1, int(np.ceil((end - start) * largest[band] / LARGEST)))
            edges = np.rint(np.linspace(start, end, pieces + 1) * grid) / grid
            found += [(band, a, b) for a, b in itertools.pairwise(edges)]
            start = end
    bands, starts, stops = zip(*found, strict=True)
    return np.array(bands), np.array(starts, np.float32), np.array(stops, np.float32)


def _split(power: np.ndarray) -> np.ndarray:
    """Each band as inputs that add up to it, float32 [frames, inputs]: what of the power lies in each part, the last
    part of a band being open.

    Speech is quiet most of the time: one input of eight bits would see little but its loudest moments.
    """
    band, start, end = _parts()
    last = np.append(band[1:] != band[:-1], True)
    return np.asarray(np.clip(power[:, band], start, np.where(last, np.float32(np.inf), end)) - start)


def _evenly(prompts: list[np.ndarray], count: int) -> list[np.ndarray]:
    """At most `count` of the prompts, evenly spaced."""
    count = min(count, len(prompts))
    return [prompts[i * len(prompts) // count] for i in range(count)]


def _data(prompts: list[list[np.ndarray]], groups: list[int], name: str) -> traces.Data:
    return traces.Data.of(
        [_split(features) for some in prompts for features in some],
        groups=np.repeat(groups, [len(some) for some in prompts]),
        name=name,
        metric=METRIC,
        origin=ORIGIN,
        licence=LICENCE,
    )
