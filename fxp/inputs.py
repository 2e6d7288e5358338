"""Inputs of an emulation, whatever the caller has: a batch, a list of sequences, or an opened data file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fxp.network import Network
from fxp.quantise import embed
from traces import InputError
from traces.data import Sequences


class Inputs:
    """Sequences of features, read piece by piece.

    Parameters
    ----------
    network : Network
        Its embedding, if any, turns tokens into features.
    source : float32 [batch, time, features], list of float32 [time, features], or traces.Data (in memory or open)
        With an embedding: int [batch, time], list of int [time].
    where : str
        What error messages begin with: the file that the data comes from.

    Raises
    ------
    InputError
        Empty data or sequences, wrong number of features or dimensions; NaN or infinite values (when read).
    """

    def __init__(self, network: Network, source: Any, where: str = ""):
        self.where = f"{where}: " if where else ""
        self._network = network
        self._tokens = network.model.embedding is not None
        self.dense = False
        self.default_ids: Sequence[int] | None = None
        if isinstance(source, Sequences):
            self._source: Any = source
            self.lengths = np.asarray(source.lengths)
            self.default_ids = [int(i) for i in source.ids]
            kind = np.dtype(np.int32 if source.tokens else np.float32)
            self._check_form(1 if source.tokens else 2, kind, source.features)
        else:
            source = _as_array(source) if hasattr(source, "detach") else source
            self.dense = isinstance(source, np.ndarray)
            if self.dense and source.ndim != (2 if self._tokens else 3):
                raise InputError(
                    f"{self.where}inputs have {source.ndim} dimensions, expected {self._expected('batch')} or a list "
                    f"of {self._expected()}"
                )
            if not isinstance(source, Iterable) or isinstance(source, (str, bytes, Mapping)):
                raise InputError(
                    f"inputs are {type(source).__name__}, expected {self._expected('batch')} or a list of "
                    f"{self._expected()}"
                )
            if isinstance(source, np.ndarray):
                self._source = source
                self.lengths = np.array([source.shape[1]] * len(source), np.int64)
                self._check_form(source.ndim - 1, source.dtype, source.shape[-1], "sequence 0: ")
            else:
                self._source = [_as_array(x, f"sequence {number}: ") for number, x in enumerate(source)]
                self.lengths = np.array([x.shape[0] if x.ndim else 0 for x in self._source], np.int64)
                for number, x in enumerate(self._source):
                    self._check_form(x.ndim, x.dtype, x.shape[-1] if x.ndim else 0, f"sequence {number}: ")
        if not len(self.lengths):
            raise InputError(f"{self.where}there are no input sequences")
        if not all(self.lengths.tolist()):
            raise InputError(f"{self.where}sequence {int(np.argmin(self.lengths))} is empty")

    def __len__(self) -> int:
        return len(self.lengths)

    def _expected(self, batch: str = "") -> str:
        axes = ([batch] if batch else []) + ["time"] + ([] if self._tokens else ["features"])
        return f"[{', '.join(axes)}]"

    def _check_form(self, dimensions: int, kind: np.dtype, features: int, where: str = "") -> None:
        where = self.where + where
        if dimensions != (1 if self._tokens else 2):
            raise InputError(f"{where}inputs of {dimensions} dimensions, expected {self._expected()}")
        if self._tokens:
            if kind.kind not in "iu":
                raise InputError(
                    f"{where}inputs are of type {kind}, but the network has an embedding and takes int tokens"
                )
        elif kind.kind not in "fiu":
            raise InputError(f"{where}inputs are of type {kind}, expected float32")
        elif features != self._network.features:
            raise InputError(f"{where}{features} features, but the network takes {self._network.features}")

    def chunk(self, number: int, start: int, stop: int) -> np.ndarray:
        """Features float32 [stop - start, features] of one sequence."""
        if isinstance(self._source, Sequences):
            values = np.asarray(self._source.chunk(number, start, stop))
        else:
            values = self._source[number][start:stop]
        table = self._network.model.embedding
        if table is not None:
            try:
                return embed(table, values)
            except InputError as error:
                raise InputError(f"{self.where}sequence {number}: {error}") from None
        if values.dtype != np.float32:
            with np.errstate(over="ignore"):
                values = np.asarray(values, np.float32)
        if not np.isfinite(values).all():
            raise InputError(
                f"{self.where}sequence {number}: NaN or infinite features between steps {start} and {stop}"
            )
        return values

    def whole(self, number: int) -> np.ndarray:
        """Features of a whole sequence."""
        return self.chunk(number, 0, int(self.lengths[number]))


def _as_array(x: Any, where: str = "") -> np.ndarray:
    """An array of whatever a caller has; tensors of short floats, which NumPy does not know, become float32."""
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        return (x.float() if x.is_floating_point() else x).numpy()
    try:
        return np.asarray(x)
    except ValueError:
        raise InputError(f"{where}the inputs do not form an array") from None
