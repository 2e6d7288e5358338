"""Metrics, heads and labels that users bring: the protocol, its errors, statistics, and what calibration makes of labels."""

import json
import math
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import accel
import fxp
import traces
from fxp import cli, floating, intervals, metrics, plugins, sensitivity
from fxp.evaluation import emulate_scored
from fxp.observation import Observation
from fxp.quantise import float_layers
from fxp.scoring import Scorer
from fxp.verification import embedding, embedding_gradient
from traces import InputError

F32 = np.float32
LENGTHS = (9, 4, 12, 7)


def sequences(seed=0, lengths=LENGTHS, size=3):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n, size)).astype(F32) for n in lengths]


def data_of(kind, seed=1, **about):
    x, rng = sequences(), np.random.default_rng(seed)
    if kind == "multi":
        return traces.Data.of(x, [rng.integers(0, 2, (len(v), 3)) for v in x], **about)
    if kind == "sequence":
        return traces.Data.of(x, [rng.integers(1, 3, len(v) // 3) for v in x], "sequence", **about)
    return traces.Data.of(x, [rng.integers(0, 3, len(v)) for v in x], **about)


class Squares:
    """Mean square of the outputs: known without labels."""

    name, unit, higher_is_better = "squares", "1", False

    def score(self, outputs, labels):
        return (outputs.astype(float) ** 2).sum(), outputs.size


def test_several_labels_a_step_are_judged_by_their_likelihood(make_network):
    network, data = make_network((6,), classes=3), data_of("multi")
    table = fxp.evaluate(network, data, [accel.Static(4)])
    assert (table.metric, table.unit) == ("nats_per_step", "nats")
    head, loss = network.model.head, 0.0
    for n, h in enumerate(fxp.emulate(network, data, accel.Static(4)).outputs):
        for z, y in zip((h @ head.weight.T + head.bias).astype(float), data.sequence_labels(n), strict=True):
            loss -= sum(math.log(1 / (1 + math.exp(-v))) if bit else math.log(1 / (1 + math.exp(v))) for v, bit in zip(z, y, strict=True))
    assert table[0].metric == pytest.approx(loss / 32, rel=1e-6)


def test_own_metric_gets_whole_sequences_and_head_outputs(make_network):
    network = make_network((6,), classes=3)
    x = sequences(lengths=(3000, 5))
    seen = []

    class Mine(Squares):
        def score(self, outputs, labels):
            seen.append((outputs, labels))
            return super().score(outputs, labels)

    table = fxp.evaluate(network, x, [], metric=Mine())
    fxp.evaluate(network, x, [accel.Static(8)], metric=Mine())
    assert [len(outputs) for outputs, _ in seen] == [3000, 5, 3000, 5] and all(labels is None for _, labels in seen)
    head = network.model.head
    h = fxp.emulate(network, x, accel.Static(8)).outputs
    for (outputs, _), expected in zip(seen[2:], h, strict=True):
        assert np.allclose(outputs, expected @ head.weight.T + head.bias, atol=1e-6)
    assert table.metric == "squares" and len(table) == 0


def test_without_a_head_a_metric_gets_h_and_with_an_own_head_what_it_returns(make_network):
    network = make_network((6,), classes=3)
    data = data_of("class")
    h = fxp.emulate(network, data, accel.Static(8)).outputs
    bare = make_network((6,))
    assert fxp.evaluate(bare, data, [accel.Static(8)], metric=Squares())[0].metric == pytest.approx(
        np.mean(np.concatenate(h).astype(float) ** 2), rel=1e-6
    )

    def double(values):
        return 2 * values

    table = fxp.evaluate(bare, data, [accel.Static(8)], metric=Squares(), head=double)
    assert table[0].metric == pytest.approx(4 * np.mean(np.concatenate(h).astype(float) ** 2), rel=1e-6)
    # An own head is called with whole sequences, so it may look along time; class labels are held against its outputs.
    flipped = fxp.evaluate(network, data, [accel.Static(8)], metric="accuracy", head=lambda v: v[::-1, :3])
    labels = [data.sequence_labels(n) for n in range(4)]
    right = sum((a[::-1, :3].argmax(axis=1) == y).sum() for a, y in zip(h, labels, strict=True))
    assert flipped[0].metric == right / 32


class Spread:
    """A statistic: the largest difference between weighted means of two groups."""

    name, unit, higher_is_better, needs_groups = "spread", "1", False, True

    def represent(self, outputs, labels):
        return outputs.mean(axis=0, dtype=float)[:2]

    def statistic(self, representations, groups):
        def value(drawn):
            weights = drawn.sum(axis=0)
            means = [
                np.average(representations[groups == g], axis=0, weights=weights[groups == g])
                for g in np.unique(groups)
                if weights[groups == g].any()
            ]
            return max((np.abs(a - b).max() for a in means for b in means), default=math.nan) if len(means) > 1 else math.nan

        return value


def test_a_statistic_is_of_all_sequences_and_its_interval_a_bootstrap_over_groups(make_network):
    network = make_network((6,), classes=3)
    lengths = (9, 4, 12, 7, 5, 6, 8, 10)
    data = traces.Data.of(sequences(lengths=lengths), groups=[0, 0, 1, 1, 2, 2, 3, 3])
    low, high = accel.Static(4), accel.Static(8)
    table = fxp.evaluate(network, data, [low, high, "float"], metric=Spread())
    head = network.model.head

    def function(controller):
        outputs = fxp.emulate(network, data, controller).outputs
        means = np.array([(h @ head.weight.T + head.bias).mean(axis=0, dtype=float)[:2] for h in outputs])
        return Spread().statistic(means, data.groups.astype(np.int64))

    groups = np.asarray(data.groups)
    assert table[0].metric == pytest.approx(function(low)(intervals.undrawn(groups)), rel=1e-5)
    function_low, function_high = function(low), function(high)
    differences = [function_low(w) - function_high(w) for w in intervals.draws(groups)]
    expected = np.quantile([d for d in differences if math.isfinite(d)], [0.025, 0.975])
    assert table[0].interval == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert table[1].difference == 0 and table[1].interval == (0, 0)
    assert table[0].interval[0] <= table[0].difference <= table[0].interval[1]


def test_loss_is_turned_so_that_positive_is_worse(make_network):
    network, data = make_network((6,), classes=3), data_of("class")
    from fxp.evaluation import emulate_scored

    for metric, sign in (("accuracy", -1), ("cross_entropy", 1)):
        scorer = Scorer(network, data, metric=metric)
        high, low = (emulate_scored(scorer, accel.Static(bits)).totals for bits in (8, 4))
        loss = scorer.loss(low, high)
        assert loss.value == pytest.approx(sign * (low.sum() - high.sum()) / 32)
        error = intervals.standard_error(low, high, scorer.weights)
        assert loss.upper == pytest.approx(loss.value + intervals.student_quantile(0.95, 3) * error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, "attribute name"),
        ({"higher_is_better": None}, "attribute higher_is_better"),
        ({"labels": "words"}, "labels is 'words'"),
        ({"score": None}, "needs a method score"),
        ({"represent": lambda *_: 0}, "needs a method score, or both"),
        ({"labels": "multi"}, "needs labels of kind multi, but the data has labels of kind class"),
        ({"score": lambda *_: 3}, r"score of sequence \d is 3; expected \(sum, weight\)"),
        ({"score": lambda *_: (math.nan, 1)}, "both finite"),
        ({"score": lambda *_: (1, -1)}, "not negative"),
        ({"score": lambda *_: (1, 0)}, "add up to 0"),
    ],
)
def test_metrics_that_break_the_protocol(make_network, change, message):
    metric = Squares()
    for name, value in change.items():
        setattr(metric, name, value)
    with pytest.raises(InputError, match=message):
        fxp.evaluate(make_network((6,), classes=3), data_of("class"), [accel.Static(4)], metric=metric)


def test_a_weight_must_not_depend_on_the_outputs(make_network):
    class Moody(Squares):
        def score(self, outputs, labels):
            return 1, abs(float(outputs[0, 0]))

    with pytest.raises(InputError, match=r"weighs .* in one variant"):
        fxp.evaluate(make_network((6,), classes=3), data_of("class"), [accel.Static(4)], metric=Moody())


def test_what_does_not_fit(make_network):
    network = make_network((6,), classes=3)
    wide = make_network((6,), classes=4)
    for net, data, options, message in [
        (wide, data_of("multi"), {}, "3 labels a step, but the head has 4 rows"),
        (network, data_of("sequence"), {}, "labels are sequences: name the metric"),
        (network, data_of("multi"), {"metric": "accuracy"}, "needs labels of kind class, but the data has labels of kind multi"),
        (network, data_of("class", metric="nats_per_step"), {}, "needs labels of kind multi"),
        (make_network((6,)), data_of("class"), {"metric": "accuracy"}, "needs a head"),
        (network, sequences(), {"metric": "accuracy"}, "the data has no labels"),
        (network, data_of("class"), {"metric": Spread()}, "which group"),
        (network, data_of("class"), {"metric": "speed"}, "metric 'speed' is unknown"),
        (network, data_of("class"), {"head": 3}, "head is int"),
        (network, data_of("class"), {"head": lambda h: h.sum()}, "expected finite numbers"),
        (network, data_of("class"), {"head": lambda h: h[:2]}, "labels for 2 outputs"),
        (network, data_of("class"), {"head": lambda h: h[:, :2]}, "labels lie outside 0 to 1"),
    ]:
        with pytest.raises(InputError, match=message):
            fxp.evaluate(net, data, [accel.Static(4)], **options)
    # A file can name built-in metrics alone: what looks like a user's is not loaded.
    with pytest.raises(InputError, match=r"metric 'mine.py:Mine' is unknown"):
        fxp.evaluate(network, data_of("class", metric="mine.py:Mine"), [])


# Users' files, as the command line loads them


@pytest.fixture
def place(make_network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fxp.save(make_network((6,), classes=3), "model.h5")
    data_of("class").write("data.h5")

    def write(name, text):
        (tmp_path / name).write_text(textwrap.dedent(text))

    write("mine.py", """\
        class Metric:
            name, unit, higher_is_better = "sum", "1", True
            def score(self, outputs, labels):
                return outputs.sum(), len(outputs)

        class Broken(Metric):
            def score(self, outputs, labels):
                return outputs[99], 1

        class Leaver(Metric):
            def score(self, outputs, labels):
                raise SystemExit(0)

        class Head:
            scope = "step"
            def __call__(self, h):
                return h[:, :2]
        """)  # fmt: skip
    write("typo.py", "class Metric(:\n")
    write("lacking.py", "import no_such_package\n")
    return tmp_path


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return caught.value.code, out, err


def test_own_metric_and_head_from_the_command_line(place, capsys):
    command = ["compare", "model.h5", "data.h5", "-C", "static:bits=4", "--metric", "mine.py:Metric", "--json"]
    code, out, _ = run(capsys, *command)
    plain = json.loads(out)
    assert code == 0 and (plain["metric"], plain["higher_is_better"]) == ("sum", True)
    code, out, _ = run(capsys, *command, "--head", "mine.py:Head")
    assert code == 0 and json.loads(out)["rows"][0]["metric"] != plain["rows"][0]["metric"]
    code, out, _ = run(capsys, "run", "model.h5", "data.h5", "--metric", "mine:Metric", "--json")
    assert code == 2  # the folder is not on the path of modules
    code, out, _ = run(capsys, "run", "model.h5", "data.h5", "--metric", "mine.py:Metric", "--json")
    assert code == 0 and json.loads(out)["metric"]["name"] == "sum"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("mine.py:Broken", "mine.py:8: in metric sum, sequence"),
        ("mine.py:Leaver", "mine.py:12: in metric sum, sequence"),
        ("typo.py:Metric", "typo.py:1: in metric typo.py:Metric: SyntaxError"),
        ("lacking.py:Metric", "lacking.py:1: in metric lacking.py:Metric: ModuleNotFoundError"),
        ("mine.py:None_such", "mine.py has no None_such"),
        ("none.py:Metric", "none.py: no such file"),
        ("no_such_module:Metric", "there is no such module"),
        ("mine", "unknown"),
        ("mine.py:", "unknown"),
    ],
)
def test_errors_of_users_are_reported_as_theirs(place, capsys, reference, message):
    code, out, err = run(capsys, "compare", "model.h5", "data.h5", "-C", "static:bits=4", "--metric", reference)
    assert code == 2 and out == "" and message in err and "Traceback" not in err and len(err.splitlines()) == 1


