"""What the paper says of cell states and decisions, measured on networks of this project.

    python -m bench.evidence kjv       # measure a bundled network (or a folder with its files); adds to the results
    python -m bench.evidence --docs    # write the tables of docs/evidence.md from bench/results/evidence.json

A network is model.h5, calibration.h5 (what it is calibrated on) and data.h5 (what it is judged on). Definitions and
reading: docs/evidence.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

import accel
import fxp
from fxp import evaluation, floating, matching, networks, quantise
from fxp.inputs import Inputs
from fxp.observation import as_data, chosen
from fxp.scoring import Scorer
from traces import Data

RESULTS = Path(__file__).parent / "results" / "evidence.json"
PAGE = Path(__file__).parents[1] / "docs" / "evidence.md"
SHARES = (0.57, 0.76)  # low share of the paper at HiPC 2020; an ambition
STEPS = 65_536  # of the judged data, at most
CELLS = 8192  # steps whose cell states are compared with the float network
TENTHS = 10


def measure(folder: Path, threads: int = 1) -> dict[str, Any]:
    """Everything this page says of one network."""
    import traces

    nearest = fxp.load(folder / "model.h5")
    with traces.open(folder / "calibration.h5", kind="data") as source:
        calibration = as_data(nearest, source)
    with traces.open(folder / "data.h5", kind="data") as source:
        data = chosen(as_data(nearest, source), STEPS)
    fitted, controller = fxp.calibrate(nearest, calibration, low_share=SHARES[0], columns=0, threads=threads)
    few = chosen(data, CELLS)
    plans = {
        "peak": fxp.emulate(nearest, few, accel.Peak(), threads=threads, record=("plan", "cell")),
        "peak, fitted": fxp.emulate(fitted, few, accel.Peak(), threads=threads, record=("plan", "cell")),
        "calibrated": fxp.emulate(fitted, few, controller, threads=threads, record=("plan", "cell")),
    }
    return {
        "network": nearest.model.name,
        "layers": [
            [layer.input_size, layer.hidden_size, layer.directions] for layer in nearest.layers
        ],
        "judged": {"sequences": len(data), "steps": data.total, "mean_length": data.total / len(data)},
        "nearest": against_random(nearest, data, threads),
        "fitted": matched(fitted, controller, data, threads),
        "errors": errors(nearest, fitted, few, plans, threads),
        "dwell": {name: dwell(run) for name, run in plans.items()},
        "position": {name: by_position(run) for name, run in plans.items()},
        "cost": {name: cost(run) for name, run in plans.items()},
    }


def _rows(table: evaluation.Table) -> list[dict[str, Any]]:
    kept = ("metric", "difference", "interval", "low_share")
    return [{"controller": row.label, **{name: getattr(row, name) for name in kept}} for row in table]


def against_random(network: fxp.Network, data: Data, threads: int) -> dict[str, Any]:
    """The default set, and the paired difference of peak from random at peak's share."""
    scorer = Scorer(network, data)
    finished = evaluation.Finished(scorer, threads=threads)
    table = evaluation.compare(scorer, matching.default_set(scorer, finished), finished)
    peak, random = accel.Peak(), accel.Random(finished.scored(accel.Peak()).run.low_share)
    totals = [finished.scored(controller).totals for controller in (peak, random)]
    values = [scorer.value(total) for total in totals]
    return {
        "metric": table.metric,
        "unit": table.unit,
        "higher_is_better": table.higher_is_better,
        "rows": _rows(table),
        "peak_minus_random": {"difference": values[0] - values[1], "interval": scorer.interval(*totals)},
    }


def matched(network: fxp.Network, controller: Any, data: Data, threads: int) -> list[dict[str, Any]]:
    """Every controller at equal low shares."""
    scorer = Scorer(network, data)
    finished = evaluation.Finished(scorer, threads=threads)
    return _rows(evaluation.compare(scorer, matching.rivals(scorer, controller, finished, SHARES), finished))


def phases(run: Any, layer: int, direction: int, sequence: int) -> np.ndarray:
    """Whether each c lies in a peak by the rule's own judgement: its decision after the step, bool [time - 1, H]."""
    low = run.layers[layer].low(sequence, direction)
    low = low[::-1] if direction else low
    return ~low[1:]


