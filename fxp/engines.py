"""The engines: each runs a piece of one sequence through one direction of one layer, and all give the same bits.

`portable` is plain compiled loops, `fast` the quickest kernels this machine has (`amx`, `vnni` and `avx2` name those of
one instruction set), `reference` plain Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from accel.controllers import Encoded, Site
from fxp import instructions
from fxp.formats import Profile
from fxp.network import Network
from fxp.team import Team
from traces import InputError

NAMES = ("fast", "portable", "reference", "amx", "vnni", "avx2")


@dataclass
class LayerState:
    """What one direction of a layer carries from step to step.

    h int8 [R]; c float32 or int16 [H]; low uint8 [H], the mask of the next step (of the
    last one if the next step's own activations decide); words int32 [4, H], the
    controller's state (`accel/controller.pyx`); user: the copy of a user's own controller, if that decides; fresh:
    the engine has still to set the first mask when it runs.
    """

    h: np.ndarray
    c: np.ndarray
    low: np.ndarray
    words: np.ndarray
    user: Any = None
    fresh: bool = False

    @classmethod
    def zero(cls, hidden: int, output: int, profile: str) -> LayerState:
        """The state before the first step; the mask is still to be set."""
        kind = np.float32 if profile == Profile.FLOAT32 else np.int16
        return cls(
            np.zeros(output, np.int8),
            np.zeros(hidden, kind),
            np.zeros(hidden, np.uint8),
            np.zeros((4, hidden), np.int32),
        )


@dataclass
class Piece:
    """Results of some steps, rows in time positions: hidden int8 [T, R]; plan uint8 [T, ceil(H/8)];
    cell [T or 0, H]; accumulators int32 [T or 0, 2, 4H]; low and overflow: counts."""

    hidden: np.ndarray
    plan: np.ndarray
    cell: np.ndarray
    accumulators: np.ndarray
    low: int
    overflow: int

    @classmethod
    def empty(cls, steps: int, site: Site, output: int, cell: bool, accumulators: bool) -> Piece:
        """Arrays for `steps` steps."""
        kind = np.float32 if site.profile == Profile.FLOAT32 else np.int16
        return cls(
            np.empty((steps, output), np.int8),
            np.empty((steps, (site.hidden + 7) // 8), np.uint8),
            np.empty((steps if cell else 0, site.hidden), kind),
            np.empty((steps if accumulators else 0, 2, 4 * site.hidden), np.int32),
            0,
            0,
        )


@dataclass
class Job:
    """Steps of one sequence in one direction of one layer: x int8 [T, N] from step `step` on; `state` moves along."""

    site: Site
    encoded: Encoded
    state: LayerState
    x: np.ndarray
    step: int


class Engine(Protocol):
    """What the emulator asks of an engine."""

    group_size: int
    """Jobs that it likes to be given together."""

    def quantise_input(self, x: np.ndarray) -> np.ndarray:
        """Indices int8 [T, N] of layer 0's features float32 [T, N]."""

    def begin(self, controller: Any, site: Site, encoded: Encoded, state: LayerState) -> None:
        """Set the mask of the first step in `state.low`, or see that `run` does."""

    def team_size(self, sequences: int) -> int:
        """How many threads it can use to process so many sequences together."""

    def run(
        self, controller: Any, jobs: Sequence[Job], cell: bool, accumulators: bool, team: Team | None = None
    ) -> list[Piece]:
        """Process jobs of the same layer and direction; a result does not depend on the others, nor on the threads.

        team : the threads to do it, not more than `team_size`; None: this one
        """


class CompiledEngine:
    """The kernels of `fxp.kernels.portable`."""

    group_size = 1

    def __init__(self, network: Network):
        from fxp.kernels import portable

        self._kernels = portable
        self._network = network
        self._run = portable.run_float if network.formats.profile == Profile.FLOAT32 else portable.run_fixed

    def quantise_input(self, x: np.ndarray) -> np.ndarray:
        layer = self._network.layers[0]
        out = np.empty(x.shape, np.int8)
        x_scale, top = np.float32(layer.x_scale), np.float32(self._network.formats.top)
        self._kernels.quantise_input(np.ascontiguousarray(x), layer.input_scale, x_scale, top, out)
        return out

    def _arguments(self, encoded: Encoded, state: LayerState) -> tuple[Any, Any]:
        control = self._kernels.Control(encoded.kind, encoded.counts, encoded.reals, encoded.plan, encoded.first)
        return control, self._kernels.State(state.h, state.c, state.low, state.words)

    def begin(self, controller: Any, site: Site, encoded: Encoded, state: LayerState) -> None:
        self._kernels.begin(*self._arguments(encoded, state), 0)

    def team_size(self, sequences: int) -> int:
        return 1

    def run(
        self, controller: Any, jobs: Sequence[Job], cell: bool, accumulators: bool, team: Team | None = None
    ) -> list[Piece]:
        return [self._one(job, cell, accumulators) for job in jobs]

    def _one(self, job: Job, cell: bool, accumulators: bool) -> Piece:
        site, encoded, state, x, step = job.site, job.encoded, job.state, job.x, job.step
        prepared = self._network.prepared[site.layer]
        part = prepared.directions[site.direction]
        piece = Piece.empty(len(x), site, prepared.layer.output_size, cell, accumulators)
        counts = np.zeros(2, np.int64)
        record = self._kernels.Record(piece.hidden, piece.plan, piece.cell, piece.accumulators, counts)
        control, moving = self._arguments(encoded, state)
        self._run(
            np.ascontiguousarray(x),
            site.direction == 1,
            step,
            part.weights,
            part.widths,
            part.unit,
            control,
            moving,
            record,
        )
        piece.low, piece.overflow = int(counts[0]), int(counts[1])
        return piece


class ReferenceEngine:
    """The slow twin, `fxp.reference` and `accel.reference`: plain Python integers and binary32 steps."""

    group_size = 1

    def __init__(self, network: Network):
        self._network = network

    def quantise_input(self, x: np.ndarray) -> np.ndarray:
        from fxp import reference

        rows = reference.quantise_input(self._network.layers[0], x, self._network.formats.high)
        return np.array(rows, np.int8).reshape(x.shape)

    @staticmethod
    def _twin(controller: Any, site: Site) -> Any:
        from accel import reference

        return reference.twin(
            controller, profile=site.profile, hidden=site.hidden, length=site.length, sequence=site.sequence,
            layer=site.layer, direction=site.direction, high=site.high, low=site.low,
        )  # fmt: skip

    def begin(self, controller: Any, site: Site, encoded: Encoded, state: LayerState) -> None:
        state.low[:] = self._twin(controller, site).first()

    def team_size(self, sequences: int) -> int:
        return 1

    def run(
        self, controller: Any, jobs: Sequence[Job], cell: bool, accumulators: bool, team: Team | None = None
    ) -> list[Piece]:
        return [self._one(controller, job, cell, accumulators) for job in jobs]

    def _one(self, controller: Any, job: Job, cell: bool, accumulators: bool) -> Piece:
        site, state, x, step = job.site, job.state, job.x, job.step
        from fxp import reference

        twin = self._twin(controller, site)
        twin.restore(state.words, step)
        kind = np.float32 if site.profile == Profile.FLOAT32 else int
        before = {
            "h": [int(v) for v in state.h],
            "c": [kind(v) for v in state.c],
            "mask": [bool(v) for v in state.low],
        }
        result = reference.run_layer(self._network.model, site.layer, site.direction, x.tolist(), twin, before)
        state.h[:], state.c[:], state.low[:] = result.state["h"], result.state["c"], result.state["mask"]
        state.words[:] = twin.words()
        return Piece(
            result.hidden,
            np.packbits(result.low, axis=1, bitorder="little"),
            result.cell if cell else result.cell[:0],
            result.accumulators if accumulators else result.accumulators[:0],
            int(result.low.sum()),
            result.overflow,
        )


def check(name: str) -> None:
    """Raises InputError unless `name` is an engine."""
    if name not in NAMES:
        raise InputError(f"engine is {name!r}: expected one of {', '.join(NAMES)}")


def make(name: str, network: Network) -> Engine:
    """The engine of a name, for one network, which keeps it.

    `fast` is the one of the best instruction set this machine has (`fxp.instructions`), or `portable`.

    Raises
    ------
    InputError
        There is no such engine, or this machine lacks its instructions.
    """
    kind = _kind(name)
    engine: Engine | None = network.engines.get(kind)
    if engine is None:
        engine = network.engines[kind] = kind(network)
    return engine


def _kind(name: str) -> Callable[[Network], Engine]:
    check(name)
    if name == "reference":
        return ReferenceEngine
    chosen = instructions.best() if name == "fast" else name
    if chosen is None or chosen == "portable":
        return CompiledEngine
    instructions.require(chosen)
    from fxp import fast

    return fast.ENGINES[chosen]
