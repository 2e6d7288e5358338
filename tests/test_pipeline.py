"""The emulator as users call it, and the whole path from a module to an estimate."""

import json
import math

import numpy as np
import pytest

import accel
import fxp
import traces
from traces import InputError

F32 = np.float32
RECORD = ("plan", "cell", "hidden", "accumulators")
PEAK = accel.Peak(0.05, 2, 4, 2)  # counts, so that it needs no length


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(F32)


@pytest.fixture(scope="module")
def network(make_network):
    return make_network((6, 4))


@pytest.fixture(scope="module")
def both_ways(make_network):
    return make_network((6, 4), directions=2)


# Forms of inputs and outputs


def test_a_batch_gives_a_batch_and_a_list_a_list(network):
    x = normal(4, 7, 3)
    outputs = fxp.emulate(network, x, PEAK).outputs
    assert outputs.shape == (4, 7, 4) and outputs.dtype == F32
    data = traces.Data.of(list(x))
    for form in (list(x), tuple(x), x.tolist(), [row.tolist() for row in x], data):
        listed = fxp.emulate(network, form, PEAK).outputs
        assert isinstance(listed, list) and all((a == b).all() for a, b in zip(listed, outputs, strict=True))
    assert (fxp.emulate(network, x.astype(np.float64), PEAK).outputs == outputs).all()
    assert (fxp.emulate(network, np.asfortranarray(x), PEAK).outputs == outputs).all()
    whole = np.round(4 * x)
    assert (
        fxp.emulate(network, whole.astype(np.int64), PEAK).outputs == fxp.emulate(network, whole, PEAK).outputs
    ).all()


def test_sequences_of_unequal_length_and_files(network, tmp_path):
    x = [normal(time, 3, seed=time) for time in (5, 1, 9)]
    run = fxp.emulate(network, x, PEAK)
    assert [v.shape for v in run.outputs] == [(5, 4), (1, 4), (9, 4)] and run.lengths.tolist() == [5, 1, 9]
    traces.Data.of(x, ids=[8, 9, 10]).write(tmp_path / "x.h5")
    with traces.open(tmp_path / "x.h5") as file:
        streamed = fxp.emulate(network, file, PEAK)
        assert all((a == b).all() for a, b in zip(streamed.outputs, run.outputs, strict=True))
        assert streamed.ids.tolist() == [8, 9, 10]


