"""ONNX models: their float networks against ONNX Runtime, what is taken and left out, and files that mean harm."""

import json
import warnings

import numpy as np
import onnx
import onnx_samples as samples
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import accel
import fxp
from fxp import cli, floating, onnx_layers
from fxp.quantise import float_layers
from traces import InputError

F32 = np.float32
T, B, N = 7, 3, 4


def inputs(features=N, seed=9):
    """x float32 [T, B, features], as the operator takes it."""
    return np.random.default_rng(seed).standard_normal((T, B, features)).astype(F32)


def float_outputs(network, x):
    """Outputs [T, B, D * H] of the float network."""
    outputs = floating.run(float_layers(network.model), list(x.transpose(1, 0, 2)))[0]
    return np.stack(outputs, axis=1)


def imported(path, x, **options):
    return fxp.from_onnx(path, calibration=list(x.transpose(1, 0, 2)), **options)


def agrees(path, x, y, **options):
    """The float network against Y [T, D, B, H] of ONNX Runtime."""
    network = imported(path, x, **options)
    expected = y.transpose(0, 2, 1, 3).reshape(*x.shape[:2], -1)
    assert float_outputs(network, x) == pytest.approx(expected, abs=2e-6, rel=1e-5)
    return network


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("peepholes", [False, True])
@pytest.mark.parametrize("opset", [7, 14, 22, onnx.defs.onnx_opset_version()])
def test_operator(tmp_path, direction, bias, peepholes, opset):
    rng = np.random.default_rng(opset)
    arrays = samples.weights(rng, N, 5, 1 + (direction == "bidirectional"), bias, peepholes)
    node, initializers = samples.lstm("rnn", "x", arrays, "y", direction)
    path, x = samples.save(samples.model([node], initializers, "y", N, opset), tmp_path / "m.onnx"), inputs()
    y = samples.runtime(path, x=x)
    network = agrees(path, x, y)
    assert (network.layers[0].peephole is not None) == peepholes
    for engine in ("reference", "portable", "fast"):
        run = fxp.emulate(network, x[:, :1].transpose(1, 0, 2), accel.Static(8), engine=engine)
        assert np.abs(run.outputs - float_outputs(network, x)[:, :1].transpose(1, 0, 2)).max() < 0.1


def one(tmp_path, arrays=None, extra=(), opset=17, direction="forward", **attributes):
    """A file with one LSTM, `extra` initializers beside its own."""
    arrays = arrays or samples.weights(np.random.default_rng(1), N, 5, 1 + (direction == "bidirectional"))
    node, initializers = samples.lstm("rnn", "x", arrays, "y", direction, **attributes)
    return samples.save(samples.model([node], [*initializers, *extra], "y", N, opset), tmp_path / "m.onnx")


def test_layout_1_has_the_same_weights(tmp_path):
    # ONNX Runtime knows no layout 1, whose definition only swaps axes of X and Y.
    arrays = samples.weights(np.random.default_rng(1), N, 5, peepholes=True)
    x = inputs()
    y = samples.runtime(one(tmp_path, arrays), x=x)
    agrees(one(tmp_path, arrays, layout=1), x, y)


def test_backwards_alone_is_a_forward_network_of_reversed_sequences(tmp_path):
    path, x = one(tmp_path, direction="reverse"), inputs()
    y = samples.runtime(path, x=x)
    with pytest.raises(InputError, match=r"LSTM 'rnn' runs backwards alone.*--reverse"):
        imported(path, x)
    network = imported(path, x, reverse=True)
    assert float_outputs(network, x[::-1])[::-1] == pytest.approx(y[:, 0], abs=2e-6)
    assert "reversed in time" in network.model.origin
    with pytest.raises(InputError, match="'rnn' is forward"):
        imported(one(tmp_path), x, reverse=True)


