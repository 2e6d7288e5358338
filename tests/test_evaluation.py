"""The evaluation: metrics by hand, intervals against other formulas, the rows of a comparison."""

import json
import math
import statistics

import numpy as np
import pytest

import accel
import fxp
import traces
from fxp import floating, intervals
from fxp.intervals import paired_interval, student_quantile
from fxp.metrics import METRICS
from fxp.quantise import float_layers
from fxp.scoring import Scorer
from traces import InputError

F32 = np.float32
# Two-sided 95 %, 90 % and 99 % points of Student's distribution (Abramowitz and Stegun, table 26.10).
TABLE = {
    1: (12.706, 6.314, 63.657), 2: (4.303, 2.920, 9.925), 3: (3.182, 2.353, 5.841), 4: (2.776, 2.132, 4.604),
    5: (2.571, 2.015, 4.032), 6: (2.447, 1.943, 3.707), 7: (2.365, 1.895, 3.499), 8: (2.306, 1.860, 3.355),
    9: (2.262, 1.833, 3.250), 10: (2.228, 1.812, 3.169), 15: (2.131, 1.753, 2.947), 20: (2.086, 1.725, 2.845),
    30: (2.042, 1.697, 2.750), 40: (2.021, 1.684, 2.704), 60: (2.000, 1.671, 2.660), 120: (1.980, 1.658, 2.617),
}  # fmt: skip


@pytest.mark.parametrize("degrees", TABLE)
def test_student_quantile_against_the_table(degrees):
    for probability, expected in zip((0.975, 0.95, 0.995), TABLE[degrees], strict=True):
        assert student_quantile(probability, degrees) == pytest.approx(expected, abs=6e-4)
        assert student_quantile(1 - probability, degrees) == pytest.approx(-expected, abs=6e-4)


def test_student_quantile_in_closed_form():
    """One degree is Cauchy's distribution; two have t = (2 p - 1) / sqrt(2 p (1 - p))."""
    for p in (0.6, 0.9, 0.975, 0.9999):
        assert student_quantile(p, 1) == pytest.approx(math.tan(math.pi * (p - 0.5)), rel=1e-9)
        assert student_quantile(p, 2) == pytest.approx((2 * p - 1) / math.sqrt(2 * p * (1 - p)), rel=1e-9)
    assert abs(student_quantile(0.5, 3)) < 1e-12


def test_student_quantile_has_no_step_between_its_methods(monkeypatch):
    for degrees in (50, 100, 101, 200):
        monkeypatch.setattr(intervals, "EXACT_DEGREES", 1000)
        exact = student_quantile(0.975, degrees)
        monkeypatch.setattr(intervals, "EXACT_DEGREES", 0)
        assert student_quantile(0.975, degrees) == pytest.approx(exact, rel=1e-9 if degrees >= 100 else 1e-7)
    assert student_quantile(0.975, 10**6) == pytest.approx(1.959966, abs=1e-5)


def test_interval_of_equal_lengths_is_that_of_a_paired_t_test():
    rng = np.random.default_rng(0)
    for count in (2, 3, 12, 200):
        a, b, steps = rng.normal(size=count), rng.normal(size=count), 7.0
        per_step = [(p - q) / steps for p, q in zip(a, b, strict=True)]
        mean, error = statistics.fmean(per_step), statistics.stdev(per_step) / math.sqrt(count)
        reach = student_quantile(0.975, count - 1) * error
        low, high = paired_interval(a, b, np.full(count, steps))
        assert (low, high) == (pytest.approx(mean - reach, rel=1e-9), pytest.approx(mean + reach, rel=1e-9))


