"""The largest low share whose loss a tolerance allows, chosen on calibration data alone.

Calibration data is cut into folds. Each is judged by a network and controllers that were calibrated on the others, so
that no sequence is judged by a fit that has seen it, and every sequence judges. `docs/networks.md` says what is asked
of a share.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from accel.calibrated import Calibrated
from accel.controllers import Static
from fxp.calibration import Levels, calibrate, element_controller, everywhere
from fxp.emulator import emulate
from fxp.evaluation import emulate_scored
from fxp.intervals import LEVEL, standard_error, student_quantile
from fxp.network import Network
from fxp.observation import Observation, as_data, chosen, subset
from fxp.scoring import Scorer
from traces import InputError

FOLDS = 5
STEPS, HALVINGS = 20, 2  # of the low share in the search
CHANCE = LEVEL  # that other data finds the loss held, at least
FORMS = ("calibrated", "element readouts")  # the one that costs the accelerator less first

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Probe:
    """What calibration data says of one controller.

    Attributes
    ----------
    controller : str, one of `FORMS`
    share : float
        Asked for: the threshold gives it to the activations of the run at high precision.
    low_share : float, reached
    loss, loss_upper : float
        From static high precision (positive is worse), and the upper end of its one-sided 95 % interval.
    reach : float
        How far the interval on data to confirm it is expected to reach, from the loss to its upper end.
    chance : float
        That this data finds the loss held: neither the reach nor the upper end beyond the tolerance.
    held : bool
        Neither the upper end here nor the expected reach is beyond the tolerance, and the chance is at least `CHANCE`.
    """

    controller: str
    share: float
    low_share: float
    loss: float
    loss_upper: float
    reach: float
    chance: float
    held: bool


class Fitted:
    """A network calibrated on some data, and its controllers of both forms, whose thresholds a share sets.

    Parameters
    ----------
    network : Network
    data : traces.Data
    seed, threads : as for `fxp.calibrate`
    """

    def __init__(self, network: Network, data: Any, seed: int = 0, threads: int = 1):
        self.data = chosen(data)
        # The fit of the low precision does not depend on the share, nor on the form. High precision keeps its bits,
        # since all is compared with it.
        self.network, neuron = calibrate(network, self.data, low_share=0.0, seed=seed, scales="keep", threads=threads)
        self.observation = Observation(self.network, self.data, threads)
        self._seed = seed
        self._forms = {FORMS[0]: neuron}
        self._levels: dict[str, Levels] = {}

    def at(self, form: str, share: float) -> Calibrated:
        """The controller of a form that gives the activations of the run at high precision a low share."""
        if form not in self._forms:
            self._forms[form] = element_controller(self.network, self.observation, self._seed)
        controller = self._forms[form]
        if share in (0.0, 1.0):  # whatever the activations are
            return everywhere(controller, self.network, low=share == 1.0)
        if form not in self._levels:
            self._levels[form] = Levels(controller, self.observation)
        return controller.with_threshold(self._levels[form].threshold(share))


class Jury:
    """Losses of controllers on calibration data, each sequence judged by a fit on the folds that it is not in.

    Parameters
    ----------
    network : Network
    data : traces.Data
        To calibrate on.
    metric : str
    tolerance : float
        Loss that counts as none, in the metric's unit.
    confirming : int, optional
        Sequences of the data that is to confirm the choice; as many as there are here by default. Its content is not
        needed.
    seed, threads : as for `fxp.calibrate`
    progress : called with finished steps; `steps` says how many there are
    """

    def __init__(
        self, network: Network, data: Any, metric: str, tolerance: float, confirming: int | None = None,
        seed: int = 0, threads: int = 1, progress: Progress | None = None,
    ):  # fmt: skip
        data = as_data(network, data)
        if len(data) < 2 * FOLDS:
            raise InputError(f"the calibration data has {len(data)} sequences; {2 * FOLDS} are needed to judge")
        self._tolerance, self._threads, self._progress, self._total = tolerance, threads, progress, data.total
        self._scorer = Scorer(network, data, metric=metric)
        self._confirming = len(data) if confirming is None else confirming
        high = emulate_scored(self._scorer, Static(network.formats.high), threads=threads, progress=progress)
        self._high = high.totals
        self._folds = []
        for first in range(FOLDS):
            held_out = list(range(first, len(data), FOLDS))
            fitted = Fitted(network, subset(data, sorted(set(range(len(data))) - set(held_out))), seed, threads)
            self._folds.append((np.array(held_out), fitted, subset(data, held_out)))
        # Whether a decision near the edge is right is chance; how likely it was to be is not.
        self._logits: list[np.ndarray] = []
        if self._scorer.name == "accuracy":
            self._logits = self._scored(FORMS[0], 0.0)[1]

    def _scored(self, form: str, share: float) -> tuple[np.ndarray, list[np.ndarray], float]:
        """What every sequence scores under the controllers of a form; for an accuracy, what the head makes of each,
        float32 [decisions, classes]; the low share."""
        scorer = self._scorer
        totals = np.zeros_like(self._high)
        logits = [np.zeros((0, 0), np.float32)] * (len(self._high) if scorer.name == "accuracy" else 0)
        low = 0.0
        for numbers, fitted, part in self._folds:
            run = emulate(fitted.network, list(part), fitted.at(form, share), threads=self._threads)
            low += run.low_share * part.total
            for number, outputs in zip(numbers, run.outputs, strict=True):
                judged = scorer.judged(int(number), 0, outputs)
                totals[number] = judged if totals.ndim > 1 else judged[0]
                if logits:
                    logits[number] = scorer.read(int(number), outputs)
            if self._progress is not None:
                self._progress(part.total)
        return totals, logits, low / self._total

    def probe(self, form: str, share: float) -> Probe:
        """What the data says of the controllers of a form at a share."""
        totals, logits, low_share = self._scored(form, share)
        scorer, count = self._scorer, len(self._high)
        found = scorer.loss(totals, self._high)
        if found.upper is None:
            raise InputError(f"metric {scorer.name} gives no interval on the calibration data")
        loss, upper = found.value, found.upper
        quantile = NormalDist().inv_cdf(LEVEL) if totals.ndim > 1 else student_quantile(LEVEL, count - 1)
        # Of a bootstrap over groups, how far it reaches depends on their number, which stays.
        error = (upper - loss) / quantile * (1.0 if totals.ndim > 1 else math.sqrt(count / self._confirming))
        if logits:
            expected, before = (_foreseen(scorer, some) for some in (logits, self._logits))
            loss = float((before - expected).sum() / scorer.weights.sum())
            upper = loss + quantile * standard_error(expected, before, scorer.weights)
            decisions = float(scorer.weights.sum()) / count * self._confirming
            error = math.sqrt(flips(self._logits, logits) / decisions)
        reach = quantile * error
        spread = math.hypot((upper - loss) / quantile, error)
        room = self._tolerance - loss - reach
        chance = NormalDist().cdf(room / spread) if spread > 0 else float(room >= 0)
        if reach > self._tolerance:
            chance = 0.0
        held = upper <= self._tolerance and chance >= CHANCE
        return Probe(form, share, low_share, loss, upper, reach, chance, held)

    def largest(self) -> tuple[Probe | None, list[Probe]]:
        """The held probe of the largest share, or None where there is none; and all probes.

        Shares are tried from 100 % down in `STEPS` steps, until one is held; then the step above it is halved. Where
        both forms come to one share, the one that costs the accelerator less counts.
        """
        best: Probe | None = None
        probes = []
        for form in FORMS:
            for step in range(STEPS, 0, -1):
                if best is not None and step / STEPS <= best.share:
                    break
                found = self.probe(form, step / STEPS)
                probes.append(found)
                if not found.held:
                    continue
                best, below, above = found, step / STEPS, (step + 1) / STEPS
                for _ in range(HALVINGS if step < STEPS else 0):
                    found = self.probe(form, (below + above) / 2)
                    probes.append(found)
                    best = found if found.held else best
                    below, above = (found.share, above) if found.held else (below, found.share)
                break
        return best, probes

    @property
    def method(self) -> dict[str, Any]:
        """How it judges, for JSON."""
        return {
            "sequences": len(self._high),
            "folds": FOLDS,
            "judged_by": "expected accuracy" if self._logits else self._scorer.name,
            "confirming": self._confirming,
            "chance": CHANCE,
        }


def _foreseen(scorer: Scorer, logits: list[np.ndarray]) -> np.ndarray:
    """How many of each sequence's decisions are right if the float network's probabilities are: float64 [sequences]."""
    right = np.zeros(len(logits))
    for number, some in enumerate(logits):
        exact = scorer.read(number, scorer.float_outputs()[number]).astype(np.float64)
        exact = np.exp(exact - exact.max(axis=1, keepdims=True))
        right[number] = (exact[np.arange(len(exact)), some.argmax(axis=1)] / exact.sum(axis=1)).sum()
    return right


def flips(before: list[np.ndarray], after: list[np.ndarray]) -> float:
    """Part of the decisions that are expected to turn out otherwise.

    So few do that counting them tells little. Each decision has a margin, of the class chosen over the next one, and a
    change of it; the part is of all pairs of one decision's margin and another's change, which are nearly independent.

    Parameters
    ----------
    before, after : float32 [decisions, classes] a sequence
    """
    old, new = (np.concatenate(some).astype(np.float64) for some in (before, after))
    if old.shape[1] < 2:
        return 0.0
    rows = np.arange(len(old))
    second, first = np.argsort(old, axis=1, kind="stable")[:, -2:].T
    margin = old[rows, first] - old[rows, second]
    change = new[rows, first] - new[rows, second] - margin
    return float(np.searchsorted(np.sort(margin), -change).mean() / len(old))


def steps(total: int) -> int:
    """Steps that a `Jury` over so many, and what comes before it, report at most."""
    return total * (3 + len(FORMS) * (STEPS + HALVINGS))

