"""The engine of the vector kernels: groups of sequences in lock-step, with the best instructions this machine has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from accel.controller import KINDS
from accel.controllers import Encoded, Site
from fxp import instructions
from fxp.engines import CompiledEngine, Job, LayerState, Piece
from fxp.formats import Profile
from fxp.kernels import group, meeting
from fxp.packed import ELEMENTS, LINE, FastDirection, aligned
from fxp.team import Team

GROUP = 16  # sequences side by side
COLUMNS = 64  # sequences times steps whose x parts are formed at once by tiles
WORTH = 1 << 18  # products of a step that are worth a thread of its own


def _up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


class FastEngine(CompiledEngine):
    """The kernels of an instruction set; same bits as `portable`."""

    group_size = GROUP
    instructions = ""

    def team_size(self, sequences: int) -> int:
        if self._vectors.TILES:
            return 1
        products = max(4 * n.hidden_size * (n.input_size + n.output_size) for n in self._network.layers)
        return max(1, sequences * products // WORTH) if products >= WORTH else 1

    def __init__(self, network: Any):
        super().__init__(network)
        self._vectors = kernels(self.instructions)
        floats = network.formats.profile == Profile.FLOAT32
        self._process = self._vectors.run_float if floats else self._vectors.run_fixed

    def begin(self, controller: Any, site: Site, encoded: Encoded, state: LayerState) -> None:
        state.fresh = True

    def run(
        self, controller: Any, jobs: Sequence[Job], cell: bool, accumulators: bool, team: Team | None = None
    ) -> list[Piece]:
        order = sorted(range(len(jobs)), key=lambda n: -len(jobs[n].x)) if len(jobs) > 1 else [0]
        site = jobs[0].site
        direction = self._network.prepared[site.layer].directions[site.direction].fast(
            self._vectors.COLUMNS, self._vectors.TILES
        )
        workspace = Workspace.spare(direction, len(jobs), self._vectors, team.size if team else 1)
        workspace.take([jobs[n] for n in order])
        whole = Piece.empty(workspace.rows, site, direction.rows.output, cell, accumulators)

        def work(rank: int) -> None:
            self._process(
                workspace.parameters[rank], site.direction == 1, self._network.formats.top, workspace.x,
                whole.hidden, whole.plan, whole.cell, whole.accumulators,
            )  # fmt: skip

        if team:
            team.run(work, workspace.give_up)
        else:
            work(0)
        pieces: list[Any] = [None] * len(jobs)
        for n, piece in zip(order, workspace.results(whole), strict=True):
            pieces[n] = piece
        workspace.give_back()
        return pieces


class Amx(FastEngine):
    instructions = "amx"
    group_size = 2 * GROUP  # as many columns as two tiles have


class Vnni(FastEngine):
    instructions = "vnni"


class Avx2(FastEngine):
    instructions = "avx2"


ENGINES = {engine.instructions: engine for engine in (Amx, Vnni, Avx2)}


@cache
def kernels(name: str) -> Any:
    """The module of an instruction set's kernels; InputError where this machine lacks it."""
    instructions.require(name)
    return import_module(f"fxp.kernels.{name}")


# The set bits of every byte, in order; the rest of a row is not used.
TABLE = np.zeros((256, 8), np.uint8)
for _byte in range(256):
    _bits = [bit for bit in range(8) if _byte >> bit & 1]
    TABLE[_byte, : len(_bits)] = _bits
_TABLE_PLACE = TABLE.ctypes.data


_KIND = group.CONTROLS // 8 + group.Controls._fields.index("kind")
_WANTED = group.GROUP // 8 + group.Group._fields.index("wanted")
_COUNT = group.GROUP // 8 + group.Group._fields.index("count")
STATIC = KINDS["Static"]
_NOTHING = np.zeros((0, 0), np.int8)


