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


def embedding_gradient(outputs: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Gradient by the outputs of the last step of the product of their `embedding` with a direction.

    Parameters
    ----------
    outputs : float32 [time, K]
    direction : float [K]

    Returns
    -------
    float64 [K]
        Zeros where the embedding is zero.
    """
    unit = embedding(outputs)
    length = np.sqrt((np.maximum(outputs[-1].astype(np.float64), 0.0) ** 2).sum())
    if not length:
        return unit
    return np.where(outputs[-1] > 0, direction - unit * (unit @ direction), 0.0) / length


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
        from fxp.kernels import pairs  # not before it is needed: it takes Numba to load

        first, second = np.triu_indices(len(groups), 1)
        cosines = (representations @ representations.T)[first, second]
        order = np.argsort(-cosines, kind="stable")
        first, second = first[order], second[order]
        same = groups[first] == groups[second]
        # Pairs of one cosine are accepted together: only the last of them is a place for the threshold. Pairs of either
        # kind that are accepted there:
        thresholds = np.flatnonzero(np.diff(cosines[order], append=-np.inf))
        alike = np.concatenate([[0], np.cumsum(same)[thresholds]])
        unlike = np.concatenate([[0], thresholds + 1]) - alike
        others = first[~same], second[~same]
        same_first, same_second = first[same], second[same]
        places = {group: np.flatnonzero(groups[same_first] == group) for group in np.unique(groups).tolist()}
        ends = {group: (same_first[places[group]], same_second[places[group]]) for group in places}

        def rate(weights: np.ndarray) -> float:
            count = weights.sum(axis=0)
            within = np.zeros(len(same_first), np.int64)
            for row in weights:
                for group in set(groups[row > 0].tolist()):
                    one, other = ends[group]
                    within[places[group]] += row[one] * row[other]
            accepted = np.concatenate([[0], np.cumsum(within)])
            accepted_wrongly = np.empty(len(others[0]) + 1, np.int64)
            pairs.cumulate(count, *others, accepted_wrongly)
            if not accepted[-1] or not accepted_wrongly[-1]:
                return float("nan")

            def missed(n: int) -> float:
                return float(1.0 - accepted[alike[n]] / accepted[-1])

            def wrong(n: int) -> float:
                return float(accepted_wrongly[unlike[n]] / accepted_wrongly[-1])

            # From one threshold to the next, less is missed and more is wrong: the first one where that is no less.
            before, after = 0, len(alike) - 1
            while after - before > 1:
                middle = (before + after) // 2
                before, after = (middle, after) if missed(middle) - wrong(middle) > 0 else (before, middle)
            excess, left = missed(before) - wrong(before), missed(after) - wrong(after)
            part = excess / (excess - left)
            return wrong(before) + part * (wrong(after) - wrong(before))

        return rate


class EmbeddingDistance:
    """One minus the cosine of a sequence's embedding to that of the float network, in the mean.

    Sequences of one group may err alike, so that intervals come from drawing groups, and sequences of each.
    """

    name = "embedding_distance"
    unit = "1"
    higher_is_better = False
    needs_head = True
    against_float = True

    def represent(self, outputs: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        """The distance of a sequence, float64 [1]; `labels` are the outputs of the float network."""
        assert labels is not None
        return np.array([1.0 - embedding(outputs) @ embedding(labels)])

    def statistic(self, representations: np.ndarray, groups: np.ndarray) -> Callable[[np.ndarray], float]:
        """The mean distance as a function of weights int64 [drawn, sequences]."""

        def mean(weights: np.ndarray) -> float:
            count = weights.sum(axis=0)
            return float(count @ representations[:, 0] / count.sum())

        return mean