def test_lengths_are_those_of_the_sequences(tmp_path):
    arrays = samples.weights(np.random.default_rng(2), N, 5, 2, peepholes=True)
    node, initializers = samples.lstm("rnn", "x", arrays, "y", "bidirectional", lengths="lengths")
    more = helper.make_tensor_value_info("lengths", TensorProto.INT32, ["B"])
    path = samples.save(samples.model([node], initializers, "y", N, extra=[more]), tmp_path / "m.onnx")
    x, lengths = inputs(), np.array([T, 2, 5], np.int32)
    y = samples.runtime(path, x=x, lengths=lengths)
    network = imported(path, x)
    assert "sequence_lens" in network.model.origin
    sequences = [x[:n, b] for b, n in enumerate(lengths)]
    for b, h in enumerate(floating.run(float_layers(network.model), sequences)[0]):
        assert h == pytest.approx(y[: lengths[b], :, b].reshape(lengths[b], -1), abs=2e-6)


@pytest.mark.parametrize("kind", ["initializer", "computed", "input", "not zero"])
def test_initial_states(tmp_path, kind):
    rng = np.random.default_rng(3)
    node, initializers = samples.lstm("rnn", "x", samples.weights(rng, N, 5), "y", states=("h0", "c0"))
    nodes, extra, x = [node], [], inputs()
    shape, feeds = (1, B, 5), {}
    if kind in ("initializer", "not zero"):
        value = np.full(shape, 0.5 * (kind == "not zero"), F32)
        initializers += [samples.constant(name, value) for name in ("h0", "c0")]
    elif kind == "input":
        extra = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("h0", "c0")]
        feeds = {name: np.zeros(shape, F32) for name in ("h0", "c0")}
    else:
        # As PyTorch writes it: zeros of a shape that depends on the batch.
        initializers += [samples.constant("one", np.array([1])), samples.constant("five", np.array([5]))]
        initializers += [samples.constant("where", np.array([1])), samples.constant("zero", np.zeros((1, 1, 1), F32))]
        nodes = [
            helper.make_node("Shape", ["x"], ["shape"]), helper.make_node("Gather", ["shape", "where"], ["batch"]),
            helper.make_node("Concat", ["one", "batch", "five"], ["wanted"], axis=0),
            helper.make_node("ConstantOfShape", ["wanted"], ["h0"]), helper.make_node("Expand", ["zero", "wanted"], ["c0"]),
            node,
        ]  # fmt: skip
    path = samples.save(samples.model(nodes, initializers, "y", N, extra=extra), tmp_path / "m.onnx")
    if kind == "not zero":
        with pytest.raises(InputError, match="LSTM 'rnn': initial_h is a constant other than zero"):
            imported(path, x)
        return
    options = {}
    if kind == "input":
        with pytest.raises(InputError, match=r"LSTM 'rnn': initial_h is 'h0'.*--zero-state"):
            imported(path, x)
        options = {"zero_state": True}
    network = agrees(path, x, samples.runtime(path, x=x, **feeds), **options)
    assert ("taken as zeros" in network.model.origin) == (kind == "input")
    if kind == "computed":
        selection = onnx_layers.read(path)
        assert selection.taken == ["LSTM 'rnn'"] and "Shape 'shape'" in selection.left_out


@pytest.mark.parametrize(
    "attributes, said",
    [
        ({"clip": 3.0}, "attribute clip is 3"),
        ({"input_forget": 1}, "attribute input_forget"),
        ({"activations": ["Sigmoid", "Tanh", "Relu"]}, "attribute activations is Sigmoid, Tanh, Relu"),
        ({"activations": ["HardSigmoid", "Tanh", "Tanh"]}, "attribute activations is HardSigmoid"),
        ({"direction": "sideways"}, "attribute direction is 'sideways'"),
        ({"layout": 2}, "attribute layout is 2"),
        ({"depth": 2}, "attribute 'depth' is none"),
    ],
)
def test_what_cannot_be_emulated_is_refused_by_name(tmp_path, attributes, said):
    with pytest.raises(InputError, match=f"m.onnx: LSTM 'rnn': {said}"):
        imported(one(tmp_path, **attributes), inputs())


