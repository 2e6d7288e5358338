"""Makes the tables of `docs/performance.md` from measurements: `python -m bench.page`.

Each table stands between two comments, the first of which names it and the folder of `bench/results` that holds what
`make bench RESULTS=bench/results/FOLDER` wrote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fxp.benchmark import MIX, OWN, percent

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
RESULTS = Path(__file__).parent / "results"
RIVALS = ("torch float32", "torch dynamic int8", "ONNX Runtime float32", "ONNX Runtime u8", "ONNX Runtime s8",
          "LiteRT integer LSTM", "Brevitas QuantLSTM")  # fmt: skip


QUIET = 0.1  # processors that others may keep busy before a measurement counts as one on a shared machine


class Results:
    """What was measured, by hidden size, batch and name."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.kernels = self._load("kernels")
        self.startup, self.memory, self.instructions = (
            self._load(name) for name in ("startup", "memory", "instructions")
        )
        self.rows = {(row["hidden"], row["batch"], row["what"]): row for row in self.kernels["rows"]}

    def _load(self, name: str) -> dict[str, Any]:
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else {}

    @property
    def sizes(self) -> list[tuple[int, int]]:
        return sorted({(hidden, batch) for hidden, batch, _ in self.rows})

    def ratio(self, hidden: int, batch: int, what: str, base: str = MIX) -> float | None:
        """Time of `what` over ours, same turns; None where either was not measured."""
        row, own = self.rows.get((hidden, batch, what)), self.rows.get((hidden, batch, OWN + base))
        return None if row is None or own is None else row["ms_per_sequence"] / own["ms_per_sequence"]


def table(head: list[str], lines: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *lines])


def _others(results: Results) -> str:
    """How many processors others kept busy, and what that says of the figures."""
    found: dict[str, float | None] = {}
    for (_, batch, _), row in sorted(results.rows.items()):
        name, share = f"at batch {batch}", row.get("others")
        before = found.get(name, 0.0)
        found[name] = None if share is None or before is None else max(before, share)
    found["in the other measurements"] = results.kernels.get("others")
    known = [f"{share:.2f} {name}" for name, share in found.items() if share is not None]
    text = f"Others kept at most this many processors busy meanwhile: {', '.join(known)}. " if known else ""
    shared = [name for name, share in found.items() if share is None or share > QUIET]
    if shared:
        text += (
            f"**The machine was shared {', '.join(shared)}. These figures are to be repeated on a quiet machine before "
            f"any of them is relied on.**"
        )
    return text


def machine(results: Results) -> str:
    about, limits = results.kernels["machine"], results.kernels["limits"]
    shared = _others(results)
    reads = ", ".join(
        f"{name.split('_')[1]} KiB {value:.0f}" for name, value in limits.items() if name.startswith("read")
    )
    rivals = ", ".join(results.kernels.get("peers", {}).values()) or "no rivals"
    missing = ", ".join(results.kernels.get("missing_peers", {}))
    rivals += f"; not installed: {missing}" if missing else ""
    instruction = "vpmaddwd" if about["kernels"] == "avx2" else "vpdpbusd"
    peak = f"Peak of `{instruction}` from registers {limits['peak_gmacs']:.0f} GMAC/s"
    if "tile_gmacs" in limits:
        peak += f", of `tdpbssd` (batch 16 and 64 are held against it) {limits['tile_gmacs']:.0f}"
    return (
        f"{about['processor']} ({about['target']}), {about['cores']} cores, {about['system']}, "
        f"Python {about['python']}, NumPy {about['numpy']}, Numba {about['numba']}; {rivals}. {shared}\n"
        f"{peak}; reading (GB/s): {reads}."
    )


def own(results: Results) -> str:
    lines = []
    for hidden, batch in results.sizes:
        cells = [str(hidden), str(batch)]
        for name in ("all high", MIX, "all low"):
            row = results.rows[hidden, batch, OWN + name]
            shares = percent(row["share_of_peak"]), percent(row["share_of_bandwidth"])
            cells.append(f"{row['ms_per_sequence']:.3f} ({', '.join(shares)})")
        lines.append(cells)
    for row in results.kernels["traced"]:
        if row["what"] != OWN + MIX:
            cell = f"{row['ms_per_sequence']:.3f} ({percent(row['share_of_peak'])}, -)"
            cell += f": plan of peak, {percent(row['low_share'])} low"
            lines.append([str(row["hidden"]), str(row["batch"]), "", cell, ""])
    return table(["H", "batch", "all high", MIX, "all low"], lines)