def test_an_entry_point_is_found_by_its_name(monkeypatch):
    class Entry:
        name = "squares"

        def load(self):
            return Squares

    monkeypatch.setattr(plugins.importlib.metadata, "entry_points", lambda group: [Entry()] * (group == "fxp_lstm.metrics"))
    assert isinstance(plugins.load("squares", "metric"), Squares)
    with pytest.raises(InputError, match=r"installed: squares"):
        plugins.load("circles", "metric")


def test_labels_from_numpy_files(tmp_path):
    from fxp import datafile

    for kind in ("multi", "sequence"):
        data = data_of(kind, groups=[0, 1, 1, 0])
        arrays = {"values": data.values, "offsets": data.offsets, "labels": data.labels, "groups": data.groups}
        if kind == "sequence":
            arrays["label_offsets"] = data.label_offsets
        np.savez(tmp_path / "d.npz", **arrays)
        assert datafile.read(tmp_path / "d.npz").digest() == data.digest()
    batch = np.zeros((2, 4, 3), F32)
    np.savez(tmp_path / "b.npz", values=batch, labels=[1, 2, 2], label_offsets=[0, 1, 3])
    read = datafile.read(tmp_path / "b.npz")
    assert [read.sequence_labels(n).tolist() for n in range(2)] == [[1], [2, 2]]
    np.savez(tmp_path / "b.npz", values=batch, labels=np.ones((2, 4, 5), int))
    assert datafile.read(tmp_path / "b.npz").targets == 5
    np.savez(tmp_path / "b.npz", values=batch, label=[1, 2])
    with pytest.raises(InputError, match="array 'label' is unknown; known are values, offsets, labels"):
        datafile.read(tmp_path / "b.npz")
    np.savez(tmp_path / "b.npz", values=batch, labels=[1, 2, 2], label_offsets=[0, 4, 3])
    with pytest.raises(InputError, match="label_offsets"):
        datafile.read(tmp_path / "b.npz")


