"""What a controller does to the quality of a network: its metric, and the paired difference from static high
precision."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import accel.controllers as controllers
from fxp.emulator import Emulation, check_lengths, open_trace, sequence_numbers, stream
from fxp.inputs import Inputs
from fxp.journal import Journal
from fxp.network import Network
from fxp.run import Run
from fxp.scoring import Scorer, float_outputs
from traces import InputError
from traces.data import Data, Sequences


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
        95 % interval of the difference over sequences (or groups); None for fewer than two.
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

    @property
    def family(self) -> str:
        """Rows of one family differ in their low share alone: the controller in words, without its parameters."""
        return self.controller if self.controller in ("peak", "delta") else self.label

    @property
    def label(self) -> str:
        """The controller in words."""
        if self.controller == "static":
            return f"static {self.parameters['bits']} bits"
        if self.controller == "delta":
            return f"delta {self.parameters['threshold']:g}"
        if self.controller == "peak" and self.parameters["beta"] != controllers.Peak().beta:
            return f"peak, beta {self.parameters['beta']:.3g}"
        if self.controller == "oracle":
            return "oracle (first order)"
        if self.controller == "calibrated" and not (
            self.parameters["readout"] or self.parameters.get("element_readout")
        ):
            return "static mask"
        return self.controller


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
    outputs = float_outputs(network, source)
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
    """One emulated variant: sums of the score [sequences] (representations [sequences, K] for a statistic), and the
    run (with its plan if it was asked for)."""

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
    journal: Journal | None = None,
) -> Scored:
    """Emulate all sequences and score them piece by piece.

    Parameters
    ----------
    keep : whether what `record` names is kept in memory (it goes to the trace in any case); if not, memory does not
        grow with the length of the data
    score : whether to compute the metric; sums are zero otherwise
    journal : where finished sequences are kept, and taken from if they are there
    """
    network, inputs = scorer.network, scorer.inputs
    ids = sequence_numbers(None, inputs)
    run = Run(network, inputs.lengths, ids, record if keep else (), controllers.describe(controller))
    sinks: list[Any] = [run]
    emulation = Emulation(network, controller, engine, sinks, record)
    states = [emulation.start(i, int(n)) for i, n in zip(ids, inputs.lengths, strict=True)]
    check_lengths(controller, inputs, states)
    sheet = scorer.sheet()
    part = None
    if journal is not None:
        rows = record if trace is not None or (keep and record) else None
        about = {"controller": controllers.identity(controller), "scored": score}
        part = journal.part(about, network, run.offsets, rows)

    def consume(number: int, start: int, hidden: np.ndarray) -> None:
        if score:
            sheet.add(number, start, network.dequantised(hidden))
        if part is not None and start + len(hidden) == inputs.lengths[number]:
            part.finish(number, sheet.result(number) if score else np.zeros(0))

    with ExitStack() as stack:
        if trace is not None:
            writer = open_trace(trace, network, inputs.lengths, ids, record, controller, data_digest)
            sinks.append(stack.enter_context(writer))
        if part is not None:
            part.replay(sinks)
            for number, result in part.done.items() if score else ():
                sheet.restore(number, result)
            sinks.append(part)
        done = set() if part is None else set(part.done)
        stream(network, inputs, emulation, states, consume, threads, progress, done)
    return Scored(sheet.totals() if score else np.zeros(len(inputs)), run)


def float_row(scorer: Scorer, baseline: np.ndarray) -> Row:
    """The row of the unquantised network."""
    return _row(scorer, "float", {}, float_totals(scorer), baseline, None, None)


def float_totals(scorer: Scorer) -> np.ndarray:
    """What the sequences score in the unquantised network."""
    sheet = scorer.sheet()
    for number, outputs in enumerate(scorer.float_outputs()):
        sheet.add(number, 0, outputs)
    return sheet.totals()


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
    interval = scorer.interval(totals, baseline)
    return Row(name, parameters, value, difference, interval, low_share, overflows)


def evaluate(
    network: Network,
    data: Any,
    controllers: Sequence[Any] | None = None,
    *,
    metric: Any = None,
    head: Any = None,
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
    metric : str or an object, optional
        A built-in metric by name, or a user's own (docs/metrics.md); default: the one that data or network name.
    head : callable, optional
        In place of the network's head: h float32 [time, outputs] of a whole sequence -> array [time, C].
    engine, threads, progress : as in `emulate`

    Returns
    -------
    Table
        One row a controller in the order given; differences are paired with static high precision on the same
        sequences.
    """
    scorer = Scorer(network, as_data(data), metric=metric, head=head)
    if controllers is None:
        controllers = default_controllers(network)
    elif isinstance(controllers, str) or not isinstance(controllers, Sequence):
        raise InputError(f"controllers is {controllers!r}, expected a list of controllers")
    return compare(scorer, controllers, engine=engine, threads=threads, progress=progress)


class Finished:
    """Runs of one scorer, each made once; built-in controllers of equal parameters are the same run.

    Parameters
    ----------
    scorer : Scorer
    progress : callable, optional
        Called with the number of finished steps.
    options : engine and threads, as in `emulate_scored`
    """

    def __init__(self, scorer: Scorer, progress: Callable[[int], None] | None = None, **options: Any):
        self.scorer = scorer
        self._progress, self._options = progress, options
        self._runs: list[tuple[Any, Scored]] = []

    def scored(self, controller: Any) -> Scored:
        """The run of a controller: made now unless it was made before."""
        for known, scored in self._runs:
            if known is controller or known == controller:
                return scored
        scored = emulate_scored(self.scorer, controller, progress=self._progress, **self._options)
        self._runs.append((controller, scored))
        return scored

    @property
    def baseline(self) -> Scored:
        """The run at static high precision."""
        return self.scored(controllers.Static(self.scorer.network.formats.high))


def compare(
    scorer: Scorer,
    chosen: Sequence[Any],
    finished: Finished | None = None,
    *,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> Table:
    """The table of `evaluate` for a scorer; runs that are finished are not made again."""
    finished = Finished(scorer, progress, **options) if finished is None else finished
    results = run_all(finished, chosen)
    baseline = finished.baseline.totals
    rows = [
        float_row(scorer, baseline) if scored is None else controller_row(scorer, controller, scored, baseline)
        for controller, scored in results
    ]
    return table(scorer, rows)


def table(scorer: Scorer, rows: list[Row]) -> Table:
    """Rows of one scorer as a table."""
    metric = scorer.metric
    steps = int(scorer.inputs.lengths.sum())
    return Table(scorer.name, metric.unit, metric.higher_is_better, len(scorer.inputs), steps, rows)


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


def run_all(finished: Finished, chosen: Sequence[Any]) -> list[tuple[Any, Scored | None]]:
    """Emulate every controller once.

    Returns
    -------
    (controller, Scored or None for "float") in the order of `chosen`
    """
    for controller in chosen:
        if not isinstance(controller, str):
            controllers.check(controller)
        elif controller not in ("float", MATCHED):
            raise InputError(f"controller {controller!r} is unknown: give objects of accel, 'float' or {MATCHED!r}")
    done = {n: finished.scored(controller) for n, controller in enumerate(chosen) if not isinstance(controller, str)}
    results: list[tuple[Any, Scored | None]] = []
    for number, controller in enumerate(chosen):
        if controller == MATCHED:
            if not done:
                raise InputError(f"{MATCHED!r} takes the low share of another controller, and there is none")
            controller = controllers.Random(low_share=done[max(done)].run.low_share)
            done[number] = finished.scored(controller)
        results.append((controller, done.get(number)))
    return results
