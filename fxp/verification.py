"""Metrics of networks that tell speakers apart by the angle between embeddings of what they say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def embedding(outputs: np.ndarray) -> np.ndarray:
    """Rectified output of the last step at unit length, float64 [K]; zeros if nothing is positive.

    Parameters
    ----------
    outputs : float32 [time, K]
    """
    rectified = np.maximum(outputs[-1].astype(np.float64), 0.0)
    length = np.sqrt((rectified**2).sum())
    return rectified / length if length else rectified


class EqualError:
    """Rate at which pairs of sequences of one group are taken for different, and pairs of different groups for the
    same, at the threshold of the cosine where the two are equal.

    All pairs are compared. Groups are speakers: pairs share sequences and speakers, so that intervals come from drawing
    speakers, and sequences of each, with replacement.
    """

    name = "equal_error"
    unit = "share"
    higher_is_better = False
    needs_groups = True
    needs_head = True

    def represent(self, outputs: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        """The embedding of a sequence, float64 [K]."""
        return embedding(outputs)

    def statistic(self, representations: np.ndarray, groups: np.ndarray) -> Callable[[np.ndarray], float]:
        """The rate as a function of weights int64 [drawn, sequences]; NaN where a draw lacks pairs of either kind.

        Between neighbouring thresholds both rates are taken to change linearly.
        """
        first, second = np.triu_indices(len(groups), 1)
        cosines = (representations @ representations.T)[first, second]
        order = np.argsort(-cosines, kind="stable")
        first, second = first[order], second[order]
        same = groups[first] == groups[second]
        # Pairs of one cosine are accepted together: only the last of them is a place for the threshold.
        thresholds = np.flatnonzero(np.diff(cosines[order], append=-np.inf))

        def rate(weights: np.ndarray) -> float:
            count = weights.sum(axis=0)
            drawn = count[first] * count[second]
            within = np.zeros(len(drawn), np.int64)
            within[same] = sum(row[first[same]] * row[second[same]] for row in weights)
            accepted, accepted_wrongly = np.cumsum(within), np.cumsum(np.where(same, 0, drawn))
            if not len(drawn) or not accepted[-1] or not accepted_wrongly[-1]:
                return float("nan")
            missed = np.concatenate([[1.0], 1.0 - accepted[thresholds] / accepted[-1]])
            wrong = np.concatenate([[0.0], accepted_wrongly[thresholds] / accepted_wrongly[-1]])
            excess = missed - wrong
            after = int(np.argmax(excess <= 0))
            part = excess[after - 1] / (excess[after - 1] - excess[after])
            return float(wrong[after - 1] + part * (wrong[after] - wrong[after - 1]))

        return rate
