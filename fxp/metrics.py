"""Figures of merit: what a metric is, and those that are built in. docs/metrics.md describes the protocol for users."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np

from fxp.transcripts import PhonemeError, WordError
from fxp.verification import EmbeddingDistance, EqualError
from traces import InputError
from traces.data import Sequences

CLASS, MULTI, SEQUENCE = "class", "multi", "sequence"
"""Kinds of labels: one class a step or sequence, C values of 0 or 1 a step, any number of classes a sequence."""


@runtime_checkable
class Metric(Protocol):
    """A figure of merit that is a ratio of sums over sequences.

    Attributes
    ----------
    name : str
    unit : str
    higher_is_better : bool
    labels : str or None, optional
        Kind of the labels that it needs (`CLASS`, `MULTI`, `SEQUENCE`); None (the default) if any, or none, will do.
    piecewise : bool, optional
        True if the score of a sequence is the sum of the scores of its pieces, so that long sequences need not be held
        in memory; False (the default) to be given whole sequences.
    needs_head : bool, optional
        True if the outputs have to be those of a head; False (the default) if h itself will do.
    against_float : bool, optional
        True to be given the outputs of the float network in place of labels.
    """

    name: str
    unit: str
    higher_is_better: bool

    def score(self, outputs: np.ndarray, labels: np.ndarray | None) -> tuple[float, float]:
        """Sum of the score over one sequence (or piece), and its weight.

        Parameters
        ----------
        outputs : float32 [time, C]
            Outputs of the head (without one, h) at every step, or [1, C] for a head that reads the last step.
        labels : int32 [time], uint8 [time, C], int32 [1] or int32 [number of labels], or None
            As the data holds them.

        Returns
        -------
        sum, weight : float
            The metric is the sum of the sums over the sum of the weights. The weight depends on the labels or the
            length alone, so that the same sequence weighs the same in every variant of a network.
        """
        ...


@runtime_checkable
class Statistic(Protocol):
    """A figure of merit of all sequences together that is no ratio of sums, such as an equal-error rate.

    It has the attributes of `Metric`, and `needs_groups` (bool, False by default) if the data must say which sequences
    belong together. Its interval comes from a bootstrap over groups and the sequences
    within them; without groups each sequence is its own.
    """

    name: str
    unit: str
    higher_is_better: bool

    def represent(self, outputs: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        """What the metric needs to know of one sequence: float64 [K], K the same for all; arguments as for `score`."""
        ...

    def statistic(self, representations: np.ndarray, groups: np.ndarray) -> Callable[[np.ndarray], float]:
        """The metric as a function of weights.

        Parameters
        ----------
        representations : float64 [sequences, K]
        groups : int64 [sequences]

        Returns
        -------
        function of (weights int64 [drawn, sequences]) -> float
            Row k says how often each sequence was drawn with the k-th drawn group, and is 0 outside that group (one
            row a group, 1 for each of its sequences: the metric itself). A sequence counts the sum of its column. A
            pair of sequences of different groups counts the product of those sums; a pair within a group counts the sum
            over rows of the products, since copies of a group are not compared with each other. NaN where the draw
            defines no value.
        """
        ...


def kind_of(data: Sequences) -> str | None:
    """Kind of the labels of a data set; None without labels."""
    if data.scope is None:
        return None
    return SEQUENCE if data.scope == "sequence" else MULTI if data.targets else CLASS


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of each row's label under the softmax of its logits: float64 [n], in nats."""
    return np.asarray(-_log_softmax(logits)[np.arange(len(labels)), labels])


