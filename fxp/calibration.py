"""Calibration: low precision fitted to real activations, and a controller that spends it where the loss feels it least.

`docs/calibration.md` describes the method and what it was measured to do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from accel.calibrated import Calibrated
from accel.controllers import Controller, Static, describe
from fxp import foresight, offsets, precision, readout, sensitivity
from fxp.emulator import emulate
from fxp.evaluation import emulate_scored
from fxp.intervals import LEVEL, standard_error, student_quantile
from fxp.network import Network
from fxp.observation import Activations, Observation, as_data, chosen, in_order, subset
from fxp.scoring import Scorer
from traces import Data, InputError

UNIT = 4096  # score units an octave of squared change of the loss
FLOOR = 40  # octaves below the most sensitive element at which scores end
HELD_OUT = 5  # every fifth sequence judges the loss under `max_loss`
HALVINGS = 8  # of the low share in the search for `max_loss`
PAGE = 16  # bits of a level within a page of the histogram
STAGES = 4  # observation, fit, sensitivity, threshold: equal parts of the progress

Progress = Callable[[float], None]


def calibrate(
    network: Network,
    data: Any,
    low_share: float | None = None,
    max_loss: float | None = None,
    seed: int = 0,
    *,
    scales: str = precision.AUTO,
    columns: int | None = 0,
    threads: int = 1,
    progress: Progress | None = None,
) -> tuple[Network, Calibrated]:
    """Fit the low precision of a network to data, and make its controller.

    The offset bits and low biases are chosen so that low precision matches the float product on the data; the high
    path keeps its bits unless scales are fitted. Scores of the controller come from gradients of the float network.
    Labels are used if data and head have them; without, the squared error of the head's outputs stands in for the loss,
    or of the last layer's h where there is no head.

    Parameters
    ----------
    network : Network
    data : traces.Data (in memory or open), or inputs as `emulate` takes them
        Real inputs, not those that the result is judged on. At most 65,536 steps of it are used.
    low_share : float
        Share of element-steps that should run low, 0 to 1; 0.6 if neither it nor `max_loss` is given.
    max_loss : float
        Instead: the largest low share whose loss stays within this, relative to static high precision (0.001 is 0.1 %).
        Every fifth sequence is held out and judges; the upper end of the one-sided 95 % interval counts, sequences
        paired. Without labels the loss is the squared difference of h from static high precision over the square of h.
    seed : int
        Of the random projection that takes the place of labels.
    scales : {"auto", "keep", "fit"}
        Whether scales of the inputs and ranges of h are chosen anew (`fit_scales`), which changes the bits of the high
        path: where `check_precision` finds it lossy, never, or always.
    columns : int, optional
        0: one readout neuron a layer and direction, which moves the threshold of the whole step. Otherwise every
        element has a readout of its own, of so many columns of the step's activations (each costs a multiplication
        an element); None: an eighth of N + R, made up to whole groups of 128, which take the accelerator no more time,
        but not beyond a quarter.
    threads : int
        Does not change a bit.
    progress : callable, optional
        Called with the part of the work (0 to 1) done since the last call.

    Returns
    -------
    Network, accel.Calibrated
        The controller is also stored in `network.model.calibration["controller"]`.

    Raises
    ------
    InputError
        Data that does not fit the network, a network of one precision, options out of range, too few sequences.
    """
    _check(network, low_share, max_loss, seed, threads, columns)
    if scales not in precision.SCALES:
        raise InputError(f"scales is {scales!r}, expected one of {', '.join(precision.SCALES)}")
    data = as_data(network, data)
    held_out = None
    if max_loss is not None:
        judged = range(HELD_OUT - 1, len(data), HELD_OUT)
        if len(judged) < 2:
            raise InputError(
                f"max_loss needs at least {2 * HELD_OUT} sequences, since every fifth one is held out; the calibration "
                f"data has {len(data)}: cut long sequences into pieces, or give low_share"
            )
        held_out = subset(data, judged)
        data = subset(data, [n for n in range(len(data)) if n not in judged])
    whole = data.total
    data = chosen(data)

    network, treatment = precision.treated(network, data, scales, threads)
    observation = Observation(network, data, threads, _part(progress, data.total))
    sides = sum(layer.directions for layer in network.layers)
    gradients = sensitivity.Kept()
    layers, fits = offsets.fit_layers(
        network.layers, observation, seed, threads=threads, progress=_part(progress, sides), kept=gradients
    )
    fitted = Network(replace(network.model, layers=layers))
    controller, explained = _controller(fitted, observation, seed, columns, _part(progress, 1), gradients)
    del gradients
    record: dict[str, Any] = {
        "offsets": "fitted",
        "scales": treatment,
        "data": {"name": data.name, "digest": data.digest(), "sequences": len(data), "steps": data.total, "of": whole},
        "samples": offsets.SAMPLES,
        "sweeps": offsets.SWEEPS,
        "seed": int(seed),
        "loss": observation.loss,
        "layers": fits,
        "readout_explains": explained,
    }
    if held_out is None:
        share = 0.6 if low_share is None else float(low_share)
        controller = at_share(fitted, data, controller, observation, share, threads)
        record["low_share"] = share
    else:
        assert max_loss is not None
        judge = Judge(fitted, held_out, threads)
        controller, found = _within(judge, controller, observation, float(max_loss))
        record["max_loss"] = float(max_loss)
        record["held_out"] = {"sequences": len(held_out), "steps": held_out.total, **found}
    if progress is not None:
        progress(1 / STAGES)
    record["controller"] = describe(controller)
    model = replace(fitted.model, calibration={**network.model.calibration, **record})
    return Network(model), controller


def element_controller(
    network: Network, observation: Observation, seed: int = 0, columns: int | None = None
) -> Calibrated:
    """The controller with element readouts (threshold 0) of a network whose low precision is fitted.

    Parameters
    ----------
    network : Network
    observation : Observation
        Of the network, or of another one with its high path.
    seed, columns : as for `calibrate`
    """
    return _controller(network, observation, seed, columns)[0]


def stored(network: Network) -> Calibrated | None:
    """The controller that a calibrated network carries, or None. Raises InputError where the record is damaged."""
    record = network.model.calibration.get("controller")
    if record is None:
        return None
    fields = {"name", "threshold", "scores", "readout"}
    known = isinstance(record, dict) and set(record) - {"element_readout"} == fields and record["name"] == "calibrated"
    if not known:
        raise InputError("the model's calibration record holds a controller that is not a calibrated one")
    return Calibrated(record["threshold"], record["scores"], record["readout"], record.get("element_readout"))


def _check(network: Any, low_share: Any, max_loss: Any, seed: Any, threads: Any, columns: Any) -> None:
    if not isinstance(network, Network):
        raise InputError(f"network is {type(network).__name__}, expected fxp.Network (fxp.load, fxp.from_torch)")
    if network.formats.shift == 0:
        raise InputError(f"the network has one precision only ({network.formats.high} bits): nothing to calibrate")
    if low_share is not None and max_loss is not None:
        raise InputError("give low_share or max_loss, not both")
    for name, value, most in (("low_share", low_share, 1.0), ("max_loss", max_loss, math.inf)):
        number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, (bool, np.bool_))
        if value is not None and not (number and 0 <= value <= most and math.isfinite(value)):
            raise InputError(f"{name} is {value!r}, expected {'0 to 1' if most == 1 else 'a number of at least 0'}")
    columns = 0 if columns is None else columns
    for name, value, least in (("seed", seed, 0), ("threads", threads, 1), ("columns", columns, 0)):
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
            raise InputError(f"{name} is {value!r}, expected an int of at least {least}")
    most = max(layer.input_size + layer.output_size for layer in network.layers)
    if columns > most:
        raise InputError(f"columns is {columns}: no layer has more than {most} activations (its inputs and outputs)")


def _part(progress: Progress | None, total: float) -> Progress | None:
    """A stage's own progress, `total` at its end, as a part of the whole."""
    return None if progress is None else lambda done: progress(done / total / STAGES)


