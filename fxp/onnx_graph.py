"""ONNX graphs: reading a file with care, constants, and which axis of a tensor is which. onnx is imported here only."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from traces import InputError

OLDEST = 7
"""Oldest opset whose LSTM has today's inputs and attributes."""
LARGEST = 1 << 31
"""Bytes of the largest file, which is also protobuf's limit."""
_FOLDED = ("Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Concat", "Slice", "Cast", "Split")
"""Operators whose result is computed where all their inputs are constant: they only move values."""
_KINDS: dict[str, type] = {
    "direction": str, "hidden_size": int, "layout": int, "input_forget": int, "clip": float, "activations": list,
    "perm": list, "axes": list, "axis": int, "to": int, "allowzero": int, "transA": int, "transB": int,
    "alpha": float, "beta": float,
}  # fmt: skip
"""Python types of the attributes that are read; a damaged file may hold others."""
STANDARD = ("", "ai.onnx")
"""Domains of the standard operators."""


def onnx_module() -> Any:
    """The package onnx; InputError where it is not installed."""
    try:
        import onnx
    except ImportError:
        raise InputError("reading ONNX files needs onnx: pip install 'fxp-lstm[onnx]'") from None
    return onnx


def label(node: Any) -> str:
    """What a node is called: its name, or that of its first output."""
    return str(node.name or next((name for name in node.output if name), "(no name)"))


def title(node: Any) -> str:
    """Operator and name of a node."""
    return f"{node.op_type} {label(node)!r}"


@dataclass(frozen=True)
class Axes:
    """A tensor by its axes: each is made of atoms, in the order of memory; `sizes` has those that are known."""

    axes: tuple[tuple[str, ...], ...]
    sizes: dict[str, int] = field(default_factory=dict)

    def known(self, atoms: Sequence[str]) -> int | None:
        """Product of the sizes of some atoms, or None."""
        sizes = [self.sizes.get(atom) for atom in atoms]
        return None if None in sizes else math.prod(size for size in sizes if size is not None)

    def without_ones(self) -> tuple[tuple[str, ...], ...]:
        """The axes without atoms of size 1."""
        return tuple(tuple(a for a in axis if self.sizes.get(a) != 1) for axis in self.axes)


