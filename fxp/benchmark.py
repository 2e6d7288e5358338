"""Speed of the kernels on this machine, beside what the machine can do at most, all measured in the same run."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import numpy as np

import accel
import fxp
import traces

STEPS = 200
HIDDEN = (128, 320, 512, 1024)
BATCHES = (1, 16, 64)
SHARES = {"all high": 0.0, "57 % low": 0.57, "all low": 1.0}
OWN = "fxp-lstm, "

Timed = Callable[[], object]
Rivals = Callable[[int, int, int], Mapping[str, Timed]]


def network(hidden: int, profile: str = "float32", seed: int = 0) -> fxp.Network:
    """One random layer of 8 and 4 bits with as many inputs as elements."""
    rng = np.random.default_rng((seed, hidden))
    shape = (1, 4 * hidden, hidden)
    wx, wh = (rng.integers(-127, 128, shape).astype(np.int8) for _ in range(2))

    def steps() -> np.ndarray:
        return (rng.uniform(0.2, 1, shape[:2]) / (127 * np.sqrt(hidden))).astype(np.float32)

    def offsets(index: np.ndarray) -> np.ndarray:
        return (((index >> 4) < 7) & (rng.random(shape) < 0.5)).astype(np.uint8)

    layer = traces.Layer(
        input_size=hidden, hidden_size=hidden, output_size=hidden, directions=1, projected=False,
        wx_float=np.zeros(shape, np.float32), wh_float=np.zeros(shape, np.float32),
        bias=rng.normal(size=shape[:2]).astype(np.float32), low_bias=np.zeros(shape[:2], np.float32),
        wx_index=wx, wh_index=wh, wx_offset=offsets(wx), wh_offset=offsets(wh), wx_scale=steps(), wh_scale=steps(),
        x_scale=np.float32(4 / 128), h_scale=np.float32(1 / 128), input_scale=np.ones(hidden, np.float32),
    )  # fmt: skip
    return fxp.Network(traces.Model("benchmark", layers=[layer], high=8, low=4, profile=profile))


def own(hidden: int, batch: int, steps: int, profile: str = "float32", seed: int = 0) -> dict[str, Timed]:
    """`fxp.emulate` over a batch with the plan recorded in memory, one thread, at each share of low precision."""
    net = network(hidden, profile, seed)
    rng = np.random.default_rng((seed, hidden, batch))
    x = rng.standard_normal((batch, steps, hidden)).astype(np.float32)

    def timed(share: float) -> Timed:
        plan = {n: [[rng.random((steps, hidden)) < share]] for n in range(batch)}
        controller = {0.0: accel.Static(8), 1.0: accel.Static(4)}.get(share) or accel.Schedule(plan)
        return lambda: fxp.emulate(net, x, controller, record=("plan",))

    return {OWN + name: timed(share) for name, share in SHARES.items()}


def interleaved(functions: Mapping[str, Timed], repeats: int) -> dict[str, float]:
    """Median seconds of processor time of each function.

    They take turns, after one call each as a warm-up that does not count. Everything here runs in one thread, so
    this leaves out waiting for a processor, but not what others do to caches and memory.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.process_time()
            function()
            seconds[name].append(time.process_time() - start)
    return {name: median(values) for name, values in seconds.items()}


