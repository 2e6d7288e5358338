"""Controllers as users make them: parameters, schedules of every form, the paper's walk, classes of their own."""

import json
import math

import numpy as np
import pytest

import accel
import fxp
import traces
from accel.controllers import Site, check, describe
from fxp.cli import controllers as written
from fxp.formats import Formats
from fxp.quantise import FloatLayer, build
from traces import InputError

F32 = np.float32
ENGINES = ["fast", "portable", "reference"]
NAN, INF = math.nan, math.inf


def site(length=18, hidden=5, high=8, low=4):
    return Site(0, length, 0, 0, hidden, high, low, "float32")


@pytest.mark.parametrize(
    ("make", "bad"),
    [
        (lambda v: accel.Static(v), [1, 9, 4.0, True, "8", None]),
        (lambda v: accel.Random(v), [-0.1, 1.1, NAN, INF, "0.5", True, None, 1j]),
        (lambda v: accel.Random(0.5, seed=v), [0.5, 2**63, -(2**63) - 1, True, None, "1"]),
        (lambda v: accel.Peak(beta=v), [-0.1, 8.1, NAN, INF, True, "0.1", None]),
        (lambda v: accel.Peak(profile_steps=v), [0, -1, 0.0, 1.1, -0.1, NAN, True, "5", None, 2**31]),
        (lambda v: accel.Peak(max_stable=v), [0, -1, 0.0, 1.1, NAN, INF, False, "5", None, 2**31]),
        (lambda v: accel.Peak(max_peak=v), [0, -1, 0.0, 1.1, NAN, INF, False, "5", None, 2**31]),
        (lambda v: accel.Delta(v), [-1, 32769, NAN, INF, True, "1", None]),
        (lambda v: accel.Delta(1, relative=v), [0, 1, "yes", None]),
        (lambda v: accel.Schedule(v), [None, "run.h5", b"run.h5"]),
    ],
)
def test_parameters_out_of_range(make, bad):
    for value in bad:
        with pytest.raises(InputError):
            make(value)


def test_parameters_are_attributes_and_json():
    cases = [
        (accel.Static(4), {"name": "static", "bits": 4}),
        (accel.Static(np.int64(4)), {"name": "static", "bits": 4}),
        (accel.Random(0.25, 7), {"name": "random", "low_share": 0.25, "seed": 7}),
        (accel.Random(F32(0.25), np.int16(7)), {"name": "random", "low_share": 0.25, "seed": 7}),
        (accel.Random(1), {"name": "random", "low_share": 1, "seed": 0}),
        (accel.Peak(), {"name": "peak", "beta": 0.1, "profile_steps": 10, "max_stable": 0.05, "max_peak": 0.05}),
        (accel.Peak(F32(0.5), np.int32(3), F32(0.5), 1.0),
         {"name": "peak", "beta": 0.5, "profile_steps": 3, "max_stable": 0.5, "max_peak": 1.0}),
        (accel.Delta(2, relative=np.bool_(False)), {"name": "delta", "threshold": 2, "relative": False}),
        (accel.Schedule(np.zeros(5, bool)), {"name": "schedule", "plan": "hand-made"}),
    ]  # fmt: skip
    for controller, expected in cases:
        description = describe(controller)
        assert description == expected == json.loads(json.dumps(description))
        assert all(getattr(controller, k) == v for k, v in expected.items() if k not in ("name", "plan"))
    assert accel.Peak() == accel.Peak() != accel.Peak(beta=0.2)


def test_what_the_network_cannot_run():
    with pytest.raises(InputError, match="precisions 8 and 4"):
        accel.Static(5).encode(site())
    assert accel.Static(4).encode(site()).counts[0] == 1 and accel.Static(8).encode(site()).counts[0] == 0
    assert accel.Static(8).encode(site(high=8, low=8)).counts[0] == 0
    with pytest.raises(InputError, match="give sequence_length"):
        accel.Peak().encode(site(length=None))
    assert not accel.Peak(max_stable=3, max_peak=3).needs_length and accel.Peak().needs_length


