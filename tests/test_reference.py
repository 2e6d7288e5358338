"""The reference engine against values worked out by hand from docs/numerics.md, section by section."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from accel import reference as controllers
from fxp import reference
from fxp.reference import F32, Accumulator
from traces.errors import InputError

# Section 3: activations


@pytest.mark.parametrize(
    ("high", "low", "table"),
    [
        (8, 4, {-127: -8, -120: -7, -9: -1, -8: 0, -7: 0, 7: 0, 8: 1, 11: 1, 24: 2, 119: 7, 120: 7, 127: 7}),
        (8, 8, {-127: -127, -1: -1, 0: 0, 127: 127}),
        (7, 3, {-63: -4, -57: -4, -56: -3, -8: 0, -9: -1, 7: 0, 8: 1, 55: 3, 56: 3, 63: 3}),
        (6, 2, {-31: -2, -25: -2, -24: -1, -9: -1, -8: 0, 7: 0, 8: 1, 31: 1}),
        (5, 4, {-15: -7, -14: -7, -2: -1, -1: 0, 0: 0, 1: 1, 2: 1, 3: 2, 13: 7, 14: 7, 15: 7}),
        (2, 2, {-1: -1, 0: 0, 1: 1}),
    ],
)
def test_low_activation(high, low, table):
    assert {index: reference.low_activation(index, high, low) for index in table} == table


@pytest.mark.parametrize(("high", "low"), [(8, 4), (8, 2), (7, 3), (6, 5), (5, 5)])
def test_low_activation_is_the_nearest_target(high, low):
    top, step = 2 ** (high - 1) - 1, 2 ** (high - low)
    for index in range(-top, top + 1):
        nearest = math.floor(Fraction(index, step) + Fraction(1, 2))
        assert reference.low_activation(index, high, low) == min(nearest, 2 ** (low - 1) - 1)


def test_low_weight():
    table = {(-127, 0): -8, (-127, 1): -7, (-1, 0): -1, (-1, 1): 0}
    table |= {(15, 0): 0, (15, 1): 1, (111, 1): 7, (127, 0): 7}
    assert {pair: reference.low_weight(*pair, 8, 4) for pair in table} == table
    assert reference.low_weight(5, 0, 6, 6) == 5


def test_input_is_divided_twice_clipped_and_rounded_to_even():
    layer = SimpleNamespace(x_scale=F32(0.5), input_scale=np.array([1, 2, 1, 1e-30], F32))
    x = np.array([[0.25, 0.5, 0.75, 0.0], [-0.25, -1.5, -0.75, 3e38], [1e30, -1e30, 63.4, -3e38]], F32)
    assert reference.quantise_input(layer, x, 8) == [[0, 0, 2, 0], [0, -2, -2, 127], [127, -127, 127, -127]]
    assert reference.quantise_input(layer, x, 3)[2] == [3, -3, 3, -3]


@pytest.mark.parametrize(("tie", "result", "exact"), [(4.5, 4, 5), (8.5, 8, 9), (3.5, 4, 3)])
def test_quotient_is_rounded_before_the_index(tie, result, exact):
    # x / 0.1 is the tie in binary32, while the exact quotient lies beside it.
    scale = F32(0.1)
    x = scale * F32(tie)
    layer = SimpleNamespace(x_scale=F32(1), input_scale=np.array([scale]))
    assert round(Fraction(float(x)) / Fraction(float(scale))) == exact
    assert reference.quantise_input(layer, np.array([[x]]), 8) == [[result]]


# Section 4: accumulators


@pytest.mark.parametrize(
    ("total", "wrapped", "clamped", "overflow"),
    [
        (127, 127, 127, 0), (-128, -128, -128, 0), (128, -128, 127, 1), (-129, 127, -128, 1), (0, 0, 0, 0),
        (256, 0, 127, 1), (-256, 0, -128, 1), (383, 127, 127, 1), (384, -128, 127, 1), (-385, 127, -128, 1),
    ],
)  # fmt: skip
def test_accumulator_of_eight_bits(total, wrapped, clamped, overflow):
    for rule, result in (("wrap", wrapped), ("clamp", clamped)):
        accumulator = Accumulator(8, rule)
        assert accumulator.take(total) == result
        assert accumulator.overflows == overflow


def test_twenty_four_bits_overflow_from_521_products():
    for products, overflow in ((520, 0), (521, 1)):
        accumulator = Accumulator(24, "wrap")
        total = accumulator.take(reference.product([127] * products, [127] * products))
        assert accumulator.overflows == overflow
        assert total == 127 * 127 * products - overflow * 2**24


# Section 5: profile float32


def bits(value: np.float32) -> int:
    return int(np.float32(value).view(np.uint32))


def exact_fl(value: Fraction) -> Fraction:
    """A rational rounded to binary32 by integer arithmetic alone: 24 bits, ties to even, subnormals kept."""
    if value == 0:
        return value
    size = abs(value)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    while Fraction(2) ** exponent > size:
        exponent -= 1
    while Fraction(2) ** (exponent + 1) <= size:
        exponent += 1
    unit = Fraction(2) ** (max(exponent, -126) - 23)
    return round(value / unit) * unit


def exact_exp(x: Fraction) -> Fraction:
    """Section 5.2 with rationals: no floating-point unit takes part."""
    fl = exact_fl
    log2e, hi, lo = (Fraction(float(reference.constant(b))) for b in (0x3FB8AA3B, 0x3F318000, 0xB95E8083))
    series = [fl(Fraction(1, math.factorial(n))) for n in range(6, -1, -1)]
    a = max(x, Fraction(-87))
    n = round(fl(a * log2e))
    r = fl(fl(a - fl(n * hi)) - fl(n * lo))
    p = series[0]
    for coefficient in series[1:]:
        p = fl(fl(p * r) + coefficient)
    result = p * Fraction(2) ** n
    assert fl(result) == result
    return result


def test_constants():
    assert float(reference.LN2_HI) == 0.693359375
    assert F32(1 / math.log(2)) == reference.LOG2E
    assert F32(math.log(2) - 0.693359375) == reference.LN2_LO
    assert [F32(1 / math.factorial(n)) for n in range(6, -1, -1)] == reference.SERIES


ARGUMENTS = [0.0, -0.0, -1e-30, -0.1, -0.34657359, -0.34657362, -0.5, -1.0, -10.0, -50.5, -86.99, -87.0, -1e5]


@pytest.mark.parametrize("x", ARGUMENTS)
def test_exponential_against_rationals(x):
    x = F32(x)
    result = reference.exp_float(x)
    assert type(result) is np.float32
    assert Fraction(float(result)) == exact_exp(Fraction(float(x)))


def test_exponential_over_its_range():
    worst = 0.0
    for step in range(2000):
        x = F32(-87 * step / 2000)
        result = reference.exp_float(x)
        assert Fraction(float(result)) == exact_exp(Fraction(float(x)))
        worst = max(worst, abs(float(result) / math.exp(float(x)) - 1))
    assert 0 < worst < 2.1 * 2.0**-23


def test_sigmoid_and_tanh_against_rationals():
    fl = exact_fl
    for step in range(-60, 61):
        z = F32(step * 0.37)
        t = exact_exp(-abs(Fraction(float(z))))
        expected = fl((1 if z >= 0 else t) / fl(1 + t))
        assert Fraction(float(reference.sigmoid_float(z))) == expected
        t = exact_exp(-2 * abs(Fraction(float(z))))
        y = fl(fl(1 - t) / fl(1 + t))
        assert Fraction(float(reference.tanh_float(z))) == (-y if z < 0 else y)


def test_bit_patterns_at_the_ends():
    assert bits(reference.exp_float(F32(0))) == 0x3F800000
    assert bits(reference.sigmoid_float(F32(0))) == 0x3F000000
    assert bits(reference.sigmoid_float(F32(-0.0))) == 0x3F000000
    assert bits(reference.sigmoid_float(F32(100))) == 0x3F800000
    assert bits(reference.sigmoid_float(F32(-1e30))) == bits(reference.exp_float(F32(-87)))
    assert bits(reference.tanh_float(F32(0))) == 0
    assert bits(reference.tanh_float(F32(-0.0))) == 0
    assert bits(reference.tanh_float(F32(-100))) == 0xBF800000
    assert bits(reference.tanh_float(F32(2.0**-30))) == 0


def test_float_index_clips_before_it_rounds():
    assert [reference.index_float(F32(v), F32(0.5), 7) for v in (0.25, 0.75, -0.75, 3.4, 1e9, -1e9)] == [
        0, 2, -2, 7, 7, -7,
    ]  # fmt: skip
    assert reference.index_float(F32(1), F32(2.0**-140), 127) == 127


# Section 6: profile fixed


def test_multiplier():
    assert reference.multiplier(F32(0), 11) == (0, 0)
    assert reference.multiplier(F32(1), 0) == (2**14, 14)
    assert reference.multiplier(F32(1), 11) == (2**14, 3)
    assert reference.multiplier(F32(0.75), 0) == (24576, 15)
    assert reference.multiplier(F32(2.0**40), 11) == (2**14, -37)
    assert reference.multiplier(F32(2.0**-149), 0) == (2**14, 163)
    # 1 + 2^-15 scales to 16384.5 (a tie, even below), 1 + 3 · 2^-15 to 16385.5 (even above).
    assert reference.multiplier(F32(1 + 2.0**-15), 0) == (16384, 14)
    assert reference.multiplier(F32(1 + 3 * 2.0**-15), 0) == (16386, 14)
    # The largest number below 2 rounds up to 2^15 and is renormalised.
    assert reference.multiplier(F32(2 - 2.0**-23), 0) == (2**14, 13)


@pytest.mark.parametrize(
    ("a", "m", "e", "result"),
    [
        (3, 16384, 15, 2), (-3, 16384, 15, -1), (1, 16384, 15, 1), (-1, 16384, 15, 0), (5, 16384, 16, 1),
        (-5, 16384, 16, -1), (7, 20000, 0, 140000), (7, 20000, -3, 1120000), (-7, 20000, -3, -1120000),
        (2**31 - 1, 32767, 300, 0), (-(2**31), 32767, 300, 0), (1, 16384, -17, 2**31 - 1),
        (-1, 16384, -17, -(2**31)), (-1, 16384, -200, -(2**31)), (0, 16384, -200, 0), (9, 0, -8, 0),
        (2**31 - 1, 32767, 14, 2**31 - 1),
    ],
)  # fmt: skip
def test_scaled(a, m, e, result):
    assert reference.scaled(a, m, e) == result


def test_bias_of_the_fixed_profile():
    table = {2.0**-12: 0, 3 * 2.0**-12: 2, -(2.0**-12): 0, 1: 2048, 2.0**20: 2**31 - 1, -(2.0**40): -(2**31)}
    assert {value: reference.bias_fixed(F32(value)) for value in table} == table


def test_tanh_table():
    table = reference.tanh_table()
    assert len(table) == 1025
    assert [table[j] for j in (512, 513, 515, 1024, 0)] == [0, 512, 1535, 32767, -32767]
    assert list(table) == [-value for value in reversed(table)]
    digest = hashlib.sha256(np.array(table, "<i2").tobytes()).hexdigest()
    assert digest == "d786df8e79eea2b8f4ad0a279bbd2ac0d44063d1ac7df3cc3108040241fd2461"


def test_sigmoid_and_tanh_of_the_fixed_profile():
    assert [reference.tanh_fixed(z) for z in (0, 32, -32, 16, 1, -1, 32767, -32768)] == [
        0, 512, -512, 256, 16, -16, 32767, -32767,
    ]  # fmt: skip
    table = {0: 16384, 64: 16640, -64: 16128, 32767: 32767, -32768: 0}
    assert {z: reference.sigmoid_fixed(z) for z in table} == table
    for z in range(-16384, 16384, 77):
        assert abs(reference.tanh_fixed(z) - 32768 * math.tanh(z / 2048)) < 2
        assert abs(reference.sigmoid_fixed(z) - 32768 / (1 + math.exp(-z / 2048))) < 2


# One step worked by hand


def one_element(profile, **changes):
    """A layer of one input and one element at 8/4 bits."""
    shape = (1, 4, 1)
    layer = SimpleNamespace(
        input_size=1, hidden_size=1, output_size=1, directions=1, projected=False,
        wx_index=np.full(shape, 100, np.int8), wh_index=np.full(shape, -50, np.int8),
        wx_offset=np.zeros(shape, np.uint8), wh_offset=np.ones(shape, np.uint8),
        wx_scale=np.full((1, 4), 2.0**-7, F32), wh_scale=np.full((1, 4), 2.0**-7, F32),
        bias=np.zeros((1, 4), F32), low_bias=np.zeros((1, 4), F32),
        x_scale=F32(2.0**-7), h_scale=F32(2.0**-7), input_scale=np.ones(1, F32),
    )  # fmt: skip
    vars(layer).update(changes)
    return SimpleNamespace(
        high=8, low=4, profile=profile, accumulator_bits=24, overflow="wrap", layers=[layer]
    )


def static(model, bits):
    controller = type("Static", (), {"bits": bits})()
    return controllers.twin(
        controller, profile=model.profile, hidden=1, length=2, sequence=0, layer=0, direction=0, high=8, low=4
    )


def test_accumulators_at_both_precisions():
    model = one_element("fixed")
    high = reference.run_layer(model, 0, 0, [[64], [-9]], static(model, 8))
    assert high.accumulators[:, 0].tolist() == [[6400] * 4, [-900] * 4]
    assert high.accumulators[1, 1].tolist() == [-50 * int(high.hidden[0, 0])] * 4
    low = reference.run_layer(model, 0, 0, [[64], [-9]], static(model, 4))
    # 100 >> 4 = 6, 64 -> 4, -9 -> -1; -50 >> 4 = -4, plus the offset bit -3.
    assert low.accumulators[:, 0].tolist() == [[24] * 4, [-6] * 4]
    assert low.accumulators[1, 1].tolist() == [-3 * reference.low_activation(int(low.hidden[0, 0]), 8, 4)] * 4
    assert low.low.all() and not high.low.any()


def test_step_of_the_fixed_profile():
    model = one_element("fixed")
    result = reference.run_layer(model, 0, 0, [[64]], static(model, 8))
    # 6400 · 2^-14 = 0.390625, that is 800 / 2048.
    gate, candidate = reference.sigmoid_fixed(800), reference.tanh_fixed(800)
    c = (((gate * candidate + 8) >> 4) + 2**14) >> 15
    m = (gate * reference.tanh_fixed(c) + 2**14) >> 15
    assert result.cell.tolist() == [[c]]
    assert abs(c / 2048 - math.tanh(0.390625) / (1 + math.exp(-0.390625))) < 2.0**-10
    assert result.hidden.tolist() == [[(m + 128) >> 8]]
    assert result.state["c"] == [c] and result.overflow == 0


def test_peepholes_of_the_fixed_profile():
    """p_i 2, p_f -0.75, p_o 60: the last drives z_o beyond its 16 bits."""
    model = one_element("fixed", peephole=np.array([[2, -0.75, 60]], F32))
    result = reference.run_layer(model, 0, 0, [[64], [64]], static(model, 8))
    c, h = 0, 0
    for _ in range(2):
        # The x part is 800 / 2048; an index of h counts -50 · 2^-14, that is -50/8 / 2048.
        z = 800 + math.floor(-50 * h / 8 + 0.5)
        i, f = (reference.sigmoid_fixed(v) for v in (z + 2 * c, z + math.floor(-0.75 * c + 0.5)))
        g = reference.tanh_fixed(z)
        c = (f * c + ((i * g + 8) >> 4) + 2**14) >> 15
        o = reference.sigmoid_fixed(min(z + 60 * c, 32767))
        h = (((o * reference.tanh_fixed(c) + 2**14) >> 15) + 128) >> 8
    assert result.cell[1].tolist() == [c] and result.hidden[1].tolist() == [h]
    assert 800 + 60 * c > 32767


def test_peepholes_of_the_float32_profile():
    peephole = np.array([[2, -0.75, 1.1]], F32)
    model = one_element("float32", peephole=peephole)
    result = reference.run_layer(model, 0, 0, [[64], [64]], static(model, 8))
    (pi, pf, po), c, h = peephole[0], F32(0), 0
    for _ in range(2):
        z = F32(6400) * F32(2.0**-14) + F32(-50 * h) * F32(2.0**-14)
        i, f = reference.sigmoid_float(z + pi * c), reference.sigmoid_float(z + pf * c)
        c = f * c + i * reference.tanh_float(z)
        m = reference.sigmoid_float(z + po * c) * reference.tanh_float(c)
        h = round(float(m) * 128)
    assert result.cell[1].tolist() == [c] and result.hidden[1].tolist() == [h]


def test_multiplier_of_a_negative_weight():
    assert reference.signed_multiplier(F32(-0.75)) == (-24576, 15)
    # -1.5 and 1.5 both round upward.
    assert [reference.scaled(v, *reference.signed_multiplier(F32(-0.75))) for v in (2, -2)] == [-1, 2]


def test_low_bias_counts_at_low_precision_alone():
    for profile in ("float32", "fixed"):
        plain, shifted = one_element(profile), one_element(profile, low_bias=np.ones((1, 4), F32))
        for width, same in ((8, True), (4, False)):
            first, second = (reference.run_layer(m, 0, 0, [[64]], static(m, width)) for m in (plain, shifted))
            assert (first.cell[0, 0] == second.cell[0, 0]) == same


def test_backward_runs_from_the_last_position():
    model = one_element("float32")
    layer = model.layers[0]
    for name, value in vars(layer).items():
        if name.endswith(("_index", "_offset", "bias")) or name in ("wx_scale", "wh_scale"):
            setattr(layer, name, np.concatenate([value] * 2))
    x = [[5], [-90], [33]]
    forward = reference.run_layer(model, 0, 0, x[::-1], static(model, 8))
    backward = reference.run_layer(model, 0, 1, x, static(model, 8))
    for name in ("cell", "hidden", "accumulators", "low"):
        assert (getattr(backward, name) == getattr(forward, name)[::-1]).all()
    assert backward.state == forward.state


def test_projection_counts_its_overflows():
    changes = {
        "projected": True, "wp_index": np.array([[[127]]], np.int8), "wp_scale": np.ones((1, 1), F32),
        "m_scale": F32(2.0**-7), "wx_index": np.full((1, 4, 1), 127, np.int8),
        "wx_scale": np.ones((1, 4), F32),
    }  # fmt: skip
    for profile in ("float32", "fixed"):
        model = one_element(profile, **changes)
        model.accumulator_bits = 8
        # 127 · 1 fits in eight bits, the projection's 127 · u does not.
        result = reference.run_layer(model, 0, 0, [[1]], static(model, 8))
        assert result.accumulators[0].tolist() == [[127] * 4, [0] * 4]
        gate = 1 / (1 + math.exp(-127 / 128))
        m = gate * math.tanh(gate * math.tanh(127 / 128))
        u = round(m * 128)
        total = (127 * u + 128) % 256 - 128
        assert result.overflow == 1
        assert result.hidden.tolist() == [[max(-127, min(127, total))]]


# Section 7: controllers


def test_mix_is_splitmix64():
    # First outputs of Vigna's splitmix64.c for the seed 0; its state advances by the golden gamma.
    gamma = 0x9E3779B97F4A7C15
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [controllers.mix(n * gamma & controllers.MASK64) for n in range(3)] == expected


def make(name, profile="float32", hidden=1, length=100, sequence=0, layer=0, direction=0, **parameters):
    controller = type(name, (), parameters)()
    return controllers.twin(
        controller, profile=profile, hidden=hidden, length=length, sequence=sequence, layer=layer,
        direction=direction, high=8, low=4,
    )  # fmt: skip


def walk(twin, cells):
    """Mask of step 0, then after each value of c, for one element: 'L' or 'H' a step."""
    masks = [twin.first()] + [twin.step([c], [0]) for c in cells]
    return "".join("L" if low else "H" for (low,) in masks)


def test_random_follows_the_formula():
    twin = make("Random", hidden=5, sequence=-1, layer=3, direction=1, low_share=0.5, seed=-2)
    mix = controllers.mix
    key = mix(mix(mix(2**64 - 2) ^ (2**64 - 1)) ^ 7)
    for step in range(4):
        mask = twin.first() if step == 0 else twin.step([0] * 5, [0] * 5)
        assert mask == [mix(mix(key ^ step) ^ k) < 2**63 for k in range(5)]
    assert walk(make("Random", low_share=0.0, seed=1), [0] * 9) == "H" * 10
    assert walk(make("Random", low_share=1.0, seed=1), [0] * 9) == "L" * 10


def test_static():
    assert make("Static", bits=4).first() == [True]
    assert make("Static", bits=8).first() == [False]
    same = type("Static", (), {"bits": 8})()
    place = {"profile": "fixed", "hidden": 1, "length": 1, "sequence": 0, "layer": 0, "direction": 0}
    assert controllers.twin(same, **place, high=8, low=8).first() == [False]
    with pytest.raises(InputError, match="6"):
        make("Static", bits=6)
    with pytest.raises(InputError, match="Own"):
        make("Own")


def peak(profile="float32", **parameters):
    defaults = {"beta": 0.5, "profile_steps": 2, "max_stable": 3, "max_peak": 2}
    return make("Peak", profile, **{**defaults, **parameters})


@pytest.mark.parametrize(("profile", "unit"), [("float32", F32(1)), ("fixed", 8)])
def test_peak_walked_by_hand(profile, unit):
    twin = peak(profile)
    zero = 0 * unit
    # Profiling takes two steps: window 0 to 2, margin 1, so outside is above 3 or below -1.
    assert walk(twin, [zero, 2 * unit]) == "LLL"
    assert twin.words()[:, 0].tolist()[:2] == [controllers.STABLE, 0]
    # 3 is the limit itself, not outside; 4 is.
    assert twin.step([3 * unit], [0]) == [True]
    assert twin.step([4 * unit], [0]) == [False]
    assert twin.words()[:2, 0].tolist() == [controllers.PEAK, 0]
    # Back inside: stable from 0 again.
    assert twin.step([-1 * unit], [0]) == [True]
    assert twin.words()[:2, 0].tolist() == [controllers.STABLE, 0]
    # Three quiet steps are allowed, the fourth starts a new profile; its value does not join.
    for quiet in range(3):
        assert twin.step([zero], [0]) == [True]
        assert twin.words()[:2, 0].tolist() == [controllers.STABLE, quiet + 1]
    assert twin.step([zero], [0]) == [True]
    assert twin.words()[:, 0].tolist() == [controllers.PROFILING, 0, 0, 0]
    # A window of one point, 5: nothing tested while profiling.
    assert twin.step([5 * unit], [0]) == [True]
    assert twin.step([5 * unit], [0]) == [True]
    assert twin.step([zero], [0]) == [False]
    # Two more steps outside are allowed in a peak, the third starts a new profile, at low precision.
    assert [twin.step([zero], [0])[0] for _ in range(3)] == [False, False, True]
    assert twin.words()[:, 0].tolist() == [controllers.PROFILING, 0, 0, 0]


def test_peak_outside_wins_over_the_limit():
    twin = peak(max_stable=1)
    assert walk(twin, [F32(0), F32(0), F32(0)]) == "LLLL"
    # counter 2 > max_stable, but the value is outside.
    assert twin.step([F32(1)], [0]) == [False]


def test_peak_counts_given_as_shares():
    twin = make("Peak", length=30, beta=0.1, profile_steps=0.05, max_stable=np.float32(0.5), max_peak=1.0)
    assert (twin.profile_steps, twin.max_stable, twin.max_peak) == (2, 15, 30)
    assert make("Peak", length=3, beta=0.1, profile_steps=0.05, max_stable=1, max_peak=1).profile_steps == 1
    with pytest.raises(InputError, match="length"):
        make("Peak", length=None, beta=0.1, profile_steps=0.05, max_stable=1, max_peak=1)


def test_peak_beta_is_a_binary32_number_first():
    # In binary64 the product lies above the tie 2048.5, the binary32 neighbour is the tie itself.
    assert peak("fixed", beta=0.5 + 2.0**-13 + 2.0**-40).beta_fixed == 2048


@pytest.mark.parametrize("profile", ["float32", "fixed"])
def test_words_carry_the_whole_state(profile):
    values = [((k * 37) % 23 - 11) * (3 if k % 7 == 0 else 1) for k in range(60)]
    cells = [F32(v) / F32(7) if profile == "float32" else v for v in values]
    for name, parameters in (
        ("Peak", {"beta": 0.1, "profile_steps": 3, "max_stable": 4, "max_peak": 2}),
        ("Delta", {"threshold": 1.5, "relative": True}),
        ("Random", {"low_share": 0.4, "seed": 9}),
    ):
        whole = make(name, profile, **parameters)
        masks = [whole.step([c], [0]) for c in cells]
        assert len({mask[0] for mask in masks}) == 2
        twin = make(name, profile, **parameters)
        for step, c in enumerate(cells):
            words = twin.words()
            twin = make(name, profile, **parameters)
            twin.restore(words, step)
            assert twin.step([c], [0]) == masks[step]


def test_delta_walked_by_hand():
    one = F32(1)
    cells = [one / 2, one, F32(2), F32(1.25)]
    assert walk(make("Delta", threshold=0.5, relative=False), cells) == "LLLHH"
    # Relative: |1 - 0| > 0.5, |1.5 - 1| <= 0.75, |4 - 1.5| > 2, |0 - 4| > 0, |0 - 0| is not.
    cells = [one, F32(1.5), F32(4), F32(0), F32(0)]
    assert walk(make("Delta", threshold=0.5, relative=True), cells) == "LHLHHL"


def test_delta_of_the_fixed_profile():
    # 0.5 is 1024 steps of 2^-11; equal is not above.
    assert walk(make("Delta", "fixed", threshold=0.5, relative=False), [1024, 2049, 1024]) == "LLHH"
    assert walk(make("Delta", "fixed", threshold=0.5, relative=True), [-2, -4, -9, 0]) == "LHLHH"
    # The threshold is rounded to binary32, then to even at the tie 0.5 · 2^-11.
    assert walk(make("Delta", "fixed", threshold=2.0**-12 + 2.0**-50, relative=False), [1]) == "LH"


def test_schedule_is_given_by_position():
    plan = np.array([[1, 0], [0, 0], [0, 1]], bool)
    for direction, order in ((0, [0, 1, 2]), (1, [2, 1, 0])):
        asked = []
        rows = lambda self, *where, asked=asked: asked.append(where) or plan  # noqa: E731
        twin = make("Schedule", hidden=2, length=3, sequence=41, layer=2, direction=direction, rows=rows)
        masks = [twin.first()] + [twin.step([0, 0], [0]) for _ in range(2)]
        assert masks == [plan[position].tolist() for position in order]
        assert asked == [(41, 2, direction, 2)]
