"""Are 8 bits enough? What each quantised part costs the gates of the float network at high precision, and what helps.

`docs/calibration.md`, "When high precision is lossy".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from accel.controllers import Static
from fxp import rounding
from fxp.emulator import emulate
from fxp.formats import Granularity
from fxp.network import Network
from fxp.observation import as_data, chosen
from fxp.scales import STEPS, View, equalised, fit_scales, gates, ranged, rebuilt
from traces import Data, InputError

LIMIT = 0.05  # of the spread of the gates: a part whose error is beyond it is called lossy

INPUTS, INPUT_WEIGHTS, OUTPUTS, OUTPUT_WEIGHTS = "inputs", "input weights", "h", "recurrent weights"
ACCUMULATORS = "accumulators"

KEEP, AUTO, FIT = "keep", "auto", "fit"
SCALES = (KEEP, AUTO, FIT)  # what `treated` may do to them


@dataclass(frozen=True)
class Part:
    """What one quantised part does to the gates of a layer when all else stays in float.

    Attributes
    ----------
    layer, direction : int
    part : "inputs", "input weights", "h" or "recurrent weights"
    error : float, root mean square change of the four gates over their standard deviation, for the float states
    """

    layer: int
    direction: int
    part: str
    error: float


@dataclass(frozen=True)
class Remedy:
    """A change that was tried.

    Attributes
    ----------
    name : what it is; how : what to do about it
    part : the part it is for
    before, after : largest error of that part; share of overflows for the accumulators
    output_before, output_after : error of the last layer's h at high precision, relative to its standard deviation
    """

    name: str
    how: str
    part: str
    before: float
    after: float
    output_before: float
    output_after: float

    @property
    def helps(self) -> bool:
        """Whether both errors fall."""
        return self.after < self.before and self.output_after < self.output_before


@dataclass(frozen=True)
class Precision:
    """Errors of a network at high precision against the float network.

    Attributes
    ----------
    high : int, bits
    parts : list of Part
    overflows : list of float, a layer's accumulators that overflowed over all accumulators
    output_error : float, of the last layer's h, relative to its standard deviation
    remedies : list of Remedy, best first; tried only where something is lossy
    sequences, steps : int, of the data looked at
    """

    high: int
    parts: list[Part]
    overflows: list[float]
    output_error: float
    remedies: list[Remedy]
    sequences: int
    steps: int

    @property
    def lossy(self) -> list[Part]:
        """Parts beyond the limit, worst first."""
        return sorted((part for part in self.parts if part.error > LIMIT), key=lambda part: -part.error)

    @property
    def ok(self) -> bool:
        """Whether no part is lossy and nothing overflows."""
        return not self.lossy and not any(self.overflows)

    @property
    def warnings(self) -> list[str]:
        """What is lossy, in words; nothing where all is well."""
        said = [
            f"layer {n}: {share:.2%} of the accumulators overflow at {self.high} bits"
            for n, share in enumerate(self.overflows)
            if share
        ]
        worst: dict[tuple[int, str], float] = {}
        for part in self.lossy:
            worst.setdefault((part.layer, part.part), part.error)
        return said + [
            f"layer {layer}: {self.high} bits are lossy for the {part}: the gates change by {error:.1%} of their spread"
            for (layer, part), error in worst.items()
        ]

    def lines(self) -> list[str]:
        """The warnings, what they come to, and what was found to help."""
        if self.ok:
            return []
        said = [*self.warnings, f"h of the last layer is off by {self.output_error:.1%} of its spread"]
        helping = [
            f"{r.name} brings h to {r.output_after:.1%} ({r.part}: {r.before:.2%} to {r.after:.2%}): {r.how}"
            for r in self.remedies
            if r.helps
        ]
        tried = ", ".join(remedy.name for remedy in self.remedies) or "nothing"
        return said + (helping or [f"no remedy found (tried: {tried})"])

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "limit": LIMIT, "ok": self.ok}


def check_precision(network: Network, data: Any, *, threads: int = 1) -> Precision:
    """Compare high precision with the float network on data, part by part, and try what could help.

    Parameters
    ----------
    network : Network
    data : traces.Data (in memory or open), or inputs as `emulate` takes them
        Real inputs; at most 4,096 steps are looked at.
    threads : int

    Returns
    -------
    Precision

    Raises
    ------
    InputError
        Data that does not fit the network.
    """
    if not isinstance(network, Network):
        raise InputError(f"network is {type(network).__name__}, expected fxp.Network (fxp.load, fxp.from_torch)")
    view = View(network, chosen(as_data(network, data), STEPS))
    found = _measured(network, view, threads)
    if found.ok:
        return found
    remedies = [_tried(found, view, threads, *entry) for entry in _remedies(found, network, view)]
    return replace(found, remedies=sorted(remedies, key=lambda remedy: remedy.output_after))


def _change(reference: np.ndarray, spread: float, z: np.ndarray) -> float:
    difference = gates(z) - reference
    return float(np.sqrt(np.mean(np.square(difference), dtype=np.float64) / spread)) if spread > 0 else 0.0


def rounded(values: np.ndarray, scale: Any, top: int) -> np.ndarray:
    """Values after quantisation to indices within +-top, float32."""
    return np.clip(np.rint(values / np.float32(scale)), -top, top) * np.float32(scale)


def _parts(network: Network, view: View) -> Iterator[Part]:
    top = network.formats.top
    for number, (stored, layer) in enumerate(zip(network.layers, view.layers, strict=True)):
        gain = stored.input_scale if number == 0 else np.float32(1)
        for d in range(stored.directions):
            x, h, z = view.rows(number, d), view.before(number, d), view.z(number, d)
            reference = gates(z)
            spread = float(reference.var(axis=0, dtype=np.float64).mean())
            with np.errstate(over="ignore"):
                x_error = rounded(x / gain, stored.x_scale, top) * gain - x
            h_error = rounded(h, stored.h_scale, top) - h
            wx_error = stored.wx_index[d] * stored.wx_scale[d][:, None] / gain - layer.wx[d]
            wh_error = stored.wh_index[d] * stored.wh_scale[d][:, None] - layer.wh[d]
            for part, factors in (
                (INPUTS, (x_error, layer.wx[d])),
                (INPUT_WEIGHTS, (x, wx_error)),
                (OUTPUTS, (h_error, layer.wh[d])),
                (OUTPUT_WEIGHTS, (h, wh_error)),
            ):
                yield Part(number, d, part, _change(reference, spread, z + factors[0] @ factors[1].T))


def _measured(network: Network, view: View, threads: int) -> Precision:
    run = emulate(network, view.data, Static(network.formats.high), threads=threads)
    outputs = np.concatenate(view.inputs[-1]).astype(np.float64)
    spread = float(outputs.var(axis=0).mean())
    error = float(((np.concatenate(run.outputs) - outputs) ** 2).mean())
    overflows = []
    for layer, counted in zip(network.layers, run.layers, strict=True):
        sums = 8 * layer.hidden_size + (layer.output_size if layer.projected else 0)
        overflows.append(int(counted.overflow_count.sum()) / (sums * layer.directions * view.steps))
    return Precision(
        network.formats.high,
        list(_parts(network, view)),
        overflows,
        (error / spread) ** 0.5 if spread > 0 else 0.0,
        [],
        len(view.lengths),
        view.steps,
    )


def treated(network: Network, data: Data, scales: str, threads: int = 1) -> tuple[Network, dict[str, Any]]:
    """The network with scales fitted as asked, for calibration, and a record of it for JSON.

    Parameters
    ----------
    network : Network
    data : traces.Data
    scales : {"keep", "auto", "fit"}
        Leave all as it is; fit the scales of what is lossy at high precision; fit all.
    threads : int
    """
    view = View(network, chosen(data, STEPS))
    found = _measured(network, view, threads)
    lossy = {(part.layer > 0, part.part) for part in found.lossy}
    inputs = scales == FIT or (scales == AUTO and bool(lossy & {(False, INPUTS), (False, INPUT_WEIGHTS)}))
    h = scales == FIT or (scales == AUTO and bool(lossy & {(False, OUTPUTS), (True, OUTPUTS), (True, INPUTS)}))
    record: dict[str, Any] = {"asked": scales, "changed": False, "output_error": found.output_error}
    if inputs or h:
        made, chosen_scales = fit_scales(network, view.data, inputs, h)
        if made is not network and made.digest != network.digest:
            network, found = made, _measured(made, view, threads)
            record |= {"changed": True, **chosen_scales, "output_error_before": record["output_error"]}
            record["output_error"] = found.output_error
    record["warnings"] = found.warnings
    return network, record


# Remedies

_Try = tuple[str, str, str, Callable[[], Network]]


def _remedies(found: Precision, network: Network, view: View) -> Iterator[_Try]:
    """Name, what to do, part, and the changed network, of what could help with what is lossy."""
    lossy = {part.part for part in found.lossy}
    first = {part.part for part in found.lossy if part.layer == 0}
    formats, fit = network.formats, "fxp calibrate --scales fit, or fxp.fit_scales"
    if first & {INPUTS, INPUT_WEIGHTS}:
        part = INPUTS if INPUTS in first else INPUT_WEIGHTS
        yield "a scale per input feature", fit, part, lambda: equalised(network, view)[1]
    coarse = sorted({part.layer for part in found.lossy if part.part == INPUT_WEIGHTS})
    if coarse:
        yield (
            "input weights rounded for their sums", "fxp.fit_rounding", INPUT_WEIGHTS,
            lambda: rounding.fitted(network, view, coarse),
        )  # fmt: skip
    if OUTPUTS in lossy or any(p.part == INPUTS and p.layer for p in found.lossy):
        yield "another range of h", fit, OUTPUTS if OUTPUTS in lossy else INPUTS, lambda: ranged(network, view)
    if lossy & {INPUT_WEIGHTS, OUTPUT_WEIGHTS} and formats.granularity != Granularity.ROW:
        part = OUTPUT_WEIGHTS if OUTPUT_WEIGHTS in lossy else INPUT_WEIGHTS
        finer = replace(formats, granularity=str(Granularity.ROW))
        yield (
            "a weight scale per row", "granularity=row", part,
            lambda: Network(rebuilt(network, view, finer)),
        )  # fmt: skip
    if any(found.overflows) and formats.accumulator_bits < 32:
        wide = Network(replace(network.model, accumulator_bits=32))
        yield "32-bit accumulators", "accumulator_bits=32", ACCUMULATORS, lambda: wide
    if formats.high < 8 and lossy:
        eight = replace(formats, high=8)
        yield "8 bits", "high=8", found.lossy[0].part, lambda: Network(rebuilt(network, view, eight))


def _tried(
    found: Precision, view: View, threads: int, name: str, how: str, part: str, change: Callable[[], Network]
) -> Remedy:
    after = _measured(change(), view, threads)

    def worst(precision: Precision) -> float:
        if part == ACCUMULATORS:
            return max(precision.overflows)
        return max(entry.error for entry in precision.parts if entry.part == part)

    return Remedy(name, how, part, worst(found), worst(after), found.output_error, after.output_error)
