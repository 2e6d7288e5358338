"""Memory of one long sequence, data file to trace file: `python -m bench.memory [--steps N] [--bidirectional]`.

Prints JSON: the largest resident set of an `fxp run` of its own process, in MB, and how long it took.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import fxp
from fxp.quantise import FloatLayer
from traces.data_writer import DataWriter

FEATURES, HIDDEN, BLOCK = 16, 256, 8192


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
    rng = np.random.default_rng(1)
    with DataWriter(path, lengths=[steps], features=FEATURES) as writer:
        for start in range(0, steps, BLOCK):
            writer.write(rng.standard_normal((min(BLOCK, steps - start), FEATURES)).astype(np.float32))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5_000_000)
    parser.add_argument("--bidirectional", action="store_true")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model(folder / "model.h5", 1 + chosen.bidirectional)
        data(folder / "data.h5", chosen.steps)
        files = [str(folder / file) for file in ("model.h5", "data.h5", "run.h5")]
        command = [sys.executable, "-m", "fxp", "run", *files[:2], "--trace", files[2], "--json"]
        start = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        result = {
            "steps": chosen.steps, "hidden": HIDDEN, "directions": 1 + chosen.bidirectional,
            "resident_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6,
            "seconds": seconds, "low_share": json.loads(done.stdout)["low_share"],
            "trace_mb": (folder / "run.h5").stat().st_size / 1e6,
        }  # fmt: skip
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