class Graph:
    """The top level of an ONNX model.

    Parameters
    ----------
    path : path
        The model file; external data are read only from inside its folder.

    Raises
    ------
    InputError
        Missing, damaged, too large, of an opset that is too old or unknown, or no graph in topological order.
    """

    def __init__(self, path: str | os.PathLike[str]):
        onnx = onnx_module()
        self.path = Path(path)
        self._onnx = onnx
        model = self._parse()
        self.opsets = list(model.opset_import)
        versions = [item.version for item in self.opsets if item.domain in STANDARD]
        newest = onnx.defs.onnx_opset_version()
        if not versions or min(versions) < OLDEST:
            found = f"opset {min(versions)}" if versions else "no opset of the standard operators"
            raise InputError(f"{path}: has {found}; {OLDEST} or newer is needed (onnx.version_converter converts)")
        if max(versions) > newest:
            raise InputError(f"{path}: has opset {max(versions)}; the installed onnx knows up to {newest}: update onnx")
        self.functions = [str(function.name) for function in model.functions]
        self.nodes: list[Any] = list(model.graph.node)
        self.inputs = [item.name for item in model.graph.input]
        self._shapes = {item.name: item.type.tensor_type for item in (*model.graph.input, *model.graph.value_info)}
        self._initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self._used = self.path.stat().st_size
        self._arrays: dict[str, np.ndarray | None] = {}
        self._producers: dict[str, int] = {}
        for number, node in enumerate(self.nodes):
            for name in node.input:
                if name and name not in self._producers and name not in self._initializers and name not in self.inputs:
                    raise InputError(f"{path}: {title(node)} takes {name!r}, which nothing before it gives")
            for name in node.output:
                if name and (name in self._producers or name in self._initializers or name in self.inputs):
                    raise InputError(f"{path}: {title(node)} gives {name!r}, which exists already")
                if name:
                    self._producers[name] = number

    def _parse(self) -> Any:
        path, onnx = self.path, self._onnx
        try:
            if path.stat().st_size > LARGEST:
                raise InputError(f"{path}: is larger than 2 GiB, which is no ONNX model file")
            content = path.read_bytes()
        except OSError as error:
            reason = "no such file" if isinstance(error, FileNotFoundError) else (error.strerror or str(error))
            raise InputError(f"{path}: {reason}") from None
        model = onnx.ModelProto()
        try:
            model.ParseFromString(content)
        except Exception:
            raise InputError(f"{path}: is no ONNX model, or a damaged one") from None
        if not model.HasField("graph") or not len(model.graph.node):
            raise InputError(f"{path}: is no ONNX model: it has no graph with operators")
        return model

    def producer(self, name: str) -> Any | None:
        """The node that gives a tensor, or None."""
        number = self._producers.get(name)
        return None if number is None else self.nodes[number]

    def sizes(self, name: str) -> list[int | None]:
        """Sizes that the file declares for the axes of a tensor, None for those that it leaves open; [] if unknown."""
        declared = self._shapes.get(name)
        if declared is None or not declared.HasField("shape"):
            return []
        return [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in declared.shape.dim]

    def consumers(self, name: str) -> list[Any]:
        """The nodes that take a tensor."""
        return [node for node in self.nodes if name in node.input]

    def lstms(self) -> list[Any]:
        """The nodes of the standard operator LSTM, in the order of the file."""
        return [node for node in self.nodes if node.op_type == "LSTM" and node.domain in STANDARD]

    def attributes(self, node: Any) -> dict[str, Any]:
        """Values of a node's attributes, text as str; graphs and tensors are left out."""
        values: dict[str, Any] = {}
        for item in node.attribute:
            # protobuf gives bytes where a damaged file holds no UTF-8.
            name = item.name if isinstance(item.name, str) else repr(item.name)
            if item.type in (item.GRAPH, item.GRAPHS, item.TENSOR, item.SPARSE_TENSOR):
                continue
            try:
                value = self._onnx.helper.get_attribute_value(item)
            except ValueError:
                raise InputError(f"{self.path}: {title(node)}: attribute {name[:60]!r} has no type") from None
            if isinstance(value, bytes):
                value = value.decode("utf-8", "replace")
            elif item.type in (item.STRINGS,):
                value = [v.decode("utf-8", "replace") for v in value]
            kind = _KINDS.get(name)
            if kind is not None and not isinstance(value, kind):
                raise InputError(f"{self.path}: {title(node)}: attribute {name} is {type(value).__name__}")
            values[name] = value
        return values

    def constant(self, name: str) -> np.ndarray | None:
        """The value of a tensor, or None where it is not constant.

        Raises
        ------
        InputError
            It is constant, but damaged, too large or outside the model's folder.
        """
        pending = [name]
        while pending:
            current = pending[-1]
            if current in self._arrays:
                pending.pop()
                continue
            node = self.producer(current)
            folded = node is not None and node.op_type in _FOLDED and node.domain in STANDARD
            if folded:
                missing = [n for n in node.input if n and n not in self._arrays]  # type: ignore[union-attr]
                # Nodes are in topological order, so this ends; a stack, since chains may be long.
                if missing:
                    pending += missing
                    continue
            self._evaluate(current, node, folded)
            pending.pop()
        return self._arrays[name]

    def _evaluate(self, name: str, node: Any | None, folded: bool) -> None:
        if name in self._initializers:
            self._arrays[name] = self._tensor(self._initializers[name], f"tensor {name!r}")
        elif folded and node is not None and all(self._arrays[n] is not None for n in node.input if n):
            self._fold(node)
        elif node is not None and node.op_type == "Constant" and node.domain in STANDARD:
            self._arrays[name] = self._constant_node(node)
        self._arrays.setdefault(name, None)

    def _constant_node(self, node: Any) -> np.ndarray | None:
        for item in node.attribute:
            if item.name == "value" and item.type == item.TENSOR:
                return self._tensor(item.t, title(node))
        values = self.attributes(node)
        for key, kind in {"value_float": "<f4", "value_floats": "<f4", "value_int": "<i8", "value_ints": "<i8"}.items():
            if key in values:
                return np.array(values[key], kind)
        return None

    def _fold(self, node: Any) -> None:
        values = {n: self._arrays[n] for n in node.input if n}
        # Concat may take a tensor many times; everything else gives about as much as it takes.
        size = sum(value.nbytes for n in node.input if n and (value := self._arrays[n]) is not None)
        if size > max(16 * self._used, 1 << 26):
            raise InputError(f"{self.path}: {title(node)} gives more values than the file holds")
        helper = self._onnx.helper
        # Reshape and Cast take what they do from constants, so a single node is a model of its own.
        graph = helper.make_graph(
            [node],
            "fold",
            [helper.make_empty_tensor_value_info(n) for n in values],
            [helper.make_empty_tensor_value_info(n) for n in node.output if n],
        )
        model = helper.make_model(graph, opset_imports=self.opsets)
        from onnx.reference import ReferenceEvaluator

        try:
            results = ReferenceEvaluator(model).run(None, values)
        except Exception as error:
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise InputError(f"{self.path}: {title(node)} cannot be computed: {reason}") from None
        for name, value in zip([n for n in node.output if n], results, strict=True):
            self._arrays[name] = np.asarray(value)

    def _tensor(self, tensor: Any, what: str) -> np.ndarray:
        what = f"{self.path}: {what}"
        kinds = self._onnx.TensorProto
        if any(extent < 0 for extent in tensor.dims) or math.prod(tensor.dims) > LARGEST:
            raise InputError(f"{what} has the shape {list(tensor.dims)[:8]}")
        if tensor.data_location == kinds.EXTERNAL:
            tensor = self._external(tensor, what)
        try:
            return np.asarray(self._onnx.numpy_helper.to_array(tensor))
        except Exception as error:
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise InputError(f"{what} is damaged: {reason}") from None

    def _external(self, tensor: Any, what: str) -> Any:
        """A copy of a tensor with its external data inside; InputError unless a file in the folder holds them."""
        entries = {item.key: item.value for item in tensor.external_data}
        folder = self.path.resolve().parent
        location = entries.get("location", "")
        try:
            place = (folder / location).resolve()
            inside = bool(location) and not os.path.isabs(location) and place.is_relative_to(folder)
            start = int(entries.get("offset", 0))
            kind = self._onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            needed = math.prod(tensor.dims) * np.dtype(kind).itemsize
            length = int(entries.get("length", needed))
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{what} names external data that make no sense") from None
        if not inside:
            raise InputError(f"{what} names external data {location[:200]!r} outside the folder of the model")
        if not place.is_file():
            raise InputError(f"{what}: its external data {location[:200]!r} are missing")
        if start < 0 or length != needed or start + length > place.stat().st_size:
            raise InputError(f"{what} needs {needed} bytes of {location[:200]!r} from {start}, which has not so many")
        with open(place, "rb") as file:
            file.seek(start)
            content = file.read(length)
        self._used += length
        inline = self._onnx.TensorProto()
        inline.data_type, inline.raw_data = tensor.data_type, content
        inline.dims.extend(tensor.dims)
        return inline

    def is_zero(self, name: str) -> bool:
        """Whether a tensor is zero whatever its shape, which may be computed."""
        seen: set[str] = set()
        pending = [name]
        while pending:
            current = pending.pop()
            if current in seen:
                continue
            seen.add(current)
            value, node = self.constant(current), self.producer(current)
            if value is not None:
                if value.dtype.kind not in "fiub" or value.any():
                    return False
            elif node is None or node.domain not in STANDARD:
                return False
            elif node.op_type == "ConstantOfShape":
                tensors = [item.t for item in node.attribute if item.name == "value"]
                if any(self._tensor(tensor, title(node)).any() for tensor in tensors):
                    return False
            elif node.op_type == "Concat":
                pending += list(node.input)
            elif node.op_type in (*_FOLDED, "Expand", "Tile", "Gather"):
                # What they do to values that are all zero does not depend on their other inputs.
                pending.append(node.input[0])
            else:
                return False
        return True

    def upwards(self, name: str, stop: Callable[[Any], bool]) -> tuple[Any | None, str, list[Any]]:
        """Follow a tensor up through operators that only move values.

        Returns
        -------
        The first node for which `stop` holds, or None; the tensor that was reached; the nodes between, lowest first.
        """
        passed: list[Any] = []
        while True:
            node = self.producer(name)
            if node is None or (not stop(node) and not self.moves(node)):
                return None, name, passed[::-1]
            if stop(node):
                return node, name, passed[::-1]
            passed.append(node)
            name = node.input[0]

    def moves(self, node: Any) -> bool:
        """Whether a node only moves values of its first input (and casts them between float types)."""
        if node.domain not in STANDARD or not node.input or not node.input[0]:
            return False
        if node.op_type == "Dropout":
            training = self.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(())
            return training is not None and not training.any()
        if node.op_type == "Cast":
            kinds = self._onnx.TensorProto
            return self.attributes(node).get("to") in (kinds.FLOAT, kinds.FLOAT16, kinds.DOUBLE, kinds.BFLOAT16)
        return node.op_type in ("Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten")

    def moved(self, nodes: Sequence[Any], axes: Axes) -> Iterator[Axes]:
        """All ways in which nodes that only move values can arrange a tensor, given what is known of its sizes."""
        if not nodes:
            yield axes
            return
        for result in self._step(nodes[0], axes):
            yield from self.moved(nodes[1:], result)

    def _step(self, node: Any, tensor: Axes) -> list[Axes]:
        axes, rank = tensor.axes, len(tensor.axes)
        if node.op_type in ("Identity", "Dropout", "Cast"):
            return [tensor]
        values = self.attributes(node)
        if node.op_type == "Transpose":
            order = values.get("perm", list(range(rank))[::-1])
            return [Axes(tuple(axes[n] for n in order), tensor.sizes)] if sorted(order) == list(range(rank)) else []
        if node.op_type == "Flatten":
            axis = int(values.get("axis", 1))
            axis += rank if axis < 0 else 0
            parts = (axes[:axis], axes[axis:])
            return [Axes(tuple(tuple(a for part in side for a in part) for side in parts), tensor.sizes)]
        given = self.constant(node.input[1]) if len(node.input) > 1 and node.input[1] else None
        if node.op_type == "Reshape":
            if given is None or given.dtype.kind not in "iu" or given.ndim != 1 or len(given) > 8:
                return []
            return _reshaped(tensor, [int(n) for n in given], bool(values.get("allowzero", 0)))
        places = values.get("axes") if given is None else [int(n) for n in given.reshape(-1)]
        if node.op_type == "Squeeze":
            if places is None:
                return []
            places = {n + rank if n < 0 else n for n in places}
            if not all(0 <= n < rank and tensor.known(axes[n]) == 1 for n in places):
                return []
            return [Axes(tuple(axis for n, axis in enumerate(axes) if n not in places), tensor.sizes)]
        if places is None or len(places) > 8:
            return []
        whole = rank + len(places)
        places = {n + whole if n < 0 else n for n in places}
        if len(places) != whole - rank or not all(0 <= n < whole for n in places):
            return []
        rest = iter(axes)
        return [Axes(tuple(() if n in places else next(rest) for n in range(whole)), tensor.sizes)]


