"""What low precision costs a network, for every way of spending it, at matched low shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import accel.controllers as controllers
import traces
from fxp import matching, networks
from fxp.calibration import at_share, calibrate, element_controller
from fxp.evaluation import Scored, emulate_scored, float_totals
from fxp.network import load
from fxp.networks import tolerated
from fxp.observation import Observation, as_data, chosen
from fxp.oracle import Impacts, Oracle
from fxp.scoring import Loss, Scorer
from traces import InputError

SHARES = (0.57,)
LADDER = (0.57, 0.65, 0.76, 0.85, 0.95, 1.0)
SEED = 0
VARIANTS = 7  # rows a share


def evaluate(
    name: str,
    shares: Sequence[float] = SHARES,
    metric: str | None = None,
    *,
    folder: Path | None = None,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Calibrate a network at each low share on its calibration data, and judge controllers on its held-out data.

    All rows are of the calibrated network (its fitted offset bits and low biases), so that they differ by the
    controller alone. For each share: the calibrated controller, and random, peak, delta, the static mask and the
    oracle (it knows the future) at the share that it reaches, peak and delta as near as a beta or
    threshold found on 8,192 steps comes; the calibrated controller with element readouts at its own. Then peak with
    its default parameters at its own share, and random at that share. Losses are differences from static high
    precision, sequences paired.

    Parameters
    ----------
    name : str
    shares : low shares, 0 to 1
    metric : str, optional
        A built-in metric in place of the network's own.
    folder : path, optional
        Where the files are, or are built; the cache by default.
    threads : int
    progress : called with finished steps

    Returns
    -------
    dict: network, metric, unit, float, static_high, static_high_vs_float (loss of static high precision against the
    float network, paired: loss, loss_upper, interval of 95 %, tolerance, verdict), sequences, steps, rows of
    controller, share (asked for, or None), low_share (reached), loss, loss_upper (upper end of the one-sided 95 %
    interval), tolerance, verdict.
    """
    entry = networks.entry(name)
    if not shares:
        raise InputError("no low share is given")
    for share in shares:
        if not 0 < share < 1:
            raise InputError(f"low share {share!r}: expected more than 0 and less than 1")
    files = networks.build(name, folder)
    network = load(files["model.h5"])
    rows = []
    with traces.open(files["data.h5"], kind="data") as data, traces.open(files["calibration.h5"], kind="data") as seen:
        scorer = Scorer(network, data, str(files["data.h5"]), metric=metric or entry.metric)
        options: dict[str, Any] = {"threads": threads, "progress": progress}
        high = emulate_scored(scorer, controllers.Static(network.formats.high), **options)
        static_high = scorer.value(high.totals)
        exact = float_totals(scorer)
        tolerance = entry.tolerance(static_high, scorer.name)

        def row(judge: Scorer, which: str, share: float | None, scored: Scored) -> dict[str, Any]:
            made = {"controller": which, "share": share, "low_share": scored.run.low_share}
            return made | _judged(judge, scored.totals, high.totals, tolerance)

        # The fit of the offset bits does not depend on the share: only the controller's threshold does. High precision
        # keeps its bits, since all is compared with it.
        options_of_fit: dict[str, Any] = {"seed": SEED, "threads": threads, "scales": "keep"}
        fitted, controller = calibrate(network, seen, low_share=shares[0], **options_of_fit)
        calibration = chosen(as_data(fitted, seen))
        observation = Observation(fitted, calibration, threads)
        elements = element_controller(fitted, observation, SEED)
        judge = Scorer(fitted, data, metric=metric or entry.metric)
        trial, impacts = chosen(as_data(fitted, data), matching.TRIAL), Impacts(fitted, data)
        for share in shares:
            calibrated = at_share(fitted, calibration, controller, observation, share, threads)
            spent = emulate_scored(judge, calibrated, **options)
            reached = spent.run.low_share
            at = matching.Trial(fitted, trial, reached, threads)
            rivals: dict[str, Any] = {
                "random": controllers.Random(reached),
                "peak": at.peak(),
                "delta": at.delta(),
                "static mask": calibrated.static(reached),
                "oracle (first order)": Oracle(impacts, reached),
            }
            scored = {which: emulate_scored(judge, rival, **options) for which, rival in rivals.items()}
            rows += [row(judge, which, share, outcome) for which, outcome in scored.items()]
            mask = scored["static mask"].totals
            own = at_share(fitted, calibration, elements, observation, share, threads)
            for which, outcome in (
                ("calibrated", spent), ("element readouts", emulate_scored(judge, own, **options))
            ):  # fmt: skip
                beyond = {
                    "from_mask": judge.loss(outcome.totals, mask).value,
                    "from_mask_interval": judge.loss_interval(outcome.totals, mask),
                }
                rows.append(row(judge, which, share, outcome) | beyond)
        peak = emulate_scored(judge, controllers.Peak(), **options)
        random = emulate_scored(judge, controllers.Random(peak.run.low_share), **options)
        rows += [row(judge, "peak by default", None, peak), row(judge, "random at the share of peak", None, random)]
        return {
            "network": name,
            "metric": scorer.name,
            "unit": scorer.metric.unit,
            "float": scorer.value(exact),
            "static_high": static_high,
            "static_high_vs_float": against_float(scorer, high.totals, exact, tolerance),
            "sequences": len(data),
            "steps": int(data.total),
            "rows": rows,
        }


