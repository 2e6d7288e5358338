"""The four kinds of file. This one description checks every file and generates docs/formats.md."""

import contextlib
from collections.abc import Iterator
from types import MappingProxyType

import h5py

from traces import store
from traces.errors import InputError
from traces.fields import (
    MAX_CONTAINERS,
    MAX_GROUPS,
    MAX_TEXT,
    Array,
    Attribute,
    Group,
    Node,
    conform,
    name_of,
    needed,
    newest,
)  # fmt: skip
from traces.store import Pathlike, load, read_attribute

PREFIX = "fxp-lstm/"
MAX_SIZE = 65_536
"""Largest input, hidden or output size."""
_FLOAT, _INT, _BYTE, _SIGN, _LONG, _DOUBLE = ("<f4",), ("<i4",), ("|u1",), ("|i1",), ("<i8",), ("<f8",)

_NUMBERS = (
    Attribute("high", "integer", "bits of the high precision", range=(2, 8)),
    Attribute("low", "integer", "bits of the low precision, at most `high`", range=(2, 8)),
    Attribute("profile", "text", "arithmetic of the multifunction unit", choices=("float32", "fixed")),
    Attribute("accumulator_bits", "integer", "width of the accumulators", range=(8, 32)),
    Attribute("overflow", "text", "what happens to a sum outside the accumulator", choices=("wrap", "clamp")),
)
_SIZES = (
    Attribute("input_size", "integer", "N", range=(1, MAX_SIZE), size="N"),
    Attribute("hidden_size", "integer", "H", range=(1, MAX_SIZE), size="H"),
    Attribute("output_size", "integer", "R: H, or the size of the projection", range=(1, MAX_SIZE), size="R"),
    Attribute(
        "directions",
        "integer",
        "D: 1, or 2 for a bidirectional layer (forward first)",
        range=(1, 2),
        size="D",
    ),
    Attribute("projected", "flag", "1 if h is projected"),
)
_ORIGIN = (
    Attribute("origin", "text", "where the content comes from"),
    Attribute("licence", "text", "its licence"),
)
_METRIC = Attribute("metric", "text", "name of the metric", optional=True)
_RAGGED = (
    Array("ids", _LONG, ("S",), "identity of each sequence, distinct: what seeded controllers key on"),
    Array(
        "offsets",
        _LONG,
        ("S+1",),
        "first step of each sequence among all steps, then their number; increasing",
    ),
)

