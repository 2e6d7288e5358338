"""Reading a trace file: the precision of every element at every step, counts, optional states."""

from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np

from traces import plan, schema, store
from traces.errors import InputError
from traces.fields import Node
from traces.ragged import Ragged, check_ids, check_offsets, position

_BLOCK = 1 << 22
"""Bytes of a plan that are held at once when all of it is visited."""


class TraceLayer:
    """One layer of an open trace.

    Sequences are given by their position in the file, 0 to S - 1; direction 0 is forward, 1 backward.

    Attributes
    ----------
    input_size, hidden_size, output_size, directions : int
    projected, peepholes : bool
    low_count : int64 [D, S]
        Low element-steps of each sequence.
    overflow_count : int64 [D, S]
        Sums outside the accumulator.
    """

    def __init__(self, trace: "Trace", node: Node) -> None:
        about = node.attributes
        self.input_size: int = about["input_size"]
        self.hidden_size: int = about["hidden_size"]
        self.output_size: int = about["output_size"]
        self.directions: int = about["directions"]
        self.projected: bool = about["projected"]
        self.peepholes: bool = about.get("peepholes", False)
        self._trace = trace
        self._arrays: dict[str, h5py.Dataset] = node.arrays
        self.low_count: np.ndarray = node.arrays["low_count"][()]
        self.overflow_count: np.ndarray = node.arrays["overflow_count"][()]

    @property
    def recorded(self) -> tuple[str, ...]:
        """What was recorded besides the plan: names out of cell, hidden, accumulators."""
        return tuple(name for name in ("cell", "hidden", "accumulators") if name in self._arrays)

    @property
    def low_share(self) -> float:
        """Low element-steps of the layer in all of its element-steps."""
        return int(self.low_count.sum()) / (self.directions * self._trace.total * self.hidden_size)

    def packed(self, start: int, stop: int, direction: int = 0) -> np.ndarray:
        """Rows start to stop (exclusive) of the concatenated steps, packed: uint8 [rows, ceil(H / 8)]."""
        if not 0 <= start <= stop <= self._trace.total:
            raise InputError(f"rows {start} to {stop} do not exist; there are {self._trace.total}")
        rows = self._rows("plan", start, stop, direction)
        with store.reading(self._trace.path):
            if not plan.padded(rows, self.hidden_size):
                raise InputError(f"plan has bits set beyond its {self.hidden_size} elements")
        return rows

    def rows(self, name: str, start: int, stop: int, direction: int = 0) -> np.ndarray:
        """Rows start to stop (exclusive) of the concatenated steps of a recorded quantity.

        Parameters
        ----------
        name : {"cell", "hidden", "accumulators"}

        Returns
        -------
        As the accessor of that name gives them.
        """
        if name not in ("cell", "hidden", "accumulators"):
            raise InputError(f"quantity {name!r} is unknown; known are cell, hidden, accumulators")
        if not 0 <= start <= stop <= self._trace.total:
            raise InputError(f"rows {start} to {stop} do not exist; there are {self._trace.total}")
        return self._rows(name, start, stop, direction)

    def low(self, sequence: int, direction: int = 0) -> np.ndarray:
        """Which elements ran at low precision, bool [time, H], by time position."""
        return plan.unpack(self.packed(*self._trace.bounds(sequence), direction), self.hidden_size)

    def cell(self, sequence: int, direction: int = 0) -> np.ndarray:
        """Cell state after each step, float32 or int16 [time, H]."""
        return self._rows("cell", *self._trace.bounds(sequence), direction)

    def hidden(self, sequence: int, direction: int = 0) -> np.ndarray:
        """Index of h after each step, int8 [time, R]."""
        return self._rows("hidden", *self._trace.bounds(sequence), direction)

    def accumulators(self, sequence: int, direction: int = 0) -> np.ndarray:
        """Accumulators of each step, int32 [time, 2, 4H]: x part, h part."""
        return self._rows("accumulators", *self._trace.bounds(sequence), direction)

    def _rows(self, name: str, start: int, stop: int, direction: int) -> np.ndarray:
        if name not in self._arrays:
            raise InputError(f"{name} was not recorded in this trace; run with record=({name!r},)")
        if direction not in range(self.directions):
            raise InputError(f"direction {direction!r} does not exist; the layer has {self.directions}")
        with store.reading(self._trace.path):
            return self._arrays[name][direction, start:stop]


