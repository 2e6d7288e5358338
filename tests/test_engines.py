"""The engines against each other: the compiled ones against the reference, bit by bit, on random quantised networks."""

from __future__ import annotations

import copy
import itertools
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import accel
import fxp
import traces
from accel import reference as accel_reference
from accel.reference import twin
from fxp import emulator, fast, instructions, team
from fxp.team import Team

ENGINES = ("portable", *instructions.supported())
RECORD = ("plan", "cell", "hidden", "accumulators")
WIDTHS = ((8, 4), (8, 8), (7, 3), (6, 2), (5, 4), (8, 2), (2, 2), (4, 3))
CONTROLLERS = ("high", "low", "random", "peak", "peak shares", "delta", "delta absolute", "schedule", "foreseen")
F32 = np.float32


# Random networks, made as quantised models directly


@dataclass(frozen=True)
class Case:
    """A random network with its inputs and controller; everything else follows from the seed."""

    seed: int = 0
    widths: tuple[int, int] = (8, 4)
    profile: str = "float32"
    accumulator_bits: int = 24
    overflow: str = "wrap"
    features: int = 3
    hidden: tuple[int, ...] = (5,)
    projection: int = 0
    directions: int = 1
    lengths: tuple[int, ...] = (6, 1, 9)
    weights: str = "uniform"
    scales: str = "usual"
    inputs: str = "normal"
    controller: str = "random"
    peepholes: bool = False

    @property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    @property
    def ids(self) -> list[int]:
        return [7 * n - 3 for n in range(len(self.lengths))]


def weight_indices(kind: str, shape: tuple[int, ...], top: int, rng: np.random.Generator) -> np.ndarray:
    index = rng.integers(-top, top + 1, shape)
    if kind == "extreme":
        # Whole rows of one sign give the largest sums there are.
        index = top * rng.choice([-1, 1], (*shape[:-1], 1)) * np.ones(shape, int)
    elif kind == "zero":
        index = np.zeros(shape, int)
    elif kind == "sparse":
        index = index * (rng.random(shape) < 0.2)
    return index.astype(np.int8)


def offsets(index: np.ndarray, high: int, low: int, rng: np.random.Generator) -> np.ndarray:
    free = (index >> (high - low)) < 2 ** (low - 1) - 1
    return (free & (rng.random(index.shape) < 0.5)).astype(np.uint8)


def row_scales(kind: str, shape: tuple[int, ...], fan: int, rng: np.random.Generator) -> np.ndarray:
    usual = rng.uniform(0.1, 4, shape) / (128 * np.sqrt(fan))
    if kind == "usual":
        return usual.astype(F32)
    exponent = {"huge": rng.integers(0, 41, shape), "tiny": rng.integers(-149, -20, shape)}.get(
        kind, rng.integers(-60, 20, shape)
    )
    scale = np.minimum(2.0**exponent * rng.uniform(1, 2, shape), 2.0**40).astype(F32)
    return np.where(rng.random(shape) < 0.2, F32(0), np.where(rng.random(shape) < 0.3, usual.astype(F32), scale))


def scalar_scale(kind: str, usual: float, rng: np.random.Generator) -> np.float32:
    """A positive step, not below 2^-40 so that its reciprocal times any other scale stays finite."""
    if kind == "usual":
        return F32(usual)
    least, most = {"huge": (0, 39), "tiny": (-40, -10)}.get(kind, (-12, 4))
    return F32(2.0 ** rng.integers(least, most) * rng.uniform(1, 2))