# The product is that of binary64, so 0.07 of 100 steps (7.000000000000001) are 8.
@pytest.mark.parametrize(
    ("share", "length", "count"),
    [(0.05, 100, 5), (0.05, 101, 6), (0.05, 3, 1), (1.0, 7, 7), (0.07, 100, 8), (1e-9, 9, 1)],
)
def test_shares_become_counts(share, length, count):
    assert accel.Peak(max_stable=share).encode(site(length)).counts[1] == count


# The paper's state machine, walked by hand through a network whose cell state is tanh of its input

SMALL, LARGE = 0.25, 1.0
#       profile      large: peak until it has lasted     profile  stable, inside: renewed       profile  one large step
INPUTS = [SMALL, -SMALL, SMALL, *[LARGE] * 4, SMALL, -SMALL, *[SMALL] * 4, SMALL, -SMALL, LARGE, SMALL, SMALL]
HIGH_STEPS = {4, 5, 6, 16}


def follower(profile):
    """One element: input gate 1, forget gate 0, cell input tanh(4 x)."""
    wx = np.array([[[0], [0], [4], [0]]], F32)
    bias = np.array([[100, -100, 0, 100]], F32)
    layer = FloatLayer(wx, np.zeros((1, 4, 1), F32), bias)
    return fxp.Network(build([layer], [np.ones((1, 1), F32)], Formats(profile=profile)))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("profile", ["float32", "fixed"])
@pytest.mark.parametrize(
    "peak",
    [accel.Peak(0.1, 2, 3, 2), accel.Peak(0.1, 0.1, 0.16, 0.1), accel.Peak(0.2, 2, 3, 2)],
    ids=["counts", "shares", "wider margin"],
)
def test_peak_walked_by_hand(engine, profile, peak):
    x = np.array(INPUTS, F32).reshape(1, -1, 1)
    run = fxp.emulate(follower(profile), x, peak, engine=engine, record=("plan", "cell"))
    cell = run.layers[0].cell(0)[:, 0].astype(float)
    assert (np.abs(cell) > np.abs(cell).min() * 1.2).tolist() == [v == LARGE for v in INPUTS]
    low = run.layers[0].low(0)[:, 0]
    assert {int(t) for t in np.flatnonzero(~low)} == HIGH_STEPS
    assert run.low_share == 14 / 18 and run.layers[0].low_count.tolist() == [[14]]


def test_a_wide_margin_hides_the_peak():
    x = np.array(INPUTS[:7], F32).reshape(1, -1, 1)
    assert fxp.emulate(follower("float32"), x, accel.Peak(8, 2, 9, 2)).low_share == 1
    assert fxp.emulate(follower("float32"), x, accel.Peak(0, 2, 9, 2)).low_share == 4 / 7


def test_delta_walked_by_hand():
    x = np.array([SMALL, SMALL, -SMALL, -SMALL, LARGE, LARGE, LARGE], F32).reshape(1, -1, 1)
    for threshold, relative, expected in [
        (0.5, False, [1, 0, 1, 0, 1, 0, 1]), (0.5, True, [1, 0, 1, 0, 1, 0, 1]), (1.4, False, [1, 1, 1, 0, 1, 0, 1]),
        (3, True, [1, 1, 1, 1, 1, 1, 1]),
    ]:  # fmt: skip
        run = fxp.emulate(follower("fixed"), x, accel.Delta(threshold, relative), record="plan")
        assert run.layers[0].low(0)[:, 0].astype(int).tolist() == expected


# Keys of Random


@pytest.fixture(scope="module")
def deep(make_network):
    return make_network((6, 4), directions=2, seed=3)


@pytest.fixture(scope="module")
def x():
    return [np.random.default_rng(n).normal(size=(time, 3)).astype(F32) for n, time in enumerate((9, 4, 12))]


def plans(run, sequence):
    return [layer.low(sequence, d) for layer in run.layers for d in range(layer.directions)]


