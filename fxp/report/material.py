"""Everything that a report shows, gathered from the files that are at hand; small, whatever their size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import accel
import traces
from fxp import comparison, datafile, evaluation, network, observation, replay
from fxp.evaluation import Table
from fxp.figures.costs import cycle_parts
from fxp.plans import Map, Usage, precision_map, spread_elements, usage
from fxp.replay import PhaseErrors, Replay
from traces import InputError

WINDOW = 600
"""Most steps of a cell state that are drawn; of a longer sequence, the first ones."""
SEQUENCES, ELEMENTS, PANELS = 3, 4, 96
"""Sequences and elements of each layer that are drawn by default, and the most drawings of a cell state."""
EVALUATED = 8192
"""Most steps that controllers are compared on where no comparison is given."""

DIRECTIONS = ("forward", "backward")

Place = tuple[int, int, int]
"""Layer, direction and sequence."""


@dataclass
class Material:
    """What a report is made of; None where the files at hand do not provide it.

    Attributes
    ----------
    digest : str
        Of the trace.
    about : dict
        Name to text: what was run.
    usages : [layer][direction] Usage
    maps : Place to Map
    elements : [layer] list of int
        Elements whose cell state is drawn.
    cells : Place to float64 [time, elements of the layer]
    low : Place to bool [time, elements of the layer]
        Their precision; cut like the cell states.
    replayed : bool
        Whether the cell states are not in the trace but were emulated again under its plan.
    table_note : str
        What the comparison was made on, where it was made here, or why it was not.
    costs : list of dict
        Records of the baseline (if any) and of the machine.
    estimate : dict
        The record of the estimate.
    """

    title: str
    digest: str
    controller: dict[str, Any]
    bits: tuple[int, int]
    steps: int
    lengths: np.ndarray
    low_share: float
    overflows: int
    usages: list[list[Usage]]
    about: dict[str, str] = field(default_factory=dict)
    maps: dict[Place, Map] = field(default_factory=dict)
    sequences: list[int] = field(default_factory=list)
    elements: list[list[int]] = field(default_factory=list)
    cells: dict[Place, np.ndarray] | None = None
    low: dict[Place, np.ndarray] = field(default_factory=dict)
    replayed: bool = False
    errors: PhaseErrors | None = None
    table: Table | None = None
    table_note: str = ""
    estimate: dict[str, Any] | None = None

    @property
    def costs(self) -> list[dict[str, Any]]:
        if self.estimate is None:
            return []
        baseline = self.estimate.get("baseline_cost")
        return ([baseline] if baseline else []) + [self.estimate]

    @property
    def layer_shares(self) -> list[tuple[str, float]]:
        """Name and low share of every layer and direction."""
        return [
            (f"Layer {used.layer}" + (f", {DIRECTIONS[used.direction]}" if len(sides) == 2 else ""), used.low_share)
            for sides in self.usages
            for used in sides
        ]

    @property
    def row(self) -> evaluation.Row | None:
        """The row of the comparison that has the trace's controller and parameters."""
        for row in self.table or ():
            if {"name": row.controller, **row.parameters} == self.controller:
                return row
        return None


def gather(
    path: Path,
    model: Path | None = None,
    data: Path | None = None,
    compare: Path | None = None,
    estimate: Path | None = None,
    machine: str | None = None,
    baseline: str | None = "epur-sip",
    elements: Sequence[tuple[int, int]] | None = None,
    sequences: Sequence[int] | None = None,
    threads: int = 1,
    tell: Callable[[str], None] = lambda stage: None,
    wanted: Sequence[str] = ("usages", "maps", "cells", "errors", "table", "estimate"),
) -> Material:
    """Read and compute what a report shows.

    Parameters
    ----------
    path : trace file
    model, data : the files that it came from, both or neither
    compare : file with what `fxp compare --json` printed
    estimate, machine, baseline : estimate file, or machines to estimate with
    elements : (layer, element) pairs to draw; elements at even ranks of low share by default
    sequences : positions; the first three by default
    tell : called with the name of each stage
    wanted : parts to make

    Raises
    ------
    InputError
        Files that cannot be read or do not belong together.
    """
    if (model is None) != (data is None):
        raise InputError("--model and --data belong together: give both")
    if estimate is not None and machine is not None:
        raise InputError("give --estimate or --machine, not both")
    with ExitStack() as stack:
        trace = stack.enter_context(traces.open(path, kind="trace"))
        net = None if model is None else network.load(model)
        source = None if data is None else stack.enter_context(datafile.read(data))
        lived = None
        if net is not None and source is not None:
            lived = Replay(net, source, trace, (str(model), str(data)))
        tell("reading the plan")
        made = assemble(trace, lived, elements, sequences, tell, [part for part in PARTS if part in wanted], path.name)
        if "table" in wanted:
            if compare is not None:
                made.table = comparison.read(compare)
            elif lived is not None:
                tell("comparing controllers")
                _compare(made, lived, threads)
        if "estimate" in wanted and (estimate is not None or machine is not None):
            tell("cycles and energy")
            made.estimate = _estimate(path, made.digest, estimate, machine, baseline)
    return made


