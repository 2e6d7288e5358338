"""Speaker verification: the encoder of Resemblyzer 0.1.4 (Wan et al., ICASSP 2018) on recordings of eighteen speakers:
telephone prompts of seven, names of drawings by seven, and lines of a game by four. Everything is fetched and computed
when the network is built; recordings and weights are not handed on here.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

import traces
from fxp import export
from fxp.networks import debian, fetch, gsm, recordings
from fxp.rounding import fit_rounding
from fxp.scales import fit_scales

FRAMES = 160  # of a sequence: what the encoder was trained on
METRIC = "equal_error"

# Of the recordings of a speaker in the order of their names, every fourth calibrates.
PERIOD = 4
CALIBRATION, HELD_OUT = 60, 100  # recordings of a speaker at most

# A band is given in parts: they end at these quantiles of its power, the last is open, and none whose range times the
# largest weight of its band exceeds LARGEST, since the loudest part sets the weight steps of all.
QUANTILES = (0.7, 0.9, 0.999)
LARGEST = 0.5
QUIET = 1e-4  # power, less than what is typical of speech: no part is narrower

H_QUANTILE = 0.9995  # of |h|, at which its range ends

RESEMBLYZER = fetch.Package(
    "Resemblyzer", "0.1.4", "8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f", False, "Apache-2.0"
)
WEIGHTS = "resemblyzer/pretrained.pt"

READERS: dict[str, Callable[[bytes, str], tuple[np.ndarray, int]]] = {
    ".gsm": lambda content, name: (gsm.decode(content, name), gsm.RATE),
    ".ogg": recordings.read_vorbis,
    ".wav": recordings.read_wave,
}
"""By the ending of a name: samples float64 in [-1, 1) and their rate in 1/s, of (content, name)."""

_CORE = ("1.6.1-1", "a/asterisk-core-sounds")
_FILLETS = ("1.0.1-1.1", "f/fillets-ng-data")
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
        debian.Package(
            "tuxpaint-stamps-default",
            "2022.06.04-1",
            "t/tuxpaint-stamps",
            "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
        ),
        debian.Package(
            "fillets-ng-data-cs", *_FILLETS, "3ecef99b9456f1c80c9625c6f2418642b52d58e7167a46bad7a412db17991b14"
        ),
        debian.Package(
            "fillets-ng-data-nl", *_FILLETS, "afb4443fda9ab507dee578b75be857d121718a1cd6017a474f30e0eb13dc9d10"
        ),
    )
}


@dataclass(frozen=True)
class Speaker:
    """Who speaks in which files.

    Attributes
    ----------
    who, licence : str
    package : str, of `PACKAGES`
    files : str
        Regular expression that the names of the files match as a whole.
    """

    who: str
    licence: str
    package: str
    files: str = ".*"


# Letters, numbers and signs are others' recordings, and so are some of the French animals.
_STAMPS = "usr/share/tuxpaint/stamps/(?!symbols/).*_desc_{}[.]ogg"
_FISH = "usr/share/games/fillets-ng/sound/.*/[^-/]+-{}-[^/]*"  # of a level: its sign, who speaks, what
_SHARE_ALIKE, _BY = "CC-BY-SA-3.0", "CC-BY-3.0"
_GPL, _LATER = "GPL-2.0-only", "GPL-2.0-or-later"


def _stamps(who: str, language: str, files: str = _STAMPS) -> Speaker:
    return Speaker(who, _LATER, "tuxpaint-stamps-default", files.format(language))


def _fish(who: str, language: str, sign: str) -> Speaker:
    return Speaker(who, _GPL, f"fillets-ng-data-{language}", _FISH.format(sign))


SPEAKERS = (
    Speaker("Allison Smith", _SHARE_ALIKE, "asterisk-core-sounds-en-wav"),
    Speaker("June Wallack", _SHARE_ALIKE, "asterisk-core-sounds-fr-wav"),
    Speaker("Carlo Flora", _BY, "asterisk-core-sounds-it-wav"),
    Speaker("the voice of ivrvoice.ru, provided by Maxim Topal", _BY, "asterisk-core-sounds-ru-wav"),
    Speaker(
        "Paola Dal Zot (recorded with Marco Menardi, http://www.voip.ammdomus.it)",
        _SHARE_ALIKE,
        "asterisk-prompt-it-menardi-wav",
    ),
    Speaker("the voice of Avatar Ltda. (July E. Jiménez)", _GPL, "asterisk-prompt-es-co"),
    Speaker("Armelle Desjardins (© 2006 Michel Gutierrez)", "BSD", "asterisk-prompt-fr-armelle"),
    _stamps("Kseniya Buraya", "be"),
    _stamps("Krasimir Petkov", "bg"),
    _stamps("Kiriaki Serafeim", "el"),
    _stamps("Estefanía Ortiz", "es"),
    _stamps("PaulK", "fr", _STAMPS.replace("symbols", "symbols/|animals")),
    _stamps("Tabbytha", "ro"),
    _stamps("Edwin Veber", "ru"),
    _fish("the small fish in Czech", "cs", "m"),
    _fish("the big fish in Czech", "cs", "v"),
    _fish("the small fish in Dutch", "nl", "m"),
    _fish("the big fish in Dutch", "nl", "v"),
)
# The Mexican Spanish prompts are Allison Smith's too. Whether pairs across languages are alike is another question than
# the one asked here, so that they calibrate only.
CALIBRATION_ONLY = Speaker("Allison Smith", _SHARE_ALIKE, "asterisk-core-sounds-es-wav")

ORIGIN = "recorded prompts of Debian's packages " + ", ".join(sorted(PACKAGES))
LICENCE = "recordings: " + "; ".join(f"{speaker.who}: {speaker.licence}" for speaker in SPEAKERS)


def held_out() -> traces.Data:
    """Recordings of all speakers that nothing was calibrated on; groups are the speakers."""
    return _data(
        [_evenly(_prompts(speaker)[1], HELD_OUT) for speaker in SPEAKERS], list(range(len(SPEAKERS))), "speaker data"
    )


def calibration() -> traces.Data:
    """Recordings to calibrate on, of the same speakers, and in Mexican Spanish of the first."""
    return _data(_calibrating(), [*range(len(SPEAKERS)), 0], "speaker calibration")


def model(scaled: bool = True, fitted: bool = True) -> traces.Model:
    """The encoder, quantised: three LSTM layers of 256 and a linear head on the last step. The weights of a band are
    those of all its inputs, so that the float network is the encoder as it came.

    Parameters
    ----------
    scaled : bool
        A scale for each input, the range of its part. With one scale for all inputs, eight bits lose the quiet bands.
    fitted : bool
        Ranges of h that end at a quantile of it on the calibration prompts (`fxp.fit_scales`), and the input weights
        rounded for the sums of these (`fxp.fit_rounding`), not each for itself.
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
    if fitted:
        network = fit_rounding(fit_scales(network, prompts, inputs=False, h=H_QUANTILE)[0], prompts)
    return network.model


