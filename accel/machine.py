"""The description of an accelerator: every constant with its unit and origin, from a YAML file a machine.

The presets lie in `accel/presets`; a file may build on one of them with `extends: NAME` and then holds only
what differs. What each field means for cycles, energy and area: `docs/accelerator.md`.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from accel.quantity import Choice, Place, Quantity, one_of, parse, within
from traces import InputError

PRESETS = Path(__file__).parent / "presets"
GATES = 4
WORD_BITS = 8  # a stored index takes one byte, whatever the precisions

Cycles = Annotated[Quantity, within("cycles", 0, 10_000, whole=True)]
Period = Annotated[Quantity, within("cycles", 1, 10_000, whole=True)]
Bits = Annotated[Quantity, within("bits", 1, 65_536, whole=True)]
Bytes = Annotated[Quantity, within("bytes", 1, 2**40, whole=True)]
Count = Annotated[Quantity, within("1", 1, 65_536, whole=True)]
Share = Annotated[Quantity, within("1", 0, 1)]
Picojoule = Annotated[Quantity, within("pJ", 0, 1e6)]
PerBit = Annotated[Quantity, within("pJ/bit", 0, 1e4)]
Milliwatt = Annotated[Quantity, within("mW", 0, 1e6)]
Area = Annotated[Quantity, within("mm2", 0, 1e4)]
Policy = Annotated[Choice, one_of("refuse", "reload")]


class Section(BaseModel):
    """Part of a machine; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Memory(Section):
    """One SRAM bank; energies are per access of `word` bits."""

    size: Bytes
    word: Bits
    read: Picojoule
    write: Picojoule
    leakage: Milliwatt
    area: Area
    gated_blocks: Count  # separately power-gated parts of the bank