def test_interval_of_unequal_lengths_is_near_the_jackknife():
    rng = np.random.default_rng(1)
    count = 400
    weights = rng.integers(1, 50, count).astype(float)
    a, b = rng.normal(1, 1, count) * weights, rng.normal(0.8, 1, count) * weights
    d = a - b
    left_out = np.array([(d.sum() - d[i]) / (weights.sum() - weights[i]) for i in range(count)])
    error = math.sqrt((count - 1) / count * ((left_out - left_out.mean()) ** 2).sum())
    low, high = paired_interval(a, b, weights)
    assert (low + high) / 2 == pytest.approx(d.sum() / weights.sum(), rel=1e-9)
    assert (high - low) / 2 == pytest.approx(student_quantile(0.975, count - 1) * error, rel=0.01)


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(1000):
        weights = rng.integers(5, 15, 6).astype(float)
        low, high = paired_interval(weights * rng.normal(0.3, 1, 6), np.zeros(6), weights)
        inside += low < 0.3 < high
    # Three standard deviations of a binomial, and what the linearisation costs with six sequences.
    assert 915 < inside < 971


def test_no_interval_of_one_sequence_and_a_point_without_differences():
    assert paired_interval(np.ones(1), np.zeros(1), np.ones(1)) is None
    assert paired_interval(np.ones(3), np.ones(3), np.ones(3)) == (0.0, 0.0)


def test_metrics_by_hand():
    logits = np.array([[1, 2, 3], [0, 0, 0], [1000, 0, -1000], [2, 2, 1]], F32)
    labels = np.array([2, 1, 2, 1])
    soft = [
        -math.log(math.exp(3) / sum(math.exp(v) for v in (1, 2, 3))), math.log(3), 2000.0,
        -math.log(math.exp(2) / (2 * math.exp(2) + math.exp(1))),
    ]  # fmt: skip
    for n in range(len(labels)):
        one = logits[n : n + 1], labels[n : n + 1]
        assert METRICS["cross_entropy"].score(*one) == (pytest.approx(soft[n], rel=1e-12), 1)
        assert METRICS["bits_per_character"].score(*one) == (pytest.approx(soft[n] / math.log(2), rel=1e-12), 1)
        # The first of equal logits counts, as argmax has it.
        assert METRICS["accuracy"].score(*one) == (n == 0, 1)
    assert METRICS["cross_entropy"].score(logits, labels) == (pytest.approx(sum(soft), rel=1e-12), 4)
    assert METRICS["accuracy"].higher_is_better and not METRICS["cross_entropy"].higher_is_better


def test_likelihood_of_several_labels_a_step_by_hand():
    logits = np.array([[0, math.log(3)], [1000, -1000], [1000, -1000]], F32)
    targets = np.array([[1, 1], [1, 0], [0, 1]], np.uint8)
    expected = [-math.log(1 / 2) - math.log(3 / 4), 0.0, 2000.0]
    for n in range(3):
        found = METRICS["nats_per_step"].score(logits[n : n + 1], targets[n : n + 1])
        assert found == (pytest.approx(expected[n], rel=1e-7), 1)
    assert METRICS["nats_per_step"].score(logits, targets) == (pytest.approx(sum(expected), rel=1e-7), 3)


# Whole evaluations

PEAK = accel.Peak(0.05, 2, 4, 2)


def sequences(seed=0, lengths=(9, 4, 12, 7)):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n, 3)).astype(F32) for n in lengths]


def labelled(network, scope, metric=None, seed=1):
    x, rng = sequences(), np.random.default_rng(seed)
    classes = len(network.model.head.bias)
    if scope == "step":
        return traces.Data.of(x, [rng.integers(0, classes, len(v)) for v in x], metric=metric)
    return traces.Data.of(x, list(rng.integers(0, classes, len(x))), metric=metric)


def log_loss(logits, label):
    most = max(logits)
    return most + math.log(sum(math.exp(v - most) for v in logits)) - logits[label]


