"""How much the loss feels each element running low: gradients of the float network times the error of low precision.

For element k in one step the first-order change of the loss is the sum over its four gate rows of dL/dz * (z_low -
z_high). Gradients come from back-propagation through time over the float network, errors from the stored bits and the
activations of a run at high precision.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

import traces
from fxp import quantise
from fxp.observation import EMBEDDING, HIDDEN, OUTPUTS, Observation, in_order
from fxp.quantise import FloatLayer
from fxp.transcripts import alternatives
from fxp.verification import embedding_gradient
from traces import InputError

BATCH_STEPS = 16_384  # padded steps that advance together; a longer sequence goes alone
KEPT = 8 << 30  # bytes of gradients that are kept for a second pass


@dataclass(frozen=True)
class Impact:
    """First-order changes of the loss in one direction of a layer, for the steps of some sequences.

    values : float32 [steps, H]; before : int8 [steps, R], h indices before each step; members : the sequences whose
    steps follow one another in both, in the order of processing.
    """

    layer: int
    direction: int
    values: np.ndarray
    before: np.ndarray
    members: Sequence[int] = ()


class Kept:
    """The gradients of one pass over an observation, for the next pass: in a temporary file that has no name.

    Where they are more than `KEPT` bytes, or there is no room for the file, nothing is kept, and the next pass computes
    them again. The bits are the same either way.
    """

    def __init__(self) -> None:
        self.complete = False
        self._file: Any = None

    def begin(self, observation: Observation) -> None:
        """Make room for the gradients of a pass over an observation."""
        rows = sum(4 * layer.hidden_size * layer.directions for layer in observation.network.layers)
        padded = sum(len(group) * observation.lengths[group[0]] for group in _groups(observation.lengths))
        if 4 * rows * padded <= KEPT:
            with suppress(OSError):
                self._file = tempfile.TemporaryFile()  # noqa: SIM115

    def write(self, sides: list[np.ndarray]) -> None:
        """Keep what the directions of a layer have for some sequences, float32."""
        try:
            for dz in sides if self._file is not None else ():
                self._file.write(np.ascontiguousarray(dz).data)
        except OSError:
            self._file = None

    def finish(self) -> None:
        """All have been written."""
        try:
            if self._file is not None:
                self._file.flush()
                self.complete = True
        except OSError:
            self._file = None

    def rewind(self) -> None:
        """Read from the start again."""
        self._file.seek(0)

    def read(self, shape: tuple[int, int, int]) -> np.ndarray:
        """The next array that was written, float32."""
        values = np.empty(shape, np.float32)
        if self._file.readinto(values.data.cast("B")) != values.nbytes:
            raise InputError("the temporary file of the calibration has been cut short")
        return values


def impacts(
    layers: list[traces.Layer],
    observation: Observation,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    kept: Kept | None = None,
) -> Iterator[Impact]:
    """Changes of the loss by running single elements and steps low.

    Parameters
    ----------
    layers : stored layers with the offset bits to judge (their high path as in `observation`)
    observation : Observation
        With labels, the loss is the likelihood of the head's readout (cross-entropy, or of labels of 0 and 1, or CTC
        for label sequences); without, a random projection of what is scored, the mean square of whose change is the
        squared error of that: what the head makes of the steps that it reads, the embedding of a sequence where the
        metric compares embeddings, or, without a head, the last layer's h.
    seed : int
        Of the random projection; not used with labels.
    kept : Kept, optional
        Takes in the gradients, or gives them if a pass over the same observation with the same seed has filled it.

    Yields
    ------
    Impact, every step of every sequence once for each layer and direction
    """
    for members, batch, number, sides in _gradients(observation, seed, progress, kept):
        for direction, dz in enumerate(sides):
            change, before = _errors(layers[number], number, direction, observation, members)
            product = batch.rows(dz) * change
            yield Impact(number, direction, product.reshape(len(change), 4, -1).sum(axis=1), before, members)


def magnitudes(
    observation: Observation,
    steps: np.ndarray,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    kept: Kept | None = None,
) -> list[list[np.ndarray]]:
    """|dL/dz| of every row at some steps: float32 [len(steps), 4H] for each layer and direction.

    Parameters
    ----------
    observation, seed, kept : as for `impacts`
    steps : ascending int array
        Places in the concatenation of all sequences, each in the direction's order of processing (`Observation.side`).
    """
    starts = np.concatenate([[0], np.cumsum(observation.lengths)])
    made = [
        [np.zeros((len(steps), 4 * layer.hidden_size), np.float32) for _ in range(layer.directions)]
        for layer in observation.network.layers
    ]
    for members, _, number, sides in _gradients(observation, seed, progress, kept):
        for column, member in enumerate(members):
            first, last = np.searchsorted(steps, starts[member : member + 2])
            for direction, dz in enumerate(sides):
                made[number][direction][first:last] = np.abs(dz[steps[first:last] - starts[member], column])
    return made


def _gradients(
    observation: Observation, seed: int, progress: Callable[[float], None] | None, kept: Kept | None = None
) -> Iterator[tuple[list[int], Batch, int, list[np.ndarray]]]:
    """Some sequences, as a batch, a layer, and dL/dz [T, B, 4H] of its directions in the order of processing."""
    layers = observation.network.layers
    if kept is not None and kept.complete:
        kept.rewind()
        for members in _groups(observation.lengths):
            batch = Batch([observation.features[n] for n in members])
            for number in reversed(range(len(layers))):
                shape = (*batch.x.shape[:2], 4 * layers[number].hidden_size)
                yield members, batch, number, [kept.read(shape) for _ in range(layers[number].directions)]
            if progress is not None:
                progress(sum(batch.lengths) / observation.steps)
        return
    if kept is not None:
        kept.begin(observation)
    floats = quantise.float_layers(observation.network.model)
    generator = np.random.default_rng(seed)
    for members in _groups(observation.lengths):
        batch = Batch([observation.features[n] for n in members])
        inputs = [batch.x]
        for stored in floats[:-1]:
            inputs.append(_outputs(batch, _unrolled(stored, batch, inputs[-1])))
        states = _unrolled(floats[-1], batch, inputs[-1])
        if observation.loss != HIDDEN:
            gradient = _loss_gradient(observation, members, batch, _outputs(batch, states), generator)
        else:
            gradient = batch.masked(_signs(generator, (*batch.x.shape[:2], observation.network.outputs)))
        for number in reversed(range(len(floats))):
            if number < len(floats) - 1:
                states = _unrolled(floats[number], batch, inputs[number])
            pre, gradient = _backward(floats[number], batch, states, gradient)
            if kept is not None:
                kept.write(pre)
            yield members, batch, number, pre
        if progress is not None:
            progress(sum(batch.lengths) / observation.steps)
    if kept is not None:
        kept.finish()


class Statistics:
    """What calibration needs to know of one direction of a layer, gathered over all steps.

    Attributes
    ----------
    power : float64 [H], sum of the squared change of the loss by each element

    Parameters
    ----------
    layer : traces.Layer
    stride : int, optional
        Keep every so manyth step's squares with its activations (`samples`).
    """

    def __init__(self, layer: traces.Layer, stride: int | None = None):
        self._stride, self._next = stride, 0
        self._samples: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.power = np.zeros(layer.hidden_size)
        self._totals: list[np.ndarray] = []
        self._before = [np.zeros((0, layer.output_size), np.int8)]

    def add(self, impact: Impact, x: np.ndarray | None = None) -> None:
        """Take in some steps; x: int8 [steps, N], their input indices, if samples are wanted."""
        if self._stride is not None and x is not None:
            chosen = slice(self._next, None, self._stride)
            self._samples.append((impact.values[chosen] ** 2, x[chosen], impact.before[chosen]))
            self._next = (self._next - len(x)) % self._stride
        squares = impact.values.astype(np.float64) ** 2
        self.power += squares.sum(axis=0)
        total = squares.sum(axis=1)
        self._totals.append(total[total > 0])
        self._before.append(impact.before[total > 0])

    @property
    def samples(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the steps kept: squared changes float32 [n, H], x and h indices int8 [n, N] and [n, R]."""
        squares, x, h = zip(*self._samples, strict=True)
        return np.concatenate(squares), np.concatenate(x), np.concatenate(h)

    @property
    def totals(self) -> np.ndarray:
        """Squared change of the loss by all elements of a step, float64 [steps], for the steps where it is not zero."""
        return np.concatenate([*self._totals, np.zeros(0)])

    @property
    def before(self) -> np.ndarray:
        """h indices before those steps, int8 [steps, R]."""
        return np.concatenate(self._before)


