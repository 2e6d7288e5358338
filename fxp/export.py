"""From float layers, PyTorch modules and checkpoints to networks. torch is imported here only, inside the functions."""

from __future__ import annotations

import os
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

import traces
from fxp import metrics
from fxp.formats import Formats
from fxp.network import Network
from fxp.quantise import FloatLayer, build, embed
from traces import InputError
from traces.data import Sequences
from traces.store import MEMORY

CHECKPOINT_RATIO = 8  # most bytes that a checkpoint may take as float32 for each that it has
_KEY = re.compile(r"(?P<kind>weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)(_l(?P<layer>\d+)(?P<backward>_reverse)?)?$")


def as_sequences(data: Any, what: str = "calibration") -> list[np.ndarray]:
    """A batch [batch, time, features], or a list of [time, features], as a list of float32 arrays."""
    if isinstance(data, Sequences):
        return list(data)
    data = _array(data, what) if hasattr(data, "detach") else data
    if isinstance(data, np.ndarray) and data.ndim != 3:
        raise InputError(
            f"{what} has {data.ndim} dimensions, expected [batch, time, features] or a list of [time, features]"
        )
    sequences = [_array(x, what) for x in _iterable(data, what)]
    for x in sequences:
        if x.ndim != 2:
            raise InputError(f"{what}: a sequence has {x.ndim} dimensions, expected [time, features]")
    return sequences


def _head(head: Any, outputs: int) -> traces.Head | None:
    if head is None:
        return None
    scope = "step"
    if isinstance(head, traces.Head):
        weight, bias, scope = head.weight, head.bias, head.scope
    elif isinstance(head, (tuple, list)) and len(head) == 2:
        weight, bias = head
    elif hasattr(head, "weight"):
        weight, bias = head.weight, head.bias
    else:
        raise InputError("head has to be a torch.nn.Linear, a pair (weight, bias) or a traces.Head")
    weight = _array(weight, "head weight")
    bias = np.zeros(weight.shape[:1], np.float32) if bias is None else _array(bias, "head bias")
    if weight.ndim != 2 or weight.shape[1] != outputs:
        raise InputError(f"head of shape {list(weight.shape)} does not fit {outputs} outputs of the last layer")
    if bias.shape != weight.shape[:1]:
        raise InputError(f"head bias has shape {list(bias.shape)}, expected {list(weight.shape[:1])}")
    return traces.Head(weight, bias, scope)