@pytest.mark.parametrize("scope", ["step", "last"])
def test_rows_against_plain_python(make_network, scope):
    network = make_network((6,), classes=3, scope=scope)
    data, head = labelled(network, scope), network.model.head
    chosen = [accel.Static(4), "float", accel.Static(8), PEAK]
    table = fxp.evaluate(network, data, chosen)
    assert [row.controller for row in table] == ["static", "float", "static", "peak"] and len(table) == 4
    assert (table.metric, table.unit, table.sequences, table.steps) == ("cross_entropy", "nats", 4, 32)

    def losses(outputs):
        result = []
        for n, h in enumerate(outputs):
            logits = (h @ head.weight.T + head.bias).astype(float).tolist()
            labels = data.sequence_labels(n).tolist()
            chosen = list(zip(logits, labels, strict=True)) if scope == "step" else [(logits[-1], labels[0])]
            result.append([log_loss(z, y) for z, y in chosen])
        return result

    base = losses(fxp.emulate(network, data, accel.Static(8)).outputs)
    for row, controller in zip(table, chosen, strict=True):
        if controller == "float":
            own = losses(floating.run(float_layers(network.model), sequences())[0])
            assert row.low_share is None and row.overflows is None and row.parameters == {}
        else:
            run = fxp.emulate(network, data, controller)
            own = losses(run.outputs)
            assert row.low_share == run.low_share and row.overflows == run.overflows
            assert row.parameters == {k: v for k, v in run.controller.items() if k != "name"}
        flat, reference = ([v for piece in losses for v in piece] for losses in (own, base))
        assert row.metric == pytest.approx(statistics.fmean(flat), rel=1e-6)
        assert row.difference == pytest.approx(statistics.fmean(flat) - statistics.fmean(reference), abs=1e-6)
        totals = [np.array([sum(piece) for piece in losses]) for losses in (own, base)]
        expected = paired_interval(*totals, np.array([float(len(piece)) for piece in own]))
        assert row.interval == pytest.approx(expected, abs=1e-6)
    assert table[2].difference == 0 and table[2].interval == (0, 0) and table[2].low_share == 0
    json.dumps(table.to_dict(), allow_nan=False)


def test_accuracy_is_a_share(make_network):
    network = make_network((6,), classes=3, metric="accuracy")
    data = labelled(network, "step")
    table = fxp.evaluate(network, data, [accel.Static(8)])
    outputs = np.concatenate(fxp.emulate(network, data, accel.Static(8)).outputs)
    right = (outputs @ network.model.head.weight.T + network.model.head.bias).argmax(axis=1) == data.labels
    assert (table.metric, table.unit, table.higher_is_better) == ("accuracy", "share", True)
    assert table[0].metric == right.sum() / 32
    assert fxp.evaluate(network, labelled(network, "step", "bits_per_character"), []).metric == "bits_per_character"


def test_default_rows_and_the_matched_random_one(make_network):
    network = make_network((6,), classes=3)
    table = fxp.evaluate(network, labelled(network, "step"))
    assert [row.controller for row in table] == ["float", "static", "static", "random", "peak"]
    assert [row.parameters.get("bits") for row in table] == [None, 8, 4, None, None]
    peak, random = table[4], table[3]
    assert random.parameters == {"low_share": peak.low_share, "seed": 0}
    assert table[2].low_share == 1


def test_random_takes_the_low_share_of_the_last_controller(make_network):
    network = make_network((6,), classes=3)
    data = labelled(network, "step")
    table = fxp.evaluate(network, data, [accel.Static(4), "random", PEAK])
    assert table[1].parameters["low_share"] == table[2].low_share == fxp.emulate(network, data, PEAK).low_share
    assert fxp.evaluate(network, data, ["random", accel.Static(4)])[0].low_share == 1


def test_without_labels_the_outputs_are_compared_with_the_float_network(make_network):
    network = make_network((6, 4), directions=2)
    x = sequences()
    exact = floating.run(float_layers(network.model), x)[0]
    for data in (x, traces.Data.of(x), traces.Data.of(x, [1, 2, 0, 1])):
        table = fxp.evaluate(network, data, ["float", accel.Static(8), accel.Static(4)])
        assert (table.metric, table.unit, table.higher_is_better) == ("output_mse", "", False)
        assert table[0].metric == 0
        for row, bits in ((table[1], 8), (table[2], 4)):
            outputs = fxp.emulate(network, x, accel.Static(bits)).outputs
            squares = np.concatenate([(a.astype(float) - b) ** 2 for a, b in zip(outputs, exact, strict=True)])
            assert row.metric == pytest.approx(squares.mean(), rel=1e-5)
    assert table[2].metric > table[1].metric > 0