def test_default_activations_may_be_written_out(tmp_path):
    x = inputs()
    path = one(tmp_path, activations=["Sigmoid", "Tanh", "Tanh"])
    agrees(path, x, samples.runtime(path, x=x))


def stack(kinds, direction="forward", layout="squeeze", rng=None, kind="float32"):
    """Nodes and initializers of LSTMs with `kinds` between them; T and B are open."""
    rng = rng or np.random.default_rng(4)
    sides = 1 + (direction == "bidirectional")
    nodes, initializers, name, features = [], [], "x", N
    for number in range(2):
        arrays = samples.weights(rng, features, 5, sides)
        arrays = {key: value.astype(kind) for key, value in arrays.items()}
        node, more = samples.lstm(f"rnn{number}", name, arrays, f"y{number}", direction)
        nodes.append(node)
        initializers += more
        if number == 0:
            name = "y0"
            for place, (operator, values, attributes) in enumerate(kinds):
                inputs = [name, *(f"c{place}{n}" for n in range(len(values)))]
                initializers += [samples.constant(f"c{place}{n}", value) for n, value in enumerate(values)]
                name = f"b{place}"
                nodes.append(helper.make_node(operator, inputs, [name], name=f"{operator}{place}", **attributes))
        features = 5 * sides
    return nodes, initializers


