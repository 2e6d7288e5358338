"""Calibration: the fit of the offset bits, gradients, the controller, and what users call."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest

import accel
import fxp
import traces
from fxp import calibration, cli, floating, foresight, intervals, offsets, readout, sensitivity
from fxp.kernels import offsets as kernels
from fxp.observation import Observation, as_data, chosen
from fxp.quantise import build, float_layers, low_activations
from traces import InputError

SHAPES = [
    {"hidden": (10,), "classes": 4},
    {"hidden": (7, 9), "directions": 2, "classes": 4},
    {"hidden": (8, 8), "projection": 5, "profile": "fixed"},
    {"hidden": (6,), "directions": 2, "projection": 4, "classes": 3, "scope": "last"},
    {"hidden": (12,), "high": 6, "low": 3},
    {"hidden": (7, 6), "directions": 2, "peepholes": True, "classes": 4},
]


def make_data(network, sequences=12, length=25, seed=1):
    rng = np.random.default_rng(seed)
    lengths = [length + n % 4 for n in range(sequences)]
    inputs = [rng.normal(size=(n, network.features)).astype(np.float32) for n in lengths]
    head, labels = network.model.head, None
    if head is not None:
        sizes = lengths if head.scope == "step" else [1] * sequences
        labels = [rng.integers(0, len(head.bias), n).astype(np.int32) for n in sizes]
    return traces.Data.of(inputs, labels)


@pytest.fixture(params=range(len(SHAPES)), ids=str)
def case(request, make_network):
    network = make_network(seed=request.param, **SHAPES[request.param])
    return network, make_data(network)


# The fit of the offset bits


def problem_of(network, data, layer=0, direction=0):
    observation = Observation(network, data)
    side = observation.side(layer, direction)
    steps = offsets.spread(len(side.x))
    return observation, offsets.Problem(network.layers[layer], direction, network.formats, side, steps), side


def weighted_error(network, layer, direction, side, offset, row):
    """Mean and variance of the error of z, from the formulas, under the weights of the gate's slope."""
    stored, formats = network.layers[layer], network.formats
    high_h = side.h_index * np.float64(stored.h_scale)
    z = stored.bias[direction][row] + side.x.astype(np.float64) @ stored.wx_float[direction][row]
    z = z + high_h @ stored.wh_float[direction][row].astype(np.float64)
    index = np.concatenate([stored.wx_index[direction][row], stored.wh_index[direction][row]]).astype(int)
    low = (index >> formats.shift) + offset
    width = stored.input_size
    four = 4.0**formats.shift
    x = low_activations(side.x_index, formats).astype(int) @ low[:width]
    h = low_activations(side.h_index, formats).astype(int) @ low[width:]
    x = x * float(stored.wx_scale[direction][row]) * float(stored.x_scale) * four
    h = h * float(stored.wh_scale[direction][row]) * float(stored.h_scale) * four
    slope = 1 - np.tanh(z) ** 2 if row // stored.hidden_size == 2 else 1 / (1 + np.exp(-z)) / (1 + np.exp(z))
    weight = slope**2 / (slope**2).sum()
    error = z - stored.bias[direction][row] - x - h
    mean = float(weight @ error)
    return mean, float(weight @ (error - mean) ** 2)


def given_bits(layer, direction):
    return np.concatenate([layer.wx_offset[direction], layer.wh_offset[direction]], axis=1)


def test_descent_never_raises_the_error_and_ends_where_no_single_bit_helps(case):
    network, data = case
    for number, layer in enumerate(network.layers):
        direction = layer.directions - 1
        _, problem, side = problem_of(network, data, number, direction)
        given = given_bits(layer, direction)
        rows = slice(0, len(given))
        previous = first = None
        for sweeps in (0, 1, 2, 60):
            bits, record = problem.solve(rows, given, sweeps)
            exact = [weighted_error(network, number, direction, side, bits[r], r) for r in range(len(given))]
            errors = np.array([variance for _, variance in exact])
            assert np.allclose(record[:, 1], errors, rtol=1e-4, atol=1e-9)
            assert np.allclose(record[:, 2], [mean for mean, _ in exact], rtol=1e-3, atol=1e-5)
            if previous is not None:
                assert (errors <= previous * (1 + 1e-9)).all()
            previous = errors
            first = errors if first is None else first
        assert previous.sum() < first.sum()
        row = len(given) // 2
        for j in np.flatnonzero(problem.free[row]):
            flipped = bits[row].copy()
            flipped[j] ^= 1
            _, other = weighted_error(network, number, direction, side, flipped, row)
            assert other >= previous[row] - 1e-6 * record[row, 0]