def limits(repeats: int = 9) -> dict[str, float]:
    """GMAC/s of 8-bit products from registers only, and GB/s of reading arrays of some sizes; empty without AVX2."""
    from fxp import fast

    if not fast.available():
        return {}
    from fxp.kernels import limits as kernels
    from fxp.packed import aligned

    out, rounds = aligned((8,), np.int32), 200_000
    # Room behind for the prefetch.
    arrays = {mib: aligned((mib * 2**18 + 4096,), np.uint8) for mib in (1, 3, 8, 32)}
    functions: dict[str, Timed] = {"multiply": lambda: kernels.multiply(rounds, out.ctypes.data)}

    def reading(mib: int, array: np.ndarray) -> Timed:
        return lambda: [kernels.read(array.ctypes.data, mib * 2**18, out.ctypes.data) for _ in range(16 // mib or 1)]

    for mib, array in arrays.items():
        array[:] = 1
        functions[f"read {mib}"] = reading(mib, array)
    seconds = interleaved(functions, repeats)
    result = {"peak_gmacs": rounds * 12 * 16 / seconds["multiply"] / 1e9}
    for mib in arrays:
        result[f"read_{mib * 256}_kib_gbs"] = (16 // mib or 1) * mib * 2**18 / seconds[f"read {mib}"] / 1e9
    return result


def machine() -> dict[str, Any]:
    """Description of this machine."""
    import numba

    from fxp import fast

    model = platform.processor()
    try:
        with open("/proc/cpuinfo") as lines:
            model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "processor": model, "target": fast.machine()[1], "cores": os.cpu_count(), "system": platform.platform(),
        "python": platform.python_version(), "numba": numba.__version__, "numpy": np.__version__,
        "kernels": "avx2" if fast.available() else "portable",
    }  # fmt: skip


def measure(hidden: int, batch: int, repeats: int, rivals: Rivals | None = None) -> list[dict[str, Any]]:
    """Rows of one size: our kernels, and those of `rivals`, in turns with the machine's peak."""
    functions = own(hidden, batch, STEPS)
    if rivals is not None:
        functions.update(rivals(hidden, batch, STEPS))
    seconds = interleaved(functions, repeats)
    peak = limits(3).get("peak_gmacs")
    work = 8 * hidden * hidden * STEPS * batch
    rows = []
    for name, value in seconds.items():
        speed = work / value / 1e9
        rows.append(
            {
                "hidden": hidden, "batch": batch, "what": name, "ms_per_sequence": 1e3 * value / batch, "gmacs": speed,
                "share_of_peak": speed / peak if peak else None, "ratio": value / seconds[OWN + "57 % low"],
            }
        )  # fmt: skip
    return rows


def run(
    quick: bool = True, rivals: Rivals | None = None, progress: Callable[[str], None] | None = None, load: bool = True
) -> dict[str, Any]:
    """All measurements.

    Parameters
    ----------
    quick : bool
        Only batch 1 and 16, fewer repetitions.
    rivals : callable, optional
        (hidden, batch, steps) to functions by name, to take turns with ours.
    progress : callable, optional
        Called with a line after each size.
    load : bool
        Whether to note the system's load (where there is one) beside the results.

    Returns
    -------
    dict
        machine; limits (GMAC/s, GB/s); steps; rows of {hidden, batch, what, ms_per_sequence, gmacs, share_of_peak,
        ratio}; ratio: time over that of our 57 % low in the same turns, above 1 is slower than ours. JSON-able.
    """
    result: dict[str, Any] = {"machine": machine(), "limits": limits(), "steps": STEPS, "rows": []}
    for hidden in HIDDEN:
        for batch in BATCHES[:2] if quick else BATCHES:
            repeats = (9 if quick else 15) if batch == 1 else 5
            rows = measure(hidden, batch, repeats, rivals)
            result["rows"] += rows
            if progress is not None:
                for row in rows:
                    progress(text(row))
    if load and hasattr(os, "getloadavg"):
        result["machine"]["load"] = os.getloadavg()
    return result


def text(row: Mapping[str, Any]) -> str:
    """A row as a line."""
    share = "" if row["share_of_peak"] is None else f"{100 * row['share_of_peak']:4.0f} % of peak"
    return (
        f"H {row['hidden']:5} batch {row['batch']:3}  {row['what']:34} {row['ms_per_sequence']:9.3f} ms/sequence "
        f"{row['gmacs']:6.1f} GMAC/s {share}  x {row['ratio']:.2f}"
    )