class Trace(Ragged):
    """An open trace file; a context manager. Plans and states are read as they are asked for.

    Attributes
    ----------
    layers : list of TraceLayer
    controller : dict
        Its name and its parameters.
    high, low, accumulator_bits, seed : int
        The seed is -1 where there is none.
    profile, overflow, model_digest, data_digest, package_version : str
    ids : int64 [S]
    offsets : int64 [S + 1]
        First step of each sequence among the concatenated steps, then their number.
    """

    def __init__(self, path: store.Pathlike) -> None:
        self.path = path
        self._file = store.open_file(path)
        try:
            with store.reading(path):
                self._open(schema.check(self._file, "trace")[1])
        except BaseException:
            self._file.close()
            raise

    def _open(self, node: Node) -> None:
        about: dict[str, Any] = node.attributes
        self.controller: dict[str, Any] = about["controller"]
        self.model_digest: str = about["model_digest"]
        self.data_digest: str = about["data_digest"]
        self.package_version: str = about["package_version"]
        self.seed: int = about["seed"]
        self.high: int = about["high"]
        self.low: int = about["low"]
        self.profile: str = about["profile"]
        self.accumulator_bits: int = about["accumulator_bits"]
        self.overflow: str = about["overflow"]
        if self.low > self.high:
            raise InputError(f"attribute low is {self.low}; it must not exceed high, which is {self.high}")
        self.ids: np.ndarray = node.arrays["ids"][()]
        self.offsets: np.ndarray = node.arrays["offsets"][()]
        check_offsets(self.offsets, node.lists["layers"][0].arrays["plan"].shape[1])
        check_ids(self.ids)
        self.layers = [TraceLayer(self, child) for child in node.lists["layers"]]
        cell = np.int16 if self.profile == "fixed" else np.float32
        for number, (layer, child) in enumerate(zip(self.layers, node.lists["layers"], strict=True)):
            most = self.lengths * layer.hidden_size
            if (
                (layer.low_count < 0).any()
                or (layer.low_count > most).any()
                or (layer.overflow_count < 0).any()
            ):
                raise InputError(
                    f"layers/{number}: counts are negative, or more low element-steps than there are"
                )
            if "cell" in child.arrays and child.arrays["cell"].dtype != cell:
                raise InputError(f"layers/{number}/cell must hold {np.dtype(cell)} in profile {self.profile}")

    @property
    def low_share(self) -> float:
        """Low element-steps in all element-steps of all layers and directions."""
        low = sum(int(layer.low_count.sum()) for layer in self.layers)
        return low / (self.total * sum(layer.directions * layer.hidden_size for layer in self.layers))

    def bounds(self, sequence: int) -> tuple[int, int]:
        """First and last (exclusive) row of a sequence among the concatenated steps."""
        number = position(sequence, len(self.ids))
        return int(self.offsets[number]), int(self.offsets[number + 1])

    def digest(self) -> str:
        """SHA-256 (hexadecimal) of what ran and of its plan; not of recorded states and package version."""
        digest = store.Digest("trace")
        for name in ("model_digest", "data_digest", "high", "low", "profile", "accumulator_bits", "overflow"):
            digest.text(name, getattr(self, name))
        digest.array("ids", "<i8", self.ids.shape, [self.ids])
        digest.array("offsets", "<i8", self.offsets.shape, [self.offsets])
        for layer in self.layers:
            for name in ("input_size", "hidden_size", "output_size", "directions", "projected"):
                digest.text(name, getattr(layer, name))
            if layer.peepholes:
                digest.text("peepholes", True)
            width = -(-layer.hidden_size // 8)
            step = max(1, _BLOCK // width)
            for direction in range(layer.directions):
                blocks = (
                    layer.packed(start, min(start + step, self.total), direction)
                    for start in range(0, self.total, step)
                )
                digest.array("plan", "|u1", (self.total, width), blocks)
            digest.array("overflow_count", "<i8", layer.overflow_count.shape, [layer.overflow_count])
        return digest.hex()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
