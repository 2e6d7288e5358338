"""Where high precision is lossy, and the scales that help."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

import accel
import fxp
import traces
from fxp import cli, precision, scales
from fxp.formats import Formats
from fxp.quantise import RANGE_BITS, FloatLayer, build
from traces import InputError


def powers(features=10, sequences=8, steps=40, seed=0):
    """Inputs like the power spectrum of speech, decades between features and over time, and each feature's level."""
    rng = np.random.default_rng(seed)
    level = 10.0 ** rng.uniform(-4, 1.5, features)
    inputs = []
    for _ in range(sequences):
        loudness = 10.0 ** np.clip(np.cumsum(rng.normal(0, 0.3, steps)), -1.5, 1)[:, None]
        inputs.append((level * loudness * rng.gamma(0.7, 1, (steps, features))).astype(np.float32))
    return inputs, level


def speaker(hidden=(24, 24), directions=1, **formats):
    """A network that reads such inputs with weights that differ as much."""
    inputs, level = powers()
    rng = np.random.default_rng(1)
    layers, size = [], len(level)
    for number, width in enumerate(hidden):
        wx = rng.normal(0, size**-0.5, (directions, 4 * width, size)) / (np.sqrt(level) if number == 0 else 1)
        wh = rng.normal(0, width**-0.5, (directions, 4 * width, width))
        zero = np.zeros((directions, 4 * width), np.float32)
        layers.append(FloatLayer(wx.astype(np.float32), wh.astype(np.float32), zero))
        size = directions * width
    return fxp.Network(build(layers, inputs, Formats(**formats))), inputs


def relative_error(network, inputs):
    float_outputs = np.concatenate(fxp.emulate_float(network, inputs)).astype(float)
    outputs = np.concatenate(fxp.emulate(network, inputs, accel.Static(network.formats.high)).outputs)
    return (((outputs - float_outputs) ** 2).mean() / float_outputs.var(axis=0).mean()) ** 0.5


@pytest.mark.parametrize("directions", [1, 2])
def test_names_what_is_lossy_and_the_remedy(directions):
    network, inputs = speaker(directions=directions)
    found = fxp.check_precision(network, inputs)
    assert {(part.layer, part.part) for part in found.lossy} == {(0, "inputs"), (0, "input weights")}
    assert found.output_error == pytest.approx(relative_error(network, inputs))
    best = found.remedies[0]
    assert best.name == "a scale per input feature"
    assert best.helps
    assert best.output_after < 0.25 * best.output_before
    made, chosen = fxp.fit_scales(network, inputs)
    assert chosen["inputs"] in scales.STRENGTHS
    assert relative_error(made, inputs) < 0.25 * relative_error(network, inputs)
    assert any("scale per input feature" in line for line in found.lines())


def test_a_healthy_network_passes(make_network):
    network = make_network(hidden=(12, 9), projection=4, seed=3)
    rng = np.random.default_rng(0)
    data = [rng.normal(size=(30, 3)).astype(np.float32) for _ in range(4)]
    found = fxp.check_precision(network, data)
    assert found.ok
    assert found.lines() == []
    assert len(found.parts) == 8
    assert found.steps == 120
    assert json.dumps(found.to_dict())


