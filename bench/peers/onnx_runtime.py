"""ONNX Runtime: LSTM in float32, and DynamicQuantizeLSTM with u8 weights (exact sums) and s8 weights.

With s8 weights its AVX2 kernel adds pairs of products in 16 bits with saturation, so its sums can be wrong.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from bench.peers import torch_lstm


def model(layer: object) -> onnx.ModelProto:
    """One LSTM node with a torch layer's weights; ONNX has the gate order i, o, f, g."""
    hidden = layer.hidden_size  # type: ignore[attr-defined]

    def reordered(name: str) -> np.ndarray:
        gates = getattr(layer, name).detach().numpy().reshape(4, hidden, -1)
        return gates[[0, 3, 1, 2]].reshape(4 * hidden, -1)

    bias = np.concatenate([reordered("bias_ih_l0"), reordered("bias_hh_l0")]).reshape(1, -1)
    constants = {"W": reordered("weight_ih_l0")[None], "R": reordered("weight_hh_l0")[None], "B": bias}
    graph = helper.make_graph(
        [helper.make_node("LSTM", ["X", *constants], ["Y"], hidden_size=hidden, name="lstm")],
        "lstm",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["steps", "batch", hidden])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["steps", 1, "batch", hidden])],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def sessions(hidden: int) -> dict[str, onnxruntime.InferenceSession]:
    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        onnx.save(model(torch_lstm.lstm(hidden)), base / "float32")
        found = {"ONNX Runtime float32": session(base / "float32")}
        for name, kind in (("u8", QuantType.QUInt8), ("s8", QuantType.QInt8)):
            quantize_dynamic(base / "float32", base / name, op_types_to_quantize=["LSTM"], weight_type=kind)
            found[f"ONNX Runtime {name}"] = session(base / name)
    return found


def functions(hidden: int) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Functions from float32 [steps, batch, hidden] to h of the same shape."""

    def whole(one: onnxruntime.InferenceSession) -> Callable[[np.ndarray], np.ndarray]:
        return lambda x: one.run(None, {"X": x})[0][:, 0]

    return {name: whole(one) for name, one in sessions(hidden).items()}


def prepare(hidden: int, batch: int, steps: int) -> dict[str, Callable[[], object]]:
    x = torch_lstm.inputs(hidden, batch, steps).numpy()

    def timed(one: onnxruntime.InferenceSession) -> Callable[[], object]:
        return lambda: one.run(None, {"X": x})

    return {name: timed(one) for name, one in sessions(hidden).items()}


def version() -> str:
    return f"onnxruntime {onnxruntime.__version__}"
