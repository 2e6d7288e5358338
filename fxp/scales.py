"""Scales of activations from data: one per input feature, folded into the weights, and the range of every layer's h.

Whatever changes here changes the bits of the high path; `docs/calibration.md`, "Scales".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

import traces
from fxp import floating, quantise
from fxp.inputs import Inputs
from fxp.network import Network
from fxp.observation import as_data, chosen, in_order
from traces import Data, InputError

STEPS = 4096  # of the data that are looked at, at most
STRENGTHS = (1.0, 0.75, 0.5)  # how much of the inputs' ranges an equalisation moves into the weights
QUANTILES = (1.0, 0.999, 0.99)  # of abs(h), tried as its range


class View:
    """The float network on data: inputs[l] float32 [time, inputs of layer l] a sequence, the last entry the outputs."""

    def __init__(self, network: Network, data: Data):
        self.data = data
        self.layers = quantise.float_layers(network.model)
        source = Inputs(network, data)
        features = [source.whole(n) for n in range(len(source))]
        self.inputs, self._cells = [features], []
        for layer in self.layers:
            outputs, cells = floating.run([layer], self.inputs[-1])
            self.inputs.append(outputs)
            self._cells.append(cells[0])
        self.lengths = [len(x) for x in features]

    @property
    def steps(self) -> int:
        return sum(self.lengths)

    def rows(self, layer: int, direction: int) -> np.ndarray:
        """Inputs of a layer in the order of processing, all sequences: float32 [steps, N]."""
        return np.concatenate([in_order(x, direction) for x in self.inputs[layer]])

    def before(self, layer: int, direction: int) -> np.ndarray:
        """h before each step of a direction, all sequences: float32 [steps, R]."""
        size = self.layers[layer].wh.shape[2]
        span = slice(direction * size, (direction + 1) * size)
        after = [in_order(h[:, span], direction) for h in self.inputs[layer + 1]]
        return np.concatenate([np.concatenate([np.zeros_like(h[:1]), h[:-1]]) for h in after])


    def z(self, layer: int, direction: int) -> np.ndarray:
        """Pre-activations of a direction, all sequences: float32 [steps, 4H]."""
        stored, d = self.layers[layer], direction
        z = self.rows(layer, d) @ stored.wx[d].T + self.before(layer, d) @ stored.wh[d].T + stored.bias[d]
        if stored.peephole is not None:
            cells = [in_order(sequence[d], d) for sequence in self._cells[layer]]
            after = np.concatenate(cells)
            before = np.concatenate([np.concatenate([np.zeros_like(c[:1]), c[:-1]]) for c in cells])
            i, f, o = np.split(stored.peephole[d], 3)
            width = len(i)
            z[:, :width] += i * before
            z[:, width : 2 * width] += f * before
            z[:, 3 * width :] += o * after
        return np.asarray(z)


def gates(z: np.ndarray) -> np.ndarray:
    """Gates of pre-activations [steps, 4H] (i, f, g, o), for comparison only."""
    width = z.shape[1] // 4
    scale = np.full(z.shape[1], 0.5, z.dtype)
    scale[2 * width : 3 * width] = 1
    values = np.tanh(z * scale)
    values[:, : 2 * width] *= 0.5
    values[:, 3 * width :] *= 0.5
    return values


def fit_scales(
    network: Network, data: Any, inputs: bool = True, h: bool | float = True
) -> tuple[Network, dict[str, Any]]:
    """Choose the scale of every input feature and the range of every layer's h from data.

    The inputs are equalised: feature j of layer 0 is divided by a scale, which the columns of its input weights take
    up. The scales are max |x_j|^s / max |w_j|^(1 - s), s of 1, 0.75 and 0.5, or those given: whichever changes the
    gates of the float network least, at high and low precision together. The range of h is chosen likewise: the one
    given, a quantile of |h| (1, 0.999 or 0.99), or that which falls on the largest low index. **The high path changes
    its bits**, and where inputs are equalised, offset bits return to rounding to nearest.

    Parameters
    ----------
    network : Network
    data : traces.Data (in memory or open), or inputs as `emulate` takes them
        Real inputs; at most 4,096 steps are looked at.
    inputs : bool
        Whether to choose the scales of the inputs.
    h : bool or float
        Whether to choose the ranges of h; a number above 0 and below 1 is the quantile of |h| that every layer's range
        is to end at, without a search. The search weighs both precisions together, and so mostly the low one.

    Returns
    -------
    Network, dict
        The dict records for JSON what was chosen: `inputs`, the strength s or None; `h`, the range of each layer.

    Raises
    ------
    InputError
        Data that does not fit the network, or a quantile out of range.
    """
    if not isinstance(h, bool) and not (isinstance(h, (int, float, np.floating)) and 0 < h < 1):
        raise InputError(f"h is {h!r}, expected True, False, or a quantile above 0 and below 1")
    view = View(network, chosen(as_data(network, data), STEPS))
    strength, made = equalised(network, view) if inputs else (None, network)
    if not isinstance(h, bool):
        made = _at_quantile(made, view, h)
    elif h:
        made = ranged(made, view)
    return made, {"inputs": strength, "h": _ranges(made)}


def _ranges(network: Network) -> list[float]:
    return [float(layer.h_scale) * 2.0 ** (network.formats.high - 1) for layer in network.layers]


def rebuilt(network: Network, view: View, formats: Any, gain: np.ndarray | None = None) -> traces.Model:
    """The model quantised again, its ranges of h kept."""
    model = network.model
    made = quantise.build(
        view.layers, view.inputs[0], formats, embedding=model.embedding, head=model.head,
        input_scale=model.layers[0].input_scale if gain is None else gain,
        name=model.name, metric=model.metric, origin=model.origin, licence=model.licence,
    )  # fmt: skip
    if formats.high == network.formats.high:
        made = _with_ranges(made, [layer.h_scale for layer in network.layers])
    return replace(made, calibration={**model.calibration, "offsets": "nearest"})


def _with_ranges(model: traces.Model, scales: list[Any]) -> traces.Model:
    layers = [replace(layer, h_scale=np.float32(scale)) for layer, scale in zip(model.layers, scales, strict=True)]
    below = [model.layers[0].x_scale, *scales[:-1]]
    return replace(model, layers=[replace(n, x_scale=np.float32(x)) for n, x in zip(layers, below, strict=True)])


def _both(index: np.ndarray, formats: Any) -> tuple[np.ndarray, np.ndarray]:
    """Indices at high precision, and what the low ones stand for in the same unit, float32."""
    low = quantise.low_activations(index, formats).astype(np.float32) * 2.0**formats.shift
    return index.astype(np.float32), low.astype(np.float32)


def _cost(z: np.ndarray, changes: Iterator[np.ndarray]) -> float:
    """Sum of the squared changes of the gates."""
    reference = gates(z)
    return sum(float(np.square(gates(z + change) - reference).mean(dtype=np.float64)) for change in changes)


def _input_cost(network: Network, view: View) -> float:
    """Squared change of the gates of layer 0 by quantised inputs and input weights, high and low precision together."""
    stored, layer, formats = network.layers[0], view.layers[0], network.formats
    total = 0.0
    for d in range(stored.directions):
        x, z = view.rows(0, d), view.z(0, d)
        index = np.rint(np.clip(x / stored.input_scale / stored.x_scale, -formats.top, formats.top)).astype(np.int8)
        low_weights = quantise.low_indices(stored.wx_index[d], stored.wx_offset[d], formats).astype(np.float32)
        low_weights *= np.float32(2.0**formats.shift)
        exact = x @ layer.wx[d].T
        scale = stored.wx_scale[d] * stored.x_scale
        pairs = zip(_both(index, formats), (stored.wx_index[d].astype(np.float32), low_weights), strict=True)
        total += _cost(z, ((values @ weights.T) * scale - exact for values, weights in pairs))
    return total


def equalised(network: Network, view: View) -> tuple[float | None, Network]:
    """The equalisation with the least cost, or what there is: strength and network."""
    largest = np.max([np.abs(x).max(axis=0) for x in view.inputs[0]], axis=0).astype(np.float64)
    weight = np.abs(view.layers[0].wx).max(axis=(0, 1)).astype(np.float64)
    used = (largest > 0) & (weight > 0)
    best: tuple[float, float | None, Network] = (_input_cost(network, view), None, network)
    for strength in STRENGTHS if used.any() else ():
        gain = np.ones(len(largest))
        gain[used] = largest[used] ** strength / weight[used] ** (1 - strength)
        gain[used] /= np.exp(np.log(gain[used]).mean())
        gain = np.clip(gain, 2.0**-30, 2.0**30).astype(np.float32)
        made = Network(rebuilt(network, view, network.formats, gain))
        cost = _input_cost(made, view)
        if cost < best[0]:
            best = cost, strength, made
    return best[1], best[2]


def _h_cost(network: Network, view: View, number: int, scale: np.float32) -> float:
    """Squared change of the gates that read h of a layer, its own and those above, high and low precision together."""
    formats, total = network.formats, 0.0

    def changes(values: np.ndarray, weight: np.ndarray) -> Iterator[np.ndarray]:
        index = np.rint(np.clip(values / scale, -formats.top, formats.top)).astype(np.int8)
        for indices in _both(index, formats):
            yield (indices * scale - values) @ weight.T

    for reader in (number, number + 1):
        if reader == len(view.layers):
            continue
        layer = view.layers[reader]
        for d in range(layer.wx.shape[0]):
            own = reader == number
            read = (view.before(reader, d), layer.wh[d]) if own else (view.rows(reader, d), layer.wx[d])
            total += _cost(view.z(reader, d), changes(*read))
    return total


def _at_quantile(network: Network, view: View, quantile: float) -> Network:
    """The network with ranges of h whose largest index stands for a quantile of |h|, rounded up a little."""
    formats, scales = network.formats, []
    for number in range(len(network.layers)):
        end = float(np.quantile(np.abs(np.concatenate(view.inputs[number + 1])), quantile))
        alpha = quantise.rounded_up(max(end, 2.0**-40) * 2.0 ** (formats.high - 1) / formats.top)
        scales.append(quantise.step(alpha, formats.high))
    return Network(_with_ranges(network.model, scales))


def ranged(network: Network, view: View) -> Network:
    """The network with the range of each layer's h that has the least cost."""
    formats, scales = network.formats, []
    for number, stored in enumerate(network.layers):
        values = np.abs(np.concatenate(view.inputs[number + 1]))
        ends = [float(np.quantile(values, share)) for share in QUANTILES]
        low_end = formats.low_top << formats.shift
        candidates = [np.float32(stored.h_scale)]
        candidates += [np.float32(max(end / top, 2.0**-40)) for end in ends for top in (formats.top, low_end)]
        costs = [_h_cost(network, view, number, scale) for scale in candidates]
        scales.append(candidates[int(np.argmin(costs))])
    return Network(_with_ranges(network.model, scales))
