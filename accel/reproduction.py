"""The paper's results beside the model's: reported, modelled with a range, and the bound of arithmetic.

Reported figures: Silfa, Arnau, Gonzalez, "Boosting LSTM Performance Through Dynamic Precision Selection",
preprint arXiv 1911.04244 v1 (Table 1, Figures 15 and 16, area) and the abstract of the version at HiPC
2020; for the share of the memories Silfa et al., "E-PUR", arXiv 1711.07480. Nothing here is fitted to
them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from accel.cycles import Memo
from accel.estimates import measure
from accel.machine import Machine
from accel.sensitivities import METRICS, altered, compare, machine_options, scaled, sweep
from accel.workload import Shape, Workload, synthetic

MACHINE, BASELINE = "epur-dyn", "epur-sip"


@dataclass(frozen=True)
class Network:
    """A network of the preprint.

    Topology, low share and results are the preprint's. It gives neither sequence lengths (only "20 steps
    to a few thousand" over all networks) nor the width of the first layer's input: `steps` and `inputs`
    are assumptions, the nominal value first, then the lowest and the highest.
    """

    name: str
    layers: int
    hidden_size: int
    directions: int
    low_share: float
    speedup: float
    energy_saving: float
    steps: tuple[int, int, int]
    inputs: tuple[int, int, int]

    def shapes(self, inputs: int) -> tuple[Shape, ...]:
        above = self.hidden_size * self.directions
        return tuple(
            Shape(above if layer else inputs, self.hidden_size, self.hidden_size, self.directions)
            for layer in range(self.layers)
        )


NETWORKS = (
    # Inputs of 128: (128 + 128) / 16 = 16 cycles a neuron, as in the memoization paper (arXiv 2202.06563).
    Network("IMDB Sentiment 1x128", 1, 128, 1, 1.00, 1.99, 0.353, (200, 50, 1000), (128, 128, 512)),
    # Captions: the "20 steps" that the range of lengths begins with; word vectors as wide as the cell.
    Network("Show&Tell 3x512", 3, 512, 1, 0.52, 1.31, 0.143, (20, 10, 50), (512, 256, 512)),
    # Speech: 40 filters with two derivatives; 10 ms frames of utterances of 2 to 20 s.
    Network("EESEN 5x320 bidirectional", 5, 320, 2, 0.70, 1.63, 0.325, (500, 200, 2000), (120, 40, 360)),
    # Sentences of 20 to 80 word pieces; at 2 MiB a unit no layer of 1024 cells can have more than 1024
    # inputs.
    Network("MNMT 8x1024", 8, 1024, 1, 0.44, 1.40, 0.162, (30, 20, 80), (1024, 512, 1024)),
)
SEQUENCES = 2
HEADLINES = (
    # name, low share (None: each network's own), speedup, energy saving
    ("average, preprint", None, 1.56, 0.23),
    ("average, HiPC 2020", 0.57, 1.46, 0.192),
)
AREAS = (
    ("area, preprint, of the extended machine", 0.088),
    ("area, preprint, of the base machine", 0.096),
    ("area, HiPC 2020 (an upper limit)", 0.08),
)
MEMORY_SHARE = 0.80

Metrics = dict[str, float]


def bound(low_share: float) -> float:
    """Largest speedup when a share of the element-steps takes half the time: 1 / (1 - p / 2)."""
    return 1 / (1 - low_share / 2)


class _Model:
    """A network at a low share: its metrics for any choice of assumptions."""

    def __init__(self, network: Network, low_share: float, machine: str = MACHINE):
        self.network, self.low_share = network, low_share
        self.design, self.reference = Machine.load(machine), Machine.load(BASELINE)
        self.options = {
            "sequence length": list(network.steps),
            "input size": list(network.inputs),
            **machine_options(self.design, self.reference),
        }
        self._work: dict[tuple[int, int, float], tuple[Workload, Memo]] = {}
        self._known: dict[tuple[Any, ...], Metrics] = {}

    def __call__(self, choice: dict[str, Any]) -> Metrics:
        key = tuple(sorted((name, str(value)) for name, value in choice.items() if value is not None))
        if key not in self._known:
            self._known[key] = self.at(choice)
        return self._known[key]

    def at(
        self, choice: dict[str, Any], share: float | None = None, extra: tuple[str, float] | None = None
    ) -> Metrics:
        """Metrics at another low share, or with one factor's constants multiplied."""
        used = self.low_share if share is None else share
        place = (int(choice["sequence length"]), int(choice["input size"]), used)
        if place not in self._work:
            work = synthetic(self.network.shapes(place[1]), [place[0]] * SEQUENCES, used)
            self._work[place] = work, Memo()
        work, memo = self._work[place]
        design, reference = altered(self.design, choice), altered(self.reference, choice)
        if extra is not None:
            design, reference = (
                design.replaced(scaled(design, *extra)),
                reference.replaced(scaled(reference, *extra)),
            )
        return compare(work, design, reference, memo)

    def needed_wait(self, choice: dict[str, Any], speedup: float) -> str:
        """How short the waits of each step would have to be for a speedup, if those for DRAM were hidden."""
        self(choice)
        work, memo = self._work[int(choice["sequence length"]), int(choice["input size"]), self.low_share]
        cost, other = measure(work, self.design, memo), measure(work, self.reference, memo)
        steps = work.steps * sum(shape.directions for shape in work.layers)
        most = (other.busy_cycles - speedup * cost.busy_cycles) / (speedup - 1) / steps
        return (
            f"waits of the dot-product units of at most {most:.0f} cycles a step instead of "
            f"{cost.stall_cycles / steps:.0f}, and weights loaded meanwhile"
        )

    def nominal(self) -> dict[str, Any]:
        return {name: values[0] for name, values in self.options.items()}


