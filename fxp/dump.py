"""Parts of traces and models as test benches read them: hexadecimal words for `$readmemh`, CSV or NPY."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import traces
from fxp.formats import Profile
from fxp.network import Network
from fxp.prepare import PreparedDirection, tanh_table
from fxp.quantise import low_activations, low_indices
from traces import InputError, Trace

FORMATS = ("hex", "csv", "npy")
VALUES = 1 << 20
"""Values that are held at once."""
TRACE_QUANTITIES = ("plan", "accumulators", "cell", "hidden")


@dataclass(frozen=True)
class Part:
    """A table of words, made in blocks of rows.

    Attributes
    ----------
    name : str
    about : str
        What the words are, their format and their order.
    width : int
        Bits of a word in hexadecimal.
    rows, columns : int
    dtype : str
        Of the values in CSV and NPY.
    blocks : function () -> iterator of arrays [n, columns]
    labels : list of str
        Names of the columns.
    first : int
        Number of the first row.
    row : str
        What a row is.
    """

    name: str
    about: str
    width: int
    rows: int
    columns: int
    dtype: str
    blocks: Callable[[], Iterator[np.ndarray]]
    labels: list[str]
    first: int = 0
    row: str = "row"


# Traces


def steps_of(text: str | None, length: int) -> tuple[int, int]:
    """First and last (exclusive) position of `A:B`; either may be left out.

    Raises InputError for what is no range within the sequence.
    """
    begin, colon, end = (text or ":").partition(":")
    try:
        start, stop = int(begin or 0), int(end or length)
    except ValueError:
        start, stop = -1, -1
    if not colon or not 0 <= start < stop <= length:
        raise InputError(f"--steps {text}: expected A:B with 0 <= A < B <= {length}, the length of the sequence")
    return start, stop


def trace_part(
    trace: Trace, quantity: str, layer: int = 0, direction: int = 0, sequence: int = 0, steps: str | None = None
) -> Part:
    """A quantity of one layer, direction and sequence over some positions, a row each.

    Raises
    ------
    InputError
        It does not exist or was not recorded.
    """
    if quantity not in TRACE_QUANTITIES:
        raise InputError(f"quantity {quantity!r} is unknown; a trace has {', '.join(TRACE_QUANTITIES)}")
    if layer not in range(len(trace.layers)):
        raise InputError(f"layer {layer} does not exist; the trace has layers 0 to {len(trace.layers) - 1}")
    stored = trace.layers[layer]
    if direction not in range(stored.directions):
        raise InputError(f"direction {direction} does not exist; the layer has {stored.directions}")
    if quantity != "plan" and quantity not in stored.recorded:
        raise InputError(f"{quantity} was not recorded in this trace: fxp run --record {quantity}")
    begin, end = trace.bounds(sequence)
    start, stop = steps_of(steps, end - begin)
    elements = [f"element_{k}" for k in range(stored.hidden_size)]
    gates = [f"{part}_{gate}_{k}" for part in "xh" for gate in "ifgo" for k in range(stored.hidden_size)]
    cell = ("16 bits, 11 of them fraction, two's complement", 16, "<i2")
    if trace.profile == Profile.FLOAT32:
        cell = ("IEEE binary32 patterns", 32, "<f4")
    about, width, dtype, labels = {
        "plan": ("1: low precision", 1, "|u1", elements),
        "accumulators": (
            f"{trace.accumulator_bits} bits, two's complement; x part then h part, in each gates i, f, g, o, "
            "in each elements from 0", trace.accumulator_bits, "<i4", gates,
        ),
        "cell": (f"c after the step, {cell[0]}", *cell[1:], elements),
        "hidden": (
            f"index of h after the step, {trace.high} bits, two's complement", trace.high, "|i1",
            [f"output_{p}" for p in range(stored.output_size)],
        ),
    }[quantity]  # fmt: skip
    size = max(1, VALUES // len(labels))

    def blocks() -> Iterator[np.ndarray]:
        for row in range(begin + start, begin + stop, size):
            upto = min(row + size, begin + stop)
            if quantity == "plan":
                yield traces.plan.unpack(stored.packed(row, upto, direction), stored.hidden_size).view(np.uint8)
            else:
                yield stored.rows(quantity, row, upto, direction).reshape(upto - row, -1)

    place = f"layer {layer}, {('forward', 'backward')[direction]}, sequence {sequence} (id {trace.ids[sequence]})"
    return Part(
        quantity, f"{quantity} of {place}, positions {start} to {stop - 1}: {about}", width, stop - start,
        len(labels), dtype, blocks, labels, start, "position",
    )  # fmt: skip


# Models


def _matrix(name: str, about: str, width: int, values: Any, dtype: str | None = None, column: str = "value") -> Part:
    values = np.asarray(values)
    values = values.reshape(1, -1) if values.ndim < 2 else values
    columns = values.shape[1]
    size = max(1, VALUES // columns)

    def blocks() -> Iterator[np.ndarray]:
        yield from (values[row : row + size] for row in range(0, len(values), size))

    labels = [f"{column}_{k}" for k in range(columns)]
    return Part(name, about, width, len(values), columns, dtype or values.dtype.str, blocks, labels)


def _weights(network: Network, layer: int, direction: int, name: str) -> Part:
    """`wx` or `wh` as stored, or (`-upper`, `-lower`, `-offset`, `-low`) what a precision reads of it."""
    stored, formats = network.layers[layer], network.formats
    high, low, shift = formats.high, formats.low, formats.shift
    matrix, _, kind = name.partition("-")
    index = getattr(stored, f"{matrix}_index")[direction]
    offset = getattr(stored, f"{matrix}_offset")[direction]
    if kind == "":
        about, width, values = f"stored indices, {high} bits, two's complement", high, index
    elif kind == "upper":
        about, width, values = f"index >> {shift}, {low} bits, two's complement", low, index >> shift
    elif kind == "lower":
        about, width, values = f"last {shift} bits of the index, unsigned", shift, index & ((1 << shift) - 1)
    elif kind == "offset":
        about, width, values = "offset bits", 1, offset
    else:
        about, width = f"low indices (upper part plus offset bit), {low} bits, two's complement", low
        values = low_indices(index, offset, formats)
    rows = "a row a gate row: i, f, g, o, in each elements from 0"
    return _matrix(name, f"{name}: {about}; {rows}", width, values, column="input")


def _projection(network: Network, layer: int, direction: int) -> Part:
    index, high = network.layers[layer].wp_index, network.formats.high
    assert index is not None
    about = f"wp: indices of the projection, {high} bits, two's complement; a row an output"
    return _matrix("wp", about, high, index[direction], column="element")


_BY_DIRECTION = ("wx_scale", "wh_scale", "wp_scale", "bias", "low_bias", "peephole")
_BY_LAYER = ("x_scale", "h_scale", "m_scale", "input_scale")


def _number(network: Network, layer: int, direction: int, name: str) -> Part:
    values = getattr(network.layers[layer], name)
    values = values[direction] if name in _BY_DIRECTION else values
    key = name.replace("_", "-")
    return _matrix(key, f"{key}: IEEE binary32 patterns", 32, np.asarray(values, np.float32))


def _unit(network: Network, layer: int, direction: int, name: str) -> Part:
    """A constant of the multifunction unit for every gate row, or (fixed profile) a multiplier of the output."""
    unit: Any = PreparedDirection(network.layers[layer], direction, network.formats).unit
    order = "row 0 high, row 1 low precision; columns are gate rows"
    if network.formats.profile == Profile.FLOAT32:
        what = {"unit-x": "kx, lx", "unit-h": "kh, lh", "unit-bias": "bias, bl"}[name]
        values = {"unit-x": unit.x_scale, "unit-h": unit.h_scale, "unit-bias": unit.bias}[name].reshape(2, -1)
        return _matrix(name, f"{name}: {what} of docs/numerics.md, 5; binary32 patterns; {order}", 32, values)
    if name == "unit-bias":
        about = f"{name}: 32 bits, 11 of them fraction, two's complement; {order}"
        return _matrix(name, about, 32, unit.bias.reshape(2, -1))
    if name == "unit-peephole":
        about = f"{name}: m and e of docs/numerics.md, 6.5, 32 bits, two's complement; a row a weight, gates i, f, o"
        return _matrix(name, about, 32, unit.peephole.reshape(-1, 2), column="m_e")
    if name in ("unit-output", "unit-projection"):
        pairs = np.atleast_2d(unit.output if name == "unit-output" else unit.projection)
        about = f"{name}: m and e of docs/numerics.md, 6.6, 32 bits, two's complement; a row a multiplier"
        return _matrix(name, about, 32, pairs, column="m_e")
    pairs = (unit.x_scale if name.startswith("unit-x") else unit.h_scale).reshape(2, -1, 2)
    if name.endswith("exponent"):
        about = f"{name}: e of docs/numerics.md, 6.1, 16 bits, two's complement; {order}"
        return _matrix(name, about, 16, pairs[..., 1])
    return _matrix(name, f"{name}: m of docs/numerics.md, 6.1, 16 bits, unsigned; {order}", 16, pairs[..., 0])


def _activation_table(network: Network) -> Part:
    formats = network.formats
    count = 1 << formats.high
    # Addressed by the pattern of the index, so the negative ones come second.
    index = np.concatenate([np.arange(count // 2), np.arange(-count // 2, 0)]).astype(np.int16)
    about = (
        f"activation-low: low index of x and h, {formats.low} bits, two's complement, by the pattern of the high "
        f"index, 0 to {count - 1}"
    )
    return _matrix("activation-low", about, formats.low, low_activations(index, formats))


def _tanh() -> Part:
    about = "tanh: table of docs/numerics.md, 6.3: 1,025 words of 16 bits, 15 of them fraction"
    return _matrix("tanh", about, 16, tanh_table())


def model_parts(network: Network, layer: int = 0, direction: int = 0) -> dict[str, Callable[[], Part]]:
    """Everything of one layer and direction that hardware holds, by name.

    Raises InputError if the layer or the direction does not exist.
    """
    if layer not in range(len(network.layers)):
        raise InputError(f"layer {layer} does not exist; the model has layers 0 to {len(network.layers) - 1}")
    stored, fixed = network.layers[layer], network.formats.profile == Profile.FIXED
    if direction not in range(stored.directions):
        raise InputError(f"direction {direction} does not exist; the layer has {stored.directions}")
    place = network, layer, direction
    kinds = ["", "-upper", *(["-lower"] if network.formats.shift else []), "-offset", "-low"]
    parts: dict[str, Callable[[], Part]] = {
        matrix + kind: partial(_weights, *place, matrix + kind) for matrix in ("wx", "wh") for kind in kinds
    }
    if stored.projected:
        parts["wp"] = partial(_projection, *place)
    for name in (*_BY_DIRECTION, *_BY_LAYER):
        if getattr(stored, name) is not None:
            parts[name.replace("_", "-")] = partial(_number, *place, name)
    names = ["unit-x", "unit-h", "unit-bias"]
    if fixed:
        names += ["unit-x-exponent", "unit-h-exponent", "unit-output"]
        names += ["unit-projection"] if stored.projected else []
        names += ["unit-peephole"] if stored.peephole is not None else []
    parts |= {name: partial(_unit, *place, name) for name in names}
    parts["activation-low"] = partial(_activation_table, network)
    if fixed:
        parts["tanh"] = _tanh
    return parts


def input_part(network: Network, data: Any, sequence: int = 0, steps: str | None = None) -> Part:
    """High indices of the input of layer 0 over some positions of a sequence of data, a row each."""
    from fxp import engines
    from fxp.inputs import Inputs

    source = Inputs(network, data)
    if sequence not in range(len(source)):
        raise InputError(f"sequence {sequence} does not exist; the data has {len(source)}")
    start, stop = steps_of(steps, int(source.lengths[sequence]))
    engine = engines.make("portable", network)
    size = max(1, VALUES // network.features)

    def blocks() -> Iterator[np.ndarray]:
        for row in range(start, stop, size):
            yield engine.quantise_input(source.chunk(sequence, row, min(row + size, stop)))

    high = network.formats.high
    about = f"input: indices of x, sequence {sequence}, positions {start} to {stop - 1}: {high} bits, two's complement"
    labels = [f"input_{k}" for k in range(network.features)]
    return Part("input", about, high, stop - start, len(labels), "|i1", blocks, labels, start, "position")


# Files


def write(part: Part, path: str | os.PathLike[str], kind: str) -> None:
    """Write a part; a file that stood there is replaced only once the new one is complete.

    Parameters
    ----------
    kind : {"hex", "csv", "npy"}

    Raises
    ------
    InputError
        Unknown format, or a path that cannot be written.
    """
    if kind not in FORMATS:
        raise InputError(f"format {kind!r} is unknown; possible are {', '.join(FORMATS)}")
    target = Path(path)
    aside = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with aside.open("xb") as file:
            {"hex": _hex, "csv": _csv, "npy": _npy}[kind](part, file)
        os.replace(aside, target)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        aside.unlink(missing_ok=True)


def words(values: np.ndarray, width: int) -> np.ndarray:
    """Patterns of values in a width, as unsigned integers: two's complement, or the bits of a float."""
    if values.dtype.kind == "f":
        return values.view(np.uint32).astype(np.uint64)
    return values.astype(np.int64).view(np.uint64) & np.uint64((1 << width) - 1)


def _hex(part: Part, file: Any) -> None:
    digits = -(-part.width // 4)
    file.write(f"// {part.about}\n// words of {part.width} bits; {part.rows} lines of {part.columns} words\n".encode())
    for block in part.blocks():
        for row in words(np.ascontiguousarray(block), part.width).tolist():
            file.write((" ".join(f"{word:0{digits}x}" for word in row) + "\n").encode())


def _csv(part: Part, file: Any) -> None:
    file.write(f"# {part.about}\n{part.row},{','.join(part.labels)}\n".encode())
    number = part.first
    for block in part.blocks():
        for row in block:
            # The shortest digits that give a binary32 back.
            floats = row.dtype.kind == "f"
            cells = (np.format_float_scientific(v, trim="-") for v in row) if floats else map(str, row.tolist())
            file.write(f"{number},{','.join(cells)}\n".encode())
            number += 1


def _npy(part: Part, file: Any) -> None:
    header = {"descr": np.dtype(part.dtype).str, "fortran_order": False, "shape": (part.rows, part.columns)}
    np.lib.format.write_array_header_1_0(file, header)
    for block in part.blocks():
        file.write(np.ascontiguousarray(block, part.dtype).tobytes())