AXIS = [np.array([1])]
PATTERNS = {
    "torch": ([("Squeeze", AXIS, {})], "forward"),
    "torch bidirectional": (
        [("Transpose", [], {"perm": [0, 2, 1, 3]}), ("Reshape", [np.array([0, 0, -1])], {})], "bidirectional",
    ),
    "fixed sizes": (
        [("Transpose", [], {"perm": [0, 2, 1, 3]}), ("Reshape", [np.array([T, B, 10])], {})], "bidirectional",
    ),
    "tf2onnx, batch first between": (
        [("Squeeze", AXIS, {}), ("Transpose", [], {"perm": [1, 0, 2]}), ("Transpose", [], {"perm": [1, 0, 2]})],
        "forward",
    ),
    "dropout, identity, cast": (
        [("Squeeze", AXIS, {}), ("Dropout", [], {}), ("Identity", [], {}), ("Cast", [], {"to": TensorProto.FLOAT})],
        "forward",
    ),
    "reshape alone": ([("Reshape", [np.array([0, -1, 5])], {})], "forward"),
    "unsqueezed and back": (
        [("Squeeze", AXIS, {}), ("Unsqueeze", [np.array([0])], {}), ("Squeeze", [np.array([-4])], {})], "forward",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PATTERNS)
def test_stacked_operators_become_layers(tmp_path, name):
    between, direction = PATTERNS[name]
    nodes, initializers = stack(between, direction)
    path = samples.save(samples.model(nodes, initializers, "y1", N), tmp_path / "m.onnx")
    x = inputs()
    network = agrees(path, x, samples.runtime(path, x=x))
    assert len(network.layers) == 2
    selection = onnx_layers.read(path)
    assert len(selection.taken) == len(nodes) and not selection.left_out


@pytest.mark.parametrize(
    "between",
    [
        [("Squeeze", AXIS, {}), ("Relu", [], {})],
        [("Squeeze", AXIS, {}), ("Transpose", [], {"perm": [1, 0, 2]})],  # time and batch change places
        [("Reshape", [np.array([B, T, 5])], {}), ("Transpose", [], {"perm": [1, 0, 2]})],  # mixes steps
        [("Reshape", [np.array([-1, 1, 5])], {})],  # all sequences become one
        [("Squeeze", AXIS, {}), ("Add", [np.ones(5, F32)], {})],
        [("Squeeze", AXIS, {}), ("Cast", [], {"to": TensorProto.INT32}), ("Cast", [], {"to": TensorProto.FLOAT})],
    ],
)
def test_operators_that_change_values_between_lstms_part_them(tmp_path, between):
    nodes, initializers = stack(between)
    made = samples.model(nodes, initializers, "y1", N, inputs=(T, B))
    path, x = samples.save(made, tmp_path / "m.onnx"), inputs()
    with pytest.raises(InputError, match=r"no single stack.*--node: 'rnn0', 'rnn1'"):
        imported(path, x)
    network = imported(path, x, node="rnn0")
    assert len(network.layers) == 1 and "left out" in network.model.origin
    assert "LSTM 'rnn1'" in onnx_layers.read(path, "rnn0").left_out
    with pytest.raises(InputError, match="no LSTM called 'nothing'; there are 'rnn0', 'rnn1'"):
        imported(path, x, node="nothing")


def test_layers_of_different_directions_are_refused(tmp_path):
    nodes, initializers = stack([("Squeeze", AXIS, {})])
    nodes[-1].attribute[[a.name for a in nodes[-1].attribute].index("direction")].s = b"reverse"
    path = samples.save(samples.model(nodes, initializers, "y1", N), tmp_path / "m.onnx")
    with pytest.raises(InputError, match="'rnn0' is forward, 'rnn1' is reverse"):
        imported(path, inputs())


def test_half_precision(tmp_path):
    nodes, initializers = stack([("Squeeze", AXIS, {})], kind="float16")
    path = samples.save(samples.model(nodes, initializers, "y1", N, kind="float16"), tmp_path / "m.onnx")
    network = imported(path, inputs())
    wide = stack([("Squeeze", AXIS, {})])
    stored = onnx.numpy_helper.to_array(wide[1][0]).astype(np.float16).astype(F32)
    assert (network.layers[0].wx_float[0][:5] == stored[0][:5]).all()


@pytest.mark.parametrize("form", ["Constant", "folded", "external"])
def test_places_of_weights(tmp_path, form):
    rng = np.random.default_rng(5)
    arrays = samples.weights(rng, N, 5)
    node, initializers = samples.lstm("rnn", "x", arrays, "y")
    nodes = [node]
    if form == "Constant":
        nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in initializers] + nodes
        initializers = []
    elif form == "folded":
        # As PyTorch's exporter writes it without constant folding: slices of the gates, joined in another order.
        initializers = [tensor for tensor in initializers if not tensor.name.endswith(".W")]
        w = arrays["W"][0]
        initializers.append(samples.constant("w", w[np.r_[0:5, 10:15, 15:20, 5:10]]))
        initializers += [samples.constant(f"at{n}", np.array([n])) for n in (0, 5, 10, 15, 20)]
        parts = [helper.make_node("Slice", ["w", f"at{n}", f"at{n + 5}", "at0"], [f"part{n}"]) for n in (0, 5, 10, 15)]
        joined = helper.make_node("Concat", ["part0", "part15", "part5", "part10"], ["joined"], axis=0)
        nodes = [*parts, joined, helper.make_node("Unsqueeze", ["joined", "at0"], ["rnn.W"]), node]
    path, x = tmp_path / "m.onnx", inputs()
    made = samples.model(nodes, initializers, "y", N)
    if form == "external":
        onnx.save(made, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
        assert path.stat().st_size < 1000
    else:
        samples.save(made, path)
    agrees(path, x, samples.runtime(path, x=x))
    assert onnx_layers.read(path).left_out == []


def with_head(scope="step", direction="forward", bias="Add"):
    """An LSTM, a linear head, a softmax."""
    rng = np.random.default_rng(6)
    sides = 1 + (direction == "bidirectional")
    node, initializers = samples.lstm("rnn", "x", samples.weights(rng, N, 5, sides), "y", direction)
    weight = rng.standard_normal((5 * sides, 3)).astype(F32)
    initializers += [samples.constant("w", weight), samples.constant("wt", weight.T.copy())]
    initializers += [samples.constant("b", rng.standard_normal(3).astype(F32)), samples.constant("axis", np.array([1]))]
    initializers += [samples.constant("flat", np.array([0, 0, -1])), samples.constant("end", np.array(-1))]
    initializers += [samples.constant("front", np.array([0]))]
    nodes = [node]
    if sides == 2:
        nodes.append(helper.make_node("Transpose", ["y"], ["turned"], perm=[0, 2, 1, 3]))
        nodes.append(helper.make_node("Reshape", ["turned", "flat"], ["h"]))
    elif scope == "last state":
        nodes.append(helper.make_node("Squeeze", ["y_h", "front"], ["h"]))
    else:
        nodes.append(helper.make_node("Squeeze", ["y", "axis"], ["h"]))
    if scope == "last":
        nodes.append(helper.make_node("Gather", ["h", "end"], ["end_h"], axis=0))
    read = "end_h" if scope == "last" else "h"
    if bias == "Add":
        nodes.append(helper.make_node("MatMul", [read, "w"], ["product"], name="head"))
        nodes.append(helper.make_node("Add", ["product", "b"], ["logits"], name="shift"))
    else:
        nodes.append(helper.make_node("Gemm", [read, "wt", "b"], ["logits"], name="head", transB=1))
    nodes.append(helper.make_node("Softmax", ["logits"], ["shares"], name="shares", axis=-1))
    return nodes, initializers


@pytest.mark.parametrize(
    "scope, direction, bias, name",
    [
        ("step", "forward", "Add", "head"),
        ("step", "forward", "Add", "shift"),
        ("step", "bidirectional", "Add", "head"),
        ("last", "forward", "Add", "shift"),
        ("last", "forward", "Gemm", "head"),
        ("last state", "forward", "Gemm", "head"),
    ],
)
def test_a_linear_head_is_taken_when_asked_for(tmp_path, scope, direction, bias, name):
    nodes, initializers = with_head(scope, direction, bias)
    path, x = samples.save(samples.model(nodes, initializers, "logits", N), tmp_path / "m.onnx"), inputs()
    logits = samples.runtime(path, x=x)
    network = imported(path, x, head=name)
    head = network.model.head
    assert head.scope == scope.split()[0]
    h = float_outputs(network, x)
    assert (h if scope == "step" else h[-1]) @ head.weight.T + head.bias == pytest.approx(logits, abs=1e-5)
    assert onnx_layers.read(path, head=name).left_out == ["Softmax 'shares'"]
    bare = imported(path, x)
    assert bare.model.head is None and f"{'MatMul' if bias == 'Add' else 'Gemm'} 'head'" in bare.model.origin


def test_heads_that_are_none(tmp_path):
    x = inputs()
    nodes, initializers = with_head("last", "bidirectional")
    path = samples.save(samples.model(nodes, initializers, "logits", N), tmp_path / "m.onnx")
    # The last step of a bidirectional LSTM may be read as such, but here an axis of batches would be possible too.
    for name, said in {"shares": "no MatMul or Gemm or Add called 'shares'", "head": "no linear head on LSTM 'rnn'"}.items():
        with pytest.raises(InputError, match=said):
            imported(path, x, head=name)


def test_an_embedding_is_taken_when_asked_for(tmp_path):
    rng = np.random.default_rng(7)
    table = rng.standard_normal((11, N)).astype(F32)
    node, initializers = samples.lstm("rnn", "x", samples.weights(rng, N, 5), "y")
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["rows"], name="embed"),
        helper.make_node("Transpose", ["rows"], ["x"], perm=[1, 0, 2]), node,
    ]  # fmt: skip
    tokens = helper.make_tensor_value_info("tokens", TensorProto.INT64, ["B", "T"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "test", [tokens], [y], [*initializers, samples.constant("table", table)])
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    ids = rng.integers(0, 11, (B, T))
    network = fxp.from_onnx(path, calibration=ids, embedding="embed")
    assert (network.model.embedding == table).all()
    expected = samples.runtime(path, tokens=ids)[:, 0].transpose(1, 0, 2)
    given = floating.run(float_layers(network.model), [table[row] for row in ids])[0]
    assert np.stack(given) == pytest.approx(expected, abs=2e-6)
    assert np.abs(fxp.emulate(network, ids, accel.Static(8)).outputs - expected).max() < 0.1


def test_weights_that_are_no_constants(tmp_path):
    node, initializers = samples.lstm("rnn", "x", samples.weights(np.random.default_rng(1), N, 5), "y")
    more = [helper.make_tensor_value_info("rnn.W", TensorProto.FLOAT, [1, 20, N])]
    made = samples.model([node], initializers[1:], "y", N, extra=more)
    with pytest.raises(InputError, match="LSTM 'rnn': W is an input of the graph"):
        imported(samples.save(made, tmp_path / "m.onnx"), inputs())


def test_a_graph_without_lstm_and_old_opsets(tmp_path):
    made = samples.model([helper.make_node("Relu", ["x"], ["y"])], [], "y", N)
    with pytest.raises(InputError, match="has no operator LSTM"):
        imported(samples.save(made, tmp_path / "m.onnx"), inputs())
    for opset, said in ((6, "has opset 6; 7 or newer"), (99, "has opset 99; .*update onnx")):
        with pytest.raises(InputError, match=said):
            imported(one(tmp_path, opset=opset), inputs())


@pytest.mark.torch
@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"batch_first": True}], ids=str)
def test_what_torch_exports(tmp_path, folded, options):
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(N, 5, 2, dropout=0.1, **options)
            self.head = torch.nn.Linear(10 if options.get("bidirectional") else 5, 3)

        def forward(self, x):
            return self.head(self.lstm(x)[0])

    model, path, x = Model().eval(), tmp_path / "m.onnx", inputs()
    given = torch.from_numpy(x.transpose(1, 0, 2).copy() if options.get("batch_first") else x)
    with warnings.catch_warnings():
        # The exporter that needs nothing but torch is the older one, and says so.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (given,), str(path), dynamo=False, opset_version=17, do_constant_folding=folded, input_names=["x"],
            dynamic_axes={"x": {0: "first", 1: "second"}},
        )  # fmt: skip
    network = imported(path, x, head="/head/MatMul")
    assert len(network.layers) == 2 and network.model.head.scope == "step"
    found = float_outputs(network, x) @ network.model.head.weight.T + network.model.head.bias
    expected = model(given).detach().numpy()
    expected = expected.transpose(1, 0, 2) if options.get("batch_first") else expected
    assert found == pytest.approx(expected, abs=2e-6)