_LAYER = Group(
    "layers",
    "A layer, numbered from 0. Rows are in gate order i, f, g, o: row gate * H + k belongs to element k. N of a layer "
    "above another is D * R of that one; `wp_*` and `m_scale` are there if it is projected.",
    attributes=_SIZES,
    arrays=(
        Array("wx_float", _FLOAT, ("D", "4H", "N"), "weights of the input"),
        Array("wh_float", _FLOAT, ("D", "4H", "R"), "recurrent weights"),
        Array("bias", _FLOAT, ("D", "4H"), "bias (of both products together)"),
        Array("low_bias", _FLOAT, ("D", "4H"), "added to the bias at low precision"),
        Array("wx_index", _SIGN, ("D", "4H", "N"), "index, within ±(2^(high-1) - 1)", unit="wx_scale"),
        Array("wh_index", _SIGN, ("D", "4H", "R"), "index, within ±(2^(high-1) - 1)", unit="wh_scale"),
        Array(
            "wx_offset", _BYTE, ("D", "4H", "N"), "offset bit: low index = (index >> (high - low)) + offset"
        ),
        Array("wh_offset", _BYTE, ("D", "4H", "R"), "offset bit; 0 where the shifted index is 2^(low-1) - 1"),
        Array("wx_scale", _FLOAT, ("D", "4H"), "step of each row of wx_index"),
        Array("wh_scale", _FLOAT, ("D", "4H"), "step of each row of wh_index"),
        Array("x_scale", _FLOAT, (), "step of the input; in layers >= 1 the h_scale of the layer below"),
        Array("h_scale", _FLOAT, (), "step of h"),
        Array("input_scale", _FLOAT, ("N",), "divisor of each feature; 1 in layers >= 1"),
        Array("wp_float", _FLOAT, ("D", "R", "H"), "weights of the projection", optional=True),
        Array("wp_index", _SIGN, ("D", "R", "H"), "index of the projection", optional=True, unit="wp_scale"),
        Array("wp_scale", _FLOAT, ("D", "R"), "step of each row of wp_index", optional=True),
        Array("m_scale", _FLOAT, (), "step of h before its projection", optional=True),
        Array("peephole", _FLOAT, ("D", "3H"), "weights by which the cell state acts on the gates i, f, o: row "
              "part * H + k", optional=True, since=2),
    ),
    repeated=True,
)
_HEAD = Group(
    "head",
    "The layer after the LSTM.",
    attributes=(
        Attribute("kind", "text", "kind of head", choices=("linear",)),
        Attribute(
            "scope", "text", "applied to every step, or to the last of a sequence", choices=("step", "last")
        ),
    ),
    arrays=(
        Array("weight", _FLOAT, ("C", "P"), "weights; P is D * R of the last layer"),
        Array("bias", _FLOAT, ("C",), "bias"),
    ),
    optional=True,
)
_TRACE_LAYER = Group(
    "layers",
    "What one layer did. Rows are time positions in the input, for the backward direction too. Sizes and arithmetic "
    "are those of the model.",
    attributes=(
        *_SIZES,
        Attribute("peepholes", "flag", "1 if the cell state acts on the gates; 0 if absent", optional=True, since=2),
    ),
    arrays=(
        Array("plan", _BYTE, ("D", "T", "H/8"), "mask that the step at this position used: element k is bit k % 8, "
              "from the least significant, of byte k // 8; 1 is low precision, spare bits are 0", streamed=True),
        Array("low_count", _LONG, ("D", "S"), "low element-steps of each sequence", unit="element-steps"),
        Array("overflow_count", _LONG, ("D", "S"), "sums outside the accumulator, those of the projection too",
              unit="sums"),
        Array("cell", ("<f4", "<i2"), ("D", "T", "H"), "cell state after the step: float32, or int16 with 11 "
              "fraction bits in the fixed profile", optional=True, streamed=True),
        Array("hidden", _SIGN, ("D", "T", "R"), "index of h after the step", optional=True, streamed=True),
        Array("accumulators", _INT, ("D", "T", "2", "4H"), "accumulators after wrap or clamp, at the precision of the "
              "step: x part, h part", optional=True, streamed=True),
    ),
    repeated=True,
)  # fmt: skip

