"""What Python cannot say: typed pointers, bits of floats, a 128-bit product, an atomic counter."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_HALF, _FLOAT = ir.HalfType(), ir.FloatType()
_INT16, _INT32, _INT128 = ir.IntType(16), ir.IntType(32), ir.IntType(128)


@intrinsic
def pointer(typing, address, like):
    """A pointer to memory at `address`; `like` is a type such as `np.int32`, or a value of it."""
    element = like.instance_type if isinstance(like, types.NumberClass) else like

    def generate(context, builder, signature, arguments):
        kind = context.get_value_type(signature.return_type)
        return builder.inttoptr(arguments[0], kind)

    return types.CPointer(element)(address, like), generate


@intrinsic
def bits_of(typing, value):
    """The bits of an fp32 value, int32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], _INT32)

    return types.int32(types.float32), generate


@intrinsic
def float_of(typing, bits):
    """The fp32 value of int32 bits."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], _FLOAT)

    return types.float32(types.int32), generate


@intrinsic
def widen_half(typing, word):
    """The fp32 value of the 16 bits of an fp16 value."""

    def generate(context, builder, signature, arguments):
        return builder.fpext(builder.bitcast(arguments[0], _HALF), _FLOAT)

    return types.float32(types.uint16), generate


@intrinsic
def multiply_high(typing, a, b):
    """`floor(a * b / 2**64)` of two uint64."""

    def generate(context, builder, signature, arguments):
        wide = [builder.zext(value, _INT128) for value in arguments]
        high = builder.lshr(builder.mul(*wide), ir.Constant(_INT128, 64))
        return builder.trunc(high, ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


@intrinsic
def trailing_zeros(typing, word):
    """The place of the lowest bit that is set in a uint64 other than 0."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


@intrinsic
def take_next(typing, counter):
    """The value of an int64 in memory, which becomes one larger: each thread gets another."""

    def generate(context, builder, signature, arguments):
        one = ir.Constant(ir.IntType(64), 1)
        return builder.atomic_rmw("add", arguments[0], one, "monotonic")

    return types.int64(types.CPointer(types.int64)), generate