def test_errors_of_parts_against_the_formulas():
    network, inputs = speaker(hidden=(6,))
    layer = network.layers[0]
    h = [np.concatenate([np.zeros((1, 6)), o[:-1]]) for o in fxp.emulate_float(network, inputs)]
    x, h = np.concatenate(inputs).astype(float), np.concatenate(h)

    def gates(x, h, wx, wh):
        z = x @ wx.T + h @ wh.T + layer.bias[0]
        squashed = 1 / (1 + np.exp(-z))
        return np.where(np.arange(24) // 6 == 2, np.tanh(z), squashed)

    wx, wh = layer.wx_float[0].astype(float), layer.wh_float[0].astype(float)
    plain = gates(x, h, wx, wh)
    coarse = {
        "inputs": gates(np.clip(np.rint(x / layer.x_scale), -127, 127) * layer.x_scale, h, wx, wh),
        "input weights": gates(x, h, layer.wx_index[0] * layer.wx_scale[0][:, None], wh),
        "h": gates(x, np.clip(np.rint(h / layer.h_scale), -127, 127) * layer.h_scale, wx, wh),
        "recurrent weights": gates(x, h, wx, layer.wh_index[0] * layer.wh_scale[0][:, None]),
    }
    for part in fxp.check_precision(network, inputs).parts:
        change = np.sqrt(((coarse[part.part] - plain) ** 2).mean() / plain.var(axis=0).mean())
        assert part.error == pytest.approx(change, rel=2e-3)


def test_other_remedies_are_tried(make_network):
    rng = np.random.default_rng(0)
    data = [rng.normal(size=(30, 3)).astype(np.float32) for _ in range(4)]
    narrow = fxp.Network(replace(make_network(hidden=(20,)).model, accumulator_bits=15))
    found = fxp.check_precision(narrow, data)
    assert max(found.overflows) > 0
    best = found.remedies[0]
    assert best.name == "32-bit accumulators"
    assert best.helps
    assert best.after == 0
    coarse = make_network(hidden=(20,), granularity="tensor", high=5, low=3)
    names = {remedy.name for remedy in fxp.check_precision(coarse, data).remedies if remedy.helps}
    assert {"a weight scale per row", "8 bits"} <= names


def test_ranges_of_h_follow_small_states():
    rng = np.random.default_rng(2)

    def layer(size, scale, output_bias):
        # A closed output gate keeps h small, so that 8 bits over a range of one resolve it poorly.
        bias = np.repeat(np.float32([0, 0, 0, output_bias]), 8)[None]
        wx, wh = rng.normal(0, scale, (1, 32, size)), rng.normal(size=(1, 32, 8))
        return FloatLayer(wx.astype(np.float32), wh.astype(np.float32), bias)

    inputs = [rng.normal(size=(40, 4)).astype(np.float32) for _ in range(4)]
    network = fxp.Network(build([layer(4, 0.3, -5), layer(8, 50, 0)], inputs, Formats()))
    largest = np.abs(scales.View(network, traces.Data.of(inputs)).inputs[1]).max()
    assert largest < 0.05
    made, chosen = fxp.fit_scales(network, inputs, inputs=False)
    assert chosen["inputs"] is None
    assert 0.5 * largest < chosen["h"][0] < 1.2 * largest
    assert made.layers[1].x_scale == made.layers[0].h_scale
    assert relative_error(made, inputs) < 0.5 * relative_error(network, inputs)
    auto, _ = fxp.calibrate(network, inputs, low_share=0.5)
    assert auto.model.calibration["scales"]["changed"]


def test_ranges_of_h_end_at_a_quantile_that_is_asked_for(make_network):
    network = make_network((12, 9), projection=4, seed=3)
    rng = np.random.default_rng(0)
    data = [rng.normal(size=(30, 3)).astype(np.float32) for _ in range(4)]
    made, chosen = fxp.fit_scales(network, data, inputs=False, h=0.9)
    view = scales.View(network, traces.Data.of(data))
    for number, layer in enumerate(made.layers):
        end = np.quantile(np.abs(np.concatenate(view.inputs[number + 1])), 0.9)
        assert 1 <= layer.h_scale * network.formats.top / end < 1.001
        assert chosen["h"][number] == layer.h_scale * 128
        assert (math.frexp(layer.h_scale)[0] * 2**RANGE_BITS).is_integer()  # last bits of a float run do not show
    assert made.layers[1].x_scale == made.layers[0].h_scale
    for bad in (0, 1.0, -0.5, float("nan"), "0.9", None):
        with pytest.raises(InputError, match="quantile above 0 and below 1"):
            fxp.fit_scales(network, data, h=bad)


def test_calibration_fits_scales_where_needed_or_asked(make_network, tmp_path, capsys):
    network, inputs = speaker()
    made, _ = fxp.calibrate(network, inputs, low_share=0.5)
    record = made.model.calibration["scales"]
    assert record["changed"]
    assert record["output_error"] < 0.25 * record["output_error_before"]
    kept, _ = fxp.calibrate(network, inputs, low_share=0.5, scales="keep")
    assert not kept.model.calibration["scales"]["changed"]
    assert kept.model.calibration["scales"]["warnings"]
    assert (kept.layers[0].wx_index == network.layers[0].wx_index).all()
    healthy = make_network(hidden=(8,), seed=1)
    data = [np.random.default_rng(n).normal(size=(30, 3)).astype(np.float32) for n in range(4)]
    for asked, changed in (("auto", False), ("fit", True)):
        result, controller = fxp.calibrate(healthy, data, low_share=0.5, scales=asked)
        assert result.model.calibration["scales"]["changed"] is changed
        runs = [fxp.emulate(result, data, controller, engine=e) for e in ("reference", "fast")]
        assert all((a == b).all() for a, b in zip(*(run.outputs for run in runs), strict=True))
    with pytest.raises(InputError, match="scales"):
        fxp.calibrate(network, inputs, scales="maybe")

    fxp.save(network, tmp_path / "m.h5")
    traces.Data.of(inputs).write(tmp_path / "d.h5")
    paths = [str(tmp_path / name) for name in ("m.h5", "d.h5", "out.h5")]
    assert cli._run(["calibrate", *paths[:2], "-o", paths[2]]) == 0
    assert "changed its bits: inputs equalised" in capsys.readouterr().out
    assert cli._run(["calibrate", *paths[:2], "-o", paths[2], "--scales", "keep"]) == 0
    shown = capsys.readouterr()
    assert "keeps its bits" in shown.out
    assert "warning: layer 0: 8 bits are lossy for the input" in shown.err
    assert cli._run(["quantize", paths[0], "-c", paths[1], "-o", paths[2]]) == 0
    shown = capsys.readouterr()
    assert "a scale per input feature brings h to" in shown.err
    assert cli._run(["quantize", paths[0], "-c", paths[1], "-o", paths[2], "--json"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert json.loads(shown.out)["precision"]["ok"] is False


def test_bad_input(make_network):
    network = make_network()
    with pytest.raises(InputError, match=r"fxp\.Network"):
        fxp.check_precision(network.model, [np.zeros((3, 3), np.float32)])
    with pytest.raises(InputError, match="features"):
        fxp.check_precision(network, [np.zeros((3, 2), np.float32)])
    still = fxp.check_precision(network, [np.zeros((3, 3), np.float32)])
    assert isinstance(still, precision.Precision)
