"""Sizes of a graph as sympy expressions, which are numbers where the graph is static."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import sympy
import torch
from torch.fx import Node

from tract_fx.compat import size_expression, size_hints

__all__ = ["elements_of", "expression", "hints_of", "shape_of", "substitute"]


def expression(size: int | torch.SymInt) -> sympy.Expr:
    """A size in the symbols of its graph."""
    return size_expression(size) if isinstance(size, torch.SymInt) else sympy.Integer(size)


def shape_of(node: Node) -> tuple[sympy.Expr, ...]:
    """Shape of the tensor that a node holds."""
    return tuple(map(expression, node.meta["val"].shape))


def elements_of(node: Node) -> sympy.Expr:
    """Number of elements of the tensor that a node holds."""
    return sympy.Mul(*shape_of(node))


def hints_of(nodes: Iterable[Node]) -> dict[sympy.Symbol, int]:
    """Values that the symbols in the shapes of some nodes had in the example."""
    tensors = (node.meta.get("val") for node in nodes)
    shapes = (value.shape for value in tensors if isinstance(value, torch.Tensor))
    sizes = (size for shape in shapes for size in shape if isinstance(size, torch.SymInt))
    return {symbol: value for size in sizes for symbol, value in size_hints(size).items()}


def substitute(expr: sympy.Expr, values: Mapping[sympy.Symbol, int]) -> sympy.Expr:
    """``expr`` with numbers in the place of symbols."""
    return expr.xreplace({symbol: sympy.Integer(value) for symbol, value in values.items()})