# Files that mean harm


def refused(path, said="m.onnx"):
    with pytest.raises(InputError, match=said) as error:
        onnx_layers.read(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "link.bin", "", "a\0b", "missing.bin", "."])
def test_external_data_outside_the_folder(tmp_path, location):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(1000))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    made = onnx.load(one(tmp_path))
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    (folder / "m.onnx").write_bytes(made.SerializeToString())
    refused(folder / "m.onnx", "external data")


@pytest.mark.parametrize("changes", [{"offset": "-5"}, {"offset": "1000000"}, {"length": "7"}, {"length": "x"}])
def test_external_data_beyond_their_file(tmp_path, changes):
    made = onnx.load(one(tmp_path))
    (tmp_path / "data.bin").write_bytes(bytes(400))
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "data.bin", **changes}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    refused(tmp_path / "m.onnx", "external data|bytes of")


@pytest.mark.parametrize("dims", [[1 << 40, 4], [1, 20, -4], [1 << 20, 1 << 20, 0], [1, 20, 5]])
def test_tensors_of_false_shapes(tmp_path, dims):
    made = onnx.load(one(tmp_path))
    made.graph.initializer[0].ClearField("dims")
    made.graph.initializer[0].dims.extend(dims)
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    refused(tmp_path / "m.onnx")


