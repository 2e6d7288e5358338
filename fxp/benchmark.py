"""Speed of the kernels on this machine, beside what the machine can do at most, all measured in the same run."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import accel
import fxp
import traces

STEPS = 200
HIDDEN = (128, 320, 512, 1024)
BATCHES = (1, 16, 64)
MIX = "57 % low"
SHARES = {"all high": 0.0, MIX: 0.57, "all low": 1.0}
OWN = "fxp-lstm, "
TRACED = 256  # elements of the bundled network, whose plan is replayed
LONG = ((256, 1), (512, 1), (512, 2), (512, 4), (512, 16), (1024, 1))  # where two threads are measured: H, sequences
SECONDS = 1.0  # what one measurement may take, all of its samples together
BRIEF = 0.05  # seconds of a call that what ran before it could slow down noticeably

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


def features(hidden: int, batch: int, steps: int, seed: int = 0) -> np.ndarray:
    """float32 [batch, steps, hidden], normal."""
    return np.random.default_rng((seed, hidden, batch)).standard_normal((batch, steps, hidden)).astype(np.float32)


def mixed(hidden: int, batch: int, steps: int, share: float = SHARES[MIX], seed: int = 0) -> accel.Schedule:
    """A plan that is low in a random share of the element-steps."""
    rng = np.random.default_rng((seed, hidden, batch, steps))
    return accel.Schedule({n: [[rng.random((steps, hidden)) < share]] for n in range(batch)})


def own(
    hidden: int, batch: int, steps: int, profile: str = "float32", seed: int = 0, engine: str = "fast"
) -> dict[str, Timed]:
    """`fxp.emulate` over a batch with the plan recorded in memory, one thread, at each share of low precision."""
    net, x = network(hidden, profile, seed), features(hidden, batch, steps, seed)

    def timed(share: float) -> Timed:
        controller = {0.0: accel.Static(8), 1.0: accel.Static(4)}.get(share) or mixed(hidden, batch, steps, share, seed)
        return lambda: fxp.emulate(net, x, controller, engine=engine, record=("plan",))

    return {OWN + name: timed(share) for name, share in SHARES.items()}


def traced(batch: int, steps: int) -> tuple[dict[str, Timed], float]:
    """`own` with the plan that `Peak` made on the bundled network (its first layer), and the plan's low share."""
    from fxp import networks

    with traces.open(networks.path("kjv", "data.h5"), kind="data") as source:
        tokens = [source.sequence(n)[:steps] for n in range(batch)]
    run = fxp.emulate(fxp.load(networks.path("kjv")), tokens, accel.Peak(), record=("plan",))
    plan = accel.Schedule({n: [[run.layers[0].low(n)]] for n in range(batch)})
    net, x = network(TRACED), features(TRACED, batch, steps)
    return {OWN + "plan of peak": lambda: fxp.emulate(net, x, plan, record=("plan",))}, run.layers[0].low_share