def biases(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    bias = rng.normal(size=shape)
    if kind != "usual":
        bias = np.where(rng.random(shape) < 0.2, rng.choice([-1, 1], shape) * 2.0 ** rng.integers(-30, 41, shape), bias)
        bias = np.where(rng.random(shape) < 0.2, 0.0, bias)
    return bias.astype(F32)


def make_network(case: Case) -> fxp.Network:
    rng = case.rng
    high, low = case.widths
    top, sides = 2 ** (high - 1) - 1, case.directions
    layers: list[traces.Layer] = []
    for number, hidden in enumerate(case.hidden):
        below = layers[-1] if layers else None
        size = case.features if below is None else sides * below.output_size
        output = min(case.projection, hidden) if case.projection else hidden
        wx = weight_indices(case.weights, (sides, 4 * hidden, size), top, rng)
        wh = weight_indices(case.weights, (sides, 4 * hidden, output), top, rng)
        projection: dict[str, Any] = {}
        if case.projection:
            projection = {
                "wp_float": np.zeros((sides, output, hidden), F32),
                "wp_index": weight_indices(case.weights, (sides, output, hidden), top, rng),
                "wp_scale": row_scales(case.scales, (sides, output), hidden, rng),
                "m_scale": scalar_scale(case.scales, 2.0 ** (1 - high), rng),
            }
        peephole = None
        if case.peepholes:
            signs = rng.choice([-1, 1], (sides, 3 * hidden)).astype(F32)
            # Of the usual rows' steps times 128: between 0.1 and 4.
            peephole = signs * np.minimum(row_scales(case.scales, signs.shape, 1, rng) * F32(128), F32(2.0**40))
        input_scale = np.ones(size, F32)
        if number == 0 and case.seed % 2:
            input_scale = rng.uniform(0.01, 100, size).astype(F32)
        layers.append(
            traces.Layer(
                input_size=size,
                hidden_size=hidden,
                output_size=output,
                directions=sides,
                projected=bool(case.projection),
                wx_float=np.zeros(wx.shape, F32),
                wh_float=np.zeros(wh.shape, F32),
                bias=biases(case.scales, wx.shape[:2], rng),
                low_bias=biases(case.scales, wx.shape[:2], rng) / F32(8),
                wx_index=wx,
                wh_index=wh,
                wx_offset=offsets(wx, high, low, rng),
                wh_offset=offsets(wh, high, low, rng),
                wx_scale=row_scales(case.scales, wx.shape[:2], size, rng),
                wh_scale=row_scales(case.scales, wx.shape[:2], output, rng),
                x_scale=scalar_scale(case.scales, 4 * 2.0 ** (1 - high), rng) if below is None else below.h_scale,
                h_scale=scalar_scale(case.scales, 2.0 ** (1 - high), rng),
                input_scale=input_scale,
                peephole=peephole,
                **projection,
            )
        )
    model = traces.Model(
        "random",
        layers=layers,
        high=high,
        low=low,
        profile=case.profile,
        accumulator_bits=case.accumulator_bits,
        overflow=case.overflow,
    )
    return fxp.Network(model)


def make_inputs(case: Case) -> list[np.ndarray]:
    rng = case.rng
    sequences = []
    for length in case.lengths:
        shape = (length, case.features)
        x = rng.normal(size=shape) + np.sin(np.arange(length) / 3)[:, None]
        if case.inputs == "zero":
            x = np.zeros(shape)
        elif case.inputs == "extreme":
            x = rng.choice([-3e38, 3e38, -1e-45, 0.0, 1e-38, 1e4, -1e4], shape)
        elif case.inputs == "ties":
            # Halves of the usual step of eight bits, 2^-5.
            x = rng.integers(-260, 260, shape) / 64
        sequences.append(x.astype(F32))
    return sequences


def foreseen(case: Case, rng: np.random.Generator) -> accel.Calibrated:
    """A calibrated controller with a random readout for every element."""
    outputs = [min(case.projection, hidden) if case.projection else hidden for hidden in case.hidden]
    inputs = [case.features, *(case.directions * size for size in outputs[:-1])]
    scores, parts = [], []
    for size, hidden, output in zip(inputs, case.hidden, outputs, strict=True):
        sides = []
        for _ in range(case.directions):
            x, h = (np.flatnonzero(rng.random(n) < 0.6).tolist() for n in (size, output))
            weights = rng.integers(-127, 128, (hidden, len(x) + len(h))).tolist()
            sides.append(
                accel.ElementReadout(x, h, weights, rng.integers(-99, 99, hidden).tolist(), int(rng.integers(0, 9)))
            )
        scores.append(rng.integers(-2000, 2000, (case.directions, hidden)).tolist())
        parts.append(sides)
    return accel.Calibrated(int(rng.integers(-3000, 3000)), scores, element_readout=parts)


def make_controller(case: Case) -> Any:
    rng = case.rng
    high, low = case.widths
    beta = float(rng.choice([0.0, 0.1, 0.5, 8.0, 0.5 + 2.0**-13 + 2.0**-40]))
    small = [int(n) for n in rng.integers(1, 4, 3)]
    threshold = float(rng.choice([0.0, 0.02, 0.3, 2.0**-12 + 2.0**-50, 2.0**15]))
    if case.controller == "schedule":
        plan = {
            identity: [
                [rng.random((length, hidden)) < 0.5 for _ in range(case.directions)] for hidden in case.hidden
            ]
            for identity, length in zip(case.ids, case.lengths, strict=True)
        }
        return accel.Schedule(plan)
    if case.controller == "foreseen":
        return foreseen(case, rng)
    return {
        "high": lambda: accel.Static(high),
        "low": lambda: accel.Static(low),
        "random": lambda: accel.Random(float(rng.choice([0.0, 0.3, 0.7, 1.0])), int(rng.integers(-9, 9))),
        "peak": lambda: accel.Peak(beta, *small),
        "peak shares": lambda: accel.Peak(beta, 0.2, 0.4, float(rng.choice([0.01, 0.5]))),
        "delta": lambda: accel.Delta(threshold, True),
        "delta absolute": lambda: accel.Delta(threshold, False),
    }[case.controller]()


def emulate(case: Case, engine: str, **options: Any) -> fxp.Run:
    options = {"controller": make_controller(case), "sequence_ids": case.ids, "record": RECORD, **options}
    return fxp.emulate(make_network(case), make_inputs(case), engine=engine, **options)


# Comparison by bits


def same(a: np.ndarray, b: np.ndarray, what: str) -> None:
    a, b = np.asarray(a), np.asarray(b)
    assert (a.dtype, a.shape) == (b.dtype, b.shape), what
    bits = f"u{a.dtype.itemsize}"
    differ = np.argwhere(np.ascontiguousarray(a).view(bits) != np.ascontiguousarray(b).view(bits))
    first = tuple(differ[0]) if len(differ) else ()
    assert not len(differ), f"{what}: {len(differ)} differ, first at {first}: {a[first]} {b[first]}"


def same_states(a: Any, b: Any) -> None:
    assert (a is None) == (b is None)
    for number, (one, other) in enumerate(zip(a.sequences, b.sequences, strict=True) if a else ()):
        assert one.steps == other.steps
        for at, (left, right) in enumerate(zip(one.layers, other.layers, strict=True)):
            for name in ("h", "c", "low", "words"):
                same(getattr(left, name), getattr(right, name), f"state of sequence {number}, layer {at}: {name}")


def same_layers(a: Any, b: Any, sequence_a: int, sequence_b: int, steps: slice = slice(None)) -> None:
    """Every recorded quantity of one sequence of a against (some steps of) one of b."""
    for at, (one, other) in enumerate(zip(a.layers, b.layers, strict=True)):
        for direction in range(one.directions):
            for name in ("accumulators", "cell", "hidden", "low"):
                what = f"layer {at}, direction {direction}, sequence {sequence_a}: {name}"
                left = getattr(one, name)(sequence_a, direction)
                same(left, getattr(other, name)(sequence_b, direction)[steps], what)


def same_runs(a: Any, b: Any) -> None:
    for sequence in range(len(a.lengths)):
        same_layers(a, b, sequence, sequence)
    for one, other in zip(a.layers, b.layers, strict=True):
        same(one.low_count, other.low_count, "low counts")
        same(one.overflow_count, other.overflow_count, "overflow counts")
    for one, other in zip(a.outputs, b.outputs, strict=True):
        same(one, other, "outputs")
    same_states(a.state, b.state)


def engines_agree(case: Case) -> fxp.Run:
    expected = emulate(case, "reference")
    for engine in ENGINES:
        same_runs(expected, emulate(case, engine))
    return expected


# The engines against the reference


@pytest.mark.parametrize("profile", ["float32", "fixed"])
@pytest.mark.parametrize("controller", CONTROLLERS)
@pytest.mark.parametrize("widths", WIDTHS)
def test_every_width_and_controller(profile, controller, widths):
    seed = 8 * WIDTHS.index(widths) + CONTROLLERS.index(controller)
    case = Case(seed, widths, profile, controller=controller, hidden=(4, 3), lengths=(11, 1, 5), features=2)
    engines_agree(case)


@pytest.mark.parametrize("profile", ["float32", "fixed"])
@pytest.mark.parametrize("overflow", ["wrap", "clamp"])
@pytest.mark.parametrize("bits", [8, 9, 13, 17, 20, 32])
def test_accumulator_overflows(profile, overflow, bits):
    case = Case(
        bits, profile=profile, overflow=overflow, accumulator_bits=bits, hidden=(9, 7), projection=6, features=33,
        weights="extreme", inputs="extreme", lengths=(5, 3),
    )  # fmt: skip
    run = engines_agree(case)
    assert (run.overflows > 0) == (bits < 20)


@pytest.mark.parametrize("profile", ["float32", "fixed"])
@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 70])
def test_sizes_around_vector_lengths(profile, size):
    case = Case(
        size, profile=profile, features=max(1, 71 - size), hidden=(size,), lengths=(3, 2), accumulator_bits=16,
        projection=size if size % 3 == 0 else 0, directions=1 + size % 2,
    )  # fmt: skip
    engines_agree(case)


