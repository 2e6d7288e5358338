"""The export from PyTorch: weights arrive unchanged, the float network is PyTorch's, checkpoints do no harm."""

import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import accel
import fxp
import traces
from fxp import export, floating
from fxp.cli import main
from fxp.quantise import float_layers
from traces import InputError

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

MODULES = [
    {"input_size": 3, "hidden_size": 5},
    {"input_size": 1, "hidden_size": 1},
    {"input_size": 3, "hidden_size": 4, "bias": False},
    {"input_size": 7, "hidden_size": 9, "num_layers": 3, "batch_first": True},
    {"input_size": 2, "hidden_size": 3, "bidirectional": True},
    {"input_size": 4, "hidden_size": 6, "num_layers": 2, "bidirectional": True, "batch_first": True},
    {"input_size": 4, "hidden_size": 6, "proj_size": 2},
    {"input_size": 3, "hidden_size": 5, "num_layers": 2, "bidirectional": True, "proj_size": 3, "bias": False},
]


def lstm(**options):
    torch.manual_seed(0)
    module = torch.nn.LSTM(**options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2)
    return module


def batch(features, time=9, sequences=4, seed=0):
    return np.random.default_rng(seed).normal(size=(sequences, time, features)).astype(np.float32)


def run_torch(module, x):
    """Outputs [batch, time, outputs], whatever the module's batch_first."""
    with torch.no_grad():
        given = torch.from_numpy(x)
        if module.batch_first:
            return module(given)[0].numpy()
        return module(given.transpose(0, 1))[0].transpose(0, 1).numpy()


@pytest.mark.parametrize("options", MODULES, ids=lambda o: " ".join(f"{k}={v}" for k, v in o.items()))
def test_weights_and_float_network(options):
    module, x = lstm(**options), batch(options["input_size"])
    network = fxp.from_torch(module, calibration=x)
    state = {name: value.numpy() for name, value in module.state_dict().items()}
    directions = 2 if module.bidirectional else 1
    assert len(network.layers) == module.num_layers and network.directions == directions
    for number, layer in enumerate(network.layers):
        assert layer.hidden_size == module.hidden_size and layer.projected == bool(module.proj_size)
        for d in range(directions):
            end = f"_l{number}{'_reverse' if d else ''}"
            assert (layer.wx_float[d] == state["weight_ih" + end]).all()
            assert (layer.wh_float[d] == state["weight_hh" + end]).all()
            bias = state["bias_ih" + end] + state["bias_hh" + end] if module.bias else np.zeros(4 * module.hidden_size)
            assert (layer.bias[d] == bias).all()
            if module.proj_size:
                assert (layer.wp_float[d] == state["weight_hr" + end]).all()
    expected = run_torch(module, x)
    outputs, _ = floating.run(float_layers(network.model), list(x))
    np.testing.assert_allclose(np.stack(outputs), expected, rtol=1e-5, atol=1e-5)
    emulated = fxp.emulate(network, x, accel.Static(8)).outputs
    assert emulated.shape == expected.shape
    assert np.abs(emulated - expected).max() < 0.1 * max(1, np.abs(expected).max())


def test_float_network_on_sequences_of_unequal_length():
    module = lstm(input_size=3, hidden_size=5, num_layers=2, bidirectional=True)
    x = [batch(3, time, 1, seed=time)[0] for time in (4, 11, 1, 7)]
    network = fxp.from_torch(module, calibration=x)
    outputs, cells = floating.run(float_layers(network.model), x)
    for number, sequence in enumerate(x):
        expected = run_torch(module, sequence[None])[0]
        np.testing.assert_allclose(outputs[number], expected, rtol=1e-5, atol=1e-5)
        assert cells[1][number][1].shape == (len(sequence), 5)


