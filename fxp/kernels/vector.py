"""256-bit vectors inside compiled kernels: `words` (integers of 8, 16 or 32 bits) and `reals` (8 x binary32), `doubles` (4 x binary64).

Memory is reached by address (an int64): Numba counts references of arrays around every inlined call, which spills all vectors.
Whoever passes an address keeps the array alive. Operations on reals and doubles are single IEEE operations without fast-math flags; nothing is contracted. Only `maddubs`
and `maddwd` are AVX2 instructions, everything else is plain LLVM.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, get_type_hints

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

BYTE, SHORT, WORD, LONG = (ir.IntType(n) for n in (8, 16, 32, 64))
BYTES, SHORTS, WORDS = ir.VectorType(BYTE, 32), ir.VectorType(SHORT, 16), ir.VectorType(WORD, 8)
REALS, DOUBLES = ir.VectorType(ir.FloatType(), 8), ir.VectorType(ir.DoubleType(), 4)


class Words(types.Type):
    """A vector of integers, kept as 8 x 32 bits."""

    def __init__(self) -> None:
        super().__init__(name="words256")


class Reals(types.Type):
    """8 x binary32."""

    def __init__(self) -> None:
        super().__init__(name="reals256")


class Doubles(types.Type):
    """4 x binary64."""

    def __init__(self) -> None:
        super().__init__(name="doubles256")


words, reals, doubles = Words(), Reals(), Doubles()
LLVM = {words: WORDS, reals: REALS, doubles: DOUBLES}


def register(kind: type, representation: ir.Type) -> None:
    """Let kernels hold values of a Numba type as an LLVM type."""

    class Model(models.PrimitiveModel):
        def __init__(self, manager: Any, numba_type: Any) -> None:
            super().__init__(manager, numba_type, representation)

    register_model(kind)(Model)


for _kind, _representation in ((Words, WORDS), (Reals, REALS), (Doubles, DOUBLES)):
    register(_kind, _representation)


def operation(generate: Callable[..., Any], result: Any, *arguments: Any) -> Any:
    """An intrinsic of fixed types; `generate` gets the builder and the LLVM values, and gives one, none or a list."""

    def signature() -> Any:
        def code(context: Any, builder: Any, sig: Any, values: Any) -> Any:
            out = generate(builder, *values)
            if isinstance(out, list):
                return context.make_tuple(builder, sig.return_type, out)
            return context.get_dummy_value() if out is None else out

        return result(*arguments), code

    # Numba reads the number of arguments from the function itself.
    match len(arguments):
        case 0:
            return intrinsic(lambda typing: signature())
        case 1:
            return intrinsic(lambda typing, a: signature())
        case 2:
            return intrinsic(lambda typing, a, b: signature())
        case 3:
            return intrinsic(lambda typing, a, b, c: signature())
        case 4:
            return intrinsic(lambda typing, a, b, c, d: signature())
        case 5:
            return intrinsic(lambda typing, a, b, c, d, e: signature())
        case 8:
            return intrinsic(lambda typing, a, b, c, d, e, f, g, h: signature())
        case 10:
            return intrinsic(lambda typing, a, b, c, d, e, f, g, h, i, j: signature())
        case 11:
            return intrinsic(lambda typing, a, b, c, d, e, f, g, h, i, j, k: signature())
    raise TypeError(f"{len(arguments)} arguments")


def pointer_to(builder: Any, address: Any, kind: ir.Type) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _undefined(kind: ir.Type) -> ir.Constant:
    return ir.Constant(kind, ir.Undefined)


def _shuffle(builder: Any, a: Any, b: Any, order: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(WORD, len(order)), order))


LOW_HALVES, HIGH_HALVES = [0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]


def _filled(kind: ir.VectorType, value: int) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


def _broadcast(builder: Any, scalar: Any, kind: ir.VectorType) -> Any:
    first = builder.insert_element(_undefined(kind), scalar, ir.Constant(WORD, 0))
    return _shuffle(builder, first, _undefined(kind), [0] * kind.count)


def _instruction(name: str, result: ir.Type, *arguments: ir.Type) -> Callable[..., Any]:
    def call(builder: Any, *values: Any) -> Any:
        kind = ir.FunctionType(result, arguments)
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(function, [builder.bitcast(v, a) for v, a in zip(values, arguments, strict=True)])

    return call


# Memory


def _load(kind: ir.Type) -> Callable[..., Any]:
    return lambda builder, place: builder.load(pointer_to(builder, place, kind), align=1)


def _store(builder: Any, place: Any, value: Any) -> None:
    builder.store(value, pointer_to(builder, place, value.type), align=1)


def _load_bytes(builder: Any, place: Any) -> Any:
    return builder.sext(builder.load(pointer_to(builder, place, ir.VectorType(BYTE, 8)), align=1), WORDS)


def _load_shorts(builder: Any, place: Any) -> Any:
    return builder.sext(builder.load(pointer_to(builder, place, ir.VectorType(SHORT, 8)), align=1), WORDS)


def _twice(builder: Any, place: Any) -> Any:
    half = builder.load(pointer_to(builder, place, ir.VectorType(WORD, 4)), align=1)
    return _shuffle(builder, half, _undefined(half.type), [0, 1, 2, 3] * 2)


load = operation(_load(WORDS), words, types.int64)
twice = operation(_twice, words, types.int64)
"""16 bytes at the address, in both halves."""

load_reals = operation(_load(REALS), reals, types.int64)
load_doubles = operation(_load(DOUBLES), doubles, types.int64)
load_bytes = operation(_load_bytes, words, types.int64)  # 8 x int8, widened
load_shorts = operation(_load_shorts, words, types.int64)  # 8 x int16, widened
load_long = operation(_load(LONG), types.int64, types.int64)
store = operation(_store, types.void, types.int64, words)
store_reals = operation(_store, types.void, types.int64, reals)
store_last = operation(
    lambda b, place, v: _store(b, place, _shuffle(b, v, _undefined(WORDS), [4, 5, 6, 7])), types.void, types.int64, words
)
"""The last half, 16 bytes."""

store_long = operation(_store, types.void, types.int64, types.int64)
store_byte = operation(lambda b, place, v: _store(b, place, b.trunc(v, BYTE)), types.void, types.int64, types.int64)
store_bytes = operation(
    lambda b, place, v: _store(b, place, b.trunc(v, ir.VectorType(BYTE, 8))), types.void, types.int64, words
)
store_shorts = operation(
    lambda b, place, v: _store(b, place, b.trunc(v, ir.VectorType(SHORT, 8))), types.void, types.int64, words
)


def _load_byte(builder: Any, place: Any) -> Any:
    return builder.zext(builder.load(pointer_to(builder, place, BYTE)), LONG)


def _load_word(builder: Any, place: Any) -> Any:
    return builder.sext(builder.load(pointer_to(builder, place, WORD)), LONG)


load_byte = operation(_load_byte, types.int64, types.int64)
load_word = operation(_load_word, types.int64, types.int64)
store_word = operation(lambda b, place, v: _store(b, place, b.trunc(v, WORD)), types.void, types.int64, types.int64)


def structure(cls: Any) -> Any:
    """A function that loads a named tuple from an address, eight bytes a field: int as int64, float as binary64."""
    kinds = [types.float64 if hint is float else types.int64 for hint in get_type_hints(cls).values()]
    whole = types.NamedTuple(kinds, cls)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        fields = []
        for number, kind in enumerate(kinds):
            place = builder.add(arguments[0], ir.Constant(LONG, 8 * number))
            fields.append(builder.load(pointer_to(builder, place, context.get_value_type(kind))))
        return context.make_tuple(builder, whole, fields)

    return intrinsic(lambda typing, place: (whole(types.int64), generate))


def _copy(builder: Any, target: Any, source: Any, size: Any) -> None:
    ends = [pointer_to(builder, place, BYTE) for place in (target, source)]
    kind = ir.FunctionType(ir.VoidType(), [ends[0].type, ends[1].type, LONG, ir.IntType(1)])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.memcpy.p0.p0.i64")
    builder.call(function, [*ends, size, ir.Constant(ir.IntType(1), 0)])


copy = operation(_copy, types.void, types.int64, types.int64, types.int64)
"""`size` bytes from `source` to `target`."""


def _clear(builder: Any, target: Any, size: Any) -> None:
    place = pointer_to(builder, target, BYTE)
    kind = ir.FunctionType(ir.VoidType(), [place.type, BYTE, LONG, ir.IntType(1)])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.memset.p0.i64")
    builder.call(function, [place, ir.Constant(BYTE, 0), size, ir.Constant(ir.IntType(1), 0)])


clear = operation(_clear, types.void, types.int64, types.int64)
"""Zero to `size` bytes."""


def _prefetch(builder: Any, place: Any) -> None:
    pointer = pointer_to(builder, place, BYTE)
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, WORD, WORD, WORD])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [pointer, *(ir.Constant(WORD, n) for n in (0, 3, 1))])


prefetch = operation(_prefetch, types.void, types.int64)


# Integers


zero = operation(lambda b: _filled(WORDS, 0), words)
ones8 = operation(lambda b: b.bitcast(_filled(BYTES, 1), WORDS), words)
ones16 = operation(lambda b: b.bitcast(_filled(SHORTS, 1), WORDS), words)
nibbles = operation(lambda b: b.bitcast(_filled(BYTES, 15), WORDS), words)  # 0x0F in every byte
spread = operation(lambda b, v: _broadcast(b, v, WORDS), words, types.int32)


def _halves(builder: Any, first: Any, second: Any) -> Any:
    return _shuffle(builder, _broadcast(builder, first, WORDS), _broadcast(builder, second, WORDS), LOW_HALVES)


halves = operation(_halves, words, types.int32, types.int32)
"""One integer in the first four lanes, another in the last four."""


first_halves = operation(lambda b, v, w: _shuffle(b, v, w, LOW_HALVES), words, words, words)
last_halves = operation(lambda b, v, w: _shuffle(b, v, w, HIGH_HALVES), words, words, words)
"""The first, or last, 16 bytes of two vectors."""


def _lanes(kind: ir.VectorType, name: str) -> Any:
    def generate(builder: Any, a: Any, b: Any) -> Any:
        result = getattr(builder, name)(builder.bitcast(a, kind), builder.bitcast(b, kind))
        return builder.bitcast(result, WORDS)

    return operation(generate, words, words, words)


add32, sub32, mul32 = _lanes(WORDS, "add"), _lanes(WORDS, "sub"), _lanes(WORDS, "mul")
add16 = _lanes(SHORTS, "add")
both, either, flip = _lanes(WORDS, "and_"), _lanes(WORDS, "or_"), _lanes(WORDS, "xor")
shift_left, shift_right = _lanes(WORDS, "shl"), _lanes(WORDS, "ashr")

_maddwd = _instruction("llvm.x86.avx2.pmadd.wd", WORDS, SHORTS, SHORTS)
maddwd = operation(_maddwd, words, words, words)
"""Sums of neighbouring products of int16 as int32."""

_maddubs = _instruction("llvm.x86.avx2.pmadd.ub.sw", SHORTS, BYTES, BYTES)
maddubs = operation(lambda b, u, s: b.bitcast(_maddubs(b, u, s), WORDS), words, words, words)
"""Sums of neighbouring products of uint8 by int8 as int16; the caller guarantees that no pair saturates."""

def _magnitude8(builder: Any, v: Any) -> Any:
    v = builder.bitcast(v, BYTES)
    negative = builder.icmp_signed("<", v, _filled(BYTES, 0))
    return builder.bitcast(builder.select(negative, builder.neg(v), v), WORDS)


magnitude8 = operation(_magnitude8, words, words)


def _negative8(builder: Any, v: Any) -> Any:
    return builder.bitcast(builder.ashr(builder.bitcast(v, BYTES), _filled(BYTES, 7)), WORDS)


negative8 = operation(_negative8, words, words)
"""All ones in the bytes below 0."""


def _lower8(builder: Any, v: Any, shift: Any, top: Any) -> Any:
    wide = ir.VectorType(SHORT, 32)
    s = builder.trunc(shift, SHORT)
    half = builder.lshr(builder.shl(ir.Constant(SHORT, 1), s), ir.Constant(SHORT, 1))
    v = builder.sext(builder.bitcast(v, BYTES), wide)
    v = builder.ashr(builder.add(v, _broadcast(builder, half, wide)), _broadcast(builder, s, wide))
    limit = _broadcast(builder, builder.trunc(top, SHORT), wide)
    v = builder.select(builder.icmp_signed(">", v, limit), limit, v)
    return builder.bitcast(builder.trunc(v, BYTES), WORDS)


lower8 = operation(_lower8, words, words, types.int32, types.int32)
"""Low indices of 32 activations: min((v + 2^(shift - 1)) >> shift, top), bytewise."""


def _crossed8(builder: Any, first: Any, second: Any) -> Any:
    first, second = builder.bitcast(first, BYTES), builder.bitcast(second, BYTES)
    v = builder.sub(builder.shl(first, _filled(BYTES, 4)), second)
    return builder.bitcast(builder.add(v, _filled(BYTES, 7)), WORDS)


crossed8 = operation(_crossed8, words, words, words)
"""16 * first - second + 7, bytewise; within int8 for both in [-8, 7]."""


def _total32(builder: Any, v: Any) -> Any:
    kind = ir.FunctionType(WORD, [WORDS])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.vector.reduce.add.v8i32")
    return builder.call(function, [v])


total32 = operation(_total32, types.int32, words)
"""Sum of the lanes."""


EVEN_LANES, ODD_LANES = [0, 2, 8, 10, 4, 6, 12, 14], [1, 3, 9, 11, 5, 7, 13, 15]
EVEN_PAIRS, ODD_PAIRS = [0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]
EVEN_LONGS, ODD_LONGS = [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]


def _transposed(builder: Any, *v: Any) -> list[Any]:
    pairs = []
    for n in (0, 2, 4, 6):
        pairs += [_shuffle(builder, v[n], v[n + 1], EVEN_PAIRS), _shuffle(builder, v[n], v[n + 1], ODD_PAIRS)]
    quads = []
    for n in (0, 1, 4, 5):
        quads += [_shuffle(builder, pairs[n], pairs[n + 2], order) for order in (EVEN_LONGS, ODD_LONGS)]
    low = [_shuffle(builder, quads[n], quads[n + 4], LOW_HALVES) for n in range(4)]
    return low + [_shuffle(builder, quads[n], quads[n + 4], HIGH_HALVES) for n in range(4)]


def _folded(builder: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    def joined(v: Any, w: Any) -> Any:
        return builder.add(_shuffle(builder, v, w, EVEN_LANES), _shuffle(builder, v, w, ODD_LANES))

    total = joined(joined(a, b), joined(c, d))
    return _shuffle(builder, total, _undefined(WORDS), [0, 4, 1, 5, 2, 6, 3, 7])


folded = operation(_folded, words, words, words, words, words)
"""Sums over the halves of four vectors: those of a and b, first halves before last ones in each, then those of c and d."""

transposed = operation(_transposed, types.UniTuple(words, 8), *[words] * 8)
"""Eight vectors of eight words, rows to columns."""


# Eight bytes of 0 or 1 to bits, and to their number, by one multiplication each: no two products meet.


def _top_byte(factor: int) -> Callable[..., Any]:
    return lambda builder, v: builder.lshr(builder.mul(v, ir.Constant(LONG, factor)), ir.Constant(LONG, 56))


mask_of = operation(_top_byte(0x0102040810204080), types.int64, types.int64)
ones_of = operation(_top_byte(0x0101010101010101), types.int64, types.int64)


# Selection


def _least(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.icmp_signed("<", a, b), a, b)


def _most(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.icmp_signed(">", a, b), a, b)


least32, most32 = operation(_least, words, words, words), operation(_most, words, words, words)


def _mask(builder: Any, place: Any) -> Any:
    flags = builder.load(pointer_to(builder, place, ir.VectorType(BYTE, 8)), align=1)
    return builder.sext(builder.icmp_unsigned("!=", flags, ir.Constant(flags.type, [0] * 8)), WORDS)


mask = operation(_mask, words, types.int64)
"""All ones in the lanes whose byte at the address is not 0."""


def _choose(builder: Any, condition: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.icmp_signed("<", condition, _filled(WORDS, 0)), a, b)


choose = operation(_choose, reals, words, reals, reals)
choose_words = operation(_choose, words, words, words, words)
"""a where the mask is set, b elsewhere."""


def _differing(builder: Any, a: Any, b: Any) -> Any:
    bits = builder.bitcast(builder.icmp_unsigned("!=", a, b), BYTE)
    count = cgutils.get_or_insert_function(builder.module, ir.FunctionType(BYTE, [BYTE]), "llvm.ctpop.i8")
    return builder.zext(builder.call(count, [bits]), LONG)


differing = operation(_differing, types.int64, words, words)
"""Number of lanes that differ."""


# Reals and doubles


spread_real = operation(lambda b, v: _broadcast(b, v, REALS), reals, types.float32)
spread_double = operation(lambda b, v: _broadcast(b, v, DOUBLES), doubles, types.float64)
to_reals = operation(lambda b, v: b.sitofp(v, REALS), reals, words)
to_words = operation(lambda b, v: b.fptosi(v, WORDS), words, reals)


def _larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _smaller(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


larger, smaller = operation(_larger, reals, reals, reals), operation(_smaller, reals, reals, reals)
larger_double, smaller_double = (operation(f, doubles, doubles, doubles) for f in (_larger, _smaller))


def _half(start: int) -> Callable[..., Any]:
    def generate(builder: Any, v: Any) -> Any:
        return builder.sitofp(_shuffle(builder, v, _undefined(WORDS), list(range(start, start + 4))), DOUBLES)

    return generate


first_doubles, last_doubles = (operation(_half(n), doubles, words) for n in (0, 4))
"""The first or last four words as doubles."""


def _join(builder: Any, a: Any, b: Any) -> Any:
    four = ir.VectorType(WORD, 4)
    return _shuffle(builder, builder.fptosi(a, four), builder.fptosi(b, four), list(range(8)))


join = operation(_join, words, doubles, doubles)
"""Whole doubles within 32 bits as eight words."""


def _floor(builder: Any, v: Any) -> Any:
    kind = ir.FunctionType(DOUBLES, [DOUBLES])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.floor.v4f64"), [v])


floor = operation(_floor, doubles, doubles)


def _looked_up(builder: Any, place: Any, index: Any) -> Any:
    base = pointer_to(builder, place, BYTE)
    result: Any = _undefined(WORDS)
    for lane in range(8):
        n = builder.zext(builder.extract_element(index, ir.Constant(WORD, lane)), LONG)
        entry = builder.gep(base, [builder.shl(n, ir.Constant(LONG, 1))])
        value = builder.load(builder.bitcast(entry, WORD.as_pointer()), align=2)
        result = builder.insert_element(result, value, ir.Constant(WORD, lane))
    return result


neighbours = operation(_looked_up, words, types.int64, words)
"""Entries index and index + 1 of an int16 table, in the low and high half of each word."""


def _arithmetic(symbol: Any, name: str) -> None:
    operations = {kind: operation(lambda b, x, y: getattr(b, name)(x, y), kind, kind, kind) for kind in (reals, doubles)}

    def typed(a, b):  # type: ignore[no-untyped-def]
        if a == b and a in operations:
            operation = operations[a]
            return lambda a, b: operation(a, b)
        return None

    overload(symbol, jit_options={"forceinline": True})(typed)


for _symbol, _name in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv")):
    _arithmetic(_symbol, _name)