# What calibration differentiates


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["class", "multi", "sequence"])
def test_gradients_of_the_losses_against_torch(kind):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    logits = torch.tensor(rng.normal(size=(7, 4)), dtype=torch.float32, requires_grad=True)
    labels = {"class": rng.integers(0, 4, 7), "multi": rng.integers(0, 2, (7, 4)), "sequence": np.array([2, 1, 3])}[kind]
    functional = torch.nn.functional
    if kind == "class":
        name, loss = "cross-entropy", functional.cross_entropy(logits, torch.tensor(labels), reduction="sum")
    elif kind == "multi":
        name = "likelihood of 0/1 labels"
        loss = functional.binary_cross_entropy_with_logits(logits, torch.tensor(labels).float(), reduction="sum")
    else:
        name = "CTC"
        sizes = torch.tensor(7), torch.tensor(3)
        loss = functional.ctc_loss(logits.log_softmax(1), torch.tensor(labels), *sizes, reduction="sum")
    loss.backward()
    found = sensitivity.LOSSES[name](logits.detach().numpy(), labels)
    assert np.allclose(found, logits.grad.numpy(), atol=1e-6)
    if kind == "sequence":
        # Of several alternatives, with a blank between them, the first counts.
        again = sensitivity.LOSSES[name](logits.detach().numpy(), np.array([2, 1, 3, 0, 3, 3, 0, 1]))
        assert np.array_equal(again, found)