class Datapath(Section):
    """Dot-product unit of one computation unit."""

    kind: Annotated[Choice, one_of("serial", "parallel", "composable")]
    serial_operand: Annotated[Choice, one_of("inputs", "none")]
    inner_product_units: Count
    lanes: Count
    padding: Annotated[Choice, one_of("joint", "separate")]
    max_bits: Annotated[Quantity, within("bits", 2, 8, whole=True)]
    accumulator: Bits
    reduction: Cycles
    prefetched_groups: Annotated[Quantity, within("1", 1, 8, whole=True)]
    forward_overlap: Annotated[Choice, one_of("yes", "no")]
    lane_energy: Picojoule
    staging_energy: PerBit
    leakage: Milliwatt
    area: Area

    def mode(self, bits: int) -> int:
        """Width, in bits, at which operands of `bits` bits are processed."""
        if self.kind.value == "serial":
            return bits
        if self.kind.value == "parallel":
            return WORD_BITS
        return next(width for width in (2, 4, 8) if width >= bits)

    def group(self, bits: int) -> int:
        """Multiplications of one group of weights, which the unit works on at once."""
        width = int(self.inner_product_units) * int(self.lanes)
        return width * (WORD_BITS // self.mode(bits)) ** 2 if self.kind.value == "composable" else width

    def group_cycles(self, bits: int) -> int:
        """Cycles of one group."""
        return bits if self.kind.value == "serial" else 1

    def multiply_energy(self, bits: int) -> float:
        """Energy of one multiplication with accumulation, in pJ."""
        energy = float(self.lane_energy)
        if self.kind.value == "serial":
            return energy * bits
        return energy * (self.mode(bits) / WORD_BITS) ** 2 if self.kind.value == "composable" else energy


class Multifunction(Section):
    """Floating-point unit of one computation unit."""

    add: Cycles
    multiply: Cycles
    exponential: Cycles
    divide: Cycles
    communicate: Cycles
    interval: Period
    parts: Annotated[Quantity, within("1", 1, 2, whole=True)]
    add_energy: Picojoule
    multiply_energy: Picojoule
    exponential_energy: Picojoule
    divide_energy: Picojoule
    row_constants: Bytes
    constants: Memory
    leakage: Milliwatt
    area: Area


class Weights(Section):
    """Weight buffer of one computation unit: banks of `bank_bits` bits a weight, the upper bits first."""

    banks: Count
    bank_bits: Bits
    port: Bits
    bank: Memory


class Rule(Section):
    """What another controller than the paper's needs: state of an element and step, a decision, logic."""

    read: Annotated[Quantity, within("bits", 0, 1024, whole=True)]
    written: Annotated[Quantity, within("bits", 0, 1024, whole=True)]
    decision_energy: Picojoule
    logic_leakage: Milliwatt
    logic_area: Area


class PrecisionUnit(Section):
    """Decides the precision of each element and keeps its state; the fields outside of rules are the paper's."""

    latency: Cycles
    interval: Period
    element_state: Bytes
    decision_energy: Picojoule
    logic_leakage: Milliwatt
    logic_area: Area
    buffer: Memory
    readout: Annotated[Choice, one_of("exposed", "hidden")]
    delta: Rule | None = None
    mask: Rule | None = None
    scores: Rule | None = None


class Dram(Section):
    """Main memory."""

    bandwidth: Annotated[Quantity, within("GB/s", 1e-3, 1e5)]
    energy: PerBit
    background: Milliwatt
    overlap: Annotated[Choice, one_of("serial", "double")]
    loads: Annotated[Choice, one_of("sequence", "once")]


class Gating(Section):
    """Power gating of memory blocks that a layer does not use."""

    enabled: Annotated[Choice, one_of("yes", "no")]
    residual: Share


class Capacity(Section):
    """What happens where a network is larger than a memory: refuse it, or reload the excess."""

    weights: Policy
    inputs: Policy
    precision_state: Policy
    intermediate: Policy


class Machine(Section):
    """An accelerator. Load one with `Machine.load("epur-dyn")` or `Machine.load("mine.yaml")`."""

    name: str
    description: str
    node: Annotated[Quantity, within("nm", 1, 1000)]
    voltage: Annotated[Quantity, within("V", 0.1, 10)]
    clock: Annotated[Quantity, within("MHz", 0.01, 100_000)]
    units: Annotated[Quantity, within("1", 1, 4, whole=True)]
    precision: Annotated[Choice, one_of("fixed", "dynamic")]
    datapath: Datapath
    multifunction: Multifunction
    weights: Weights
    offsets: Memory | None = None
    input_buffer: Memory
    intermediate: Memory
    cell_state: Bytes
    precision_unit: PrecisionUnit | None = None
    dram: Dram
    gating: Gating
    capacity: Capacity

    @classmethod
    def load(cls, name: str | os.PathLike[str] | Machine) -> Machine:
        """A preset by name or a machine file by path.

        Raises
        ------
        InputError
            No such preset or file, or a bad one: the message names field, value, what is allowed and the
            line.
        """
        if isinstance(name, Machine):
            return name
        if isinstance(name, str) and name in machines():
            return _read(PRESETS / f"{name}.yaml")
        if not isinstance(name, (str, os.PathLike)):
            raise InputError(
                f"machine is {type(name).__name__}: expected a preset's name, a path or an accel.Machine"
            )
        path = Path(name)
        if path.suffix not in (".yaml", ".yml") and not path.is_file():
            raise InputError(
                f"machine {str(name)!r}: neither a preset ({', '.join(machines())}) nor a YAML file"
            )
        return _read(path)

    @property
    def clock_hz(self) -> float:
        return float(self.clock) * 1e6

    @property
    def dynamic(self) -> bool:
        """Whether the machine follows a precision plan."""
        return self.precision.value == "dynamic"

    def read_banks(self, bits: int) -> int:
        """Weight banks read for an index of `bits` bits."""
        return min(math.ceil(bits / int(self.weights.bank_bits)), int(self.weights.banks))

    def constants(self) -> Iterator[tuple[str, Quantity | Choice]]:
        """All constants with their dotted names, such as "dram.energy"."""
        yield from _constants(self, "")

    def replaced(self, changes: dict[str, float | str]) -> Machine:
        """A copy with other values: {"dram.energy": 4.0}; their origins become "set by the user".

        Raises
        ------
        InputError
            An unknown name or a value out of bounds.
        """
        data = self.model_dump(exclude_none=True)
        for name, value in changes.items():
            entry: Any = data
            for part in name.split("."):
                entry = entry.get(part) if isinstance(entry, dict) else None
            if not isinstance(entry, dict) or "value" not in entry:
                raise InputError(f"machine {self.name}: no constant is called {name!r}")
            entry.update(value=value, source="set by the user", assumption=None, range=None)
        return _validated(data, f"machine {self.name}", {})


def machines() -> list[str]:
    """Names of the machines that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def _constants(section: BaseModel, prefix: str) -> Iterator[tuple[str, Quantity | Choice]]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, (Quantity, Choice)):
            yield prefix + name, value
        elif isinstance(value, BaseModel):
            yield from _constants(value, f"{prefix}{name}.")


def _read(path: Path) -> Machine:
    data, lines = _tree(path, [])
    return _validated(data, str(path), lines)


def _tree(path: Path, seen: list[str]) -> tuple[dict[str, Any], dict[Place, int]]:
    """The file's fields over those of the preset that it extends; lines are those of the file itself."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(1 << 20)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"machine file {path}: cannot be read: {' '.join(str(error).split())}") from error
    data, lines = parse(text, str(path))
    base = data.pop("extends", None)
    if base is None:
        return data, lines
    line = lines[("extends",)]
    if base not in machines():
        raise InputError(f"{path}, line {line}: extends is {base!r}, expected one of {', '.join(machines())}")
    if base in seen or len(seen) > 4:
        raise InputError(f"{path}, line {line}: extends goes round in a circle")
    below, _ = _tree(PRESETS / f"{base}.yaml", [*seen, str(base)])
    return _merged(below, data), lines


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = copy.copy(below)
    for key, value in above.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict) and "value" not in value:
            merged[key] = _merged(merged[key], value)
        else:
            merged[key] = value
    return merged


