"""A row of LANES float32 values as one value in numba code; it lives in vector registers on every processor LLVM knows.

A loop over such a row would be vectorised only where LLVM can prove that no two arrays overlap, which in numba it mostly cannot.
Inside `@njit` code: `+ - * /` between rows, or a row and a number; `<=` and `>` give masks; the functions below do the rest.
"""

from __future__ import annotations

import operator
from typing import Any, Callable

from llvmlite import ir
from numba import types
from numba.core.datamodel import models
from numba.extending import intrinsic, overload, register_model
from numba.np.arrayobj import make_array

LANES = 16

# Products and sums may be fused; nothing else is left to the compiler, so that every kernel comes to the same values.
_FLAGS = ("contract", "nsz")


class _Row(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"Row{LANES}")


class _Mask(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"Mask{LANES}")


_ROW, _MASK = _Row(), _Mask()
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_BITS = ir.VectorType(ir.IntType(1), LANES)
_INTEGERS = ir.VectorType(ir.IntType(32), LANES)

ROUNDING = 1.5 * 2.0**23
"""Added to a small float32, it leaves no room for what comes after the point."""


@register_model(_Row)
class _RowModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: types.Type) -> None:
        super().__init__(manager, kind, _FLOATS)


@register_model(_Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: types.Type) -> None:
        super().__init__(manager, kind, _BITS)


def _as_row(context: Any, builder: ir.IRBuilder, kind: types.Type, value: ir.Value) -> ir.Value:
    """A row as it is, a number in every lane."""
    if kind == _ROW:
        return value
    number = context.cast(builder, value, kind, types.float32)
    one = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _place(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
    data = make_array(signature.args[0])(context, builder, args[0]).data
    offset = context.cast(builder, args[1], signature.args[1], types.intp)
    return builder.bitcast(builder.gep(data, [offset]), _FLOATS.as_pointer())


@intrinsic
def load(typing: Any, array: Any, offset: Any) -> Any:
    """LANES values of a C-contiguous float32 array from flat place `offset` on."""

    def code(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        row = builder.load(_place(context, builder, signature, args))
        row.align = 4
        return row

    return _ROW(array, offset), code


@intrinsic
def store(typing: Any, array: Any, offset: Any, row: Any) -> Any:
    """Write a row into a C-contiguous float32 array at flat place `offset`."""

    def code(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        builder.store(args[2], _place(context, builder, signature, args)).align = 4
        return context.get_dummy_value()

    return types.void(array, offset, row), code


@intrinsic
def ramp(typing: Any) -> Any:
    """0, 1, 2, ..."""

    def code(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        return ir.Constant(_FLOATS, [float(i) for i in range(LANES)])

    return _ROW(), code


@intrinsic
def zeros(typing: Any) -> Any:
    """0 in every lane."""

    def code(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        return ir.Constant(_FLOATS, [0.0] * LANES)

    return _ROW(), code


def _binary(result: types.Type, emit: Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]) -> Any:
    @intrinsic
    def operation(typing: Any, a: Any, b: Any) -> Any:
        def code(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            return emit(builder, *(_as_row(context, builder, kind, x) for kind, x in zip(signature.args, args)))

        return result(a, b), code

    return operation


def _overload(symbol: Any, operation: Any) -> None:
    @overload(symbol)
    def chosen(a, b):  # type: ignore[no-untyped-def]  # numba compares the arguments as they are written
        return (lambda a, b: operation(a, b)) if a == _ROW or b == _ROW else None


for _symbols, _result, _emit in (
    ((operator.add, operator.iadd), _ROW, lambda builder, a, b: builder.fadd(a, b, flags=_FLAGS)),
    ((operator.sub,), _ROW, lambda builder, a, b: builder.fsub(a, b, flags=_FLAGS)),
    ((operator.mul,), _ROW, lambda builder, a, b: builder.fmul(a, b, flags=_FLAGS)),
    ((operator.truediv,), _ROW, lambda builder, a, b: builder.fdiv(a, b, flags=_FLAGS)),
    ((operator.le,), _MASK, lambda builder, a, b: builder.fcmp_ordered("<=", a, b)),
    ((operator.gt,), _MASK, lambda builder, a, b: builder.fcmp_ordered(">", a, b)),
):
    for _symbol in _symbols:
        _overload(_symbol, _binary(_result, _emit))

least = _binary(_ROW, lambda builder, a, b: builder.select(builder.fcmp_ordered("<", a, b), a, b))


@intrinsic
def both(typing: Any, a: Any, b: Any) -> Any:
    """Lanes set in two masks."""

    def code(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        return builder.and_(*args)

    return _MASK(a, b), code


@intrinsic
def some(typing: Any, mask: Any) -> Any:
    """Whether any lane of a mask is set."""

    def code(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        bits = builder.bitcast(args[0], ir.IntType(LANES))
        return builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(LANES), 0))

    return types.boolean(mask), code


@intrinsic
def where(typing: Any, mask: Any, a: Any, b: Any) -> Any:
    """a in the lanes of the mask, b in the others."""

    def code(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        chosen = (_as_row(context, builder, kind, x) for kind, x in zip(signature.args[1:], args[1:]))
        return builder.select(args[0], *chosen)

    return _ROW(mask, a, b), code


@intrinsic
def scaled(typing: Any, row: Any, shifted: Any) -> Any:
    """row * 2 ** n, where shifted = ROUNDING + n (floats, n whole and small): n is added to the exponents."""

    def code(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        bits, steps = (builder.bitcast(x, _INTEGERS) for x in args)
        return builder.bitcast(builder.add(bits, builder.shl(steps, ir.Constant(_INTEGERS, [23] * LANES))), _FLOATS)

    return _ROW(row, shifted), code


def _unary(result: types.Type, name: str, before: tuple[ir.Constant, ...] = ()) -> Any:
    """A function of LLVM's own on one row."""

    @intrinsic
    def operation(typing: Any, a: Any) -> Any:
        def code(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            back = _FLOATS if result is _ROW else ir.FloatType()
            kind = ir.FunctionType(back, [*(x.type for x in before), _FLOATS])
            known = builder.module.globals.get(name)
            function = known if known is not None else ir.Function(builder.module, kind, name)
            return builder.call(function, [*before, args[0]], fastmath=("reassoc", "nsz"))

        return result(a), code

    return operation


absolute = _unary(_ROW, f"llvm.fabs.v{LANES}f32")
total = _unary(types.float32, f"llvm.vector.reduce.fadd.v{LANES}f32", (ir.Constant(ir.FloatType(), 0.0),))