# The controller


def _controller(
    network: Network,
    observation: Observation,
    seed: int,
    columns: int | None,
    progress: Progress | None = None,
    gradients: sensitivity.Kept | None = None,
) -> tuple[Calibrated, list[list[float]]]:
    """Scores and readouts (threshold 0), and how much each direction's readouts explain.

    An element's score is log2 of its squared change of the loss over the length of its rows: what a low element costs
    for each product that it saves.
    """
    samples = None if columns == 0 else foresight.SAMPLES
    statistics = sensitivity.measure(network.layers, observation, seed, progress, samples, gradients)
    per_product = [
        np.array([side.power for side in sides]) / (layer.input_size + layer.output_size)
        for layer, sides in zip(network.layers, statistics, strict=True)
    ]
    largest = max(values.max() for values in per_product) or 1.0
    octaves = [np.log2(np.maximum(values / largest, 2.0**-FLOOR)) for values in per_product]
    scores: Any = [np.rint(UNIT * values).astype(int).tolist() for values in octaves]
    fitted: Any
    if columns == 0:
        fitted = [[readout.fit(side.totals, side.before, UNIT) for side in sides] for sides in statistics]
    else:
        fitted = [
            [
                foresight.fit(
                    *side.samples, columns or foresight.columns_of(layer.input_size, layer.output_size), UNIT
                )
                for side in sides
            ]
            for layer, sides in zip(network.layers, statistics, strict=True)
        ]
    parts = tuple(tuple(part for part, _ in sides) for sides in fitted)
    controller = Calibrated(0, scores, parts) if columns == 0 else Calibrated(0, scores, element_readout=parts)
    return controller, [[explained for _, explained in sides] for sides in fitted]