def measure(
    layers: list[traces.Layer],
    observation: Observation,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    samples: int | None = None,
    kept: Kept | None = None,
) -> list[list[Statistics]]:
    """Statistics of every layer and direction, with about so many samples each; other arguments as for `impacts`."""
    stride = None if samples is None else -(-observation.steps // samples)
    statistics = [[Statistics(layer, stride) for _ in range(layer.directions)] for layer in layers]
    for impact in impacts(layers, observation, seed, progress, kept):
        x = None
        if stride is not None:
            indices = [observation.input_index(impact.layer, n) for n in impact.members]
            x = np.concatenate([in_order(index, impact.direction) for index in indices])
        statistics[impact.layer][impact.direction].add(impact, x)
    return statistics


class Batch:
    """Sequences of unequal length as one padded array [time, batch, features], pads at the end."""

    def __init__(self, sequences: list[np.ndarray]):
        self.lengths = [len(x) for x in sequences]
        self.x = self.padded(sequences)
        steps = np.arange(self.x.shape[0])[:, None]
        lengths = np.array(self.lengths)
        self._inside = steps < lengths
        self._mirror = np.where(self._inside, lengths - 1 - steps, steps)

    def padded(self, sequences: Any) -> np.ndarray:
        """Arrays [time, K] of all sequences as one [T, B, K] of their type, zeros in the pads."""
        out = np.zeros((max(self.lengths), len(sequences), sequences[0].shape[1]), sequences[0].dtype)
        for n, x in enumerate(sequences):
            out[: len(x), n] = x
        return out

    def oriented(self, values: np.ndarray, direction: int) -> np.ndarray:
        """Time positions to the order of processing, and back."""
        return np.take_along_axis(values, self._mirror[:, :, None], axis=0) if direction else values

    def masked(self, values: np.ndarray) -> np.ndarray:
        """Values with zeros in the pads."""
        return np.where(self._inside[:, :, None], values, np.float32(0))

    def rows(self, values: np.ndarray) -> np.ndarray:
        """Padded values as rows, one sequence after the other."""
        return np.concatenate([values[:length, n] for n, length in enumerate(self.lengths)])


def _groups(lengths: list[int]) -> Iterator[list[int]]:
    """Sequences of similar length together, at most `BATCH_STEPS` padded steps (or one sequence) a group."""
    group: list[int] = []
    for n in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        if group and (len(group) + 1) * lengths[group[0]] > BATCH_STEPS:
            yield group
            group = []
        group.append(n)
    yield group


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return np.float32(0.5) * (1 + np.tanh(np.float32(0.5) * z))


@dataclass(frozen=True)
class _States:
    """One direction over all steps, in the order of processing.

    gates [T, B, 4H] (i, f, g, o), c [T + 1, B, H] from the start on, h [T, B, R]; float32.
    """

    gates: np.ndarray
    c: np.ndarray
    h: np.ndarray


def _unrolled(layer: FloatLayer, batch: Batch, x: np.ndarray) -> list[_States]:
    """The directions of a layer, for inputs [T, B, N] in time positions."""
    return [_direction(layer, d, batch.oriented(x, d)) for d in range(layer.wx.shape[0])]


def _peephole(layer: FloatLayer, d: int) -> np.ndarray | None:
    """Peephole weights of the gates i, f, o of a direction, [3, H]."""
    return None if layer.peephole is None else layer.peephole[d].reshape(3, -1)


def _direction(layer: FloatLayer, d: int, x: np.ndarray) -> _States:
    steps, batch, _ = x.shape
    hidden, output = layer.wh.shape[1] // 4, layer.wh.shape[2]
    peephole = _peephole(layer, d)
    gates = x @ layer.wx[d].T + layer.bias[d]
    c, h = np.zeros((steps + 1, batch, hidden), np.float32), np.zeros((steps, batch, output), np.float32)
    for t in range(steps):
        if t:
            gates[t] += h[t - 1] @ layer.wh[d].T
        i, f, g, o = np.split(gates[t], 4, axis=1)
        if peephole is not None:
            i += peephole[0] * c[t]
            f += peephole[1] * c[t]
        g[:] = np.tanh(g)
        for gate in (i, f):
            gate[:] = _sigmoid(gate)
        c[t + 1] = f * c[t] + i * g
        if peephole is not None:
            o += peephole[2] * c[t + 1]
        o[:] = _sigmoid(o)
        m = o * np.tanh(c[t + 1])
        h[t] = m if layer.projection is None else m @ layer.projection[d].T
    return _States(gates, c, h)


def _outputs(batch: Batch, states: list[_States]) -> np.ndarray:
    """Outputs of a layer, float32 [T, B, D * R], in time positions."""
    return np.concatenate([batch.oriented(side.h, d) for d, side in enumerate(states)], axis=2)


def _backward(
    layer: FloatLayer, batch: Batch, states: list[_States], gradient: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray]:
    """Gradients of the pre-activations, [T, B, 4H] a direction in the order of processing, and of the inputs."""
    output = layer.wh.shape[2]
    pre = []
    inputs = np.zeros((*gradient.shape[:2], layer.wx.shape[2]), np.float32)
    for d, side in enumerate(states):
        gates, c, peephole = side.gates, side.c, _peephole(layer, d)
        above = batch.oriented(gradient[:, :, d * output : (d + 1) * output], d)
        dh, dc = np.zeros_like(above[0]), np.zeros_like(c[0])
        for t in reversed(range(len(gates))):
            i, f, g, o = np.split(gates[t], 4, axis=1)
            dh = dh + above[t]
            dm = dh if layer.projection is None else dh @ layer.projection[d]
            tanh = np.tanh(c[t + 1])
            dc = dc + dm * o * (1 - tanh * tanh)
            by_o = dm * tanh * o * (1 - o)
            if peephole is not None:
                dc = dc + by_o * peephole[2]
            parts = (dc * g * i * (1 - i), dc * c[t] * f * (1 - f), dc * i * (1 - g * g), by_o)
            dc = dc * f
            if peephole is not None:
                dc = dc + parts[0] * peephole[0] + parts[1] * peephole[1]
            # The gates of a step are needed no more, so its gradients take their place.
            gates[t] = np.concatenate(parts, axis=1)
            dh = gates[t] @ layer.wh[d]
        pre.append(gates)
        inputs += batch.oriented(gates @ layer.wx[d], d)
    return pre, inputs


def _signs(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return generator.choice(np.array([-1, 1], np.float32), shape)


def _loss_gradient(
    observation: Observation, members: list[int], batch: Batch, h: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Gradient of the summed loss by the last layer's h, [T, B, D * R]."""
    head, labels = observation.network.model.head, observation.labels
    assert head is not None
    by_outputs = LOSSES[observation.loss]
    gradient = np.zeros_like(h)
    for n, member in enumerate(members):
        last = batch.lengths[n]
        span = slice(last - 1, last) if head.scope == "last" else slice(0, last)
        outputs = h[span, n] @ head.weight.T + head.bias
        wanted = _signs(generator, outputs.shape) if labels is None else labels[member]
        gradient[span, n] = by_outputs(outputs, wanted) @ head.weight
    return gradient


def _softmax_gradient(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    share = np.exp(logits - logits.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    share[np.arange(len(share)), labels] -= 1
    return share


def _bernoulli_gradient(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return _sigmoid(logits) - targets


def _ctc_gradient(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of connectionist temporal classification (Graves et al., ICML 2006) by the first alternative, the labels before a
    blank (label 0)."""
    try:
        import torch
    except ImportError:
        raise InputError("calibrating on label sequences needs PyTorch: pip install 'fxp-lstm[torch]'") from None
    labels = np.array(alternatives(labels)[0], np.int64)
    leaf = torch.tensor(logits[:, None], requires_grad=True)
    loss = torch.nn.functional.ctc_loss(
        leaf.log_softmax(2), torch.tensor(labels[None]), torch.tensor([len(logits)]),
        torch.tensor([len(labels)]), reduction="sum", zero_infinity=True,
    )  # fmt: skip
    loss.backward()
    assert leaf.grad is not None
    return np.asarray(leaf.grad[:, 0].numpy())


def _embedding_gradient(outputs: np.ndarray, signs: np.ndarray) -> np.ndarray:
    gradient = np.zeros_like(outputs)
    gradient[-1] = embedding_gradient(outputs, signs[-1])
    return gradient


LOSSES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "cross-entropy": _softmax_gradient,
    "likelihood of 0/1 labels": _bernoulli_gradient,
    "CTC": _ctc_gradient,
    OUTPUTS: lambda outputs, signs: signs,
    EMBEDDING: _embedding_gradient,
}
"""Gradient of each loss by the head's outputs [steps, C], for one sequence's labels, or random signs [steps, C]."""


def _errors(
    layer: traces.Layer, number: int, direction: int, observation: Observation, members: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """z_low - z_high (float32 [steps, 4H]) and h indices before each step, for some sequences."""
    formats, d = observation.network.formats, direction
    x = np.concatenate([in_order(observation.input_index(number, n), d) for n in members])
    h = np.concatenate([observation.before(number, d, n) for n in members])
    error = np.broadcast_to(layer.low_bias[d], (len(x), layer.low_bias.shape[1])).copy()
    for values, index, offset, scale, step in (
        (x, layer.wx_index[d], layer.wx_offset[d], layer.wx_scale[d], layer.x_scale),
        (h, layer.wh_index[d], layer.wh_offset[d], layer.wh_scale[d], layer.h_scale),
    ):
        low = quantise.low_activations(values, formats).astype(np.float32)
        low = low @ quantise.low_indices(index, offset, formats).astype(np.float32).T
        high = values.astype(np.float32) @ index.astype(np.float32).T
        error += (low * np.float32(4.0**formats.shift) - high) * (scale * np.float32(step))
    return error, h
