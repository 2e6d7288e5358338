"""The LSTM operators of an ONNX graph as layers, and what else of the graph was asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import traces
from fxp.formats import Formats
from fxp.network import Network
from fxp.onnx_graph import STANDARD, Axes, Graph, label, title
from fxp.quantise import FloatLayer
from traces import InputError

GATES = (0, 2, 3, 1)
"""Blocks of W, R and B (i, o, f, c) in the order i, f, g, o."""
PEEPHOLES = (0, 2, 1)
"""Blocks of P (i, o, f) in the order i, f, o."""
DEFAULTS = ("sigmoid", "tanh", "tanh")
_X, _W, _R, _B, _LENGTHS, _H, _C, _P = range(8)


@dataclass
class Selection:
    """What was taken out of a graph.

    Attributes
    ----------
    layers : list of FloatLayer, input side first
    embedding : float32 [tokens, features] or None
    head : traces.Head or None
    reversed : bool
        Whether the network runs backwards in time: a forward network for sequences that are reversed.
    taken : list of str
        Operators that became part of the network.
    left_out : list of str
        All others.
    notes : list of str
        What the file leaves to whoever runs the network.
    """

    layers: list[FloatLayer]
    embedding: np.ndarray | None = None
    head: traces.Head | None = None
    reversed: bool = False
    taken: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class _Stack:
    """LSTM nodes of which each feeds the next, and the nodes that lead from one to another."""

    nodes: list[Any]
    between: list[Any]


def read(
    path: str | os.PathLike[str],
    node: str | None = None,
    head: str | None = None,
    embedding: str | None = None,
    *,
    zero_state: bool = False,
    reverse: bool = False,
) -> Selection:
    """Take a stack of LSTM operators out of an ONNX model; arguments and errors as for `from_onnx`."""
    graph = Graph(path)
    stack = _stack(graph, node)
    directions = [_direction(graph, n) for n in stack.nodes]
    if len(set(directions)) > 1:
        found = ", ".join(f"{label(n)!r} is {d}" for n, d in zip(stack.nodes, directions, strict=True))
        raise InputError(f"{path}: layers of different directions ({found}) are no network of the emulator")
    backwards = directions[0] == "reverse"
    if backwards and not reverse:
        raise InputError(
            f"{path}: {title(stack.nodes[0])} runs backwards alone (direction reverse); with reverse=True (--reverse) "
            "it becomes a forward network, whose sequences have to be given, and come back, reversed in time"
        )
    if reverse and not backwards:
        raise InputError(f"{path}: reverse was asked for, but {title(stack.nodes[0])} is {directions[0]}")
    result = Selection([_layer(graph, n) for n in stack.nodes], reversed=backwards)
    used = [*stack.nodes, *stack.between]
    for number, operator in enumerate(stack.nodes):
        _check_states(graph, operator, zero_state, result.notes)
        if number == 0 and backwards:
            result.notes.append("runs backwards: sequences are given, and come back, reversed in time")
    if embedding is not None:
        result.embedding, more = _embedding(graph, stack.nodes[0], embedding, result.layers[0])
        used += more
    if head is not None:
        result.head, more = _head(graph, stack.nodes[-1], head, result.layers[-1])
        used += more
    result.taken = [title(n) for n in graph.nodes if any(n is u for u in used)]
    result.left_out = _left_out(graph, used)
    return result


def _left_out(graph: Graph, used: Sequence[Any]) -> list[str]:
    """Operators that are not part of the network, but for those that only make its constants."""
    wanted = {id(n) for n in used}
    constants = set()
    for n in reversed(graph.nodes):
        takers = [c for name in n.output for c in graph.consumers(name)] if n.op_type != "LSTM" else []
        if takers and all(id(c) in wanted or id(c) in constants for c in takers) and all(
            graph.constant(name) is not None or graph.is_zero(name) for name in n.output if name
        ):
            constants.add(id(n))
    return [title(n) for n in graph.nodes if id(n) not in wanted and id(n) not in constants]


# Which operators


def _stack(graph: Graph, node: str | None) -> _Stack:
    found = graph.lstms()
    where = graph.path
    if not found:
        inner = [title(n) for n in graph.nodes if any(item.HasField("g") for item in n.attribute)]
        hint = f"; not looked into: {', '.join(inner)}" if inner else ""
        hint += f"; not looked into: functions {', '.join(graph.functions[:5])}" if graph.functions else ""
        raise InputError(f"{where}: has no operator LSTM at the top level of its graph{hint}")
    below = {id(n): _below(graph, n) for n in found}
    fed = {id(entry[0]) for entry in below.values() if entry is not None}
    ends = [n for n in found if id(n) not in fed]
    if node is not None:
        ends = [n for n in found if node in (n.name, label(n))]
    if len(ends) != 1:
        names = ", ".join(repr(label(n)) for n in found)
        if node is None:
            raise InputError(f"{where}: its LSTMs form no single stack: name the last of one with --node: {names}")
        what = "no LSTM" if not ends else f"{len(ends)} LSTMs"
        raise InputError(f"{where}: has {what} called {node!r}; there are {names}")
    nodes, between = [ends[0]], []
    while (entry := below[id(nodes[0])]) is not None:
        nodes.insert(0, entry[0])
        between += entry[1]
    return _Stack(nodes, between)


def _below(graph: Graph, node: Any) -> tuple[Any, list[Any]] | None:
    """The LSTM whose whole output, and nothing else, is a node's input, and the nodes between."""
    if not node.input or not node.input[_X]:
        return None
    lower, name, passed = graph.upwards(node.input[_X], lambda n: n.op_type == "LSTM" and n.domain in STANDARD)
    if lower is None or not lower.output or name != lower.output[0]:
        return None
    outputs = _outputs(graph, lower)
    for result in graph.moved(passed, outputs):
        time, batch = ("T", "B") if not _layout(graph, node) else ("B", "T")
        if _same(result, ((time,), (batch,), ("D", "H"))):
            return lower, passed
    return None


