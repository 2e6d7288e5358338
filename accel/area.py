"""Area of a machine, by component (main memory is not on the chip)."""

from __future__ import annotations

from accel import control as controls
from accel import energy
from accel.control import Control
from accel.machine import Machine


def run(machine: Machine, control: Control) -> dict[str, float]:
    """Area of every component in mm2, of a machine built for one control."""
    units = int(machine.units)
    area = dict.fromkeys(energy.COMPONENTS, 0.0)
    area[energy.UPPER] = units * float(machine.weights.bank.area)
    area[energy.LOWER] = units * (int(machine.weights.banks) - 1) * float(machine.weights.bank.area)
    area[energy.INPUTS] = units * float(machine.input_buffer.area)
    area[energy.INTERMEDIATE] = float(machine.intermediate.area)
    area[energy.DOT] = units * float(machine.datapath.area)
    maths = machine.multifunction
    area[energy.MULTIFUNCTION] = units * (float(maths.area) + float(maths.constants.area))
    if machine.dynamic and machine.offsets is not None and machine.precision_unit is not None:
        area[energy.OFFSETS] = units * float(machine.offsets.area)
        unit, share = machine.precision_unit, controls.buffer_share(machine.precision_unit, control)
        area[energy.PRECISION] = controls.need(unit, control).area_mm2 + share * float(unit.buffer.area)
    return area