def errors(
    nearest: fxp.Network, fitted: fxp.Network, data: Data, plans: dict[str, Any], threads: int
) -> dict[str, Any]:
    """Errors of c against the float network in stable phases and in peaks, for several variants."""
    inputs = Inputs(nearest, data)
    exact = floating.run(quantise.float_layers(nearest.model), [inputs.whole(n) for n in range(len(inputs))])[1]
    formats = nearest.formats
    variants = {
        "static high": (nearest, accel.Static(formats.high), "peak"),
        "static low, to nearest": (nearest, accel.Static(formats.low), "peak"),
        "peak, to nearest": (nearest, None, "peak"),
        "static low, fitted": (fitted, accel.Static(formats.low), "peak, fitted"),
        "peak, fitted": (fitted, None, "peak, fitted"),
    }
    found = {}
    for name, (network, controller, judge) in variants.items():
        run = plans[judge]
        if controller is not None:
            run = fxp.emulate(network, data, controller, threads=threads, record=("cell",))
        parts: dict[bool, list[np.ndarray]] = {False: [], True: []}
        for number, layer in enumerate(network.layers):
            for d in range(layer.directions):
                for n in range(len(inputs)):
                    cell = run.layers[number].cell(n, d).astype(np.float64)
                    cell = cell * 2.0**-11 if formats.profile == "fixed" else cell
                    true = np.asarray(exact[number][n][d], np.float64)
                    if d:
                        cell, true = cell[::-1], true[::-1]
                    peak = phases(plans[judge], number, d, n)
                    pair = np.stack([np.abs(cell - true), np.abs(true)])[:, :-1]
                    for side in parts:
                        parts[side].append(pair[:, peak == side])
        found[name] = {
            "in peaks" if side else "stable": _relative(np.concatenate(pairs, axis=1)) for side, pairs in parts.items()
        }
    return found


def _relative(pair: np.ndarray) -> dict[str, float]:
    """Relative errors of |c - float| and |float|, [2, n]: ratio of sums, mean and median of the ratios."""
    error, size = pair
    ratio = error[size > 0] / size[size > 0]
    return {
        "count": int(error.size),
        "of_sums": float(error.sum() / size.sum()),
        "mean": float(ratio.mean()),
        "median": float(np.median(ratio)),
    }


def dwell(run: Any) -> dict[str, Any]:
    """How long decisions of an element last (steps), and how often neighbours in a step differ."""
    lengths: dict[bool, list[np.ndarray]] = {False: [], True: []}
    rises = pairs = 0
    for layer in run.layers:
        for d in range(layer.directions):
            for n in range(len(run.lengths)):
                low = layer.low(n, d)
                low = low[::-1] if d else low
                rises += int((low[:, :-1] & ~low[:, 1:]).sum())
                pairs += low[:, 1:].size
                starts = np.vstack([np.ones(low.shape[1], bool), low[1:] != low[:-1]])
                # Element after element, so that a run never goes on in the next one.
                where = np.flatnonzero(starts.T.reshape(-1))
                spans = np.diff(np.append(where, low.size))
                values = low.T.reshape(-1)[where]
                for side in lengths:
                    lengths[side].append(spans[values == side])
    found: dict[str, Any] = {"low_to_high_between_neighbours": rises / pairs if pairs else 0.0}
    for side, parts in lengths.items():
        spans = np.concatenate(parts)
        found["low" if side else "high"] = {
            "runs": len(spans),
            "mean": float(spans.mean()) if len(spans) else None,
            "median": float(np.median(spans)) if len(spans) else None,
            "one_step": float((spans == 1).mean()) if len(spans) else None,
        }
    return found


def by_position(run: Any) -> dict[str, Any]:
    """Low share in each tenth of a sequence in the order of processing, and in the first steps."""
    low, total = np.zeros(TENTHS), np.zeros(TENTHS)
    first, counted = np.zeros(20), np.zeros(20)
    for layer in run.layers:
        for d in range(layer.directions):
            for n in range(len(run.lengths)):
                mask = layer.low(n, d)
                shares = (mask[::-1] if d else mask).sum(axis=1)
                tenth = np.arange(len(shares)) * TENTHS // len(shares)
                np.add.at(low, tenth, shares)
                np.add.at(total, tenth, layer.hidden_size)
                head = min(len(first), len(shares))
                first[:head] += shares[:head]
                counted[:head] += layer.hidden_size
    return {
        "tenths": (low / np.maximum(total, 1)).tolist(),
        "first_steps": (first / np.maximum(counted, 1)).tolist(),
    }


def cost(run: Any) -> dict[str, Any]:
    """Cost on epur-dyn: what switching stalls and what choosing the precision take."""
    design = accel.Machine.load("epur-dyn")
    plain = accel.estimate(run, design)
    deep = accel.estimate(run, design.replaced({"datapath.prefetched_groups": 2}))
    hidden = accel.estimate(run, design.replaced({"precision_unit.readout": "hidden"}))
    control = plain.cost.control
    return {
        "low_share": run.low_share,
        "speedup": plain.speedup,
        "energy_saving": plain.energy_saving,
        "switching_stalls": 1 - deep.cost.compute_cycles / plain.cost.compute_cycles,
        "kind": control["kind"],
        "precision_unit_energy": control["precision_unit_pj"] / plain.energy_pj,
        "readout_energy": control["readout_pj"] / plain.energy_pj,
        "exposed_readout_cycles": 1 - hidden.cost.compute_cycles / plain.cost.compute_cycles,
        "control_area": control["area_mm2"] / plain.area_mm2,
    }


# The page