@pytest.mark.parametrize("bias", [True, False])
def test_cell(bias):
    torch.manual_seed(1)
    cell, x = torch.nn.LSTMCell(3, 4, bias=bias), batch(3)
    network = fxp.from_torch(cell, calibration=x)
    assert (network.layers[0].wx_float[0] == cell.weight_ih.detach().numpy()).all()
    state, expected = None, []
    with torch.no_grad():
        for t in range(x.shape[1]):
            state = cell(torch.from_numpy(x[:, t]), state)
            expected.append(state[0].numpy())
    outputs, _ = floating.run(float_layers(network.model), list(x))
    np.testing.assert_allclose(np.stack(outputs), np.stack(expected, axis=1), rtol=1e-5, atol=1e-5)


def test_forms_of_calibration_data_give_one_network(tmp_path):
    module, x = lstm(input_size=3, hidden_size=4), batch(3)
    traces.Data.of(list(x)).write(tmp_path / "x.h5")
    expected = fxp.from_torch(module, calibration=x).digest
    with traces.open(tmp_path / "x.h5") as file:
        forms = [
            torch.from_numpy(x), torch.from_numpy(x).requires_grad_(), list(x), [torch.from_numpy(v) for v in x],
            x.astype(np.float64), x.tolist(), traces.Data.of(list(x)), file,
        ]  # fmt: skip
        assert {fxp.from_torch(module, calibration=form).digest for form in forms} == {expected}
    short = torch.from_numpy(x).bfloat16()
    assert (
        fxp.from_torch(module, calibration=short).digest == fxp.from_torch(module, calibration=short.float()).digest
    )


def test_double_and_half_modules_are_taken_as_float():
    module, x = lstm(input_size=3, hidden_size=4), batch(3)
    expected = fxp.from_torch(module, calibration=x).digest
    assert fxp.from_torch(module.double(), calibration=x).digest == expected
    half = fxp.from_torch(module.bfloat16(), calibration=x)
    assert (half.layers[0].wx_float[0] == module.weight_ih_l0.detach().float().numpy()).all()


def test_forms_of_heads():
    module, x = lstm(input_size=3, hidden_size=4, bidirectional=True), batch(3)
    linear = torch.nn.Linear(8, 2)
    weight, bias = linear.weight.detach().numpy(), linear.bias.detach().numpy()
    for head, expected in [
        (linear, bias), ((weight, bias), bias), ((linear.weight, None), 0 * bias),
        (torch.nn.Linear(8, 2, bias=False), None), (traces.Head(weight, bias, "last"), bias),
    ]:  # fmt: skip
        stored = fxp.from_torch(module, calibration=x, head=head).model.head
        assert stored.scope == ("last" if isinstance(head, traces.Head) else "step")
        if expected is None:
            assert not stored.bias.any()
        else:
            assert (stored.weight == weight).all() and (stored.bias == expected).all()
    assert fxp.from_torch(module, calibration=x).model.head is None


@pytest.mark.parametrize(
    "head",
    [
        "linear", 3, (np.ones((2, 8)),), (np.ones((2, 8)), np.ones(2), 1), (np.ones((2, 7)), np.ones(2)),
        (np.ones(8), np.ones(1)), (np.float32(1), None), (np.ones((2, 8)), np.ones(3)), (np.full((2, 8), np.nan), None),
        (np.ones((2, 8)), np.array([np.inf, 0])), (np.full((2, 8), "a"), None),
    ],
    ids=str,
)  # fmt: skip
def test_bad_heads(head):
    module, x = lstm(input_size=3, hidden_size=4, bidirectional=True), batch(3)
    with pytest.raises(InputError, match="head"):
        fxp.from_torch(module, calibration=x, head=head)


