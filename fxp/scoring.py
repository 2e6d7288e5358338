"""From emulated outputs to a metric: head, labels, pieces of sequences, and differences with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from fxp import floating, intervals, metrics, plugins
from fxp.inputs import Inputs
from fxp.network import Network
from fxp.quantise import float_layers
from traces import InputError
from traces.data import Sequences

GROUP = 32  # sequences that the float network holds in memory at once


@dataclass(frozen=True)
class Loss:
    """How much worse than a baseline, in the metric's unit and positive if worse.

    `upper` is the upper end of the one-sided 95 % interval; None for fewer than two sequences (or groups).
    """

    value: float
    upper: float | None


class Scorer:
    """Scores the outputs of a network against labels, or against the float network where there are none.

    Parameters
    ----------
    network : Network
    data : traces.Data or an open data file
    where : str
        What error messages begin with: the file that the data comes from.
    metric : Metric, Statistic, or the name of a built-in one, optional
        By default the one that the data, or the network, names; without labels or head, the mean squared difference of
        h from the float network.
    head : callable, optional
        Takes the place of the network's head: float32 [time, outputs] of a whole sequence -> array [time, C].
    reference : Network, optional
        The network whose float outputs count where there are no labels; default: `network` itself.

    Attributes
    ----------
    metric : Metric or Statistic
    name : str
    labelled : bool
        False where outputs are compared with the float network.
    """

    def __init__(
        self,
        network: Network,
        data: Sequences,
        where: str = "",
        metric: Any = None,
        head: Any = None,
        reference: Network | None = None,
    ):
        self.network = network
        self._reference = network if reference is None else reference
        self.data = data
        self.inputs = Inputs(network, data, where)
        self.head: Any = head if head is not None else network.model.head
        if head is not None and not callable(head):
            raise InputError(f"head is {type(head).__name__}, expected something that can be called with h")
        chosen = self._chosen(metric)
        self.labelled = chosen is not None
        self.metric: Any = metrics.OutputError() if chosen is None else chosen
        self.name = self.metric.name
        self._by_piece = getattr(self.metric, "piecewise", False) and head is None
        self._statistic = hasattr(self.metric, "statistic")
        self._kind = metrics.kind_of(data)
        if self.labelled:
            self._check_labels()
        self.groups = np.arange(len(data)) if data.groups is None else np.asarray(data.groups, np.int64)
        self._weights: np.ndarray | None = None
        self._float: list[np.ndarray] | None = None
        self._kept: tuple[np.ndarray, np.ndarray | None] | None = None

    def _chosen(self, metric: Any) -> Any:
        """The metric to use, or None for the difference from the float network."""
        kind = metrics.kind_of(self.data)
        if metric == metrics.OutputError.name:
            return None
        if metric is not None:
            with self._naming():
                return metrics.check(metric)
        name = self.data.metric or self.network.model.metric
        if name is None and (kind is None or self.head is None):
            return None
        if name is None:
            if kind not in metrics.DEFAULT:
                raise InputError(f"{self.inputs.where}labels are sequences: name the metric that judges them")
            name = metrics.DEFAULT[kind]
        if (kind is None or self.head is None) and name not in metrics.METRICS:
            return None
        with self._naming():
            found = metrics.named(name)
        lacking = getattr(found, "labels", None) is not None and kind is None
        return None if lacking or (self.head is None and getattr(found, "needs_head", False)) else found

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            raise InputError(f"{self.inputs.where}{error}") from None

    def _check_labels(self) -> None:
        where, needed = self.inputs.where, getattr(self.metric, "labels", None)
        if needed is not None and self._kind != needed:
            found = "no labels" if self._kind is None else f"labels of kind {self._kind}"
            raise InputError(f"{where}metric {self.name} needs labels of kind {needed}, but the data has {found}")
        if getattr(self.metric, "needs_head", False) and self.head is None:
            raise InputError(f"{where}metric {self.name} needs a head, and the network has none")
        if getattr(self.metric, "needs_groups", False) and self.data.groups is None:
            raise InputError(f"{where}metric {self.name} needs data that says which group each sequence belongs to")
        scope = self._head_scope()
        # Sequences of one step each have as many labels either way.
        fits = self.data.scope in (None, "sequence", scope) or self.data.total == len(self.data)
        if self._kind is not None and self.head is not None and needed is not None and not fits:
            raise InputError(
                f"{where}labels are of scope {self.data.scope}, but the network's head is of scope {scope} (step: "
                f"every step, last: the last step of a sequence)"
            )

    def _head_scope(self) -> str:
        return str(getattr(self.head, "scope", "step"))

    @property
    def weights(self) -> np.ndarray:
        """Weight of each sequence, float64: known once a variant has been scored."""
        assert self._weights is not None, "nothing has been scored yet"
        return self._weights

    def float_outputs(self) -> list[np.ndarray]:
        """Outputs of the float network, float32 [time, outputs] a sequence."""
        if self._float is None:
            self._float = float_outputs(self._reference, Inputs(self._reference, self.data))
        return self._float

    def sheet(self) -> Sheet:
        """Where one variant's scores are collected."""
        return Sheet(self)

    def settle(self, weights: np.ndarray) -> None:
        """Hold the weights of a variant against those of the variants before it."""
        if self._weights is None:
            if not weights.sum() > 0:
                raise InputError(f"{self.inputs.where}metric {self.name}: the weights of all sequences add up to 0")
            self._weights = weights
        elif not np.array_equal(weights, self._weights):
            number = int(np.argmax(weights != self._weights))
            raise InputError(
                f"metric {self.name}: sequence {number} weighs {weights[number]:g} in one variant of the network and "
                f"{self._weights[number]:g} in another; a weight may depend on labels and length alone"
            )

    def judged(self, number: int, start: int, outputs: np.ndarray) -> Any:
        """(sum, weight) of a piece of one sequence, or what a statistic needs to know of a whole one.

        Parameters
        ----------
        number : sequence
        start : first step of the piece
        outputs : float32 [time, outputs], dequantised
        """
        if not self.labelled:
            return self.metric.score(outputs, self.float_outputs()[number][start : start + len(outputs)])
        labels = None if self._kind is None else self.data.sequence_labels(number)
        if self.data.scope == "step" and labels is not None:
            labels = labels[start : start + len(outputs)]
        if self._head_scope() == "last" and start + len(outputs) < self.inputs.lengths[number]:
            return 0.0, 0.0
        stop = start + len(outputs)
        outputs = self.read(number, outputs)
        if getattr(self.metric, "against_float", False):
            labels = self.read(number, self.float_outputs()[number][start:stop])
        elif self._kind is not None and getattr(self.metric, "needs_head", False):
            self._check_range(number, outputs, labels)
        with plugins.running(self.metric, f"metric {self.name}, sequence {number}"):
            if self._statistic:
                return self.metric.represent(outputs, labels)
            return self.metric.score(outputs, labels)

    def read(self, number: int, outputs: np.ndarray) -> np.ndarray:
        """What the head makes of h up to the end of a sequence (or, for a head that reads every step, of a piece):
        float32 [time, C], or [1, C] for a head that reads the last step."""
        if self._head_scope() == "last":
            outputs = outputs[-1:]
        head = self.network.model.head
        if self.head is head:
            return outputs if head is None else outputs @ head.weight.T + head.bias
        with plugins.running(self.head, f"head, sequence {number}"):
            result = self.head(outputs)
        result = result.detach().cpu().numpy() if hasattr(result, "detach") else np.asarray(result)
        if result.ndim != 2 or result.dtype.kind not in "fiu" or not np.isfinite(result).all():
            raise InputError(
                f"head: for sequence {number} it gave {result.dtype} {list(result.shape)}; expected finite numbers "
                f"[time, C]"
            )
        return result.astype(np.float32, copy=False)

    def _check_range(self, number: int, outputs: np.ndarray, labels: np.ndarray | None) -> None:
        assert labels is not None
        where, classes = f"{self.inputs.where}sequence {number}: ", outputs.shape[1]
        if self._kind == metrics.MULTI:
            if labels.shape != outputs.shape:
                raise InputError(f"{where}{labels.shape[1]} labels a step, but the head has {classes} rows")
        elif labels.size and (labels.min() < 0 or labels.max() >= classes):
            raise InputError(f"{where}labels lie outside 0 to {classes - 1}, the rows of the head")
        if self._kind == metrics.CLASS and len(labels) != len(outputs):
            raise InputError(f"{where}{len(labels)} labels for {len(outputs)} outputs of the head")

    def value(self, totals: np.ndarray) -> float:
        """The metric of a variant's sums [sequences], or representations [sequences, K]."""
        if self._statistic:
            return self._function(totals)(intervals.undrawn(self.groups))
        return float(totals.sum() / self.weights.sum())

    def _function(self, totals: np.ndarray) -> Callable[[np.ndarray], float]:
        what = f"metric {self.name}"
        with plugins.running(self.metric, what):
            function = self.metric.statistic(totals, self.groups)

        def value(weights: np.ndarray) -> float:
            with plugins.running(self.metric, what):
                return float(function(weights))

        return value

    def interval(self, totals: np.ndarray, baseline: np.ndarray) -> tuple[float, float] | None:
        """95 % interval of the difference from a baseline: paired over sequences, or a bootstrap over groups and the
        sequences within them."""
        if not self._statistic:
            return intervals.paired_interval(totals, baseline, self.weights)
        differences = self._bootstrap(totals, baseline)
        if differences is None:
            return None
        low, high = np.quantile(differences, [0.5 - intervals.LEVEL / 2, 0.5 + intervals.LEVEL / 2])
        return float(low), float(high)

    def loss_interval(self, totals: np.ndarray, baseline: np.ndarray) -> tuple[float, float] | None:
        """`interval`, turned so that positive is worse."""
        bounds = self.interval(totals, baseline)
        return bounds if bounds is None or not self.metric.higher_is_better else (-bounds[1], -bounds[0])

    def _bootstrap(self, totals: np.ndarray, baseline: np.ndarray) -> np.ndarray | None:
        """Sorted differences over the draws. The baseline is mostly the same one again: its draws are kept."""
        if self._kept is None or self._kept[0] is not baseline:
            self._kept = baseline, intervals.bootstrap(self._function(baseline), self.groups)
        return intervals.paired_differences(intervals.bootstrap(self._function(totals), self.groups), self._kept[1])

    def loss(self, totals: np.ndarray, baseline: np.ndarray) -> Loss:
        """The difference from a baseline, turned so that positive is worse."""
        sign = -1 if self.metric.higher_is_better else 1
        value = sign * (self.value(totals) - self.value(baseline))
        if self._statistic:
            differences = self._bootstrap(totals, baseline)
            return Loss(value, None if differences is None else float(np.quantile(sign * differences, intervals.LEVEL)))
        if len(totals) < 2:
            return Loss(value, None)
        error = intervals.standard_error(totals, baseline, self.weights)
        return Loss(value, value + intervals.student_quantile(intervals.LEVEL, len(totals) - 1) * error)