def _root(function: Callable[[float], float], target: float, low: float, high: float) -> float | None:
    """Where a monotone function of x in [low, high] reaches a target, or None."""
    ends = function(low) - target, function(high) - target
    if ends[0] * ends[1] > 0:
        return None
    for _ in range(30):
        middle = math.sqrt(low * high)
        if (function(middle) - target) * ends[0] > 0:
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)


def _side(reported: float, span: tuple[float, float]) -> str:
    if span[0] <= reported <= span[1]:
        return "inside the range"
    return "above the range" if reported > span[1] else "below the range"


def _needed_share(reported: float) -> float:
    return 2 * (1 - 1 / reported)


def _note(model: _Model, result: dict[str, Any], metric: str, reported: float) -> str:
    """What separates a reported figure from the model."""
    nominal, (low, high) = result["nominal"][metric], result["range"][metric]
    if metric == "speedup" and reported > bound(model.low_share):
        return (
            f"above its own bound: {reported:g}x needs at least {_needed_share(reported):.0%} low, "
            f"{model.low_share:.0%} is reported"
        )
    levers = {
        name: max(values.values(), key=lambda m: abs(m[metric] - nominal))[metric] - nominal
        for name, values in result["single"].items()
        if values
    }
    towards = {name: change for name, change in levers.items() if change * (reported - nominal) > 0}
    best = max(towards, key=lambda name: abs(towards[name]), default=None)
    side = _side(reported, result["range"][metric])
    if not low <= reported <= high:
        return f"{side}; {_beyond(model, metric, reported)}"
    if best is None:
        return side
    return f"{side}; the assumption that leads there fastest: {best} ({towards[best]:+.3f} at its end)"


def _beyond(model: _Model, metric: str, reported: float) -> str:
    """Single changes that would bring the model to a reported figure."""
    choice, found = model.nominal(), []
    if metric == "energy_saving":
        for factor in ("SRAM leakage (cell type)", "SRAM access energy", "DRAM energy"):
            ratio = _root(lambda x: model.at(choice, extra=(factor, x))[metric], reported, 1e-3, 50)  # noqa: B023
            if ratio is not None:
                found.append(f"{factor} x {ratio:.2g}")
    else:
        found.append(model.needed_wait(choice, reported))
    share = _root(lambda p: model.at(choice, share=p)[metric], reported, 0.02, 1.0)
    if share is not None:
        found.append(f"a low share of {share:.0%} instead of {model.low_share:.0%}")
    if not found:
        return "no single assumption reaches it"
    return "alone it would take " + ", or ".join(found)


def _row(
    network: str,
    quantity: str,
    low_share: float | None,
    reported: float,
    modelled: float,
    span: tuple[float, float],
    note: str,
) -> dict[str, Any]:
    limit = bound(low_share) if quantity == "speedup" and low_share is not None else None
    return {
        "network": network,
        "quantity": quantity,
        "low_share": low_share,
        "reported": reported,
        "modelled": modelled,
        "low": span[0],
        "high": span[1],
        "bound": limit,
        "above_bound": limit is not None and reported > limit,
        "inside": span[0] <= reported <= span[1],
        "note": note,
    }