PARTS = ("maps", "cells", "errors")


def assemble(
    trace: Any,
    lived: Replay | None = None,
    elements: Sequence[tuple[int, int]] | None = None,
    sequences: Sequence[int] | None = None,
    tell: Callable[[str], None] = lambda stage: None,
    wanted: Sequence[str] = PARTS,
    title: str = "",
    error_steps: int = replay.STEPS,
) -> Material:
    """What an open trace, and a replay of it, provide; parameters as for `gather`.

    Parameters
    ----------
    error_steps : steps that errors are taken over
    """
    made = Material(
        title=title or Path(trace.path).name,
        digest=trace.digest(),
        controller=trace.controller,
        bits=(trace.high, trace.low),
        steps=trace.total,
        lengths=trace.lengths,
        low_share=trace.low_share,
        overflows=sum(int(layer.overflow_count.sum()) for layer in trace.layers),
        usages=[[usage(trace, n, d) for d in range(layer.directions)] for n, layer in enumerate(trace.layers)],
    )
    made.about = _about(trace, made.digest, lived)
    _choose(made, trace, elements, sequences)
    if "maps" in wanted:
        made.maps = {place: precision_map(trace, *place) for place in _places(made)}
    if "cells" in wanted:
        tell("cell states")
        _cells(made, trace, lived)
    if "errors" in wanted and lived is not None:
        tell("errors against the float network")
        made.errors = lived.errors(error_steps)
    return made


def _about(trace: Any, digest: str, lived: Replay | None) -> dict[str, str]:
    parameters = ", ".join(f"{name} {_brief(value)}" for name, value in trace.controller.items() if name != "name")
    lengths = trace.lengths
    span = f"{lengths.min():,}" if lengths.min() == lengths.max() else f"{lengths.min():,} to {lengths.max():,}"
    layers = "; ".join(
        f"{n.input_size} → {n.hidden_size}" + (f" → {n.output_size}" if n.projected else "")
        + (" ×2 directions" if n.directions == 2 else "")
        for n in trace.layers
    )  # fmt: skip
    about = {
        "Controller": str(trace.controller.get("name", "unnamed")) + (f": {parameters}" if parameters else ""),
        "Seed": "none" if trace.seed == -1 else str(trace.seed),
        "Precision": f"{trace.high} and {trace.low} bits; {trace.profile} multifunction unit",
        "Accumulators": f"{trace.accumulator_bits} bits, sums outside "
        + ("wrap around" if trace.overflow == "wrap" else "are clamped"),
        "Layers": layers,
        "Sequences": f"{len(lengths):,} of {span} steps, {trace.total:,} steps in all",
    }
    model, data = (None, None) if lived is None else (lived.network.model, lived.data)
    thing: Any
    for what, thing, given in (("Model", model, trace.model_digest), ("Data", data, trace.data_digest)):
        if thing is not None and thing.name:
            about[what] = thing.name
        about[f"{what} digest"] = given or "not recorded"
        for name in ("origin", "licence"):
            if thing is not None and getattr(thing, name):
                about[f"{what} {name}"] = getattr(thing, name)
    about["Trace digest"] = digest
    about["Emulated by"] = f"fxp-lstm {trace.package_version or 'of unknown version'}"
    return about


