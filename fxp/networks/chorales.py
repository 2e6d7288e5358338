"""Bach's chorales as piano rolls, read from the scores that come with music21 (MusicXML, compressed).

The scores are fetched when the data is built, since their encodings may not be handed on; see docs/networks.md.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from fxp.networks import fetch
from traces import Data

LOWEST, NOTES = 21, 88
"""The keys of a piano, by their MIDI numbers."""
PARTS = 4
ORIGIN = "Bach's chorales in four parts, as scored in music21 9.9.1, one step a quarter note"
LICENCE = "Bach's music is in the public domain; encodings of the scores © 2004 Margaret Greentree, used by permission"
METRIC = "nats_per_step"
_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}

# Of five chorales in the order of the catalogue, the third calibrates and the fifth is held out.
PERIOD, CALIBRATION, HELD_OUT = 5, 2, 4


def read(wheel: Path) -> list[tuple[str, np.ndarray]]:
    """Names and piano rolls of all chorales in four parts, in the order of the catalogue.

    A chorale that is the same as an earlier one but for its key, and none that is shorter than eight steps, is kept.

    Returns
    -------
    list of (name, uint8 [time, 88])
        1 where a key sounds at the beginning of a quarter note.
    """
    rolls, seen = [], set()
    with zipfile.ZipFile(wheel) as package:
        names = [name for name in package.namelist() if re.fullmatch(r"music21/corpus/bach/bwv[\d.a-z-]+\.mxl", name)]
        for name in sorted(names, key=_order):
            roll = _score(package.read(name))
            if roll is None or len(roll) < 8:
                continue
            key = roll[:, np.flatnonzero(roll.any(axis=0))[0] :]
            content = np.packbits(key[:, : np.flatnonzero(key.any(axis=0))[-1] + 1], axis=1).tobytes()
            if content not in seen:
                seen.add(content)
                rolls.append((Path(name).stem, roll))
    return rolls


def _order(name: str) -> list[tuple[int, str]]:
    """Numbers by value, so that BWV 2 comes before BWV 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _score(packed: bytes) -> np.ndarray | None:
    """Piano roll of one compressed MusicXML file, or None if it is not in four parts."""
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        inner = [name for name in archive.namelist() if re.fullmatch(r"[^/]+\.(musicxml|xml)", name)]
        root = ElementTree.fromstring(archive.read(inner[0]))
    return roll_of(root)


def roll_of(root: ElementTree.Element) -> np.ndarray | None:
    """Piano roll uint8 [quarters, 88] of a MusicXML score, or None if it has not four parts or no notes."""
    parts = root.findall("part")
    if len(parts) != PARTS:
        return None
    notes = [note for part in parts for note in _notes(part)]
    if not notes:
        return None
    length = max(int(-(-end // 1)) for _, end, _ in notes)
    roll = np.zeros((length, NOTES), np.uint8)
    for start, end, key in notes:
        # The quarters that begin while the note sounds.
        first, last = int(-(-start // 1)), int(-(-end // 1))
        if 0 <= key - LOWEST < NOTES:
            roll[first:last, key - LOWEST] = 1
    return roll[np.flatnonzero(roll.any(axis=1))[0] :] if roll.any() else None


def _notes(part: ElementTree.Element) -> Iterator[tuple[Fraction, Fraction, int]]:
    """(start, end, MIDI number) of the notes of a part, in quarters from its beginning; repeats are not played."""
    now = begun = Fraction(0)
    divisions = 1
    for measure in part.findall("measure"):
        furthest = now
        for element in measure:
            divisions = int(element.findtext("divisions", str(divisions)))
            length = Fraction(element.findtext("duration", "0")) / divisions
            if element.tag == "backup":
                now -= length
            elif element.tag == "forward":
                now += length
            elif element.tag == "note" and element.find("grace") is None:
                # A further note of a chord begins with the first.
                begun = begun if element.find("chord") is not None else now
                pitch = element.find("pitch")
                if pitch is not None:
                    alter = round(float(pitch.findtext("alter", "0")))
                    key = 12 * (int(pitch.findtext("octave", "0")) + 1) + _STEPS[pitch.findtext("step", "C")] + alter
                    yield begun, begun + length, key
                now = begun + length
            furthest = max(furthest, now)
        now = furthest


def split(rolls: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Chorales to train on, to calibrate on, and held out."""
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    for number, roll in enumerate(rolls):
        place = number % PERIOD
        parts[1 if place == CALIBRATION else 2 if place == HELD_OUT else 0].append(roll)
    return parts[0], parts[1], parts[2]


def data(rolls: list[np.ndarray], name: str) -> Data:
    """Each step is to be told from the steps before it: inputs are the roll one step late, labels the roll."""
    inputs = [np.concatenate([np.zeros((1, NOTES)), roll[:-1]]).astype(np.float32) for roll in rolls]
    return Data.of(inputs, rolls, name=name, metric=METRIC, origin=ORIGIN, licence=LICENCE)


def _parts() -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    return split([roll for _, roll in read(fetch.fetch(fetch.CHORALES))])


def calibration() -> Data:
    """Chorales to calibrate on."""
    return data(_parts()[1], "chorales calibration")


def held_out() -> Data:
    """Chorales that nothing was trained, chosen or calibrated on."""
    return data(_parts()[2], "chorales data")
