"""How long a one-sequence `fxp run` takes once its kernels are cached: `python -m bench.startup [--output FILE]`.

Prints JSON: elapsed seconds of several runs in processes of their own, their median, and that of a bare `import fxp`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

import traces
from bench.memory import FEATURES, model, save

RUNS = 7


def timed(*command: str) -> float:
    """Elapsed seconds of a Python process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    return time.perf_counter() - start


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="also write the JSON to this file")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model(folder / "model.h5", 1)
        x = np.random.default_rng(0).standard_normal((200, FEATURES), np.float32)
        traces.Data.of([x]).write(folder / "data.h5")
        command = ("-m", "fxp", "run", str(folder / "model.h5"), str(folder / "data.h5"), "--json")
        first = timed(*command)
        runs = [timed(*command) for _ in range(RUNS)]
        result = {
            "first_seconds": first, "seconds": runs, "median_seconds": median(runs),
            "import_seconds": median(timed("-c", "import fxp") for _ in range(RUNS)),
            "help_seconds": median(timed("-m", "fxp", "--help") for _ in range(RUNS)),
        }  # fmt: skip
    save(result, chosen.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
