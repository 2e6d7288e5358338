"""Symmetric linear quantisation: from float weights to indices that serve both precisions (`docs/numerics.md`, 2.1)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import traces
from fxp import floating
from fxp.formats import Formats, Granularity
from traces import InputError

RANGE_BITS = 12  # of a range that a float run measured
LIMIT = 2.0**40  # magnitudes beyond it could overflow binary32 in the multifunction unit


@dataclass(frozen=True)
class FloatLayer:
    """One layer in float, arrays float32, directions D first.

    wx [D, 4H, N], wh [D, 4H, R], bias [D, 4H] (both biases summed), projection [D, R, H] or None, peephole
    [D, 3H] (gates i, f, o) or None.
    """

    wx: np.ndarray
    wh: np.ndarray
    bias: np.ndarray
    projection: np.ndarray | None = None
    peephole: np.ndarray | None = None


def step(alpha: float | np.ndarray, bits: int) -> np.ndarray:
    """Step q of a range alpha at `bits` bits (binary32)."""
    return np.asarray(np.asarray(alpha, np.float32) * np.float32(2.0 ** -(bits - 1)), np.float32)


def _ranges(values: np.ndarray, granularity: str, gates: int) -> np.ndarray:
    """Largest magnitude of each row's group: float32 [rows]."""
    rows = np.abs(values).max(axis=1, initial=0)
    if granularity == Granularity.TENSOR or (granularity == Granularity.GATE and gates == 1):
        return np.full_like(rows, rows.max())
    if granularity == Granularity.GATE:
        return np.repeat(rows.reshape(gates, -1).max(axis=1), rows.size // gates)
    return rows


def weights(values: np.ndarray, formats: Formats, gates: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quantise a weight matrix.

    Parameters
    ----------
    values : float32 [rows, inputs]
    formats : Formats
    gates : int
        Gates among the rows (1 for a projection).

    Returns
    -------
    index : int8 [rows, inputs], within +-formats.top
    offset : uint8 [rows, inputs], the bit to add to index >> shift for the low index
    scale : float32 [rows], the step of each row
    """
    scale = step(_ranges(values, formats.granularity, gates), formats.high)
    divisor = np.where(scale > 0, scale, 1).astype(np.float64)[:, None]
    quotient = np.where(scale[:, None] > 0, values.astype(np.float64) / divisor, 0.0)
    index = np.clip(np.rint(quotient), -formats.top, formats.top).astype(np.int32)
    target = np.clip(np.rint(quotient / 2.0**formats.shift), -formats.low_top - 1, formats.low_top).astype(np.int32)
    shifted = index >> formats.shift
    offset = np.where(shifted < formats.low_top, np.clip(target - shifted, 0, 1), 0)
    return index.astype(np.int8), offset.astype(np.uint8), scale


def low_indices(index: np.ndarray, offset: np.ndarray, formats: Formats) -> np.ndarray:
    """Low indices of stored weights (int8)."""
    return ((index.astype(np.int32) >> formats.shift) + offset).astype(np.int8)


def low_activations(index: np.ndarray, formats: Formats) -> np.ndarray:
    """Low indices of x or h (int8), ties upward (`docs/numerics.md`, 3.2)."""
    half = (1 << formats.shift) >> 1
    return np.minimum((index.astype(np.int32) + half) >> formats.shift, formats.low_top).astype(np.int8)


def _checked(name: str, values: Any, shape: tuple[int, ...]) -> np.ndarray:
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(values, np.float32)
    if array.shape != shape:
        raise InputError(f"{name} has shape {list(array.shape)}, expected {list(shape)}")
    if not np.isfinite(array).all():
        raise InputError(f"{name} contains NaN or infinite values")
    if np.abs(array).max(initial=0) > LIMIT:
        raise InputError(f"{name} has magnitudes above 2^40")
    return array


def _check_layers(layers: Sequence[FloatLayer]) -> list[FloatLayer]:
    if not layers:
        raise InputError("the network has no LSTM layer")
    checked, inputs = [], None
    for number, layer in enumerate(layers):
        if layer.wx.ndim != 3 or layer.wh.ndim != 3 or layer.wx.shape[1] % 4:
            raise InputError(
                f"layer {number}: weights of shape {list(layer.wx.shape)} and {list(layer.wh.shape)}, expected "
                f"[directions, 4 * hidden, inputs] and [directions, 4 * hidden, outputs]"
            )
        directions, rows, size = layer.wx.shape
        hidden, output = rows // 4, layer.wh.shape[2]
        if inputs is not None and size != inputs:
            raise InputError(f"layer {number} takes {size} inputs, layer {number - 1} gives {inputs}")
        name = f"layer {number}"
        checked.append(
            FloatLayer(
                _checked(f"{name}: input weights", layer.wx, (directions, 4 * hidden, size)),
                _checked(f"{name}: hidden weights", layer.wh, (directions, 4 * hidden, output)),
                _checked(f"{name}: bias", layer.bias, (directions, 4 * hidden)),
                None
                if layer.projection is None
                else _checked(f"{name}: projection", layer.projection, (directions, output, hidden)),
                None
                if layer.peephole is None
                else _checked(f"{name}: peephole weights", layer.peephole, (directions, 3 * hidden)),
            )
        )
        inputs = directions * output
    return checked


def _range_of(values: Sequence[np.ndarray], what: str) -> float:
    largest = max(float(np.abs(v).max(initial=0)) for v in values)
    if largest > LIMIT:
        raise InputError(f"{what} has magnitudes above 2^40")
    return largest or 1.0


def build(
    layers: Sequence[FloatLayer],
    calibration: Sequence[np.ndarray],
    formats: Formats,
    *,
    embedding: np.ndarray | None = None,
    head: traces.Head | None = None,
    input_scale: np.ndarray | None = None,
    calibration_name: str = "calibration data",
    **description: Any,
) -> traces.Model:
    """Quantise a float network.

    Parameters
    ----------
    layers : sequence of FloatLayer
    calibration : list of float32 [time, features]
        Inputs that set the range of x, and of projected outputs.
    formats : Formats
    embedding, head : kept in float beside the quantised network
    input_scale : float32 [features], optional
        Scale of each feature of layer 0, folded into the columns of its input weights.
    calibration_name : what error messages call the calibration data
    description : name, metric, origin, licence

    Returns
    -------
    traces.Model

    Raises
    ------
    InputError
        NaN, infinite or huge values, shapes that do not fit, no calibration data.
    """
    layers = _check_layers(layers)
    features = layers[0].wx.shape[2]
    calibration = list(calibration)
    for x in calibration:
        if np.ndim(x) == 2 and np.shape(x)[1] != features:
            raise InputError(f"{calibration_name}: {np.shape(x)[1]} features, but the network takes {features}")
    calibration = [_checked(calibration_name, x, (len(x), features)) for x in calibration]
    if not calibration or not all(len(x) for x in calibration):
        raise InputError(f"{calibration_name} is empty: give some sequences of real input")
    gain = np.ones(features, np.float32) if input_scale is None else _checked("input_scale", input_scale, (features,))
    if not (gain > 0).all():
        raise InputError("input_scale has values that are not positive")

    ranges = _output_ranges(layers, calibration)
    with np.errstate(over="ignore"):
        scaled = [x / gain for x in calibration]
    x_scale = step(_range_of(scaled, calibration_name), formats.high)
    built = []
    for number, (layer, output_range) in enumerate(zip(layers, ranges, strict=True)):
        quantised = _layer(layer, gain if number == 0 else np.ones(layer.wx.shape[2], np.float32), formats)
        h_scale = step(output_range, formats.high)
        built.append(replace(quantised, x_scale=np.float32(x_scale), h_scale=np.float32(h_scale)))
        x_scale = h_scale
    record = {
        "sequences": len(calibration),
        "steps": int(sum(len(x) for x in calibration)),
        "offsets": "nearest",
    }
    description.setdefault("name", "lstm")
    return traces.Model(
        high=formats.high,
        low=formats.low,
        profile=formats.profile,
        accumulator_bits=formats.accumulator_bits,
        overflow=formats.overflow,
        granularity=formats.granularity,
        layers=built,
        embedding=embedding,
        head=head,
        calibration=record,
        **description,
    )


def float_layers(model: traces.Model) -> list[FloatLayer]:
    """The float layers that a model was quantised from."""
    return [FloatLayer(n.wx_float, n.wh_float, n.bias, n.wp_float, n.peephole) for n in model.layers]


def requantise(
    model: traces.Model,
    calibration: Iterable[np.ndarray],
    formats: Formats,
    calibration_name: str = "calibration data",
) -> traces.Model:
    """Quantise a model's float weights again.

    Parameters
    ----------
    model : traces.Model
    calibration : sequences float32 [time, features], or int [time] for a model with an embedding
    formats : Formats
    calibration_name : what error messages call the calibration data

    Returns
    -------
    traces.Model; embedding, head, name, metric, origin and licence are kept.
    """
    sequences = [np.asarray(x) for x in calibration]
    if model.embedding is not None:
        sequences = [embed(model.embedding, x, calibration_name) for x in sequences]
    return build(
        float_layers(model), sequences, formats, embedding=model.embedding, head=model.head,
        input_scale=model.layers[0].input_scale, calibration_name=calibration_name,
        name=model.name, metric=model.metric, origin=model.origin, licence=model.licence,
    )  # fmt: skip


def embed(table: np.ndarray, tokens: np.ndarray, what: str = "inputs") -> np.ndarray:
    """Rows of an embedding: float32 [time, features]. Raises InputError for anything but tokens within it."""
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise InputError(
            f"{what}: the network has an embedding, so int tokens are expected: [batch, time] or a list of [time]"
        )
    if tokens.size and not (int(tokens.min()) >= 0 and int(tokens.max()) < len(table)):
        raise InputError(f"{what}: tokens lie outside 0 to {len(table) - 1}, the rows of the embedding")
    return table[tokens]


def _output_ranges(layers: Sequence[FloatLayer], calibration: Sequence[np.ndarray]) -> list[float]:
    """Range of each layer's output: 1, or measured where a projection makes it unbounded.

    The last bits of a float run depend on the machine's BLAS and on the order of the sequences: those that are measured
    are rounded up to `RANGE_BITS` significant bits.
    """
    if all(layer.projection is None for layer in layers):
        return [1.0] * len(layers)
    outputs = floating.layer_outputs(layers, calibration)
    return [
        1.0 if layer.projection is None else rounded_up(_range_of(values, "the projected output"))
        for layer, values in zip(layers, outputs, strict=True)
    ]


def rounded_up(value: float) -> float:
    """The least number of `RANGE_BITS` significant bits that is not below a positive one."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(math.ceil(math.ldexp(mantissa, RANGE_BITS)), exponent - RANGE_BITS)


def _layer(layer: FloatLayer, gain: np.ndarray, formats: Formats) -> traces.Layer:
    directions, rows, size = layer.wx.shape
    with np.errstate(over="ignore"):
        scaled = (layer.wx * gain).astype(np.float32)
    if not (np.abs(scaled).max(initial=0) <= LIMIT):
        raise InputError("input_scale makes input weights exceed 2^40")
    x_index, x_offset, wx_scale = _stacked([weights(w, formats) for w in scaled])
    h_index, h_offset, wh_scale = _stacked([weights(w, formats) for w in layer.wh])
    projection: dict[str, Any] = {}
    if layer.projection is not None:
        index, _, scale = _stacked([weights(w, formats, gates=1) for w in layer.projection])
        projection = {
            "wp_float": layer.projection,
            "wp_index": index,
            "wp_scale": scale,
            "m_scale": np.float32(step(1.0, formats.high)),
        }
    return traces.Layer(
        input_size=size,
        hidden_size=rows // 4,
        output_size=layer.wh.shape[2],
        directions=directions,
        projected=layer.projection is not None,
        wx_float=layer.wx,
        wh_float=layer.wh,
        bias=layer.bias,
        low_bias=np.zeros_like(layer.bias),
        wx_index=x_index,
        wx_offset=x_offset,
        wx_scale=wx_scale,
        wh_index=h_index,
        wh_offset=h_offset,
        wh_scale=wh_scale,
        x_scale=np.float32(step(1.0, formats.high)),
        h_scale=np.float32(step(1.0, formats.high)),
        input_scale=gain,
        peephole=layer.peephole,
        **projection,
    )


def _stacked(parts: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    return tuple(np.stack(arrays) for arrays in zip(*parts, strict=True))