@pytest.mark.parametrize("profile", ["float32", "fixed"])
@pytest.mark.parametrize("controller", ["peak", "delta"])
def test_deep_wide_network(profile, controller):
    case = Case(
        5, profile=profile, controller=controller, features=40, hidden=(70, 33, 16, 20), projection=18,
        directions=2, lengths=(12,),
    )  # fmt: skip
    run = engines_agree(case)
    assert 0 < run.low_share < 1


@pytest.mark.parametrize("profile", ["float32", "fixed"])
@pytest.mark.parametrize("scales", ["usual", "huge", "tiny", "mixed"])
@pytest.mark.parametrize("size", [1, 8, 11])
def test_peepholes(profile, scales, size):
    case = Case(
        size, profile=profile, features=4, hidden=(size, 5), lengths=(9, 2), scales=scales, peepholes=True,
        projection=3 if size == 8 else 0, directions=2 if size == 11 else 1, inputs="ties", controller="peak",
    )  # fmt: skip
    engines_agree(case)


@pytest.mark.parametrize("profile", ["float32", "fixed"])
def test_peepholes_of_zero_change_no_bit_and_others_do(profile):
    case = Case(3, profile=profile, hidden=(9, 6), lengths=(12, 4), peepholes=True, controller="peak", weights="sparse")
    with_them = make_network(case)

    def replaced(peephole):
        layers = [replace(layer, peephole=peephole(layer.peephole)) for layer in with_them.layers]
        return fxp.Network(replace(with_them.model, layers=layers))

    x, outputs = make_inputs(case), []
    for network in (replaced(lambda p: None), replaced(np.zeros_like), with_them):
        outputs.append(np.concatenate(fxp.emulate(network, x, accel.Peak()).outputs))
    assert (outputs[0] == outputs[1]).all() and (outputs[0] != outputs[2]).any()