def rivals(results: Results) -> str:
    lines = []
    for hidden, batch in results.sizes:
        ratios = [results.ratio(hidden, batch, name) for name in RIVALS]
        lines.append([str(hidden), str(batch), *("" if r is None else f"{r:.2f}" for r in ratios)])
    return table(["H", "batch", *(name.replace("ONNX Runtime", "ORT") for name in RIVALS)], lines)


def parts(results: Results) -> str:
    rows = {(row["hidden"], row["batch"], row["what"]): row for row in results.kernels["accumulation"]}
    sizes = sorted({(hidden, batch) for hidden, batch, _ in rows})
    lines = [
        [str(hidden), str(batch), *(
            f"{rows[hidden, batch, name]['gmacs']:.0f} ({percent(rows[hidden, batch, name]['share_of_peak'])})"
            for name in ("all high", MIX, "all low")
        )] for hidden, batch in sizes
    ]  # fmt: skip
    return table(["H", "batch", "all high", MIX, "all low"], lines)


def bounds(results: Results) -> str:
    """What a step cannot fall below, beside what it takes, and what that leaves to gain over the nearest rivals."""
    lines = []
    for row in results.kernels["floors"]:
        steps = results.kernels["steps"]
        floor = max(row["instructions_us"], row["memory_us"]) + row["unit_us"] + row["call_us"] / steps
        ratios = []
        for what in ("ONNX Runtime s8", "ONNX Runtime u8", "torch float32"):
            rival = results.rows.get((row["hidden"], 1, what))
            ratios.append("" if rival is None else f"{1e3 * rival['ms_per_sequence'] / steps / floor:.2f}")
        lines.append([
            str(row["hidden"]), f"{row['instructions_us']:.2f}", f"{row['memory_us']:.2f}", f"{row['products_us']:.2f}",
            f"{row['unit_us']:.2f}", f"{row['call_us'] / steps:.2f}", f"{floor:.2f}", f"{row['step_us']:.2f}", *ratios,
        ])  # fmt: skip
    parts = ["instructions", "weights", "products", "unit", "call", "floor", "step"]
    return table(["H", *parts, "ORT s8", "ORT u8", "torch float32"], lines)


def cores(results: Results) -> str:
    peak, two, threads = (results.kernels.get(name) for name in ("peaks", "cores", "threads"))
    text = ""
    if peak:
        text = (
            f"From registers: {peak['bytes']:.0f} GMAC/s by the instructions of the byte rows, {peak['nibbles']:.0f} "
            f"by those of the nibble rows."
        )
    if two and threads:
        text += (
            f" Two processors at once form {two['gain_of_two']:.2f} times as many products from registers as one; two "
            f"threads gain {threads['speedup_of_two']:.2f} over {threads['batch']} sequences of H {threads['hidden']}."
        )
    apart = results.kernels.get("processes")
    if apart:
        text += (
            f" Two processes with 8 such sequences each, which have nothing but caches and memory in common, get "
            f"{apart['gain_of_two']:.2f} times as much done as one on the better processor (alone "
            f"{' and '.join(f'{ms:.0f}' for ms in apart['alone_ms'])} ms, at once "
            f"{' and '.join(f'{ms:.0f}' for ms in apart['both_ms'])} ms)."
        )
    return text


def _target(name: str, goal: float, value: float | None, unit: str = "", most: bool = False) -> list[str]:
    """A line of the table of targets; most: the goal is an upper limit."""
    bound = f"{'<=' if most else '>='} {goal:g}{unit}"
    if value is None:
        return [name, bound, "not measured", ""]
    met = value <= goal if most else value >= goal
    away = abs(value - goal) if unit.strip() == "%" else abs(value / goal - 1) * 100
    verdict = "met" if met else f"missed by {away:.0f} {'points' if unit.strip() == '%' else '%'}"
    return [name, bound, f"{value:.2f}{unit}" if unit.strip() != "%" else f"{value:.1f}{unit}", verdict]