def same_plans(a, b):
    return len(a) == len(b) and all((p == q).all() for p, q in zip(a, b, strict=True))


def test_random_keys_on_the_sequence_id(deep, x):
    ids = [70, -5, 2**40]
    run = fxp.emulate(deep, x, accel.Random(0.4, seed=1), sequence_ids=ids, record="plan")
    for number, identity in enumerate(ids):
        alone = fxp.emulate(deep, x[number : number + 1], accel.Random(0.4, 1), sequence_ids=[identity], record="plan")
        assert same_plans(plans(alone, 0), plans(run, number))
        assert (alone.outputs[0] == run.outputs[number]).all()
    data = traces.Data.of(x, ids=ids)
    assert same_plans(plans(fxp.emulate(deep, data, accel.Random(0.4, 1), record="plan"), 2), plans(run, 2))
    for other in (accel.Random(0.4, 2), accel.Random(0.4)):
        assert not same_plans(plans(fxp.emulate(deep, data, other, record="plan"), 0), plans(run, 0))
    default = fxp.emulate(deep, x, accel.Random(0.4, 1), record="plan")
    assert default.ids.tolist() == [0, 1, 2] and not same_plans(plans(default, 0), plans(run, 0))


def test_random_share():
    network = follower("fixed")
    x = np.zeros((1, 20000, 1), F32)
    for share in (0.0, 0.25, 1.0):
        run = fxp.emulate(network, x, accel.Random(share))
        # Five standard deviations of a binomial.
        assert abs(run.low_share - share) <= 5 * math.sqrt(share * (1 - share) / 20000)


# Schedules


@pytest.fixture(scope="module")
def recorded(deep, x):
    return fxp.emulate(deep, x, accel.Random(0.5), record=("plan", "hidden"))


def test_schedule_from_a_run_a_trace_and_arrays(deep, x, recorded, tmp_path):
    fxp.emulate(deep, x, accel.Random(0.5), trace=tmp_path / "run.h5")
    by_id = {n: [[layer.low(n, d) for d in (0, 1)] for layer in recorded.layers] for n in range(3)}
    with traces.open(tmp_path / "run.h5") as trace:
        for plan in (recorded, trace, by_id):
            run = fxp.emulate(deep, x, accel.Schedule(plan), record="plan")
            for number in range(3):
                assert same_plans(plans(run, number), plans(recorded, number))
                assert (run.outputs[number] == recorded.outputs[number]).all()
            # Only the ids count, not the order or the company.
            turned = fxp.emulate(deep, [x[2], x[0]], accel.Schedule(plan), sequence_ids=[2, 0])
            assert (turned.outputs[0] == run.outputs[2]).all() and (turned.outputs[1] == run.outputs[0]).all()
        assert describe(accel.Schedule(trace))["plan"] == describe(accel.Random(0.5))
    assert describe(accel.Schedule(recorded))["plan"] == describe(accel.Random(0.5))
    with pytest.raises(InputError):
        fxp.emulate(deep, x, accel.Schedule(trace))


def test_hand_made_schedules(make_network):
    network = make_network()
    x = np.random.default_rng(0).normal(size=(2, 6, 3)).astype(F32)
    mask = np.array([1, 0, 0, 1, 0], bool)
    steps = np.random.default_rng(1).random((6, 5)) < 0.5
    for plan, expected in [
        (mask, [np.tile(mask, (6, 1))] * 2), (mask.astype(int), [np.tile(mask, (6, 1))] * 2), (steps, [steps] * 2),
        ([steps], [steps] * 2), ([[steps]], [steps] * 2), ({0: steps, 1: mask}, [steps, np.tile(mask, (6, 1))]),
        (np.concatenate([steps, ~steps]), [steps] * 2),
    ]:  # fmt: skip
        for engine in ENGINES:
            run = fxp.emulate(network, x, accel.Schedule(plan), engine=engine, record="plan")
            assert all((run.layers[0].low(n) == expected[n]).all() for n in (0, 1))
    static = fxp.emulate(network, x, accel.Static(4)).outputs
    assert (fxp.emulate(network, x, accel.Schedule(np.ones(5, bool))).outputs == static).all()