class Workspace:
    """Memory of the kernels for some sequences in one direction of a layer, a single block, and a call's parameters.

    It is kept for the next call: taking addresses and making arrays would cost as much as a hundred steps of a small
    layer. The kernels get addresses only, so everything they touch stays an attribute here.

    Parameters
    ----------
    direction : packed weights and constants
    capacity : most sequences of a call
    vectors : module of the kernels
    team : threads that process the sequences together

    Attributes
    ----------
    parameters : int64 [team, PARAMETERS], of the kernels, for each thread
    rows : steps of all sequences of the call together
    x : int8 [rows, N], their features
    sums : int32 [capacity, H filled up, 8], of a sequence's last step: x part of the four gates, then h part
    jobs : of the call
    """

    def __init__(self, direction: FastDirection, capacity: int, vectors: Any, team: int = 1):
        self.direction, self.capacity, self.vectors, self.team, self.rows = direction, capacity, vectors, team, 0
        self.jobs: Sequence[Job] = ()
        self.x = _NOTHING
        shape = direction.rows
        count, size, wide = capacity, _up(shape.hidden, ELEMENTS), _up(shape.hidden, 64)
        pairs = shape.x_pairs + shape.h_pairs
        # Nothing lies between the activations that are read together: gaps cost up to a fifth of the speed.
        reach, low_reach = (size * pairs + 64 for size in (vectors.BYTES, 64 if shape.nibbles else vectors.BYTES))
        kind = np.dtype(np.float32 if direction.profile == Profile.FLOAT32 else np.int16)
        h_columns = _up(count, 16) if vectors.TILES else count
        lengths = {
            "h": h_columns * 64 * shape.h_pairs, "c": count * size * kind.itemsize, "low": count * size,
            "words": count * 16 * shape.hidden,
            "sums": count * size * 32, "tally": 8 * count,
            "counts": 64 * count, "reals": 16 * count, "plans": 8 * count, "plan_steps": 8 * count,
            "fresh": 8 * count, "offsets": 8 * (count + 1), "begins": 8 * count,
            "meeting": 8, "m": count * wide if shape.projected else 0,
        }  # fmt: skip
        # What each thread needs for itself.
        scratch = {
            "activations": count * reach, "low_activations": count * low_reach, "source": 64 * shape.x_pairs,
            "z": 16 * size, "order": 8 * (max(size, count) + 16), "overflows": 8 * count,
            "m_activations": 2 * wide, "m_sums": 4 * _up(shape.output, 8) + 32,
        }  # fmt: skip
        if vectors.TILES:
            ahead = max(1, COLUMNS // count)
            columns, wide_sums = _up(ahead * count, 16), 16 * size + LINE  # the line spreads columns over cache sets
            x_reach, h_reach = columns * wide_sums, h_columns * wide_sums
            lengths |= {
                "x_high": columns * 64 * shape.x_pairs, "x_low": columns * 64 * shape.x_pairs,
                "h_low": h_columns * 64 * shape.h_pairs, "ring": 2 * vectors.RING * vectors.BLOCK,
                "x_sums": 2 * x_reach, "h_sums": 2 * h_reach,
            }  # fmt: skip
        starts, total = {}, 0
        for name, length in lengths.items():
            starts[name] = total
            total += _up(length, LINE)
        own, apart = total, sum(_up(length, LINE) for length in scratch.values())
        for name, length in scratch.items():
            starts[name] = total
            total += _up(length, LINE)
        total = own + team * apart
        self._memory = aligned((total,), np.uint8)
        at = {name: self._memory.ctypes.data + start for name, start in starts.items()}

        def part(name: str, dtype: Any, *dimensions: int) -> np.ndarray:
            return self._memory[starts[name] : starts[name] + lengths[name]].view(dtype).reshape(dimensions)

        self.sums = part("sums", np.int32, count, size, 8)
        self._tally = part("tally", np.int64, count)
        self._overflows = [
            self._memory[starts["overflows"] + rank * apart :][: 8 * count].view(np.int64) for rank in range(team)
        ]
        self._plans, self._plan_steps, self._fresh, self._begins = (
            part(name, np.int64, count) for name in ("plans", "plan_steps", "fresh", "begins")
        )
        self._offsets = part("offsets", np.int64, count + 1)
        self._meeting = part("meeting", np.int64, 1)
        # What is copied for each sequence: h, c, mask, words of its state, counts and reals of its controller.
        self._states = list(
            zip(
                part("h", np.int8, h_columns, -1)[:count, : shape.output],
                part("c", kind, count, -1)[:, : shape.hidden],
                part("low", np.uint8, count, -1)[:, : shape.hidden], part("words", np.int32, count, 4, -1),
                part("counts", np.int64, count, 8), part("reals", np.float32, count, 4), strict=True,
            )
        )  # fmt: skip
        at |= {"count": count, "size": size, "reach": reach, "low_reach": low_reach, "table": _TABLE_PLACE, "kind": 0}
        at |= {"team": team, "m_reach": wide if shape.projected else 64 * shape.h_pairs}
        if not shape.projected:
            at["m"] = at["h"]
        if vectors.TILES:
            at |= {
                "ahead": ahead, "alone": int(count == 1), "wide": wide_sums, "x_reach": x_reach, "h_reach": h_reach,
                "configuration": vectors.tiles.CONFIGURATION.ctypes.data,
            }  # fmt: skip
        self.parameters = np.zeros((team, group.PARAMETERS), np.int64)
        for rank, parameters in enumerate(self.parameters):
            at |= {"rank": rank} | {name: self._memory.ctypes.data + starts[name] + rank * apart for name in scratch}
            controls = [at[name] for name in group.Controls._fields]
            # What only tiles use is 0 without them.
            fields = [*shape, *direction.unit, *controls, *(at.get(name, 0) for name in group.Group._fields)]
            for number, value in enumerate(fields):
                target = parameters.view(np.float64) if isinstance(value, (float, np.floating)) else parameters
                target[number] = value

    @staticmethod
    def spare(direction: FastDirection, count: int, vectors: Any, team: int = 1) -> Workspace:
        """One that is not in use, for up to `count` sequences; `give_back` when done."""
        capacity = 1 if count == 1 else _up(count, GROUP)
        try:
            kept = direction.spare.pop()
        except IndexError:
            return Workspace(direction, capacity, vectors, team)
        fits = kept.capacity == capacity and kept.vectors is vectors and kept.team == team
        return kept if fits else Workspace(direction, capacity, vectors, team)

    def give_up(self) -> None:
        """Let no thread of the team wait for another any more; the call's results are worthless then."""
        self._meeting[0] = meeting.GIVEN_UP

    def give_back(self) -> None:
        """Let another call have this."""
        self.jobs, self.x = (), _NOTHING
        self.direction.spare.append(self)

    def take(self, jobs: Sequence[Job]) -> None:
        """Prepare a call; jobs : in the order of falling length."""
        self.jobs = jobs
        row, hidden = 0, self.direction.rows.hidden
        for g, job in enumerate(jobs):
            state, encoded = job.state, job.encoded
            h, c, low, words, counts, reals = self._states[g]
            h[:], c[:], low[:], words[:] = state.h, state.c, state.low, state.words
            counts[:], reals[:] = encoded.counts, encoded.reals
            steps = len(encoded.plan)
            self._plans[g] = encoded.plan.ctypes.data - encoded.first * hidden if steps else 0
            self._plan_steps[g] = encoded.first + steps
            self._fresh[g], self._begins[g] = state.fresh, job.step
            row += len(job.x)
            self._offsets[g + 1] = row
        self._tally[:] = 0
        for overflows in self._overflows:
            overflows[:] = 0
        self._meeting[0] = 0
        self.rows = row
        self.parameters[:, _KIND], self.parameters[:, _COUNT] = jobs[0].encoded.kind, len(jobs)
        self.parameters[:, _WANTED] = self._wanted(jobs) if self.vectors.TILES else 0
        self.x = np.concatenate([job.x for job in jobs]) if len(jobs) > 1 else jobs[0].x
        flags = self.x.flags
        if not (flags.c_contiguous and flags.writeable):
            self.x = self.x.copy()  # the kernels are compiled for one kind of array

    def _wanted(self, jobs: Sequence[Job]) -> int:
        """The precisions that the steps of a call ask for, as far as that is known before."""
        vectors = self.vectors
        if any(job.encoded.kind != STATIC for job in jobs):
            return int(vectors.BOTH)
        low = jobs[0].encoded.counts[0]
        if any(job.encoded.counts[0] != low or not (job.state.fresh or (job.state.low == low).all()) for job in jobs):
            return int(vectors.BOTH)
        return int(vectors.LOW if low else vectors.HIGH)

    def results(self, whole: Piece) -> list[Piece]:
        """What each job got; the jobs' states move along."""
        pieces = []
        for g, job in enumerate(self.jobs):
            state = job.state
            h, c, low, words, _, _ = self._states[g]
            state.h[:], state.c[:], state.low[:], state.words[:] = h, c, low, words
            state.fresh = False
            count, overflow = int(self._tally[g]), sum(int(overflows[g]) for overflows in self._overflows)
            if len(self.jobs) == 1:
                whole.low, whole.overflow = count, overflow
                return [whole]
            span = slice(int(self._offsets[g]), int(self._offsets[g + 1]))
            parts = (whole.hidden[span], whole.plan[span], whole.cell[span], whole.accumulators[span])
            pieces.append(Piece(*parts, count, overflow))
        return pieces


def accumulation(network: Any, low: np.ndarray, rounds: int, chosen: str) -> Callable[[], object]:
    """A function that forms the products of one step of a network's first layer `rounds` times, for measurements.

    Parameters
    ----------
    low : bool [sequences, hidden]
        Elements at low precision.
    chosen : str
        Instruction set of the kernels.
    """
    from accel.controllers import Static

    layer, formats = network.layers[0], network.formats
    x = np.random.default_rng(0).integers(-formats.top, formats.top + 1, (1, layer.input_size)).astype(np.int8)
    jobs = []
    for number, flags in enumerate(low):
        site = Site(number, 1, 0, 0, layer.hidden_size, formats.high, formats.low, formats.profile, layer.output_size)
        state = LayerState.zero(layer.hidden_size, layer.output_size, formats.profile)
        state.low[:] = flags
        state.h[:] = np.random.default_rng(number).integers(-formats.top, formats.top + 1, state.h.size)
        jobs.append(Job(site, Static(formats.high).encode(site), state, x, 0))
    vectors = kernels(chosen)
    direction = network.prepared[0].directions[0].fast(vectors.COLUMNS, vectors.TILES)
    workspace = Workspace.spare(direction, len(jobs), vectors)
    workspace.take(jobs)

    def run() -> object:
        vectors.products_only(workspace.parameters[0], workspace.x, rounds)
        return workspace

    return run