@pytest.mark.torch
@pytest.mark.parametrize(("kind", "loss"), [("multi", "likelihood of 0/1 labels"), ("sequence", "CTC")])
def test_calibration_takes_every_kind_of_labels(make_network, kind, loss):
    pytest.importorskip("torch")
    network = make_network((6,), classes=3)
    data = data_of(kind)
    fitted, controller = fxp.calibrate(network, data, low_share=0.5)
    assert fitted.model.calibration["loss"] == loss
    assert 0.3 < fxp.emulate(fitted, data, controller).low_share < 0.7
    bare, _ = fxp.calibrate(make_network((6,)), data, low_share=0.5)
    assert bare.model.calibration["loss"] == "squared error of h"


@pytest.mark.parametrize("scope", ["step", "last"])
@pytest.mark.parametrize("metric", [None, "equal_error", "embedding_distance"])
def test_without_labels_what_the_head_makes_is_scored(make_network, scope, metric):
    """Gradients by h against differences of signs times what is scored; nothing where the head does not read."""
    network = make_network((6,), classes=5, scope=scope, metric=metric)
    data = traces.Data.of(sequences())
    observation = Observation(network, data)
    name = "squared error of the head's outputs" if metric is None else "squared error of the embedding"
    assert observation.loss == name
    lengths = [len(x) for x in data]
    batch, rng = sensitivity.Batch(list(data)), np.random.default_rng(2)
    h = batch.masked(rng.normal(size=(max(lengths), len(data), 6)).astype(F32))
    members = list(range(len(data)))
    found = sensitivity._loss_gradient(observation, members, batch, h, np.random.default_rng(0))
    head, signs = network.model.head, np.random.default_rng(0)
    for n, length in enumerate(lengths):
        first = length - 1 if scope == "last" else 0
        drawn = signs.choice(np.array([-1, 1], F32), (length - first, 5))

        def scored(some, first=first, length=length, drawn=drawn):
            outputs = some[first:length].astype(np.float64) @ head.weight.T + head.bias
            if metric is not None:
                outputs = embedding(outputs)[None]
            return float((outputs * drawn[-len(outputs) :]).sum())

        for t in range(length):
            for k in range(6):
                ends = [h[:, n].astype(np.float64) for _ in range(2)]
                ends[0][t, k] += 1e-4
                ends[1][t, k] -= 1e-4
                slope = (scored(ends[0]) - scored(ends[1])) / 2e-4
                assert found[t, n, k] == pytest.approx(slope, rel=1e-3, abs=1e-5)
    assert np.abs(found).max() > 0.01
    assert not found[:, 0][: lengths[0] - 1].any() or (scope == "step" and metric is None)
    fitted, _ = fxp.calibrate(network, data, low_share=0.5)
    assert fitted.model.calibration["loss"] == name