def test_forms_of_data_engines_and_threads(make_network, tmp_path):
    network = make_network((6,), classes=3)
    data = labelled(network, "step")
    data.write(tmp_path / "data.h5")
    expected = fxp.evaluate(network, data, [PEAK]).to_dict()
    for options in ({"engine": "reference"}, {"engine": "portable", "threads": 3}, {"threads": 2}):
        assert fxp.evaluate(network, data, [PEAK], **options).to_dict() == expected
    with traces.open(tmp_path / "data.h5") as file:
        assert fxp.evaluate(network, file, [PEAK]).to_dict() == expected
    x = np.stack(sequences(lengths=(5, 5)))
    unlabelled = [fxp.evaluate(network, form, [PEAK]).to_dict() for form in (x, list(x), x.tolist(), x.astype(float))]
    assert all(table == unlabelled[0] for table in unlabelled) and unlabelled[0]["metric"] == "output_mse"


def test_a_tokens_network_is_evaluated(make_network):
    network = make_network((6,), embedding=5, classes=5, metric="bits_per_character")
    tokens = np.random.default_rng(0).integers(0, 5, (3, 11))
    data = traces.Data.of(list(tokens[:, :-1]), list(tokens[:, 1:]))
    table = fxp.evaluate(network, data)
    assert (table.metric, table.unit) == ("bits_per_character", "bits") and table[0].metric > 0


def test_one_step_sequences_fit_either_scope(make_network):
    """A label a sequence and a label a step are the same then, and data in memory cannot tell which was meant."""
    data = traces.Data.of(sequences(lengths=(1, 1, 1)), [0, 1, 2])
    networks = [make_network((6,), classes=3, scope=scope) for scope in ("step", "last")]
    step, last = (fxp.evaluate(network, data, [accel.Static(4)]) for network in networks)
    assert step.to_dict() == last.to_dict()


def test_own_controllers_have_a_row(make_network):
    class Mine:
        def reset(self, sequence, length):
            return None

        def step(self, c, h):
            return c > 0

    network = make_network((6,), classes=3)
    row = fxp.evaluate(network, labelled(network, "step"), [Mine()])[0]
    assert row.controller.endswith("Mine") and row.parameters == {} and 0 < row.low_share < 1


def test_what_does_not_fit(make_network):
    network = make_network((6,), classes=3)
    data = labelled(network, "step")
    low = traces.Data(data.values, data.offsets, data.labels - 1)
    high = traces.Data(data.values, data.offsets, data.labels + 1)
    for bad, controllers, message in [
        (data, ["peak"], "controller 'peak' is unknown"),
        (data, ["random"], "there is none"),
        (data, "float", "expected a list of controllers"),
        (data, PEAK, "expected a list of controllers"),
        (data, [object()], "controller is"),
        (data, [accel.Static(5)], "precisions 8 and 4"),
        (labelled(network, "last"), None, "labels are of scope last"),
        (labelled(network, "step", "perplexity"), None, "metric 'perplexity' is unknown"),
        (low, None, "labels lie outside 0 to 2"),
        (high, None, "labels lie outside 0 to 2"),
        (3, None, "data is int"),
        (None, None, "data is NoneType"),
        ("data.h5", None, "data is str"),
        ([], None, "sequences"),
        (np.zeros((2, 4, 2)), None, "2 features"),
        ([np.zeros(4)], None, "tokens are of type float64"),
        (np.full((2, 4, 3), np.nan), None, "not finite"),
        (np.full((2, 4, 3), 1e300), None, "not finite"),
    ]:
        with pytest.raises(InputError, match=message):
            fxp.evaluate(network, bad, controllers)
    with pytest.raises(InputError, match="engine"):
        fxp.evaluate(network, data, engine="quick")
    with pytest.raises(InputError, match=r"^held-out\.h5: .*2 features"):
        Scorer(network, traces.Data.of(list(np.zeros((2, 4, 2)))), "held-out.h5")
