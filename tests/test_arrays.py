"""Weights as named arrays: Keras' and TensorFlow Lite's definitions in plain NumPy, shapes, and files that mean harm."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import fxp
from fxp import arrays, floating
from fxp.quantise import float_layers
from traces import InputError

F32 = np.float32
N, H, TIME = 3, 5, 9
GATES = ("input", "forget", "cell", "output")


def draw(shape, rng):
    return (0.6 * rng.standard_normal(shape)).astype(F32)


def keras_layer(rng, features, hidden=H):
    return {"kernel": draw((features, 4 * hidden), rng), "recurrent_kernel": draw((hidden, 4 * hidden), rng),
            "bias": draw(4 * hidden, rng)}  # fmt: skip


def lite_layer(rng, features=N, hidden=H, output=4, peepholes=True):
    layer = {f"input_to_{g}_weights": draw((hidden, features), rng) for g in GATES}
    layer |= {f"recurrent_to_{g}_weights": draw((hidden, output), rng) for g in GATES}
    layer |= {f"{g}_gate_bias": draw(hidden, rng) for g in GATES}
    layer |= {f"cell_to_{g}_weights": draw(hidden, rng) for g in GATES if g != "cell" and peepholes}
    return layer | {"projection_weights": draw((output, hidden), rng), "projection_bias": np.zeros(output, F32)}


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def keras(layer, x):
    """Keras' LSTMCell (implementation 2): z = x kernel + h recurrent + bias, split into i, f, c, o."""
    layer = {name: value.astype(float) for name, value in layer.items()}
    h, c, out = np.zeros(H), np.zeros(H), []
    for step in x.astype(float):
        z = step @ layer["kernel"] + h @ layer["recurrent_kernel"] + layer["bias"]
        z0, z1, z2, z3 = np.split(z, 4)
        i, f = sigmoid(z0), sigmoid(z1)
        c = f * c + i * np.tanh(z2)
        h = sigmoid(z3) * np.tanh(c)
        out.append(h)
    return np.array(out)


def lite(layer, x):
    """TensorFlow Lite's LSTM with peepholes and projection."""
    layer = {name: value.astype(float) for name, value in layer.items()}
    c, h, out = np.zeros(H), np.zeros(len(layer["projection_weights"])), []
    for step in x.astype(float):
        z = {
            g: layer[f"input_to_{g}_weights"] @ step + layer[f"recurrent_to_{g}_weights"] @ h + layer[f"{g}_gate_bias"]
            for g in GATES
        }
        i = sigmoid(z["input"] + layer["cell_to_input_weights"] * c)
        f = sigmoid(z["forget"] + layer["cell_to_forget_weights"] * c)
        c = f * c + i * np.tanh(z["cell"])
        o = sigmoid(z["output"] + layer["cell_to_output_weights"] * c)
        h = layer["projection_weights"] @ (o * np.tanh(c))
        out.append(h)
    return np.array(out)


@pytest.fixture(name="x")
def _x():
    return np.random.default_rng(0).standard_normal((2, TIME, N)).astype(F32)


def float_outputs(network, x):
    return floating.run(float_layers(network.model), list(x))[0]


def test_keras_bidirectional_and_stacked(x):
    rng = np.random.default_rng(1)
    layers = [[keras_layer(rng, N), keras_layer(rng, N)], [keras_layer(rng, 2 * H), keras_layer(rng, 2 * H)]]
    named = {}
    for number, sides in enumerate(layers):
        for side, layer in zip(("", "backward/"), sides, strict=True):
            named |= {f"{number}/{side}{name}": value for name, value in layer.items()}
    network = fxp.from_arrays(named, x)
    for sequence, found in zip(x, float_outputs(network, x), strict=True):
        h = sequence
        for forward, backward in layers:
            h = np.concatenate([keras(forward, h), keras(backward, h[::-1])[::-1]], axis=1)
        assert found == pytest.approx(h, abs=2e-6)


def test_lite_with_peepholes_and_projection(x):
    layer = lite_layer(np.random.default_rng(2))
    network = fxp.from_arrays(layer, x)
    assert network.layers[0].projected and network.layers[0].peephole is not None
    for sequence, found in zip(x, float_outputs(network, x), strict=True):
        assert found == pytest.approx(lite(layer, sequence), abs=2e-6)


def test_names_of_torch_embedding_and_head():
    rng = np.random.default_rng(3)
    named = {"weight_ih_l0": draw((4 * H, N), rng), "weight_hh_l0": draw((4 * H, H), rng)}
    more = {"embedding": draw((7, N), rng), "head/kernel": draw((H, 2), rng), "head/bias": draw(2, rng)}
    tokens = [np.array([1, 4, 6])]
    network = fxp.from_arrays(named | more, tokens, head_scope="last")
    assert (network.layers[0].wx_float[0] == named["weight_ih_l0"]).all()
    assert (network.model.embedding == more["embedding"]).all()
    head = network.model.head
    assert (more["head/kernel"] == head.weight.T).all() and (head.bias == more["head/bias"]).all() and head.scope == "last"


