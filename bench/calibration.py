"""Measure calibration: losses at equal low shares, and the cost of calibrating a large network.

    python -m bench.calibration losses MODEL CALIBRATION DATA [--shares 0.57 0.76] [--scales auto]
    python -m bench.calibration columns kjv reviews [--columns 36 128] > bench/results/columns.json
    python -m bench.calibration cost [--hidden 1024 1024 1024] [--steps 50000]

`losses` calibrates a model file (without offsets fitted before) and judges it on other data: random, a static mask by
the same sensitivities, and the calibrated controller, each at the share given, against static high precision,
sequences paired. `columns` calibrates a network to try on four fifths of its calibration data, with element readouts of
several numbers of columns, and judges them on the last fifth, with the accelerator model's time and energy. `cost`
calibrates random weights and prints processor seconds and the largest memory of the process.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np

import accel
import fxp
from accel import Random, Static
from fxp import calibration, datafile, networks
from fxp.evaluation import emulate_scored
from fxp.formats import Formats
from fxp.observation import Observation, chosen, subset
from fxp.quantise import FloatLayer, build
from fxp.scoring import Scorer


def losses(
    model: Path, calibrating: Path, judging: Path, shares: list[float], scales: str,
    columns: int | None = None, metric: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Losses of one network, one row a share and controller.

    Parameters
    ----------
    model, calibrating, judging : files of the model, of the data to calibrate on, and of that to judge on
    shares : low shares
    scales, columns : as `fxp.calibrate` takes them
    metric : a built-in one in place of the network's own

    Returns
    -------
    dict
        `static`: the metric at static high precision; `rows`: controller, low share reached, loss (positive where the
        metric is worse), its two-sided 95 % interval, and the upper end of the one-sided one relative to `static`;
        `calibrated - mask` compares those two.
    """
    network = fxp.load(model)
    with datafile.read(calibrating) as source:
        data = calibration.as_data(network, source)
    with datafile.read(judging) as source:
        judged = calibration.as_data(network, source)
    made, first = fxp.calibrate(network, data, low_share=shares[0], scales=scales, columns=columns)
    scorer = Scorer(made, judged, metric=metric)
    high = emulate_scored(scorer, Static(made.formats.high)).totals
    static = scorer.value(high)

    def row(name: str, share: float | None, totals: np.ndarray, base: np.ndarray = high) -> dict[str, Any]:
        found, interval = scorer.loss(totals, base), scorer.loss_interval(totals, base)
        relative = {}
        if static and found.upper is not None:
            relative = {"relative": found.value / abs(static), "relative_upper": found.upper / abs(static)}
        return {"controller": name, "low_share": share, "loss": found.value, "interval": interval, **relative}

    def scored(controller: Any) -> tuple[np.ndarray, float]:
        result = emulate_scored(scorer, controller)
        return result.totals, result.run.low_share

    rows = [row("all low", 1.0, scored(Static(made.formats.low))[0])]
    for number, share in enumerate(shares):
        controller = first
        if number:
            controller = fxp.calibrate(network, data, low_share=share, scales=scales, columns=columns)[1]
        by_controller, reached = scored(controller)
        by_mask, mask_share = scored(controller.static(reached))
        by_chance, chance = scored(Random(reached))
        rows += [row("random", chance, by_chance), row("static mask", mask_share, by_mask)]
        rows += [row("calibrated", reached, by_controller), row("calibrated - mask", reached, by_controller, by_mask)]
    return {
        "model": str(model),
        "metric": scorer.name,
        "sequences": len(judged),
        "static": static,
        "scales": made.model.calibration["scales"],
        "rows": rows,
    }