SCHEMAS = MappingProxyType({
    "model": Group(
        "model",
        "A quantised network: what the emulator runs, and what it was quantised from.",
        attributes=(
            Attribute("name", "text", "name of the network"),
            *_NUMBERS,
            Attribute("granularity", "text", "rows that share a step", choices=("row", "gate", "tensor")),
            _METRIC,
            Attribute("calibration", "json", "record of the calibration; its key `controller` as in a trace"),
            *_ORIGIN,
        ),
        arrays=(Array("embedding", _FLOAT, ("V", "E"), "row a token; E is N of layer 0", optional=True),),
        groups=(_LAYER, _HEAD),
    ),
    "data": Group(
        "data",
        "Sequences of unequal length, one after the other: `features` or `tokens`, not both.",
        attributes=(Attribute("name", "text", "name of the data"), _METRIC, *_ORIGIN),
        arrays=(
            *_RAGGED,
            Array("features", _FLOAT, ("T", "F"), "input of each step", optional=True, streamed=True),
            Array("tokens", _INT, ("T",), "token of each step, for an embedding", optional=True, streamed=True),
            Array("step_labels", _INT, ("T",), "label of each step", optional=True, streamed=True),
            Array("labels", _INT, ("S",), "label of each sequence", optional=True, streamed=True),
            Array("step_targets", _BYTE, ("T", "C"), "which of C labels each step has: 0 or 1", optional=True, since=2,
                  streamed=True),
            Array("label_values", _INT, ("Y",), "labels of each sequence, any number of them", optional=True, since=2,
                  streamed=True),
            Array("label_offsets", _LONG, ("S+1",), "first label of each sequence in `label_values`, then their "
                  "number; not decreasing", optional=True, since=2),
            Array("groups", _INT, ("S",), "group of each sequence, such as its speaker", optional=True, since=2),
        ),
    ),
    "trace": Group(
        "trace",
        "The precision of every element at every step of an emulation.",
        attributes=(
            Attribute("model_digest", "text", "SHA-256 of the model's content as this package forms it, or empty"),
            Attribute("data_digest", "text", "SHA-256 of the data's content as this package forms it, or empty"),
            Attribute("controller", "json", "name of the controller and its parameters (numerics, 7.8)"),
            Attribute("seed", "integer", "seed of the controller; -1 where it has none (then `controller` tells)"),
            Attribute("package_version", "text", "version of the package that wrote it"),
            *_NUMBERS,
        ),
        arrays=_RAGGED,
        groups=(_TRACE_LAYER,),
    ),
    "estimate": Group(
        "estimate",
        "Cycles, energy and area of a machine that runs a trace.",
        attributes=(
            Attribute("machine", "text", "name of the machine"),
            Attribute("baseline", "text", "name of the machine it is compared with", optional=True),
            Attribute("trace_digest", "text", "SHA-256 of the trace's content as this package forms it, or empty"),
            Attribute("record", "json", "the whole estimate"),
        ),
        arrays=(Array("layer_cycles", _LONG, ("L", "D"), "of each layer and direction", unit="cycles"),),
        groups=(
            Group(
                "components",
                "Parts of the machine, one a row.",
                arrays=(
                    Array("name", ("|S64",), ("K",), "name, in UTF-8 padded with NUL"),
                    Array("dynamic_pj", _DOUBLE, ("K",), "dynamic energy", unit="pJ"),
                    Array("static_pj", _DOUBLE, ("K",), "static energy", unit="pJ"),
                    Array("area_mm2", _DOUBLE, ("K",), "area", unit="mm²"),
                ),
            ),
        ),
    ),
})  # fmt: skip

VERSIONS = MappingProxyType({kind: newest(spec) for kind, spec in SCHEMAS.items()})
"""Newest version of each kind that this package reads; it writes the lowest that can hold the content."""

_HEADER = (
    Attribute("format", "text", "kind of the file"),
    Attribute("version", "integer", "version of the format", range=(0, 2**31)),
)


def kind_of(file: h5py.File) -> str:
    """Kind of an open file from its `format` and `version` attributes.

    Raises
    ------
    InputError
        The file is none of the project's, or of a newer version.
    """
    if "format" not in file.attrs or "version" not in file.attrs:
        raise InputError("is not a file of fxp-lstm: it has no format and version attributes")
    label, version = (
        attribute.accept(read_attribute(file, attribute), f"attribute {attribute.name}")
        for attribute in _HEADER
    )
    if not label.startswith(PREFIX) or label[len(PREFIX) :] not in SCHEMAS:
        raise InputError(
            f"has format {label[:60]!r}; known are {', '.join(PREFIX + kind for kind in SCHEMAS)}"
        )
    kind = str(label[len(PREFIX) :])
    if not 1 <= version <= VERSIONS[kind]:
        raise InputError(
            f"has version {version} of {label}; this package reads versions 1 to {VERSIONS[kind]}, "
            "a newer package may read it"
        )
    return kind


def check(file: h5py.File, kind: str | None = None) -> tuple[str, Node]:
    """Verify an open file against its schema, without reading its arrays.

    Parameters
    ----------
    file : h5py.File
    kind : str, optional
        The kind that the caller needs.

    Returns
    -------
    (str, Node)
        The kind, and the content: Python attributes and unread data sets.

    Raises
    ------
    InputError
        Another kind or version, or content that is missing, unknown, unsafe, mistyped or inconsistent.
    """
    found = kind_of(file)
    if kind not in (None, found):
        raise InputError(f"is a {found} file; a {kind} file is needed")
    node = load(SCHEMAS[found], file)
    conform(SCHEMAS[found], node)
    version = read_attribute(file, _HEADER[1])
    if needed(SCHEMAS[found], node) > version:
        raise InputError(f"has version {version} but content of version {needed(SCHEMAS[found], node)}")
    return found, node