@pytest.mark.parametrize(
    "change, said",
    [
        ({"kernal": np.ones(3)}, "'kernal' is no known array"),
        ({"kernel": None}, "layer 0 lacks kernel"),
        ({"bias": np.ones(19)}, r"layer 0: bias has shape \[19\], expected \[20\]"),
        ({"recurrent_kernel": np.ones((5, 16))}, "layer 0: recurrent_kernel has shape"),
        ({"kernel": np.full((N, 20), np.nan)}, "NaN or infinite"),
        ({"kernel": np.array([["a"] * 20] * N)}, "'kernel' is no array of numbers"),
        ({"2/kernel": np.ones((N, 20))}, "layers 0, 2 are given; they count from 0"),
        ({"0/kernel": np.ones((N, 20))}, "given twice"),
        ({"backward/kernel": np.ones((N, 20))}, "layer 0, backward lacks recurrent_kernel"),
        ({"input_gate_bias": np.ones(H)}, "mixes the names"),
        ({"head/bias": np.ones(2)}, "head/kernel is not"),
    ],
)
def test_bad_keras_arrays(x, change, said):
    named = keras_layer(np.random.default_rng(1), N) | change
    with pytest.raises(InputError, match=said):
        fxp.from_arrays({name: value for name, value in named.items() if value is not None}, x)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"input_to_input_weights": None}, "coupled input and forget gates"),
        ({"cell_to_forget_weights": None}, "layer 0 lacks cell_to_forget_weights"),
        ({"projection_bias": np.ones(4)}, "projection_bias is not zero"),
        ({"recurrent_to_cell_weights": np.ones((H, H))}, "recurrent_to_cell_weights has shape"),
        ({"output_gate_bias": None}, "lacks output_gate_bias"),
    ],
)
def test_bad_lite_arrays(x, change, said):
    named = lite_layer(np.random.default_rng(1)) | change
    with pytest.raises(InputError, match=said):
        fxp.from_arrays({name: value for name, value in named.items() if value is not None}, x)


# Files


def test_files_that_mean_harm(tmp_path):
    path = tmp_path / "w.npz"
    np.savez(path, kernel=np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(InputError, match=r"w\.npz: kernel\.npy holds object"):
        arrays.read(path)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("kernel.npy", header.getvalue())
    with pytest.raises(InputError, match="declares the shape"):
        arrays.read(path)
    for content in (b"", b"PK", b"\x93NUMPY", bytes(200)):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a readable file"):
            arrays.read(path)
    with pytest.raises(InputError, match="no such file"):
        arrays.read(tmp_path / "missing.npz")


def test_damaged_files(tmp_path):
    rng = np.random.default_rng(4)
    np.savez(tmp_path / "w.npz", **keras_layer(rng, N))
    whole = (tmp_path / "w.npz").read_bytes()
    for _ in range(150):
        content = bytearray(whole[: rng.integers(0, len(whole) + 1)] if rng.random() < 0.3 else whole)
        for place in rng.integers(0, max(len(content), 1), 3):
            if content:
                content[place] = rng.integers(0, 256)
        (tmp_path / "d.npz").write_bytes(content)
        try:
            fxp.from_arrays(arrays.read(tmp_path / "d.npz"), np.zeros((1, 2, N), F32))
        except InputError as error:
            assert "\n" not in str(error)


def test_a_file_round_trips(tmp_path):
    layer = lite_layer(np.random.default_rng(5))
    layer["input_gate_bias"] = layer["input_gate_bias"].astype(np.float16)
    layer["input_to_cell_weights"] = np.asfortranarray(layer["input_to_cell_weights"])
    np.savez_compressed(tmp_path / "w.npz", **layer)
    read = arrays.read(tmp_path / "w.npz")
    assert all((read[name] == layer[name]).all() and read[name].dtype == layer[name].dtype for name in layer)


def test_export_on_the_command_line(tmp_path, x):
    rng = np.random.default_rng(6)
    named = {f"0/{name}": value for name, value in keras_layer(rng, N).items()}
    named |= {"head/kernel": draw((H, 2), rng)}
    np.savez(tmp_path / "w.npz", **named)
    np.save(tmp_path / "x.npy", x)
    command = [sys.executable, "-m", "fxp", "export", "w.npz", "-o", "m.h5", "-c", "x.npy", "--json"]
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "check": False}
    environment = {"PYTHONPATH": str(Path(fxp.__file__).parents[1]), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, **options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["head"] == {"shape": [2, H], "scope": "step"}
    assert fxp.load(tmp_path / "m.h5").digest == fxp.from_arrays(named, x).digest
    bad = subprocess.run([*command, "--reverse"], env=environment, **options)
    assert bad.returncode == 2 and not bad.stdout and "--reverse is for ONNX models only" in bad.stderr
