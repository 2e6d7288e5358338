"""What a network does on calibration data at high precision: the activations that calibration fits to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from accel.controllers import Static
from fxp.emulator import emulate
from fxp.engines import CompiledEngine
from fxp.inputs import Inputs
from fxp.network import Network
from fxp.quantise import embed
from fxp.verification import EmbeddingDistance, EqualError
from traces import Data, InputError
from traces.data import Sequences

LIMIT = 65_536  # steps that are observed at most: bounds memory and time

HIDDEN = "squared error of h"
OUTPUTS = "squared error of the head's outputs"
EMBEDDING = "squared error of the embedding"
"""What calibration differentiates without labels."""


@dataclass(frozen=True)
class Side:
    """Steps of one direction of a layer, one sequence after the other, in the order in which they are processed.

    Attributes
    ----------
    x : float32 [T, N], inputs: the features of layer 0, or what the indices of the layer below stand for
    x_index, h_index : int8 [T, N] and [T, R], indices at high precision of x_t and h_{t-1}
    """

    x: np.ndarray
    x_index: np.ndarray
    h_index: np.ndarray


class Activations:
    """Activations of one run over some sequences, of which `record` kept "hidden".

    Parameters
    ----------
    network : Network
    indices : list of int8 [time, N], indices of the features
    run : Run
    """

    def __init__(self, network: Network, indices: list[np.ndarray], run: Any):
        self.network = network
        self.lengths = [len(x) for x in indices]
        self._indices, self._run = indices, run

    def hidden(self, layer: int, direction: int, sequence: int) -> np.ndarray:
        """h indices after each step, int8 [time, R], in time positions."""
        return np.asarray(self._run.layers[layer].hidden(sequence, direction))

    def input_index(self, layer: int, sequence: int) -> np.ndarray:
        """Indices of the layer's inputs, int8 [time, N], in time positions."""
        if layer == 0:
            return self._indices[sequence]
        below = self.network.layers[layer - 1]
        return np.concatenate([self.hidden(layer - 1, d, sequence) for d in range(below.directions)], axis=1)

    def before(self, layer: int, direction: int, sequence: int) -> np.ndarray:
        """h indices before each step, int8 [time, R], in the order of processing; zero before the first."""
        after = in_order(self.hidden(layer, direction, sequence), direction)
        return np.concatenate([np.zeros_like(after[:1]), after[:-1]])

    def under(self, run: Any) -> Activations:
        """The same sequences in another run."""
        return Activations(self.network, self._indices, run)


class Observation(Activations):
    """One run at static high precision over calibration data.

    Parameters
    ----------
    network : Network
    data : traces.Data
        As `chosen` selects it.
    threads : int
    progress : called with finished steps

    Attributes
    ----------
    features : list of float32 [time, features]
    labels : list of int32 arrays, or None where labels or head are missing
    lengths : list of int
    """

    def __init__(
        self, network: Network, data: Data, threads: int = 1, progress: Callable[[int], None] | None = None
    ):
        self.data = data
        inputs = Inputs(network, data)
        self.features = [inputs.whole(n) for n in range(len(inputs))]
        self.labels = labels_of(network, data)
        engine = CompiledEngine(network)
        indices = [engine.quantise_input(x) for x in self.features]
        run = emulate(
            network, data, Static(network.formats.high), threads=threads, record=("hidden",), progress=progress
        )
        super().__init__(network, indices, run)

    @property
    def loss(self) -> str:
        """What calibration differentiates."""
        if self.labels is None:
            if self.network.model.head is None:
                return HIDDEN
            return EMBEDDING if compares_embeddings(self.network, self.data) else OUTPUTS
        if self.data.scope == "sequence":
            return "CTC"
        return "likelihood of 0/1 labels" if self.data.targets else "cross-entropy"

    @property
    def steps(self) -> int:
        """Steps of all sequences."""
        return sum(self.lengths)

    def side(self, layer: int, direction: int) -> Side:
        """All steps of one direction of a layer."""
        stored = self.network.layers[layer]
        sequences = range(len(self.lengths))
        x_index = np.concatenate([in_order(self.input_index(layer, n), direction) for n in sequences])
        if layer == 0:
            x = np.concatenate([in_order(x, direction) for x in self.features])
        else:
            x = x_index * np.float32(stored.x_scale)
        h_index = np.concatenate([self.before(layer, direction, n) for n in sequences])
        return Side(x, x_index, h_index)


def in_order(values: np.ndarray, direction: int) -> np.ndarray:
    """Rows in time positions as processed: reversed for the backward direction."""
    return values[::-1] if direction else values


def compares_embeddings(network: Network, data: Data) -> bool:
    """Whether the metric that the data, or else the network, names is of angles between embeddings."""
    return (data.metric or network.model.metric) in (EqualError.name, EmbeddingDistance.name)


def labels_of(network: Network, data: Data) -> list[np.ndarray] | None:
    """Labels of every sequence, checked against the head; None where there are no labels or no head."""
    head = network.model.head
    if head is None or data.labels is None:
        return None
    if data.scope not in (head.scope, "sequence"):
        raise InputError(f"the labels belong to each {data.scope}, but the network's head to each {head.scope}")
    if data.targets:
        if data.targets != len(head.bias):
            raise InputError(f"{data.targets} labels a step, but the head has {len(head.bias)} rows")
    elif data.labels.size and (data.labels.min() < 0 or data.labels.max() >= len(head.bias)):
        raise InputError(f"labels lie outside 0 to {len(head.bias) - 1}, the rows of the head")
    return [data.sequence_labels(n) for n in range(len(data))]


def as_data(network: Network, source: Any) -> Data:
    """Calibration data of any form that `emulate` takes, in memory.

    Raises
    ------
    InputError
        No or empty sequences, tokens outside the embedding, a wrong number of features.
    """
    if isinstance(source, Data):
        data = source
    elif isinstance(source, Sequences):
        data = subset(source, range(len(source)))
    else:
        Inputs(network, source)
        data = Data.of([np.asarray(x.detach().cpu() if hasattr(x, "detach") else x) for x in source])
    Inputs(network, data)
    if network.model.embedding is not None:
        embed(network.model.embedding, data.values)
    return data


def subset(data: Sequences, sequences: Any, limit: int | None = None) -> Data:
    """Some sequences of a data set, in memory; cut after `limit` steps in all if labels do not forbid it."""
    parts, labels, kept, room = [], [], [], limit
    for n in sequences:
        values = data.sequence(n)
        label = data.sequence_labels(n) if data.scope is not None else None
        if room is not None:
            if room <= 0:
                break
            if data.scope not in ("last", "sequence"):
                values, label = values[:room], None if label is None else label[:room]
            room -= len(values)
        parts.append(values)
        labels.append(label)
        kept.append(n)
    return Data.of(
        parts, None if data.scope is None else labels, "sequence" if data.scope == "sequence" else None,
        ids=data.ids[kept], groups=None if data.groups is None else data.groups[kept],
        metric=data.metric, name=data.name, origin=data.origin, licence=data.licence,
    )  # fmt: skip


def chosen(data: Data, limit: int = LIMIT) -> Data:
    """At most `limit` steps of a data set: every k-th sequence, the last one cut."""
    if data.total <= limit:
        return data
    stride = -(-data.total // limit)
    return subset(data, range(0, len(data), stride), limit)
