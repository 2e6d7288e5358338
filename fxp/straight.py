"""Gradients through the emulator: its values are those of the emulation, every rounding passes gradients unchanged.

`Trainee` holds the float parameters of a network and quantises them; `emulated` is the network as a function of torch
whose forward pass is `fxp.emulate` on the network as it stands, and whose backward pass is back-propagation through
time at the values that the emulator computed with. torch is imported inside functions only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import traces
from fxp import quantise
from fxp.emulator import emulate
from fxp.engines import CompiledEngine
from fxp.formats import Formats, Profile
from fxp.network import Network
from fxp.run import Run
from fxp.sensitivity import Batch

RECORD = ("plan", "cell", "hidden", "accumulators")
PARTS = ("wx", "wh", "bias", "low_bias", "wp", "wx_offset", "wh_offset")
OFFSETS = PARTS[5:]
LOW_PARTS = ("low_bias", *OFFSETS)


class Trainee:
    """The parameters of a network, as torch tensors, and the network that they quantise to.

    A low index follows its weight: the value that the stored index and offset bit gave before training stays as far
    from the float weight as it was, and of the two indices that an offset bit can give the nearer to that is chosen.
    What is trained of a bit is that distance, in low steps: its gradient is that of the low weight times the step.
    Scales of activations stay; scales of weights follow the weights. The low bias is a parameter.

    Parameters
    ----------
    network : Network
    low : bool
        Only the low path: low biases and offset bits. The high path keeps every bit, and so do embedding and head.
    """

    def __init__(self, network: Network, low: bool = False):
        import torch

        self._start = network
        self.low = low
        self.formats = network.formats
        self._lead = [_lead(layer, self.formats) for layer in network.layers]
        self.layers: list[dict[str, Any]] = []
        for layer in network.layers:
            arrays = (
                layer.wx_float, layer.wh_float, layer.bias, layer.low_bias, layer.wp_float,
                layer.wx_offset, layer.wh_offset,
            )  # fmt: skip
            self.layers.append(
                {
                    name: torch.tensor(np.asarray(array, np.float32), requires_grad=True)
                    for name, array in zip(PARTS, arrays, strict=True)
                    if array is not None and (name in LOW_PARTS or not low)
                }
            )
        table, head = network.model.embedding, network.model.head
        self.embedding = None if table is None else torch.tensor(table, requires_grad=not low)
        self.head = (
            None
            if head is None
            else tuple(torch.tensor(array, requires_grad=not low) for array in (head.weight, head.bias))
        )

    def parameters(self) -> list[Any]:
        """Every tensor that is trained."""
        rest = ([] if self.embedding is None else [self.embedding]) + list(self.head or ())
        return self.recurrent() + ([] if self.low else rest)

    def recurrent(self) -> list[Any]:
        """Tensors of the LSTM layers, in a fixed order."""
        return [layer[name] for layer in self.layers for name in PARTS if name in layer]

    def offsets(self) -> list[Any]:
        """What becomes offset bits, float32 [D, 4H, N] and [D, 4H, R] of every layer: the stored bits at first."""
        return [layer[name] for layer in self.layers for name in OFFSETS]

    def bound(self) -> None:
        """Keep what becomes offset bits within 1 of the stored ones, or within 0 to 1 where no weight moves."""
        import torch

        for layer, values in zip(self._start.layers, self.layers, strict=True):
            for name, stored in zip(OFFSETS, (layer.wx_offset, layer.wh_offset), strict=True):
                bit = torch.from_numpy(stored.astype(np.float32))
                values[name].data.clamp_(*((0.0, 1.0) if self.low else (bit - 1, bit + 1)))

    def network(self) -> Network:
        """The quantised network of the parameters as they stand."""
        model = self._start.model
        arrays = [
            {name: tensor.detach().numpy().copy() for name, tensor in values.items()} for values in self.layers
        ]
        if self.low:
            layers = [_with_bits(*pair, self.formats) for pair in zip(model.layers, arrays, strict=True)]
            return Network(replace(model, layers=layers))
        layers = [
            _quantised(stored, values, lead, self.formats)
            for stored, values, lead in zip(model.layers, arrays, self._lead, strict=True)
        ]
        head = model.head
        if self.head is not None and head is not None:
            weight, bias = (tensor.detach().numpy().copy() for tensor in self.head)
            head = replace(head, weight=weight, bias=bias)
        table = None if self.embedding is None else self.embedding.detach().numpy().copy()
        return Network(replace(model, layers=layers, head=head, embedding=table))


def _with_bits(layer: traces.Layer, values: dict[str, np.ndarray], formats: Formats) -> traces.Layer:
    """A layer with other offset bits and low biases."""
    wx_offset, wh_offset = (
        ((values[name] >= 0.5) & (index.astype(np.int32) >> formats.shift < formats.low_top)).astype(np.uint8)
        for name, index in zip(OFFSETS, (layer.wx_index, layer.wh_index), strict=True)
    )
    return replace(layer, low_bias=values["low_bias"], wx_offset=wx_offset, wh_offset=wh_offset)


def _lead(layer: traces.Layer, formats: Formats) -> tuple[np.ndarray, np.ndarray]:
    """What a stored low weight is above its float weight: float64 [D, 4H, N] (input scale folded in) and [D, 4H, R]."""
    pairs = (
        (layer.wx_float * layer.input_scale, layer.wx_index, layer.wx_offset, layer.wx_scale),
        (layer.wh_float, layer.wh_index, layer.wh_offset, layer.wh_scale),
    )
    leads = []
    for values, index, offset, scale in pairs:
        low = quantise.low_indices(index, offset, formats).astype(np.float64)
        leads.append(low * (scale.astype(np.float64)[..., None] * 2.0**formats.shift) - values)
    return leads[0], leads[1]


def _quantised(
    layer: traces.Layer, values: dict[str, np.ndarray], lead: tuple[np.ndarray, np.ndarray], formats: Formats
) -> traces.Layer:
    gain = layer.input_scale
    wx_lead, wh_lead = (
        before + (values[name] - bit) * (scale.astype(np.float64)[..., None] * 2.0**formats.shift)
        for name, before, bit, scale in zip(
            OFFSETS, lead, (layer.wx_offset, layer.wh_offset), (layer.wx_scale, layer.wh_scale), strict=True
        )
    )
    wx = [_matrix(w, part, formats) for w, part in zip(values["wx"] * gain, wx_lead, strict=True)]
    wh = [_matrix(w, part, formats) for w, part in zip(values["wh"], wh_lead, strict=True)]
    x_index, x_offset, wx_scale = (np.stack(parts) for parts in zip(*wx, strict=True))
    h_index, h_offset, wh_scale = (np.stack(parts) for parts in zip(*wh, strict=True))
    projection: dict[str, Any] = {}
    if layer.projected:
        wp = [quantise.weights(w, formats, gates=1) for w in values["wp"]]
        index, _, scale = (np.stack(parts) for parts in zip(*wp, strict=True))
        projection = {"wp_float": values["wp"], "wp_index": index, "wp_scale": scale}
    return replace(
        layer,
        wx_float=values["wx"], wh_float=values["wh"], bias=values["bias"], low_bias=values["low_bias"],
        wx_index=x_index, wx_offset=x_offset, wx_scale=wx_scale,
        wh_index=h_index, wh_offset=h_offset, wh_scale=wh_scale, **projection,
    )  # fmt: skip


def _matrix(weight: np.ndarray, lead: np.ndarray, formats: Formats) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Index, offset bit and scale of a matrix whose low weights lead its float weights."""
    index, offset, scale = quantise.weights(weight, formats)
    unit = scale.astype(np.float64)[:, None] * 2.0**formats.shift
    wanted = np.rint(np.divide(weight + lead, unit, out=np.zeros_like(lead), where=unit > 0))
    shifted = index.astype(np.int32) >> formats.shift
    bit = np.where(shifted < formats.low_top, np.clip(wanted - shifted, 0, 1), 0).astype(np.uint8)
    return index, np.where(unit > 0, bit, offset), scale