def _array(tensor: Any, what: str = "an array") -> np.ndarray:
    """A tensor or array as float32; magnitudes beyond it become infinite, which the quantiser refuses."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu().float().numpy()
    try:
        with np.errstate(over="ignore"):
            return np.asarray(tensor, np.float32, order="C")
    except (TypeError, ValueError):
        raise InputError(f"{what} holds something other than numbers, or rows of unequal length") from None


def _iterable(data: Any, what: str) -> Iterable[Any]:
    if isinstance(data, (str, bytes, Mapping)) or not isinstance(data, Iterable):
        raise InputError(f"{what} is {type(data).__name__}, expected an array or a list of arrays")
    return data


def torch_module() -> Any:
    """PyTorch; InputError where it is not installed."""
    try:
        import torch
    except ImportError:
        raise InputError("the export needs PyTorch: pip install 'fxp-lstm[torch]'") from None
    return torch


def float_layers(state: Mapping[str, Any]) -> list[FloatLayer]:
    """LSTM layers of a state dict, by the names of `torch.nn.LSTM` and `torch.nn.LSTMCell`.

    Raises
    ------
    InputError
        Names or shapes are not those of an LSTM.
    """
    found: dict[tuple[int, int], dict[str, np.ndarray]] = {}
    for key, tensor in state.items():
        match = _KEY.match(key)
        if match is None:
            raise InputError(
                f"{key!r} is no parameter of torch.nn.LSTM or LSTMCell; name the LSTM inside the model with --prefix"
            )
        place = int(match["layer"] or 0), int(match["backward"] is not None)
        found.setdefault(place, {})[match["kind"]] = _array(tensor, key)
    if not found:
        raise InputError("no LSTM parameters (weight_ih_l0, weight_hh_l0, ...) found")
    count = 1 + max(layer for layer, _ in found)
    layers = []
    for number in range(count):
        parts = [found[place] for place in ((number, 0), (number, 1)) if place in found]
        if (number, 0) not in found:
            raise InputError(f"layer {number} has no forward weights")
        layers.append(_stack([_direction(part, number) for part in parts], number))
    return layers


def _direction(part: Mapping[str, np.ndarray], number: int) -> dict[str, np.ndarray]:
    for kind in ("weight_ih", "weight_hh"):
        if kind not in part:
            raise InputError(f"layer {number} lacks {kind}_l{number}")
    wx, wh = part["weight_ih"], part["weight_hh"]
    if wx.ndim != 2 or wh.ndim != 2 or wx.shape[0] != wh.shape[0] or wx.shape[0] % 4:
        raise InputError(
            f"layer {number}: weights of shape {list(wx.shape)} and {list(wh.shape)} are not those of an LSTM"
        )
    hidden = wx.shape[0] // 4
    bias = np.zeros(4 * hidden, np.float32)
    for kind in ("bias_ih", "bias_hh"):
        if kind in part:
            if part[kind].shape != bias.shape:
                raise InputError(f"layer {number}: {kind} of shape {list(part[kind].shape)}, expected [{4 * hidden}]")
            with np.errstate(over="ignore", invalid="ignore"):
                bias = bias + part[kind]
    result = {"wx": wx, "wh": wh, "bias": bias}
    if "weight_hr" in part:
        result["projection"] = part["weight_hr"]
        if part["weight_hr"].shape != (wh.shape[1], hidden):
            raise InputError(
                f"layer {number}: weight_hr of shape {list(part['weight_hr'].shape)}, expected {[wh.shape[1], hidden]}"
            )
    elif wh.shape[1] != hidden:
        raise InputError(f"layer {number}: weight_hh of shape {list(wh.shape)} is not that of an LSTM")
    return result


def _stack(parts: Sequence[Mapping[str, np.ndarray]], number: int) -> FloatLayer:
    if any({k: v.shape for k, v in part.items()} != {k: v.shape for k, v in parts[0].items()} for part in parts):
        raise InputError(f"layer {number}: the two directions have different shapes")
    stacked = {key: np.stack([part[key] for part in parts]) for key in parts[0]}
    return FloatLayer(stacked["wx"], stacked["wh"], stacked["bias"], stacked.get("projection"))


def from_torch(
    module: Any,
    calibration: Any = None,
    head: Any = None,
    high: int = 8,
    low: int = 4,
    profile: str = "float32",
    accumulator_bits: int = 24,
    *,
    overflow: str = "wrap",
    granularity: str = "row",
    input_scale: Any = None,
    embedding: Any = None,
    **description: Any,
) -> Network:
    """Quantise a `torch.nn.LSTM` or `torch.nn.LSTMCell`.

    Parameters
    ----------
    module : torch.nn.LSTM or torch.nn.LSTMCell
        Any number of layers, one or two directions, with or without bias and projection.
    calibration : float32 [batch, time, features], or list of float32 [time, features]
        Real inputs, which set the range of x (and of projected outputs); batch first whatever the module's
        `batch_first`. With
        an embedding: tokens, int [batch, time] or a list of int [time].
    head : torch.nn.Linear, (weight, bias) or traces.Head, optional
        Readout, kept in float beside the network.
    high, low : int
        Bits of the two precisions, 2 <= low <= high <= 8.
    profile : {"float32", "fixed"}
        Arithmetic of the multifunction unit.
    accumulator_bits : int
        8 to 32.
    overflow : {"wrap", "clamp"}
    granularity : {"row", "gate", "tensor"}
        Which weights share one scale.
    input_scale : float32 [features], optional
        A scale for each input feature, folded into the input weights.
    embedding : torch.nn.Embedding or float32 [tokens, features], optional
        Kept in float; the inputs are then tokens.
    description : name, metric (a built-in one), origin, licence

    Returns
    -------
    Network

    Raises
    ------
    InputError
        NaN or infinite weights, shapes that do not fit, an unsupported module, an unknown metric.
    """
    torch = torch_module()
    if not isinstance(module, (torch.nn.LSTM, torch.nn.LSTMCell)):
        raise InputError(f"{type(module).__name__} is not a torch.nn.LSTM or torch.nn.LSTMCell")
    return from_state_dict(
        module.state_dict(), calibration, head, Formats(high, low, profile, accumulator_bits, overflow, granularity),
        input_scale=input_scale, embedding=embedding, **description,
    )  # fmt: skip


def from_state_dict(
    state: Mapping[str, Any],
    calibration: Any,
    head: Any = None,
    formats: Formats | None = None,
    *,
    input_scale: Any = None,
    embedding: Any = None,
    calibration_name: str = "calibration data",
    **description: Any,
) -> Network:
    """Quantise the LSTM of a state dict (tensors or arrays by the names of `torch.nn.LSTM`); see `from_torch`.

    `calibration_name` is what error messages call the calibration data.
    """
    return from_layers(
        float_layers(state), calibration, head, formats, input_scale=input_scale, embedding=embedding,
        calibration_name=calibration_name, **description,
    )  # fmt: skip


def from_layers(
    layers: Sequence[FloatLayer],
    calibration: Any,
    head: Any = None,
    formats: Formats | None = None,
    *,
    input_scale: Any = None,
    embedding: Any = None,
    calibration_name: str = "calibration data",
    **description: Any,
) -> Network:
    """Quantise float layers, wherever they come from; see `from_torch` for everything else."""
    if description.get("metric") is not None:
        metrics.named(description["metric"])
    table = None if embedding is None else _array(getattr(embedding, "weight", embedding), "embedding")
    if calibration is None:
        raise InputError("calibration data is needed: it sets the range of the inputs")
    if table is not None:
        features = layers[0].wx.shape[2]
        if table.ndim != 2 or table.shape[1] != features:
            raise InputError(f"embedding has shape {list(table.shape)}, expected [tokens, {features}]")
        if not np.isfinite(table).all():
            raise InputError("embedding contains NaN or infinite values")
        calibration = [embed(table, tokens, calibration_name) for tokens in _tokens(calibration, calibration_name)]
    else:
        calibration = as_sequences(calibration, calibration_name)
    outputs = layers[-1].wh.shape[0] * layers[-1].wh.shape[2]
    model = build(
        layers, calibration, formats or Formats(), embedding=table, head=_head(head, outputs),
        input_scale=None if input_scale is None else _array(input_scale, "input_scale"),
        calibration_name=calibration_name, **description,
    )  # fmt: skip
    return Network(model)


def _tokens(data: Any, what: str) -> list[np.ndarray]:
    if isinstance(data, Sequences):
        return list(data)
    return [np.asarray(x.cpu() if hasattr(x, "cpu") else x) for x in _iterable(data, what)]


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A state dict from a file that `torch.save` wrote, tensors only: nothing in it is executed.

    Raises
    ------
    InputError
        The file is missing, damaged, or holds anything but a flat dict of tensors.
    """
    torch = torch_module()
    try:
        _check_archive(path)
        with warnings.catch_warnings():
            # What torch remarks about a foreign pickle is said better by the error that follows.
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "weights_only" in str(error):  # what torch advises would run code of the file
            reason = "it holds other Python objects, which are not loaded"
        elif isinstance(error, OSError):
            reason = f"damaged or truncated ({error.strerror})"
        raise InputError(
            f"{path}: not a checkpoint of plain tensors (torch.save(model.state_dict(), path)): {reason}"
        ) from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise InputError(f"{path}: holds no flat state dict of tensors")
    _check_tensors(state, max(MEMORY, CHECKPOINT_RATIO * os.path.getsize(path)), path)
    return dict(state)


