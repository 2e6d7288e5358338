"""Fill the table of docs/networks.md from bench/results/networks-*.json, which `fxp networks evaluate` wrote.

    python -m bench.networks.table
    python -m bench.networks.table --against-float     # measure static high precision against float anew, all networks
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import accel.controllers as controllers
import fxp
import traces
from fxp import networks
from fxp.evaluation import emulate_scored, float_totals
from fxp.networks import evaluation
from fxp.scoring import Scorer

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "networks.md"
BEGIN, END = "<!-- results: python -m bench.networks.table -->", "<!-- end of results -->"


def table(results: list[dict[str, Any]]) -> str:
    """The results as Markdown: a line a network, metric, share and controller."""
    lines = [
        "| network | metric | float | static high | controller | low share | loss | upper end | tolerance | verdict |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        for number, row in enumerate(result["rows"]):
            head = [result["network"], f"{result['metric'].replace('_', ' ')} ({result['unit']})"]
            head += [f"{result[key]:.4f}" for key in ("float", "static_high")]
            upper = "-" if row["loss_upper"] is None else f"{row['loss_upper']:+.5f}"
            cells = (head if number == 0 else [""] * len(head)) + [
                row["controller"], f"{100 * row['low_share']:.1f} %", f"{row['loss']:+.5f}", upper,
                f"{row['tolerance']:.5f}", row["verdict"],
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def against_float(results: list[dict[str, Any]]) -> str:
    """Static high precision against the float network, as Markdown: a line a network and metric."""
    lines = [
        "| network | metric | sequences | float | static high | loss | 95 % interval | upper end | tolerance | "
        "verdict |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        found = result["static_high_vs_float"]
        low, high = found["interval"]
        cells = [
            result["network"], f"{result['metric'].replace('_', ' ')} ({result['unit']})", f"{result['sequences']:,}",
            f"{result['float']:.4f}", f"{result['static_high']:.4f}", f"{found['loss']:+.5f}",
            f"[{low:+.5f}, {high:+.5f}]", f"{found['loss_upper']:+.5f}", f"{found['tolerance']:.5f}", found["verdict"],
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def filled(page: str, results: list[dict[str, Any]]) -> str:
    """The page with its tables replaced."""
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{against_float(results)}\n\n{table(results)}\n\n{END}{after}"


def stored() -> list[dict[str, Any]]:
    """Results in the order of their files' names."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("networks-*.json"))]


def measure(result: dict[str, Any]) -> dict[str, Any]:
    """A stored result, its `static_high_vs_float` measured anew; refused if the rest is of another network."""
    entry = networks.entry(result["network"])
    network = fxp.load(networks.path(entry.name))
    with traces.open(networks.path(entry.name, "data.h5"), kind="data") as data:
        scorer = Scorer(network, data, metric=result["metric"])
        high = emulate_scored(scorer, controllers.Static(network.formats.high)).totals
        exact = float_totals(scorer)
        value = scorer.value(high)
        if not math.isclose(value, result["static_high"], rel_tol=1e-6):  # the head's sums are the machine's
            raise SystemExit(f"{entry.name}: static high is {value}, stored {result['static_high']}: evaluate anew")
        found = evaluation.against_float(scorer, high, exact, entry.tolerance(value, scorer.name))
    return {**result, "static_high_vs_float": found}


if __name__ == "__main__":
    if "--against-float" in sys.argv[1:]:
        for path in sorted(RESULTS.glob("networks-*.json")):
            result = measure(json.loads(path.read_text(encoding="utf-8")))
            path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            print(f"{path.name}: {result['static_high_vs_float']}", flush=True)
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), stored()), encoding="utf-8")