class Levels:
    """Low shares of a controller as a function of its threshold, for given activations.

    A decision's level is its score and readout together: it is low if that is within the threshold.
    """

    def __init__(self, controller: Calibrated, activations: Activations):
        counts: dict[int, np.ndarray] = {}
        for layer, sides in enumerate(controller.scores):
            for direction in range(len(sides)):
                for n in range(len(activations.lengths)):
                    x = in_order(activations.input_index(layer, n), direction)
                    values = _levels(controller, layer, direction, x, activations.before(layer, direction, n))
                    for page in np.unique(values >> PAGE):
                        inside = values[values >> PAGE == page] & (1 << PAGE) - 1
                        known = counts.setdefault(int(page), np.zeros(1 << PAGE, np.int64))
                        known += np.bincount(inside, minlength=1 << PAGE)
        pages = sorted(counts)
        held = [np.flatnonzero(counts[page]) for page in pages]
        self._values = np.concatenate([(page << PAGE) + at for page, at in zip(pages, held, strict=True)])
        self._reached = np.cumsum(np.concatenate([counts[page][at] for page, at in zip(pages, held, strict=True)]))

    def share(self, threshold: int) -> float:
        """Low element-steps over all."""
        place = int(np.searchsorted(self._values, threshold, side="right"))
        return int(self._reached[place - 1]) / int(self._reached[-1]) if place else 0.0

    def threshold(self, share: float) -> int:
        """The least threshold whose low share is at least `share`; for 0 one that leaves all high."""
        if share <= 0:
            return int(self._values[0]) - 1
        wanted = share * int(self._reached[-1])
        return int(self._values[min(int(np.searchsorted(self._reached, wanted)), len(self._values) - 1)])


