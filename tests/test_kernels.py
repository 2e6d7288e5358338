"""The vector kernels: exact against NumPy's integers, the same bits as the portable ones, alone and in groups; their cache and switch."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

import accel
import fxp
import traces
from fxp import engines, fast, instructions
from fxp.kernels import build

RECORD = ("plan", "cell", "hidden", "accumulators")
SETS = instructions.supported()
needs_vectors = pytest.mark.skipif(not SETS, reason="needs AVX2")
every_set = pytest.mark.parametrize("instruction_set", SETS)


def network(
    inputs: int,
    hidden: int,
    kind: str = "uniform",
    high: int = 8,
    low: int = 4,
    profile: str = "float32",
    bits: int = 32,
    overflow: str = "wrap",
    projection: int = 0,
    directions: int = 1,
) -> fxp.Network:
    """One random layer; kind "extreme": every weight +-top, whole rows of one sign."""
    rng = np.random.default_rng((inputs, hidden, high, low))
    top, output = 2 ** (high - 1) - 1, projection or hidden
    f32 = np.float32

    def index(rows: int, columns: int) -> np.ndarray:
        shape = (directions, rows, columns)
        if kind == "extreme":
            return (top * rng.choice([-1, 1], (directions, rows, 1)) * np.ones(shape, int)).astype(np.int8)
        return rng.integers(-top, top + 1, shape).astype(np.int8)

    def offset(values: np.ndarray) -> np.ndarray:
        free = (values >> (high - low)) < 2 ** (low - 1) - 1
        return (free & (rng.random(values.shape) < 0.5)).astype(np.uint8)

    def steps(rows: int) -> np.ndarray:
        return rng.uniform(0.1, 2, (directions, rows)).astype(f32) / f32(top * np.sqrt(inputs + output))

    wx, wh = index(4 * hidden, inputs), index(4 * hidden, output)
    extra = {}
    if projection:
        wp = index(output, hidden)
        extra = {
            "wp_float": np.zeros(wp.shape, f32), "wp_index": wp, "wp_scale": steps(output), "m_scale": f32(1 / (top + 1)),
        }  # fmt: skip
    layer = traces.Layer(
        input_size=inputs, hidden_size=hidden, output_size=output, directions=directions, projected=bool(projection),
        wx_float=np.zeros(wx.shape, f32), wh_float=np.zeros(wh.shape, f32),
        bias=rng.normal(size=(directions, 4 * hidden)).astype(f32), low_bias=np.zeros((directions, 4 * hidden), f32),
        wx_index=wx, wh_index=wh, wx_offset=offset(wx), wh_offset=offset(wh),
        wx_scale=steps(4 * hidden), wh_scale=steps(4 * hidden),
        x_scale=f32(1), h_scale=f32(1 / (top + 1)), input_scale=np.ones(inputs, f32), **extra,
    )  # fmt: skip
    model = traces.Model(
        "kernels", layers=[layer], high=high, low=low, profile=profile, accumulator_bits=bits, overflow=overflow
    )
    return fxp.Network(model)


def indices(kind: str, shape: tuple[int, ...], top: int) -> np.ndarray:
    """Features that are their own indices (the step of x is one)."""
    rng = np.random.default_rng(shape)
    if kind == "extreme":
        return (top * rng.choice([-1, 1], (shape[0], 1)) * np.ones(shape)).astype(np.float32)
    return rng.integers(-top, top + 1, shape).astype(np.float32)


def same(a: fxp.Run, b: fxp.Run) -> None:
    for one, other in zip(a.layers, b.layers, strict=True):
        for name, array in one.arrays.items():
            assert array.tobytes() == other.arrays[name].tobytes(), name
        assert (one.low_count == other.low_count).all()
        assert (one.overflow_count == other.overflow_count).all()
    for one, other in zip(a.outputs, b.outputs, strict=True):
        assert one.tobytes() == other.tobytes()
    for one, other in zip(a.state.sequences, b.state.sequences, strict=True) if a.state else ():
        for left, right in zip(one.layers, other.layers, strict=True):
            for name in ("h", "c", "low", "words"):
                assert getattr(left, name).tobytes() == getattr(right, name).tobytes(), name


def low_of(index: np.ndarray, high: int, low: int) -> np.ndarray:
    shift = high - low
    return np.minimum((index + (1 << shift >> 1)) >> shift, 2 ** (low - 1) - 1)


@every_set
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["uniform", "extreme"])
@pytest.mark.parametrize("inputs", [*range(1, 71), 127, 128, 129, 255, 256, 257, 319, 320, 321, 20000])
def test_sums_are_exact(inputs, kind, share, instruction_set):
    """The x part of every gate against 64-bit integers; the largest sums there are where everything has one sign."""
    net = network(inputs, 3, kind)
    x = indices(kind, (3, inputs), 127)
    run = fxp.emulate(net, [x], accel.Random(share, 1), engine=instruction_set, record=RECORD)
    layer, index = net.layers[0], x.astype(np.int64)
    weight = layer.wx_index[0].astype(np.int64)
    low_weight = (weight >> 4) + layer.wx_offset[0]
    mask = np.tile(run.layers[0].low(0), 4)
    expected = np.where(mask, low_of(index, 8, 4) @ low_weight.T, index @ weight.T)
    assert (run.layers[0].accumulators(0)[:, 0] == expected).all()


@every_set
@pytest.mark.parametrize("hidden", [1, 2, 3, 4, 5, 15, 16, 17, 33, 64, 127, 130, 192, 200])
@pytest.mark.parametrize("kind", ["uniform", "extreme"])
def test_recurrent_sums_are_exact(hidden, kind, instruction_set):
    """Both parts of every gate, of a sequence alone and of sequences in a group, against 64-bit integers."""
    net = network(5, hidden, kind)
    layer = net.layers[0]
    x = [indices("uniform", (steps, 5), 127) for steps in (4, 3, 1, 4, 2)]
    weights = [getattr(layer, name)[0].astype(np.int64) for name in ("wx_index", "wh_index")]
    low_weights = [
        (w >> 4) + offset[0] for w, offset in zip(weights, (layer.wx_offset, layer.wh_offset), strict=True)
    ]
    for batch in (x[:1], x, x * 4):
        run = fxp.emulate(net, batch, accel.Random(0.5, 1), engine=instruction_set, record=RECORD)
        for n, features in enumerate(batch):
            made = run.layers[0]
            h = np.concatenate([np.zeros((1, hidden), np.int64), made.hidden(n)[:-1].astype(np.int64)])
            mask = np.tile(made.low(n), 4)
            for part, values in enumerate((features.astype(np.int64), h)):
                low = low_of(values, 8, 4) @ low_weights[part].T
                expected = np.where(mask, low, values @ weights[part].T)
                assert (made.accumulators(n)[:, part] == expected).all()


@every_set
@pytest.mark.parametrize("weight", [-8, 7])
@pytest.mark.parametrize("value", [-127, 127, 0])
@pytest.mark.parametrize("count", [1, 5])
def test_nibbles_at_their_ends(weight, value, count, instruction_set):
    """Every low weight -8 or 7 against every low activation -8, 7 or 0: the largest partial sums of 16 bits."""
    net = network(1000, 2)
    layer = net.layers[0]
    layer.wx_index[:] = -127 if weight < 0 else 127
    layer.wx_offset[:] = 0
    x = np.full((2, 1000), value, np.float32)
    run = fxp.emulate(net, [x] * count, accel.Static(4), engine=instruction_set, record=RECORD)
    assert (run.layers[0].accumulators(count - 1)[:, 0] == 1000 * weight * {-127: -8, 127: 7, 0: 0}[value]).all()


@needs_vectors
@pytest.mark.parametrize("profile", ["float32", "fixed"])
@pytest.mark.parametrize("size", [1, 7, 8, 9, 31, 32, 33, 63, 64, 65, 70])
def test_portable_gives_the_same_bits(profile, size):
    for variant, (bits, overflow) in enumerate(((32, "wrap"), (12, "wrap"), (13, "clamp"))):
        net = network(
            71 - size, size, ("uniform", "extreme")[variant % 2], profile=profile, bits=bits, overflow=overflow,
            projection=size // 2 if variant else 0, directions=1 + variant % 2,
        )  # fmt: skip
        x = [indices("uniform", (steps, 71 - size), 127) for steps in (9, 1, 4, 9, 5)]
        for controller in (accel.Random(0.5, 3), accel.Peak(0.1, 2, 3, 2), accel.Delta(0.05)):
            runs = [fxp.emulate(net, x, controller, engine=name, record=RECORD) for name in ("portable", *SETS)]
            for run in runs[1:]:
                same(runs[0], run)
            assert (runs[0].overflows > 0) == (bits < 32) or size < 9


@needs_vectors
@pytest.mark.parametrize("profile", ["float32", "fixed"])
@pytest.mark.parametrize("widths", [(8, 8), (8, 7), (8, 5), (7, 6), (8, 3), (6, 2), (4, 4), (2, 2)])
def test_every_pair_of_widths(profile, widths):
    net = network(37, 21, high=widths[0], low=widths[1], profile=profile)
    x = [indices("uniform", (steps, 37), 2 ** (widths[0] - 1) - 1) for steps in (6, 3, 6)]
    runs = [fxp.emulate(net, x, accel.Random(0.5), engine=name, record=RECORD) for name in ("portable", *SETS)]
    for run in runs[1:]:
        same(runs[0], run)


@every_set
def test_grouping_changes_nothing(monkeypatch, instruction_set):
    net = network(40, 24)
    x = [indices("uniform", (steps, 40), 127) for steps in (5, 11, 1, 8, 8, 3, 71)]
    runs = []
    for size in (1, 2, 3, 16):
        monkeypatch.setattr(fast.ENGINES[instruction_set], "group_size", size)
        options = {"engine": instruction_set, "record": RECORD}
        runs += [fxp.emulate(net, x, accel.Peak(0.1, 2, 3, 2), threads=threads, **options) for threads in (1, 2)]
    for run in runs[1:]:
        same(runs[0], run)


# The cache and the switch


@needs_vectors
def test_sigmoid_and_tanh_of_vectors_are_those_of_numbers():
    from fxp.kernels import activation, unit

    @numba.njit(error_model="numpy")
    def both(values, sigmoids, tanhs, expected):
        activation.sigmoids(sigmoids.ctypes.data, sigmoids.ctypes.data + 4 * sigmoids.size)
        activation.tanhs(tanhs.ctypes.data, tanhs.ctypes.data + 4 * tanhs.size)
        for n in range(values.size):
            expected[0, n], expected[1, n] = unit.sigmoid(values[n]), unit.tanh(values[n])

    rng = np.random.default_rng(0)
    ends = np.float32(np.log(2)) * np.arange(-253, 254) / 2  # where the exponential's power of two changes
    values = np.concatenate([
        rng.normal(scale=30, size=200_000), rng.uniform(-90, 90, 200_000), [0.0, -0.0, 1e30, -1e30, 87, -87, 43.5, -43.5],
        *(np.nextafter(ends.astype(np.float32), np.float32(way)) for way in (-1000, 0, 1000)),
    ]).astype(np.float32)  # fmt: skip
    values = np.resize(values, -(-len(values) // 64) * 64 + 24)
    sigmoids, tanhs, expected = values.copy(), values.copy(), np.empty((2, values.size), np.float32)
    both(values, sigmoids, tanhs, expected)
    assert (expected.view(np.uint32) == np.stack([sigmoids, tanhs]).view(np.uint32)).all()


def test_kernels_are_stamped_with_all_sources():
    from fxp.kernels import portable

    for function in (portable.run_float, portable.run_fixed):
        assert function._cache._cache_file._source_stamp == build.SOURCES


def test_edited_helper_is_compiled_again(tmp_path):
    """A kernel in one file, its helper in another: the trap of caches that look at one file's time stamp."""
    package = tmp_path / "small"
    package.mkdir()
    (package / "__init__.py").write_text("")
    shutil.copy(Path(build.__file__), package / "build.py")
    (package / "kernel.py").write_text(
        "from small.build import kernel\nfrom small.part import part\n\n@kernel\ndef run(x):\n    return part(x) + 1\n"
    )
    part = "from small.build import helper\n\n@helper\ndef part(x):\n    return x * {}\n"
    program = "from small.kernel import run; print(run(7), sum(run.stats.cache_hits.values()))"

    def result(factor: int) -> str:
        (package / "part.py").write_text(part.format(factor))
        done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert [result(2), result(2), result(3)] == ["15 0", "15 1", "22 0"]


