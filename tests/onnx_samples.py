"""ONNX models around the LSTM operator, built node by node, and their results in ONNX Runtime."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

F32 = np.float32
KINDS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}


def weights(rng, inputs, hidden, directions=1, bias=True, peepholes=False, scale=0.6):
    """W, R, B and P of the operator: {name: array}."""
    shapes = {"W": (4 * hidden, inputs), "R": (4 * hidden, hidden)}
    shapes |= {"B": (8 * hidden,)} if bias else {}
    shapes |= {"P": (3 * hidden,)} if peepholes else {}
    return {name: (scale * rng.standard_normal((directions, *shape))).astype(F32) for name, shape in shapes.items()}


def lstm(name, x, arrays, output, direction="forward", states=("", ""), lengths="", **attributes):
    """An LSTM node and its initializers; `output` is Y, `output`_h is Y_h."""
    hidden = arrays["R"].shape[2]
    inputs = [x, f"{name}.W", f"{name}.R", f"{name}.B" if "B" in arrays else "", lengths, *states]
    inputs += [f"{name}.P"] if "P" in arrays else []
    while not inputs[-1]:
        inputs.pop()
    node = helper.make_node(
        "LSTM", inputs, [output, f"{output}_h"], name=name, hidden_size=hidden, direction=direction, **attributes
    )
    return node, [numpy_helper.from_array(value, f"{name}.{key}") for key, value in arrays.items()]


def constant(name, value):
    return numpy_helper.from_array(np.asarray(value), name)


def model(nodes, initializers, output, features, opset=17, kind="float32", extra=(), inputs=("T", "B")):
    """A model of one input x [T, B, features] and one output."""
    x = helper.make_tensor_value_info("x", KINDS[kind], [*inputs, features])
    graph = helper.make_graph(
        nodes, "test", [x, *extra], [helper.make_tensor_value_info(output, KINDS[kind], None)], initializers
    )
    # The oldest version of the file format that knows the operator sets is good for every runtime.
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def save(made, path):
    onnx.save(made, path)
    return path


def runtime(path, **feeds):
    """First output of ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]
