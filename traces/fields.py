"""The vocabulary in which a file's schema is written, and the check of content against it.

Content is a tree of `Node`: in memory its arrays are NumPy arrays, from a file they are HDF5 data sets. Both
go through the same `conform`, so what is written and what is read obey one description.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from traces.errors import InputError, one_line

_DIMENSION = re.compile(r"(\d*)([A-Z]*)(?:/(\d+))?(?:\+(\d+))?")
MAX_TEXT = 1 << 26
"""Longest text of an attribute, in characters."""
MAX_CONTAINERS = 1 << 18
"""Most lists and objects in the JSON of an attribute; each takes some twenty times its text in memory."""
MAX_GROUPS = 1024
"""Most numbered groups, that is layers, in a file."""


@dataclass(frozen=True)
class Attribute:
    """A named value of a group.

    `type` is "text", "integer", "flag" (0 or 1) or "json" (text that holds one JSON object). `size` names the
    symbol of the shapes that the value defines, `since` the version of the format that introduced it.
    """

    name: str
    type: str
    about: str
    optional: bool = False
    choices: tuple[str, ...] = ()
    range: tuple[int, int] | None = None
    size: str = ""
    since: int = 1

    def accept(self, value: Any, where: str) -> Any:
        """The value in its Python type (str, int, bool, dict); InputError where it does not fit."""
        if self.type == "json":
            return _object(value, where)
        if self.type == "text":
            if not isinstance(value, str):
                raise InputError(f"{where} is {type(value).__name__}; it must be text")
            if not _plain(value) or len(value) > MAX_TEXT:
                raise InputError(
                    f"{where} must be valid Unicode without NUL, of at most {MAX_TEXT} characters"
                )
            if self.choices and value not in self.choices:
                raise InputError(f"{where} is {value[:40]!r}; it must be one of {', '.join(self.choices)}")
            return value
        if not isinstance(value, (int, np.integer, np.bool_)):
            raise InputError(f"{where} is {type(value).__name__}; it must be an integer")
        lowest, highest = self.range or ((0, 1) if self.type == "flag" else (-(2**63), 2**63 - 1))
        if not lowest <= int(value) <= highest:
            raise InputError(f"{where} is {int(value)}; it must be within {lowest}..{highest}")
        return bool(value) if self.type == "flag" else int(value)


@dataclass(frozen=True)
class Array:
    """A data set: alternatives of dtype (NumPy notation), shape in symbols, unit.

    A dimension is a number, a symbol, or a multiple ("4H"), a quotient rounded up ("H/8") or an increment
    ("S+1") of a symbol. A symbol that nothing defined yet takes the size it meets first. `since` is the version of
    the format that introduced the array. A `streamed` array is read in pieces, as they are asked for; all others are
    read into memory when a file is opened.
    """

    name: str
    dtypes: tuple[str, ...]
    shape: tuple[str, ...]
    about: str
    optional: bool = False
    unit: str = ""
    since: int = 1
    streamed: bool = False

    def match(self, array: Any, sizes: dict[str, int], where: str) -> None:
        """Compare dtype and shape, adding newly met symbols to `sizes`; InputError where they differ."""
        if not hasattr(array, "dtype") or not hasattr(array, "shape"):
            raise InputError(f"{where} is {type(array).__name__}; it must be an array of {self.dtypes[0]}")
        if all(array.dtype != np.dtype(dtype) for dtype in self.dtypes):
            raise InputError(
                f"{where} holds {array.dtype}; it must hold {' or '.join(map(name_of, self.dtypes))}"
            )
        found = tuple(array.shape)
        expected = tuple(_size(text, sizes) for text in self.shape)
        if len(found) != len(expected) or any(
            e not in (None, f) for e, f in zip(expected, found, strict=True)
        ):
            wanted = ", ".join(
                text if size is None or text == str(size) else f"{text} = {size}"
                for text, size in zip(self.shape, expected, strict=True)
            )
            raise InputError(f"{where} has shape {list(found)}; it must have shape [{wanted}]")
        for text, size in zip(self.shape, found, strict=True):
            if text.isalpha():
                sizes[text] = size
            elif text == "S+1":
                sizes["S"] = size - 1


@dataclass(frozen=True)
class Group:
    """A group: attributes, arrays and groups. A `repeated` one is a list of groups named 0, 1, 2, ..."""

    name: str
    about: str
    attributes: tuple[Attribute, ...] = ()
    arrays: tuple[Array, ...] = ()
    groups: tuple["Group", ...] = ()
    repeated: bool = False
    optional: bool = False


@dataclass
class Node:
    """Content of one group. Absent optional parts are left out; a repeated group is a list of nodes."""

    attributes: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Any] = field(default_factory=dict)
    groups: dict[str, "Node"] = field(default_factory=dict)
    lists: dict[str, list["Node"]] = field(default_factory=dict)


def newest(spec: Group) -> int:
    """The newest version that anything in a schema was introduced with."""
    parts: list[Attribute | Array] = [*spec.attributes, *spec.arrays]
    return max([part.since for part in parts] + [newest(child) for child in spec.groups], default=1)


def needed(spec: Group, node: Node) -> int:
    """The lowest version that can hold some content."""
    versions = [array.since for array in spec.arrays if array.name in node.arrays]
    versions += [attribute.since for attribute in spec.attributes if attribute.name in node.attributes]
    for child in spec.groups:
        nodes = node.lists.get(child.name, []) if child.repeated else [node.groups.get(child.name)]
        versions += [needed(child, inner) for inner in nodes if inner is not None]
    return max(versions, default=1)


def present(values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def name_of(dtype: str) -> str:
    """The long name of a dtype: "<f4" is float32."""
    return (
        np.dtype(dtype).name if np.dtype(dtype).kind != "S" else f"bytes of length {np.dtype(dtype).itemsize}"
    )


def conform(spec: Group, node: Node, where: str = "", sizes: dict[str, int] | None = None) -> dict[str, int]:
    """Check a tree of content against its schema.

    Attributes are replaced by their Python values.

    Returns
    -------
    dict
        The sizes of the group's symbols, those of the groups above included.

    Raises
    ------
    InputError
        Missing or misplaced content, a wrong type, a value out of range, shapes that disagree.
    """
    sizes = dict(sizes or {})
    for attribute in spec.attributes:
        place = f"attribute {where}{attribute.name}"
        if attribute.name in node.attributes:
            value = attribute.accept(node.attributes[attribute.name], place)
            node.attributes[attribute.name] = value
            if attribute.size:
                sizes[attribute.size] = value
        elif not attribute.optional:
            raise InputError(f"{place} is missing")
    for array in spec.arrays:
        if array.name in node.arrays:
            array.match(node.arrays[array.name], sizes, where + array.name)
        elif not array.optional:
            raise InputError(f"{where}{array.name} is missing")
    for group in spec.groups:
        if group.repeated:
            if not node.lists.get(group.name):
                raise InputError(f"{where}{group.name} is missing or empty")
            for number, child in enumerate(node.lists[group.name]):
                conform(group, child, f"{where}{group.name}/{number}/", sizes)
        elif group.name in node.groups:
            conform(group, node.groups[group.name], f"{where}{group.name}/", sizes)
        elif not group.optional:
            raise InputError(f"{where}{group.name} is missing")
    return sizes


def dump(value: Mapping[str, Any], where: str) -> str:
    """A dict as JSON text with sorted keys; InputError where JSON cannot express it."""
    try:
        return json.dumps(value, allow_nan=False, sort_keys=True, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{where} cannot be written as JSON: {one_line(error)}") from error


def _object(value: Any, where: str) -> dict[str, Any]:
    if isinstance(value, str):
        if value.count("[") + value.count("{") > MAX_CONTAINERS:
            raise InputError(f"{where} holds over {MAX_CONTAINERS} lists and objects")
        try:
            value = json.loads(value, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where} is not JSON: {one_line(error)}") from error
    if not isinstance(value, dict):
        raise InputError(f"{where} is not a JSON object")
    if not _plain(dump(value, where)):
        raise InputError(f"{where} must hold valid Unicode")
    return value


def _plain(text: str) -> bool:
    """Whether UTF-8 can express the text and a fixed-length string can hold it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number of JSON")


def _size(text: str, sizes: Mapping[str, int]) -> int | None:
    """The value of a dimension, or None while its symbol is free."""
    parts = _DIMENSION.fullmatch(text)
    assert parts is not None
    factor, symbol, divisor, increment = parts.groups()
    if not symbol:
        return int(factor)
    if symbol not in sizes:
        return None
    size = int(factor or 1) * sizes[symbol]
    return -(-size // int(divisor or 1)) + int(increment or 0)