def header(kind: str, node: Node) -> dict[str, str | int]:
    """The attributes that say what a file with some content is."""
    return {"format": PREFIX + kind, "version": needed(SCHEMAS[kind], node)}


def write(path: Pathlike, kind: str, node: Node) -> None:
    """Write a whole file of a kind from content that conforms to its schema."""
    store.write(path, SCHEMAS[kind], node, header(kind, node))


@contextlib.contextmanager
def opened(path: Pathlike, kind: str) -> Iterator[Node]:
    """The checked content of a file; everything that goes wrong inside is a FormatError naming the file."""
    with store.open_file(path) as file, store.reading(path):
        yield check(file, kind)[1]


_INTRODUCTION = f"""# File formats

Generated by `python docs/generate.py` from `traces/schema.py`, which also checks every file on opening.

Files are HDF5. The root carries the attributes `format` (`{PREFIX}` and the kind) and `version` (1, or the newest
that the content needs); newer versions are refused. Numbers are little-endian, text is UTF-8 of fixed length. A
dimension such as `4H` is a multiple of a size, `H/8` a quotient rounded up; one letter stands for one size throughout a
file (throughout a layer for N, H, R and D): S sequences, T steps in all of them together. Flags are integers,
JSON attributes are text.

Groups and data sets that are not listed here are refused, further attributes are ignored. So that a file
cannot do harm, these are refused too: soft and external links, references, objects, variable-length arrays,
virtual and external storage, filters other than gzip, shuffle and fletcher32, chunks of over
{store.MAX_CHUNK >> 20} MiB, text of variable length or over {MAX_TEXT >> 20} MiB, more than {MAX_GROUPS}
members in a group, data sets that add up to more than {store.MAX_RATIO} times the size of the file and
{store.ALLOWANCE >> 20} MiB, and data sets that are read into memory on opening (all but those marked as streamed)
that add up to more than {store.MEMORY >> 20} MiB and {store.MEMORY_RATIO} times the size of the file. JSON of over
{MAX_CONTAINERS} lists and objects is refused too.
"""


def markdown() -> str:
    """The page that documents the formats (docs/formats.md)."""
    lines = [_INTRODUCTION.rstrip()]
    for kind, schema in SCHEMAS.items():
        about = f"Newest version: {VERSIONS[kind]}."
        lines += ["", f"## {kind.capitalize()}: `{PREFIX}{kind}`", "", about, *_section(schema, "")]
    return "\n".join(lines) + "\n"


def _section(group: Group, where: str) -> list[str]:
    lines = [group.about]
    if group.attributes:
        lines += ["", "| attribute | type | content |", "|---|---|---|"]
    for attribute in group.attributes:
        notes = [attribute.about]
        if attribute.choices:
            notes.append("one of " + ", ".join(f"`{choice}`" for choice in attribute.choices))
        if attribute.range:
            notes.append("{} to {}".format(*attribute.range))
        if attribute.optional:
            notes.append("optional")
        notes += [f"from version {attribute.since} on"] * (attribute.since > 1)
        lines.append(f"| `{where}{attribute.name}` | {attribute.type} | {'; '.join(notes)} |")
    if group.arrays:
        lines += ["", "| data set | type | shape | content |", "|---|---|---|---|"]
    for array in group.arrays:
        notes = [array.about] + ([f"in {array.unit}"] if array.unit else []) + ["optional"] * array.optional
        notes += [f"from version {array.since} on"] * (array.since > 1)
        notes += ["streamed"] * array.streamed
        types = " or ".join(name_of(dtype) for dtype in array.dtypes)
        shape = f"[{', '.join(array.shape)}]" if array.shape else "scalar"
        lines.append(f"| `{where}{array.name}` | {types} | {shape} | {'; '.join(notes)} |")
    for child in group.groups:
        place = f"{where}{child.name}/" + ("<l>/" if child.repeated else "")
        lines += [
            "",
            f"### `{place}`" + (" (optional)" if child.optional else ""),
            "",
            *_section(child, place),
        ]
    return lines