def _brief(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 200 else text[:200] + "…"


def _choose(
    made: Material, trace: Any, elements: Sequence[tuple[int, int]] | None, sequences: Sequence[int] | None
) -> None:
    """Settle which sequences and elements are drawn."""
    sides = sum(map(len, made.usages))
    if sequences is None:
        made.sequences = list(range(min(SEQUENCES, len(trace.ids), max(1, PANELS // (sides * ELEMENTS)))))
    else:
        for number in sequences:
            trace.bounds(number)
        made.sequences = sorted(set(sequences))
    if elements is None:
        count = max(1, min(ELEMENTS, PANELS // (sides * len(made.sequences))))
        made.elements = [spread_elements(sides[0], count) for sides in made.usages]
        return
    made.elements = [[] for _ in made.usages]
    for layer, element in elements:
        if not 0 <= layer < len(made.usages):
            raise InputError(f"--elements {layer}:{element}: the trace has layers 0 to {len(made.usages) - 1}")
        hidden = made.usages[layer][0].hidden
        if not 0 <= element < hidden:
            raise InputError(f"--elements {layer}:{element}: layer {layer} has elements 0 to {hidden - 1}")
        if element not in made.elements[layer]:
            made.elements[layer].append(element)
    drawn = sum(len(chosen) * len(sides) for chosen, sides in zip(made.elements, made.usages, strict=True))
    if drawn * len(made.sequences) > 4 * PANELS:
        raise InputError(f"{drawn * len(made.sequences)} cell states to draw; at most {4 * PANELS} fit one page")


def _places(made: Material) -> list[Place]:
    return [
        (layer, direction, sequence)
        for layer, sides in enumerate(made.usages)
        for direction in range(len(sides))
        for sequence in made.sequences
    ]


def _cells(made: Material, trace: Any, lived: Replay | None) -> None:
    """Cell states and precision of the chosen elements: as recorded, or emulated again."""
    recorded = all("cell" in layer.recorded for layer in trace.layers)
    if not recorded and lived is None:
        return
    run = None if recorded or lived is None else lived.run(made.sequences, steps=WINDOW)
    made.replayed, made.cells = run is not None, {}
    for place in _places(made):
        layer, direction, sequence = place
        chosen = made.elements[layer]
        start, stop = trace.bounds(sequence)
        stop = min(stop, start + WINDOW)
        if run is None:
            cell = trace.layers[layer].rows("cell", start, stop, direction)
        else:
            cell = run.layers[layer].cell(made.sequences.index(sequence), direction)[: stop - start]
        made.cells[place] = replay.cell_values(cell[:, chosen], trace.profile)
        packed = trace.layers[layer].packed(start, stop, direction)
        made.low[place] = traces.plan.unpack(packed, trace.layers[layer].hidden_size)[:, chosen]


def _compare(made: Material, lived: Replay, threads: int) -> None:
    net, source = lived.network, lived.data
    if source.scope is None or net.model.head is None:
        return
    part = observation.subset(source, range(len(source)), EVALUATED)
    try:
        scorer = evaluation.Scorer(net, part)
    except InputError as error:
        # A metric or a head of the user's own is known to fxp compare, which is told where it is.
        made.table_note = f"Controllers were not compared: {error}."
        return
    made.table = evaluation.compare(scorer, evaluation.default_controllers(net), threads=threads)
    if part.total < source.total:
        made.table_note = (
            f"Made for this report on the first {len(part):,} sequences ({part.total:,} steps) of the data; "
            f"--compare takes a comparison of all of it."
        )


def _estimate(
    path: Path, digest: str, estimate: Path | None, machine: str | None, baseline: str | None
) -> dict[str, Any]:
    if estimate is None:
        assert machine is not None
        return accel.estimate(path, machine, baseline=baseline).to_dict()
    stored = traces.open(estimate, kind="estimate")
    if stored.trace_digest and stored.trace_digest != digest:
        raise InputError(
            f"{estimate}: is the estimate of another trace: digest {stored.trace_digest[:12]}, "
            f"this one has {digest[:12]}"
        )
    record = stored.record
    try:
        for cost in [record] + ([record["baseline_cost"]] if record.get("baseline_cost") else []):
            cycle_parts(cost)
            float(cost["energy_pj"]), float(cost["area_mm2"]), str(cost["machine"])
            for part in cost["components"].values():
                float(part["dynamic_pj"] + part["static_pj"]), float(part["area_mm2"])
            [[int(side) for side in layer] for layer in cost["layer_cycles"]]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(f"{estimate}: its record lacks costs; make it again with fxp estimate") from None
    return record