@pytest.mark.parametrize("profile", ["float32", "fixed"])
@pytest.mark.parametrize("engine", ENGINES)
def test_peepholes_in_a_stream_fed_in_pieces(profile, engine):
    case = Case(5, profile=profile, hidden=(9, 4), lengths=(13, 13), peepholes=True, scales="mixed")
    network, x = make_network(case), np.stack(make_inputs(case))
    options = {"engine": engine, "sequence_length": 13}
    whole = fxp.emulate(network, x, accel.Peak(), **options)
    state, pieces = None, []
    for start, stop in ((0, 1), (1, 6), (6, 13)):
        run = fxp.emulate(network, x[:, start:stop], accel.Peak(), state=state, **options)
        state, pieces = run.state, [*pieces, run.outputs]
    assert (np.concatenate(pieces, axis=1) == whole.outputs).all()


CASES = st.builds(
    Case,
    seed=st.integers(0, 2**32 - 1),
    widths=st.integers(2, 8).flatmap(lambda high: st.tuples(st.just(high), st.integers(2, high))),
    profile=st.sampled_from(["float32", "fixed"]),
    accumulator_bits=st.integers(8, 32),
    overflow=st.sampled_from(["wrap", "clamp"]),
    features=st.integers(1, 12),
    hidden=st.lists(st.integers(1, 12), min_size=1, max_size=4).map(tuple),
    projection=st.sampled_from([0, 0, 1, 5]),
    directions=st.sampled_from([1, 2]),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
    weights=st.sampled_from(["uniform", "extreme", "zero", "sparse"]),
    scales=st.sampled_from(["usual", "huge", "tiny", "mixed"]),
    inputs=st.sampled_from(["normal", "zero", "extreme", "ties"]),
    controller=st.sampled_from(CONTROLLERS),
    peepholes=st.booleans(),
)