def _same(tensor: Axes, wanted: tuple[tuple[str, ...], ...]) -> bool:
    return tensor.without_ones() == Axes(wanted, tensor.sizes).without_ones() and len(tensor.axes) == len(wanted)


def _outputs(graph: Graph, node: Any) -> Axes:
    """The axes of Y: [T, D, B, H], or [B, T, D, H] with layout 1."""
    directions, rows, _ = _weights(graph, node, _R, "R", 3).shape
    sizes = {"D": directions, "H": rows // 4}
    layout = _layout(graph, node)
    for axis, size in zip("BT" if layout else "TB", graph.sizes(node.input[_X]), strict=False):
        if size is not None:
            sizes[axis] = size
    axes = "BTDH" if layout else "TDBH"
    return Axes(tuple((axis,) for axis in axes), sizes)


def _layout(graph: Graph, node: Any) -> int:
    layout = graph.attributes(node).get("layout", 0)
    if layout not in (0, 1):
        raise InputError(f"{graph.path}: {title(node)}: attribute layout is {layout!r}, expected 0 or 1")
    return int(layout)


def _direction(graph: Graph, node: Any) -> str:
    direction = graph.attributes(node).get("direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        raise InputError(f"{graph.path}: {title(node)}: attribute direction is {direction!r:.60}")
    return str(direction)


# Layers


def _weights(graph: Graph, node: Any, place: int, name: str, rank: int) -> np.ndarray:
    """A constant input of an LSTM as float32."""
    where = f"{graph.path}: {title(node)}: {name}"
    if len(node.input) <= place or not node.input[place]:
        raise InputError(f"{where} is missing")
    value = graph.constant(node.input[place])
    if value is None:
        maker = graph.producer(node.input[place])
        origin = "is an input of the graph" if maker is None else f"is computed by {title(maker)}"
        raise InputError(f"{where} {origin}; weights have to be constants of the file")
    if value.dtype.kind not in "fV" or value.ndim != rank:
        raise InputError(f"{where} is {value.dtype} {list(value.shape)}, expected floats of {rank} dimensions")
    with np.errstate(over="ignore"):
        return value.astype(np.float32)


def _blocks(values: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Blocks of rows [D, blocks * H, ...] in another order."""
    parts = np.split(values, len(order), axis=1)
    return np.ascontiguousarray(np.concatenate([parts[n] for n in order], axis=1))


def _layer(graph: Graph, node: Any) -> FloatLayer:
    """The layer of a node; attributes and shapes checked."""
    where = f"{graph.path}: {title(node)}"
    _check_attributes(graph, node)
    directions = 2 if _direction(graph, node) == "bidirectional" else 1
    wx, wh = _weights(graph, node, _W, "W", 3), _weights(graph, node, _R, "R", 3)
    hidden = wh.shape[2]
    declared = graph.attributes(node).get("hidden_size", hidden)
    for name, value, shape in (
        ("W", wx, (directions, 4 * hidden, wx.shape[2])), ("R", wh, (directions, 4 * hidden, hidden)),
    ):  # fmt: skip
        if value.shape != shape or declared != hidden or not hidden:
            raise InputError(
                f"{where}: {name} has shape {list(value.shape)}, expected {list(shape)} for hidden_size {declared}, "
                f"direction {_direction(graph, node)}"
            )
    bias = np.zeros((directions, 4 * hidden), np.float32)
    if len(node.input) > _B and node.input[_B]:
        both = _weights(graph, node, _B, "B", 2)
        if both.shape != (directions, 8 * hidden):
            raise InputError(f"{where}: B has shape {list(both.shape)}, expected {[directions, 8 * hidden]}")
        with np.errstate(over="ignore", invalid="ignore"):
            bias = both[:, : 4 * hidden] + both[:, 4 * hidden :]
    peephole = None
    if len(node.input) > _P and node.input[_P]:
        peephole = _weights(graph, node, _P, "P", 2)
        if peephole.shape != (directions, 3 * hidden):
            raise InputError(f"{where}: P has shape {list(peephole.shape)}, expected {[directions, 3 * hidden]}")
        peephole = _blocks(peephole, PEEPHOLES) if peephole.any() else None
    return FloatLayer(_blocks(wx, GATES), _blocks(wh, GATES), _blocks(bias, GATES), None, peephole)


def _check_attributes(graph: Graph, node: Any) -> None:
    """Raises InputError naming the attribute that the emulator cannot follow exactly."""
    where, values = f"{graph.path}: {title(node)}", graph.attributes(node)
    known = {"activations", "activation_alpha", "activation_beta", "clip", "direction", "hidden_size", "input_forget"}
    unknown = set(values) - known - {"layout"}
    if unknown:
        raise InputError(f"{where}: attribute {sorted(unknown)[0]!r:.60} is none of the operator's")
    count = 2 if _direction(graph, node) == "bidirectional" else 1
    activations = values.get("activations", [])
    if activations and [str(a).lower() for a in activations] != [*DEFAULTS] * count:
        raise InputError(
            f"{where}: attribute activations is {', '.join(map(str, activations))[:120]}; "
            "only Sigmoid, Tanh, Tanh can be emulated"
        )
    if values.get("clip"):
        raise InputError(f"{where}: attribute clip is {values['clip']:g}; clipped gates cannot be emulated")
    if values.get("input_forget", 0):
        raise InputError(f"{where}: attribute input_forget is set; coupled gates cannot be emulated")
    _layout(graph, node)


def _check_states(graph: Graph, node: Any, zero_state: bool, notes: list[str]) -> None:
    """Raises InputError where a node starts from anything but zeros; notes what runs of the network decide."""
    where = f"{graph.path}: {title(node)}"
    if len(node.input) > _LENGTHS and node.input[_LENGTHS]:
        notes.append(f"{title(node)}: sequence_lens is the length of each sequence given")
    for place, name in ((_H, "initial_h"), (_C, "initial_c")):
        given = node.input[place] if len(node.input) > place else ""
        if not given or graph.is_zero(given):
            continue
        if graph.constant(given) is not None:
            raise InputError(f"{where}: {name} is a constant other than zero; the emulator starts from zeros")
        if not zero_state:
            raise InputError(
                f"{where}: {name} is {given!r}, which the file does not fix; "
                "zero_state=True (--zero-state) starts from zeros"
            )
        notes.append(f"{title(node)}: {name} is taken as zeros")


# Embedding and head


def _named(graph: Graph, name: str, kinds: Sequence[str], what: str) -> Any:
    found = [n for n in graph.nodes if name in (n.name, label(n)) and n.op_type in kinds and n.domain in STANDARD]
    if len(found) != 1:
        possible = [repr(label(n)) for n in graph.nodes if n.op_type in kinds]
        hint = f"; there are {', '.join(possible[:20])}" if possible else ""
        raise InputError(f"{graph.path}: has no {' or '.join(kinds)} called {name!r} for the {what}{hint}")
    return found[0]


def _embedding(graph: Graph, first: Any, name: str, layer: FloatLayer) -> tuple[np.ndarray, list[Any]]:
    """The table of a Gather whose rows are the first layer's input."""
    gather = _named(graph, name, ("Gather",), "embedding")
    where = f"{graph.path}: {title(gather)}"
    table = graph.constant(gather.input[0])
    if table is None or table.ndim != 2 or table.dtype.kind not in "fV" or graph.attributes(gather).get("axis", 0) != 0:
        raise InputError(f"{where} is no embedding: a constant table [tokens, features], gathered along axis 0")
    found, _, passed = graph.upwards(first.input[_X], lambda n: n is gather)
    axes = Axes((("P",), ("Q",), ("E",)), {"E": int(table.shape[1])})
    straight = any(
        len(result.axes) == 3 and result.axes[2] == ("E",) and {result.axes[0], result.axes[1]} == {("P",), ("Q",)}
        for result in graph.moved(passed, axes)
    )
    if found is None or not straight:
        raise InputError(f"{where} is not, row by row, the input of {title(first)}")
    if table.shape[1] != layer.wx.shape[2]:
        raise InputError(f"{where} has rows of {table.shape[1]}, {title(first)} takes {layer.wx.shape[2]}")
    return table.astype(np.float32), [gather, *passed]


def _head(graph: Graph, last: Any, name: str, layer: FloatLayer) -> tuple[traces.Head, list[Any]]:
    """A linear head: MatMul, with an Add of a constant after it, or Gemm, on the last LSTM's output."""
    chosen = _named(graph, name, ("MatMul", "Gemm", "Add"), "head")
    add = chosen if chosen.op_type == "Add" else None
    product = chosen
    if add is not None:
        makers = [graph.producer(n) for n in add.input if graph.constant(n) is None]
        if len(makers) != 1 or makers[0] is None or makers[0].op_type not in ("MatMul", "Gemm"):
            raise InputError(f"{graph.path}: {title(add)} adds no constant to a MatMul or Gemm")
        product = makers[0]
    where = f"{graph.path}: {title(product)}"
    weight = graph.constant(product.input[1])
    if weight is None or weight.ndim != 2 or weight.dtype.kind not in "fV":
        raise InputError(f"{where} is no linear head: its second input has to be a constant matrix")
    weight = weight.astype(np.float32)
    bias: Any = np.zeros(1, np.float32)
    values = graph.attributes(product)
    if product.op_type == "Gemm":
        if values.get("transA", 0) or values.get("alpha", 1.0) != 1 or values.get("beta", 1.0) != 1:
            raise InputError(f"{where} is no plain linear head: transA, alpha or beta are set")
        weight = weight.T if values.get("transB", 0) else weight
        if len(product.input) > 2 and product.input[2]:
            bias = graph.constant(product.input[2])
    if add is None and product.op_type == "MatMul":
        takers = graph.consumers(product.output[0])
        if len(takers) == 1 and takers[0].op_type == "Add":
            add = takers[0]
    if add is not None:
        bias = next((value for n in add.input if (value := graph.constant(n)) is not None), None)
    if bias is None or bias.dtype.kind not in "fV" or bias.size not in (1, weight.shape[1]):
        raise InputError(f"{where}: the bias of the head is no constant of {weight.shape[1]} values")
    bias = np.broadcast_to(bias.astype(np.float32).reshape(-1), (weight.shape[1],))
    scope, passed = _scope(graph, last, product, layer)
    used = [product, *passed] + ([add] if add is not None else [])
    head = traces.Head(np.ascontiguousarray(weight.T), np.ascontiguousarray(bias), scope)
    outputs = layer.wh.shape[0] * layer.wh.shape[2]
    if weight.shape[0] != outputs:
        raise InputError(f"{where} takes {weight.shape[0]} values, {title(last)} gives {outputs}")
    return head, used


def _scope(graph: Graph, last: Any, product: Any, layer: FloatLayer) -> tuple[str, list[Any]]:
    """Whether a head reads each step or the last one; InputError where it reads anything else."""
    where = f"{graph.path}: {title(product)}"
    forward = layer.wh.shape[0] == 1
    outputs = _outputs(graph, last)

    def stops(node: Any) -> bool:
        return node is last or (node.op_type == "Gather" and _last_index(graph, node))

    found, name, passed = graph.upwards(product.input[0], stops)
    if found is None:
        pass
    elif found is last and name == last.output[0]:
        whole = Axes((("D", "H"),), outputs.sizes).without_ones()[0]
        for result in graph.moved(passed, outputs):
            if len(result.axes) >= 2 and result.without_ones()[-1] == whole:
                return "step", passed
    elif found is last and len(last.output) > 1 and name == last.output[1] and forward:
        start = Axes((("B",), ("D",), ("H",)) if _layout(graph, last) else (("D",), ("B",), ("H",)), outputs.sizes)
        for result in graph.moved(passed, start):
            if _same(result, (("B",), ("H",))):
                return "last", passed
    elif found is not last and forward:
        lower, tensor, before = graph.upwards(found.input[0], lambda n: n is last)
        axis = int(graph.attributes(found).get("axis", 0))
        for result in graph.moved(before, outputs) if lower is not None and tensor == last.output[0] else ():
            place = axis + len(result.axes) if axis < 0 else axis
            if not 0 <= place < len(result.axes) or result.axes[place] != ("T",):
                continue
            rest = Axes(result.axes[:place] + result.axes[place + 1 :], result.sizes)
            if any(_same(r, (("B",), ("H",))) for r in graph.moved(passed, rest)):
                return "last", [*before, found, *passed]
    raise InputError(
        f"{where} is no linear head on {title(last)}: it has to read all outputs of each step, or, of a forward LSTM, "
        "those of the last step"
    )


def _last_index(graph: Graph, gather: Any) -> bool:
    index = graph.constant(gather.input[1]) if len(gather.input) > 1 else None
    return index is not None and index.ndim == 0 and index.dtype.kind in "iu" and int(index) == -1


def from_onnx(
    path: str | os.PathLike[str],
    calibration: Any = None,
    head: str | None = None,
    high: int = 8,
    low: int = 4,
    profile: str = "float32",
    accumulator_bits: int = 24,
    *,
    node: str | None = None,
    embedding: str | None = None,
    zero_state: bool = False,
    reverse: bool = False,
    overflow: str = "wrap",
    granularity: str = "row",
    input_scale: Any = None,
    **description: Any,
) -> Network:
    """Quantise the LSTM operators of an ONNX model (docs/onnx.md).

    Parameters
    ----------
    path : path
        Model of opset 7 or newer, all weights constant; external data inside its folder.
    calibration : float32 [batch, time, features], or list of float32 [time, features]
        Real inputs, which set the range of x; with `embedding`: tokens, int [batch, time] or a list of int [time].
    head : str, optional
        Name of the MatMul, Gemm or Add that is a linear head on the last LSTM's output.
    high, low, profile, accumulator_bits, overflow, granularity, input_scale, description
        As for `from_torch`.
    node : str, optional
        Name of the last LSTM of the stack, where the graph has several stacks.
    embedding : str, optional
        Name of the Gather that turns tokens into the first LSTM's input.
    zero_state : bool
        Start from zeros where the initial state is an input of the graph.
    reverse : bool
        Accept an LSTM that runs backwards alone, as a forward network for sequences reversed in time.

    Returns
    -------
    Network; its `model.origin` names the operators taken and left out.

    Raises
    ------
    InputError
        A damaged file, weights that are not constant, an attribute that cannot be emulated exactly.
    """
    formats = Formats(high, low, profile, accumulator_bits, overflow, granularity)
    selection = read(path, node, head, embedding, zero_state=zero_state, reverse=reverse)
    return quantised(selection, path, calibration, formats, input_scale=input_scale, **description)


def quantised(
    selection: Selection, path: str | os.PathLike[str], calibration: Any, formats: Formats, **options: Any
) -> Network:
    """The network of a selection; options as for `fxp.export.from_layers`."""
    from fxp.export import from_layers

    parts = [f"exported from {os.path.basename(os.fspath(path))}: {', '.join(selection.taken)}", *selection.notes]
    if selection.left_out:
        parts.append(f"left out: {_some(selection.left_out)}")
    options.setdefault("origin", "; ".join(parts))
    return from_layers(
        selection.layers, calibration, selection.head, formats, embedding=selection.embedding, **options
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(names[:20]) + more
