"""Writing a trace file while an emulation runs, in bounded memory."""

import threading
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np

from traces import plan, schema, store
from traces.columns import Column, PlanColumn
from traces.errors import InputError
from traces.fields import Node, conform
from traces.ragged import ids_of, offsets_of, position

SPEC = schema.SCHEMAS["trace"]
RECORDS = ("plan", "cell", "hidden", "accumulators")
"""What can be recorded; the plan always is."""


class TraceWriter:
    """Writes a trace; a context manager. The file appears at `path` when the block ends well.

    Parameters
    ----------
    path : path
    lengths : int [S]
        Steps of each sequence.
    layers : list of (N, H, R, D, projected) or (N, H, R, D, projected, peepholes)
        Sizes of each layer: inputs, cell-state elements, outputs, directions, whether h is projected and whether the
        cell state acts on the gates (default: it does not).
    ids : int [S], optional
        Distinct identities; 0 to S - 1 by default.
    record : collection of {"plan", "cell", "hidden", "accumulators"}
        What to record besides the plan.
    controller : dict
        Its name and parameters; JSON can express it.
    high, low, profile, accumulator_bits, overflow
        Arithmetic of the model.
    model_digest, data_digest, package_version : str
    seed : int
        -1 for none.

    Raises
    ------
    InputError
        An unusable parameter, or a path that cannot be written.
    """

    def __init__(
        self,
        path: store.Pathlike,
        *,
        lengths: Any,
        layers: Sequence[tuple[int, int, int, int, bool] | tuple[int, int, int, int, bool, bool]],
        ids: Any = None,
        record: Collection[str] = (),
        controller: Mapping[str, Any],
        high: int = 8,
        low: int = 4,
        profile: str = "float32",
        accumulator_bits: int = 24,
        overflow: str = "wrap",
        model_digest: str = "",
        data_digest: str = "",
        seed: int = -1,
        package_version: str = "",
    ) -> None:
        unknown = set(record) - set(RECORDS)
        if unknown:
            raise InputError(f"record names {sorted(unknown)[0]!r}; known are {', '.join(RECORDS)}")
        self._record = [name for name in RECORDS if name == "plan" or name in record]
        self._offsets = offsets_of(lengths)
        sequences, self._total = len(self._offsets) - 1, int(self._offsets[-1])
        self._shapes: list[dict[str, tuple[int, ...]]] = []
        self._nodes: list[Node] = []
        for inputs, hidden, outputs, directions, projected, *peepholes in layers:
            sizes = [("input_size", inputs), ("hidden_size", hidden), ("output_size", outputs),
                     ("directions", directions), ("projected", projected)]  # fmt: skip
            # An absent flag keeps the file readable by versions that know of none.
            sizes += [("peepholes", True)] if any(peepholes) else []
            self._shapes.append({
                "plan": (directions, self._total, -(-hidden // 8)),
                "cell": (directions, self._total, hidden),
                "hidden": (directions, self._total, outputs),
                "accumulators": (directions, self._total, 2, 4 * hidden),
            })  # fmt: skip
            counts = {
                name: np.zeros((directions, sequences), np.int64) for name in ("low_count", "overflow_count")
            }
            self._nodes.append(Node(dict(sizes), counts))
        self._root = Node(
            {
                "model_digest": model_digest,
                "data_digest": data_digest,
                "controller": dict(controller),
                "seed": seed,
                "package_version": package_version,
                "high": high,
                "low": low,
                "profile": profile,
                "accumulator_bits": accumulator_bits,
                "overflow": overflow,
            },
            {"ids": ids_of(ids, sequences), "offsets": self._offsets},
            lists={"layers": self._nodes},
        )
        self._dtypes = {
            "plan": "|u1",
            "cell": "<i2" if profile == "fixed" else "<f4",
            "hidden": "|i1",
            "accumulators": "<i4",
        }
        self._lock = threading.Lock()
        self._check()
        self._output = store.Output(path)
        try:
            with self._output.writing():
                self._create()
        except BaseException:
            self._output.discard()
            raise

    def _check(self) -> None:
        """Hold the parameters against the schema before a file is made."""
        about = self._root.attributes
        empty = [
            Node(
                dict(node.attributes),
                {**node.arrays, "plan": _Shape(shapes["plan"], np.dtype(np.uint8))},
            )
            for node, shapes in zip(self._nodes, self._shapes, strict=True)
        ]
        conform(SPEC, Node(about, self._root.arrays, lists={"layers": empty}))
        if about["low"] > about["high"]:
            raise InputError(f"low is {about['low']}; it must not exceed high, which is {about['high']}")

    def _create(self) -> None:
        file = self._output.file
        store.label(file, schema.header("trace", self._root))
        self._columns: dict[tuple[int, int, str], Column] = {}
        self._written = [
            np.zeros((len(self._record), shapes["plan"][0]), np.int64) for shapes in self._shapes
        ]
        self._low = [np.zeros(shapes["plan"][0], np.int64) for shapes in self._shapes]
        for number, shapes in enumerate(self._shapes):
            group = file.create_group(f"layers/{number}")
            for name in self._record:
                shape, dtype = shapes[name], np.dtype(self._dtypes[name])
                dataset = group.create_dataset(name, shape, dtype, **_layout(shape, dtype.itemsize))
                for direction in range(shape[0]):
                    kind = PlanColumn if name == "plan" and dataset.chunks else Column
                    self._columns[number, direction, name] = kind(dataset, direction)

    def write(
        self,
        layer: int,
        direction: int,
        row: int,
        low: np.ndarray,
        cell: np.ndarray | None = None,
        hidden: np.ndarray | None = None,
        accumulators: np.ndarray | None = None,
    ) -> None:
        """Write n rows of the concatenated steps, from row `row`.

        Each row must be written once. Calls may come from several threads.

        Parameters
        ----------
        layer, direction, row : int
        low : bool [n, H], or packed uint8 [n, ceil(H / 8)]
        cell : float32 or int16 [n, H], optional
        hidden : int8 [n, R], optional
        accumulators : int32 [n, 2, 4H], optional
            Required if, and only if, they are recorded.
        """
        if not 0 <= layer < len(self._shapes) or not 0 <= direction < self._shapes[layer]["plan"][0]:
            raise InputError(f"layer {layer}, direction {direction} does not exist in the trace")
        given = {"plan": plan.pack(low) if low.dtype == bool else low, "cell": cell, "hidden": hidden,
                 "accumulators": accumulators}  # fmt: skip
        rows = len(low)
        if not 0 <= row <= row + rows <= self._total:
            raise InputError(f"rows {row} to {row + rows} do not exist; the trace has {self._total}")
        if low.dtype == bool and low.shape[1:] != self._shapes[layer]["cell"][2:]:
            raise InputError(
                f"low has shape {list(low.shape)}; the layer has {self._shapes[layer]['cell'][2]} elements"
            )
        for name, values in given.items():
            if (values is None) == (name in self._record):
                raise InputError(f"{name} must be given if and only if it is recorded")
            if values is not None and (
                values.shape != (rows, *self._shapes[layer][name][2:]) or values.dtype != self._dtypes[name]
            ):
                raise InputError(
                    f"{name} holds {values.dtype} {list(values.shape)}; "
                    f"it must hold {np.dtype(self._dtypes[name])} {[rows, *self._shapes[layer][name][2:]]}"
                )
        packed = given["plan"]
        assert packed is not None
        if not plan.padded(packed, self._shapes[layer]["cell"][2]):
            raise InputError("the packed plan has bits set beyond its elements")
        with self._lock, self._output.writing():
            for number, name in enumerate(self._record):
                self._columns[layer, direction, name].write(row, given[name])  # type: ignore[arg-type]
                self._written[layer][number, direction] += rows
            self._low[layer][direction] += plan.count(packed)

    def count(self, layer: int, direction: int, sequence: int, low: int = 0, overflow: int = 0) -> None:
        """Add to the low element-steps and the overflows of a sequence (by its position)."""
        if not 0 <= layer < len(self._nodes) or not 0 <= direction < self._shapes[layer]["plan"][0]:
            raise InputError(f"layer {layer}, direction {direction} does not exist in the trace")
        sequence = position(sequence, len(self._offsets) - 1)
        with self._lock:
            self._nodes[layer].arrays["low_count"][direction, sequence] += low
            self._nodes[layer].arrays["overflow_count"][direction, sequence] += overflow

    def close(self) -> None:
        """Complete the file and move it into place.

        Raises
        ------
        RuntimeError
            Rows are missing or were written twice, or the low counts do not add up to the plan.
        InputError
            The file cannot be written.
        """
        try:
            self._complete()
            with self._output.writing():
                for column in self._columns.values():
                    column.flush()
                store.save(SPEC, self._root, self._output.file)
        except BaseException:
            self._output.discard()
            raise
        self._output.commit()

    def _complete(self) -> None:
        for number, node in enumerate(self._nodes):
            if (self._written[number] != self._total).any():
                raise RuntimeError(f"layer {number}: rows of the trace are missing or were written twice")
            if (node.arrays["low_count"].sum(axis=1) != self._low[number]).any():
                raise RuntimeError(f"layer {number}: low counts differ from the plan that was written")

    def discard(self) -> None:
        """Give up: remove what was written; a file that stood at the path stays as it was."""
        self._output.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:
            self.discard()


class _Shape:
    """Stands for an array that is not there yet."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.shape, self.dtype = shape, dtype


def _layout(shape: tuple[int, ...], itemsize: int) -> dict[str, Any]:
    """Chunks of whole rows of one direction; contiguous if tiny."""
    row = itemsize * int(np.prod(shape[2:], dtype=np.int64))
    if row * shape[0] * shape[1] < 512:
        return {}
    return {"chunks": (1, min(shape[1], max(1, store.CHUNK // row)), *shape[2:]), **store.COMPRESSION}