@settings(max_examples=100, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(CASES)
def test_random_networks(case):
    engines_agree(case)


@pytest.mark.parametrize("profile", ["float32", "fixed"])
@pytest.mark.parametrize("weights", ["uniform", "extreme"])
@pytest.mark.parametrize("widths", [(8, 4), (8, 8), (7, 3), (6, 2)])
def test_many_ragged_sequences_of_large_networks(profile, weights, widths):
    # Too large for the reference; the compiled engines only, one of which runs sequences side by side.
    lengths = tuple(1 + (5 * n) % 13 for n in range(37))
    case = Case(
        6, widths, profile, features=301, hidden=(130, 97), projection=70, directions=2, lengths=lengths,
        weights=weights, inputs="ties", controller="peak", accumulator_bits=12,
    )  # fmt: skip
    run = emulate(case, "portable")
    assert 0 < run.low_share < 1 and run.overflows > 0
    same_runs(run, emulate(case, "fast"))


# Accumulators from the stored indices


def low_of(index: np.ndarray, high: int, low: int) -> np.ndarray:
    if high == low:
        return index
    return np.minimum((index + 2 ** (high - low - 1)) >> (high - low), 2 ** (low - 1) - 1)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("overflow", ["wrap", "clamp"])
@pytest.mark.parametrize(("widths", "bits"), [((8, 4), 14), ((8, 4), 24), ((7, 3), 12), ((5, 5), 10)])
def test_accumulators_are_integer_products_of_the_stored_indices(engine, overflow, widths, bits):
    high, low = widths
    case = Case(
        bits, widths, accumulator_bits=bits, overflow=overflow, features=50, hidden=(40, 130), directions=2,
        lengths=(30, 7), inputs="ties", controller="random",
    )  # fmt: skip
    network, run = make_network(case), emulate(case, engine, controller=accel.Random(0.5, 1))
    top, half = 2 ** (high - 1) - 1, 2 ** (bits - 1)
    overflows = [np.zeros_like(layer.overflow_count) for layer in run.layers]
    for sequence, x in enumerate(make_inputs(case)):
        first = network.layers[0]
        scaled = x / first.input_scale / first.x_scale
        inputs = np.rint(np.clip(scaled, -top, top)).astype(np.int64)
        for at, layer in enumerate(network.layers):
            for d in range(2):
                hidden = run.layers[at].hidden(sequence, d).astype(np.int64)
                zero = np.zeros_like(hidden[:1])
                before = np.concatenate([hidden[1:], zero] if d else [zero, hidden[:-1]])
                mask = np.tile(run.layers[at].low(sequence, d), 4)
                for part, indices in enumerate((inputs, before)):
                    name = ("wx", "wh")[part]
                    weight = getattr(layer, f"{name}_index")[d].astype(np.int64)
                    low_weight = (weight >> (high - low)) + getattr(layer, f"{name}_offset")[d]
                    sums = np.where(mask, low_of(indices, high, low) @ low_weight.T, indices @ weight.T)
                    overflows[at][d, sequence] += ((sums < -half) | (sums >= half)).sum()
                    sums = np.clip(sums, -half, half - 1) if overflow == "clamp" else (sums + half) % 2 ** bits - half
                    recorded = run.layers[at].accumulators(sequence, d)[:, part]
                    same(recorded, sums.astype(np.int32), f"{name} of layer {at}")
            inputs = np.concatenate([run.layers[at].hidden(sequence, d) for d in range(2)], axis=1).astype(np.int64)
    for layer, expected in zip(run.layers, overflows, strict=True):
        same(layer.overflow_count, expected, "overflow counts")
    assert (run.overflows > 0) == (bits < 24)


# Properties of every engine


BATCH = Case(3, hidden=(9, 6), features=4, lengths=(14, 3, 1, 20, 8), projection=5)


@pytest.mark.parametrize("profile", ["float32", "fixed"])
@pytest.mark.parametrize("controller", CONTROLLERS)
@pytest.mark.parametrize("engine", ENGINES)
def test_sequences_do_not_see_each_other(engine, controller, profile):
    case = replace(BATCH, controller=controller, profile=profile, directions=2)
    network, inputs, ids = make_network(case), make_inputs(case), case.ids
    run = emulate(case, engine)
    for order in ([3], [4, 1], [2, 0, 3, 1, 4]):
        part = fxp.emulate(
            network, [inputs[n] for n in order], make_controller(case), engine=engine, record=RECORD,
            sequence_ids=[ids[n] for n in order],
        )  # fmt: skip
        for place, number in enumerate(order):
            same_layers(part, run, place, number)
            same(part.outputs[place], run.outputs[number], "outputs")
            assert (part.layers[0].low_count[:, place] == run.layers[0].low_count[:, number]).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_dense_and_ragged_batches_agree(engine):
    case = replace(BATCH, lengths=(7, 7, 7))
    listed = emulate(case, engine)
    dense = fxp.emulate(
        make_network(case), np.stack(make_inputs(case)), make_controller(case), engine=engine, record=RECORD,
        sequence_ids=case.ids,
    )  # fmt: skip
    assert isinstance(dense.outputs, np.ndarray) and dense.outputs.shape == (3, 7, 5)
    same_runs(listed, dense)


@pytest.mark.parametrize("engine", ["reference", *ENGINES])
def test_threads_change_nothing(engine):
    case = replace(BATCH, controller="peak shares", accumulator_bits=12)
    one = emulate(case, engine, threads=1)
    for threads in (2, 3, 8):
        same_runs(one, emulate(case, engine, threads=threads))


@pytest.fixture
def teams(monkeypatch):
    """Makes threads share steps however small they are; the sizes of the teams that do."""
    found = []
    run = Team.run

    def noted(self, work, give_up):
        found.append(self.size)
        run(self, work, give_up)

    monkeypatch.setattr(fast, "WORTH", 1)
    monkeypatch.setattr(emulator, "processors", lambda: 8)
    monkeypatch.setattr(Team, "run", noted)
    return found


VECTORS = [name for name in ENGINES if name in ("vnni", "avx2")]


@pytest.mark.parametrize("engine", VECTORS)
@pytest.mark.parametrize("profile", ["float32", "fixed"])
@pytest.mark.parametrize("controller", CONTROLLERS)
def test_a_team_of_threads_changes_nothing(engine, profile, controller, teams):
    case = replace(
        BATCH, controller=controller, profile=profile, accumulator_bits=12, hidden=(70, 37), lengths=(9, 2, 11, 11, 5),
    )  # fmt: skip
    for more in (
        {"projection": 0}, {"projection": 21, "peepholes": True}, {"directions": 2}, {"projection": 0, "directions": 2},
    ):  # fmt: skip
        one = emulate(replace(case, **more), engine, threads=1)
        for threads in (3, 6):
            same_runs(one, emulate(replace(case, **more), engine, threads=threads))
    assert set(teams) == {1, 3, 6}


@pytest.mark.parametrize("engine", VECTORS)
def test_teams_of_one_sequence_and_of_several_groups(engine, teams):
    for lengths, threads, sizes in (
        ((9,), 4, {4}), ((9,), 5, {5}), ((3, 4) * 9, 4, {2}), ((5,) * 3, 2, {2}), ((5,) * 4, 4, {1}), ((2,) * 20, 64, {4}),
    ):  # fmt: skip
        for projection in (0, 5):
            case = replace(BATCH, controller="peak", hidden=(33,), lengths=lengths, projection=projection)
            same_runs(emulate(case, engine, threads=1), emulate(case, engine, threads=threads))
        assert set(teams) == sizes
        teams.clear()


class Second:
    """A user's own controller that fails in sequence 1, while sequence 0 has still a long way to go."""

    def reset(self, sequence, length):
        self.sequence = sequence

    def step(self, c, h):
        if self.sequence == 1:
            raise ValueError("own fault")
        return np.zeros(len(c), bool)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_the_fault_is_told_and_not_that_others_stopped(directions, threads):
    case = replace(BATCH, directions=directions, lengths=(800, 400))
    with pytest.raises(ValueError, match="own fault"):
        fxp.emulate(make_network(case), make_inputs(case), Second(), engine="portable", threads=threads)


class Overworked(ThreadPoolExecutor):
    def submit(self, *args, **kwargs):
        raise RuntimeError("can't start new thread")


def test_nobody_waits_for_a_thread_that_does_not_come():
    gone, done = threading.Event(), []

    def work(rank):
        if rank == 1:
            raise MemoryError
        gone.wait(30)
        done.append(rank)

    with ThreadPoolExecutor(2) as pool:
        with pytest.raises(MemoryError):
            Team(3, pool).run(work, gone.set)
        assert sorted(done) == [0, 2]
    with Overworked(1) as pool, pytest.raises(RuntimeError):
        gone.clear()
        Team(2, pool).run(work, gone.set)
    assert gone.is_set()


@pytest.mark.skipif(not VECTORS, reason="no vector kernels for this processor")
@pytest.mark.parametrize("projection", [0, 5])
def test_the_kernels_of_a_team_that_gave_up_end(monkeypatch, teams, projection):
    def fails(here, steps):
        if steps == 1:
            raise MemoryError("the second thread")

    monkeypatch.setattr(team, "_move", fails)
    with pytest.raises(MemoryError, match="second thread"):
        emulate(replace(BATCH, lengths=(50,), projection=projection), VECTORS[0], threads=2)


@pytest.mark.skipif(not VECTORS, reason="no vector kernels for this processor")
def test_a_team_that_lacks_a_thread_does_not_begin(monkeypatch, teams):
    submit = ThreadPoolExecutor.submit

    def refused(self, work, *args):
        if args == (1,):
            raise RuntimeError("can't start new thread")
        return submit(self, work, *args)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refused)
    with pytest.raises(RuntimeError, match="new thread"):
        emulate(replace(BATCH, lengths=(5,)), VECTORS[0], threads=2)