def test_descent_against_a_plain_twin():
    rng = np.random.default_rng(3)
    columns = rng.integers(-8, 8, (9, 150)).astype(np.int8)
    weight = rng.random((5, 150))
    weight /= weight.sum(axis=1, keepdims=True)
    error, step = rng.normal(size=(5, 150)), rng.uniform(0.02, 0.2, (5, 9))
    free, offset = (rng.random((5, 9)) < 0.8).astype(np.uint8), rng.integers(0, 2, (5, 9)).astype(np.uint8)
    mean, spread = np.empty((5, 9)), np.empty((5, 9))
    kernels.moments(np.ascontiguousarray(columns.T), weight, mean, spread)
    assert np.allclose(mean, weight @ columns.T, atol=1e-12)
    assert np.allclose(spread, weight @ (columns.T.astype(float) ** 2) - mean**2, atol=1e-12)

    def variance(row, bits):
        moved = error[row] - ((bits.astype(float) - offset[row]) * step[row]) @ columns
        return weight[row] @ moved**2 - (weight[row] @ moved) ** 2

    wanted = offset.copy()
    for row in range(5):
        for _ in range(3):
            for j in np.flatnonzero(free[row]):
                other = wanted[row].copy()
                other[j] ^= 1
                if variance(row, other) < variance(row, wanted[row]):
                    wanted[row] = other
    found, record = offset.copy(), np.empty((5, 3))
    kernels.descend(columns, weight, error, mean, spread, step, free, found, 3, record)
    assert (found == wanted).all()
    assert (found != offset).any()
    assert np.allclose(record[:, 1], [variance(r, found[r]) for r in range(5)])
    left = error - ((found.astype(float) - offset) * step) @ columns
    assert np.allclose(record[:, 2], (weight * left).sum(axis=1))


def test_fit_starts_near_the_least_squares_and_ends_no_worse_than_it_began(case):
    network, data = case
    observation, problem, side = problem_of(network, data)
    layer, steps = network.layers[0], offsets.spread(len(side.x))
    given, rows = given_bits(layer, 0), slice(0, 4 * layer.hidden_size)
    started, from_given = (problem.solve(rows, bits, 50)[1][:, 1] for bits in (problem.start(), given))
    assert started.mean() < 1.02 * from_given.mean()
    assert (problem.start() <= problem.free).all()
    importance = sensitivity.magnitudes(observation, steps)[0][0]
    made = offsets.fit(layer, 0, network.formats, side, steps=steps, importance=importance)
    assert (made.after <= made.before).all()
    assert made.after.sum() < 0.9 * made.before.sum()
    weighed = offsets.Problem(layer, 0, network.formats, side, steps, importance)
    bits = np.concatenate([made.wx_offset, made.wh_offset], axis=1)
    assert np.allclose(weighed.variance(rows, bits), made.after, rtol=1e-6, atol=1e-12)
    assert np.allclose(weighed.weights(rows), (importance / importance.sum(axis=0)).T, atol=1e-6)


