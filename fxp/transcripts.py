"""Metrics of networks that spell out a sequence of labels, trained with connectionist temporal classification."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BLANK = 0
"""Row of the head that stands for no label; in the labels of a sequence it separates alternatives."""


def spelled(outputs: np.ndarray) -> list[int]:
    """Labels that a network spells out, read greedily: the best label of every step, then repetitions become one, then
    blanks go (best path decoding; Graves et al., ICML 2006).

    Parameters
    ----------
    outputs : float32 [time, labels], logits
    """
    best = outputs.argmax(axis=1)
    kept = best[np.flatnonzero(np.diff(best, prepend=-1))]
    return [int(label) for label in kept if label != BLANK]


def alternatives(labels: np.ndarray) -> list[list[int]]:
    """The reference sequences that an array of labels holds, a blank between any two."""
    found: list[list[int]] = [[]]
    for label in labels.tolist():
        if label == BLANK:
            found.append([])
        else:
            found[-1].append(label)
    return found


def edits(a: Sequence[int], b: Sequence[int]) -> int:
    """Fewest insertions, deletions and substitutions that turn a into b (Levenshtein's distance)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


class PhonemeError:
    """Edits from the nearest alternative, per label of the first one: a share that may exceed 1."""

    name = "phoneme_error"
    unit = "share"
    higher_is_better = False
    labels = "sequence"
    needs_head = True

    def score(self, outputs: np.ndarray, labels: np.ndarray | None) -> tuple[float, float]:
        """Edits, and the length of the first alternative."""
        assert labels is not None
        references = alternatives(labels)
        heard = spelled(outputs)
        return float(min(edits(heard, reference) for reference in references)), float(len(references[0]))


class WordError(PhonemeError):
    """Share of the sequences that are spelled like none of their alternatives."""

    name = "word_error"

    def score(self, outputs: np.ndarray, labels: np.ndarray | None) -> tuple[float, float]:
        """1 if the sequence is wrong, and 1."""
        return float(super().score(outputs, labels)[0] > 0), 1.0
