"""Fill the tables of docs/networks.md from bench/results/networks-*.json and tolerance-*.json, which `fxp networks
evaluate` wrote, the latter with `--at-tolerance`.

    python -m bench.networks.table
    python -m bench.networks.table --against-float     # measure static high precision against float anew, all networks
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

import accel.controllers as controllers
import fxp
import traces
from fxp import networks
from fxp.evaluation import emulate_scored, float_totals
from fxp.metrics import METRICS
from fxp.networks import evaluation
from fxp.scoring import Loss, Scorer

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "networks.md"
BEGIN, END = "<!-- results: python -m bench.networks.table -->", "<!-- end of results -->"
BEGIN_SHORT, END_SHORT = "<!-- in short: python -m bench.networks.table -->", "<!-- end of short -->"
BEGIN_CHOSEN, END_CHOSEN = "<!-- shares at the tolerance: python -m bench.networks.table -->", "<!-- end of shares -->"
FIVE = (("kjv", "kjv-512"), ("reviews",), ("chorales",), ("g2p",), ("speaker",))  # the first that there is counts


def table(results: list[dict[str, Any]]) -> str:
    """The results as Markdown: a line a network, metric, share and controller."""
    lines = [
        "| network | metric | float | static high | controller | low share | loss | upper end | tolerance | verdict "
        "| from the static mask |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        for number, row in enumerate(result["rows"]):
            head = [result["network"], f"{result['metric'].replace('_', ' ')} ({result['unit']})"]
            head += [f"{result[key]:.4f}" for key in ("float", "static_high")]
            upper = "-" if row["loss_upper"] is None else f"{row['loss_upper']:+.5f}"
            cells = (head if number == 0 else [""] * len(head)) + [
                row["controller"], f"{100 * row['low_share']:.1f} %", f"{row['loss']:+.5f}", upper,
                f"{row['tolerance']:.5f}", row["verdict"], from_mask(row),
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def from_mask(row: dict[str, Any]) -> str:
    """What of a row's loss is beyond that of the static mask, with its interval; empty where it was not asked."""
    if row.get("from_mask_interval") is None:
        return ""
    low, high = row["from_mask_interval"]
    return f"{row['from_mask']:+.5f} [{low:+.5f}, {high:+.5f}]"


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