def _validated(data: dict[str, Any], name: str, lines: dict[Place, int]) -> Machine:
    try:
        machine = Machine.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = tuple(first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing":
            message = "missing"
        elif first["type"] == "extra_forbidden":
            message = "no such field"
        elif not isinstance(first.get("input"), (dict, BaseModel)):
            message += f" (given {str(first.get('input'))[:60]!r})"
        raise InputError(
            f"{name}{_line(place, lines)}: {'.'.join(map(str, place)) or 'machine'}: {message}"
        ) from error
    for place, message in _contradictions(machine):
        raise InputError(f"{name}{_line(place, lines)}: {'.'.join(map(str, place))}: {message}")
    return machine


def _line(place: Place, lines: dict[Place, int]) -> str:
    while place:
        for known in ((*place, "value"), place):
            if known in lines:
                return f", line {lines[known]}"
        place = place[:-1]
    return ""


def _contradictions(machine: Machine) -> Iterator[tuple[Place, str]]:
    serial = machine.datapath.kind.value == "serial"
    if serial != (machine.datapath.serial_operand.value == "inputs"):
        yield ("datapath", "serial_operand"), "inputs for a serial datapath, none for the others"
    if int(machine.units) == 3:
        yield ("units",), "3 given, expected 1, 2 or 4: the four gates are spread evenly"
    for name in ("offsets", "precision_unit"):
        if machine.dynamic and getattr(machine, name) is None:
            yield (name,), "missing; a machine of dynamic precision needs it"
    if int(machine.weights.banks) * int(machine.weights.bank_bits) != WORD_BITS:
        yield ("weights", "banks"), f"the banks together have to hold {WORD_BITS} bits a weight"