def test_the_distance_of_embeddings_is_to_those_of_the_float_network(make_network):
    network = make_network((6,), classes=5, scope="last")
    data = traces.Data.of(sequences(), groups=[0, 0, 1, 1])
    table = fxp.evaluate(network, data, ["float", accel.Static(8), accel.Static(4)], metric="embedding_distance")
    exact, low = table.rows[0], table.rows[-1]
    assert exact.metric == pytest.approx(0, abs=1e-12)
    head, runs = network.model.head, fxp.emulate(network, list(data), accel.Static(4)).outputs
    floating_runs = floating.run(float_layers(network.model), list(data))[0]
    cosines = [
        embedding(h[-1:] @ head.weight.T + head.bias) @ embedding(f[-1:] @ head.weight.T + head.bias)
        for h, f in zip(runs, floating_runs, strict=True)
    ]
    assert low.metric == pytest.approx(1 - np.mean(cosines)) and low.metric > 0.001
    scorer = Scorer(network, data, metric="embedding_distance")
    totals = emulate_scored(scorer, accel.Static(4)).totals
    doubled = np.array([[2, 0, 0, 0], [0, 0, 1, 1]])  # draws: the first sequence twice
    value = scorer.metric.statistic(totals, scorer.groups)(doubled)
    assert value == pytest.approx((2 * totals[0, 0] + totals[2, 0] + totals[3, 0]) / 4)