def test_schedules_that_do_not_fit(make_network, deep, recorded):
    one, x = make_network(), np.zeros((1, 6, 3), F32)
    steps = np.zeros((6, 5), bool)
    for network, plan, message in [
        (one, steps[:5], "has 6 steps, its plan in layer 0 only 5"),
        (one, steps[:, :4], "mask of shape"),
        (one, steps.astype(float), "booleans"),
        (one, steps.astype(int) + 2, "booleans"),
        (one, {1: steps}, "no sequence of this id"),
        (one, [], "no such layer"),
        (one, 3, "no such layer"),
        (one, [3], "no such layer"),
        (deep, steps, "layer and direction|mask of shape"),
        (deep, [steps], "no such layer or direction|mask of shape"),
        (deep, [[np.zeros((6, 6), bool)] * 2], "no such layer"),
        (one, recorded, "mask of shape|only"),
    ]:
        with pytest.raises(InputError, match=message):
            fxp.emulate(network, x, accel.Schedule(plan))
    long = [[np.zeros((7, 6), bool)] * 2, [np.zeros((7, 4), bool)] * 2]
    with pytest.raises(InputError, match="cover the sequence exactly"):
        fxp.emulate(deep, x, accel.Schedule(long))
    without = fxp.emulate(one, x, accel.Static(8))
    with pytest.raises(InputError, match="not recorded"):
        fxp.emulate(one, x, accel.Schedule(without))
    with pytest.raises(InputError, match="no sequence of this id"):
        fxp.emulate(deep, x, accel.Schedule(recorded), sequence_ids=[9])


# Controllers of the user's own


class Alternating:
    """Low in every other step, with an element of its own; notes what it is told."""

    seen: list = []  # noqa: RUF012

    def reset(self, sequence, length, layer, direction, hidden):
        self.place, self.hidden, self.steps = (sequence, length, layer, direction), hidden, 0
        return [True] * hidden

    def step(self, c, h):
        assert c.dtype in (F32, np.int16) and c.shape == (self.hidden,) and h.dtype == np.int8
        self.steps += 1
        self.seen.append((*self.place, self.steps))
        mask = np.full(self.hidden, self.steps % 2 == 0)
        mask[0] = True
        c[:] = 99
        h[:] = 99
        return mask


class Called:
    """The least that the protocol asks for."""

    def reset(self, sequence, length):
        return None

    def __call__(self, c, h):
        return np.abs(h) < 40


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("threads", [1, 3])
def test_own_class_with_step(deep, x, engine, threads):
    Alternating.seen.clear()
    run = fxp.emulate(deep, x, Alternating(), engine=engine, threads=threads, sequence_ids=[5, 6, 7], record="plan")
    for number, sequence in enumerate(x):
        for layer in run.layers:
            for direction in (0, 1):
                expected = np.repeat(np.arange(len(sequence))[:, None] % 2 == 0, layer.hidden_size, axis=1)
                expected[:, 0] = True
                low = layer.low(number, direction)
                assert (low == (expected[::-1] if direction else expected)).all()
        told = [entry for entry in Alternating.seen if entry[0] == 5 + number]
        assert sorted(told) == [
            (5 + number, len(sequence), n, d, t + 1) for n in (0, 1) for d in (0, 1) for t in range(len(sequence))
        ]
    # What it does to its copies of c and h changes nothing.
    replay = fxp.emulate(deep, x, accel.Schedule(run), engine=engine, sequence_ids=[5, 6, 7])
    assert all((a == b).all() for a, b in zip(replay.outputs, run.outputs, strict=True))