def chosen(results: list[dict[str, Any]]) -> str:
    """Shares chosen on calibration data and what the held-out data says of them, as Markdown, and their mean."""
    lines = [
        "| network | judged by | sequences | controller | low share there | loss there | upper end | held-out "
        "sequences | low share | loss | upper end | tolerance | verdict |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        found, made, row = result["chosen"], result["calibration"], result["held_out"]
        cells = [result["network"], made["judged_by"].replace("_", " "), f"{made['sequences']:,}"]
        if found is None:
            cells += ["static high", "0 %", "", ""]
        else:
            cells += [found["controller"], percent(found["low_share"])]
            cells += [f"{found[key]:+.5f}" for key in ("loss", "loss_upper")]
        cells += [f"{result['sequences']:,}", percent(row["low_share"])]
        cells += judged(row) if found is not None else ["", "", f"{result['tolerance']:.5f}", "none chosen"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n" + means(results)


def means(results: list[dict[str, Any]]) -> str:
    """The mean share over the five networks, in words: as chosen, and with the ladder where that is not held."""
    own = {
        result["network"]: result
        for result in results
        if result["metric"] == networks.entry(result["network"]).metric
    }
    counted = [own[next(name for name in names if name in own)] for names in FIVE if own.keys() & set(names)]
    strict, lenient, unheld = [], [], []
    for result in counted:
        row = result["held_out"]
        on_ladder = max((step["low_share"] for step in result["ladder"] if step["verdict"] == "held"), default=0.0)
        held = result["chosen"] is not None and row["verdict"] == "held"
        strict.append(row["low_share"] if held else 0.0)
        lenient.append(row["low_share"] if held else on_ladder)
        if not held:
            why = "no share chosen" if result["chosen"] is None else row["verdict"]
            unheld.append(f"{result['network']} ({why})")
    names = ", ".join(result["network"] for result in counted)
    said = f"**Mean over {names}: {percent(np.mean(strict))}** of what was chosen and is held"
    if not unheld:
        return said + "; every choice is."
    return (
        f"{said}; not held, and so counted as 0 %: {', '.join(unheld)}. With the largest share of the ladder that "
        f"the held-out data finds held in their place (0 % where there is none), which is chosen in hindsight: "
        f"{percent(np.mean(lenient))}."
    )


def ladder(results: list[dict[str, Any]]) -> str:
    """Losses on held-out data over the low share, as Markdown: a line a network and controller."""
    shares = list(dict.fromkeys(row["share"] for result in results for row in result["ladder"]))
    lines = [
        "| network | metric | tolerance | controller | " + " | ".join(percent(share) for share in shares) + " |",
        "|---" * (4 + len(shares)) + "|",
    ]
    for result in results:
        for number, which in enumerate(dict.fromkeys(row["controller"] for row in result["ladder"])):
            rows = {row["share"]: row for row in result["ladder"] if row["controller"] == which}
            head = [result["network"], f"{result['metric'].replace('_', ' ')} ({result['unit']})"]
            head = [*head, f"{result['tolerance']:.5f}"] if number == 0 else [""] * 3
            cells = ["" if s not in rows else " ".join([*judged(rows[s])[:2], rows[s]["verdict"]]) for s in shares]
            lines.append("| " + " | ".join([*head, which, *cells]) + " |")
    return "\n".join(lines)


def summary(results: list[dict[str, Any]], at_tolerance: list[dict[str, Any]], tuned: list[dict[str, Any]]) -> str:
    """What each network allows, as Markdown: a line a network, by its own metric; and the mean share with tuning."""
    lines = [
        "| network | metric, tolerance | static 8 bits against float | 57 % low, element readouts | low share within "
        "the tolerance | low share after fine-tuning | loss from static 8 bits tuned as long |",
        "|---|---|---|---|---|---|---|",
    ]
    shares = {}
    by_name = {result["network"]: result for result in at_tolerance}
    tuning = {result["network"]: result for result in tuned}
    for result in results:
        name = result["network"]
        if result["metric"] != networks.entry(name).metric:
            continue
        chosen_row = by_name[name]["held_out"]
        near = next(row for row in result["rows"] if row["controller"] == "element readouts")
        after, lost = "", ""
        shares[name] = chosen_row["low_share"] if chosen_row["verdict"] == "held" else 0.0
        if name in tuning:
            row, found = tuned_row(tuning[name])
            shares[name] = row["low_share"] if found["verdict"] == "held" else 0.0
            after, lost = percent(row["low_share"]), in_words(found)
        lines.append(
            f"| `{name}` | {result['metric'].replace('_', ' ')}, {near['tolerance']:.5f} "
            f"| {in_words(result['static_high_vs_float'])} | {in_words(near)} "
            f"| {percent(chosen_row['low_share'])} {chosen_row['verdict']} | {after} | {lost} |"
        )
    five = [next(name for name in names if name in shares) for names in FIVE]
    mean = percent(np.mean([shares[name] for name in five]))
    return "\n".join(lines) + (
        f"\n\nMean over {', '.join(five)} with fine-tuning, where a network was tuned and its loss is held: **{mean}**."
    )


def tuned_row(result: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of a fine-tuning: the row of the first pair of rates, and its loss from static 8 bits tuned as long."""
    rows = {row["network"]: row for row in result["rows"]}
    base = next(name for name in rows if name.endswith(", 8 bits") and name != "before, 8 bits")
    row = rows[base.removesuffix(", 8 bits")]
    found = row[f"from {base}"]
    sign = -1 if METRICS[result["metric"]].higher_is_better else 1
    loss = Loss(sign * found["difference"], found["upper"])
    verdict = evaluation.verdict(loss, result["tolerance"])
    return row, {"loss": loss.value, "loss_upper": loss.upper, "verdict": verdict}


def in_words(row: dict[str, Any]) -> str:
    """Loss, its upper end and the verdict."""
    return f"{row['loss']:+.5f}, upper end {row['loss_upper']:+.5f}: {row['verdict']}"


def percent(share: Any) -> str:
    """A share, with its sign."""
    return f"{100 * share:.1f} %".replace(".0 %", " %")


def judged(row: dict[str, Any]) -> list[str]:
    """Loss, upper end, tolerance and verdict."""
    upper = "-" if row["loss_upper"] is None else f"{row['loss_upper']:+.5f}"
    return [f"{row['loss']:+.5f}", upper, f"{row['tolerance']:.5f}", row["verdict"]]


def filled(
    page: str, results: list[dict[str, Any]], at_tolerance: list[dict[str, Any]], tuned: list[dict[str, Any]]
) -> str:
    """The page with its tables replaced."""
    page = _replaced(page, BEGIN_SHORT, END_SHORT, summary(results, at_tolerance, tuned))
    page = _replaced(page, BEGIN, END, f"{against_float(results)}\n\n{table(results)}")
    return _replaced(page, BEGIN_CHOSEN, END_CHOSEN, f"{chosen(at_tolerance)}\n\n{ladder(at_tolerance)}")


def _replaced(page: str, begin: str, end: str, content: str) -> str:
    before, rest = page.split(begin)
    return f"{before}{begin}\n\n{content}\n\n{end}{rest.split(end)[1]}"


def stored(kind: str = "networks") -> list[dict[str, Any]]:
    """Results of a kind ("networks", "tolerance", "finetuning") in the order of their files' names."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob(f"{kind}-*.json"))]


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
    text = filled(PAGE.read_text(encoding="utf-8"), stored(), stored("tolerance"), stored("finetuning"))
    PAGE.write_text(text, encoding="utf-8")