def _percent(value: float | None, digits: int = 1) -> str:
    if value is None:
        return ""
    return "> 10,000 %" if value > 100 else f"{100 * value:.{digits}f} %"


def _number(value: float | None, sign: bool = False) -> str:
    return "" if value is None else f"{value:{'+' if sign else ''}.4f}".replace("-", "−")


def _bounds(interval: Any) -> str:
    return "" if interval is None else f" [{_number(interval[0], True)}, {_number(interval[1], True)}]"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows), ""]


def page(results: dict[str, Any]) -> str:
    """The tables, as Markdown."""
    lines: list[str] = []
    for name, found in results.items():
        judged, nearest = found["judged"], found["nearest"]
        shape = ", ".join(f"{a}→{h}{' ×2' if d == 2 else ''}" for a, h, d in found["layers"])
        better = "higher" if nearest["higher_is_better"] else "lower"
        lines += [
            f"### {name}", "",
            f"{found['network']} ({shape}); {judged['sequences']:,} sequences, {judged['steps']:,} steps, mean length "
            f"{judged['mean_length']:.0f}. {nearest['metric'].replace('_', ' ')} "
            f"{'(' + nearest['unit'] + ') ' if nearest['unit'] else ''}— {better} is better.", "",
        ]  # fmt: skip
        for title, rows in (("bits to nearest", nearest["rows"]), ("bits fitted", found["fitted"])):
            lines += _table(
                [title, "low share", "metric", "difference from static high, 95 % interval"],
                [
                    [
                        row["controller"], _percent(row["low_share"]), _number(row["metric"]),
                        _number(row["difference"], True) + _bounds(row["interval"]),
                    ]
                    for row in rows
                ],
            )  # fmt: skip
        pair = nearest["peak_minus_random"]
        lines += [
            f"Peak minus random at the same share, bits to nearest: "
            f"{_number(pair['difference'], True)}{_bounds(pair['interval'])}.", "",
        ]  # fmt: skip
        lines += _table(
            ["error of c against float", "phase", "of sums", "mean", "median", "share of the c"],
            [
                [
                    variant, phase, _percent(part["of_sums"]), _percent(part["mean"]), _percent(part["median"]),
                    _percent(part["count"] / sum(p["count"] for p in sides.values())),
                ]
                for variant, sides in found["errors"].items()
                for phase, part in sides.items()
            ],
        )  # fmt: skip
        lines += _table(
            ["decisions", "low runs: mean, median", "one step", "high runs: mean, median", "one step",
             "low before high", "stalls"],
            [
                [
                    run, *(
                        cell
                        for side in ("low", "high")
                        for cell in (
                            f"{part[side]['mean']:.1f}, {part[side]['median']:.0f}" if part[side]["runs"] else "",
                            _percent(part[side]["one_step"]),
                        )
                    ),
                    _percent(part["low_to_high_between_neighbours"]),
                    _percent(found["cost"][run]["switching_stalls"], 2),
                ]
                for run, part in found["dwell"].items()
            ],
        )  # fmt: skip
        lines += _table(
            ["low share by tenth of the sequence", *(str(n + 1) for n in range(TENTHS))],
            [[run, *(f"{100 * v:.0f}" for v in part["tenths"])] for run, part in found["position"].items()],
        )
        lines += _table(
            ["cost on epur-dyn", "low share", "speedup", "energy saved", "precision unit, of the energy",
             "readout, of the energy", "exposed readout, of the cycles", "control, of the area"],
            [
                [
                    run, _percent(part["low_share"]), f"{part['speedup']:.3f}x", _percent(part["energy_saving"]),
                    _percent(part["precision_unit_energy"], 2), _percent(part["readout_energy"], 2),
                    _percent(part["exposed_readout_cycles"], 2), _percent(part["control_area"], 3),
                ]
                for run, part in found["cost"].items()
            ],
        )  # fmt: skip
    return "\n".join(lines)


_MARKS = "<!-- tables: python -m bench.evidence --docs -->", "<!-- end of the tables -->"


def with_tables(text: str, results: dict[str, Any]) -> str:
    """The page's text with its tables made anew."""
    begin, end = map(re.escape, _MARKS)
    inside = f"{_MARKS[0]}\n\n{page(results)}{_MARKS[1]}"
    return re.sub(f"{begin}.*{end}", lambda _: inside, text, count=1, flags=re.DOTALL)


def _folder(name: str) -> Path:
    return Path(name) if Path(name).is_dir() else networks.path(name).parent


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.evidence", description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", help="bundled networks, or folders with model, calibration and data")
    parser.add_argument("--docs", action="store_true", help="write the tables of docs/evidence.md")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in options.networks or ([] if options.docs else networks.names()):
        folder = _folder(name)
        results[folder.name] = measure(folder, options.threads)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{folder.name}: measured")
    if options.docs:
        PAGE.write_text(with_tables(PAGE.read_text(), results))


if __name__ == "__main__":
    main()