def test_own_class_that_is_called(make_network, tmp_path):
    network, x = make_network(), np.random.default_rng(0).normal(size=(2, 8, 3)).astype(F32)
    run = fxp.emulate(network, x, Called(), record=("plan", "hidden"), trace=tmp_path / "t.h5")
    for n in (0, 1):
        expected = np.abs(run.layers[0].hidden(n)) < 40
        assert run.layers[0].low(n)[0].all() and (run.layers[0].low(n)[1:] == expected[:-1]).all()
    assert 0 < run.low_share < 1
    with traces.open(tmp_path / "t.h5") as trace:
        assert trace.controller == {"name": f"{__name__}.Called"} and trace.seed == -1


def test_own_class_in_pieces(make_network):
    network, x = make_network(), np.random.default_rng(0).normal(size=(2, 8, 3)).astype(F32)
    for make in (Called, Alternating):
        whole = fxp.emulate(network, x, make())
        controller = make()
        first = fxp.emulate(network, x[:, :3], controller)
        for _ in range(2):  # going on twice from one state gives the same
            second = fxp.emulate(network, x[:, 3:], controller, state=first.state)
            assert (np.concatenate([first.outputs, second.outputs], axis=1) == whole.outputs).all()


@pytest.mark.parametrize(
    "mask", [np.ones(4, bool), np.ones((1, 5), bool), np.ones(5), True, None, "low", [True, [False]], [1, 2, 3, 4, "5"]]
)
def test_masks_of_own_classes_that_do_not_fit(make_network, mask):
    class Wrong:
        def reset(self, sequence, length):
            return None

        def step(self, c, h):
            return mask

    class WrongAtFirst(Called):
        def reset(self, sequence, length):
            return "low" if mask is None else mask

    for controller in (Wrong(), WrongAtFirst()):
        with pytest.raises(InputError, match="layer 0, expected a bool mask"):
            fxp.emulate(make_network(), np.zeros((1, 3, 3), F32), controller)


def test_what_is_no_controller(make_network):
    class NoReset:
        def step(self, c, h):
            return c == 0

    class NoStep:
        def reset(self, sequence, length):
            return None

    for thing in ("peak", 8, NoReset(), NoStep(), accel.Peak, Called, object()):
        with pytest.raises(InputError, match="controller is"):
            check(thing)
        with pytest.raises(InputError, match="controller is"):
            fxp.emulate(make_network(), np.zeros((1, 3, 3), F32), thing)


def test_a_fault_in_an_own_class_is_shown_as_it_is(make_network, tmp_path):
    class Faulty(Called):
        def __call__(self, c, h):
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        fxp.emulate(make_network(), np.zeros((1, 3, 3), F32), Faulty(), trace=tmp_path / "t.h5", threads=2)
    assert not list(tmp_path.iterdir())


# As written on a command line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("static-high", accel.Static(8)), ("static-low", accel.Static(4)), ("static:bits=4", accel.Static(4)),
        ("random:low_share=0.57,seed=1", accel.Random(0.57, 1)), ("random:low_share=1", accel.Random(1)),
        ("peak", accel.Peak()), ("peak:", accel.Peak()), ("peak:beta=0.2,profile_steps=5", accel.Peak(0.2, 5)),
        ("peak: max_stable = 3 , max_peak=0.5", accel.Peak(max_stable=3, max_peak=0.5)),
        ("delta:threshold=1e-2,relative=false", accel.Delta(0.01, False)),
    ],
)  # fmt: skip
def test_written_controllers(text, expected):
    assert written.parse(text, 8, 4) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "nothing", "Peak", "random", "delta", "random:share=1", "random:low_share=2", "peak:beta", "peak:beta=x",
        "peak:beta=nan", "peak:=1", "peak:beta=1,beta=2", "static-high:bits=4", "static:bits=5.0", "static:bits=12",
        "schedule", "schedule:plan=/nothing.h5", "schedule:plan=1,x=2", "delta:threshold=1,relative=1",
        "random:low_share=0.5,seed=99999999999999999999",
    ],
)  # fmt: skip
def test_controllers_written_wrongly(text):
    with pytest.raises(InputError):
        written.parse(text, 8, 4)
