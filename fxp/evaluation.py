"""What a controller does to the quality of a network: its metric, and the paired difference from static high
precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

import accel.controllers as controllers
from fxp import floating
from fxp.emulator import Emulation, check_lengths, open_trace, sequence_numbers, stream
from fxp.inputs import Inputs
from fxp.network import Network
from fxp.quantise import float_layers
from fxp.run import Run
from traces import InputError
from traces.data import Data, Sequences

LEVEL = 0.95  # of the intervals
GROUP = 32  # sequences that the float network holds in memory at once


@dataclass(frozen=True)
class Metric:
    """A figure of merit.

    Attributes
    ----------
    unit : str
    higher_is_better : bool
    score : function of (logits float32 [n, classes], labels int [n]) -> float64 [n], one value a labelled step or
    sequence
    """

    unit: str
    higher_is_better: bool
    score: Callable[[np.ndarray, np.ndarray], np.ndarray]


def _negative_log_likelihood(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    return np.log(np.exp(exact).sum(axis=1)) - exact[np.arange(len(labels)), labels]


METRICS = {
    "bits_per_character": Metric("bits", False, lambda z, y: _negative_log_likelihood(z, y) / math.log(2)),
    "cross_entropy": Metric("nats", False, _negative_log_likelihood),
    "accuracy": Metric("share", True, lambda z, y: (z.argmax(axis=1) == y).astype(np.float64)),
}
OUTPUT_ERROR = "output_mse"  # without labels and head: mean squared difference of h from the float network


@dataclass(frozen=True)
class Row:
    """One variant of a network on one data set.

    Attributes
    ----------
    controller : str
        Name, or "float" for the unquantised network.
    parameters : dict
    metric : float
    difference : float
        Metric minus that of static high precision, sequences paired.
    interval : (float, float) or None
        95 % interval of the difference over sequences; None for fewer than two sequences.
    low_share : float or None
    overflows : int or None
    """

    controller: str
    parameters: dict[str, Any]
    metric: float
    difference: float
    interval: tuple[float, float] | None
    low_share: float | None
    overflows: int | None


@dataclass(frozen=True)
class Table:
    """Rows of an evaluation, one a controller, with the metric's name and unit."""

    metric: str
    unit: str
    higher_is_better: bool
    sequences: int
    steps: int
    rows: list[Row]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    def __iter__(self) -> Any:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]


EXACT_DEGREES = 100  # beyond them the expansion is exact to ten digits