def reproduce() -> dict[str, Any]:
    """The paper's tables beside the model's, from topology and low share alone.

    Plans are random at the reported low share. `low` and `high` span the ranges of all assumptions
    together: those of the machine files, sequence lengths, input sizes.

    Returns
    -------
    dict
        "rows": a list of {"network", "quantity" (speedup, energy_saving, area_overhead,
        memory_energy_share), "low_share", "reported", "modelled", "low", "high", "bound" (speedups),
        "above_bound", "inside", "note"}; "assumptions": a list of {"network", "steps", "inputs",
        "sequences"}; the first two [nominal, lowest, highest].
    """
    rows, at_headline = [], {}
    for network in NETWORKS:
        model = _Model(network, network.low_share)
        result = sweep(model, model.options, METRICS)
        at_headline[network.name, None] = result
        for metric, reported in (("speedup", network.speedup), ("energy_saving", network.energy_saving)):
            note = _note(model, result, metric, reported)
            nominal, span = result["nominal"][metric], result["range"][metric]
            rows.append(_row(network.name, metric, network.low_share, reported, nominal, span, note))
    for name, share, speedup, saving in HEADLINES:
        rows.extend(_headline(name, share, speedup, saving, at_headline))
    rows.extend(_areas(at_headline[NETWORKS[0].name, None]))
    rows.append(_memory_share())
    assumptions = [
        {"network": n.name, "steps": list(n.steps), "inputs": list(n.inputs), "sequences": SEQUENCES}
        for n in NETWORKS
    ]
    return {"rows": rows, "assumptions": assumptions}


def _headline(
    name: str, share: float | None, speedup: float, saving: float, known: dict[Any, Any]
) -> list[dict[str, Any]]:
    """Averages over the networks: geometric of speedups (which 1.56 is), arithmetic of savings."""
    results = []
    for network in NETWORKS:
        if share is None:
            results.append(known[network.name, None])
        else:
            model = _Model(network, share)
            results.append(sweep(model, model.options, METRICS))
    used = share if share is not None else sum(network.low_share for network in NETWORKS) / len(NETWORKS)

    def mean(metric: str, value: Callable[[dict[str, Any]], float]) -> float:
        values = [value(result) for result in results]
        if metric == "speedup":
            return math.exp(sum(map(math.log, values)) / len(values))
        return sum(values) / len(values)

    rows = []
    for metric, reported in (("speedup", speedup), ("energy_saving", saving)):
        span = (mean(metric, lambda r: r["range"][metric][0]), mean(metric, lambda r: r["range"][metric][1]))  # noqa: B023
        nominal = mean(metric, lambda r: r["nominal"][metric])  # noqa: B023
        kind = "geometric" if metric == "speedup" else "arithmetic"
        note = f"{_side(reported, span)}; {kind} mean over the four networks"
        note += ", each at this share" if share is not None else ", each at its own share"
        if metric == "speedup" and reported > bound(used):
            most = 2**used
            mixed = math.exp(sum(math.log(bound(network.low_share)) for network in NETWORKS) / len(NETWORKS))
            note += f"; above the bound of equal shares; unequal ones can exceed it (any networks: up to {most:.2f}"
            note += f"; these shares: {mixed:.2f})" if share is None else ")"
        rows.append(_row(name, metric, used, reported, nominal, span, note))
    return rows


def _areas(result: dict[str, Any]) -> list[dict[str, Any]]:
    nominal, span = result["nominal"]["area_overhead"], result["range"]["area_overhead"]
    rows = []
    for name, reported in AREAS:
        extended = "extended" in name
        values = [x / (1 + x) if extended else x for x in (nominal, *span)]
        note = (
            _side(reported, (values[1], values[2]))
            + "; the offset memory decides it; modelled without wiring, pads and what else 32.2 mm2 hold"
        )
        rows.append(_row(name, "area_overhead", None, reported, values[0], (values[1], values[2]), note))
    return rows


def _memory_share() -> dict[str, Any]:
    """On-chip memories in the energy of the base machine, for EESEN, which both papers run."""
    model = _Model(NETWORKS[2], 0.0, "epur")
    result = sweep(model, model.options, ("memory_energy_share",))
    nominal, span = result["nominal"]["memory_energy_share"], result["range"]["memory_energy_share"]
    note = f"{_side(MEMORY_SHARE, span)}; E-PUR computes in 16 or 32-bit floating point, epur in 8 bits"
    return _row("E-PUR, on EESEN", "memory_energy_share", None, MEMORY_SHARE, nominal, span, note)