@pytest.mark.parametrize("limit", [sensitivity.KEPT, 0])
@pytest.mark.parametrize("number", range(len(SHAPES)))
def test_gradients_of_one_pass_serve_the_next(number, limit, make_network, monkeypatch):
    network = make_network(seed=number, **SHAPES[number])
    observation = Observation(network, make_data(network, 7, 9))
    monkeypatch.setattr(sensitivity, "BATCH_STEPS", 20)
    monkeypatch.setattr(sensitivity, "KEPT", limit)
    steps = np.arange(0, observation.steps, 2)
    kept = sensitivity.Kept()
    found = [sensitivity.magnitudes(observation, steps), sensitivity.magnitudes(observation, steps, kept=kept)]
    wanted = list(sensitivity.impacts(network.layers, observation))
    passes = []
    whole = sensitivity._unrolled
    monkeypatch.setattr(sensitivity, "_unrolled", lambda *given: passes.append(1) or whole(*given))
    for _ in range(2):
        given = list(sensitivity.impacts(network.layers, observation, kept=kept))
        assert [(i.layer, i.direction, i.members) for i in given] == [(i.layer, i.direction, i.members) for i in wanted]
        assert all(np.array_equal(a.values, b.values) for a, b in zip(given, wanted, strict=True))
    assert kept.complete == (not passes) == (limit > 0)
    for a, b in zip(*found, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("number", range(len(SHAPES)))
def test_magnitudes_are_the_gradients_of_the_impacts(number, make_network, monkeypatch):
    network = make_network(seed=number, **SHAPES[number])
    observation = Observation(network, make_data(network, 5, 9))
    gate = 2

    def one_gate(layer, number, direction, observation, members):
        h = np.concatenate([observation.before(number, direction, n) for n in members])
        error = np.zeros((len(h), 4, layer.hidden_size), np.float32)
        error[:, gate] = 1
        return error.reshape(len(h), -1), h

    monkeypatch.setattr(sensitivity, "_errors", one_gate)
    found = sensitivity.magnitudes(observation, np.arange(observation.steps))
    some = sensitivity.magnitudes(observation, np.arange(1, observation.steps, 3))
    order = sorted(range(5), key=lambda n: -observation.lengths[n])
    starts = np.concatenate([[0], np.cumsum(observation.lengths)])
    place = np.concatenate([np.arange(starts[n], starts[n + 1]) for n in order])
    for impact in sensitivity.impacts(network.layers, observation):
        width = network.layers[impact.layer].hidden_size
        values = found[impact.layer][impact.direction]
        assert np.array_equal(values[place, gate * width : (gate + 1) * width], np.abs(impact.values))
        assert np.array_equal(some[impact.layer][impact.direction], values[1::3])


def test_calibration_leaves_the_high_path_and_gives_a_valid_model(case):
    network, data = case
    made, _ = fxp.calibrate(network, data, low_share=0.5)
    made.model.validate()
    changed = {"wx_offset", "wh_offset", "low_bias"}
    for before, after in zip(network.layers, made.layers, strict=True):
        for field in fields(before):
            if field.name not in changed:
                assert np.array_equal(getattr(before, field.name), getattr(after, field.name))
    high = [fxp.emulate(n, data, accel.Static(network.formats.high), record=("cell",)) for n in (network, made)]
    for n in range(len(data)):
        assert (high[0].outputs[n] == high[1].outputs[n]).all()
        assert (high[0].layers[0].cell(n) == high[1].layers[0].cell(n)).all()
    counted = sum(
        int((getattr(a, f) != getattr(b, f)).sum())
        for a, b in zip(network.layers, made.layers, strict=True)
        for f in ("wx_offset", "wh_offset")
    )
    assert counted == sum(layer["changed"] for layer in made.model.calibration["layers"]) > 0
    assert network.digest != made.digest


def test_fitted_bits_and_bias_bring_low_precision_nearer(make_network):
    lively = make_network(hidden=(24,), features=6, seed=5)
    # A recurrence that forgets: in a chaotic one any error grows to the same size.
    calm = [replace(layer, wh=0.2 * layer.wh) for layer in float_layers(lively.model)]
    network = fxp.Network(build(calm, list(make_data(lively, 5)), lively.formats))
    made, _ = fxp.calibrate(network, make_data(network, 40), low_share=0.5)
    unbiased = fxp.Network(replace(made.model, layers=[replace(n, low_bias=n.low_bias * 0) for n in made.layers]))
    test = make_data(network, 40, seed=9)
    low, high = accel.Static(network.formats.low), accel.Static(network.formats.high)
    target = np.concatenate(fxp.emulate(network, test, high).outputs)
    errors = [
        float(((np.concatenate(fxp.emulate(n, test, low).outputs) - target) ** 2).mean()) for n in (network, unbiased, made)
    ]
    assert errors[2] < errors[1] < errors[0]


def test_same_bits_again_and_with_threads(case):
    network, data = case
    results = [fxp.calibrate(network, data, low_share=0.6, threads=threads) for threads in (1, 1, 3)]
    assert len({made.digest for made, _ in results}) == 1
    assert all(controller == results[0][1] for _, controller in results)


# Gradients


@pytest.mark.parametrize("number", range(len(SHAPES)))
def test_gradients_against_differences_of_the_float_network(number, make_network, monkeypatch):
    network = make_network(seed=number, **SHAPES[number])
    data = make_data(network, 5, 9)
    observation = Observation(network, data)
    layers, inputs, head = float_layers(network.model), list(data), network.model.head
    outputs = floating.run(layers, inputs)[0]
    signs = None
    if head is None:
        rng = np.random.default_rng(0)
        order = sorted(range(len(data)), key=lambda n: -len(inputs[n]))
        drawn = rng.choice(np.array([-1, 1], np.float32), (max(map(len, inputs)), len(data), network.outputs))
        signs = {n: drawn[: len(inputs[n]), place] for place, n in enumerate(order)}

    def loss(outputs):
        total = 0.0
        for n, h in enumerate(outputs):
            if head is None:
                total += float((h.astype(np.float64) * signs[n]).sum())
                continue
            h = h if head.scope == "step" else h[-1:]
            logits = h.astype(np.float64) @ head.weight.T + head.bias
            chosen_class = logits[np.arange(len(h)), observation.labels[n]]
            total += float((np.log(np.exp(logits).sum(axis=1)) - chosen_class).sum())
        return total

    # With an error of one everywhere, an element's changes add up to the derivative by its four biases together.
    def ones(layer, number, direction, observation, members):
        h = np.concatenate([observation.before(number, direction, n) for n in members])
        return np.ones((len(h), 4 * layer.hidden_size), np.float32), h

    monkeypatch.setattr(sensitivity, "_errors", ones)
    totals = [np.zeros((n.directions, n.hidden_size)) for n in network.layers]
    for impact in sensitivity.impacts(network.layers, observation):
        totals[impact.layer][impact.direction] += impact.values.sum(axis=0)
    assert np.isfinite(loss(outputs))
    for place, layer in enumerate(layers):
        for direction in range(layer.wx.shape[0]):
            for k in range(0, layer.wh.shape[1] // 4, 3):
                ends = []
                for step in (1e-2, -1e-2):
                    bias = layer.bias.copy()
                    bias[direction, k :: layer.wh.shape[1] // 4] += np.float32(step)
                    moved = [*layers]
                    moved[place] = replace(layer, bias=bias)
                    ends.append(loss(floating.run(moved, inputs)[0]))
                assert totals[place][direction, k] == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=0.03, abs=0.03)


def test_readout_recovers_what_the_steps_depend_on(make_network):
    network = make_network(hidden=(8,), seed=2)
    side = sensitivity.Statistics(network.layers[0])
    rng = np.random.default_rng(0)
    before = rng.integers(-100, 100, (4000, 8)).astype(np.int8)
    level = 0.02 * before[:, 2].astype(float) - 0.01 * before[:, 5]
    values = np.repeat(2.0 ** (level[:, None] / 2), 8, axis=1).astype(np.float32)
    side.add(sensitivity.Impact(0, 0, values, before))
    neuron, explained = readout.fit(side.totals, side.before, calibration.UNIT)
    weights = np.array(neuron.weights) / 2.0**neuron.shift / calibration.UNIT
    assert explained == pytest.approx(1, abs=0.01)
    assert weights == pytest.approx([0, 0, 0.02, 0, 0, -0.01, 0, 0], abs=1e-3)
    assert max(map(abs, neuron.weights)) > 63
    # Of noise whose logarithm has another mean, the expectation counts.
    noise = rng.gamma(0.3 + 2.0 * (before[:, 0] > 0), 1, 4000) + 1e-9
    noisy, _ = readout.fit(noise, before, calibration.UNIT)
    assert noisy.weights[0] == max(map(abs, noisy.weights)) > 3 * max(map(abs, noisy.weights[1:]))
    silent, nothing = readout.fit(np.zeros(0), np.zeros((0, 8), np.int8), calibration.UNIT)
    assert silent == accel.Readout((0,) * 8, 0, 0)
    assert nothing == 0


def test_element_readouts_recover_what_each_element_depends_on():
    rng = np.random.default_rng(1)
    x, h = (rng.integers(-100, 100, (6000, size)).astype(np.int8) for size in (3, 5))
    level = np.stack([0.03 * x[:, 1], -0.02 * h[:, 4], 0.01 * x[:, 1] + 0.02 * h[:, 0], np.zeros(6000)], axis=1)
    squares = (2.0**level * rng.gamma(2.0, 0.5, level.shape)).astype(np.float32)
    squares[:, 3] = 0
    part, explained = foresight.fit(squares, x, h, 3, calibration.UNIT)
    assert (part.x_columns, part.h_columns) == ((1,), (0, 4))
    weights = np.array(part.weights) / 2.0**part.shift / calibration.UNIT
    wanted = [[0.03, 0, 0], [0, 0, -0.02], [0.01, 0.02, 0], [0, 0, 0]]
    assert weights == pytest.approx(np.array(wanted), abs=4e-3)  # the ridge shrinks them by a tenth
    assert max(abs(w) for row in part.weights for w in row) > 63
    assert 0.2 < explained < 1
    # All inputs are kept where that spends better than the columns found by halving, never more than asked for.
    assert len(foresight.fit(squares, x, h, 4, calibration.UNIT)[0].weights[0]) == 4
    nothing, none = foresight.fit(np.zeros((9, 2), np.float32), x[:9], h[:9], 3, calibration.UNIT)
    assert nothing == accel.ElementReadout((), (), ((), ()), (0, 0), 0) and none == 0


def test_columns_by_default_fill_the_lanes_of_the_machine():
    path = accel.Machine.load("epur-dyn").datapath
    assert int(path.inner_product_units) * int(path.lanes) == foresight.LANES
    sizes = [(1, 1), (5, 7), (32, 256), (32, 480), (32, 512), (512, 256), (768, 256), (768, 257), (1024, 1024)]
    assert [foresight.columns_of(*size) for size in sizes] == [1, 3, 72, 128, 128, 128, 128, 128, 256]


# The controller


@pytest.mark.parametrize("columns", [0, 5, None])
def test_engines_agree_under_calibrated(case, columns):
    network, data = case
    made, controller = fxp.calibrate(network, data, low_share=0.5, columns=columns)
    assert (controller.readout is None) == (columns != 0)
    inputs = list(data)[:3]
    record = ("plan", "cell", "hidden", "accumulators")
    runs = [fxp.emulate(made, inputs, controller, engine=e, record=record) for e in ("reference", "portable", "fast")]
    for other in runs[1:]:
        for wanted, layer in zip(runs[0].layers, other.layers, strict=True):
            for name in record:
                assert np.array_equal(wanted.arrays[name], layer.arrays[name])
    assert 0 < runs[0].low_share < 1


def test_masks_by_the_rule(make_network):
    network = make_network(hidden=(9,), seed=4)
    rng = np.random.default_rng(0)
    scores = rng.integers(-300, 300, 9).tolist()
    weights, shift, bias, threshold = rng.integers(-127, 128, 9).tolist(), 5, -40, 12
    controller = accel.Calibrated(threshold, [[scores]], [[{"weights": weights, "shift": shift, "bias": bias}]])
    run = fxp.emulate(network, make_data(network, 1), controller, record=("plan", "hidden"))
    h, moving = [0] * 9, set()
    for t, low in enumerate(run.layers[0].low(0)):
        moved = (sum(w * int(v) for w, v in zip(weights, h, strict=True)) >> shift) + bias
        assert low.tolist() == [score + moved <= threshold for score in scores]
        moving.add(moved)
        h = run.layers[0].hidden(0)[t]
    assert len(moving) > 3


def test_requested_shares_are_reached(case):
    network, data = case
    elements = sum(n.directions * n.hidden_size for n in network.layers)
    for share in (0.0, 0.3, 0.75, 1.0):
        made, controller = fxp.calibrate(network, data, low_share=share)
        reached = fxp.emulate(made, data, controller).low_share
        assert reached == pytest.approx(share, abs=0 if share in (0, 1) else 0.05)
        mask = fxp.emulate(made, data, controller.static(share)).low_share
        assert mask == pytest.approx(share, abs=1.01 / elements)


def test_more_sensitive_elements_stay_high(make_network):
    network = make_network(hidden=(10,), classes=3, seed=6)
    weight = network.model.head.weight.copy()
    weight[:, :5] = 0
    wh = network.layers[0].wh_float.copy()
    wh[:, :, :] = 0
    model = replace(network.model, head=replace(network.model.head, weight=weight))
    layer = replace(network.layers[0], wh_float=wh, wh_index=network.layers[0].wh_index * 0, wh_scale=wh[:, :, 0] * 0)
    # Elements that neither the head nor the recurrence reads cannot matter.
    cut = fxp.Network(replace(model, layers=[replace(layer, wh_offset=layer.wh_offset * 0)]))
    _, controller = fxp.calibrate(cut, make_data(cut), low_share=0.5)
    assert max(controller.scores[0][0][:5]) < min(controller.scores[0][0][5:])


def test_stream_goes_on_as_if_never_cut(make_network):
    network = make_network(hidden=(7, 6), seed=8)
    data = make_data(network)
    made, controller = fxp.calibrate(network, data, low_share=0.5)
    x = data.sequence(0)
    whole = fxp.emulate(made, [x], controller)
    first = fxp.emulate(made, [x[:9]], controller)
    rest = fxp.emulate(made, [x[9:]], controller, state=first.state)
    assert (np.concatenate([first.outputs[0], rest.outputs[0]]) == whole.outputs[0]).all()


@pytest.mark.parametrize("columns", [0, None])
def test_files_keep_network_and_controller(case, tmp_path, columns):
    network, data = case
    made, controller = fxp.calibrate(network, data, low_share=0.5, columns=columns)
    fxp.save(made, tmp_path / "m.h5")
    loaded = fxp.load(tmp_path / "m.h5")
    assert loaded.digest == made.digest
    assert calibration.stored(loaded) == controller
    assert calibration.stored(network) is None
    run = fxp.emulate(loaded, data, controller, trace=tmp_path / "t.h5")
    with traces.open(tmp_path / "t.h5", kind="trace") as trace:
        recorded = dict(trace.controller)
        assert recorded.pop("name") == "calibrated"
        assert accel.Calibrated(**recorded) == controller
        replay = fxp.emulate(loaded, data, accel.Schedule(trace))
    assert replay.low_share == run.low_share
    assert all((a == b).all() for a, b in zip(run.outputs, replay.outputs, strict=True))


# The tolerated loss


def test_max_loss_holds_on_the_held_out_part(make_network):
    network = make_network(hidden=(16,), classes=4, seed=3)
    data = make_data(network, 60)
    # Labels that the network knows: then low precision costs something.
    outputs = fxp.emulate(network, data, accel.Static(8)).outputs
    labels = [(h @ network.model.head.weight.T + network.model.head.bias).argmax(axis=1) for h in outputs]
    data = traces.Data.of(list(data), labels)
    shares = []
    for tolerance in (1e-9, 0.01, 0.03, 100.0):
        made, controller = fxp.calibrate(network, data, max_loss=tolerance)
        held = made.model.calibration["held_out"]
        assert held["sequences"] == 12
        assert held["loss_upper"] <= tolerance
        part = calibration.subset(data, range(4, 60, 5))
        loss, upper = calibration.Judge(made, part).loss(controller)
        assert (loss, upper) == (held["loss"], held["loss_upper"])
        shares.append(fxp.emulate(made, data, controller).low_share)
    assert shares == sorted(shares)
    assert shares[0] == 0 < shares[1] < shares[2] < shares[3] == 1


def test_loss_and_its_interval_against_the_evaluation(make_network):
    network = make_network(hidden=(9,), classes=4, seed=7)
    data = make_data(network, 20)
    low = accel.Static(network.formats.low)
    loss, upper = calibration.Judge(network, data).loss(low)
    high_row, low_row = fxp.evaluate(network, data, [accel.Static(network.formats.high), low])
    assert loss == pytest.approx(low_row.difference / high_row.metric)
    two_sided, one_sided = (intervals.student_quantile(p, 19) for p in (0.975, 0.95))
    reach = (low_row.interval[1] - low_row.difference) * one_sided / two_sided
    assert upper == pytest.approx((low_row.difference + reach) / high_row.metric)
    bare = fxp.Network(replace(network.model, head=None))
    unlabelled = traces.Data.of(list(data))
    outputs = [np.concatenate(fxp.emulate(bare, data, c).outputs).astype(float) for c in (low, accel.Static(8))]
    expected = ((outputs[0] - outputs[1]) ** 2).sum() / (outputs[1] ** 2).sum()
    assert calibration.Judge(bare, unlabelled).loss(low)[0] == pytest.approx(expected)


# The observed part


def test_observed_steps_are_bounded_and_spread(make_network):
    network = make_network(hidden=(4,), classes=3, seed=0)
    data = make_data(network, 30, 20)
    part = chosen(data, 200)
    assert part.total <= 200
    assert set(part.ids) == set(range(0, 30, 4)[: len(part)])
    assert len(part.labels) == part.total
    assert chosen(data, data.total) is data
    one = traces.Data.of([np.zeros((500, 3), np.float32)])
    assert chosen(one, 200).total == 200
    with_tokens = as_data(make_network(hidden=(4,), embedding=6, seed=0), [np.array([1, 2, 5])])
    assert with_tokens.tokens


# The command line


def run_cli(capsys, *arguments):
    code = cli._run([str(a) for a in arguments])
    return code, *capsys.readouterr()


def test_command_line(make_network, tmp_path, capsys):
    network = make_network(hidden=(12,), classes=4, seed=2)
    fxp.save(network, tmp_path / "m.h5")
    make_data(network, 20).write(tmp_path / "d.h5")
    out, data = tmp_path / "out.h5", tmp_path / "d.h5"
    code, text, _ = run_cli(capsys, "calibrate", tmp_path / "m.h5", data, "-o", out, "--low-share", "50%", "--json")
    assert code == 0
    assert json.loads(text)["low_share"] == 0.5
    code, text, _ = run_cli(capsys, "run", out, data, "--controller", "calibrated", "--json")
    assert code == 0
    assert json.loads(text)["low_share"] == pytest.approx(0.5, abs=0.03)
    code, text, _ = run_cli(capsys, "compare", out, data, "--all", "--json")
    assert code == 0
    assert len(json.loads(text)["rows"]) == 11
    code, text, _ = run_cli(capsys, "compare", out, data)
    assert "static mask" in text
    code, text, _ = run_cli(capsys, "calibrate", tmp_path / "m.h5", data, "-o", out, "--max-loss", "5%")
    assert code == 0
    assert "held-out" in text
    for arguments in (
        ("run", tmp_path / "m.h5", data, "--controller", "calibrated"),
        ("compare", out, data, "--shares", "57"),
        ("compare", out, data, "--all", "--controller", "peak"),
        ("calibrate", tmp_path / "m.h5", data, "-o", data),
        ("calibrate", tmp_path / "m.h5", data, "-o", out, "--low-share", "many"),
        ("calibrate", tmp_path / "m.h5", data, "-o", out, "--low-share", "0.5", "--max-loss", "1%"),
        ("calibrate", tmp_path / "m.h5", tmp_path / "none.h5", "-o", out),
        ("calibrate", tmp_path / "m.h5", data, "-o", out, "--columns", "few"),
    ):
        before = out.read_bytes()
        code, text, error = run_cli(capsys, *arguments)
        assert (code, text, error.count("\n")) == (2, "", 1)
        assert out.read_bytes() == before


# What does not fit


@pytest.mark.parametrize(
    "options",
    [
        {"low_share": -0.1},
        {"low_share": 1.5},
        {"low_share": float("nan")},
        {"low_share": "0.5"},
        {"max_loss": -1.0},
        {"max_loss": float("inf")},
        {"low_share": 0.5, "max_loss": 0.1},
        {"seed": -1},
        {"seed": 0.5},
        {"threads": 0},
        {"columns": -1},
        {"columns": 0.5},
        {"columns": 8},
    ],
)
def test_bad_options(make_network, options):
    network = make_network(hidden=(4,))
    with pytest.raises(InputError):
        fxp.calibrate(network, make_data(network), **options)


def test_bad_networks_and_data(make_network):
    network = make_network(hidden=(4,), classes=3)
    data = make_data(network)
    with pytest.raises(InputError, match="one precision"):
        fxp.calibrate(make_network(hidden=(4,), high=4, low=4), list(data))
    with pytest.raises(InputError, match=r"fxp\.Network"):
        fxp.calibrate(network.model, data)
    with pytest.raises(InputError, match="features"):
        fxp.calibrate(network, [np.zeros((5, 4), np.float32)])
    with pytest.raises(InputError, match="labels"):
        fxp.calibrate(network, traces.Data(data.values, data.offsets, data.labels + 7))
    with pytest.raises(InputError, match="each last"):
        fxp.calibrate(network, traces.Data.of(list(data), [0] * len(data)))
    with pytest.raises(InputError, match="at least 10 sequences"):
        fxp.calibrate(network, make_data(network, 9), max_loss=0.1)
    far = make_network(hidden=(4,), classes=3, metric="divergence")
    with pytest.raises(InputError, match="how far that is from the float network"):
        fxp.calibrate(far, make_data(far), max_loss=0.1)
    with pytest.raises(InputError, match="tokens"):
        fxp.calibrate(make_network(hidden=(4,), embedding=5), [np.array([1, 5])])


READOUT = {"weights": [1, 2], "shift": 0, "bias": 0}
OWN = {"x_columns": [0], "h_columns": [], "weights": [[1], [2]], "bias": [0, 0], "shift": 0}


@pytest.mark.parametrize(
    "arguments",
    [
        (0.5, [[[1, 2]]]),
        (True, [[[1, 2]]]),
        (2**30, [[[1, 2]]]),
        (0, [[[1, 2**30]]]),
        (0, [[[1, 0.5]]]),
        (0, []),
        (0, [[]]),
        (0, [[[]]]),
        (0, [1, 2]),
        (0, None),
        (0, [[[1, 2]]], [[READOUT, READOUT]]),
        (0, [[[1, 2]]], [[{**READOUT, "weights": [128, 0]}]]),
        (0, [[[1, 2]]], [[{**READOUT, "shift": 32}]]),
        (0, [[[1, 2]]], [[{**READOUT, "bias": 0.5}]]),
        (0, [[[1, 2]]], [[{"weights": [1]}]]),
        (0, [[[1, 2]]], [[READOUT]], [[OWN]]),
        (0, [[[1, 2]]], None, [[OWN, OWN]]),
        (0, [[[1, 2]]], None, [[{**OWN, "weights": [[128], [0]]}]]),
        (0, [[[1, 2]]], None, [[{**OWN, "weights": [[1, 2], [0, 1]]}]]),
        (0, [[[1, 2]]], None, [[{**OWN, "x_columns": [-1]}]]),
        (0, [[[1, 2]]], None, [[{**OWN, "x_columns": [], "h_columns": [1, 1]}]]),
        (0, [[[1, 2]]], None, [[{**OWN, "shift": 32}]]),
        (0, [[[1, 2]]], None, [[{**OWN, "bias": [2**30, 0]}]]),
        (0, [[[1, 2]]], None, [[{"weights": [[1], [2]]}]]),
        (0, [[[1, 2]]], None, [[5]]),
        (0, [[[1, 2]]], None, [["own"]]),
        (0, [[[1, 2]]], None, [[{**OWN, "x_columns": list(range(4097)), "weights": [[0] * 4097] * 2}]]),
    ],
)
def test_bad_controllers(arguments):
    with pytest.raises(InputError):
        accel.Calibrated(*arguments)


def test_controllers_of_another_network(make_network):
    network = make_network(hidden=(6,), projection=2)
    data = make_data(network)
    scores = [[[0] * 6]]
    wide = [[{"weights": [1, 1, 1], "shift": 0, "bias": 0}]]
    own = {"weights": [[1]] * 6, "bias": [0] * 6, "shift": 0}
    for controller in (
        accel.Calibrated(0, [[[0] * 5]]),
        accel.Calibrated(0, scores, wide),
        accel.Calibrated(0, scores, None, [[{**own, "x_columns": [network.features], "h_columns": []}]]),
        accel.Calibrated(0, scores, None, [[{**own, "x_columns": [], "h_columns": [2]}]]),
        accel.Calibrated(0, [[[0] * 6]], None, [[{**own, "x_columns": [0], "h_columns": [], "weights": [[1]] * 5,
                                                  "bias": [0] * 5}]]),
    ):
        with pytest.raises(InputError, match="layer 0"):
            fxp.emulate(network, data, controller)
    with pytest.raises(InputError, match="layer 1"):
        fxp.emulate(make_network(hidden=(6, 6)), data, accel.Calibrated(0, scores))


WRONG = {"name": "calibrated", "threshold": 0, "scores": [[["x"]]], "readout": None}


@pytest.mark.parametrize("record", [1, {}, {"name": "peak"}, WRONG])
def test_damaged_records(make_network, record):
    network = make_network(hidden=(4,))
    damaged = fxp.Network(replace(network.model, calibration={"controller": record}))
    with pytest.raises(InputError):
        calibration.stored(damaged)
