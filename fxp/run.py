"""The result of an emulation in memory. Its layers have the accessors of a trace file's layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fxp.formats import Profile
from fxp.network import Network
from traces import InputError

QUANTITIES = ("cell", "hidden", "accumulators")


class RunLayer:
    """One layer of a run; arrays that were not recorded are None.

    Attributes
    ----------
    input_size, hidden_size, output_size, directions, projected, peepholes
    low_count, overflow_count : int64 [directions, sequences]
    """

    def __init__(self, layer: Any, offsets: np.ndarray, profile: str, record: Sequence[str]):
        self.input_size: int = layer.input_size
        self.hidden_size: int = layer.hidden_size
        self.output_size: int = layer.output_size
        self.directions: int = layer.directions
        self.projected: bool = layer.projected
        self.peepholes: bool = layer.peephole is not None
        self._offsets = offsets
        sides, total, hidden = layer.directions, int(offsets[-1]), layer.hidden_size
        shapes = {
            "plan": ((sides, total, (hidden + 7) // 8), np.uint8),
            "cell": ((sides, total, hidden), np.float32 if profile == Profile.FLOAT32 else np.int16),
            "hidden": ((sides, total, layer.output_size), np.int8),
            "accumulators": ((sides, total, 2, 4 * hidden), np.int32),
        }
        self.arrays = {name: np.zeros(*shapes[name]) for name in shapes if name in record}
        self.low_count = np.zeros((sides, len(offsets) - 1), np.int64)
        self.overflow_count = np.zeros((sides, len(offsets) - 1), np.int64)

    @property
    def low_share(self) -> float:
        """Low element-steps over all element-steps of the layer."""
        return int(self.low_count.sum()) / (self.directions * int(self._offsets[-1]) * self.hidden_size)

    def _rows(self, name: str, sequence: int, direction: int) -> np.ndarray:
        if name not in self.arrays:
            raise InputError(f"{name} was not recorded: pass record=({name!r},) to emulate")
        if not 0 <= sequence < len(self._offsets) - 1:
            raise InputError(f"sequence {sequence}: the run has {len(self._offsets) - 1}")
        if not 0 <= direction < self.directions:
            raise InputError(f"direction {direction}: the layer has {self.directions}")
        return self.arrays[name][direction, self._offsets[sequence] : self._offsets[sequence + 1]]

    def low(self, sequence: int, direction: int = 0) -> np.ndarray:
        """Which elements ran at low precision: bool [time, hidden], rows are time positions."""
        bits = self._rows("plan", sequence, direction)
        return np.unpackbits(bits, axis=1, count=self.hidden_size, bitorder="little").astype(bool)

    def packed(self, start: int, stop: int, direction: int = 0) -> np.ndarray:
        """Rows of the plan over the concatenated steps: uint8 [stop - start, ceil(hidden / 8)], bit 1 = low, little
        order."""
        self._rows("plan", 0, direction)
        return self.arrays["plan"][direction, start:stop]

    def cell(self, sequence: int, direction: int = 0) -> np.ndarray:
        """Cell state: float32 (or int16 with 11 fraction bits) [time, hidden]."""
        return self._rows("cell", sequence, direction)

    def hidden(self, sequence: int, direction: int = 0) -> np.ndarray:
        """h indices: int8 [time, output]."""
        return self._rows("hidden", sequence, direction)

    def accumulators(self, sequence: int, direction: int = 0) -> np.ndarray:
        """Accumulators after they were brought to their width: int32 [time, 2, 4 * hidden], x part and h part."""
        return self._rows("accumulators", sequence, direction)


class Run:
    """Result of `fxp.emulate`.

    Attributes
    ----------
    outputs : float32 [batch, time, outputs], or a list of [time, outputs], as the inputs were
        The last layer's h, dequantised from its indices.
    layers : list of RunLayer
    low_share : float
        Low element-steps over all element-steps of all layers.
    overflows : int
        Accumulator sums that were outside their range.
    state : State or None
        To go on from; None for bidirectional networks.
    ids, lengths, offsets : int64 [sequences], [sequences], [sequences + 1]
    controller : dict
        Name and parameters.
    high, low, profile, model_digest : as in a trace
    """

    def __init__(
        self,
        network: Network,
        lengths: np.ndarray,
        ids: Sequence[int],
        record: Sequence[str],
        controller: dict[str, Any],
    ):
        self.lengths = np.asarray(lengths, np.int64)
        self.offsets = np.zeros(len(self.lengths) + 1, np.int64)
        np.add.accumulate(self.lengths, out=self.offsets[1:])
        self.ids = np.array(ids, np.int64)
        self.controller = controller
        self.high, self.low = network.formats.high, network.formats.low
        self.profile = network.formats.profile
        self.model_digest = network.digest
        self.layers = [RunLayer(layer, self.offsets, self.profile, record) for layer in network.layers]
        self.outputs: Any = None
        self.state: Any = None

    def write(self, layer: int, direction: int, row: int, low: np.ndarray, **values: np.ndarray | None) -> None:
        """Keep the rows of a piece (those quantities that are recorded)."""
        for name, rows in (("plan", low), *values.items()):
            array = self.layers[layer].arrays.get(name)
            if array is not None and rows is not None:
                array[direction, row : row + len(rows)] = rows

    def count(self, layer: int, direction: int, sequence: int, low: int, overflow: int) -> None:
        """Add to the counts of a sequence."""
        self.layers[layer].low_count[direction, sequence] += low
        self.layers[layer].overflow_count[direction, sequence] += overflow

    @property
    def low_share(self) -> float:
        low = sum(int(layer.low_count.sum()) for layer in self.layers)
        return low / sum(layer.directions * layer.hidden_size * int(self.offsets[-1]) for layer in self.layers)

    @property
    def overflows(self) -> int:
        return sum(int(layer.overflow_count.sum()) for layer in self.layers)
