"""Emulation of a network: every sequence step by step at the precision its controller picks, bit for bit."""

from __future__ import annotations

import copy
import inspect
import os
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

import accel.controllers as controllers
import traces
from accel.controllers import Encoded, Site
from fxp import engines
from fxp.engines import Job, LayerState, Piece
from fxp.inputs import Inputs
from fxp.network import Network
from fxp.run import QUANTITIES, Run
from fxp.spill import Spill
from fxp.team import Team, finish, pool_of, processors
from traces import InputError

STEPS = 4096  # steps of a piece: bounds the memory of long sequences

Consume = Callable[[int, int, np.ndarray], None]


@dataclass
class SequenceState:
    """Where one sequence stands: its id, declared length (None: unknown), processed steps, and the state of every
    layer."""

    id: int
    length: int | None
    steps: int
    layers: list[LayerState]
    encoded: list[Encoded] = field(default_factory=list)
    """The controller for each layer while the sequence runs, where it is the same in every step."""


@dataclass
class State:
    """Where a batch of sequences stands, to go on from (`emulate(..., state=run.state)`)."""

    sequences: list[SequenceState]
    digest: str
    controller: Any

    def __len__(self) -> int:
        return len(self.sequences)


class Emulation:
    """One network under one controller with one engine; sequences advance piece by piece.

    Parameters
    ----------
    network : Network
    controller : built-in controller of `accel`, or a user's own
    engine : one of `fxp.engines.NAMES`
    sinks : objects with `write` and `count` as `traces.TraceWriter`
    quantities : which of "cell", "hidden" and "accumulators" the sinks want
    """

    def __init__(
        self,
        network: Network,
        controller: Any,
        engine: str,
        sinks: Sequence[Any] = (),
        quantities: Iterable[str] = (),
    ):
        controllers.check(controller)
        self.network = network
        self.controller = controller
        self._engine = engines.make(engine, network)
        self._sinks = sinks
        self._wanted = [name for name in QUANTITIES if name in quantities]
        self._built_in = isinstance(controller, controllers.Controller)
        self._lock = threading.Lock()
        self.given_up = False  # whether the threads are to stop at their next piece
        self.team: Team | None = None  # threads that process each group of sequences together
        # A user's own controller steers from outside: each step runs under the mask it set, whatever this one would
        # say next.
        self._steering = controller if self._built_in else controllers.Static(network.formats.high)

    @property
    def group_size(self) -> int:
        """Sequences that the engine likes to process side by side."""
        return self._engine.group_size if self._built_in else 1

    def team_size(self, sequences: int) -> int:
        """How many threads can process so many sequences together."""
        return self._engine.team_size(sequences) if self._built_in else 1

    def start(self, identity: int, length: int | None) -> SequenceState:
        """The state of a sequence before its first step; its layers are started as they are met."""
        return SequenceState(identity, length, 0, [])

    def _site(self, identity: int, length: int | None, layer: int, direction: int) -> Site:
        formats = self.network.formats
        stored = self.network.layers[layer]
        return Site(
            identity, length, layer, direction, stored.hidden_size, formats.high, formats.low, formats.profile,
            stored.output_size, stored.input_size,
        )  # fmt: skip

    def _start(self, site: Site, encoded: Encoded) -> LayerState:
        """A layer before its first step, with the mask of that step."""
        state = LayerState.zero(site.hidden, self.network.layers[site.layer].output_size, site.profile)
        if self._built_in:
            self._engine.begin(self._steering, site, encoded, state)
        else:
            state.user = copy.deepcopy(self.controller)
            first = _reset(state.user, site)
            state.low[:] = 1 if first is None else _mask(first, site)
        return state

    def _job(self, state: SequenceState, layer: int, x: np.ndarray) -> Job:
        """The next steps of a sequence in a layer (unidirectional networks)."""
        site = self._site(state.id, state.length, layer, 0)
        if layer < len(state.encoded):
            encoded = state.encoded[layer]
        else:
            encoded = self._steering.window(site, state.steps, state.steps + len(x))
            if not self._steering.windowed:
                state.encoded.append(encoded)
        if layer == len(state.layers):
            state.layers.append(self._start(site, encoded))
        return Job(site, encoded, state.layers[layer], x, state.steps)

    def advance(
        self, states: Sequence[SequenceState], x: Sequence[np.ndarray], sequences: Sequence[int], rows: Sequence[int]
    ) -> list[np.ndarray]:
        """Process a piece of each of some sequences, side by side (unidirectional networks).

        Parameters
        ----------
        states : moved along
        x : float32 [time, features] of each sequence
        sequences : their positions in the sinks
        rows : first row of each piece among the concatenated steps in the sinks

        Returns
        -------
        int8 [time, output] of each sequence: h indices of the last layer.
        """
        places = list(zip(sequences, rows, strict=True))
        indices = [self._engine.quantise_input(piece) for piece in x]
        for layer in range(len(self.network.layers)):
            jobs = [self._job(state, layer, x) for state, x in zip(states, indices, strict=True)]
            indices = self._run(jobs, places)
        for state, piece in zip(states, x, strict=True):
            state.steps += len(piece)
        return indices

    def sweep(
        self, states: Mapping[int, SequenceState], inputs: Inputs, rows: np.ndarray, consume: Consume, threads: int = 1
    ) -> None:
        """Process some whole sequences side by side, layer by layer in both directions, in pieces of `STEPS`.

        Parameters
        ----------
        states : of the sequences by their positions in the sinks; moved to their ends
        rows : int64 [sequences], first row of each among the concatenated steps in the sinks
        consume : called with (sequence, first step, int8 [time, 2 * output]) of every piece of the last layer
        threads : with two, the directions run side by side
        """
        lengths = {number: int(inputs.lengths[number]) for number in states}

        def features(number: int, start: int, stop: int) -> np.ndarray:
            return self._engine.quantise_input(inputs.chunk(number, start, stop))

        read: Callable[[int, int, int], np.ndarray] = features
        below = ExitStack()
        try:
            for layer in range(len(self.network.layers)):
                with ExitStack() as own:
                    width = self.network.layers[layer].output_size
                    sides = [own.enter_context(Spill(lengths, width)) for _ in range(2)]
                    jobs = [
                        partial(self._side, states, lengths, layer, direction, read, rows, side)
                        for direction, side in enumerate(sides)
                    ]
                    self._all(jobs, threads)
                    below.close()
                    below = own.pop_all()
                read = _beside(*sides)
            for number, length in lengths.items():
                for start in range(0, length, STEPS):
                    consume(number, start, read(number, start, min(start + STEPS, length)))
                states[number].steps = length
        finally:
            below.close()

    def _all(self, jobs: Sequence[Callable[[], None]], threads: int) -> None:
        """Do what does not depend on each other."""
        if threads == 1:
            for job in jobs:
                job()
            return
        with pool_of(threads) as pool:
            try:
                finish([pool.submit(job) for job in jobs])
            except BaseException:
                self.given_up = True
                raise

    def _side(
        self,
        states: Mapping[int, SequenceState],
        lengths: Mapping[int, int],
        layer: int,
        direction: int,
        read: Callable[[int, int, int], np.ndarray],
        rows: np.ndarray,
        target: Spill,
    ) -> None:
        """One direction of a layer, from each sequence's first step to its last or back."""
        sites = {n: self._site(state.id, state.length, layer, direction) for n, state in states.items()}
        controls = {n: self._steering.window(site, 0, STEPS) for n, site in sites.items()}
        moving = {n: self._start(site, controls[n]) for n, site in sites.items()}
        for begin in range(0, max(lengths.values()), STEPS):
            jobs, places, starts = [], [], []
            for number, site in sites.items():
                if lengths[number] <= begin:
                    continue
                end = min(begin + STEPS, lengths[number])
                start, stop = (lengths[number] - end, lengths[number] - begin) if direction else (begin, end)
                if self._steering.windowed and begin:
                    controls[number] = self._steering.window(site, begin, end)
                jobs.append(Job(site, controls[number], moving[number], read(number, start, stop), begin))
                places.append((number, int(rows[number]) + start))
                starts.append(start)
            for (number, _), start, hidden in zip(places, starts, self._run(jobs, places), strict=True):
                target.write(number, start, hidden)

    def _run(self, jobs: Sequence[Job], places: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        if not self._built_in:
            return [self._steered(job, *place) for job, place in zip(jobs, places, strict=True)]
        pieces = self._pieces(jobs)
        for job, piece, place in zip(jobs, pieces, places, strict=True):
            self._keep(job.site, piece, *place)
        return [piece.hidden for piece in pieces]

    def _steered(self, job: Job, sequence: int, row: int) -> np.ndarray:
        """A job under a user's own controller, step by step."""
        steps, state = len(job.x), job.state
        hidden = np.empty((steps, state.h.size), np.int8)
        for t in range(steps):
            position = steps - 1 - t if job.site.direction else t
            (piece,) = self._pieces([replace(job, x=job.x[position : position + 1], step=job.step + t)])
            hidden[position] = piece.hidden[0]
            self._keep(job.site, piece, sequence, row + position)
            state.low[:] = _mask(_step(state.user, state.c.copy(), state.h.copy()), job.site)
        return hidden

    def _pieces(self, jobs: Sequence[Job]) -> list[Piece]:
        # Under a user's controller a job is a single step, which is not worth a move to another processor.
        team = self.team if self._built_in else None
        return self._engine.run(self._steering, jobs, "cell" in self._wanted, "accumulators" in self._wanted, team)

    def _keep(self, site: Site, piece: Piece, sequence: int, row: int) -> None:
        if self.given_up:
            raise CancelledError
        values = {name: getattr(piece, name) for name in self._wanted}
        with self._lock:
            for sink in self._sinks:
                sink.write(site.layer, site.direction, row, low=piece.plan, **values)
                sink.count(site.layer, site.direction, sequence, low=piece.low, overflow=piece.overflow)


def _beside(forward: Spill, backward: Spill) -> Callable[[int, int, int], np.ndarray]:
    """Reads the outputs of both directions side by side."""

    def read(number: int, start: int, stop: int) -> np.ndarray:
        return np.concatenate([side.read(number, start, stop) for side in (forward, backward)], axis=1)

    return read


def _reset(user: Any, site: Site) -> Any:
    accepted = inspect.signature(user.reset).parameters
    extra = {
        name: value
        for name, value in (("layer", site.layer), ("direction", site.direction), ("hidden", site.hidden))
        if name in accepted or any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    }
    return user.reset(site.sequence, site.length, **extra)


def _step(user: Any, c: np.ndarray, h: np.ndarray) -> Any:
    return user.step(c, h) if hasattr(user, "step") else user(c, h)


def _mask(mask: Any, site: Site) -> np.ndarray:
    try:
        array = np.asarray(mask)
    except ValueError:
        array = np.asarray(None)
    if array.shape != (site.hidden,) or array.dtype.kind not in "biu":
        found = f"{array.dtype} {list(array.shape)}" if array.dtype.kind != "O" else repr(mask)
        raise InputError(
            f"the controller returned {found} in layer {site.layer}, expected a bool mask [{site.hidden}]"
        )
    return array != 0


def stream(
    network: Network,
    inputs: Inputs,
    emulation: Emulation,
    states: Sequence[SequenceState],
    consume: Consume,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
    skip: Collection[int] = (),
) -> None:
    """Emulate all sequences piece by piece.

    Parameters
    ----------
    consume : called with (sequence, first step of the piece, int8 [time, outputs]) for every piece,
        from any of the threads
    threads : see `arranged`; where there are enough, each direction has its own
    progress : called with the number of steps done since the last call
    skip : sequences that are left out
    """
    offsets = np.zeros(len(inputs) + 1, np.int64)
    np.add.accumulate(inputs.lengths, out=offsets[1:])

    def done(number: int, start: int, hidden: np.ndarray) -> None:
        consume(number, start, hidden)
        if progress is not None:
            progress(len(hidden))

    def together(numbers: Sequence[int]) -> None:
        """Sequences in the order of falling length, window by window; those at their end drop out."""
        if network.directions == 2:
            emulation.sweep({number: states[number] for number in numbers}, inputs, offsets, done, sides)
            return
        for start in range(0, int(inputs.lengths[numbers[0]]), STEPS):
            now = [number for number in numbers if inputs.lengths[number] > start]
            x = [inputs.chunk(n, start, min(start + STEPS, int(inputs.lengths[n]))) for n in now]
            results = emulation.advance([states[n] for n in now], x, now, [int(offsets[n]) + start for n in now])
            for number, hidden in zip(now, results, strict=True):
                done(number, start, hidden)
        for number in numbers:
            states[number].encoded = []

    groups, team = arranged(inputs.lengths, emulation, threads, skip)
    sides = 1
    if network.directions == 2 and (team > 1 or threads >= 2 * len(groups)):
        sides, team = 2, max(1, team // 2)  # threads that would have nothing else to do take a direction each
    if threads == 1:
        for group in groups:
            together(group)
        return
    with ExitStack() as stack:
        helpers = len(groups) * sides * (team - 1)
        emulation.team = Team(team, stack.enter_context(ThreadPoolExecutor(helpers)) if helpers else None)
        pool = stack.enter_context(pool_of(threads))
        try:
            finish([pool.submit(together, group) for group in groups])
        except BaseException:
            # What has not begun is dropped, and what runs stops at its next piece.
            emulation.given_up = True
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def arranged(
    lengths: np.ndarray, emulation: Emulation, threads: int, skip: Collection[int] = ()
) -> tuple[list[list[int]], int]:
    """Groups of sequences, those of like lengths together and the longest first, and how many threads process each.

    Threads with half a group each or more, or with one sequence each, go on their own: they need not wait for each
    other. Otherwise several process a group together.
    """
    if len(lengths) == 1 and not skip and threads == 1:
        return [[0]], 1
    order = [int(n) for n in np.argsort(-np.asarray(lengths), kind="stable") if n not in skip]
    most, count, team, groups = emulation.group_size, len(order), 1, threads
    workers = min(threads, processors())
    if count and count != workers and 2 * count < workers * most:
        for team in range(workers, 0, -1):
            groups = workers // team
            if groups * most >= count and team <= emulation.team_size(-(-count // groups)):
                break
        groups = groups if team > 1 else threads
    size = max(1, min(most, -(-count // groups)))
    return [order[start : start + size] for start in range(0, count, size)], team


def declared_lengths(
    network: Network, inputs: Inputs, sequence_length: Any, states: Sequence[SequenceState] | None
) -> list[int | None]:
    """Length of every whole sequence: given, carried by the state, or (without a state) that of the input.

    Raises InputError for a length that is none, or that the steps so far exceed.
    """
    if sequence_length is None:
        if states is not None:
            return [state.length for state in states]
        return [int(n) for n in inputs.lengths]
    given = _integers(sequence_length)
    if given is not None and given.ndim == 0:
        given = np.broadcast_to(given, (len(inputs),))
    if given is None or given.shape != (len(inputs),) or (given < 1).any():
        raise InputError(f"sequence_length has to be a positive int, or one for each of the {len(inputs)} sequences")
    before = [0] * len(inputs) if states is None else [state.steps for state in states]
    for number, (length, steps, more) in enumerate(zip(given, before, inputs.lengths, strict=True)):
        if steps + more > length:
            raise InputError(f"sequence {number} has {steps + more} steps, sequence_length says {length}")
        if network.directions == 2 and more != length:
            raise InputError(
                f"sequence {number} has {more} steps of {length}: a bidirectional network needs whole sequences"
            )
    return [int(n) for n in given]


def _integers(values: Any) -> np.ndarray | None:
    """An array of integers that int64 holds, or None if `values` are none."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError):
        return None
    if array.dtype.kind not in "iu" or (array.dtype.kind == "u" and (array > np.iinfo(np.int64).max).any()):
        return None
    return array.astype(np.int64)


def _starting_states(
    network: Network,
    inputs: Inputs,
    emulation: Emulation,
    state: State | None,
    ids: Sequence[int],
    lengths: Sequence[int | None],
) -> list[SequenceState]:
    if state is None:
        return [emulation.start(i, n) for i, n in zip(ids, lengths, strict=True)]
    states = copy.deepcopy(state.sequences)
    shares = _has_shares(emulation.controller)
    for number, (current, length, steps) in enumerate(zip(states, lengths, inputs.lengths, strict=True)):
        if shares and length != current.length:
            raise InputError(
                f"sequence {number}: sequence_length is {length}, but its length was taken as {current.length} "
                f"before, and {emulation.controller.name} has shares of it: give it with the first piece"
            )
        # Only shares of the length fix it; a schedule that turns out too short is refused for what it lacks.
        current.length = length if shares else max(length or 0, current.steps + int(steps))
    return states


def _has_shares(controller: Any) -> bool:
    """Whether parameters of a built-in controller depend on the length of the sequence."""
    return isinstance(controller, controllers.Controller) and controller.needs_length


def check_lengths(controller: Any, inputs: Inputs, states: Sequence[SequenceState]) -> None:
    """Raises InputError where a controller that needs the sequence length would be run beyond it."""
    if not _has_shares(controller):
        return
    for number, (state, steps) in enumerate(zip(states, inputs.lengths, strict=True)):
        if state.length is not None and state.steps + steps > state.length:
            raise InputError(
                f"sequence {number}: {state.steps + steps} steps, but its length was taken as {state.length}: "
                f"give sequence_length with the first piece, since {controller.name} has shares of it"
            )


def _check_continuation(network: Network, controller: Any, inputs: Inputs, state: State | None) -> None:
    if state is None:
        return
    if network.directions == 2:
        raise InputError(
            "a bidirectional network cannot go on from a state: its backward direction needs the whole sequence"
        )
    if not isinstance(state, State):
        raise InputError("state has to be the `state` of an earlier run")
    if len(state) != len(inputs):
        raise InputError(f"state has {len(state)} sequences, the inputs have {len(inputs)}")
    if state.digest != network.digest:
        raise InputError("state comes from another network")
    if controllers.describe(state.controller) != controllers.describe(controller):
        raise InputError("state comes from a run with another controller")


def emulate(
    network: Network,
    inputs: Any,
    controller: Any = None,
    engine: str = "fast",
    threads: int = 1,
    trace: str | os.PathLike[str] | None = None,
    record: Sequence[str] = (),
    state: State | None = None,
    sequence_ids: Sequence[int] | None = None,
    sequence_length: Any = None,
    *,
    data_digest: str = "",
    progress: Callable[[int], None] | None = None,
) -> Run:
    """Emulate a network bit for bit.

    Parameters
    ----------
    network : Network
    inputs : float32 [batch, time, features], list of float32 [time, features], or traces.Data
        With an embedding in the network: int tokens [batch, time] or a list of [time].
    controller : a controller of `accel` or a user's own; default `accel.Peak()`
    engine : {"fast", "portable", "reference", "amx", "vnni", "avx2"}
        All give the same bits; the last three are kernels of an instruction set, of which `fast` takes the best.
    threads : int
        They take sequences, or directions, or share the work of each step; does not change a bit.
    trace : path, optional
        Trace file to write: the plan, and what `record` names.
    record : any of "plan", "cell", "hidden", "accumulators"
        Kept in memory.
    state : State, optional
        `run.state` of the run that this one continues; unidirectional networks only.
    sequence_ids : ints, optional
        What `Random` and `Schedule` key on; default: the index (or the ids of a data file).
    sequence_length : int or ints, optional
        Length of the whole sequences where `inputs` are pieces of them.
    data_digest : str
        Written into the trace.
    progress : callable, optional
        Called with a number of finished steps.

    Returns
    -------
    Run

    Raises
    ------
    InputError
        Whatever does not fit; nothing is written then.
    """
    if not isinstance(network, Network):
        raise InputError(f"network is {type(network).__name__}, expected fxp.Network (fxp.load, fxp.from_torch)")
    controller = controllers.Peak() if controller is None else controller
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError(f"threads is {threads!r}, expected an int of at least 1")
    if not isinstance(record, Iterable):
        raise InputError(f"record is {record!r}, expected some of plan, {', '.join(QUANTITIES)}")
    record = (record,) if isinstance(record, str) else tuple(record)
    for name in record:
        if name not in ("plan", *QUANTITIES):
            raise InputError(f"record names {name!r}; possible are plan, {', '.join(QUANTITIES)}")
    source = Inputs(network, inputs)
    _check_continuation(network, controller, source, state)
    ids = sequence_numbers(sequence_ids, source)
    if state is not None:
        carried = [s.id for s in state.sequences]
        if sequence_ids is not None and ids != carried:
            raise InputError(f"sequence_ids are {ids}, but the state goes on from sequences {carried}")
        ids = carried
    lengths = declared_lengths(network, source, sequence_length, None if state is None else state.sequences)

    run = Run(network, source.lengths, ids, record, controllers.describe(controller))
    with ExitStack() as stack:
        sinks: list[Any] = [run]
        emulation = Emulation(network, controller, engine, sinks, record)
        states = _starting_states(network, source, emulation, state, ids, lengths)
        check_lengths(controller, source, states)
        if trace is not None:
            sinks.append(
                stack.enter_context(open_trace(trace, network, source.lengths, ids, record, controller, data_digest))
            )
        if source.dense:
            run.outputs = np.empty((len(source), int(source.lengths[0]), network.outputs), np.float32)
        else:
            run.outputs = [np.empty((int(n), network.outputs), np.float32) for n in source.lengths]

        def consume(number: int, start: int, hidden: np.ndarray) -> None:
            network.dequantised(hidden, run.outputs[number][start : start + len(hidden)])

        stream(network, source, emulation, states, consume, threads, progress)
    if network.directions == 1:
        run.state = State(states, network.digest, controller)
    return run


def sequence_numbers(given: Sequence[int] | None, source: Inputs) -> list[int]:
    """Ids of the sequences, checked."""
    if given is None:
        return list(source.default_ids) if source.default_ids is not None else list(range(len(source)))
    ids = _integers(given)
    if ids is None or ids.ndim != 1:
        raise InputError("sequence_ids have to be 64-bit integers, one a sequence")
    if len(ids) != len(source):
        raise InputError(f"{len(ids)} sequence_ids for {len(source)} sequences")
    return [int(i) for i in ids]


def open_trace(
    path: Any,
    network: Network,
    lengths: np.ndarray,
    ids: Sequence[int],
    record: Sequence[str],
    controller: Any,
    data_digest: str,
) -> traces.TraceWriter:
    """A writer for the trace of a run (context manager)."""
    from fxp import __version__

    formats = network.formats
    description = controllers.describe(controller)
    return traces.TraceWriter(
        path,
        lengths=lengths,
        ids=ids,
        layers=[
            (n.input_size, n.hidden_size, n.output_size, n.directions, n.projected, n.peephole is not None)
            for n in network.layers
        ],
        record=tuple(name for name in record if name != "plan"),
        model_digest=network.digest,
        data_digest=data_digest,
        controller=description,
        seed=int(description.get("seed", -1)),
        package_version=__version__,
        high=formats.high,
        low=formats.low,
        profile=formats.profile,
        accumulator_bits=formats.accumulator_bits,
        overflow=formats.overflow,
    )