def interleaved(
    functions: Mapping[str, Timed], repeats: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Seconds of each call of each function.

    They take turns, after one call each as a warm-up that does not count. A brief call is made twice in its turn and
    its second time counts: the first one meets the caches and the branch history that the function before has left, and
    that is what it would measure. Processor time leaves out waiting for a processor, but not what others do to caches
    and memory; it is for functions of one thread.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    brief = set()
    for name, function in functions.items():
        function()
        start = time.perf_counter()
        function()
        if time.perf_counter() - start < BRIEF:
            brief.add(name)
    for _ in range(repeats):
        for name, function in functions.items():
            if name in brief:
                function()
            start = clock()
            function()
            seconds[name].append(clock() - start)
    return seconds


def user_time() -> float:
    """Seconds of processor time of this process in user mode; of both modes where the system does not tell."""
    try:
        import resource
    except ImportError:
        return time.process_time()
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of each function's samples."""
    return {name: median(values) for name, values in seconds.items()}


def repeats(functions: Mapping[str, Timed], least: int, most: int) -> int:
    """How many turns about `SECONDS` a function allow."""
    start = time.process_time()
    for function in functions.values():
        function()
    once = (time.process_time() - start) / max(1, len(functions))
    return max(least, min(most, int(SECONDS / max(once, 1e-6))))


def weight_kib(hidden: int, low_share: float = 0.0) -> float:
    """KiB of weights that one step reads: 8 H^2 products of a byte each, or half a byte."""
    return 8 * hidden**2 * (1 - low_share / 2) / 1024


def second_level_kib() -> int:
    """Size of the second-level cache of a processor, 0 where the system does not tell (it does on Linux)."""
    try:
        for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
            if (index / "level").read_text().strip() == "2":
                return int((index / "size").read_text().strip().removesuffix("K"))
    except (OSError, ValueError):
        pass
    return 0


def limits(samples: int = 40) -> dict[str, float]:
    """GMAC/s of 8-bit products from registers only, and GB/s of reading arrays as large as the weights of each size.

    The products are those of the best vector instructions, and with AMX also those of tiles (`tile_gmacs`). The least
    of all samples, since what disturbs only adds. Empty where there are no vector kernels.
    """
    from fxp import instructions

    best = instructions.best()
    if best is None:
        return {}
    from fxp.kernels import limits as kernels
    from fxp.packed import aligned

    out, rounds = aligned((256,), np.int32), 50_000
    target = out.ctypes.data
    multiply, products = (kernels.multiply, 12 * 16) if best == "avx2" else (kernels.multiply_dots, 10 * 64)
    sizes = {hidden: int(weight_kib(hidden)) * 1024 for hidden in HIDDEN}
    arrays = {hidden: aligned((size + 4096,), np.uint8) for hidden, size in sizes.items()}  # room for the prefetch
    functions: dict[str, Timed] = {"multiply": lambda: multiply(rounds, target)}
    if best == "amx":
        from fxp.kernels.tiles import CONFIGURATION

        place = CONFIGURATION.ctypes.data
        functions["tiles"] = lambda: kernels.multiply_tiles(rounds // 10, place)

    def reading(place: int, size: int) -> Timed:
        return lambda: kernels.read(place, size, max(1, 2**23 // size), target)

    for hidden, array in arrays.items():
        array[:] = 1
        functions[f"read {hidden}"] = reading(array.ctypes.data, sizes[hidden])
    least = {name: min(values) for name, values in interleaved(functions, samples).items()}
    result = {"peak_gmacs": rounds * products / least["multiply"] / 1e9}
    if "tiles" in least:
        result["tile_gmacs"] = rounds // 10 * 4 * 16 * 16 * 64 / least["tiles"] / 1e9
    for hidden, size in sizes.items():
        result[f"read_{size // 1024}_kib_gbs"] = max(1, 2**23 // size) * size / least[f"read {hidden}"] / 1e9
    return result


def peak_of(found: Mapping[str, float], batch: int) -> str:
    """The limit that a batch is held against: where there are tiles, they form the products of several sequences."""
    return "tile_gmacs" if batch > 1 and "tile_gmacs" in found else "peak_gmacs"


def sharpen(result: dict[str, Any], again: Mapping[str, float]) -> None:
    """Put limits that were measured once more into a result of `run`, where they are higher, and shares of them in the
    rows: what disturbs a measurement of a limit only lowers it, and would make every share too large."""
    limits = result["limits"]
    gain = {name: max(1.0, again[name] / value) for name, value in limits.items()}
    for row in [*result["rows"], *result["traced"], *result["accumulation"]]:
        if row["share_of_peak"] is not None:
            row["share_of_peak"] /= gain[peak_of(limits, row["batch"])]
        if row.get("share_of_bandwidth") is not None:
            row["share_of_bandwidth"] /= gain[f"read_{int(weight_kib(row['hidden']))}_kib_gbs"]
    result["limits"] = {name: value * gain[name] for name, value in limits.items()}


def machine() -> dict[str, Any]:
    """Description of this machine."""
    import numba

    from fxp import instructions

    model = platform.processor()
    try:
        with open("/proc/cpuinfo") as lines:
            model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "processor": model,
        "target": instructions.machine()[1],
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numba": numba.__version__,
        "numpy": np.__version__,
        "kernels": instructions.best() or "portable",
    }


def busy() -> float | None:
    """Seconds of processor time that others than this process have used since the system started, or have kept this
    virtual machine from using; None where the system does not tell."""
    try:
        with open("/proc/stat") as lines:
            fields = [int(field) for field in next(lines).split()[1:9]]
    except (OSError, StopIteration, ValueError):
        return None
    idle, waiting = fields[3], fields[4]
    own = os.times()
    return (sum(fields) - idle - waiting) / os.sysconf("SC_CLK_TCK") - (own.user + own.system)


class Others:
    """How many processors others keep busy, on average, from its making on."""

    def __init__(self) -> None:
        self._before, self._start = busy(), time.perf_counter()

    def share(self) -> float | None:
        """None where the system does not tell."""
        after = busy()
        if self._before is None or after is None:
            return None
        return max(0.0, after - self._before) / (time.perf_counter() - self._start)


def measure(
    hidden: int, batch: int, found: Mapping[str, Any], quick: bool, rivals: Rivals | None = None
) -> list[dict[str, Any]]:
    """Rows of one size, ours and the rivals' in turns; the ratio is to our 57 % low."""
    functions = own(hidden, batch, STEPS)
    shares: dict[str, float | None] = {OWN + name: share for name, share in SHARES.items()}
    if rivals is not None:
        functions |= rivals(hidden, batch, STEPS)
    return _rows(functions, shares, hidden, batch, found, quick, OWN + MIX)


def _rows(
    functions: Mapping[str, Timed],
    shares: Mapping[str, float | None],
    hidden: int,
    batch: int,
    found: Mapping[str, Any],
    quick: bool,
    base: str,
) -> list[dict[str, Any]]:
    others = Others()
    seconds = interleaved(functions, repeats(functions, 3 if quick else 7, 9 if quick else 41))
    meanwhile = others.share()
    middle = medians(seconds)
    products = batch * STEPS * 8 * hidden**2
    rate = found.get(f"read_{int(weight_kib(hidden))}_kib_gbs")
    rows = []
    for name, value in middle.items():
        share = shares.get(name)
        read = None
        if share is not None and rate is not None and batch == 1:
            read = STEPS * weight_kib(hidden, share) * 1024 / value / 1e9 / rate
        rows.append({
            "hidden": hidden, "batch": batch, "what": name, "samples": len(seconds[name]),
            "ms_per_sequence": 1e3 * value / batch, "least_ms_per_sequence": 1e3 * min(seconds[name]) / batch,
            "gmacs": products / value / 1e9,
            "share_of_peak": products / value / 1e9 / found[peak_of(found, batch)] if found else None,
            "share_of_bandwidth": read, "ratio": value / middle[base], "others": meanwhile,
        })  # fmt: skip
    return rows


def traced_rows(batch: int, found: Mapping[str, Any], quick: bool) -> list[dict[str, Any]]:
    """Rows of the replayed plan of a real trace, beside our 57 % low at the same size."""
    functions, share = traced(batch, STEPS)
    name = next(iter(functions))
    functions |= {OWN + MIX: own(TRACED, batch, STEPS)[OWN + MIX]}
    rows = _rows(functions, {}, TRACED, batch, found, quick, OWN + MIX)
    for row in rows:
        row["low_share"] = share if row["what"] == name else SHARES[MIX]
    return rows


def accumulation(found: Mapping[str, Any], samples: int = 25) -> list[dict[str, Any]]:
    """The integer products alone (activations prepared, no multifunction unit): GMAC/s and share of the peak."""
    from fxp import fast, instructions

    best = instructions.best()
    if best is None:
        return []
    rows = []
    for hidden in HIDDEN:
        for batch in BATCHES[:2]:
            net = network(hidden)
            functions = {}
            for name, share in SHARES.items():
                flags = np.random.default_rng(hidden).random((batch, hidden)) < share
                # Tiles form x parts of up to 64 steps at once.
                rounds = 64 * max(1, 2**18 // (8 * hidden**2 * batch))
                functions[name] = fast.accumulation(net, flags, rounds, best)
            for name, values in interleaved(functions, samples).items():
                gmacs = 8 * hidden**2 * batch * rounds / min(values) / 1e9
                rows.append({"hidden": hidden, "batch": batch, "what": name, "gmacs": gmacs,
                             "share_of_peak": gmacs / found[peak_of(found, batch)]})  # fmt: skip
    return rows


def speedup(hidden: int, batch: int, steps: int, samples: int) -> float:
    """Elapsed time of one thread over that of two, 57 % low."""
    net, x = network(hidden), features(hidden, batch, steps)
    plan = mixed(hidden, batch, steps)

    def timed(count: int) -> Timed:
        return lambda: fxp.emulate(net, x, plan, threads=count, record=("plan",))

    seconds = medians(interleaved({"1": timed(1), "2": timed(2)}, samples, time.perf_counter))
    return seconds["1"] / seconds["2"]


def threads(quick: bool, hidden: int = 512, batch: int = 16) -> dict[str, Any]:
    """`speedup` over 16 sequences, and over fewer or longer ones ("rows")."""
    gain = speedup(hidden, batch, STEPS, 3 if quick else 11)
    rows = [
        {"hidden": size, "batch": count, "steps": 5 * STEPS, "speedup_of_two": speedup(size, count, 5 * STEPS, 5)}
        for size, count in (() if quick else LONG)
    ]
    return {"hidden": hidden, "batch": batch, "speedup_of_two": gain, "rows": rows}


def recording(quick: bool, hidden: int = 320, batch: int = 16) -> dict[str, Any]:
    """What recording the plan adds to the time, in memory and into a file, over 100,000 steps or more.

    Time in user mode: how long the system takes to find memory for the outputs, 125 MiB of them, varies from call to
    call by more than a plan costs.
    """
    steps = 640 if quick else 6400
    net, x = network(hidden), features(hidden, batch, steps)
    peak = accel.Peak()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.h5"
        functions: dict[str, Timed] = {
            "none": lambda: fxp.emulate(net, x, peak),
            "memory": lambda: fxp.emulate(net, x, peak, record=("plan",)),
            "file": lambda: fxp.emulate(net, x, peak, trace=file),
        }
        seconds = medians(interleaved(functions, 3 if quick else 7, user_time))
    return {
        "hidden": hidden, "steps": steps * batch,
        "memory": seconds["memory"] / seconds["none"] - 1, "file": seconds["file"] / seconds["none"] - 1,
    }  # fmt: skip


def run(
    quick: bool = False, rivals: Rivals | None = None, progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure all sizes.

    Parameters
    ----------
    quick : bool
        Only batch 1 and 16, fewer repetitions.
    rivals : callable, optional
        (hidden, batch, steps) to functions by name, to take turns with ours.
    progress : callable, optional
        Called with a line before each part.

    Returns
    -------
    dict
        machine; limits (GMAC/s, GB/s); steps; rows of {hidden, batch, what, samples, ms_per_sequence (median of
        processor time), least_ms_per_sequence, gmacs, share_of_peak, share_of_bandwidth (batch 1, ours), ratio,
        others: processors that others kept busy meanwhile};
        ratio: time over that of our 57 % low in the same turns, above 1 is slower than ours; traced, accumulation,
        threads and recording: see the functions of these names. JSON-able.
    """
    result: dict[str, Any] = {"machine": machine(), "steps": STEPS, "quick": quick, "rows": []}

    def tell(text: str) -> None:
        if progress is not None:
            progress(text)

    tell("warm-up: compiling kernels and measuring the machine's limits")
    warm_up()
    result["limits"] = found = limits()
    for hidden in HIDDEN:
        for batch in BATCHES[:2] if quick else BATCHES:
            tell(f"H {hidden}, batch {batch}")
            result["rows"] += measure(hidden, batch, found, quick, rivals)
    others = Others()
    tell("plan of a real trace")
    result["traced"] = [row for batch in BATCHES[:2] for row in traced_rows(batch, found, quick)]
    tell("products alone, threads, recording")
    result["accumulation"] = accumulation(found)
    result["threads"] = threads(quick)
    result["recording"] = recording(quick)
    result["others"] = others.share()
    return result


def warm_up(engine: str = "fast") -> None:
    """Compile what is measured, so that no sample contains it."""
    for batch in (1, 2):
        for function in own(8, batch, 3, engine=engine).values():
            function()


COLUMNS = ("H", "batch", "what", "ms a sequence", "GMAC/s", "of peak", "of bandwidth", "ratio")


def table(result: Mapping[str, Any]) -> list[list[str]]:
    """All rows of a result as cells of a table of `COLUMNS`."""
    return [
        [
            str(row["hidden"]), str(row["batch"]), row["what"], f"{row['ms_per_sequence']:.3f}", f"{row['gmacs']:.1f}",
            percent(row["share_of_peak"]), percent(row["share_of_bandwidth"]), f"{row['ratio']:.2f}",
        ]
        for row in [*result["rows"], *result["traced"]]
    ]  # fmt: skip


def notes(result: Mapping[str, Any]) -> list[str]:
    """What was measured beside the rows, a line each."""
    lines = [f"{name}: {value:.1f}" for name, value in result["limits"].items()]
    for row in result["accumulation"]:
        lines.append(
            f"products alone, H {row['hidden']}, batch {row['batch']}, {row['what']}: {row['gmacs']:.1f} GMAC/s, "
            f"{percent(row['share_of_peak'])} of peak"
        )
    two, recorded = result["threads"], result["recording"]
    lines.append(f"two threads over {two['batch']} sequences, H {two['hidden']}: {two['speedup_of_two']:.2f} times one")
    lines.append(
        f"recording the plan of {recorded['steps']:,} steps, H {recorded['hidden']}: {100 * recorded['memory']:+.1f} % "
        f"in memory, {100 * recorded['file']:+.1f} % into a file"
    )
    return lines


def percent(value: float | None) -> str:
    """A share as a cell of a table."""
    return "-" if value is None else f"{100 * value:.0f} %"
