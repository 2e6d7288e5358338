"""Area of a machine, by component (main memory is not on the chip)."""

from __future__ import annotations

from accel import energy
from accel.machine import Machine


def run(machine: Machine) -> dict[str, float]:
    """Area of every component in mm2."""
    units = int(machine.units)
    area = dict.fromkeys(energy.COMPONENTS, 0.0)
    area[energy.UPPER] = units * float(machine.weights.bank.area)
    area[energy.LOWER] = units * (int(machine.weights.banks) - 1) * float(machine.weights.bank.area)
    area[energy.INPUTS] = units * float(machine.input_buffer.area)
    area[energy.INTERMEDIATE] = float(machine.intermediate.area)
    area[energy.DOT] = units * float(machine.datapath.area)
    unit = machine.multifunction
    area[energy.MULTIFUNCTION] = units * (float(unit.area) + float(unit.constants.area))
    if machine.dynamic and machine.offsets is not None and machine.precision_unit is not None:
        area[energy.OFFSETS] = units * float(machine.offsets.area)
        area[energy.PRECISION] = float(machine.precision_unit.logic_area) + float(
            machine.precision_unit.buffer.area
        )
    return area