def emulated(trainee: Trainee, controller: Any, inputs: list[np.ndarray], ids: list[int]) -> tuple[list[Any], Run]:
    """The network's outputs as tensors that gradients flow back from.

    Parameters
    ----------
    inputs : features float32 [time, features], or tokens int [time], of each sequence
    ids : sequence ids, for controllers that decide by them

    Returns
    -------
    list of tensors float32 [time, outputs]: exactly what the emulator gives; and the run.
    """
    import torch

    network = trainee.network()
    run = emulate(network, inputs, controller, record=RECORD, sequence_ids=ids)
    table = network.model.embedding
    batch = Batch([x if table is None else quantise.embed(table, x) for x in inputs])
    if trainee.embedding is None:
        x = torch.from_numpy(batch.x)
    else:
        x = torch.nn.utils.rnn.pad_sequence([trainee.embedding[torch.from_numpy(t).long()] for t in inputs])
    outputs = _function().apply(_Site(network, run, batch, trainee.low), x, *trainee.recurrent())
    return [outputs[:length, n] for n, length in enumerate(batch.lengths)], run


@dataclass
class _Site:
    """What the backward pass needs of the emulation."""

    network: Network
    run: Run
    batch: Batch
    low: bool


def _function() -> Any:
    """The function of torch, made when first used."""
    global _FUNCTION
    if _FUNCTION is None:
        import torch

        class Emulated(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, site: _Site, x: Any, *parameters: Any) -> Any:
                ctx.site = site
                return torch.from_numpy(site.batch.padded(site.run.outputs))

            @staticmethod
            def backward(ctx: Any, *gradients: Any) -> Any:
                dx, parameters = _backward(ctx.site, gradients[0])
                return None, dx, *parameters

        _FUNCTION = Emulated
    return _FUNCTION


