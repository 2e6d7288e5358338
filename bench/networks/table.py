"""Fill the table of docs/networks.md from bench/results/networks-*.json, which `fxp networks evaluate` wrote.

    python -m bench.networks.table
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


def filled(page: str, results: list[dict[str, Any]]) -> str:
    """The page with its table replaced."""
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{after}"


def stored() -> list[dict[str, Any]]:
    """Results in the order of their files' names."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("networks-*.json"))]


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), stored()), encoding="utf-8")
