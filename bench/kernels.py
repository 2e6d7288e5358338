"""Our kernels beside other LSTMs on this machine: `python -m bench.kernels [--quick] [--json] [--output FILE]`.

Whatever of the rivals in `bench/peers` is installed takes part; all take turns in one process with one thread each.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from bench import peers
from fxp import benchmark


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="batch 1 and 16 only, fewer repetitions")
    parser.add_argument("--json", action="store_true", help="print nothing but JSON")
    parser.add_argument("--output", type=Path, help="also write the JSON to this file")
    parser.add_argument("--no-peers", action="store_true", help="our kernels only")
    chosen = parser.parse_args(arguments)
    found, missing = ({}, {}) if chosen.no_peers else peers.find()

    def rivals(hidden: int, batch: int, steps: int) -> Mapping[str, benchmark.Timed]:
        functions: dict[str, benchmark.Timed] = {}
        for module in found.values():
            functions.update(module.prepare(hidden, batch, steps))
        return functions

    if not chosen.json:
        for name, reason in missing.items():
            print(f"{name} does not take part: {reason}")
    result = benchmark.run(chosen.quick, rivals, None if chosen.json else lambda line: print(line, flush=True))
    result["peers"] = {name: module.version() for name, module in found.items()}
    if chosen.output:
        chosen.output.parent.mkdir(parents=True, exist_ok=True)
        chosen.output.write_text(json.dumps(result, indent=1) + "\n")
    if chosen.json:
        print(json.dumps(result))
    else:
        print(json.dumps({name: result[name] for name in ("machine", "limits", "peers")}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