def evaluate_at_tolerance(
    name: str,
    ladder: Sequence[float] = LADDER,
    metric: str | None = None,
    *,
    folder: Path | None = None,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Choose the largest low share that a network's tolerance allows, on its calibration data alone, and judge the
    choice on its held-out data.

    `fxp.networks.tolerated` chooses share and form of the calibrated controller; of the held-out data it knows the
    number of sequences, nothing else. Network and controller are then calibrated on all of the calibration data, and
    judged once.

    Parameters
    ----------
    name : str
    ladder : low shares, more than 0 and at most 1
        At these the controllers are judged on the held-out data as well, to show the curve: nothing is chosen by them.
    metric : str, optional
        A built-in metric in place of the network's own.
    folder : path, optional
        Where the files are, or are built; the cache by default.
    threads : int
    progress : called with finished steps

    Returns
    -------
    dict: network, metric, unit, float, static_high, static_high_vs_float, sequences, steps as `evaluate` gives them;
    tolerance; calibration (how the choice was made: its data, what it was judged by, all that was probed); chosen (the
    probe of the choice, or None where no share is held on calibration data); held_out (a row as of `evaluate`; static
    high precision at a share of 0 where nothing was chosen); ladder (rows).
    """
    entry = networks.entry(name)
    for share in ladder:
        if not 0 < share <= 1:
            raise InputError(f"low share {share!r} of the ladder: expected more than 0 and at most 1")
    files = networks.build(name, folder)
    network = load(files["model.h5"])
    with traces.open(files["data.h5"], kind="data") as held, traces.open(files["calibration.h5"], kind="data") as seen:
        data = as_data(network, held)  # in memory, since it is read many times
        scorer = Scorer(network, data, str(files["data.h5"]), metric=metric or entry.metric)
        options: dict[str, Any] = {"threads": threads, "progress": progress}
        calibrating = as_data(network, seen)
        own = Scorer(network, calibrating, str(files["calibration.h5"]), metric=scorer.name)
        on_calibration = own.value(emulate_scored(own, controllers.Static(network.formats.high), **options).totals)
        jury = tolerated.Jury(
            network, calibrating, scorer.name, entry.tolerance(on_calibration, scorer.name), len(data), SEED, **options
        )
        chosen_probe, probes = jury.largest()
        fitted = tolerated.Fitted(network, calibrating, SEED, threads)

        high = emulate_scored(scorer, controllers.Static(network.formats.high), **options)
        static_high = scorer.value(high.totals)
        tolerance = entry.tolerance(static_high, scorer.name)
        judge = Scorer(fitted.network, data, metric=scorer.name)

        def row(which: str, share: float) -> dict[str, Any]:
            scored = emulate_scored(judge, fitted.at(which, share), **options)
            made = {"controller": which, "share": share, "low_share": scored.run.low_share}
            return made | _judged(judge, scored.totals, high.totals, tolerance)

        form, share = tolerated.FORMS[0], 0.0
        if chosen_probe is not None:
            form, share = chosen_probe.controller, chosen_probe.share
        exact = float_totals(scorer)
        return {
            "network": name,
            "metric": scorer.name,
            "unit": scorer.metric.unit,
            "float": scorer.value(exact),
            "static_high": static_high,
            "static_high_vs_float": against_float(scorer, high.totals, exact, tolerance),
            "tolerance": tolerance,
            "sequences": len(data),
            "steps": int(data.total),
            "calibration": {
                **jury.method,
                "static_high": on_calibration,
                "tolerance": entry.tolerance(on_calibration, scorer.name),
                "probes": [asdict(probe) for probe in probes],
            },
            "chosen": None if chosen_probe is None else asdict(chosen_probe),
            "held_out": row(form, share),
            "ladder": [row(which, step) for step in ladder for which in tolerated.FORMS],
        }


def _judged(judge: Scorer, totals: np.ndarray, baseline: np.ndarray, tolerance: float) -> dict[str, Any]:
    loss = judge.loss(totals, baseline)
    return {
        "loss": loss.value,
        "loss_upper": loss.upper,
        "tolerance": tolerance,
        "verdict": verdict(loss, tolerance),
    }


def against_float(scorer: Scorer, high: np.ndarray, exact: np.ndarray, tolerance: float) -> dict[str, Any]:
    """Loss of static high precision against the float network, for what both scored: as `evaluate` gives it."""
    return _judged(scorer, high, exact, tolerance) | {"interval": scorer.loss_interval(high, exact)}


def verdict(loss: Loss, tolerance: float) -> str:
    """Whether a loss stays within a tolerance.

    Returns
    -------
    str
        "lost" if even the lower end of the one-sided interval exceeds the tolerance, or if the interval reaches less
        far than the tolerance and its upper end exceeds it; "held" if it reaches less far and its upper end does not,
        or if even the upper end is no loss; "undetermined" if the interval reaches further than the tolerance.
    """
    if loss.upper is None:
        return "undetermined"
    reach = loss.upper - loss.value
    if loss.value - reach > tolerance:
        return "lost"
    if loss.upper <= 0:
        return "held"
    if reach > tolerance:
        return "undetermined"
    return "held" if loss.upper <= tolerance else "lost"


def steps_at_tolerance(name: str, ladder: Sequence[float] = LADDER, folder: Path | None = None) -> int:
    """Steps that `evaluate_at_tolerance` reports as progress at most."""
    files = networks.build(name, folder)
    with traces.open(files["data.h5"], kind="data") as data, traces.open(files["calibration.h5"], kind="data") as seen:
        return int(tolerated.steps(seen.total) + data.total * (2 + len(tolerated.FORMS) * len(ladder)))


def steps(name: str, shares: Sequence[float], folder: Path | None = None) -> int:
    """Steps that `evaluate` reports as progress."""
    with traces.open(networks.build(name, folder)["data.h5"], kind="data") as data:
        return data.total * (1 + VARIANTS * len(shares) + 2)