def weights() -> dict[str, Any]:
    """State dict of the encoder; nothing in the file is executed."""
    torch = export.torch_module()
    with zipfile.ZipFile(fetch.fetch(RESEMBLYZER)) as wheel:
        stored = torch.load(io.BytesIO(wheel.read(WEIGHTS)), map_location="cpu", weights_only=True)
    return dict(stored["model_state"])


@cache
def _prompts(speaker: Speaker) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Features float32 [FRAMES, bands] of a speaker's recordings that are long enough, without copies: those that
    calibrate, and those that are held out."""
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    seen: set[bytes] = set()
    for place, content in _recorded(speaker.package):
        digest = hashlib.sha256(content).digest()
        if digest in seen or not re.fullmatch(speaker.files, place):
            continue
        seen.add(digest)
        samples, rate = READERS[Path(place).suffix](content, place)
        if len(samples) * recordings.RATE < FRAMES * recordings.HOP * rate:
            continue
        levelled = recordings.levelled(recordings.resample(samples, rate))
        features = recordings.spoken(recordings.mel_power(levelled))[:FRAMES]
        if len(features) == FRAMES:
            parts[(len(parts[0]) + len(parts[1])) % PERIOD != 0].append(features)
    return parts


@lru_cache(1)  # speakers of one package follow on each other
def _recorded(package: str) -> list[tuple[str, bytes]]:
    """(name, content) of a package's recordings."""
    return debian.files(debian.package(PACKAGES[package]), tuple(READERS))


def _calibrating() -> list[list[np.ndarray]]:
    """Features of the recordings that calibrate, of each speaker and `CALIBRATION_ONLY`."""
    return [_evenly(_prompts(speaker)[0], CALIBRATION) for speaker in (*SPEAKERS, CALIBRATION_ONLY)]


@cache
def _parts() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Band of each input, and the power at which it starts and ends: int64, float32 and float32 [inputs].

    Ends are multiples of 2^-20, as the power itself is, so that the parts of a band add up to it exactly.
    """
    frames = np.concatenate([x for some in _calibrating() for x in some])
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