@pytest.mark.parametrize("name", ["divergence", "bernoulli_divergence"])
@pytest.mark.parametrize("scope", ["step", "last"])
def test_divergences_are_from_the_float_network(make_network, name, scope):
    network = make_network((6,), classes=4, scope=scope)
    data = traces.Data.of(sequences())
    table = fxp.evaluate(network, data, ["float", accel.Static(4)], metric=name)
    exact = table.rows[0]
    assert exact.metric == pytest.approx(0, abs=1e-12)
    head, runs = network.model.head, fxp.emulate(network, list(data), accel.Static(4)).outputs
    found = []
    for ours, theirs in zip(runs, floating.run(float_layers(network.model), list(data))[0], strict=True):
        some = slice(-1, None) if scope == "last" else slice(None)
        z, y = (v[some].astype(np.float64) @ head.weight.T.astype(np.float64) + head.bias for v in (ours, theirs))
        if name == "divergence":
            q, p = (np.exp(v) / np.exp(v).sum(axis=1, keepdims=True) for v in (z, y))
        else:
            q, p = (np.stack([1 / (1 + np.exp(-v)), 1 / (1 + np.exp(v))], axis=-1) for v in (z, y))
        found.append((p * np.log(p / q)).reshape(len(z), -1).sum(axis=1))
    low = next(row for row in table.rows if row.controller == "static" and row.parameters["bits"] == 4)
    assert low.metric == pytest.approx(np.concatenate(found).mean(), rel=1e-4)
    assert low.metric > 0.001
    far = np.float32([[800, -800, 0]])  # no overflow
    score = metrics.named(name).score(-far, far)[0]
    assert np.isfinite(score) and score >= 800


def test_the_difference_from_float_can_be_asked_for_by_name(make_network, tmp_path, capsys):
    network = make_network((6,), classes=3)
    data = data_of("class")
    rows = fxp.evaluate(network, data, [accel.Static(4)], metric="output_mse").rows
    bare = fxp.evaluate(make_network((6,)), traces.Data.of(list(data)), [accel.Static(4)]).rows
    assert [row.metric for row in rows] == [row.metric for row in bare] and rows[0].metric > 0
    fxp.save(network, tmp_path / "m.h5")
    data.write(tmp_path / "d.h5")
    with pytest.raises(SystemExit) as done:
        cli.main(["run", str(tmp_path / "m.h5"), str(tmp_path / "d.h5"), "-C", "static:bits=4", "--metric", "output_mse"])
    assert done.value.code == 0 and f"output mse {rows[0].metric:.4f}" in capsys.readouterr().out


def test_an_embedding_of_nothing_has_no_gradient():
    assert not embedding_gradient(-np.ones((2, 3), F32), np.ones(3)).any()


def test_calibration_refuses_labels_that_do_not_fit(make_network):
    with pytest.raises(InputError, match="3 labels a step, but the head has 4 rows"):
        fxp.calibrate(make_network((6,), classes=4), data_of("multi"))


def test_kinds_of_labels():
    assert [metrics.kind_of(data_of(kind)) for kind in ("class", "multi", "sequence")] == ["class", "multi", "sequence"]
    assert metrics.kind_of(traces.Data.of(sequences())) is None


def test_metrics_load_without_numba():
    code = "import sys, fxp.metrics; print('numba' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
