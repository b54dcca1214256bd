"""Vectors of several values, and the product of a row of a sparse matrix with a block.

LLVM keeps an array of totals in memory, for it cannot tell that no other array shares it, and it
prefers registers of half the widest size. With vectors as values of their own, the totals of a row
stay in registers of any machine, which halves the time of a product.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from .threads import inlined

_INDEX = ir.IntType(32)

# What it decorates is called without the first argument, which a type checker does not know.
_typed: Any = intrinsic


class Lanes(types.Type):
    """The type of a vector of `count` values of a floating-point type."""

    def __init__(self, dtype: Any, count: int) -> None:
        self.dtype, self.count = dtype, count
        super().__init__(name=f"Lanes({dtype}, {count})")


@register_model(Lanes)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Lanes) -> None:
        value = manager.lookup(kind.dtype).get_value_type()
        super().__init__(manager, kind, ir.VectorType(value, kind.count))


@_typed(prefer_literal=True)
def _zeros(typing: Any, X: Any, count: Any) -> Any:
    """Return a vector of as many zeros, of the type of an array's values."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(context.get_value_type(signature.return_type), None)

    return Lanes(X.dtype, count.literal_value)(X, count), code


def _pointer(context: Any, builder: Any, kind: Lanes, arguments: Any, signature: Any) -> Any:
    """Return a pointer to the vector at row i and column c of a C-ordered array X (rows, columns).

    The last three arguments are X, i and c.
    """
    (array, *numbers), (X, *kinds) = signature.args[-3:], arguments[-3:]
    X = context.make_array(array)(context, builder, X)
    row, column = (
        context.cast(builder, value, number, types.intp)
        for value, number in zip(kinds, numbers, strict=True)
    )
    columns = cgutils.unpack_tuple(builder, X.shape, 2)[1]
    place = builder.gep(X.data, [builder.add(builder.mul(row, columns), column)])
    return builder.bitcast(place, context.get_value_type(kind).as_pointer())


@_typed
def _load(typing: Any, like: Any, X: Any, i: Any, c: Any) -> Any:
    """Return X[i, c : c + count] as a vector of the type of `like`."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, like, arguments, signature)
        return builder.load(pointer, align=like.dtype.bitwidth // 8)

    return like(like, X, i, c), code


@_typed
def _store(typing: Any, vector: Any, X: Any, i: Any, c: Any) -> Any:
    """Write a vector to X[i, c : c + count]."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, vector, arguments, signature)
        builder.store(arguments[0], pointer, align=vector.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(vector, X, i, c), code


@_typed
def _add_scaled(typing: Any, total: Any, scale: Any, vector: Any) -> Any:
    """Return total + scale vector, for a number `scale`, rounded once if the machine can."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_value_type(total)
        unknown = ir.Constant(kind, ir.Undefined)
        number = context.cast(builder, arguments[1], scale, total.dtype)
        first = builder.insert_element(unknown, number, _INDEX(0))
        everywhere = ir.Constant(ir.VectorType(_INDEX, total.count), None)
        scales = builder.shuffle_vector(first, unknown, everywhere)
        product = builder.fmul(scales, arguments[2], flags=("contract",))
        return builder.fadd(product, arguments[0], flags=("contract",))

    return total(total, scale, vector), code


@_typed
def _add(typing: Any, one: Any, other: Any) -> Any:
    """Return the sum of two vectors."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fadd(*arguments)

    return one(one, other), code


@inlined
def _gathered(zero: Any, indices: Any, weights: Any, begin: int, end: int, X: Any, c: int) -> Any:
    """Return the sum of weights[e] X[indices[e], c : c + count] over the edges e of a row."""
    # Four totals, so that no addition waits for the one before. Unsigned indices, for which numba
    # omits the test for negative values.
    a, b, c0, d = zero, zero, zero, zero
    e, last = np.uintp(begin), np.uintp(end)
    one, two, three, four = np.uintp(1), np.uintp(2), np.uintp(3), np.uintp(4)
    while e + four <= last:
        a = _add_scaled(a, weights[e], _load(zero, X, np.uintp(indices[e]), c))
        b = _add_scaled(b, weights[e + one], _load(zero, X, np.uintp(indices[e + one]), c))
        c0 = _add_scaled(c0, weights[e + two], _load(zero, X, np.uintp(indices[e + two]), c))
        d = _add_scaled(d, weights[e + three], _load(zero, X, np.uintp(indices[e + three]), c))
        e += four
    while e < last:
        a = _add_scaled(a, weights[e], _load(zero, X, np.uintp(indices[e]), c))
        e += one
    return _add(_add(a, b), _add(c0, d))


@inlined
def gather(indices: Any, weights: Any, begin: int, end: int, X: Any, total: Any) -> None:
    """Compute total[0] = Σ weights[e] X[indices[e]] over the edges e of a row, begin <= e < end.

    X (n, b) and `total` (1, b) are C-ordered and of one floating-point type, in which the sum is
    computed. Each column is summed in the same order, whatever the number of columns.
    """
    b = X.shape[1]
    c = 0
    while c + 32 <= b:
        sums = _gathered(_zeros(X, 32), indices, weights, begin, end, X, c)
        _store(sums, total, 0, c)
        c += 32
    while c + 16 <= b:
        half = _gathered(_zeros(X, 16), indices, weights, begin, end, X, c)
        _store(half, total, 0, c)
        c += 16
    while c < b:
        single = _gathered(_zeros(X, 1), indices, weights, begin, end, X, c)
        _store(single, total, 0, c)
        c += 1