def student_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's distribution.

    Parameters
    ----------
    probability : float, in (0, 1)
    degrees : int, at least 1
        Up to 100, the finite sum of its distribution (Abramowitz and Stegun, 26.7.3 and 26.7.4) is inverted by
        bisection; beyond, the expansion of Cornish and Fisher (26.7.5) is used.
    """
    if degrees <= EXACT_DEGREES:
        inside, low, high = abs(2 * probability - 1), 0.0, math.pi / 2
        while low < (middle := (low + high) / 2) < high:
            low, high = (middle, high) if _student_inside(middle, degrees) < inside else (low, middle)
        return math.copysign(math.sqrt(degrees) * math.tan(high), probability - 0.5)
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees**power for power, term in enumerate(terms, 1))


def _student_inside(theta: float, degrees: int) -> float:
    """Probability of |t| < sqrt(degrees) * tan(theta)."""
    odd = degrees % 2
    sine, cosine = math.sin(theta), math.cos(theta)
    term = total = cosine if odd else 1.0
    for k in range(2 + odd, degrees, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    if not odd:
        return sine * total
    return 2 / math.pi * (theta + (sine * total if degrees > 1 else 0.0))


def paired_interval(totals: np.ndarray, baseline: np.ndarray, weights: np.ndarray) -> tuple[float, float] | None:
    """95 % interval of a difference of ratios (sum of totals over sum of weights), sequences being the independent
    units.

    Parameters
    ----------
    totals, baseline : float64 [sequences], sums of the score
    weights : float64 [sequences], what was scored in each (steps)
    """
    count = len(totals)
    if count < 2:
        return None
    difference = (totals - baseline).sum() / weights.sum()
    residuals = (totals - baseline) - difference * weights
    error = math.sqrt(count / (count - 1) * float((residuals**2).sum())) / float(weights.sum())
    reach = student_quantile(0.5 + LEVEL / 2, count - 1) * error
    return float(difference - reach), float(difference + reach)


class Scorer:
    """Scores the outputs of a network against labels, or against the float network where there are none.

    Parameters
    ----------
    network : Network
    data : traces.Data or an open data file
    where : str
        What error messages begin with: the file that the data comes from.
    """

    def __init__(self, network: Network, data: Sequences, where: str = ""):
        self.network = network
        self.data = data
        self.inputs = Inputs(network, data, where)
        head = network.model.head
        self.labelled = head is not None and data.scope is not None
        name = data.metric or network.model.metric
        if not self.labelled:
            self.name = OUTPUT_ERROR
            self.metric = Metric("", False, lambda z, y: z)
        else:
            assert head is not None
            self.name = name or "cross_entropy"
            if self.name not in METRICS:
                raise InputError(
                    f"{self.inputs.where}metric {self.name!r} is unknown; known are {', '.join(METRICS)}"
                )
            self.metric = METRICS[self.name]
            # Sequences of one step each have as many labels either way.
            if data.scope != head.scope and data.total != len(data):
                raise InputError(
                    f"{self.inputs.where}labels are of scope {data.scope}, but the network's head is of scope "
                    f"{head.scope} (step: every step, last: the last step of a sequence)"
                )
        lengths = self.inputs.lengths.astype(np.float64)
        self.weights = np.ones(len(lengths)) if self.labelled and data.scope == "last" else lengths
        self._float: list[np.ndarray] | None = None

    def float_outputs(self) -> list[np.ndarray]:
        """Outputs of the float network, float32 [time, outputs] a sequence."""
        if self._float is None:
            self._float = _float_outputs(self.network, self.inputs)
        return self._float

    def score(self, number: int, start: int, outputs: np.ndarray) -> float:
        """Sum of the score over a piece of one sequence.

        Parameters
        ----------
        number : sequence
        start : first step of the piece
        outputs : float32 [time, outputs], dequantised
        """
        if not self.labelled:
            difference = outputs - self.float_outputs()[number][start : start + len(outputs)]
            return float((difference.astype(np.float64) ** 2).mean(axis=1).sum())
        head = self.network.model.head
        assert head is not None
        labels = self.data.sequence_labels(number)
        if head.scope == "last":
            if start + len(outputs) < self.inputs.lengths[number]:
                return 0.0
            outputs = outputs[-1:]
        else:
            labels = labels[start : start + len(outputs)]
        if labels.min() < 0 or labels.max() >= len(head.bias):
            raise InputError(
                f"{self.inputs.where}sequence {number}: labels lie outside 0 to {len(head.bias) - 1}, the rows of the "
                f"head"
            )
        return float(self.metric.score(outputs @ head.weight.T + head.bias, labels).sum())

    def value(self, totals: np.ndarray) -> float:
        """The metric of a set of sums."""
        return float(totals.sum() / self.weights.sum())


def _float_outputs(network: Network, inputs: Inputs) -> list[np.ndarray]:
    layers = float_layers(network.model)
    outputs: list[np.ndarray] = []
    for first in range(0, len(inputs), GROUP):
        group = range(first, min(first + GROUP, len(inputs)))
        outputs += floating.run(layers, [inputs.whole(i) for i in group])[0]
    return outputs


def emulate_float(network: Network, inputs: Any) -> Any:
    """Outputs of the float network that a network was quantised from, for comparison only.

    Parameters
    ----------
    network : Network
    inputs : as `fxp.emulate` takes them

    Returns
    -------
    float32 [batch, time, outputs] or a list of [time, outputs], in the form of the inputs: what `torch.nn.LSTM` gives,
    but for rounding.
    """
    source = Inputs(network, inputs)
    outputs = _float_outputs(network, source)
    return np.stack(outputs) if source.dense else outputs


def as_data(data: Any) -> Sequences:
    """Data of any form that `emulate` takes, as ragged sequences without labels."""
    if isinstance(data, Sequences):
        return data
    if hasattr(data, "detach"):
        data = data.detach().cpu().numpy()
    if not isinstance(data, Iterable) or isinstance(data, (str, bytes, Mapping)):
        raise InputError(f"data is {type(data).__name__}, expected traces.Data or inputs as `emulate` takes them")
    return Data.of(data)


@dataclass
class Scored:
    """One emulated variant: sums of the score [sequences], and the run (with its plan if it was asked for)."""

    totals: np.ndarray
    run: Run


def emulate_scored(
    scorer: Scorer,
    controller: Any,
    *,
    engine: str = "fast",
    threads: int = 1,
    record: Sequence[str] = (),
    trace: Any = None,
    data_digest: str = "",
    progress: Callable[[int], None] | None = None,
    keep: bool = True,
    score: bool = True,
) -> Scored:
    """Emulate all sequences and score them piece by piece.

    Parameters
    ----------
    keep : whether what `record` names is kept in memory (it goes to the trace in any case); if not, memory does not
        grow with the length of the data
    score : whether to compute the metric; sums are zero otherwise
    """
    network, inputs = scorer.network, scorer.inputs
    ids = sequence_numbers(None, inputs)
    run = Run(network, inputs.lengths, ids, record if keep else (), controllers.describe(controller))
    sinks: list[Any] = [run]
    emulation = Emulation(network, controller, engine, sinks, record)
    states = [emulation.start(i, int(n)) for i, n in zip(ids, inputs.lengths, strict=True)]
    check_lengths(controller, inputs, states)
    totals = np.zeros(len(inputs))

    def consume(number: int, start: int, hidden: np.ndarray) -> None:
        if score:
            totals[number] += scorer.score(number, start, network.dequantised(hidden))

    if trace is None:
        stream(network, inputs, emulation, states, consume, threads, progress)
    else:
        with open_trace(trace, network, inputs.lengths, ids, record, controller, data_digest) as writer:
            sinks.append(writer)
            stream(network, inputs, emulation, states, consume, threads, progress)
    return Scored(totals, run)


def float_row(scorer: Scorer, baseline: np.ndarray) -> Row:
    """The row of the unquantised network."""
    totals = np.array([scorer.score(i, 0, outputs) for i, outputs in enumerate(scorer.float_outputs())])
    return _row(scorer, "float", {}, totals, baseline, None, None)


def controller_row(scorer: Scorer, controller: Any, scored: Scored, baseline: np.ndarray) -> Row:
    """The row of an emulated variant."""
    description = controllers.describe(controller)
    name = description.pop("name")
    return _row(scorer, name, description, scored.totals, baseline, scored.run.low_share, scored.run.overflows)


def _row(
    scorer: Scorer,
    name: str,
    parameters: dict[str, Any],
    totals: np.ndarray,
    baseline: np.ndarray,
    low_share: float | None,
    overflows: int | None,
) -> Row:
    value = scorer.value(totals)
    difference = value - scorer.value(baseline)
    interval = paired_interval(totals, baseline, scorer.weights)
    return Row(name, parameters, value, difference, interval, low_share, overflows)


def evaluate(
    network: Network,
    data: Any,
    controllers: Sequence[Any] | None = None,
    *,
    engine: str = "fast",
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Table:
    """Compare controllers on one network and data set.

    Parameters
    ----------
    network : Network
    data : traces.Data (labelled for a network with a head), or inputs as `emulate` takes them
        Without labels or head, the metric is the mean squared difference of h from the float network.
    controllers : sequence, optional
        Controllers of `accel`, users' own, or "float"; default: float, static high, static low, random at the low
        share of peak, and peak.
    engine, threads, progress : as in `emulate`

    Returns
    -------
    Table
        One row a controller in the order given; differences are paired with static high precision on the same
        sequences.
    """
    scorer = Scorer(network, as_data(data))
    if controllers is None:
        controllers = default_controllers(network)
    elif isinstance(controllers, str) or not isinstance(controllers, Sequence):
        raise InputError(f"controllers is {controllers!r}, expected a list of controllers")
    return compare(scorer, controllers, engine=engine, threads=threads, progress=progress)


def compare(scorer: Scorer, chosen: Sequence[Any], **options: Any) -> Table:
    """The table of `evaluate` for a scorer; options as in `emulate_scored`."""
    baseline, results = run_all(scorer, chosen, options)
    rows = [
        float_row(scorer, baseline.totals)
        if scored is None
        else controller_row(scorer, controller, scored, baseline.totals)
        for controller, scored in results
    ]
    return Table(
        scorer.name,
        scorer.metric.unit,
        scorer.metric.higher_is_better,
        len(scorer.inputs),
        int(scorer.inputs.lengths.sum()),
        rows,
    )


MATCHED = "random"  # stands for Random at the low share that the last controller of the list reaches


def default_controllers(network: Network) -> list[Any]:
    """Float, static high, static low, random at the low share of peak, peak."""
    formats = network.formats
    return [
        "float",
        controllers.Static(formats.high),
        controllers.Static(formats.low),
        MATCHED,
        controllers.Peak(),
    ]


def run_all(
    scorer: Scorer, chosen: Sequence[Any], options: dict[str, Any]
) -> tuple[Scored, list[tuple[Any, Scored | None]]]:
    """Emulate every controller once; static high precision is always run, for the differences.

    Returns
    -------
    baseline : Scored of static high precision
    results : (controller, Scored or None for "float") in the order of `chosen`
    """
    for controller in chosen:
        if not isinstance(controller, str):
            controllers.check(controller)
        elif controller not in ("float", MATCHED):
            raise InputError(f"controller {controller!r} is unknown: give objects of accel, 'float' or {MATCHED!r}")
    high = controllers.Static(scorer.network.formats.high)
    baseline = emulate_scored(scorer, high, **options)
    done: dict[int, Scored] = {}
    for number, controller in enumerate(chosen):
        if not isinstance(controller, str):
            done[number] = baseline if controller == high else emulate_scored(scorer, controller, **options)
    results: list[tuple[Any, Scored | None]] = []
    for number, controller in enumerate(chosen):
        if controller == MATCHED:
            if not done:
                raise InputError(f"{MATCHED!r} takes the low share of another controller, and there is none")
            controller = controllers.Random(low_share=done[max(done)].run.low_share)
            done[number] = emulate_scored(scorer, controller, **options)
        results.append((controller, done.get(number)))
    return baseline, results