def _reshaped(tensor: Axes, shape: list[int], zeros: bool) -> list[Axes]:
    """Arrangements of the atoms, whose order a reshape keeps, that a target shape allows."""
    atoms = [atom for axis in tensor.axes for atom in axis]
    if len(atoms) > 8 or (zeros and 0 in shape):
        return []
    found: list[Axes] = []

    def fits(entry: int, position: int, group: tuple[str, ...], sizes: dict[str, int]) -> dict[str, int] | None:
        """The sizes known if a group makes an axis of the target shape; None if it cannot."""
        if entry == -1:
            return sizes
        if entry == 0:
            return sizes if position < len(tensor.axes) and group == tensor.axes[position] else None
        unknown = [atom for atom in group if atom not in sizes]
        rest = math.prod(sizes[atom] for atom in group if atom in sizes)
        if not unknown:
            return sizes if rest == entry else None
        # A size that is not known is what the shape says.
        if len(unknown) > 1 or not rest or entry % rest:
            return None
        return {**sizes, unknown[0]: entry // rest}

    def place(position: int, start: int, done: tuple[tuple[str, ...], ...], sizes: dict[str, int]) -> None:
        if position == len(shape):
            if start == len(atoms):
                found.append(Axes(done, sizes))
            return
        for stop in range(start, len(atoms) + 1):
            group = tuple(atoms[start:stop])
            more = fits(shape[position], position, group, sizes)
            if more is not None:
                place(position + 1, stop, (*done, group), more)

    place(0, 0, (), tensor.sizes)
    return found[:64]