_FUNCTION: Any = None


def _backward(site: _Site, gradient: Any) -> tuple[Any, list[Any]]:
    """Gradients of the features [T, B, N] and of every parameter, from that of the outputs [T, B, D * R]."""
    found: list[list[Any]] = []
    for number in reversed(range(len(site.network.layers))):
        gradient, parameters = _layer(site, number, gradient)
        found.append(parameters)
    return gradient, [tensor for parameters in reversed(found) for tensor in parameters]


def _layer(site: _Site, number: int, gradient: Any) -> tuple[Any, list[Any]]:
    import torch

    layer = site.network.layers[number]
    size = layer.output_size
    sides = [
        _direction(site, number, d, gradient[:, :, d * size : (d + 1) * size]) for d in range(layer.directions)
    ]
    dx = sum(side["x"] for side in sides)
    gain = torch.from_numpy(layer.input_scale)
    if number == 0:
        reach = torch.from_numpy(np.float32(site.network.formats.top) * layer.x_scale * layer.input_scale)
        dx = dx * (torch.from_numpy(site.batch.x).abs() <= reach) / gain
    stacked = {name: torch.stack([side[name] for side in sides]) for name in PARTS if name in sides[0]}
    if "wx" in stacked:
        stacked["wx"] = stacked["wx"] * gain
    return dx, [stacked[name] for name in PARTS if name in stacked]