def test_switch(monkeypatch):
    net = network(5, 4)
    monkeypatch.setenv("FXP_PORTABLE", "1")
    assert instructions.best() is None
    assert type(engines.make("fast", net)) is engines.CompiledEngine
    monkeypatch.setenv("FXP_PORTABLE", "0")
    assert instructions.best() == (SETS[0] if SETS else None)
    assert type(engines.make("fast", net)) is (fast.ENGINES[SETS[0]] if SETS else engines.CompiledEngine)
    assert type(engines.make("portable", net)) is engines.CompiledEngine
    for name in SETS:
        assert type(engines.make(name, net)) is fast.ENGINES[name]


def test_engine_that_the_machine_lacks(monkeypatch):
    monkeypatch.setattr(instructions, "supported", lambda: ("avx2",))
    with pytest.raises(traces.InputError, match=r"'amx': this machine lacks its instructions; .* reference, avx2$"):
        fxp.emulate(network(5, 4), [indices("uniform", (2, 5), 127)], engine="amx")


VNNI = "+avx2,+avx512f,+avx512bw,+avx512vl,+avx512dq,+avx512vnni"


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (("x86_64-unknown-linux-gnu", "sapphirerapids", f"{VNNI},+amx-tile,+amx-int8"), ("amx", "vnni", "avx2")),
        (("x86_64-unknown-linux-gnu", "znver4", f"{VNNI},-amx-tile"), ("vnni", "avx2")),
        (("x86_64-unknown-linux-gnu", "skylake-avx512", VNNI.replace("+avx512vnni", "-avx512vnni")), ("avx2",)),
        (("x86_64-unknown-linux-gnu", "znver3", "+avx,+avx2,+fma"), ("avx2",)),
        (("x86_64-unknown-linux-gnu", "nehalem", "+sse4.2,-avx2"), ()),
        (("x86_64-unknown-linux-gnu", "generic", ""), ()),
        (("aarch64-unknown-linux-gnu", "generic", "+neon"), ()),
    ],
)
def test_features_decide(machine, expected):
    assert instructions.having(*machine) == expected