def _check_archive(path: str | os.PathLike[str]) -> None:
    """ValueError for an archive that would grow as it is unpacked; torch packs nothing."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("the archive is compressed, which torch.save does not do")


def _check_tensors(state: Mapping[str, Any], room: int, path: str | os.PathLike[str]) -> None:
    """Raises InputError for tensors that are more than an array of numbers, or larger than their file can be."""
    import torch

    for key, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise InputError(f"{path}: {str(key)[:60]!r} is no plain tensor: it is sparse, quantised or without values")
        room -= 4 * tensor.numel()
        if room < 0:
            raise InputError(f"{path}: {str(key)[:60]!r} is larger than the file can hold")


def select(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries below `prefix` (such as "encoder.lstm"), without it."""
    start = prefix if not prefix or prefix.endswith(".") else prefix + "."
    chosen = {key[len(start) :]: value for key, value in state.items() if key.startswith(start)}
    if not chosen:
        places = sorted(
            {key.rpartition("weight_ih_l0")[0].rstrip(".") or "(none)" for key in state if key.endswith("weight_ih_l0")}
        )
        hint = f"; LSTMs found at: {', '.join(places)}" if places else ""
        raise InputError(f"no parameters below the prefix {prefix!r}{hint}")
    return chosen


def entry(state: Mapping[str, Any], key: str, where: str) -> np.ndarray:
    """One tensor of a state dict as float32; InputError where it is missing."""
    if key not in state:
        raise InputError(f"{where}.{key} is missing; found {', '.join(sorted(state))}")
    return _array(state[key], f"{where}.{key}")


def readout(state: Mapping[str, Any], scope: str) -> traces.Head:
    """A linear head from the tensors weight and bias."""
    if scope not in ("step", "last"):
        raise InputError(f"head scope is {scope!r}: expected step or last")
    weight = entry(state, "weight", "head")
    if weight.ndim != 2:
        raise InputError(f"head weight has shape {list(weight.shape)}, expected [classes, outputs]")
    bias = entry(state, "bias", "head") if "bias" in state else np.zeros(len(weight), np.float32)
    return traces.Head(weight, bias, scope)
