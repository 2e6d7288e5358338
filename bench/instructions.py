"""Instructions of a step at batch 1, counted by callgrind: `python -m bench.instructions [--output FILE]`.

Counts do not depend on what else the machine does. Each is the difference of a longer and a shorter call over the steps
between them, so what a call costs once is not in it. It needs valgrind, and counts the AVX2 kernels.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.memory import save
from fxp import benchmark, fast, instructions

SET = "avx2"  # valgrind knows no others of ours
SHORT, LONG = 10, 30  # steps
VECTOR_BYTES, VECTOR_NIBBLES = 4 / 32, 5 / 64  # vector instructions a product (docs/performance.md)


def _counted(name: str, short: Callable[[], object], long: Callable[[], object]) -> None:
    """Dumps of callgrind named `name` for a shorter and a longer call (in the process that it runs)."""

    def tell(*arguments: str) -> None:
        subprocess.run(["callgrind_control", *arguments, str(os.getpid())], check=True, stdout=subprocess.DEVNULL)

    for label, call in (("short", short), ("long", long)):
        call()
        tell("--zero")
        call()
        tell(f"--dump={name} {label}")


def count() -> None:
    """What is counted, in the process under callgrind."""
    from fxp.kernels import group as kernels

    for hidden in benchmark.HIDDEN:
        short, long = (benchmark.own(hidden, 1, steps, engine=SET) for steps in (SHORT, LONG))
        net = benchmark.network(hidden)
        for name, share in benchmark.SHARES.items():
            _counted(f"{hidden} {name} step", short[benchmark.OWN + name], long[benchmark.OWN + name])
            flags = np.random.default_rng(hidden).random((1, hidden)) < share
            _counted(f"{hidden} {name} products", *(fast.accumulation(net, flags, n, SET) for n in (SHORT, LONG)))
        workspace: Any = fast.accumulation(net, flags, 1, SET)()
        place = workspace.parameters[0]
        _counted(
            f"{hidden} any unit", lambda p=place: kernels.unit_only(p, 127, SHORT),  # type: ignore[misc]
            lambda p=place: kernels.unit_only(p, 127, LONG),  # type: ignore[misc]
        )  # fmt: skip


def _totals(folder: Path) -> dict[str, int]:
    """Instructions by the name of the dump."""
    found = {}
    for path in folder.iterdir():
        text = path.read_text()
        name = re.search(r"^desc: Trigger: dump (.*)$", text, re.MULTILINE)
        total = re.search(r"^summary: (\d+)", text, re.MULTILINE)
        if name and total:
            found[name[1].strip()] = int(total[1])
    return found


def measure() -> dict[str, Any]:
    """JSON-able: for each size and share the instructions a step, of the whole and of its products and unit, and the
    vector instructions that the products need at least."""
    # Under valgrind the processor calls itself another one: the machine code is to be the same, and from the cache.
    _, processor, features = instructions.machine()
    environment = os.environ | {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": features}
    with tempfile.TemporaryDirectory() as name:
        subprocess.run(
            ["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={name}/out",
             sys.executable, "-m", "bench.instructions", "--under-callgrind"],
            check=True, env=environment,
        )  # fmt: skip
        totals = _totals(Path(name))

    def step(what: str) -> float:
        return (totals[f"{what} long"] - totals[f"{what} short"]) / (LONG - SHORT)

    rows = []
    for hidden in benchmark.HIDDEN:
        for name, share in benchmark.SHARES.items():
            low = float((np.random.default_rng(hidden).random((1, hidden)) < share).mean())
            rows.append({
                "hidden": hidden, "what": name, "step": step(f"{hidden} {name} step"),
                "products": step(f"{hidden} {name} products"), "unit": step(f"{hidden} any unit"),
                "least": 8 * hidden**2 * ((1 - low) * VECTOR_BYTES + low * VECTOR_NIBBLES),
            })  # fmt: skip
    return {"machine": benchmark.machine(), "rows": rows}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="also write the JSON to this file")
    parser.add_argument("--under-callgrind", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.under_callgrind:
        count()
        return 0
    if SET not in instructions.supported() or not (shutil.which("valgrind") and shutil.which("callgrind_control")):
        print("instructions are not counted: that takes AVX2 and valgrind", file=sys.stderr)
        return 0
    if instructions.supported()[0] != SET:
        print("instructions are not counted: valgrind has no AVX-512, which Numba compiles for here", file=sys.stderr)
        return 0
    benchmark.warm_up(SET)
    save(measure(), chosen.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