@pytest.mark.parametrize("profile", ["float32", "fixed"])
@pytest.mark.parametrize("controller", CONTROLLERS)
def test_stream_in_pieces_with_changing_engines(controller, profile):
    case = replace(BATCH, controller=controller, profile=profile, lengths=(15, 15, 15), accumulator_bits=12)
    network, inputs = make_network(case), make_inputs(case)
    whole = emulate(case, "portable")
    for order in (("portable",), *((name,) for name in ENGINES[1:]), ("reference", "fast", "portable"), ENGINES[::-1]):
        state, cuts = None, [0, 1, 2, 7, 13, 15]
        low, overflows = 0, 0
        for piece, (start, stop) in enumerate(itertools.pairwise(cuts)):
            run = fxp.emulate(
                network, [x[start:stop] for x in inputs], make_controller(case), engine=order[piece % len(order)],
                record=RECORD, state=state, sequence_length=15, sequence_ids=None if state else case.ids,
            )  # fmt: skip
            for sequence in range(3):
                same_layers(run, whole, sequence, sequence, slice(start, stop))
                same(run.outputs[sequence], whole.outputs[sequence][start:stop], "outputs")
            low += sum(int(layer.low_count.sum()) for layer in run.layers)
            overflows += run.overflows
            state = run.state
        same_states(state, whole.state)
        assert low == sum(int(layer.low_count.sum()) for layer in whole.layers)
        assert overflows == whole.overflows > 0