def test_a_graph_that_doubles_its_weights_again_and_again(tmp_path):
    node, initializers = samples.lstm("rnn", "x", samples.weights(np.random.default_rng(1), N, 5), "y")
    nodes, name = [], "rnn.R"
    for n in range(60):
        nodes.append(helper.make_node("Concat", [name, name], [f"more{n}"], axis=0))
        name = f"more{n}"
    node.input[2] = name
    refused(samples.save(samples.model([*nodes, node], initializers, "y", N), tmp_path / "m.onnx"), "more values than")


def test_a_graph_in_a_circle(tmp_path):
    nodes, initializers = stack([("Squeeze", AXIS, {})])
    nodes[0].input[0] = "y1"
    refused(samples.save(samples.model(nodes, initializers, "y1", N), tmp_path / "m.onnx"), "nothing before it gives")


SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(SEEDS)
def test_damaged_files(tmp_path_factory, seed):
    rng = np.random.default_rng(seed)
    nodes, initializers = with_head()
    content = bytearray(samples.model(nodes, initializers, "logits", N).SerializeToString())
    if seed % 3 == 0:
        content = content[: rng.integers(0, len(content))]
    for _ in range(rng.integers(1, 12)):
        if content:
            content[rng.integers(0, len(content))] = rng.integers(0, 256)
    path = tmp_path_factory.mktemp("damaged") / "m.onnx"
    path.write_bytes(content)
    x = inputs()
    try:
        imported(path, x, head="head", zero_state=True)
    except InputError as error:
        assert "\n" not in str(error)


