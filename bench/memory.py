"""Memory of one long sequence, data file to trace file: `python -m bench.memory [--steps N] [--bidirectional]`.

Prints JSON: the largest resident set of an `fxp run` in a process of its own, in MB, and how long it took (Linux only).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import fxp
from fxp.quantise import FloatLayer
from traces.data_writer import DataWriter

FEATURES, HIDDEN = 16, 256

# Asked in the process itself: what its parent held at its start would count too in what the system says about children.
PROGRAM = """
import sys
from fxp.cli import main
try:
    main()
finally:
    print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")), file=sys.stderr)
"""


def model(path: Path, directions: int) -> None:
    """A layer of 256 elements with random weights."""
    from fxp.formats import Formats
    from fxp.quantise import build

    rng = np.random.default_rng(0)
    shapes = ((4 * HIDDEN, FEATURES), (4 * HIDDEN, HIDDEN), (4 * HIDDEN,))
    layer = FloatLayer(*((rng.normal(size=(directions, *shape)) / 16).astype(np.float32) for shape in shapes))
    x = rng.normal(size=(256, FEATURES)).astype(np.float32)
    fxp.save(fxp.Network(build([layer], [x], Formats())), path)


def data(path: Path, steps: int) -> None:
    """One sequence of normal features."""
    with DataWriter(path, FEATURES) as writer:
        writer.append(np.random.default_rng(1).standard_normal((steps, FEATURES), np.float32))


def save(result: dict[str, Any], output: Path | None) -> None:
    """Print a result and write it to a file, if one is given."""
    text = json.dumps(result, indent=1)
    print(text)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text + "\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5_000_000)
    parser.add_argument("--bidirectional", action="store_true")
    parser.add_argument("--output", type=Path, help="also write the JSON to this file")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model(folder / "model.h5", 1 + chosen.bidirectional)
        data(folder / "data.h5", chosen.steps)
        files = [str(folder / file) for file in ("model.h5", "data.h5", "run.h5")]
        command = [sys.executable, "-c", PROGRAM, "run", *files[:2], "--trace", files[2], "--json"]
        start = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        result = {
            "steps": chosen.steps, "hidden": HIDDEN, "directions": 1 + chosen.bidirectional,
            "resident_mb": int(done.stderr.split("VmHWM:")[1].split()[0]) * 1024 / 1e6,
            "seconds": seconds, "low_share": json.loads(done.stdout)["low_share"],
            "trace_mb": (folder / "run.h5").stat().st_size / 1e6,
        }  # fmt: skip
    save(result, chosen.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