def _direction(site: _Site, number: int, d: int, above: Any) -> dict[str, Any]:
    """Back-propagation through time of one direction, at the emulator's values and with the weights it used."""
    import torch

    network, batch, run = site.network, site.batch, site.run.layers[number]
    layer, formats = network.layers[number], network.formats

    def gathered(read: Any) -> Any:
        return torch.from_numpy(batch.oriented(batch.padded([read(n, d) for n in range(len(batch.lengths))]), d))

    low = torch.from_numpy(
        batch.oriented(batch.padded([run.low(n, d).astype(np.float32) for n in range(len(batch.lengths))]), d)
    ).repeat(1, 1, 4)
    cell = gathered(run.cell)
    c = cell.float() * (2.0**-11 if formats.profile == Profile.FIXED else 1.0)
    h_index = gathered(run.hidden)
    sums = gathered(lambda n, side: run.accumulators(n, side).reshape(len(run.low(n, side)), -1)).float()
    z = _pre_activation(layer, d, formats, sums, low)
    hidden = layer.hidden_size
    i, f, o = (torch.sigmoid(z[..., g * hidden : (g + 1) * hidden]) for g in (0, 1, 3))
    g = torch.tanh(z[..., 2 * hidden : 3 * hidden])
    tanh = torch.tanh(c)
    c_before = torch.cat([torch.zeros_like(c[:1]), c[:-1]])
    h_before = torch.cat([torch.zeros_like(h_index[:1]), h_index[:-1]])
    high_wh, low_wh = _matrices(layer.wh_index[d], layer.wh_offset[d], layer.wh_scale[d], formats)
    projection = None
    if layer.wp_index is not None and layer.wp_scale is not None:
        projection = torch.from_numpy(layer.wp_index[d] * layer.wp_scale[d][:, None]).float()

    above = torch.from_numpy(batch.oriented(above.contiguous().numpy(), d))
    dz, outputs = torch.zeros_like(z), torch.zeros_like(above)
    dh, dc = torch.zeros_like(above[0]), torch.zeros_like(c[0])
    for t in reversed(range(len(z))):
        dh = dh + above[t]
        outputs[t] = dh
        dm = dh if projection is None else dh @ projection
        dc = dc + dm * o[t] * (1 - tanh[t] ** 2)
        dz[t] = torch.cat(
            [
                dc * g[t] * i[t] * (1 - i[t]),
                dc * c_before[t] * f[t] * (1 - f[t]),
                dc * i[t] * (1 - g[t] ** 2),
                dm * tanh[t] * o[t] * (1 - o[t]),
            ],
            dim=1,
        )
        dc = dc * f[t]
        lower = dz[t] * low[t]
        dh = (dz[t] - lower) @ high_wh + lower @ low_wh

    high_wx, low_wx = _matrices(layer.wx_index[d], layer.wx_offset[d], layer.wx_scale[d], formats)
    lower = dz * low
    upper, rows = (dz - lower).flatten(0, 1), lower.flatten(0, 1)
    x_index = torch.from_numpy(batch.oriented(batch.padded(_input_index(site, number)), d))
    result = {"low_bias": lower.sum(dim=(0, 1))}
    if not site.low:
        result["bias"] = dz.sum(dim=(0, 1))
    for name, index, scale in (("wx", x_index, layer.x_scale), ("wh", h_before, layer.h_scale)):
        used_high, used_low = _activations(index, float(scale), formats)
        below = rows.T @ used_low
        weight_scale = (layer.wx_scale if name == "wx" else layer.wh_scale)[d]
        low_step = torch.from_numpy(weight_scale * np.float32(2.0**formats.shift))
        result[f"{name}_offset"] = below * low_step[:, None]
        if not site.low:
            result[name] = upper.T @ used_high + below
    if projection is not None and not site.low:
        assert layer.m_scale is not None
        step = float(layer.m_scale)
        m = torch.clamp(torch.round(o * tanh / step), -formats.top, formats.top) * step
        result["wp"] = outputs.flatten(0, 1).T @ m.flatten(0, 1)
    dx = (upper @ high_wx + rows @ low_wx).reshape(*z.shape[:2], -1)
    result["x"] = torch.from_numpy(batch.oriented(dx.numpy(), d))
    return result


def _pre_activation(layer: traces.Layer, d: int, formats: Formats, sums: Any, low: Any) -> Any:
    """z of every row, as `docs/numerics.md`, 5.1, up to rounding."""
    import torch

    kx = torch.from_numpy(layer.wx_scale[d] * np.float32(layer.x_scale))
    kh = torch.from_numpy(layer.wh_scale[d] * np.float32(layer.h_scale))
    rows = len(kx)
    factor = 1 + low * (4.0**formats.shift - 1)
    bias = torch.from_numpy(layer.bias[d]) + low * torch.from_numpy(layer.low_bias[d])
    return (sums[..., :rows] * kx + sums[..., rows:] * kh) * factor + bias


def _matrices(index: np.ndarray, offset: np.ndarray, scale: np.ndarray, formats: Formats) -> tuple[Any, Any]:
    """Weights as used at high and at low precision, float32."""
    import torch

    low = quantise.low_indices(index, offset, formats) * (scale[:, None] * np.float32(2.0**formats.shift))
    return torch.from_numpy(index * scale[:, None]), torch.from_numpy(low.astype(np.float32))


def _activations(index: Any, scale: float, formats: Formats) -> tuple[Any, Any]:
    """Activations [T * B, K] as used at high and at low precision, float32."""
    import torch

    low = torch.from_numpy(quantise.low_activations(index.numpy(), formats)).float()
    high = index.float() * scale
    return high.flatten(0, 1), (low * (scale * 2.0**formats.shift)).flatten(0, 1)


def _input_index(site: _Site, number: int) -> list[np.ndarray]:
    """Indices of a layer's inputs, int8 [time, N] of every sequence."""
    lengths = site.batch.lengths
    if number == 0:
        engine = CompiledEngine(site.network)
        return [engine.quantise_input(site.batch.x[:length, n]) for n, length in enumerate(lengths)]
    below = site.run.layers[number - 1]
    return [
        np.concatenate([below.hidden(n, d) for d in range(below.directions)], axis=1) for n in range(len(lengths))
    ]