def _levels(controller: Calibrated, layer: int, direction: int, x: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Score and readout together of every step and element, int64 [steps, H]; x, h: the steps' indices."""
    scores = np.array(controller.scores[layer][direction], np.int64)
    if controller.element_readout is not None:
        part = controller.element_readout[layer][direction]
        read = np.concatenate([x[:, list(part.x_columns)], h[:, list(part.h_columns)]], axis=1).astype(np.float64)
        # Exact: sums of products of bytes are far below 2^53.
        totals = (read @ np.array(part.weights, np.float64).reshape(len(scores), -1).T).astype(np.int64)
        return scores + np.array(part.bias, np.int64) + (totals >> part.shift)
    moved = np.zeros(len(h), np.int64)
    if controller.readout is not None:
        neuron = controller.readout[layer][direction]
        weights = np.array(neuron.weights, np.int64)
        moved = (h[:, : len(weights)].astype(np.int64) @ weights >> neuron.shift) + neuron.bias
    return scores + moved[:, None]


def everywhere(controller: Calibrated, network: Network, low: bool) -> Calibrated:
    """The controller with a threshold that keeps every element low, or high, whatever the activations may be."""
    ends = []
    for layer, sides in enumerate(controller.scores):
        for direction, scores in enumerate(sides):
            least, most = np.array(scores, np.int64), np.array(scores, np.int64)
            if controller.element_readout is not None:
                own = controller.element_readout[layer][direction]
                weights = np.array(own.weights, np.int64).reshape(len(scores), -1)
                reach = network.formats.top * np.abs(weights).sum(axis=1)
                least = least + np.array(own.bias, np.int64) + (-reach >> own.shift)
                most = most + np.array(own.bias, np.int64) + (reach >> own.shift)
            elif controller.readout is not None:
                neuron = controller.readout[layer][direction]
                furthest = network.formats.top * sum(map(abs, neuron.weights))
                least = least + (-furthest >> neuron.shift) + neuron.bias
                most = most + (furthest >> neuron.shift) + neuron.bias
            ends += [int(least.min()), int(most.max())]
    return controller.with_threshold(max(ends) if low else min(ends) - 1)


def at_share(
    network: Network, data: Data, controller: Calibrated, observation: Observation, share: float, threads: int = 1
) -> Calibrated:
    """The controller with the threshold that gives a low share on data.

    The threshold is first set by the activations of the run at high precision, then by those of a run under it.
    """
    if share in (0.0, 1.0):
        return everywhere(controller, network, low=share == 1.0)
    first = controller.with_threshold(Levels(controller, observation).threshold(share))
    run = emulate(network, data, first, threads=threads, record=("hidden",))
    return controller.with_threshold(Levels(controller, observation.under(run)).threshold(share))


# The tolerated loss


class Judge:
    """Loss of a controller on held-out data, relative to static high precision.

    Parameters
    ----------
    network : Network
    data : traces.Data
    threads : int
    """

    def __init__(self, network: Network, data: Data, threads: int = 1):
        self.network, self._data, self._threads = network, data, threads
        self._scorer = Scorer(network, data)
        if getattr(self._scorer.metric, "against_float", False):
            raise InputError(
                f"max_loss is relative to static high precision, but metric {self._scorer.name} says how far that is "
                f"from the float network: give low_share, or data that names another metric"
            )
        self._high = self._outcome(Static(network.formats.high))
        if not self._scorer.labelled:
            self._scale = float(sum((h.astype(np.float64) ** 2).mean(axis=1).sum() for h in self._high))
            self._weights = np.array([len(h) for h in self._high], np.float64)
        else:
            self._scale = abs(self._scorer.value(self._high))
        if not self._scale > 0:
            raise InputError("max_loss is relative to static high precision, whose metric is 0 here: give low_share")

    def _outcome(self, controller: Controller) -> Any:
        if self._scorer.labelled:
            return emulate_scored(self._scorer, controller, threads=self._threads).totals
        return emulate(self.network, list(self._data), controller, threads=self._threads).outputs

    def loss(self, controller: Controller) -> tuple[float, float]:
        """Relative loss, and the upper end of its one-sided 95 % interval over sequences (or groups)."""
        outcome = self._outcome(controller)
        if self._scorer.labelled:
            loss = self._scorer.loss(outcome, self._high)
            if loss.upper is None:
                raise InputError(f"max_loss: metric {self._scorer.name} gives no interval on the held-out sequences")
            return loss.value / self._scale, loss.upper / self._scale
        pairs = zip(outcome, self._high, strict=True)
        lost = np.array([((a - b).astype(np.float64) ** 2).mean(axis=1).sum() for a, b in pairs])
        zero = np.zeros_like(lost)
        reach = student_quantile(LEVEL, len(lost) - 1) * standard_error(lost, zero, self._weights) * self._weights.sum()
        return float(lost.sum()) / self._scale, (float(lost.sum()) + reach) / self._scale


def _within(
    judge: Judge, controller: Calibrated, observation: Observation, max_loss: float
) -> tuple[Calibrated, dict[str, float]]:
    """The controller with the largest low share found by halving whose loss stays within a tolerance."""
    levels = Levels(controller, observation)

    def tried(candidate: Calibrated) -> tuple[Calibrated, float, float]:
        return candidate, *judge.loss(candidate)

    best, least, most = (everywhere(controller, judge.network, low=False), 0.0, 0.0), 0.0, 1.0
    everything = tried(everywhere(controller, judge.network, low=True))
    if everything[2] <= max_loss:
        best, least = everything, 1.0
    for _ in range(HALVINGS if least < 1.0 else 0):
        middle = (least + most) / 2
        result = tried(controller.with_threshold(levels.threshold(middle)))
        if result[2] <= max_loss:
            best, least = result, middle
        else:
            most = middle
    return best[0], {"low_share": levels.share(best[0].threshold), "loss": best[1], "loss_upper": best[2]}
