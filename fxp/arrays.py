"""Weights as named NumPy arrays, by the names and gate orders of Keras, TensorFlow Lite and PyTorch (docs/onnx.md)."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

import traces
from fxp.export import float_layers, from_layers
from fxp.formats import Formats
from fxp.network import Network
from fxp.quantise import FloatLayer
from traces import InputError

_PLACE = re.compile(r"(?:(?P<layer>\d{1,4})/)?(?P<backward>backward/)?(?P<name>[a-z_]+)")
_LITE_GATES = ("input", "forget", "cell", "output")
_KERAS = ("kernel", "recurrent_kernel", "bias")
_LITE = (
    *(f"input_to_{gate}_weights" for gate in _LITE_GATES),
    *(f"recurrent_to_{gate}_weights" for gate in _LITE_GATES),
    *(f"{gate}_gate_bias" for gate in _LITE_GATES),
    *(f"cell_to_{gate}_weights" for gate in ("input", "forget", "output")),
    "projection_weights",
    "projection_bias",
)


def from_arrays(
    arrays: Mapping[str, Any],
    calibration: Any = None,
    formats: Formats | None = None,
    *,
    head_scope: str = "step",
    input_scale: Any = None,
    calibration_name: str = "calibration data",
    **description: Any,
) -> Network:
    """Quantise an LSTM whose weights are named arrays.

    Parameters
    ----------
    arrays : mapping of names to arrays of floats
        A name is `[<layer>/][backward/]<array>`; layers count from 0, and 0 may be left out. The arrays of a layer,
        with N inputs, H cell-state elements, R outputs, are those of Keras, gate order i, f, c, o along the last axis:

        - `kernel` [N, 4H], `recurrent_kernel` [H, 4H], `bias` [4H] (optional)

        or those of TensorFlow Lite, one a gate (`input`, `forget`, `cell`, `output`):

        - `input_to_<gate>_weights` [H, N], `recurrent_to_<gate>_weights` [H, R], `<gate>_gate_bias` [H]
        - `cell_to_<gate>_weights` [H], the peepholes of `input`, `forget`, `output` (all or none)
        - `projection_weights` [R, H] (optional), `projection_bias` (zeros)

        Names of `torch.nn.LSTM` (`weight_ih_l0`, ...) work too. Beside the layers: `embedding` [tokens, N],
        `head/kernel` [outputs, C] with `head/bias` [C] (optional).
    calibration : float32 [batch, time, features], or list of float32 [time, features]
        Real inputs, which set the range of x; tokens with an embedding.
    formats : Formats, optional
    head_scope : {"step", "last"}
    input_scale, description
        As for `from_torch`.

    Returns
    -------
    Network

    Raises
    ------
    InputError
        Unknown or missing names, shapes that do not fit, NaN or infinite values.
    """
    arrays = {str(name): _floats(name, value) for name, value in arrays.items()}
    table = arrays.pop("embedding", None)
    head = _head(arrays, head_scope)
    torch_names = any(name.startswith(("weight_", "bias_")) for name in arrays)
    layers = float_layers(arrays) if torch_names else _layers(arrays)
    return from_layers(
        layers, calibration, head, formats, embedding=table, input_scale=input_scale,
        calibration_name=calibration_name, **description,
    )  # fmt: skip


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file; nothing is unpickled.

    Raises
    ------
    InputError
        Missing or damaged, arrays of objects, or arrays larger than the file says it holds.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {item.filename: item.file_size for item in archive.infolist()}
            arrays = {}
            for name, size in sizes.items():
                with archive.open(name) as member:
                    arrays[name.removesuffix(".npy")] = _array(member, name, size)
            return arrays
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a readable file of NumPy arrays ({reason})") from None


def _array(member: Any, name: str, size: int) -> np.ndarray:
    """One array, its header held against the size of its data before anything is allocated."""
    version = np.lib.format.read_magic(member)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, kind = reader(member)
    count = 1
    for extent in shape:
        count *= int(extent)
    if kind.hasobject or kind.kind not in "fiu":
        raise InputError(f"{name[:80]} holds {kind}, expected numbers")
    if count * kind.itemsize > size:
        raise InputError(f"{name[:80]} declares the shape {list(shape)[:8]}, which is more than it holds")
    content = member.read(count * kind.itemsize)
    return np.frombuffer(content, kind).reshape(shape, order="F" if fortran else "C")


def _floats(name: Any, value: Any) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):
            array = np.asarray(value)
            if array.dtype.kind not in "fiu":
                raise TypeError
            return np.asarray(array, np.float32, order="C")
    except (TypeError, ValueError):
        raise InputError(f"{name!r:.80} is no array of numbers") from None


def _head(arrays: dict[str, np.ndarray], scope: str) -> traces.Head | None:
    if scope not in ("step", "last"):
        raise InputError(f"head scope is {scope!r}: expected step or last")
    kernel, bias = arrays.pop("head/kernel", None), arrays.pop("head/bias", None)
    if kernel is None:
        if bias is not None:
            raise InputError("head/bias is there, head/kernel is not")
        return None
    if kernel.ndim != 2:
        raise InputError(f"head/kernel has shape {list(kernel.shape)}, expected [outputs, classes]")
    bias = np.zeros(kernel.shape[1], np.float32) if bias is None else bias
    return traces.Head(np.ascontiguousarray(kernel.T), bias, scope)


def _layers(arrays: Mapping[str, np.ndarray]) -> list[FloatLayer]:
    found: dict[int, dict[int, dict[str, np.ndarray]]] = {}
    for name, value in arrays.items():
        match = _PLACE.fullmatch(name)
        if match is None or match["name"] not in (*_KERAS, *_LITE):
            raise InputError(
                f"{name!r:.80} is no known array; expected [<layer>/][backward/] and one of {', '.join(_KERAS)}, or a "
                "name of TensorFlow Lite such as input_to_input_weights"
            )
        sides = found.setdefault(int(match["layer"] or 0), {})
        part = sides.setdefault(int(match["backward"] is not None), {})
        if match["name"] in part:
            raise InputError(f"{name!r} is given twice")
        part[match["name"]] = value
    if sorted(found) != list(range(len(found))) or not found:
        raise InputError(f"layers {', '.join(map(str, sorted(found))) or '(none)'} are given; they count from 0")
    return [_layer(number, found[number]) for number in sorted(found)]


def _layer(number: int, sides: Mapping[int, Mapping[str, np.ndarray]]) -> FloatLayer:
    if 0 not in sides:
        raise InputError(f"layer {number} has backward arrays alone")
    parts = [_direction(f"layer {number}{', backward' if side else ''}", sides[side]) for side in sorted(sides)]
    shapes = [[None if a is None else a.shape for a in part] for part in parts]
    if any(shape != shapes[0] for shape in shapes):
        raise InputError(f"layer {number}: the two directions have different shapes or arrays")
    stacked = [None if column[0] is None else np.stack(column) for column in zip(*parts, strict=True)]
    wx, wh, bias, projection, peephole = stacked
    assert wx is not None and wh is not None and bias is not None
    return FloatLayer(wx, wh, bias, projection, peephole)


_Parts = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]


def _direction(where: str, part: Mapping[str, np.ndarray]) -> _Parts:
    """wx [4H, N], wh [4H, R], bias [4H], projection and peephole of one direction."""
    keras = [name for name in part if name in _KERAS]
    if keras and len(keras) != len(part):
        raise InputError(f"{where} mixes the names of Keras and TensorFlow Lite: {', '.join(sorted(part))[:200]}")
    return _keras(where, part) if keras else _lite(where, part)


def _need(where: str, part: Mapping[str, np.ndarray], name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    if name not in part:
        raise InputError(f"{where} lacks {name}")
    value = part[name]
    if value.ndim != len(shape) or any(e not in (None, f) for e, f in zip(shape, value.shape, strict=True)):
        wanted = ", ".join("any" if e is None else str(e) for e in shape)
        raise InputError(f"{where}: {name} has shape {list(value.shape)}, expected [{wanted}]")
    return value


def _keras(where: str, part: Mapping[str, np.ndarray]) -> _Parts:
    recurrent = _need(where, part, "recurrent_kernel", (None, None))
    hidden = recurrent.shape[0]
    _need(where, part, "recurrent_kernel", (hidden, 4 * hidden))
    kernel = _need(where, part, "kernel", (None, 4 * hidden))
    bias = _need(where, part, "bias", (4 * hidden,)) if "bias" in part else np.zeros(4 * hidden, np.float32)
    # Keras' i, f, c, o is i, f, g, o: only the axes differ.
    return np.ascontiguousarray(kernel.T), np.ascontiguousarray(recurrent.T), bias, None, None


def _lite(where: str, part: Mapping[str, np.ndarray]) -> _Parts:
    if "input_to_input_weights" not in part:
        raise InputError(f"{where} lacks input_to_input_weights (coupled input and forget gates cannot be emulated)")
    hidden, inputs = _need(where, part, "input_to_input_weights", (None, None)).shape
    projection = _need(where, part, "projection_weights", (None, hidden)) if "projection_weights" in part else None
    output = hidden if projection is None else len(projection)
    if np.any(part.get("projection_bias", 0)):
        raise InputError(f"{where}: projection_bias is not zero; a biased projection cannot be emulated")
    wx = [_need(where, part, f"input_to_{gate}_weights", (hidden, inputs)) for gate in _LITE_GATES]
    wh = [_need(where, part, f"recurrent_to_{gate}_weights", (hidden, output)) for gate in _LITE_GATES]
    bias = [_need(where, part, f"{gate}_gate_bias", (hidden,)) for gate in _LITE_GATES]
    peephole = None
    if any(name.startswith("cell_to_") for name in part):
        gates = ("input", "forget", "output")
        peephole = np.concatenate([_need(where, part, f"cell_to_{gate}_weights", (hidden,)) for gate in gates])
    return np.concatenate(wx), np.concatenate(wh), np.concatenate(bias), projection, peephole
