"""Constants that say where they come from, and YAML text read with the line of every field."""

from __future__ import annotations

import math
from typing import Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from traces import InputError

MAX_CHARACTERS = 1 << 18
MAX_DEPTH = 8
MAX_NODES = 20_000

Place = tuple[str | int, ...]


class Described(BaseModel):
    """Base of a constant: it has a source, or it is an assumption and then has a range."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    source: str | None = None
    assumption: str | None = None

    def _origin(self, has_range: bool) -> None:
        if (self.source is None) == (self.assumption is None):
            raise ValueError("give either `source` or `assumption`")
        if self.assumption is not None and not has_range:
            raise ValueError("an assumption needs a `range`")


class Quantity(Described):
    """A number with its unit, and its source or the range in which it is assumed to lie."""

    value: float
    unit: str
    range: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _check(self) -> Quantity:
        self._origin(self.range is not None)
        if self.range is not None and not self.range[0] <= self.value <= self.range[1]:
            least, most = self.range
            raise ValueError(f"value {self.value:g} lies outside its own range {least:g} to {most:g}")
        return self

    def __float__(self) -> float:
        return self.value

    def __int__(self) -> int:
        return int(self.value)


class Choice(Described):
    """One of several named ways to build the machine."""

    value: str
    range: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _check(self) -> Choice:
        self._origin(self.range is not None)
        if self.range is not None and self.value not in self.range:
            raise ValueError(f"value {self.value!r} is not in its own range")
        return self

    def __str__(self) -> str:
        return self.value


def within(unit: str, least: float, most: float, whole: bool = False) -> AfterValidator:
    """Validator of a quantity: its unit, the values that make sense, and whether they are integers."""

    def check(quantity: Quantity) -> Quantity:
        if quantity.unit != unit:
            raise ValueError(f"unit is {quantity.unit!r}, expected {unit!r}")
        for value in (quantity.value, *(quantity.range or ())):
            if not math.isfinite(value) or not least <= value <= most or (whole and value != int(value)):
                kind = "a whole number " if whole else ""
                raise ValueError(f"{value:g} {unit} given, expected {kind}from {least:g} to {most:g} {unit}")
        return quantity

    return AfterValidator(check)


def one_of(*names: str) -> AfterValidator:
    """Validator of a choice: the names it can take."""

    def check(choice: Choice) -> Choice:
        for value in (choice.value, *(choice.range or ())):
            if value not in names:
                raise ValueError(f"{value!r} given, expected one of {', '.join(names)}")
        return choice

    return AfterValidator(check)


def parse(text: str, name: str) -> tuple[dict[str, Any], dict[Place, int]]:
    """A YAML mapping, and the line (from 1) of each of its fields.

    Only plain data is accepted: no aliases, no tags beyond YAML's own scalars, no repeated keys.

    Raises
    ------
    InputError
        Not YAML, not a mapping, too long, too deep.
    """
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"{name}: over {MAX_CHARACTERS} characters; a machine file is a few kilobytes")
    try:
        depth = 0
        for number, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
            where = f"{name}, line {event.start_mark.line + 1 if event.start_mark else 1}"
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise InputError(f"{where}: anchors and aliases are not accepted; write the value out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH or number > MAX_NODES:
                raise InputError(f"{where}: nested deeper than {MAX_DEPTH} levels or over {MAX_NODES} items")
        data = yaml.safe_load(text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise InputError(f"{name}{where}: not valid YAML: {problem[:200]}") from error
    if not isinstance(data, dict) or not isinstance(root, yaml.MappingNode):
        raise InputError(f"{name}: a machine file is a YAML mapping (name, clock, ...)")
    lines: dict[Place, int] = {}
    _lines(root, (), lines, name)
    return data, lines


def _lines(node: yaml.Node, place: Place, lines: dict[Place, int], name: str) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                raise InputError(f"{name}, line {line}: field names are plain text")
            inner = (*place, key.value)
            if inner in lines:
                raise InputError(f"{name}, line {line}: {key.value} is given twice")
            lines[inner] = line
            _lines(value, inner, lines, name)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            lines[(*place, number)] = value.start_mark.line + 1
            _lines(value, (*place, number), lines, name)
