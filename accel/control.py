"""What each kind of controller needs of the hardware, and which kind a trace was made with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from accel.machine import WORD_BITS, PrecisionUnit

DETECTOR, DELTA, MASK, SCORES, NONE = "detector", "delta", "mask", "scores", "none"
"""The paper's detector; change against a threshold; a stored bit an element; stored scores against a threshold; one
precision throughout."""


@dataclass(frozen=True)
class Control:
    """Kind of a controller, and the inputs of its readout neuron.

    Attributes
    ----------
    kind : str
    readout : tuple of int
        Weights of the neuron in each layer and direction (the largest over directions; 0: no neuron).
    element_readout : tuple of int
        Weights of every element's own readout, likewise.
    """

    kind: str = DETECTOR
    readout: tuple[int, ...] = ()
    element_readout: tuple[int, ...] = ()

    def inputs(self, layer: int) -> int:
        """Inputs of the readout neuron of a layer."""
        return self.readout[layer] if layer < len(self.readout) else 0

    def element_inputs(self, layer: int) -> int:
        """Inputs of every element's readout of a layer."""
        return self.element_readout[layer] if layer < len(self.element_readout) else 0

    @property
    def follows_cell(self) -> bool:
        """Whether decisions wait for the cell state of the step before."""
        return self.kind in (DETECTOR, DELTA)


def of(controller: Any) -> Control:
    """The control of a controller as a trace records it.

    `random`, `schedule`, users' own and unknown controllers count as the paper's detector: they are ways to study
    decisions, and no hardware is known for them.
    """
    if not isinstance(controller, Mapping):
        return Control()
    name = controller.get("name")
    if name == "static":
        return Control(NONE)
    if name == "delta":
        return Control(DELTA)
    if name != "calibrated":
        return Control()
    own = controller.get("element_readout")
    if own:
        widths = (max(len(side["x_columns"]) + len(side["h_columns"]) for side in layer) for layer in own)
        return Control(SCORES, element_readout=tuple(widths))
    readout = controller.get("readout")
    if not readout:
        return Control(MASK)
    return Control(SCORES, tuple(max(len(side["weights"]) for side in layer) for layer in readout))


@dataclass(frozen=True)
class Need:
    """What a kind of controller needs of the precision unit.

    Attributes
    ----------
    read_bits, written_bits : int
        State of one element, in each step.
    decision_pj : float
    leakage_mw, area_mm2 : float
        Of the logic.
    """

    read_bits: int
    written_bits: int
    decision_pj: float
    leakage_mw: float
    area_mm2: float


def need(unit: PrecisionUnit, control: Control) -> Need:
    """The needs of a control; kinds that a machine file does not describe count as the paper's detector."""
    if control.kind == NONE:
        return Need(0, 0, 0.0, 0.0, 0.0)
    rule = {DELTA: unit.delta, MASK: unit.mask, SCORES: unit.scores}.get(control.kind)
    if rule is None:
        bits = int(unit.element_state) * WORD_BITS
        return Need(bits, bits, float(unit.decision_energy), float(unit.logic_leakage), float(unit.logic_area))
    energy, leakage, area = float(rule.decision_energy), float(rule.logic_leakage), float(rule.logic_area)
    return Need(int(rule.read), int(rule.written), energy, leakage, area)


def buffer_share(unit: PrecisionUnit, control: Control) -> float:
    """Part of the precision unit's buffer that a machine built for a control has: its bits an element over those of the
    detector."""
    wanted = need(unit, control)
    return max(wanted.read_bits, wanted.written_bits) / (int(unit.element_state) * WORD_BITS)