def test_embedding():
    module, table = lstm(input_size=3, hidden_size=4), torch.nn.Embedding(6, 3)
    tokens = np.random.default_rng(0).integers(0, 6, (4, 9))
    network = fxp.from_torch(module, calibration=tokens, embedding=table)
    assert (network.model.embedding == table.weight.detach().numpy()).all()
    plain = fxp.from_torch(module, calibration=table(torch.from_numpy(tokens)))
    assert network.layers[0].x_scale == plain.layers[0].x_scale
    expected = fxp.emulate(plain, table(torch.from_numpy(tokens)), accel.Static(8)).outputs
    for form in (tokens, torch.from_numpy(tokens), list(tokens), traces.Data.of(list(tokens))):
        assert (np.stack(list(fxp.emulate(network, form, accel.Static(8)).outputs)) == expected).all()
        assert fxp.from_torch(module, calibration=form, embedding=table.weight).digest == network.digest
    for bad in (tokens + 1, tokens - 1, tokens.astype(float), tokens[0], batch(3)):
        with pytest.raises(InputError, match="tokens"):
            fxp.from_torch(module, calibration=bad, embedding=table)
    for bad in (torch.nn.Embedding(6, 2), np.ones(3), np.full((6, 3), np.nan), "table"):
        with pytest.raises(InputError, match="embedding"):
            fxp.from_torch(module, calibration=tokens, embedding=bad)


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        (None, "calibration data is needed"), (3, "calibration"), ("x", "calibration"),
        (np.ones((4, 3)), "2 dimensions"), ([np.ones(3)], "1 dimensions"), (np.ones((2, 4, 5)), "5 features, but the network takes 3"),
        (np.full((2, 4, 3), np.nan), "NaN"),
        (np.full((2, 4, 3), 1e300), "infinite"), (np.full((2, 4, 3), "a"), "numbers"), ([[[1, 2, 3], [1]]], "unequal"),
        (np.ones((0, 4, 3)), "empty"), (np.ones((2, 0, 3)), "empty"), ([], "empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_bad_calibration_data(calibration, message):
    with pytest.raises(InputError, match=message):
        fxp.from_torch(lstm(input_size=3, hidden_size=4), calibration=calibration)


def test_bad_modules():
    x = batch(3)
    for module in (torch.nn.GRU(3, 4), torch.nn.Linear(3, 4), None, torch.nn.LSTM):
        with pytest.raises(InputError, match=r"is not a torch\.nn\.LSTM"):
            fxp.from_torch(module, calibration=x)
    for value in (float("nan"), float("inf"), 2.0**41):
        module = lstm(input_size=3, hidden_size=4)
        module.weight_hh_l0.data[2, 1] = value
        with pytest.raises(InputError, match="layer 0: hidden weights"):
            fxp.from_torch(module, calibration=x)


def arrays(**shapes):
    return {name: np.zeros(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "no LSTM parameters"),
        (arrays(weight=(3, 3)), "--prefix"),
        (arrays(weight_ih_l0=(16, 3)), "lacks weight_hh"),
        (arrays(weight_hh_l0=(16, 4)), "lacks weight_ih"),
        (arrays(weight_ih_l1=(16, 3), weight_hh_l1=(16, 4)), "layer 0"),
        (arrays(weight_ih_l0_reverse=(16, 3), weight_hh_l0_reverse=(16, 4)), "no forward"),
        (arrays(weight_ih_l0=(12, 3), weight_hh_l0=(12, 4)), "not that of an LSTM"),
        (arrays(weight_ih_l0=(16, 3), weight_hh_l0=(12, 3)), "not those of an LSTM"),
        (arrays(weight_ih_l0=(16,), weight_hh_l0=(16, 4)), "not those of an LSTM"),
        (arrays(weight_ih_l0=(16, 3), weight_hh_l0=(16, 4), bias_ih_l0=(4,)), "bias_ih"),
        (arrays(weight_ih_l0=(16, 3), weight_hh_l0=(16, 2), weight_hr_l0=(2, 3)), "weight_hr"),
        (arrays(weight_ih_l0=(16, 3), weight_hh_l0=(16, 4), weight_ih_l0_reverse=(16, 2), weight_hh_l0_reverse=(16, 4)),
         "two directions"),
        (arrays(weight_ih_l0=(16, 3), weight_hh_l0=(16, 4), weight_ih_l1=(16, 3), weight_hh_l1=(16, 4)),
         "layer 1 takes 3 inputs"),
        ({"weight_ih_l0": "text", "weight_hh_l0": np.zeros((16, 4))}, "weight_ih_l0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_bad_state_dicts(state, message):
    with pytest.raises(InputError, match=message):
        fxp.from_state_dict(state, batch(3))


# Checkpoints through the command line


def cli(*arguments):
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.embedding = torch.nn.Embedding(5, 3)
        self.encoder = torch.nn.ModuleDict({"lstm": torch.nn.LSTM(3, 4, 2, batch_first=True)})
        self.out = torch.nn.Linear(4, 5)


@pytest.fixture
def place(tmp_path):
    np.save(tmp_path / "x.npy", batch(3))
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(0, 5, (4, 9)))
    return tmp_path


def test_checkpoint_of_the_bare_module(place, capsys):
    module = lstm(input_size=3, hidden_size=4)
    torch.save(module.state_dict(), place / "bare.pt")
    assert cli("export", place / "bare.pt", "-o", place / "m.h5", "-c", place / "x.npy") == 0
    loaded = fxp.load(place / "m.h5")
    assert loaded.digest == fxp.from_torch(module, calibration=batch(3)).digest
    assert loaded.name == "bare" and "bare.pt" in loaded.origin
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("nested", [False, True])
def test_checkpoint_of_a_larger_model(place, nested):
    model = Model()
    state = model.state_dict()
    torch.save({"state_dict": state, "epoch": 3} if nested else state, place / "lm.pt")
    options = ["--prefix", "encoder.lstm", "--embedding", "embedding", "--head", "out", "--head-scope", "last"]
    command = ["export", place / "lm.pt", "-o", place / "m.h5", "-c", place / "tokens.npy", *options]
    assert cli(*command, "--metric", "accuracy", "--high", 7, "--low", 3, "--profile", "fixed", "--name", "lm") == 0
    head = traces.Head(model.out.weight.detach().numpy(), model.out.bias.detach().numpy(), "last")
    expected = fxp.from_torch(
        model.encoder["lstm"], np.load(place / "tokens.npy"), head, 7, 3, "fixed", embedding=model.embedding
    )
    loaded = fxp.load(place / "m.h5")
    assert loaded.digest == expected.digest and (loaded.name, loaded.metric) == ("lm", "accuracy")


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("form", ["torch", "torch old", "pickle", "in a state dict"])
def test_hostile_pickle_is_refused_and_not_executed(place, form, capsys, recwarn):
    marker, checkpoint = place / "executed", place / "hostile.pt"
    attack = Hostile(marker)
    if form == "pickle":
        checkpoint.write_bytes(pickle.dumps(attack))
    else:
        content = {**lstm(input_size=3, hidden_size=4).state_dict(), "extra": attack} if "dict" in form else attack
        torch.save(content, checkpoint, _use_new_zipfile_serialization=form != "torch old")
    (place / "m.h5").write_bytes(b"before")
    recwarn.clear()
    assert cli("export", checkpoint, "-o", place / "m.h5", "-c", place / "x.npy") == 2
    assert not marker.exists() and (place / "m.h5").read_bytes() == b"before" and not recwarn
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and str(checkpoint) in captured.err
    pickle.loads(pickle.dumps(attack))
    assert marker.exists()


def test_bad_checkpoints(place, capsys):
    good, module = place / "good.pt", lstm(input_size=3, hidden_size=4)
    torch.save(module.state_dict(), good)
    data = good.read_bytes()
    broken = {
        "truncated": data[: len(data) // 2], "empty": b"", "text": b"hello", "hdf5": (place / "x.npy").read_bytes(),
    }  # fmt: skip
    for name, content in broken.items():
        (place / f"{name}.pt").write_bytes(content)
    with zipfile.ZipFile(place / "zip.pt", "w") as archive:
        archive.writestr("a", "b")
    torch.save([1, 2], place / "list.pt")
    torch.save({"model": module.state_dict()}, place / "elsewhere.pt")
    torch.save(torch.nn.GRU(3, 4).state_dict(), place / "gru.pt")
    torch.save({**module.state_dict(), "weight_ih_l0": torch.full((16, 3), torch.nan)}, place / "nan.pt")
    torch.save(Model().state_dict(), place / "larger.pt")
    (place / "folder.pt").mkdir()
    names = [*broken, "zip", "list", "elsewhere", "gru", "nan", "larger", "folder", "missing"]
    for name in names:
        checkpoint = place / f"{name}.pt"
        assert cli("export", checkpoint, "-o", place / "m.h5", "-c", place / "x.npy") == 2, name
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1 and str(checkpoint) in captured.err, name
        # What torch would have users try runs code of the file.
        assert "weights_only" not in captured.err and "\x1b" not in captured.err, captured.err
    torch.save(module, place / "whole.pt")
    assert cli("export", place / "whole.pt", "-o", place / "m.h5", "-c", place / "x.npy") == 2
    assert "other Python objects" in capsys.readouterr().err
    assert cli("export", good, "-o", place / "m.h5", "-c", place / "x.npy", "--metric", "accurcy") == 2
    assert "metric 'accurcy' is unknown" in capsys.readouterr().err and not (place / "m.h5").exists()
    for options, expected in [
        (["--prefix", "decoder"], "encoder.lstm"), (["--prefix", "encoder"], "larger.pt"),
        (["--prefix", "encoder.lstm", "--head", "nothing"], "nothing"),
        (["--prefix", "encoder.lstm", "--head", "embedding"], "head"),
        (["--prefix", "encoder.lstm", "--head", "out", "--head-scope", "all"], "scope"),
        (["--prefix", "encoder.lstm", "--embedding", "out"], "embedding has shape"),
        (["--prefix", "encoder.lstm", "--embedding", "embedding"], "x.npy"),
        (["--prefix", "encoder.lstm", "--embedding", "encoder.lstm"], "weight is missing"),
        (["--prefix", "encoder.lstm", "--low", "9"], "low"),
    ]:  # fmt: skip
        command = ["export", place / "larger.pt", "-o", place / "m.h5", "-c", place / "x.npy", *options]
        assert cli(*command) == 2, options
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1 and expected in captured.err, options
    assert cli("export", good, "-o", good, "-c", place / "x.npy") == 2 and good.read_bytes() == data
    assert "is an input" in capsys.readouterr().err
    np.save(place / "wide.npy", batch(5))
    assert cli("export", good, "-o", place / "m.h5", "-c", place / "wide.npy") == 2
    assert "wide.npy" in capsys.readouterr().err
    assert not (place / "m.h5").exists() and not list(place.glob(".*"))


def test_without_torch_the_message_says_what_to_install(place, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert cli("export", place / "any.pt", "-o", place / "m.h5", "-c", place / "x.npy") == 2
    assert "fxp-lstm[torch]" in capsys.readouterr().err
    with pytest.raises(InputError, match="PyTorch"):
        fxp.from_torch(None)


LOADED = """
import sys
from fxp.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print(end.code, *(name in sys.modules for name in ("torch", "numba", "h5py")), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["--help"], "0 False False False"), (["run", "--help"], "0 False False False"), (["run"], "0 False True True")],
)
def test_only_the_export_imports_torch_and_help_imports_little(place, make_network, arguments, expected):
    if arguments == ["run"]:
        fxp.save(make_network(), place / "m.h5")
        arguments = ["run", str(place / "m.h5"), str(place / "x.npy"), "--trace", str(place / "t.h5")]
    done = subprocess.run([sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True)
    assert done.stderr.strip() == expected


def test_private_helpers_name_the_place():
    assert export.select({"a.b": 1}, "a") == {"b": 1} and export.select({"b": 1}, "") == {"b": 1}
    with pytest.raises(InputError, match=r"head\.weight is missing; found bias"):
        export.readout({"bias": np.zeros(2)}, "step")
