"""The precision controllers' C functions, as kernels call them (arguments: `accel/controller.pyx`)."""

from numba import types
from numba.extending import intrinsic

from accel.controller import KINDS
from fxp.kernels.build import external, helper

SCHEDULE = KINDS["Schedule"]
FORESEEN = KINDS["Foreseen"]  # decides as a step begins

_COUNTS = types.CPointer(types.int64)
_REALS = types.CPointer(types.float32)
_WORDS = types.CPointer(types.int32)
_BYTES = types.CPointer(types.uint8)
_INDEX = types.CPointer(types.int8)

entry_mask = external("accel.controller", "entry_mask", _COUNTS, _BYTES, _INDEX, _INDEX, types.int64, _BYTES)
first_mask = external("accel.controller", "first_mask", types.int64, _COUNTS, _BYTES, types.int64, types.int64, _BYTES)
next_mask_float = external(
    "accel.controller", "next_mask_float",
    types.int64, _COUNTS, _REALS, _WORDS, _BYTES, _REALS, _INDEX, types.int64, types.int64, _BYTES,
)  # fmt: skip
next_mask_fixed = external(
    "accel.controller", "next_mask_fixed",
    types.int64, _COUNTS, _REALS, _WORDS, _BYTES, types.CPointer(types.int16), _INDEX, types.int64, types.int64, _BYTES,
)  # fmt: skip


@intrinsic
def pointer(typing_context, array):  # type: ignore[no-untyped-def]
    """Address of an array's first item."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return context.make_array(signature.args[0])(context, builder, arguments[0]).data

    return types.CPointer(array.dtype)(array), generate


@intrinsic
def pointer_before(typing_context, array, offset):  # type: ignore[no-untyped-def]
    """Address of what would lie `offset` items before an array's first item."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.gep(data, [builder.neg(arguments[1])])

    return types.CPointer(array.dtype)(array, types.int64), generate


def _at(kind):  # type: ignore[no-untyped-def]
    """An address (int64) as a pointer."""

    @intrinsic
    def convert(typing_context, place):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            return builder.inttoptr(arguments[0], context.get_value_type(kind))

        return kind(types.int64), generate

    return convert


counts_at, reals_at, words_at, bytes_at, indices_at = (_at(kind) for kind in (_COUNTS, _REALS, _WORDS, _BYTES, _INDEX))
shorts_at = _at(types.CPointer(types.int16))


@helper
def has_mask(kind, step, steps):
    """A schedule has no mask beyond its last step; none is used there, and all ones of it are high."""
    return kind != SCHEDULE or step < steps
