"""LiteRT: the integer LSTM of 8-bit weights and activations and a 16-bit cell state, from a model built by hand.

Its gates need pre-activations of 12 fraction bits and a cell state whose step is a power of two.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version as installed
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from bench.peers import torch_lstm

X_STEP, H_STEP, CELL_STEP, GATE_STEP = 4 / 127, 1 / 128, 2.0**-11, 2.0**-12
ABSENT = -1


class Graph:
    """Tensors and buffers of a model."""

    def __init__(self) -> None:
        self.tensors: list[Any] = []
        self.buffers = [schema.BufferT()]

    def add(
        self, name: str, shape: tuple[int, ...], kind: int, step: float, data: Any = None, state: bool = False
    ) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.isVariable = name, list(shape), kind, state
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = [step], [0]
        tensor.buffer = 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            self.buffers.append(buffer)
            tensor.buffer = len(self.buffers) - 1
        self.tensors.append(tensor)
        return len(self.tensors) - 1


def model(layer: Any, batch: int, steps: int) -> bytes:
    """A .tflite model of a torch layer, time first; the gate order of both is i, f, g, o."""
    graph, kinds, hidden = Graph(), schema.TensorType, layer.hidden_size
    x = graph.add("x", (steps, batch, layer.input_size), kinds.INT8, X_STEP)
    weights, biases = [], []
    for name in ("weight_ih_l0", "weight_hh_l0"):
        for gate, values in enumerate(getattr(layer, name).detach().numpy().reshape(4, hidden, -1)):
            step = float(np.abs(values).max() / 127)
            index = np.rint(values / step).astype(np.int8)
            weights.append((graph.add(f"{name}{gate}", index.shape, kinds.INT8, step, index), step))
    total = (layer.bias_ih_l0 + layer.bias_hh_l0).detach().numpy().reshape(4, hidden)
    for gate, values in enumerate(total):
        step = X_STEP * weights[gate][1]
        index = np.rint(values / step).astype(np.int32)
        biases.append(graph.add(f"bias{gate}", (hidden,), kinds.INT32, step, index))
    h = graph.add("h", (batch, hidden), kinds.INT8, H_STEP, state=True)
    c = graph.add("c", (batch, hidden), kinds.INT16, CELL_STEP, state=True)
    y = graph.add("y", (steps, batch, hidden), kinds.INT8, H_STEP)
    operator = schema.OperatorT()
    operator.opcodeIndex = 0
    # Peepholes, projection and layer normalisation are absent.
    operator.inputs = [x, *(place for place, _ in weights), *[ABSENT] * 3, *biases, *[ABSENT] * 2, h, c, *[ABSENT] * 4]
    operator.outputs = [y]
    operator.intermediates = [graph.add(f"gate{n}", (0,), kinds.INT16, GATE_STEP) for n in range(4)]
    operator.intermediates.append(graph.add("unprojected", (0,), kinds.INT8, H_STEP))
    options = schema.UnidirectionalSequenceLSTMOptionsT()
    options.fusedActivationFunction = schema.ActivationFunctionType.TANH
    options.timeMajor, options.cellClip, options.projClip = True, 0.0, 0.0
    operator.builtinOptionsType = schema.BuiltinOptions.UnidirectionalSequenceLSTMOptions
    operator.builtinOptions = options
    code, subgraph, whole = schema.OperatorCodeT(), schema.SubGraphT(), schema.ModelT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM
    code.version = 3
    subgraph.tensors, subgraph.operators, subgraph.inputs, subgraph.outputs = graph.tensors, [operator], [x], [y]
    subgraph.name = whole.description = "lstm"
    whole.version, whole.operatorCodes, whole.subgraphs, whole.buffers = 3, [code], [subgraph], graph.buffers
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(whole.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def prepare(hidden: int, batch: int, steps: int) -> dict[str, Callable[[], object]]:
    if batch > 1:
        return {}
    interpreter = Interpreter(model_content=model(torch_lstm.lstm(hidden), batch, steps), num_threads=1)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    x = torch_lstm.inputs(hidden, batch, steps).numpy()
    index = np.rint(x / X_STEP).clip(-127, 127).astype(np.int8)

    def process() -> object:
        interpreter.reset_all_variables()
        interpreter.set_tensor(source, index)
        interpreter.invoke()
        return interpreter.get_tensor(target)

    return {"LiteRT integer LSTM": process}


def version() -> str:
    return f"ai-edge-litert {installed('ai-edge-litert')}"