@pytest.mark.parametrize("profile", ["float32", "fixed"])
@pytest.mark.parametrize("controller", [name for name in CONTROLLERS if name != "peak shares"])
@pytest.mark.parametrize("engine", ENGINES)
def test_prefix_of_a_sequence_gives_a_prefix_of_the_result(engine, controller, profile):
    case = replace(BATCH, controller=controller, profile=profile)
    whole = emulate(case, engine)
    for length in (1, 6, 13):
        part = fxp.emulate(
            make_network(case), [make_inputs(case)[0][:length]], make_controller(case), engine=engine,
            record=RECORD, sequence_ids=case.ids[:1],
        )  # fmt: skip
        same_layers(part, whole, 0, 0, slice(length))
        same(part.outputs[0], whole.outputs[0][:length], "outputs")


@pytest.mark.parametrize("engine", ["reference", *ENGINES])
def test_directions_side_by_side_change_nothing(engine):
    case = replace(BATCH, controller="peak shares", directions=2, lengths=(11,))
    one = emulate(case, engine, threads=1)
    for threads in (2, 4):
        same_runs(one, emulate(case, engine, threads=threads))


class Meeting:
    """A user's own controller whose forward and backward directions wait for each other in every step."""

    def __init__(self, barrier, fails=False):
        self.barrier, self.fails = barrier, fails

    def __deepcopy__(self, memo):
        return Meeting(self.barrier, self.fails)

    def reset(self, sequence, length, direction):
        self.direction = direction

    def step(self, c, h):
        if self.fails and self.direction:
            raise ValueError("backward")
        if not self.fails:
            self.barrier.wait(30)
        return np.zeros(len(c), bool)


def test_two_threads_take_a_direction_each():
    case = replace(BATCH, directions=2, lengths=(4,))
    emulate(case, "portable", controller=Meeting(threading.Barrier(2)), threads=2)
    with pytest.raises(ValueError, match="backward"):
        emulate(case, "portable", controller=Meeting(None, fails=True), threads=2)


@pytest.mark.parametrize("profile", ["float32", "fixed"])
@pytest.mark.parametrize("engine", ["reference", *ENGINES])
def test_replaying_the_plan_of_peak_gives_its_bits(engine, profile, tmp_path):
    case = replace(BATCH, controller="peak", profile=profile, directions=2)
    path = tmp_path / "run.h5"
    run = emulate(case, engine, trace=path)
    assert 0 < run.low_share < 1
    with traces.open(path) as trace:
        for plan in (run, trace):
            replay = emulate(case, engine, controller=accel.Schedule(plan))
            for sequence in range(len(case.lengths)):
                same_layers(replay, run, sequence, sequence)
                same(replay.outputs[sequence], run.outputs[sequence], "outputs")


