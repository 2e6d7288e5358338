"""Training with the emulator in the loop."""

import json

import numpy as np
import pytest

import accel
import fxp
import traces
from fxp import finetuning
from fxp.cli import main
from fxp.evaluation import emulate_scored, float_totals
from fxp.observation import as_data
from fxp.quantise import low_activations, low_indices
from fxp.scoring import Scorer
from fxp.straight import RECORD, Trainee, emulated
from traces import InputError

torch = pytest.importorskip("torch")


def make_data(network, count, steps=12, seed=0):
    """Ragged inputs, with labels for the network's head."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(steps // 2, steps + 1, count)
    model = network.model
    if model.embedding is None:
        x = [rng.normal(size=(n, network.features)).astype(np.float32) for n in lengths]
    else:
        x = [rng.integers(len(model.embedding), size=n).astype(np.int32) for n in lengths]
    if model.head is None:
        return traces.Data.of(x)
    # What is to be said depends on what was heard.
    heard = [np.cumsum(v if v.ndim == 1 else v[:, 0] > 0) % len(model.head.bias) for v in x]
    labels = [(y if model.head.scope == "step" else y[-1:]).astype(np.int32) for y in heard]
    return traces.Data.of(x, labels)


class FakeQuantised:
    """The same network out of elementary operations of torch, roundings passed by: the twin of the gradients."""

    def __init__(self, trainee, network, run):
        self.trainee, self.network, self.run = trainee, network, run

    @staticmethod
    def through(value, used):
        """The value `used`, with the gradient of `value`."""
        return value + (torch.as_tensor(np.asarray(used, np.float32)) - value).detach()

    def activation(self, value, index, scale):
        formats = self.network.formats
        high = self.through(value, index * np.float32(scale))
        low = self.through(value, low_activations(index, formats) * np.float32(scale * 2.0**formats.shift))
        return high, low

    def weight(self, tensor, bits, index, offset, scale):
        step = scale[:, None] * np.float32(2.0**self.network.formats.shift)
        low = low_indices(index, offset, self.network.formats) * step
        return self.through(tensor, index * scale[:, None]), self.through(tensor + bits * torch.from_numpy(step), low)

    def outputs(self, number, features):
        """Outputs of one sequence, at the values and decisions of the run."""
        x = features
        for n, (layer, values) in enumerate(zip(self.network.layers, self.trainee.layers, strict=True)):
            sides = [self.direction(n, d, layer, values, number, x) for d in range(layer.directions)]
            x = torch.cat(sides, dim=1)
        return x

    def direction(self, n, d, layer, values, number, x):
        formats, run = self.network.formats, self.run.layers[n]
        gain = torch.from_numpy(layer.input_scale)
        bits = values["wx_offset"][d], values["wh_offset"][d]
        wx = self.weight(values["wx"][d] * gain, bits[0], layer.wx_index[d], layer.wx_offset[d], layer.wx_scale[d])
        wh = self.weight(values["wh"][d], bits[1], layer.wh_index[d], layer.wh_offset[d], layer.wh_scale[d])
        order = range(len(x))[::-1] if d else range(len(x))
        h, h_index = torch.zeros(layer.output_size), np.zeros(layer.output_size, np.int8)
        c = torch.zeros(layer.hidden_size)
        outputs = [None] * len(x)
        for t in order:
            if n == 0:
                exact = (x[t] / gain).detach().numpy() / np.float32(layer.x_scale)
                x_index = np.rint(np.clip(exact, -formats.top, formats.top)).astype(np.int8)
            else:
                x_index = np.rint(x[t].detach().numpy() / np.float32(layer.x_scale)).astype(np.int8)
            reach = formats.top * float(layer.x_scale)  # beyond it no gradient passes
            xs = self.activation((x[t] / gain).clamp(-reach, reach), x_index, layer.x_scale)
            hs = self.activation(h, h_index, layer.h_scale)
            high = wx[0] @ xs[0] + wh[0] @ hs[0] + values["bias"][d]
            low = wx[1] @ xs[1] + wh[1] @ hs[1] + values["bias"][d] + values["low_bias"][d]
            mask = torch.from_numpy(np.tile(run.low(number, d)[t], 4))
            i, f, g, o = torch.where(mask, low, high).chunk(4)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            c = self.through(c, run.cell(number, d)[t])
            m = torch.sigmoid(o) * torch.tanh(c)
            if layer.projected:
                step = np.float32(layer.m_scale)
                wp = self.through(values["wp"][d], layer.wp_index[d] * layer.wp_scale[d][:, None])
                m = wp @ self.through(m, np.rint(np.clip(m.detach().numpy() / step, -127, 127)) * step)
            h_index = run.hidden(number, d)[t]
            h = self.through(m, h_index * np.float32(layer.h_scale))
            outputs[t] = h
        return torch.stack(outputs)


@pytest.mark.parametrize(
    "shape",
    [
        {"hidden": (6,)},
        {"hidden": (5, 4), "directions": 2},
        {"hidden": (6,), "projection": 3},
        {"hidden": (6,), "embedding": 9},
    ],
    ids=str,
)
def test_gradients_are_those_of_the_rounded_network_with_roundings_passed_by(make_network, shape):
    network = make_network(seed=4, **shape)
    data = make_data(network, 3, 7)
    inputs = [data.sequence(n) for n in range(len(data))]
    trainee, controller = Trainee(network), accel.Random(0.5)
    outputs, run = emulated(trainee, controller, inputs, [0, 1, 2])
    weights = [torch.randn(h.shape, generator=torch.Generator().manual_seed(5)) for h in outputs]
    sum((h * w).sum() for h, w in zip(outputs, weights, strict=True)).backward()
    found = [parameter.grad.clone() for parameter in trainee.parameters()]
    for parameter in trainee.parameters():
        parameter.grad = None
    twin = FakeQuantised(trainee, trainee.network(), run)
    for n, (x, w) in enumerate(zip(inputs, weights, strict=True)):
        features = torch.from_numpy(x) if trainee.embedding is None else trainee.embedding[torch.from_numpy(x).long()]
        h = twin.outputs(n, features)
        assert (h.detach().numpy() == outputs[n].detach().numpy()).all()
        (h * w).sum().backward()
    for gradient, parameter in zip(found, trainee.parameters(), strict=True):
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, parameter.grad, rtol=2e-3, atol=2e-4 * float(gradient.abs().max()))


def test_the_forward_pass_is_the_emulation(make_network):
    network = make_network(hidden=(6, 5), seed=2)
    data = make_data(network, 4)
    trainee = Trainee(network)
    inputs = [data.sequence(n) for n in range(4)]
    outputs, _ = emulated(trainee, accel.Peak(), inputs, [5, 6, 7, 8])
    expected = fxp.emulate(network, inputs, accel.Peak(), record=RECORD, sequence_ids=[5, 6, 7, 8]).outputs
    assert all((a.detach().numpy() == b).all() for a, b in zip(outputs, expected, strict=True))
    # Before the first step the trainee quantises to the very network, fitted bits included.
    assert trainee.network().digest == network.digest
    fitted, _ = fxp.calibrate(network, make_data(network, 10), low_share=0.5)
    assert fitted.digest != network.digest
    assert Trainee(fitted).network().digest == fitted.digest


def test_embeddings_learn_to_point_as_in_float(make_network):
    network = make_network(hidden=(8,), classes=6, scope="last", metric="equal_error", seed=2)
    data = traces.Data.of(list(make_data(network, 40)), groups=[n % 4 for n in range(40)])
    low = accel.Static(4)
    made, rows = finetuning.tune_and_judge(network, data, data, low, steps=25, learning_rate=5e-3, batch=10)
    assert rows[0]["metric"] == "equal_error" and rows[3]["loss_upper"] >= rows[3]["difference"]

    def cosine(candidate):
        scorer = Scorer(candidate, data, reference=network)
        return (emulate_scored(scorer, low).totals * float_totals(scorer)).sum(axis=1).mean()

    assert cosine(network) < cosine(made) < 1


@pytest.mark.parametrize("shape", [{"classes": 3}, {"classes": 3, "scope": "last", "embedding": 6}, {}], ids=str)
def test_training_helps_low_precision_and_repeats_to_the_bit(make_network, shape):
    network = make_network(hidden=(8,), seed=1, **shape)
    data = make_data(network, 40)
    low = accel.Static(4)
    options = {"steps": 25, "learning_rate": 5e-3, "batch": 10}
    made, rows = finetuning.tune_and_judge(network, data, data, low, **options)
    again, _ = fxp.finetune(network, data, low, **options)
    assert made.digest == again.digest != network.digest
    other, _ = fxp.finetune(network, data, low, **{**options, "seed": 1})
    assert other.digest != made.digest
    assert [(row["network"], row["controller"]) for row in rows] == [(n, "static") for n in ("before", "before", "tuned", "tuned")]
    assert [row["low_share"] for row in rows] == [0, 1, 0, 1]
    assert rows[3]["value"] < rows[1]["value"]
    assert rows[2]["difference"] == 0
    assert rows[3]["difference"] == pytest.approx(rows[3]["value"] - rows[2]["value"])
    record = made.model.calibration["finetuning"]
    assert record["steps"] == 25 and record["data"]["sequences"] == 40 and record["controller"]["bits"] == 4


@pytest.mark.parametrize(
    "shape", [{"hidden": (5, 4), "directions": 2}, {"hidden": (6,), "projection": 3, "embedding": 9}], ids=str
)
def test_the_low_path_alone_has_the_gradients_of_the_whole(make_network, shape):
    network = make_network(seed=4, **shape)
    data = make_data(network, 3, 7)
    inputs = [data.sequence(n) for n in range(3)]
    whole, part = Trainee(network), Trainee(network, low=True)
    for trainee in (whole, part):
        outputs, _ = emulated(trainee, accel.Random(0.5), inputs, [0, 1, 2])
        sum((h**2).sum() for h in outputs).backward()
    for all_of, low_of in zip(whole.layers, part.layers, strict=True):
        assert set(low_of) == {"low_bias", "wx_offset", "wh_offset"}
        for name, tensor in low_of.items():
            torch.testing.assert_close(tensor.grad, all_of[name].grad)
            assert tensor.grad.abs().max() > 0
    assert part.head is None and not (part.embedding is not None and part.embedding.requires_grad)


def test_tuning_the_low_path_helps_it_and_leaves_the_high_one(make_network):
    network = make_network(hidden=(8, 6), classes=3, seed=1)
    data = make_data(network, 40)
    assert Trainee(network, low=True).network().digest == network.digest
    low, options = accel.Static(4), {"part": "low", "steps": 25, "bit_rate": 0.1}
    made, rows = finetuning.tune_and_judge(network, data, data, low, **options)
    # Static high precision is tuned whole: what it gains must not count for low precision.
    assert [(row["network"], row["low_share"]) for row in rows] == [
        ("before", 0), ("before", 1), ("tuned", 0), ("tuned", 1)
    ]  # fmt: skip
    assert rows[3]["value"] < rows[1]["value"] and rows[2]["value"] < rows[0]["value"]
    _, alone = finetuning.tune_and_judge(network, data, data, low, alone=True, **options)
    assert [row["value"] for row in alone] == [rows[n]["value"] for n in (0, 1, 3)]
    for before, after in zip(network.layers, made.layers, strict=True):
        for name in ("wx_index", "wh_index", "wx_scale", "wh_scale", "bias", "wx_float", "wh_float"):
            assert (getattr(before, name) == getattr(after, name)).all()
        assert set(np.unique(after.wh_offset)) <= {0, 1} and (before.wh_offset != after.wh_offset).any()
        assert (before.low_bias != after.low_bias).any()
    assert made.model.calibration["finetuning"]["part"] == "low"
    with pytest.raises(InputError, match="nothing to train"):
        fxp.finetune(network, data, accel.Static(8), 5, part="low")


def test_a_calibrated_network_keeps_its_share(make_network):
    network = make_network(hidden=(20,), classes=3, seed=1)
    data = make_data(network, 30)
    fitted, controller = fxp.calibrate(network, data, low_share=0.5)
    made, refreshed = fxp.finetune(fitted, data, steps=3, refresh=True)
    assert refreshed.scores != controller.scores
    share = fxp.emulate(fitted, data, controller).low_share
    assert fxp.emulate(made, data, refreshed).low_share == pytest.approx(share, abs=0.05)
    kept, same = fxp.finetune(fitted, data, steps=3)
    assert same == controller and kept.digest != made.digest


@pytest.mark.parametrize(
    "options, message",
    [
        ({"steps": 0}, "steps is 0"),
        ({"learning_rate": 0}, "learning_rate is 0"),
        ({"bit_rate": 1.5}, "bit_rate is 1.5"),
        ({"seed": -1}, "seed is -1"),
        ({"batch": 1.5}, "batch is 1.5"),
        ({"teacher": 2}, "teacher is 2"),
        ({"part": "high"}, "part is 'high', expected one of all, low"),
        ({"controller": "peak"}, "controller is 'peak'"),
    ],
)
def test_bad_options(make_network, options, message):
    network = make_network(classes=3)
    with pytest.raises(InputError, match=message):
        fxp.finetune(network, make_data(network, 3), **options)


def run(*arguments):
    """Exit code of the command."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return stopped.value.code