def targets(results: Results) -> str:
    lines = []
    goals = (("ONNX Runtime s8", 1.1, 1.0), ("ONNX Runtime u8", 1.5, 1.3), ("torch float32", 3.5, 3.5))
    for what, usual, largest in goals:
        for hidden in (128, 320, 512, 1024):
            goal = largest if hidden == 1024 else usual
            lines.append(_target(f"batch 1, H {hidden}, {MIX}, against {what}", goal, results.ratio(hidden, 1, what)))
    for batch in (16, 64):
        for what, goal in (("ONNX Runtime u8", 1.2), ("torch float32", 1.8)):
            lines.append(_target(f"batch {batch}, H 512, {MIX}, against {what}", goal, results.ratio(512, batch, what)))
    for hidden, batch, goal in ((320, 1, 1.35), (512, 1, 1.35), (1024, 1, 1.35), (512, 16, 1.4)):
        gain = results.ratio(hidden, batch, OWN + "all high", "all low")
        lines.append(_target(f"batch {batch}, H {hidden}: all low against all high", goal, gain))
    alone = {(row["hidden"], row["batch"], row["what"]): row for row in results.kernels["accumulation"]}
    for hidden in (320, 512):
        row = alone.get((hidden, 16, "all high"))
        lines.append(_target(
            f"products alone, all high, batch 16, H {hidden}, of the peak", 85,
            None if row is None else 100 * row["share_of_peak"], " %",
        ))  # fmt: skip
    two, recorded = results.kernels["threads"], results.kernels["recording"]
    lines.append(_target(f"two threads over {two['batch']} sequences, H {two['hidden']}", 1.8, two["speedup_of_two"]))
    steps = f"{recorded['steps']:,} steps, H {recorded['hidden']}"
    lines.append(_target(f"recording the plan in memory, {steps}", 5, 100 * recorded["memory"], " %", True))
    lines.append(_target(f"recording the plan into a file, {steps}", 10, 100 * recorded["file"], " %", True))
    memory, startup = results.memory, results.startup
    long = "resident set"
    if memory:
        long += f", one sequence of {memory['steps']:,} steps, H {memory['hidden']}"
    lines.append(_target(long, 400, memory.get("resident_mb"), " MB", True))
    lines.append(_target("second start of `fxp run`", 1.5, startup.get("median_seconds"), " s", True))
    return table(["target", "goal", "measured", ""], lines)


def counts(results: Results) -> str:
    """Instructions of a step as callgrind counts them, in thousands."""
    lines = []
    for row in results.instructions.get("rows", []):
        thousands = (f"{row[name] / 1000:.1f}" for name in ("step", "products", "least", "unit"))
        lines.append([str(row["hidden"]), row["what"], *thousands, f"{row['products'] / row['least']:.2f}"])
    heads = ["H", "precision", "step", "products", "vector instructions at least", "unit", "products over least"]
    return table(heads, lines)


def threads(results: Results) -> str:
    """What two threads gain over one, by size, sequences and steps."""
    lines = [
        [str(row["hidden"]), str(row["batch"]), str(row["steps"]), f"{row['speedup_of_two']:.2f}"]
        for row in results.kernels["threads"].get("rows", [])
    ]
    return table(["H", "sequences", "steps", "two threads over one"], lines)


PARTS: dict[str, Callable[[Results], str]] = {
    "machine": machine, "own": own, "rivals": rivals, "parts": parts, "targets": targets,
    "bounds": bounds, "counts": counts, "cores": cores, "threads": threads,
}  # fmt: skip


def filled(page: str) -> str:
    """The page with what stands between its markers made anew."""
    kept: dict[str, Results] = {}

    def made(match: re.Match[str]) -> str:
        name, folder = match["name"], match["folder"]
        if name not in PARTS or not (RESULTS / folder / "kernels.json").exists():
            raise SystemExit(f"{PAGE}: {name} of {folder} is not there to be measured")
        if folder not in kept:
            kept[folder] = Results(RESULTS / folder)
        return f"{match['begin']}\n{PARTS[name](kept[folder])}\n<!-- end -->"

    pattern = r"(?P<begin><!-- measured: (?P<name>\w+) of (?P<folder>[\w-]+) -->)\n.*?<!-- end -->"
    return re.sub(pattern, made, page, flags=re.DOTALL)


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text()))


if __name__ == "__main__":
    main()