class Sheet:
    """The scores of one variant: pieces come in any order of sequences, those of one sequence in order.

    Parameters
    ----------
    scorer : Scorer
    """

    def __init__(self, scorer: Scorer):
        self._scorer = scorer
        self._sums = np.zeros((len(scorer.inputs), 2))
        self._representations: dict[int, np.ndarray] = {}
        self._parts: dict[int, list[np.ndarray]] = {}

    def add(self, number: int, start: int, outputs: np.ndarray) -> None:
        """Take in a piece of a sequence: float32 [time, outputs] from step `start` on."""
        scorer = self._scorer
        if not scorer._by_piece:
            parts = self._parts.setdefault(number, [])
            parts.append(outputs)
            if start + len(outputs) < scorer.inputs.lengths[number]:
                return
            start, outputs = 0, np.concatenate(self._parts.pop(number))
        result = scorer.judged(number, start, outputs)
        if scorer._statistic:
            self._representations[number] = self._vector(number, result)
        else:
            self._sums[number] += self._pair(number, result)

    def _pair(self, number: int, result: Any) -> np.ndarray:
        try:
            pair = np.asarray(result, np.float64)
        except (TypeError, ValueError):
            pair = np.zeros(0)
        if pair.shape != (2,) or not np.isfinite(pair).all() or pair[1] < 0:
            raise InputError(
                f"metric {self._scorer.name}: the score of sequence {number} is {result!r}; expected (sum, weight), "
                f"both finite, the weight not negative"
            )
        return pair

    def _vector(self, number: int, result: Any) -> np.ndarray:
        try:
            vector = np.asarray(result, np.float64)
        except (TypeError, ValueError):
            vector = np.zeros(0)
        sizes = {len(other) for other in list(self._representations.values())[:1]}
        if vector.ndim != 1 or not vector.size or not np.isfinite(vector).all() or sizes - {len(vector)}:
            raise InputError(
                f"metric {self._scorer.name}: the representation of sequence {number} must be finite numbers [K], K "
                f"the same for all sequences"
            )
        return vector

    def result(self, number: int) -> np.ndarray:
        """What a complete sequence scored: (sum, weight), or its representation; float64 [K]."""
        if self._scorer._statistic:
            return self._representations[number]
        return self._sums[number]

    def restore(self, number: int, result: np.ndarray) -> None:
        """Take in what `result` gave for a sequence, in place of its pieces."""
        if self._scorer._statistic:
            self._representations[number] = self._vector(number, result)
        else:
            self._sums[number] = self._pair(number, result)

    def totals(self) -> np.ndarray:
        """Sums [sequences], or representations [sequences, K], once every sequence is complete."""
        scorer = self._scorer
        if scorer._statistic:
            scorer.settle(np.ones(len(scorer.inputs)))
            return np.stack([self._representations[number] for number in range(len(scorer.inputs))])
        scorer.settle(self._sums[:, 1].copy())
        return self._sums[:, 0].copy()


def float_outputs(network: Network, inputs: Inputs) -> list[np.ndarray]:
    """Outputs of the float network, float32 [time, outputs] a sequence."""
    layers = float_layers(network.model)
    outputs: list[np.ndarray] = []
    for first in range(0, len(inputs), GROUP):
        group = range(first, min(first + GROUP, len(inputs)))
        outputs += floating.run(layers, [inputs.whole(i) for i in group])[0]
    return outputs