def test_tokens(make_network):
    network = make_network(embedding=7)
    tokens = np.random.default_rng(0).integers(0, 7, (3, 8))
    expected = fxp.emulate(make_network(embedding=7), tokens, PEAK).outputs
    forms = (tokens.astype(np.uint8), tokens.astype(np.int16), list(tokens), tokens.tolist(), traces.Data.of(tokens))
    for form in forms:
        assert (np.stack(list(fxp.emulate(network, form, PEAK).outputs)) == expected).all()
    for bad, message in [
        (tokens + 1, "sequence . *: tokens lie outside 0 to 6|outside 0 to 6"), (tokens - 1, "outside 0 to 6"),
        (tokens.astype(F32), "int tokens"), (normal(3, 8, 3), "2|dimensions"), (tokens[0], "dimensions"),
        (traces.Data.of(list(normal(3, 8, 3))), "dimensions"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=message):
            fxp.emulate(network, bad, PEAK)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (None, "NoneType"), (3, "int"), ("x.npy", "str"), ({"x": 1}, "dict"), ([], "no input sequences"),
        (np.zeros((0, 4, 3)), "no input sequences"), (np.zeros((2, 0, 3)), "sequence 0 is empty"),
        ([normal(3, 3), normal(0, 3)], "sequence 1 is empty"), (normal(4, 3), "2 dimensions"),
        (normal(4), "1 dimensions"),
        ([normal(4)], "sequence 0: inputs of 1 dimensions"), (normal(2, 4, 2), "2 features, but the network takes 3"),
        ([normal(4, 3), normal(4, 4)], "sequence 1: 4 features"), (normal(2, 4, 3).astype(complex), "complex"),
        (np.full((2, 4, 3), "a"), "expected float32"), (np.full((2, 4, 3), None), "expected float32"),
        ([[[1, 2, 3], [4, 5]]], "sequence 0: the inputs do not form an array"),
        (np.full((1, 4, 3), np.nan), "sequence 0: NaN or infinite"), (np.full((1, 4, 3), 1e300), "NaN or infinite"),
        (np.zeros((2, 4, 3), bool), "type bool"), (traces.Data.of(list(normal(2, 4, 2))), "2 features"),
        (traces.Data.of([[1, 2]]), "dimensions"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_inputs_that_do_not_fit(network, tmp_path, inputs, message):
    with pytest.raises(InputError, match=message):
        fxp.emulate(network, inputs, PEAK, trace=tmp_path / "t.h5")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"engine": "quick"}, "engine"), ({"engine": None}, "engine"), ({"threads": 0}, "threads"),
        ({"threads": 1.5}, "threads"),
        ({"threads": True}, "threads"), ({"record": "all"}, "record names 'all'"),
        ({"record": ("plan", 3)}, "record names 3"),
        ({"record": 3}, "record is 3"), ({"record": None}, "record is None"), ({"trace": 3}, "path is 3"),
        ({"trace": "/nothing/t.h5"}, "/nothing/t.h5: cannot be written"), ({"trace": "/"}, "not a regular file"),
        ({"sequence_ids": [1]}, "1 sequence_ids for 2"), ({"sequence_ids": 3}, "64-bit"),
        ({"sequence_ids": ["a", "b"]}, "64-bit"),
        ({"sequence_ids": [1.0, 2.0]}, "64-bit"), ({"sequence_ids": [2**63, 1]}, "64-bit"),
        ({"sequence_ids": [[1], [2, 3]]}, "64-bit"),
        ({"sequence_ids": [4, 4], "trace": "t.h5"}, "more than once"), ({"sequence_length": 0}, "positive int"),
        ({"sequence_length": 4.5}, "positive int"), ({"sequence_length": [9]}, "positive int"),
        ({"sequence_length": "9"}, "positive int"),
        ({"sequence_length": [9, [9]]}, "positive int"), ({"sequence_length": True}, "positive int"),
        ({"sequence_length": [9, 4]}, "sequence 1 has 5 steps, sequence_length says 4"),
        ({"state": 3}, "state has to be"),
    ],
    ids=str,
)  # fmt: skip
def test_options_that_do_not_fit(network, tmp_path, monkeypatch, option, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        fxp.emulate(network, normal(2, 5, 3), PEAK, **option)
    assert not list(tmp_path.iterdir())


def test_only_networks_are_emulated(network):
    for thing in (network.model, "model.h5", None):
        with pytest.raises(InputError, match=r"expected fxp\.Network"):
            fxp.emulate(thing, normal(1, 2, 3))


# What a run and its trace hold


@pytest.mark.parametrize("profile", ["float32", "fixed"])
@pytest.mark.parametrize("directions", [1, 2])
def test_accessors_in_memory_and_in_the_trace_agree(make_network, tmp_path, profile, directions):
    network = make_network((6, 9), directions=directions, projection=4, profile=profile, accumulator_bits=12)
    x, path = [normal(time, 3, seed=time) for time in (5, 1, 9)], tmp_path / "run.h5"
    options = {"record": RECORD, "trace": path, "sequence_ids": [7, 1, 4], "data_digest": "ab"}
    run = fxp.emulate(network, x, accel.Random(0.3, 5), **options)
    shares = []
    with traces.open(path, kind="trace") as trace:
        assert trace.ids.tolist() == run.ids.tolist() == [7, 1, 4]
        assert trace.offsets.tolist() == run.offsets.tolist() == [0, 5, 6, 15] and trace.lengths.tolist() == [5, 1, 9]
        assert trace.controller == run.controller == {"name": "random", "low_share": 0.3, "seed": 5} and trace.seed == 5
        assert (trace.high, trace.low, trace.profile) == (run.high, run.low, run.profile) == (8, 4, profile)
        assert trace.model_digest == run.model_digest == network.digest and trace.data_digest == "ab"
        assert trace.package_version == fxp.__version__ and trace.accumulator_bits == 12
        assert trace.low_share == run.low_share
        for number, (a, b) in enumerate(zip(run.layers, trace.layers, strict=True)):
            for name in ("input_size", "hidden_size", "output_size", "directions", "projected", "low_share"):
                assert getattr(a, name) == getattr(b, name)
            assert (a.low_count == b.low_count).all() and (a.overflow_count == b.overflow_count).all()
            assert a.low_count.shape == (directions, 3) and a.low_count.dtype == np.int64
            for d in range(directions):
                assert (a.packed(3, 11, d) == b.packed(3, 11, d)).all()
                for n, time in enumerate((5, 1, 9)):
                    low = a.low(n, d)
                    assert low.dtype == bool and low.shape == (time, a.hidden_size) and low.sum() == a.low_count[d, n]
                    shares += [low.mean()] * low.size
                    for name, shape, kind in (
                        ("low", low.shape, bool), ("hidden", (time, 4), np.int8),
                        ("cell", low.shape, F32 if profile == "float32" else np.int16),
                        ("accumulators", (time, 2, 4 * a.hidden_size), np.int32),
                    ):  # fmt: skip
                        mine, stored = getattr(a, name)(n, d), getattr(b, name)(n, d)
                        assert mine.shape == shape and mine.dtype == stored.dtype == kind and (mine == stored).all()
            last = number == 1
            for n in range(3) if last else ():
                h = np.concatenate([a.hidden(n, d) for d in range(directions)], axis=1)
                assert (run.outputs[n] == h.astype(F32) * network.layers[1].h_scale).all()
    assert run.low_share == pytest.approx(np.mean(shares)) and run.overflows > 0
    assert run.overflows == sum(int(layer.overflow_count.sum()) for layer in run.layers)


def test_what_was_not_recorded_or_is_not_there(network):
    run = fxp.emulate(network, normal(2, 5, 3), PEAK, record="hidden")
    layer = run.layers[0]
    assert layer.hidden(1).shape == (5, 6)
    for name in ("low", "cell", "accumulators"):
        with pytest.raises(InputError, match="was not recorded"):
            getattr(layer, name)(0)
    for arguments in ((2,), (-1,), (0, 1), (0, -1)):
        with pytest.raises(InputError):
            layer.hidden(*arguments)


def test_threads_and_engines_change_no_bit(network, tmp_path):
    x = [normal(time, 3, seed=time) for time in (9, 2, 5, 7, 1)]
    digests, outputs = set(), []
    for number, (engine, threads) in enumerate((e, t) for e in ("fast", "portable", "reference") for t in (1, 3)):
        run = fxp.emulate(network, x, PEAK, engine, threads, trace=tmp_path / f"{number}.h5", record=RECORD)
        with traces.open(tmp_path / f"{number}.h5") as trace:
            digests.add(trace.digest())
        outputs.append(np.concatenate(run.outputs))
    assert len(digests) == 1 and all((o == outputs[0]).all() for o in outputs)


def test_defaults(network):
    run = fxp.emulate(network, normal(2, 5, 3))
    assert run.controller == {"name": "peak", "beta": 0.1, "profile_steps": 10, "max_stable": 0.05, "max_peak": 0.05}
    assert run.ids.tolist() == [0, 1] and not run.layers[0].arrays
    steps = []
    fxp.emulate(network, normal(2, 5, 3), progress=steps.append)
    assert sum(steps) == 10


def test_documented_arrays_of_a_network(both_ways):
    layer = both_ways.layers[1]
    shapes = {
        "wx_index": (2, 16, 12), "wh_index": (2, 16, 4), "wx_offset": (2, 16, 12), "wh_offset": (2, 16, 4),
        "wx_scale": (2, 16), "wh_scale": (2, 16), "bias": (2, 16), "low_bias": (2, 16), "input_scale": (12,),
        "wx_float": (2, 16, 12), "wh_float": (2, 16, 4), "x_scale": (), "h_scale": (),
    }  # fmt: skip
    for name, shape in shapes.items():
        assert np.shape(getattr(layer, name)) == shape, name
    assert layer.wx_index.dtype == np.int8 and layer.wx_offset.dtype == np.uint8 and layer.bias.dtype == F32
    assert (both_ways.features, both_ways.outputs, both_ways.directions) == (3, 8, 2)
    assert repr(both_ways) == "Network(3->6 x2, 12->4 x2; 8/4 bits, float32)"
    with pytest.raises(AttributeError):
        _ = both_ways.nothing


def test_save_and_load(network, tmp_path):
    fxp.save(network, tmp_path / "m.h5")
    loaded = fxp.load(tmp_path / "m.h5")
    assert loaded.digest == network.digest and loaded.formats == network.formats
    x = normal(2, 5, 3)
    assert (fxp.emulate(loaded, x, PEAK).outputs == fxp.emulate(network, x, PEAK).outputs).all()
    for path in (tmp_path / "nothing.h5", tmp_path, 3, None):
        with pytest.raises(InputError):
            fxp.load(path)
    for path in (tmp_path, tmp_path / "no" / "m.h5", None):
        with pytest.raises(InputError):
            fxp.save(network, path)


# Streams


def pieces(network, x, cuts, controller, **options):
    """Outputs and plans of x [batch, time, features] fed in pieces, and the last state."""
    outputs, plans, state = [], [], None
    for start, stop in zip([0, *cuts], [*cuts, x.shape[1]], strict=True):
        run = fxp.emulate(network, x[:, start:stop], controller, state=state, record="plan", **options)
        outputs.append(run.outputs)
        plans.append(np.stack([[layer.low(n).sum(axis=1) for layer in run.layers] for n in range(len(x))], axis=-1))
        state = run.state
    return np.concatenate(outputs, axis=1), np.concatenate(plans, axis=1), state


@pytest.mark.parametrize(
    "controller",
    [PEAK, accel.Peak(0.05, 0.1, 0.25, 0.15), accel.Static(4), accel.Random(0.5), accel.Delta(0.2),
     accel.Schedule([np.random.default_rng(0).random((20, n)) < 0.5 for n in (6, 4)]),
     accel.Schedule([np.array([1, 0] * (n // 2), bool) for n in (6, 4)])],
    ids=["peak", "peak with shares", "static", "random", "delta", "schedule", "schedule of one mask"],
)  # fmt: skip
def test_pieces_give_what_the_whole_gives(network, controller):
    x = normal(3, 20, 3)
    whole = fxp.emulate(network, x, controller, record="plan")
    expected = np.stack([[layer.low(n).sum(axis=1) for layer in whole.layers] for n in range(3)], axis=-1)
    for options in [{"sequence_length": 20}, {"sequence_length": [20, 20, 20]}, {}]:
        if not options and controller.needs_length:
            continue
        outputs, plans, state = pieces(network, x, [1, 8, 9, 15], controller, **options)
        assert (outputs == whole.outputs).all() and (plans == expected).all()
        assert [s.steps for s in state.sequences] == [20, 20, 20] and [s.id for s in state.sequences] == [0, 1, 2]
        for mine, other in zip(state.sequences, whole.state.sequences, strict=True):
            for a, b in zip(mine.layers, other.layers, strict=True):
                assert (a.h == b.h).all() and (a.c == b.c).all()


def test_going_on_leaves_the_old_state_as_it_was(network):
    x = normal(2, 10, 3)
    first = fxp.emulate(network, x[:, :4], PEAK)
    a, b = (fxp.emulate(network, x[:, 4:], PEAK, state=first.state).outputs for _ in range(2))
    assert (a == b).all() and first.state.sequences[0].steps == 4
    assert len(first.state) == 2


def test_states_keep_ids(network):
    x, random = normal(2, 10, 3), accel.Random(0.5)
    whole = fxp.emulate(network, x, random, sequence_ids=[5, 3])
    first = fxp.emulate(network, x[:, :4], random, sequence_ids=[5, 3])
    rest = fxp.emulate(network, x[:, 4:], random, state=first.state)
    assert rest.ids.tolist() == [5, 3] and (rest.outputs == whole.outputs[:, 4:]).all()
    fxp.emulate(network, x[:, 4:], random, state=first.state, sequence_ids=[5, 3])
    with pytest.raises(InputError, match="the state goes on from sequences"):
        fxp.emulate(network, x[:, 4:], random, state=first.state, sequence_ids=[3, 5])


def test_continuations_that_do_not_fit(network, both_ways, make_network):
    x = normal(2, 10, 3)
    state = fxp.emulate(network, x[:, :4], PEAK).state
    other = make_network((6, 4), seed=9)
    shares, declared = fxp.emulate(network, x[:, :4]).state, fxp.emulate(network, x[:, :4], sequence_length=10).state
    short = accel.Schedule([np.zeros((6, n), bool) for n in (6, 4)])
    scheduled = fxp.emulate(network, x[:, :4], short).state
    for target, inputs, controller, options, message in [
        (network, x[:1], PEAK, {"state": state}, "state has 2 sequences, the inputs have 1"),
        (other, x, PEAK, {"state": state}, "another network"),
        (network, x, accel.Static(4), {"state": state}, "another controller"),
        (network, x, accel.Peak(0.06, 2, 4, 2), {"state": state}, "another controller"),
        (both_ways, x, PEAK, {"state": state}, "bidirectional"),
        (network, x[:, 4:], None, {"state": shares}, "give sequence_length with the first piece"),
        (network, x[:, 4:], None, {"state": shares, "sequence_length": 10}, "length was taken as 4"),
        (network, x[:, 4:], None, {"state": declared, "sequence_length": 12}, "length was taken as 10"),
        (network, x, None, {"state": declared}, "14 steps, but its length was taken as 10"),
        (network, x, PEAK, {"state": state, "sequence_length": 12}, "has 14 steps, sequence_length says 12"),
        (network, x[:, 4:], short, {"state": scheduled}, "has 10 steps, its plan in layer 0 only 6"),
        (both_ways, x, PEAK, {"sequence_length": 12}, "a bidirectional network needs whole sequences"),
    ]:
        with pytest.raises(InputError, match=message):
            fxp.emulate(target, inputs, controller, **options)
    assert fxp.emulate(both_ways, x, PEAK, sequence_length=10).state is None
    fxp.emulate(network, x[:, 4:6], short, state=scheduled)


def test_a_long_sequence_is_processed_in_windows(make_network):
    """Longer than the emulator's window, so that its own cutting is covered as well."""
    network, x = make_network((2,), 1), normal(1, 9000, 1)
    controller = accel.Peak()
    run = fxp.emulate(network, x, controller)
    outputs, _, _ = pieces(network, x, [4096, 5000], controller, sequence_length=9000)
    assert (run.outputs == outputs).all() and 0 < run.low_share < 1


# From a module to an estimate


@pytest.mark.torch
def test_module_to_estimate(tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module, head = torch.nn.LSTM(5, 16, num_layers=2, batch_first=True), torch.nn.Linear(16, 3)
    x = normal(6, 30, 5)
    labels = np.random.default_rng(1).integers(0, 3, 6)
    model, trace, result = (tmp_path / name for name in ("model.h5", "run.h5", "estimate.h5"))

    fxp.save(fxp.from_torch(module, x, traces.Head(*(p.detach().numpy() for p in head.parameters()), "last")), model)
    network = fxp.load(model)
    run = fxp.emulate(network, x, accel.Peak(), trace=trace, record=("plan",))
    estimate = accel.estimate(trace, "epur-dyn", baseline="epur-sip")
    estimate.write(result)

    assert 0 < run.low_share < 1 and estimate.low_share == run.low_share
    assert estimate.to_dict() == {**accel.estimate(run).to_dict(), "trace_digest": estimate.trace_digest}
    with traces.open(trace) as opened:
        assert estimate.trace_digest == opened.digest() and opened.model_digest == network.digest
    own, base = estimate.cost, estimate.baseline_cost
    assert estimate.speedup == base.time_s / own.time_s
    assert estimate.energy_saving == pytest.approx(1 - own.energy_pj / base.energy_pj, rel=1e-12)
    assert own.energy_pj == pytest.approx(sum(p["dynamic_pj"] + p["static_pj"] for p in own.components.values()))
    assert estimate.area_overhead > 0 and estimate.cycles == own.cycles
    static = accel.estimate(fxp.emulate(network, x, accel.Static(8), record="plan"), "epur-sip", baseline=None)
    assert static.cycles == base.cycles and math.isclose(static.energy_pj, base.energy_pj, rel_tol=1e-12)
    assert json.loads(json.dumps(traces.open(result).record)) == json.loads(json.dumps(estimate.to_dict()))

    table = fxp.evaluate(network, traces.Data.of(list(x), list(labels)), ["float", accel.Static(8), accel.Peak()])
    assert [row.controller for row in table] == ["float", "static", "peak"] and table[2].low_share == run.low_share
    logits = run.outputs[:, -1].astype(float) @ network.model.head.weight.T.astype(float) + network.model.head.bias
    loss = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(6), labels]
    assert table.metric == "cross_entropy" and table[2].metric == pytest.approx(loss.mean(), rel=1e-5)
