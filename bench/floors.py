"""What bounds the kernels on this machine: `python -m bench.floors [--output FILE]`.

- What two processors give together: products from registers on one, and on two at once (two threads of one core share
  its vector units, and show here); and emulations in two processes, which share nothing but caches and memory.
- What a step cannot fall below at batch 1: its instructions at the rate that registers allow or its weights at the rate
  that memory of that size is read (as much of them as the second-level cache holds at its rate), whichever is more, and
  the measured multifunction unit; beside what a step takes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from fxp import benchmark, fast, instructions
from fxp.cli import output
from fxp.kernels import group as kernels
from fxp.kernels import limits
from fxp.packed import aligned

SETS = ("avx2", "vnni")  # kernels whose floors are measured
ROUNDS = 20_000_000
EMULATED = 4.0  # seconds of emulations in each of two processes


def least(function: Callable[[], object], samples: int = 15) -> float:
    """Seconds of processor time of the fastest call."""
    return min(benchmark.interleaved({"": function}, samples)[""])


def peaks(chosen: str) -> dict[str, float]:
    """GMAC/s of products from registers, by an instruction set's instructions of the byte and of the nibble rows."""
    target = aligned((16,), np.int32)
    place, rounds = target.ctypes.data, 50_000
    if chosen == "vnni":  # one instruction for 64 products of either
        dots = 10 * 64 * rounds / least(lambda: limits.multiply_dots(rounds, place)) / 1e9
        return {"bytes": dots, "nibbles": dots}
    return {
        "bytes": 10 * 32 * rounds / least(lambda: limits.multiply_bytes(rounds, place)) / 1e9,
        "nibbles": 10 * 64 * rounds / least(lambda: limits.multiply_nibbles(rounds, place)) / 1e9,
    }


def _busy(processors: list[int]) -> float:
    """Elapsed seconds in which each of some processors forms the same products from registers, all at once."""
    targets = [aligned((8,), np.int32) for _ in processors]
    together = threading.Barrier(len(processors) + 1)

    def work(processor: int, place: int) -> None:
        os.sched_setaffinity(0, {processor})
        together.wait()
        limits.multiply(ROUNDS, place)

    threads = [
        threading.Thread(target=work, args=(processor, target.ctypes.data))
        for processor, target in zip(processors, targets, strict=True)
    ]
    for thread in threads:
        thread.start()
    together.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


def cores(samples: int = 15) -> dict[str, Any]:
    """What the first two processors do together, over what the first does alone; {} where there is one only."""
    if not hasattr(os, "sched_setaffinity"):
        return {}
    allowed = sorted(os.sched_getaffinity(0))[:2]
    if len(allowed) < 2:
        return {}
    one = min(_busy(allowed[:1]) for _ in range(samples))
    both = min(_busy(allowed) for _ in range(samples))
    return {"processors": allowed, "one_seconds": one, "both_seconds": both, "gain_of_two": 2 * one / both}


def _emulate(processor: int, together: Any, results: Any) -> None:
    """Milliseconds of an emulation of 8 sequences of H 512 on one processor, as the middle of some, into `results`."""
    os.sched_setaffinity(0, {processor})
    function = benchmark.own(512, 8, benchmark.STEPS)[benchmark.OWN + benchmark.MIX]
    function()
    together.wait()
    seconds = []
    while sum(seconds) < EMULATED:
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    results.put((processor, 1e3 * median(seconds)))


def _processes(processors: list[int]) -> dict[int, float]:
    """`_emulate` on some processors at once, each in a process of its own: milliseconds by processor."""
    context = multiprocessing.get_context("spawn")
    together, results = context.Barrier(len(processors)), context.Queue()
    children = [context.Process(target=_emulate, args=(processor, together, results)) for processor in processors]
    for child in children:
        child.start()
    found = dict(results.get(timeout=300) for _ in children)
    for child in children:
        child.join()
    return found


def processes() -> dict[str, Any]:
    """What two processes that emulate at once get done, over what one does alone on the better of the two processors;
    {} where there is one only."""
    allowed = sorted(os.sched_getaffinity(0))[:2] if hasattr(os, "sched_setaffinity") else []
    if len(allowed) < 2:
        return {}
    alone = [_processes([processor])[processor] for processor in allowed]
    both = _processes(allowed)
    return {
        "processors": allowed, "alone_ms": alone, "both_ms": [both[processor] for processor in allowed],
        "gain_of_two": min(alone) * sum(1 / value for value in both.values()),
    }  # fmt: skip


def floors(found: dict[str, float], peak: dict[str, float], chosen: str) -> list[dict[str, Any]]:
    """For each size at batch 1 and 57 % low, microseconds a step: floors and measured parts.

    found : `benchmark.limits`; peak : `peaks`; chosen : instruction set of the kernels.
    """
    rows, share, cache = [], benchmark.SHARES[benchmark.MIX], benchmark.second_level_kib()
    sizes = [int(benchmark.weight_kib(hidden)) for hidden in benchmark.HIDDEN]
    near_rate = found[f"read_{max((kib for kib in sizes if kib <= cache), default=min(sizes))}_kib_gbs"]
    for hidden in benchmark.HIDDEN:
        net = benchmark.network(hidden)
        products = 8 * hidden**2
        flags = np.random.default_rng(hidden).random((1, hidden)) < share
        rounds = max(1, 2**24 // products)
        alone = least(fast.accumulation(net, flags, rounds, chosen)) / rounds
        workspace: Any = fast.accumulation(net, flags, 1, chosen)()
        unit = least(lambda w=workspace: kernels.unit_only(w.parameters[0], 127, 1000)) / 1000  # type: ignore[misc]
        call = least(benchmark.own(hidden, 1, 1)[benchmark.OWN + benchmark.MIX], 200)
        step = least(benchmark.own(hidden, 1, benchmark.STEPS)[benchmark.OWN + benchmark.MIX]) / benchmark.STEPS
        low = (flags.sum() / hidden) if hidden else 0.0
        kib, rate = benchmark.weight_kib(hidden, low), found[f"read_{int(benchmark.weight_kib(hidden))}_kib_gbs"]
        # What the second-level cache holds may have been left there by the step before, at most.
        near = min(kib, cache)
        memory = 1e-3 * 1024 * ((kib - near) / rate + near / near_rate)
        rows.append({
            "hidden": hidden,
            "instructions_us": 1e-3 * products * ((1 - low) / peak["bytes"] + low / peak["nibbles"]),
            "memory_us": memory,
            "products_us": 1e6 * alone, "unit_us": 1e6 * unit, "call_us": 1e6 * call, "step_us": 1e6 * step,
        })  # fmt: skip
    return rows


def measure() -> dict[str, Any]:
    """JSON-able: limits, cores and processes; peaks and floors where the kernels of AVX2 or VNNI are the best ones. {}
    where there are no vector kernels."""
    best = instructions.best()
    if best is None:
        return {}
    result: dict[str, Any] = {"limits": benchmark.limits(), "cores": cores(), "processes": processes()}
    if best in SETS:
        peak = peaks(best)
        result |= {"peaks": peak, "floors": floors(result["limits"], peak, best)}
    return result


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="write JSON to this file")
    chosen = parser.parse_args(arguments)
    benchmark.warm_up()
    result = measure()
    if chosen.output:
        chosen.output.parent.mkdir(parents=True, exist_ok=True)
        chosen.output.write_text(json.dumps(result, indent=1) + "\n")
    output.emit_json(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
