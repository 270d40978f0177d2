"""Floating-point operations of a graph, in the symbols of its sizes; a multiplication and an addition are two.

Counted are the operators of which ``torch.utils.flop_counter`` has a formula - matrix products, convolutions, attention -
and those of the closed form. Everything element by element is left out, as it is there. Three differences:

- A convolution's backward pass is counted by group. torch's formula multiplies every input channel with every output
  channel for the gradient of the weight, ``groups`` times too much.
- The number is that of the joint graph: what the partitioner computes a second time to save memory is not in it.
- The operators of this package have formulas here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import sympy
import torch
from torch.fx import Graph, GraphModule, Node
from torch.utils.flop_counter import FlopCounterMode

import tract_fx.ops.alike
import tract_fx.ops.dual
import tract_fx.ops.gradient
import tract_fx.ops.gram
import tract_fx.ops.primal
import tract_fx.ops.solve  # noqa: F401  (all register operators)
from tract_fx import compat
from tract_fx.inspect.cost.symbols import expression, hints_of, substitute

__all__ = ["cholesky_flops", "gram_flops", "step_flops", "triangular_flops"]

log = logging.getLogger(__name__)

aten = torch.ops.aten
Expr: TypeAlias = sympy.Expr
Shape = list[Expr]


def gram_flops(rows: Expr, features: Expr, groups: Expr | int = 1) -> Expr:
    """One triangle of ``X^T X``, from all rows.

    This is what the formula costs, as the plain algorithm and the kernels do it. On a CPU, algorithms that use the overlap
    of patches need fewer operations; see :mod:`tract_fx.ops.cpu.selection`.
    """
    return groups * rows * features * (features + 1)


def cholesky_flops(size: Expr, groups: Expr | int = 1) -> Expr:
    """Factorisation of a positive definite ``size x size`` matrix, divisions and square roots included."""
    return groups * size * (size + 1) * (2 * size + 1) / 6


def triangular_flops(size: Expr, columns: Expr, groups: Expr | int = 1) -> Expr:
    """Solution from the factor: forward and backward substitution for each right-hand side."""
    return groups * 2 * size**2 * columns


def step_flops(graph: Graph) -> Expr:
    """Operations of a graph, such as the forward and backward pass in a joint graph.

    Args:
        graph: of ATen operators, with the values of every node in ``meta["val"]``.
    """
    return sympy.Add(*(_node_flops(node) for node in graph.nodes if node.op == "call_function"))


def _node_flops(node: Node) -> Expr:
    operator = getattr(node.target, "overloadpacket", node.target)
    if operator in _OWN:
        return _OWN[operator](*_shapes((node.args, node.meta.get("val"))))
    formula = _REGISTERED.get(operator)
    if formula is not None:
        return _registered(formula, node)
    if isinstance(node.target, compat.HigherOrderOperator):
        # Of the branches of a condition only one is run.
        return sympy.Max(0, *(step_flops(module.graph) for module in _modules_called(node)))
    return sympy.Integer(0)


def _registered(formula: Callable[..., Any], node: Node) -> Expr:
    """A formula of torch's, on expressions; on the example's numbers where it asks for more than it can know of those."""
    out = node.meta.get("val")
    if not hasattr(formula, "__wrapped__"):  # it is not wrapped to be given shapes, but wants tensors
        values = compat.pytree.tree_map(
            lambda item: item.meta["val"] if isinstance(item, Node) else item, (node.args, node.kwargs)
        )
        return expression(formula(*values[0], **values[1], out_val=out))
    arguments, keywords, shape = _shapes((node.args, node.kwargs, out))
    try:
        return sympy.sympify(formula(*arguments, **keywords, out_val=shape))
    except (AssertionError, TypeError):
        log.debug("operations of %s are counted at the example's sizes", node.name)
    hints = hints_of([*node.all_input_nodes, node])
    numbers = compat.pytree.tree_map(
        lambda item: substitute(item, hints) if isinstance(item, sympy.Expr) else item, (arguments, keywords, shape)
    )
    return sympy.sympify(formula(*numbers[0], **numbers[1], out_val=numbers[2]))


def _shapes(values: Any) -> Any:
    """Shapes, as lists of expressions, in the place of nodes and tensors."""

    def shape(item: Any) -> Any:
        value = item.meta.get("val") if isinstance(item, Node) else item
        if isinstance(value, torch.Tensor):
            return list(map(expression, value.shape))
        return expression(value) if isinstance(value, torch.SymInt) else value

    return compat.pytree.tree_map(shape, values)


def _modules_called(node: Node) -> Iterator[GraphModule]:
    owner = node.graph.owning_module
    for argument in node.all_input_nodes:
        module = getattr(owner, argument.target, None) if argument.op == "get_attr" and owner is not None else None
        if isinstance(module, GraphModule):
            yield module


def _convolution_backward(arguments: Any, out: Any) -> Expr:
    output_gradient, input, weight, *_ = arguments
    transposed, mask = arguments[7], arguments[10]
    positions = (input if transposed else output_gradient)[2:]
    one = 2 * sympy.Mul(output_gradient[0], *positions, *weight)
    return one * sum(map(bool, mask[:2]))


def _rows(input: Shape, kernel_size: Shape, stride: Shape, padding: Shape, dilation: Shape) -> Expr:
    rows = [input[0]]
    for size, kernel, step, width, reach in zip(input[2:], kernel_size, stride, padding, dilation, strict=True):
        rows.append((size + 2 * width - reach * (kernel - 1) - 1) // step + 1)
    return sympy.Mul(*rows)


def _patch_gram(arguments: Any, out: Any) -> Expr:
    input, *geometry, _ = arguments
    return gram_flops(_rows(input, *geometry), out[1], out[0])


def _weight_gradient(arguments: Any, out: Any) -> Expr:
    input, _, *geometry, _ = arguments
    return 2 * _rows(input, *geometry) * sympy.Mul(*out)


def _gram_and_gradient(arguments: Any, out: Any) -> Expr:
    input, _, *geometry = arguments
    return _patch_gram((input, *geometry), out[0]) + _weight_gradient(arguments, out[1])


def _factor_and_solve(arguments: Any, out: Any) -> Expr:
    groups, outputs, size = out[0]
    return cholesky_flops(size, groups) + triangular_flops(size, outputs, groups)


def _dual_gradient(arguments: Any, out: Any) -> Expr:
    """The kernel of the rows, its factor, the coefficients and their product with the rows."""
    (groups, outputs, features), rows = out, arguments[1][1]
    system = gram_flops(features, rows, groups) + cholesky_flops(rows, groups)
    return system + triangular_flops(rows, outputs, groups) + 2 * groups * outputs * rows * features


def _primal_gradient(arguments: Any, out: Any) -> Expr:
    """Both sums over rows, the factor of the covariance, and the solution."""
    (groups, outputs, features), rows = out, _rows(arguments[0], *arguments[4:8])
    sums = gram_flops(rows, features, groups) + 2 * rows * sympy.Mul(*out)
    return sums + cholesky_flops(features, groups) + triangular_flops(features, outputs, groups)


def _alike_gradients(arguments: Any, out: Any) -> Expr:
    """The systems of each layer, of the smaller size where it is known."""
    (rows, features), outputs, count = arguments[0][0], arguments[1][0][1], len(out)
    system, other = (rows, features) if (rows < features) == True else (features, rows)  # noqa: E712 - may be symbolic
    solve = cholesky_flops(system, count) + triangular_flops(system, outputs, count)
    return gram_flops(other, system, count) + solve + 2 * count * outputs * rows * features


_OWN: dict[Any, Callable[[Any, Any], Expr]] = {
    aten.convolution_backward: _convolution_backward,
    torch.ops.tract_fx.factor_and_solve: _factor_and_solve,
    torch.ops.tract_fx.patch_gram: _patch_gram,
    torch.ops.tract_fx.dual_gradient: _dual_gradient,
    torch.ops.tract_fx.alike_gradients: _alike_gradients,
    torch.ops.tract_fx.gram_and_gradient: _gram_and_gradient,
    torch.ops.tract_fx.primal_gradient: _primal_gradient,
    torch.ops.tract_fx.weight_gradient: _weight_gradient,
}
_REGISTERED: dict[Any, Any] = FlopCounterMode(display=False).flop_registry