def bernoulli_loss(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Negative log-likelihood of independent labels of 0 or 1, logits being log odds: float64 [n, C], in nats."""
    return _softplus(logits) - logits.astype(np.float64) * targets


def _divergence(logits: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Kullback-Leibler divergence of each row's softmax from that of the float network: float64 [n], in nats."""
    ours, theirs = _log_softmax(logits), _log_softmax(exact)
    return np.asarray((np.exp(theirs) * (theirs - ours)).sum(axis=1))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    return np.asarray(exact - np.log(np.exp(exact).sum(axis=1, keepdims=True)))


def _softplus(logits: np.ndarray) -> np.ndarray:
    """log(1 + exp(z)) without overflow."""
    exact = logits.astype(np.float64)
    return np.asarray(np.maximum(exact, 0) + np.log1p(np.exp(-np.abs(exact))))


def _bernoulli_divergence(logits: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """The same of independent labels of 0 or 1, logits being log odds, summed over the labels."""
    ours, theirs = logits.astype(np.float64), exact.astype(np.float64)
    share = 0.5 * (1 + np.tanh(0.5 * theirs))
    return np.asarray((share * (theirs - ours) + _softplus(ours) - _softplus(theirs)).sum(axis=1))


class _ByStep:
    """A score for every step that is labelled, or that the head reads."""

    piecewise = True
    needs_head = True

    def __init__(
        self, name: str, unit: str, labels: str | None, steps: Callable[[np.ndarray, np.ndarray], np.ndarray],
        higher_is_better: bool = False,
    ):  # fmt: skip
        self.name, self.unit, self.labels, self.higher_is_better = name, unit, labels, higher_is_better
        self.against_float = labels is None
        self._steps = steps

    def score(self, outputs: np.ndarray, labels: np.ndarray | None) -> tuple[float, float]:
        assert labels is not None
        return float(self._steps(outputs, labels).sum()), float(len(labels))


METRICS: dict[str, Metric | Statistic] = {
    metric.name: metric
    for metric in (
        _ByStep("bits_per_character", "bits", CLASS, lambda z, y: negative_log_likelihood(z, y) / math.log(2)),
        _ByStep("cross_entropy", "nats", CLASS, negative_log_likelihood),
        _ByStep("accuracy", "share", CLASS, lambda z, y: (z.argmax(axis=1) == y).astype(np.float64), True),
        _ByStep("nats_per_step", "nats", MULTI, lambda z, y: bernoulli_loss(z, y).sum(axis=1)),
        PhonemeError(),
        WordError(),
        EqualError(),
        EmbeddingDistance(),
        _ByStep("divergence", "nats", None, _divergence),
        _ByStep("bernoulli_divergence", "nats", None, _bernoulli_divergence),
    )
}
DEFAULT = {CLASS: "cross_entropy", MULTI: "nats_per_step"}
"""Metric where neither data, nor network, nor the caller names one."""


class OutputError:
    """Mean squared difference of h from the float network: what is left to compare without labels."""

    name = "output_mse"
    unit = ""
    higher_is_better = False
    piecewise = True

    def score(self, outputs: np.ndarray, labels: np.ndarray | None) -> tuple[float, float]:
        """`labels` are the outputs of the float network."""
        assert labels is not None
        difference = outputs - labels
        return float((difference.astype(np.float64) ** 2).mean(axis=1).sum()), float(len(outputs))


def named(name: str) -> Metric | Statistic:
    """A built-in metric; InputError for another name."""
    if name not in METRICS:
        raise InputError(f"metric {name!r} is unknown; known are {', '.join(METRICS)}")
    return METRICS[name]


def check(metric: Any) -> Metric | Statistic:
    """A user's metric, if it keeps the protocol; otherwise InputError saying what is missing."""
    if isinstance(metric, str):
        return named(metric)
    for attribute, kind in (("name", str), ("unit", str), ("higher_is_better", bool)):
        if not isinstance(getattr(metric, attribute, None), kind):
            raise InputError(f"metric {_title(metric)}: attribute {attribute} ({kind.__name__}) is missing")
    labels = getattr(metric, "labels", None)
    kinds = (CLASS, MULTI, SEQUENCE, None)
    if labels not in kinds:
        raise InputError(f"metric {_title(metric)}: labels is {labels!r}, expected one of {kinds}")
    methods = [name for name in ("score", "represent", "statistic") if callable(getattr(metric, name, None))]
    if methods not in (["score"], ["represent", "statistic"]):
        raise InputError(f"metric {_title(metric)}: needs a method score, or both represent and statistic")
    found: Metric | Statistic = metric
    return found


def _title(metric: Any) -> str:
    name = getattr(metric, "name", None)
    return name if isinstance(name, str) else type(metric).__name__
