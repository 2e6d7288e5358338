"""A trace lived again on its model and data: cell states that it lacks, and their errors against the float network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import accel.controllers as controllers
from fxp import floating
from fxp.emulator import emulate
from fxp.formats import Profile
from fxp.inputs import Inputs
from fxp.network import Network
from fxp.observation import subset
from fxp.quantise import float_layers
from fxp.run import Run
from traces import InputError
from traces.data import Data, Sequences

STEPS = 8192
"""Most steps that errors are taken over."""
VALUES = 1 << 23
"""Most cell states of one emulation that are held at once."""
CELL_FRACTION = 2.0**-11
"""Value of the last bit of a cell state in the fixed profile."""


def cell_values(cell: np.ndarray, profile: str) -> np.ndarray:
    """Cell states as real numbers, float64, from what a trace or a run recorded."""
    values = cell.astype(np.float64)
    return values * CELL_FRACTION if profile == Profile.FIXED else values


@dataclass(frozen=True)
class PhaseError:
    """Error of the cell states of one variant against the float network.

    Attributes
    ----------
    variant : str
    relative : [float or None, float or None]
        Sum of |c - c_float| over sum of |c_float|, over the element-steps that the trace ran at low precision and over
        those that it ran at high precision; None where there are none.
    absolute : [float or None, float or None]
        Mean of |c - c_float| over the same.
    """

    variant: str
    relative: tuple[float | None, float | None]
    absolute: tuple[float | None, float | None]


@dataclass(frozen=True)
class PhaseErrors:
    """Errors of several variants over the same element-steps: `counts` low ones and high ones of the trace."""

    rows: list[PhaseError]
    counts: tuple[int, int]
    sequences: int
    steps: int
    whole: bool
    """Whether these are all steps of the trace."""


class Replay:
    """A trace with the model and the data that it came from.

    Parameters
    ----------
    network : Network
    data : data, in memory or open
    trace : open trace
    where : (str, str)
        What messages call model and data.

    Raises
    ------
    InputError
        The model or the data is not the one of the trace.
    """

    def __init__(self, network: Network, data: Sequences, trace: Any, where: tuple[str, str] = ("model", "data")):
        if trace.model_digest and trace.model_digest != network.digest:
            raise InputError(
                f"{where[0]}: is not the model of the trace: digest {network.digest[:12]}, the trace has "
                f"{trace.model_digest[:12]}"
            )
        sizes = [(n.hidden_size, n.directions, n.input_size) for n in network.layers]
        if sizes != [(n.hidden_size, n.directions, n.input_size) for n in trace.layers]:
            raise InputError(f"{where[0]}: its layers have other sizes than those of the trace")
        Inputs(network, data, where[1])
        rows = {int(identity): row for row, identity in enumerate(data.ids)}
        lengths = data.lengths
        self._rows = []
        for identity, length in zip(trace.ids.tolist(), trace.lengths.tolist(), strict=True):
            if identity not in rows or lengths[rows[identity]] != length:
                raise InputError(f"{where[1]}: has no sequence of id {identity} with {length} steps, as the trace has")
            self._rows.append(rows[identity])
        if trace.data_digest and trace.data_digest != data.digest():
            raise InputError(f"{where[1]}: is not the data of the trace: its digest differs")
        self.network, self.data, self._trace = network, data, trace

    def run(self, sequences: Sequence[int], controller: Any = None, steps: int | None = None) -> Run:
        """Emulate some sequences of the trace (by position) with plan and cell states recorded.

        Parameters
        ----------
        controller : the trace's own plan by default
        steps : emulate only this many of each sequence; a bidirectional network needs them all
        """
        return self._emulate(self._part(sequences, steps), controller)

    def _part(self, sequences: Sequence[int], steps: int | None = None) -> Data:
        chosen = [self._rows[number] for number in sequences]
        data = subset(self.data, chosen)
        if steps is None or self.network.directions == 2:
            return data
        return Data.of([x[:steps] for x in data], ids=data.ids)

    def _emulate(self, data: Data, controller: Any = None) -> Run:
        controller = controllers.Schedule(self._trace) if controller is None else controller
        return emulate(self.network, data, controller, record=("plan", "cell"))

    def errors(self, most: int = STEPS) -> PhaseErrors:
        """Errors of the cell states, of the trace and of both static precisions, over its first steps.

        Parameters
        ----------
        most : steps, over all sequences together; the first sequence of a bidirectional network is used in any case
        """
        widest = sum(layer.directions * layer.hidden_size for layer in self.network.layers)
        room = min(most, max(1, VALUES // widest))
        lengths = np.cumsum(self._trace.lengths)
        count = max(1, int(np.searchsorted(lengths, room, side="right")))
        part = self._part(range(count), room)
        source = Inputs(self.network, part)
        _, exact = floating.run(float_layers(self.network.model), [source.whole(n) for n in range(count)])
        formats = self.network.formats
        own = self._emulate(part)
        variants = [(f"static {formats.low} bits", controllers.Static(formats.low)), ("this trace", None)]
        if formats.high != formats.low:
            variants.append((f"static {formats.high} bits", controllers.Static(formats.high)))
        rows, counts = [], (0, 0)
        for name, controller in variants:
            done = own if controller is None else self._emulate(part, controller)
            row, counts = _phase_error(name, done, own, exact)
            rows.append(row)
        return PhaseErrors(rows, counts, count, part.total, part.total == self._trace.total)


def _phase_error(name: str, run: Run, own: Run, exact: Any) -> tuple[PhaseError, tuple[int, int]]:
    wrong, size, count = np.zeros(2), np.zeros(2), np.zeros(2, np.int64)
    for number, layer in enumerate(run.layers):
        for direction in range(layer.directions):
            for sequence in range(len(run.lengths)):
                reference = exact[number][sequence][direction].astype(np.float64)
                off = np.abs(cell_values(layer.cell(sequence, direction), run.profile) - reference)
                low = own.layers[number].low(sequence, direction)
                for phase, mask in enumerate((low, ~low)):
                    wrong[phase] += off[mask].sum()
                    size[phase] += np.abs(reference[mask]).sum()
                    count[phase] += mask.sum()
    relative = tuple(float(wrong[n] / size[n]) if size[n] else None for n in (0, 1))
    absolute = tuple(float(wrong[n] / count[n]) if count[n] else None for n in (0, 1))
    return PhaseError(name, relative, absolute), (int(count[0]), int(count[1]))  # type: ignore[arg-type]