def test_other_files_are_no_models(tmp_path):
    for content in (b"", b"\x89PNG\r\n", b"{}", bytes(100), b"\x3a" * 50):
        (tmp_path / "m.onnx").write_bytes(content)
        refused(tmp_path / "m.onnx", "no ONNX model|opset")
    refused(tmp_path / "missing.onnx", "no such file")
    refused(tmp_path, "directory")


# The command line


@pytest.fixture(name="run_cli")
def _run_cli(capfd):
    """Runs a command in this process; returns its exit code, output and errors."""

    def run(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        return ended.value.code, *capfd.readouterr()

    return run


@pytest.mark.parametrize("content", [b"", b"\x08\x08\x3a\xff\xff\xff\x7f", bytes(range(256)) * 40])
def test_a_bad_file_ends_the_command_with_2(tmp_path, run_cli, content):
    (tmp_path / "m.onnx").write_bytes(content)
    np.save(tmp_path / "x.npy", inputs())
    code, out, said = run_cli("export", tmp_path / "m.onnx", "-o", tmp_path / "m.h5", "-c", tmp_path / "x.npy")
    assert code == 2 and not out and said.startswith("fxp: ") and said.count("\n") == 1
    assert "m.onnx" in said and not (tmp_path / "m.h5").exists()


def test_export_on_the_command_line(tmp_path, run_cli):
    nodes, initializers = with_head()
    path = samples.save(samples.model(nodes, initializers, "logits", N), tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", inputs().transpose(1, 0, 2))
    target = tmp_path / "m.h5"
    code, out, said = run_cli("export", path, "-o", target, "-c", tmp_path / "x.npy", "--head", "head", "--json")
    assert code == 0, said
    result = json.loads(out)
    assert result["taken"] == ["LSTM 'rnn'", "Squeeze 'h'", "MatMul 'head'", "Add 'shift'"]
    assert result["left_out"] == ["Softmax 'shares'"] and result["head"]["scope"] == "step"
    assert fxp.load(target).digest == imported(path, inputs(), head="head").digest
    code, out, said = run_cli("export", path, "-o", tmp_path / "other.h5", "-c", tmp_path / "x.npy", "--node", "nothing")
    assert code == 2 and not out
    assert not (tmp_path / "other.h5").exists()
    assert said.startswith("fxp: ") and "no LSTM called 'nothing'" in said and said.count("\n") == 1