def columns(name: str, counts: list[int], shares: list[float], folder: Path | None = None) -> dict[str, Any]:
    """What element readouts of several numbers of columns lose on held-out calibration data, and what they cost.

    Parameters
    ----------
    name : a network to try
    counts : columns, at most; none: an eighth of the longest rows, 128, a quarter, a half and all of them
    shares : low shares
    folder : where the network's files are

    Returns
    -------
    dict
        `rows`: columns (0: one readout neuron), share asked for and reached, loss from static high precision (positive
        where the metric is worse), what of it is beyond the loss with the fewest columns, with its two-sided 95 %
        interval, and speedup and energy saving of `epur-dyn` over `epur-sip`.
    """
    files = networks.build(name, folder)
    network = fxp.load(files["model.h5"])
    with datafile.read(files["calibration.h5"]) as source:
        data = calibration.as_data(network, source)
    judged = range(calibration.HELD_OUT - 1, len(data), calibration.HELD_OUT)
    held_out, kept = subset(data, judged), chosen(subset(data, [n for n in range(len(data)) if n not in judged]))
    made, neuron = fxp.calibrate(network, kept, low_share=shares[0], scales="keep", columns=0)
    observation = Observation(made, kept)
    scorer = Scorer(made, held_out)
    high = emulate_scored(scorer, Static(made.formats.high)).totals
    longest = max(layer.input_size + layer.output_size for layer in made.layers)
    counts = sorted(counts or {longest // 8, min(128, longest), longest // 4, longest // 2, longest})
    rows, least = [], {}
    for count in [*counts, 0]:
        controller = calibration.element_controller(made, observation, columns=count) if count else neuron
        for share in shares:
            placed = calibration.at_share(made, kept, controller, observation, share)
            scored = emulate_scored(scorer, placed, record=("plan",))
            totals = least.setdefault(share, scored.totals)
            found = accel.estimate(scored.run, "epur-dyn", baseline="epur-sip")
            rows.append({
                "columns": count,
                "share": share,
                "low_share": scored.run.low_share,
                "loss": scorer.loss(scored.totals, high).value,
                "beyond_least": scorer.loss(scored.totals, totals).value,
                "interval": scorer.loss_interval(scored.totals, totals),
                "speedup": found.speedup,
                "energy_saving": found.energy_saving,
            })  # fmt: skip
    return {
        "network": name,
        "metric": scorer.name,
        "rows_of": [layer.input_size + layer.output_size for layer in made.layers],
        "sequences": len(held_out),
        "static": scorer.value(high),
        "rows": rows,
    }


def cost(hidden: list[int], features: int, steps: int, length: int) -> dict[str, Any]:
    """Processor seconds and peak memory of calibrating random weights without labels on one thread."""
    generator = np.random.default_rng(0)
    layers, size = [], features
    for width in hidden:
        wx, wh = (generator.normal(0, n**-0.5, (1, 4 * width, n)).astype(np.float32) for n in (size, width))
        layers.append(FloatLayer(wx, wh, np.zeros((1, 4 * width), np.float32)))
        size = width
    inputs = [generator.normal(size=(length, features)).astype(np.float32) for _ in range(steps // length)]
    network = fxp.Network(build(layers, inputs[:8], Formats()))
    begun, wall = time.process_time(), time.monotonic()
    fxp.calibrate(network, inputs, low_share=0.6)
    return {
        "hidden": hidden,
        "steps": len(inputs) * length,
        "processor_seconds": round(time.process_time() - begun),
        "wall_seconds": round(time.monotonic() - wall),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    """Parse the command line and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    judge = commands.add_parser("losses")
    for name in ("model", "calibration", "data"):
        judge.add_argument(name, type=Path)
    judge.add_argument("--shares", type=float, nargs="+", default=[0.57, 0.76])
    judge.add_argument("--scales", default="auto")
    judge.add_argument("--columns", type=int)
    judge.add_argument("--metric")
    several = commands.add_parser("columns")
    several.add_argument("networks", nargs="+")
    several.add_argument("--columns", type=int, nargs="+", default=[])
    several.add_argument("--shares", type=float, nargs="+", default=[0.57, 0.76])
    several.add_argument("--folder", type=Path, help="where the files of the network are")
    large = commands.add_parser("cost")
    large.add_argument("--hidden", type=int, nargs="+", default=[1024, 1024, 1024])
    large.add_argument("--features", type=int, default=128)
    large.add_argument("--steps", type=int, default=50_000)
    large.add_argument("--length", type=int, default=200)
    given = parser.parse_args()
    result: Any
    if given.command == "columns":
        result = [columns(name, given.columns, given.shares, given.folder) for name in given.networks]
    elif given.command == "losses":
        result = losses(
            given.model, given.calibration, given.data, given.shares, given.scales, given.columns, given.metric
        )
    else:
        result = cost(given.hidden, given.features, given.steps, given.length)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