class Steered:
    """A user's own controller: the twin of a built-in one, called through the Python protocol."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def reset(self, sequence, length, layer, direction, hidden):
        high, low = self.case.widths
        self.twin = twin(
            make_controller(self.case), profile=self.case.profile, hidden=hidden, length=length, sequence=sequence,
            layer=layer, direction=direction, high=high, low=low,
        )  # fmt: skip
        return self.twin.first()

    def step(self, c, h):
        return self.twin.step([int(v) if self.case.profile == "fixed" else v for v in c], [int(v) for v in h])


@pytest.mark.parametrize("profile", ["float32", "fixed"])
@pytest.mark.parametrize("controller", ["random", "peak shares", "delta"])
@pytest.mark.parametrize("engine", ["reference", *ENGINES])
def test_own_python_controller_gives_the_bits_of_the_built_in_one(engine, controller, profile):
    case = replace(BATCH, controller=controller, profile=profile, directions=2, lengths=(8, 1, 5))
    built_in, own = emulate(case, engine), emulate(case, engine, controller=Steered(case))
    for sequence in range(3):
        same_layers(own, built_in, sequence, sequence)
        same(own.outputs[sequence], built_in.outputs[sequence], "outputs")


@pytest.mark.parametrize("controller", [
    accel.Delta(2.0**-12 + 2.0**-50, False), accel.Delta(0.5 + 2.0**-13 + 2.0**-40, True),
    accel.Peak(0.5 + 2.0**-13 + 2.0**-40),
])  # fmt: skip
def test_parameters_become_binary32_before_they_become_integers(controller):
    # Above a tie in binary64, on it in binary32: the even neighbour is 0, 2048 and 2048.
    site = accel.Site(0, 100, 0, 0, 1, 8, 4, "fixed")
    place = accel_reference.Place("fixed", 1, 100, 0, 0, 0, 8, 4)
    if isinstance(controller, accel.Peak):
        assert controller.encode(site).counts[3] == accel_reference.PeakTwin(controller, place).beta_fixed == 2048
    else:
        expected = 2048 if controller.relative else 0
        assert controller.encode(site).counts[1] == expected


# Long sequences


@pytest.mark.parametrize("profile", ["float32", "fixed"])
@pytest.mark.parametrize("controller", ["peak shares", "random", "schedule"])
@pytest.mark.parametrize("limit", [0, 10**9])
def test_pieces_of_long_sequences_change_nothing(monkeypatch, limit, controller, profile):
    from fxp import emulator, spill

    for directions in (1, 2):
        case = replace(BATCH, controller=controller, profile=profile, directions=directions)
        whole = emulate(case, "portable")
        monkeypatch.setattr(spill, "LIMIT", limit)
        for steps in (1, 3, 8):
            monkeypatch.setattr(emulator, "STEPS", steps)
            for engine in ENGINES:
                same_runs(whole, emulate(case, engine))
        monkeypatch.undo()


def test_replay_of_a_trace_in_pieces(monkeypatch, tmp_path):
    from fxp import emulator

    monkeypatch.setattr(emulator, "STEPS", 3)
    case = replace(BATCH, controller="peak", directions=2)
    run = emulate(case, "fast", trace=tmp_path / "run.h5")
    with traces.open(tmp_path / "run.h5") as trace:
        for plan in (run, trace):
            replay = emulate(case, "fast", controller=accel.Schedule(plan))
            for sequence in range(len(case.lengths)):
                same_layers(replay, run, sequence, sequence)


def test_a_schedule_is_not_copied():
    plan = np.random.default_rng(0).random((100, 5)) < 0.5
    site = accel.Site(0, 100, 0, 0, 5, 8, 4, "float32")
    encoded = accel.Schedule(plan).window(site, 10, 20)
    assert np.shares_memory(encoded.plan, plan) and encoded.first == 10
    assert (encoded.plan == plan[10:21]).all()


def test_temporary_file_goes_with_an_error(monkeypatch, tmp_path):
    import tempfile

    from fxp import emulator, spill

    monkeypatch.setattr(spill, "LIMIT", 0)
    monkeypatch.setattr(emulator, "STEPS", 3)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    case = replace(BATCH, directions=2)
    opened = []
    made = tempfile.TemporaryFile

    def noted(**options):
        opened.append(made(**options))
        return opened[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", noted)
    network, inputs = make_network(case), make_inputs(case)
    inputs[3][15] = np.nan
    with pytest.raises(traces.InputError, match="NaN"):
        fxp.emulate(network, inputs, accel.Peak(0.1, 2, 3, 2))
    assert opened and all(file.closed for file in opened)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(traces.InputError, match="TMPDIR"):
        fxp.emulate(make_network(case), make_inputs(case), accel.Peak(0.1, 2, 3, 2))


@pytest.mark.parametrize("copied", [lambda n: pickle.loads(pickle.dumps(n)), copy.deepcopy], ids=["pickle", "deepcopy"])
def test_copies_of_a_network_that_has_run_are_networks(copied):
    case = Case(seed=5, hidden=(70,), controller="peak")
    network, inputs = make_network(case), make_inputs(case)
    first = fxp.emulate(network, inputs, accel.Peak())
    twin = copied(network)
    assert "prepared" not in vars(twin)
    del network
    again = fxp.emulate(twin, inputs, accel.Peak())
    assert all((a == b).all() for a, b in zip(first.outputs, again.outputs, strict=True))