@pytest.mark.parametrize("granted", [True, False])
def test_tiles_have_to_be_granted(monkeypatch, granted):
    machine = ("x86_64-unknown-linux-gnu", "sapphirerapids", f"{VNNI},+amx-tile,+amx-int8")
    monkeypatch.setattr(instructions, "machine", lambda: machine)
    monkeypatch.setattr(instructions, "_tiles_granted", lambda: granted)
    assert instructions.supported.__wrapped__() == (("amx", "vnni", "avx2") if granted else ("vnni", "avx2"))


@needs_vectors
def test_workspaces_are_kept_and_leave_nothing_behind():
    """Calls of different sizes on one network in turns give what each gives on a network of its own, as do copies."""
    net = network(20, 13, projection=7)
    x = [indices("uniform", (steps, 20), 127) for steps in (6, 2, 9)]
    batches = [x, x[:1], x[1:], x[2:], x]
    for batch in batches:
        fresh = fxp.emulate(network(20, 13, projection=7), batch, accel.Random(0.5, 1), record=RECORD)
        for used in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            same(fresh, fxp.emulate(used, batch, accel.Random(0.5, 1), record=RECORD))
    vectors = fast.kernels(SETS[0])
    assert len(net.prepared[0].directions[0].fast(vectors.COLUMNS, vectors.TILES).spare) == 1


