"""Our kernels beside other LSTMs on this machine: `make bench`, or `python -m bench.kernels [--quick] [--output FILE]`.

Whatever of the rivals in `bench/peers` is installed takes part, the others are named; all take turns in one process
with one thread each.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from bench import floors, peers
from fxp import benchmark
from fxp.cli import output


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="batch 1 and 16 only, fewer repetitions")
    parser.add_argument("--json", action="store_true", help="print nothing but JSON")
    parser.add_argument("--output", type=Path, help="also write the JSON to this file")
    chosen = parser.parse_args(arguments)
    console = output.console()

    def tell(line: str) -> None:
        if not chosen.json:
            console.print(line)

    found, missing = peers.find()
    for name, reason in missing.items():
        tell(f"{name} does not take part: {reason}")

    def rivals(hidden: int, batch: int, steps: int) -> Mapping[str, benchmark.Timed]:
        functions: dict[str, benchmark.Timed] = {}
        for module in found.values():
            functions.update(module.prepare(hidden, batch, steps))
        return functions

    result = benchmark.run(chosen.quick, rivals, tell)
    tell("what bounds a step")
    bounds = floors.measure()
    if bounds:
        benchmark.sharpen(result, bounds.pop("limits"))
    result |= bounds
    result["peers"] = {name: module.version() for name, module in found.items()}
    result["missing_peers"] = missing
    if chosen.output:
        chosen.output.parent.mkdir(parents=True, exist_ok=True)
        chosen.output.write_text(json.dumps(result, indent=1) + "\n")
    if chosen.json:
        output.emit_json(result)
        return 0
    output.table(f"{result['machine']['processor']}, one thread", benchmark.COLUMNS, benchmark.table(result))
    for line in benchmark.notes(result):
        console.print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
