"""Convolutions and matrix products of a joint graph, in one form.

Every call multiplies rows ``X`` with a weight. A matrix product may have its weight on either side and may be batched; a
product that AOTAutograd has decomposed (one row on the CPU, one feature on a GPU) is recognised by the operator that the
user's code called, which every node of the decomposition remembers.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.fx import Node

from tract_fx.ops.patches import LINEAR, PatchGeometry
from tract_fx.ops.transposed import TransposedGeometry
from tract_fx.passes.joint_graph import JointGraph, operator_of, target_of

__all__ = ["Call", "Kind", "Side", "calls", "is_layer_operator"]

CONVOLUTION = "convolution"
# Matrix products, with the position of their first factor among the arguments.
PRODUCTS = {"mm": 0, "addmm": 1, "bmm": 0, "baddbmm": 1, "mv": 0, "addmv": 1, "addbmm": 1}


class Kind(enum.Enum):
    """The two forms of a call."""

    CONVOLUTION = "convolution"
    PRODUCT = "matrix product"


class Side(enum.Enum):
    """Which factor of a product is the weight."""

    RIGHT = "right"
    LEFT = "left"


_SAME_DIMENSIONS = ("alias", "clone", "expand", "_to_copy", "prims.convert_element_type")
_RESHAPES = ("view", "_unsafe_view", "unsqueeze", "squeeze")


@dataclasses.dataclass(frozen=True)
class Call:
    """One use of a weight in the forward pass.

    ``input`` and ``weight`` are the operands as the operator saw them, after casts and views. ``output`` is the node that
    holds the result and ``nodes`` all nodes of the call (more than one when it was decomposed).
    """

    kind: Kind
    operator: str
    input: Node
    weight: Node
    output: Node
    nodes: tuple[Node, ...]
    side: Side = Side.RIGHT
    geometry: PatchGeometry = LINEAR

    @property
    def sequence_number(self) -> int | None:
        """Number that autograd gave to the operation; the nodes that differentiate it carry the same."""
        return self.output.meta.get("seq_nr")

    @property
    def sums_batch(self) -> bool:
        """Whether the products of a batch are added up: one product with the features of all of them."""
        return self.operator == "addbmm"

    @property
    def summed_dimension(self) -> int:
        """The dimension of the weight, counted from the end, over which a product sums, before transpositions; else 0.

        Views are followed while it is clear which of their dimensions it is.
        """
        if self.kind is Kind.CONVOLUTION:
            return 0
        dim, node = -2 if self.side is Side.RIGHT else -1, self.weight
        while isinstance(source := next(iter(node.args), None), Node):
            value = source.meta.get("val")
            if not isinstance(value, torch.Tensor):
                break
            if (before := _dimension_before(node, dim, node.meta["val"].shape, value.shape)) is None:
                break
            dim, node = before, source
        return dim


def _dimension_before(node: Node, dim: int, after: Sequence[Any], before: Sequence[Any]) -> int | None:
    """Which dimension of its operand a dimension of a view is, both counted from the end; None where it is not clear."""
    target = target_of(node)
    if target in ("t", "transpose", "permute"):
        return _order(node, list(range(len(after))))[dim] - len(after)
    if target in _SAME_DIMENSIONS:
        return dim if -dim <= len(before) else None
    if target not in _RESHAPES:
        return None
    # Dimensions of size 1 come and go; the others stay.
    kept = [[index - len(shape) for index, size in enumerate(shape) if size != 1] for shape in (after, before)]
    if dim not in kept[0] or [after[index] for index in kept[0]] != [before[index] for index in kept[1]]:
        return None
    return kept[1][kept[0].index(dim)]


def _order(node: Node, order: list[int]) -> list[int]:
    """Which dimension of its operand each dimension of a transposition is."""
    if target_of(node) == "permute":
        return [order[dim] for dim in node.args[1]]
    first, second = node.args[1:3] if target_of(node) == "transpose" else (-2, -1)
    if len(order) > 1:
        order[first], order[second] = order[second], order[first]
    return order


def is_layer_operator(operator: str) -> bool:
    """Whether an operator is a convolution or a matrix product."""
    return operator == CONVOLUTION or operator in PRODUCTS


def calls(joint: JointGraph, is_weight: Callable[[Node], bool]) -> Iterator[Call]:
    """Every convolution or matrix product one operand of which is a weight.

    Args:
        joint: the joint graph.
        is_weight: returns whether a node is made of parameters alone.
    """
    decomposed: dict[tuple[str, int | None], list[Node]] = {}
    for node in joint.forward_nodes:
        target, operator = target_of(node), operator_of(node)
        if target == CONVOLUTION:
            if is_weight(node.args[1]):
                yield _convolution(node)
        elif target in PRODUCTS and (operator != "addbmm" or target == operator):
            first = PRODUCTS[target]
            yield from _product(target, node.args[first], node.args[first + 1], (node,), is_weight)
        elif operator in PRODUCTS:
            decomposed.setdefault((operator, node.meta.get("seq_nr")), []).append(node)
    for (operator, _), nodes in decomposed.items():
        yield from _decomposed_product(operator, tuple(nodes), is_weight)


def _convolution(node: Node) -> Call:
    input, weight, _, stride, padding, dilation, transposed, output_padding, groups = node.args[:9]
    geometry = PatchGeometry.from_arguments(weight.meta["val"].shape[2:], stride, padding, dilation, groups)
    if transposed:
        geometry = TransposedGeometry(**vars(geometry), output_padding=tuple(output_padding))
    return Call(Kind.CONVOLUTION, CONVOLUTION, input, weight, node, (node,), geometry=geometry)


def _product(
    operator: str, left: Node, right: Node, nodes: tuple[Node, ...], is_weight: Callable[[Node], bool]
) -> Iterator[Call]:
    # A product of two weights (LoRA) is algebra on weights, not a layer.
    if is_weight(right) and not is_weight(left):
        yield Call(Kind.PRODUCT, operator, left, right, nodes[-1], nodes, Side.RIGHT)
    elif is_weight(left) and not is_weight(right):
        yield Call(Kind.PRODUCT, operator, right, left, nodes[-1], nodes, Side.LEFT)


def _decomposed_product(operator: str, nodes: tuple[Node, ...], is_weight: Callable[[Node], bool]) -> Iterator[Call]:
    inside = set(nodes)
    outside = dict.fromkeys(operand for node in nodes for operand in node.all_input_nodes if operand not in inside)
    tensors = [operand for operand in outside if isinstance(operand.meta.get("val"), torch.Tensor)]
    if len(tensors) > 2:  # a bias has fewer dimensions than the factors
        most = max(operand.meta["val"].dim() for operand in tensors)
        tensors = [operand for operand in tensors if operand.meta["val"].dim() >= (most if most > 2 else 2)]
    weights = [operand for operand in tensors if is_weight(operand)]
    inputs = [operand for operand in tensors if not is_weight(operand)]
    if len(weights) == len(inputs) == 1:
        # Every decomposition reads its left factor first.
        left, right = sorted((*weights, *inputs), key=tensors.index)
        yield from _product(operator, left, right, nodes, is_weight)