# The measurements


@every_set
@pytest.mark.parametrize("count", [*range(1, 10), 13, 16])
def test_products_alone_are_those_of_the_time_loop(count, instruction_set):
    net = network(40, 24)
    low = np.random.default_rng(0).random((count, 24)) < 0.5
    workspace = fast.accumulation(net, low, 2, instruction_set)()
    layer, size = net.layers[0], 24
    for g, job in enumerate(workspace.jobs):
        x, h, sums = job.x[0].astype(np.int64), job.state.h.astype(np.int64), workspace.sums[g, :size]
        for part, index, offset, v in ((0, "wx_index", "wx_offset", x), (4, "wh_index", "wh_offset", h)):
            weight = getattr(layer, index)[0].astype(np.int64)
            low_weight = (weight >> 4) + getattr(layer, offset)[0]
            expected = np.where(np.tile(low[g], 4), low_weight @ low_of(v, 8, 4), weight @ v).reshape(4, size)
            assert (expected == sums[:, part : part + 4].T).all()


@needs_vectors
def test_bench_measures_every_case(monkeypatch, capsys):
    from fxp import benchmark
    from fxp.cli import main

    monkeypatch.setattr(benchmark, "HIDDEN", (16, 24))
    monkeypatch.setattr(benchmark, "TRACED", 256)
    monkeypatch.setattr(benchmark, "STEPS", 12)
    monkeypatch.setattr(benchmark, "SECONDS", 0.0)
    monkeypatch.setattr(benchmark, "recording", lambda quick: {"hidden": 1, "steps": 1, "memory": 0.0, "file": 0.0})
    with pytest.raises(SystemExit) as done:
        main(["bench", "--quick", "--json"])
    assert done.value.code == 0
    result = json.loads(capsys.readouterr().out)
    cases = {(row["hidden"], row["batch"], row["what"]) for row in result["rows"]}
    assert cases == {(h, b, benchmark.OWN + name) for h in (16, 24) for b in (1, 16) for name in benchmark.SHARES}
    for row in result["rows"]:
        assert row["ms_per_sequence"] >= row["least_ms_per_sequence"] > 0
        assert row["gmacs"] * row["ms_per_sequence"] == pytest.approx(12 * 8 * row["hidden"] ** 2 / 1e6)
    assert {row["what"] for row in result["traced"]} == {"fxp-lstm, plan of peak", "fxp-lstm, 57 % low"}
    assert len(benchmark.table(result)) == len(result["rows"]) + 4
    assert all(len(line) == len(benchmark.COLUMNS) for line in benchmark.table(result))
    assert any("two threads" in line for line in benchmark.notes(result))


def test_page_holds_the_results_that_are_kept():
    from bench import page

    text = page.PAGE.read_text()
    assert page.filled(text) == text
    for name in page.PARTS:
        assert text.count(f"<!-- measured: {name} of ") >= 1
    assert " -->\n<!-- end -->" not in text
