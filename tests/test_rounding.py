"""High indices chosen for the sums that they make."""

import itertools

import numpy as np
import pytest

import accel
import fxp
from fxp import precision, rounding
from fxp.formats import Formats
from fxp.quantise import FloatLayer, build, weights
from traces import InputError


def correlated(features=12, sequences=6, steps=50, seed=0):
    """Inputs that go together, as the bands of a spectrum do."""
    mix, rng = np.random.default_rng(9).normal(size=(3, features)), np.random.default_rng(seed)
    shape = (sequences, steps)
    x = rng.normal(size=(*shape, 3)) @ mix + 0.1 * rng.normal(size=(*shape, features))
    return list(x.astype(np.float32))


def network(directions=1, hidden=(10,), features=12, **formats):
    rng = np.random.default_rng(3)
    layers, size = [], features
    for width in hidden:
        wx, wh = rng.normal(0, 0.2, (directions, 4 * width, size)), rng.normal(0, 0.3, (directions, 4 * width, width))
        wx[:, :, 0] *= 40  # one column that makes the row steps coarse
        bias = np.zeros((directions, 4 * width), np.float32)
        layers.append(FloatLayer(wx.astype(np.float32), wh.astype(np.float32), bias))
        size = directions * width
    return fxp.Network(build(layers, correlated(features=features), Formats(**formats)))


def test_two_columns_by_hand():
    """Inputs (a, a) of one size: what the first loses in rounding, the second makes up."""
    moments = np.full((2, 2), 1e6)
    found = rounding.rounded(np.array([[0.3, 0.3], [1.4, 1.4], [-0.4, 0.4]]), moments, 127)
    assert found.sum(axis=1).tolist() == [1, 3, 0]
    # Inputs that have nothing in common are rounded to nearest, and indices stay within the top.
    target = np.random.default_rng(0).normal(0, 90, (5, 4))
    apart = rounding.rounded(target, np.diag([4.0, 3.0, 9.0, 1.0]), 127)
    assert np.array_equal(apart, np.clip(np.rint(target), -127, 127))


def test_near_the_best_of_all_roundings():
    rng = np.random.default_rng(1)
    inputs = np.rint(rng.normal(size=(200, 2)) @ rng.normal(size=(2, 5)) * 30)
    moments, target = inputs.T @ inputs, rng.normal(0, 3, (8, 5))

    def error(q):
        return ((target - q) @ moments * (target - q)).sum(axis=1)

    choices = np.array(list(itertools.product([-1, 0, 1, 2], repeat=5)))
    best = np.min([error(np.floor(target) + choice) for choice in choices], axis=0)
    found, nearest = error(rounding.rounded(target, moments, 127)), error(np.rint(target))
    assert (found >= best - 1e-6).all()
    assert found.sum() < 0.25 * nearest.sum()
    assert found.sum() < 4 * best.sum()


@pytest.mark.parametrize(("directions", "hidden"), [(1, (10,)), (2, (6, 5))])
def test_the_sums_of_unseen_inputs_come_nearer(directions, hidden):
    before, data = network(directions, hidden), correlated()
    layers = range(len(hidden))
    after = fxp.fit_rounding(before, data, layers)
    for number, (a, b) in enumerate(zip(before.layers, after.layers, strict=True)):
        assert np.array_equal(a.wh_index, b.wh_index) and np.array_equal(a.wx_scale, b.wx_scale)
        assert not np.array_equal(a.wx_index, b.wx_index)
        if number == 0:
            x = np.concatenate(correlated(seed=5))[:, :12]
            for d in range(directions):
                errors = [x @ (n.wx_index[d] * n.wx_scale[d][:, None] - n.wx_float[d]).T for n in (a, b)]
                assert (errors[1] ** 2).mean() < 0.7 * (errors[0] ** 2).mean()
    assert after.model.calibration["offsets"] == "nearest"
    runs = [fxp.emulate(after, data, accel.Peak(), engine=engine).outputs for engine in ("reference", "fast")]
    assert all((a == b).all() for a, b in zip(*runs, strict=True))
    assert fxp.fit_rounding(before, data, layers).digest == after.digest
    assert fxp.fit_rounding(before, data, ()).digest == before.digest


@pytest.mark.parametrize(("high", "low"), [(8, 4), (6, 6), (5, 2), (8, 2)])
def test_offset_bits_are_those_of_the_quantiser(high, low):
    formats = Formats(high=high, low=low)
    values = np.arange(-formats.top - 1, formats.top + 1, dtype=np.float32)[None]  # a row step of 1
    index, offset, _ = weights(values, formats)
    assert np.array_equal(rounding.nearest_offsets(index, formats), offset)


def test_it_is_tried_where_input_weights_are_lossy():
    found = precision.check_precision(network(high=5, low=3), correlated())
    assert any(part.part == precision.INPUT_WEIGHTS for part in found.lossy)
    remedy = next(remedy for remedy in found.remedies if remedy.how == "fxp.fit_rounding")
    assert remedy.after < 0.5 * remedy.before
    assert remedy.output_after < remedy.output_before


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="layer 1: the network has layers 0 to 0"):
        fxp.fit_rounding(network(), correlated(), (0, 1))
    with pytest.raises(InputError):
        fxp.fit_rounding(network(), correlated(features=5))
