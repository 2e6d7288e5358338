"""The whole path on the bundled network: emulation, quality, accelerator, picture, report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import accel
import traces
from fxp import evaluation, figures, networks, report
from fxp.calibration import calibrate
from fxp.network import load, save
from fxp.observation import subset
from fxp.replay import Replay
from traces import InputError

MACHINE, BASELINE = "epur-dyn", "epur-sip"
FILES = {
    "model": "model.h5", "trace": "trace.h5", "estimate": "estimate.h5", "picture": "cell-state.png",
    "report": "report.html",
}  # fmt: skip
FITTED = 4  # every so many calibration sequences are enough to show what a fit does
ERROR_STEPS = 2048  # steps over which the report compares cell states with the float network's


def _data(sequences: int) -> traces.Data:
    """The first held-out sequences of the bundled data."""
    with traces.open(networks.path("kjv", "data.h5"), kind="data") as source:
        return subset(source, range(min(sequences, len(source))))


def total_steps(sequences: int) -> int:
    """Steps that the demo emulates: five controllers on every sequence."""
    with traces.open(networks.path("kjv", "data.h5"), kind="data") as source:
        return int(source.lengths[:sequences].sum()) * 5


def _cost(run: Any, machine: str, baseline: str | None) -> Any:
    return accel.estimate(run, machine, baseline=baseline)


def run(
    destination: Path, sequences: int = 256, threads: int = 1, progress: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Run the demonstration.

    Parameters
    ----------
    destination : folder to write model, trace, estimate, picture and report into
    sequences : held-out sequences to use
    threads : sequences side by side
    progress : called with finished steps

    Returns
    -------
    dict: title, metric, caption, rows and files, as the command line prints them.
    """
    try:
        destination.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{destination}: cannot be made a folder ({error.strerror})") from None
    network = load(networks.path("kjv"))
    data = _data(sequences)
    scorer = evaluation.Scorer(network, data)
    high, low = network.formats.high, network.formats.low
    files = {name: str(destination / file) for name, file in FILES.items()}
    save(network, files["model"])

    options: dict[str, Any] = {"threads": threads, "progress": progress, "record": ("plan",)}
    static_high, static_low = accel.Static(high), accel.Static(low)
    done: dict[Any, evaluation.Scored] = {}
    controller: Any
    for controller in (static_high, static_low):
        done[controller] = evaluation.emulate_scored(scorer, controller, **options)
    peak = accel.Peak()
    done[peak] = evaluation.emulate_scored(scorer, peak, trace=files["trace"], data_digest=data.digest(), **options)
    random = accel.Random(low_share=done[peak].run.low_share)
    done[random] = evaluation.emulate_scored(scorer, random, **options)

    with traces.open(networks.path("kjv", "calibration.h5"), kind="data") as source:
        seen = subset(source, range(0, len(source), FITTED))
    fitted, calibrated = calibrate(network, seen, low_share=done[peak].run.low_share, threads=threads)
    spent = evaluation.emulate_scored(evaluation.Scorer(fitted, data), calibrated, **options)

    baseline = done[static_high]
    reference = _cost(baseline.run, BASELINE, None)
    compared = [evaluation.float_row(scorer, baseline.totals)]
    rows = [_row("float", compared[0], None, None)]
    for controller, name in (
        (static_high, f"static {high}"),
        (static_low, f"static {low}"),
        (random, "random"),
        (peak, "peak"),
    ):
        row = evaluation.controller_row(scorer, controller, done[controller], baseline.totals)
        compared.append(row)
        cost = reference if controller is static_high else _cost(done[controller].run, MACHINE, BASELINE)
        rows.append(_row(name, row, cost, reference))
        if controller is peak:
            cost.write(files["estimate"])
            overhead, estimate = cost.area_overhead, cost.to_dict()
    # Calibration leaves the high path as it is, so the baseline is the same.
    row = evaluation.controller_row(scorer, calibrated, spent, baseline.totals)
    compared.append(row)
    rows.append(_row("calibrated", row, _cost(spent.run, MACHINE, BASELINE), reference))
    with traces.open(files["trace"], kind="trace") as trace:
        material = report.assemble(trace, Replay(network, data, trace), error_steps=ERROR_STEPS)
    material.table = evaluation.table(scorer, compared)
    material.estimate = estimate
    figures.save(report.draw("cell", material), files["picture"])
    report.write(material, files["report"])
    return {
        "title": f"{network.model.name}: {len(data)} held-out sequences, {data.total:,} steps",
        "metric": scorer.name.replace("_", " "),
        "caption": (
            f"difference: from static {high}, with its 95 % interval over sequences (paired); static {high} "
            f"runs on {BASELINE}, the baseline of "
            f"speedup and saving, all others on {MACHINE} (area +{100 * overhead:.1f} %); random has the low "
            f"share of peak; calibrated: low precision and controller fitted to other text, at that share"
        ),
        "rows": rows,
        "files": files,
    }


def _row(name: str, row: evaluation.Row, cost: Any, reference: Any) -> dict[str, Any]:
    same = cost is reference
    return {
        "controller": name,
        "metric": row.metric,
        "difference": row.difference,
        "interval": None if row.interval is None else list(row.interval),
        "low_share": row.low_share,
        "cycles": None if cost is None else int(cost.cycles),
        "speedup": None if cost is None else 1.0 if same else float(cost.speedup),
        "energy_pj": None if cost is None else float(cost.energy_pj),
        "energy_saving": None if cost is None else 0.0 if same else float(cost.energy_saving),
    }