def test_the_command(make_network, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = make_network(hidden=(8,), classes=3, seed=1)
    fxp.save(network, "m.h5")
    make_data(network, 30).write("d.h5")
    assert run("finetune", "m.h5", "d.h5", "-o", "out.h5", "--steps", "4", "--static", "4", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["rows"]) == 4 and result["file"] == "out.h5"
    train, judged = finetuning.held_out(as_data(network, make_data(network, 30)))
    expected, rows = finetuning.tune_and_judge(network, train, judged, accel.Static(4), steps=4)
    assert fxp.load("out.h5").digest == expected.digest
    assert [row["value"] for row in result["rows"]] == [row["value"] for row in rows]
    assert run("finetune", "m.h5", "d.h5", "-o", "alone.h5", "--steps", "4", "--static", "4", "--alone") == 0
    printed = capsys.readouterr().out
    assert "static high before tuning" in printed and "none of them trained on" in printed
    low = ["--part", "low", "--bit-rate", "0.2", "--teacher", "0.5", "--static", "4"]
    assert run("finetune", "m.h5", "d.h5", "-o", "low.h5", "--steps", "4", *low) == 0
    assert "static high tuned as long" in capsys.readouterr().out
    expected, _ = fxp.finetune(network, train, accel.Static(4), 4, part="low", bit_rate=0.2, teacher=0.5)
    assert fxp.load("low.h5").digest == expected.digest
    assert run("finetune", "m.h5", "d.h5", "-o", "x.h5", "--part", "none") == 2
    assert run("finetune", "m.h5", "d.h5", "-o", "m.h5") == 2
    assert run("finetune", "m.h5", "d.h5", "-o", "x.h5", "--static", "4", "-C", "peak") == 2
    traces.Data.of(list(make_data(network, 30))).write("bare.h5")
    capsys.readouterr()
    assert run("finetune", "m.h5", "d.h5", "-o", "x.h5", "--static", "4", "--judge", "bare.h5") == 2
    assert "bare.h5: has no labels, and d.h5 has some" in capsys.readouterr().err
    wide = make_data(make_network(hidden=(8,), classes=9, seed=1), 30)
    wide.write("wide.h5")
    assert run("finetune", "m.h5", "wide.h5", "-o", "x.h5", "--static", "4") == 2
    assert "wide.h5: labels lie outside 0 to 2" in capsys.readouterr().err
    make_data(network, 8).write("few.h5")
    assert run("finetune", "m.h5", "few.h5", "-o", "x.h5") == 2
    assert "too few" in capsys.readouterr().err
