"""The model file: a quantised LSTM network with the float weights it came from."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from traces import schema, store
from traces.errors import InputError
from traces.fields import Group, Node, conform, present

SPEC = schema.SCHEMAS["model"]
_LAYER, _HEAD = SPEC.groups
_BOUND = np.float32(2.0**40)
_SCALARS = ("x_scale", "h_scale", "m_scale")


@dataclass(frozen=True, eq=False)
class Layer:
    """One LSTM layer; every array is stacked over the directions.

    D directions, N inputs, H cell-state elements, R outputs (H, or the size of the projection). Rows are in
    gate order i, f, g, o. `bias` is the sum of PyTorch's two biases. `wp_*` and `m_scale` belong to projected
    layers; `peephole` [D, 3H] is in gate order i, f, o.
    """

    input_size: int
    hidden_size: int
    output_size: int
    directions: int
    projected: bool
    wx_float: np.ndarray
    wh_float: np.ndarray
    bias: np.ndarray
    low_bias: np.ndarray
    wx_index: np.ndarray
    wh_index: np.ndarray
    wx_offset: np.ndarray
    wh_offset: np.ndarray
    wx_scale: np.ndarray
    wh_scale: np.ndarray
    x_scale: np.float32
    h_scale: np.float32
    input_scale: np.ndarray
    wp_float: np.ndarray | None = None
    wp_index: np.ndarray | None = None
    wp_scale: np.ndarray | None = None
    m_scale: np.float32 | None = None
    peephole: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Head:
    """The linear layer after the LSTM: weight float32 [C, D * R], bias float32 [C].

    `scope` says whether it applies to every time-step ("step") or to the last one of a sequence ("last").
    """

    weight: np.ndarray
    bias: np.ndarray
    scope: str = "step"
    kind: str = "linear"


@dataclass(frozen=True, eq=False)
class Model:
    """A quantised network.

    Parameters
    ----------
    name : str
    layers : list of Layer
    high, low : int
        Bits of the two precisions, 2 <= low <= high <= 8.
    profile : {"float32", "fixed"}
        Arithmetic of the multifunction unit.
    accumulator_bits : int
        8 to 32.
    overflow : {"wrap", "clamp"}
    granularity : {"row", "gate", "tensor"}
        Rows that share a weight step.
    embedding : float32 [V, N of layer 0], optional
        Turns tokens into the input of layer 0.
    head : Head, optional
    metric : str, optional
    calibration : dict
        Record of the calibration; JSON can express it.
    origin, licence : str
    """

    name: str
    layers: list[Layer]
    high: int = 8
    low: int = 4
    profile: str = "float32"
    accumulator_bits: int = 24
    overflow: str = "wrap"
    granularity: str = "row"
    embedding: np.ndarray | None = None
    head: Head | None = None
    metric: str | None = None
    calibration: dict[str, Any] = field(default_factory=dict)
    origin: str = ""
    licence: str = ""

    def validate(self) -> None:
        """Check types, shapes and values.

        Raises
        ------
        InputError
            Naming the array, what is wrong with it and, for a value, where it is.
        """
        conform(SPEC, self._node())
        if self.low > self.high:
            raise InputError(f"attribute low is {self.low}; it must not exceed high, which is {self.high}")
        for number, layer in enumerate(self.layers):
            self._validate_layer(layer, f"layers/{number}/", self.layers[number - 1] if number else None)
        first, last = self.layers[0], self.layers[-1]
        if self.embedding is not None:
            _finite(self.embedding, "embedding")
            _equal(
                self.embedding.shape[1],
                first.input_size,
                "embedding has rows of {}; input_size of layer 0 is {}",
            )
        if self.head is not None:
            _finite(self.head.weight, "head/weight")
            _finite(self.head.bias, "head/bias")
            outputs = last.directions * last.output_size
            _equal(
                self.head.weight.shape[1],
                outputs,
                "head/weight has {} columns; the last layer has {} outputs",
            )

    def _validate_layer(self, layer: Layer, where: str, below: Layer | None) -> None:
        for name, value in _arrays(layer):
            if np.asarray(value).dtype.kind == "f":
                _finite(value, where + name)
            if name in (*_SCALARS, "input_scale"):
                _refuse(~(np.asarray(value) > 0), value, where + name, "must be positive")
                if name in ("h_scale", "m_scale"):
                    _refuse(np.asarray(value) < 2.0**-40, value, where + name, "must be at least 2^-40")
            elif name.endswith("_scale"):
                _refuse(value < 0, value, where + name, "must not be negative")
        top, low_top, shift = 2 ** (self.high - 1) - 1, 2 ** (self.low - 1) - 1, self.high - self.low
        for part in ("wx", "wh", "wp"):
            index = getattr(layer, f"{part}_index")
            if index is None:
                continue
            _refuse((index < -top) | (index > top), index, f"{where}{part}_index", f"must be within ±{top}")
            if part != "wp":
                offset = getattr(layer, f"{part}_offset")
                place = f"{where}{part}_offset"
                _refuse(offset > 1, offset, place, "must be 0 or 1")
                saturated = (offset == 1) & (index >> shift == low_top)
                _refuse(saturated, offset, place, f"must be 0, since the shifted index is already {low_top}")
        projection = [name for name, _ in _arrays(layer) if name.startswith("wp_") or name == "m_scale"]
        if len(projection) != (4 if layer.projected else 0):
            raise InputError(
                f"{where}wp_float, wp_index, wp_scale, m_scale must be there if and only if it is projected"
            )
        if not layer.projected:
            _equal(
                layer.output_size,
                layer.hidden_size,
                f"{where}output_size is {{}} without a projection; hidden_size is {{}}",
            )
        if below is not None:
            _equal(
                layer.directions,
                below.directions,
                f"{where}directions is {{}}; that of the layer below is {{}}",
            )
            inputs = below.directions * below.output_size
            _equal(layer.input_size, inputs, f"{where}input_size is {{}}; the layer below has {{}} outputs")
            _equal(
                layer.x_scale, below.h_scale, f"{where}x_scale is {{}}; h_scale of the layer below is {{}}"
            )
            _refuse(
                layer.input_scale != 1, layer.input_scale, where + "input_scale", "must be 1 above layer 0"
            )

    def digest(self) -> str:
        """SHA-256 (hexadecimal) of arrays, sizes and arithmetic; not of names, licence or calibration."""
        digest = store.Digest("model")
        for name in ("high", "low", "profile", "accumulator_bits", "overflow", "granularity"):
            digest.text(name, getattr(self, name))
        for spec, owner in [(SPEC, self)] + [(_LAYER, layer) for layer in self.layers]:
            _digest(digest, spec, owner)
        if self.head is not None:
            digest.text("head", f"{self.head.kind} {self.head.scope}")
            _digest(digest, _HEAD, self.head)
        return digest.hex()

    def write(self, path: store.Pathlike) -> None:
        """Write the model file; InputError if the model is not valid or the path cannot be written."""
        self.validate()
        schema.write(path, "model", self._node())

    @classmethod
    def read(cls, path: store.Pathlike) -> "Model":
        """Read and validate a model file.

        Raises
        ------
        InputError
            The file cannot be read.
        FormatError
            It is not a valid model file.
        """
        with schema.opened(path, "model") as node:
            return cls._of(node)

    @classmethod
    def _of(cls, node: Node) -> "Model":
        layers = [Layer(**child.attributes, **_read(child)) for child in node.lists["layers"]]
        head = node.groups.get("head")
        model = cls(
            layers=layers,
            head=None if head is None else Head(**head.attributes, **_read(head)),
            **node.attributes,
            **_read(node),
        )
        model.validate()
        return model

    def _node(self) -> Node:
        node = _node(self, SPEC)
        if not isinstance(self.layers, (list, tuple)) or not all(
            isinstance(layer, Layer) for layer in self.layers
        ):
            raise InputError("layers must be a list of traces.Layer")
        node.lists["layers"] = [_node(layer, _LAYER) for layer in self.layers]
        if self.head is not None:
            node.groups["head"] = _node(self.head, _HEAD)
        return node


def _node(owner: Any, spec: Group) -> Node:
    attributes = {attribute.name: getattr(owner, attribute.name) for attribute in spec.attributes}
    arrays = {array.name: getattr(owner, array.name) for array in spec.arrays}
    for name in _SCALARS:
        if arrays.get(name) is not None:
            value = arrays[name]
            if np.shape(value) != () or np.asarray(value).dtype.kind not in "fiu":
                raise InputError(f"{name} must be a single float32")
            with np.errstate(over="ignore"):
                arrays[name] = np.asarray(value, dtype=np.float32)
            if float(arrays[name]) != float(value) and value == value:
                raise InputError(f"{name} is {value!r}, which float32 cannot hold exactly")
    return Node(attributes=present(attributes), arrays=present(arrays))


def _read(node: Node) -> dict[str, Any]:
    return {name: dataset[()] for name, dataset in node.arrays.items()}


def _arrays(layer: Layer) -> Iterator[tuple[str, Any]]:
    for item in fields(layer)[5:]:
        value = getattr(layer, item.name)
        if value is not None:
            yield item.name, value


def _digest(digest: store.Digest, spec: Group, owner: Any) -> None:
    for array in spec.arrays:
        value = getattr(owner, array.name)
        if value is not None:
            digest.array(array.name, array.dtypes[0], np.shape(value), [np.asarray(value)])


def _finite(values: Any, where: str) -> None:
    _refuse(~(np.abs(values) <= _BOUND), values, where, "must be finite and of magnitude at most 2^40")


def _refuse(bad: Any, values: Any, where: str, rule: str) -> None:
    """InputError naming the first value at which `bad` is true."""
    bad = np.asarray(bad)
    if bad.any():
        place = [int(axis) for axis in np.unravel_index(int(np.argmax(bad)), bad.shape)]
        raise InputError(f"{where}{place or ''} is {np.asarray(values)[tuple(place)]}; it {rule}")


def _equal(found: Any, expected: Any, text: str) -> None:
    if found != expected:
        raise InputError(text.format(found, expected) + "; they must be equal")
