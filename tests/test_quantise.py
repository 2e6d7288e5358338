"""The quantiser: exact tables, a twin in fractions, scales, folding, projections, bad input."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twins import quantiser as twin

import accel
import fxp
import traces
from fxp import quantise
from fxp.formats import Formats
from fxp.quantise import FloatLayer, build
from traces import InputError

F32 = np.float32
WIDTHS = ((8, 4), (8, 8), (8, 2), (7, 3), (6, 5), (5, 3), (4, 4), (3, 2), (2, 2))


def of_row(values, high, low):
    """Index and offset bit of each value of one row (four equal rows are the least that a layer has)."""
    index, offset, scale = quantise.weights(np.array([values] * 4, F32), Formats(high, low))
    assert (index == index[0]).all() and (offset == offset[0]).all()
    return index[0].tolist(), offset[0].tolist(), float(scale[0])


# value, index, offset bit, low index; the range of each table makes the step 1
TABLES = {
    (8, 4): [
        (128, 127, 0, 7), (127.5, 127, 0, 7), (126.5, 126, 0, 7), (119.5, 120, 0, 7), (119, 119, 0, 7),
        (112, 112, 0, 7), (111.5, 112, 0, 7), (111, 111, 1, 7), (104, 104, 0, 6), (105, 105, 1, 7), (88, 88, 1, 6),
        (72, 72, 0, 4),
        (8, 8, 0, 0), (9, 9, 1, 1), (7, 7, 0, 0), (24, 24, 1, 2), (0.5, 0, 0, 0), (1.5, 2, 0, 0), (2.5, 2, 0, 0),
        (0, 0, 0, 0), (-0.5, 0, 0, 0), (-1, -1, 1, 0), (-1.5, -2, 1, 0), (-7, -7, 1, 0), (-8, -8, 1, 0),
        (-9, -9, 0, -1), (-24, -24, 0, -2), (-40, -40, 1, -2), (-119, -119, 1, -7), (-120, -120, 0, -8),
        (-127.5, -127, 0, -8),
        (-128, -127, 0, -8),
    ],
    (8, 8): [(128, 127, 0, 127), (126.5, 126, 0, 126), (0.5, 0, 0, 0), (-1.5, -2, 0, -2), (-128, -127, 0, -127)],
    (5, 3): [
        (16, 15, 0, 3), (13.5, 14, 0, 3), (12, 12, 0, 3), (10, 10, 0, 2), (11, 11, 1, 3), (6, 6, 1, 2), (2, 2, 0, 0),
        (3, 3, 1, 1), (-2, -2, 1, 0), (-6, -6, 0, -2), (-14, -14, 0, -4), (-13, -13, 1, -3), (-16, -15, 0, -4),
    ],
    (2, 2): [(2, 1, 0, 1), (1.5, 1, 0, 1), (0.5, 0, 0, 0), (0.75, 1, 0, 1), (-0.5, 0, 0, 0), (-2, -1, 0, -1)],
}  # fmt: skip


@pytest.mark.parametrize("widths", TABLES)
def test_table(widths):
    table = TABLES[widths]
    index, offset, scale = of_row([value for value, *_ in table], *widths)
    assert scale == 1
    low = quantise.low_indices(np.array(index), np.array(offset), Formats(*widths))
    assert list(zip([v for v, *_ in table], index, offset, low.tolist(), strict=True)) == table


def test_activation_table():
    """The table of docs/numerics.md, 3.2."""
    index = np.array([-127, -120, -9, -8, -7, 7, 8, 11, 24, 119, 120, 127], np.int8)
    expected = [-8, -7, -1, 0, 0, 0, 1, 1, 2, 7, 7, 7]
    assert quantise.low_activations(index, Formats(8, 4)).tolist() == expected
    assert quantise.low_activations(index, Formats(8, 8)).tolist() == index.tolist()


@pytest.mark.parametrize("granularity", ["row", "gate", "tensor"])
def test_zero_rows(granularity):
    values = np.zeros((8, 3), F32)
    values[2] = (1, -2, 0.5)
    index, offset, scale = quantise.weights(values, Formats(granularity=granularity))
    shared = {"row": [2], "gate": [2, 3], "tensor": list(range(8))}[granularity]
    assert (scale[shared] == 2 / 128).all() and scale.sum() == len(shared) * 2 / 128
    assert index[2].tolist() == [64, -127, 32] and not np.delete(index, 2, axis=0).any()
    assert not np.delete(offset, 2, axis=0).any()


def test_a_step_that_underflows_makes_zero_indices():
    tiny = float(np.finfo(F32).smallest_subnormal)
    index, offset, scale = of_row([tiny, -tiny], 8, 4)
    assert (index, offset, scale) == ([0, 0], [0, 0], 0.0)


# Half-integers are ties once the row holds the power of two that makes the step a power of two.
NUMBERS = st.one_of(
    st.integers(-260, 260).map(lambda k: k / 2),
    st.floats(-1e6, 1e6, width=32),
    st.sampled_from([0.0, 1e-45, -1e-45, 1e-38, 2.0**40, -(2.0**40)]),
)


@st.composite
def matrices(draw):
    hidden, inputs = draw(st.integers(1, 2)), draw(st.integers(1, 4))
    ties = draw(st.booleans())
    element = NUMBERS if not ties else st.integers(-256, 256).map(lambda k: k / 2)
    rows = draw(
        st.lists(st.lists(element, min_size=inputs, max_size=inputs), min_size=4 * hidden, max_size=4 * hidden)
    )
    return [[128.0, *row] if ties else row for row in rows]


@settings(max_examples=200, deadline=None)
@given(matrices(), st.sampled_from(WIDTHS), st.sampled_from(["row", "gate", "tensor"]), st.sampled_from([4, 1]))
def test_twin_in_fractions(rows, widths, granularity, gates):
    values = np.array(rows, F32)
    index, offset, scale = quantise.weights(values, Formats(*widths, granularity=granularity), gates)
    expected = twin.weights(values.tolist(), *widths, granularity, gates)
    assert (index.tolist(), offset.tolist(), scale.tolist()) == expected
    assert (index.dtype, offset.dtype, scale.dtype) == (np.int8, np.uint8, F32)
    low = quantise.low_indices(index, offset, Formats(*widths))
    assert low.min() >= -(2 ** (widths[1] - 1)) and low.max() <= 2 ** (widths[1] - 1) - 1


# Whole networks


def layers(rng, sizes=((3, 4),), directions=1, projection=0):
    made, inputs = [], sizes[0][0]
    for _, hidden in sizes:
        output = projection or hidden
        made.append(
            FloatLayer(
                rng.normal(size=(directions, 4 * hidden, inputs)).astype(F32),
                rng.normal(size=(directions, 4 * hidden, output)).astype(F32),
                rng.normal(size=(directions, 4 * hidden)).astype(F32),
                rng.normal(size=(directions, output, hidden)).astype(F32) if projection else None,
            )
        )
        inputs = directions * output
    return made


def sequences(rng, features=3):
    return [rng.normal(size=(n, features)).astype(F32) for n in (5, 1, 8)]


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("projection", [0, 2])
def test_stored_arrays_of_a_network(directions, projection):
    rng = np.random.default_rng(0)
    stack, x = layers(rng, ((3, 4), (0, 5)), directions, projection), sequences(rng)
    network = fxp.Network(build(stack, x, Formats(7, 3)))
    scale = max(np.abs(v).max() for v in x) / F32(64)
    for source, layer in zip(stack, network.layers, strict=True):
        assert layer.x_scale == scale
        scale = layer.h_scale
        assert not layer.low_bias.any() and (layer.input_scale == 1).all()
        assert layer.projected == bool(projection) and layer.directions == directions
        for d in range(directions):
            for part, values in (("wx", source.wx[d]), ("wh", source.wh[d])):
                stored = [getattr(layer, f"{part}_{name}")[d].tolist() for name in ("index", "offset", "scale")]
                assert tuple(stored) == twin.weights(values.tolist(), 7, 3)
                assert (getattr(layer, f"{part}_float")[d] == values).all()
            assert (layer.bias[d] == source.bias[d]).all()
            if projection:
                index, _, steps = twin.weights(source.projection[d].tolist(), 7, 3, gates=1)
                assert (layer.wp_index[d].tolist(), layer.wp_scale[d].tolist()) == (index, steps)
                assert layer.m_scale == F32(1 / 64)
        if not projection:
            assert layer.h_scale == F32(1 / 64)


def test_range_of_a_projection_is_that_of_the_float_network():
    rng = np.random.default_rng(1)
    (layer,), x = layers(rng, projection=2), sequences(rng)
    layer = replace(layer, projection=4 * layer.projection)
    largest = 0.0
    for sequence in x:
        h, c = np.zeros(2), np.zeros(4)
        for v in sequence.astype(float):
            z = layer.wx[0] @ v + layer.wh[0] @ h + layer.bias[0]
            i, f, o = (1 / (1 + np.exp(-z[4 * g : 4 * g + 4])) for g in (0, 1, 3))
            c = f * c + i * np.tanh(z[8:12])
            h = layer.projection[0] @ (o * np.tanh(c))
            largest = max(largest, np.abs(h).max())
    mantissa, exponent = np.frexp(largest)
    expected = np.ldexp(np.ceil(mantissa * 2**12), exponent - 12) / 128
    assert largest > 1 and not float(mantissa * 2**12).is_integer()
    assert float(build([layer], x, Formats()).layers[0].h_scale) == expected
    assert build([layer], x[::-1], Formats()).layers[0].h_scale == np.float32(expected)


@pytest.mark.parametrize("profile", ["float32", "fixed"])
def test_input_scale_is_folded_into_the_weights(profile):
    """With powers of two nothing is rounded, so the network equals the one whose weights and inputs carry the scale."""
    rng = np.random.default_rng(2)
    (layer,), x = layers(rng), sequences(rng)
    gain = np.array([4, 1, 0.125], F32)
    formats = Formats(profile=profile)
    scaled = fxp.Network(build([layer], x, formats, input_scale=gain))
    folded = fxp.Network(build([replace(layer, wx=layer.wx * gain)], [v / gain for v in x], formats))
    for name in ("wx_index", "wx_offset", "wx_scale", "wh_index", "x_scale"):
        assert (getattr(scaled.layers[0], name) == getattr(folded.layers[0], name)).all()
    assert (scaled.layers[0].input_scale == gain).all() and (scaled.layers[0].wx_float == layer.wx).all()
    options = {"controller": accel.Random(0.5), "engine": "reference"}
    outputs = fxp.emulate(scaled, x, **options).outputs
    for a, b in zip(outputs, fxp.emulate(folded, [v / gain for v in x], **options).outputs, strict=True):
        assert (a == b).all()


def test_quantising_again_keeps_what_is_not_quantised():
    rng = np.random.default_rng(3)
    stack, x = layers(rng), sequences(rng)
    head = traces.Head(rng.normal(size=(2, 4)).astype(F32), np.zeros(2, F32), "last")
    about = {"name": "n", "metric": "accuracy", "origin": "o", "licence": "l", "input_scale": np.array([1, 2, 3], F32)}
    first = build(stack, x, Formats(), head=head, **about)
    again = quantise.requantise(first, x, Formats(6, 2, "fixed", 16, "clamp", "tensor"))
    direct = build(stack, x, Formats(6, 2, "fixed", 16, "clamp", "tensor"), head=head, **about)
    assert again.digest() == direct.digest() != first.digest()
    assert (again.name, again.metric, again.origin, again.licence) == ("n", "accuracy", "o", "l")
    assert quantise.requantise(again, x, Formats()).digest() == first.digest()


def spoiled(part, value, rng):
    (layer,) = layers(rng, projection=2)
    array = getattr(layer, part).copy()
    array.flat[3] = value
    return replace(layer, **{part: array})


@pytest.mark.parametrize("part", ["wx", "wh", "bias", "projection"])
@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "NaN or infinite"), (-np.inf, "NaN or infinite"), (2.0**41, r"above 2\^40")]
)
def test_bad_weights(part, value, message):
    rng = np.random.default_rng(4)
    with pytest.raises(InputError, match=f"layer 0: .*{message}"):
        build([spoiled(part, value, rng)], sequences(rng), Formats())


def test_bad_shapes():
    rng = np.random.default_rng(5)
    one, two = layers(rng, ((3, 4), (0, 2)))
    x = sequences(rng)
    for stack, message in [
        ([], "no LSTM layer"),
        ([one, one], "layer 1 takes 3 inputs, layer 0 gives 4"),
        ([replace(one, bias=one.bias[:, :3])], "bias has shape"),
        ([replace(one, wh=two.wh)], "hidden weights has shape"),
        ([replace(one, wx=one.wx[0])], "expected \\[directions"),
        ([replace(one, wx=one.wx[:, :15])], "expected \\[directions"),
        ([replace(one, projection=np.ones((1, 3, 4), F32))], "projection has shape"),
    ]:
        with pytest.raises(InputError, match=message):
            build(stack, x, Formats())


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ([], "is empty"),
        ([np.zeros((0, 3), F32)], "is empty"),
        ([np.ones((4, 2), F32)], "2 features, but the network takes 3"),
        ([np.full((4, 3), np.nan, F32)], "NaN"),
        ([np.full((4, 3), 1e300)], "infinite"),
        ([np.full((4, 3), 2.0**41, F32)], re.escape("above 2^40")),
    ],
)
def test_bad_calibration(calibration, message):
    with pytest.raises(InputError, match=f"calibration data.* {message}"):
        build(layers(np.random.default_rng(6)), calibration, Formats())


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ([1, 2], "input_scale has shape"), ([1, 0, 1], "not positive"), ([1, -1, 1], "not positive"),
        ([1, np.nan, 1], "NaN"), ([1, np.inf, 1], "infinite"), ([1, 1e-44, 1], "calibration data has magnitudes"),
        ([1, 1e12, 1], "input_scale makes input weights exceed"),
    ],
)  # fmt: skip
def test_bad_input_scale(scale, message):
    rng = np.random.default_rng(7)
    (layer,) = layers(rng)
    with pytest.raises(InputError, match=message):
        build([replace(layer, wx=layer.wx * F32(1e3))], sequences(rng), Formats(), input_scale=np.array(scale, F32))


def test_calibration_data_of_zeros_has_range_one():
    model = build(layers(np.random.default_rng(8)), [np.zeros((4, 3), F32)], Formats())
    assert model.layers[0].x_scale == F32(1 / 128)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("high", 9), ("high", 1), ("low", 1), ("high", 8.0), ("high", True), ("low", "4"), ("accumulator_bits", 7),
        ("accumulator_bits", 33), ("profile", "double"), ("overflow", ""), ("granularity", None),
    ],
)  # fmt: skip
def test_bad_formats(field, value):
    with pytest.raises(InputError, match=field):
        Formats(**{field: value})


def test_low_precision_is_not_wider_than_high():
    with pytest.raises(InputError, match="low is 8 and high is 6"):
        Formats(6, 8)
