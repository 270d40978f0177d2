"""Why a call that should be rewritten cannot be: each obstacle with its remedy."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch.fx import Node

from tract_fx import compat
from tract_fx.ops.transposed import TransposedGeometry
from tract_fx.passes.batch import BatchDimension
from tract_fx.passes.calls import Call, Kind, Side
from tract_fx.passes.dependence import Dependence, operands
from tract_fx.passes.joint_graph import JointGraph, Role, is_backward, is_tensor_node, operator_of, target_of

__all__ = [
    "SAME_VALUES",
    "Obstacle",
    "OtherProduct",
    "Remedy",
    "differentiated_by_hand",
    "obstacle",
    "obstacle_in_batch",
    "opaque_products",
    "other_products",
]

# Operators with which the closed form begins.
_CLOSED_FORMS = (
    "tract_fx.patch_gram",
    "tract_fx.gram_and_gradient",
    "tract_fx.primal_gradient",
    "tract_fx.dual_gradient",
    "tract_fx.alike_gradients",
)

BY_HAND = "a hand-written backward pass (torch.autograd.Function) computes the gradient of its weight"
JAGGED = (
    "its input is a jagged tensor (torch.nested), whose rows of different lengths this pass does not see as one matrix"
)
WRAPPED = "it is wrapped in tract_fx.TrAct already, which computes this gradient with a lam of its own"
# Operators that multiply rows with a weight, but not as a real matrix product of two tensors of the graph.
_OTHER_PRODUCTS = {
    "_trilinear": "the rows of a bilinear layer, products of its inputs, are never formed",
    "_scaled_mm": "a product of float8 numbers keeps its scales separate from its factors",
    "_int_mm": "a product of integers keeps its scales separate from its factors",
    "_weight_int8pack_mm": "a product with a quantised weight has no gradient of that weight",
    "_weight_int4pack_mm": "a product with a quantised weight has no gradient of that weight",
    "mkldnn_rnn_layer": "a fused recurrent layer does not show its products",
    "_cudnn_rnn": "a fused recurrent layer does not show its products",
    "miopen_rnn": "a fused recurrent layer does not show its products",
}


# Namespaces of operators that are not layers, other than those of convolutions and products.
_KNOWN_NAMESPACES = ("aten", "prims", "prim", "tract_fx", "inductor", "inductor_prims", "rngprims", "_c10d_functional")
_TRANSPOSITIONS = ("t", "permute", "transpose")
_SAME_ORDER = ("alias", "_to_copy", "prims.convert_element_type", "view")
SAME_VALUES = (*_TRANSPOSITIONS, *_SAME_ORDER)


class Remedy(enum.Enum):
    """What a user can do about a rejection; whoever knows the options puts it into words."""

    CHOOSE_LAYERS = enum.auto()
    """Choose other layers, or let this one train with its plain gradient."""
    NAME_LAYER = enum.auto()
    """Name a later layer."""
    REMOVE_NAME = enum.auto()
    """Remove the name from those that were chosen."""
    BACKWARD_OUTSIDE = enum.auto()
    """Call the backward pass outside of the compiled function."""
    STATIC_KERNEL = enum.auto()
    """Compute kernel sizes and strides from static sizes."""
    UNWRAP = enum.auto()
    """Compile with another backend, or remove the wrapper from the layer."""
    OWN_COVARIANCE = enum.auto()
    """Let each process use the covariance of its own rows."""


@dataclasses.dataclass(frozen=True)
class Obstacle:
    """A reason, and what can be done about it."""

    reason: str
    remedy: Remedy = Remedy.CHOOSE_LAYERS


def obstacle(joint: JointGraph, call: Call, weights: Iterable[str]) -> Obstacle | None:
    """The reason why a call cannot be rewritten, whatever its backward pass looks like, or None."""
    if not joint.differentiated_inside.isdisjoint(weights):
        return Obstacle(
            "the compiled function itself takes the gradient of its weight, where this pass cannot see it",
            Remedy.BACKWARD_OUTSIDE,
        )
    if any(_is_complex(node) for name in weights for node in joint.parameters.get(name, ())):
        return Obstacle("its weight is complex; the covariance is defined for real numbers")
    if any(len(joint.parameters.get(name, ())) > 1 for name in weights):
        return Obstacle("its weight is a tensor subclass made of several tensors, and the graph has only those")
    if (found := _of_parts(joint, call, weights)) is not None:
        return Obstacle(found)
    geometry = call.geometry
    sizes = *geometry.kernel_size, *geometry.stride, *geometry.dilation
    if isinstance(geometry, TransposedGeometry):
        sizes = *sizes, *geometry.padding, *geometry.output_padding
    if not all(isinstance(size, int) for size in sizes):
        return Obstacle("its kernel size or stride is dynamic", Remedy.STATIC_KERNEL)
    value = call.input.meta["val"]
    if not value.is_floating_point():
        return Obstacle(f"its input has dtype {value.dtype}; the covariance is defined for real floating-point numbers")
    if value.device.type == "mps":
        return Obstacle("the covariance needs float64, which the mps device does not have")
    return None


def obstacle_in_batch(call: Call, batch: Sequence[BatchDimension]) -> Obstacle | None:
    """The reason why rows and groups cannot be separated in the batch of a batched product, or None."""
    if call.sums_batch and any(item.shared for item in batch):
        return Obstacle("products with one weight are added up; add up their inputs, and multiply once")
    dynamic = sum(isinstance(item.size, torch.SymInt) for item in batch)
    if dynamic > 1 and any(item.shared for item in batch):
        return Obstacle("its weight is broadcast along several dimensions of sizes that are known at run time only")
    return None


@dataclasses.dataclass(frozen=True)
class OtherProduct:
    """An operator that combines data and weights as a layer does, and that cannot be rewritten."""

    node: Node
    operator: str
    weights: tuple[str, ...]
    reason: str


def other_products(joint: JointGraph, depends: dict[Node, Dependence]) -> Iterator[OtherProduct]:
    """Layers of other kinds that data feeds; one for each operator and weight."""
    seen = set()
    for node in joint.forward_nodes:
        operator = operator_of(node)
        if (reason := _OTHER_PRODUCTS.get(operator)) is None:
            continue
        weights = _weights_that_meet_data(node, depends)
        if weights and (operator, weights) not in seen:
            seen.add((operator, weights))
            yield OtherProduct(node, operator, weights, reason)


def opaque_products(joint: JointGraph, depends: dict[Node, Dependence]) -> Iterator[OtherProduct]:
    """Operators in which data meets a weight and of which this pass knows no products: control flow, custom operators."""
    for node in joint.forward_nodes:
        if _is_opaque(node) and (weights := _weights_that_meet_data(node, depends)):
            operator = operator_of(node)
            reason = f"data meets a weight in {operator}, and this pass cannot see its products"
            yield OtherProduct(node, operator, weights, reason)


def _weights_that_meet_data(node: Node, depends: dict[Node, Dependence]) -> tuple[str, ...]:
    """Names of the parameters that a node combines with raw data; empty where it does not."""
    factors = list(operands(node, depends))
    if not any(factor.data and factor.is_parameter_free for factor in factors):
        return ()
    return tuple(sorted(frozenset().union(*(factor.parameters for factor in factors))))


def _is_opaque(node: Node) -> bool:
    if isinstance(node.target, compat.HigherOrderOperator):
        return True
    return isinstance(node.target, compat.OpOverload) and node.target.namespace not in _KNOWN_NAMESPACES


def differentiated_by_hand(
    joint: JointGraph, weights: Iterable[str], depends: dict[Node, Dependence]
) -> Obstacle | None:
    """The obstacle where a gradient is computed from raw data by nodes that autograd did not derive from any call.

    Args:
        joint: the joint graph.
        weights: names of parameters of which no call has a gradient that autograd derived.
        depends: what the forward values are made of.
    """
    pending, seen, found = list(joint.gradients_of(weights)), set(), None
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        if target_of(node) in _CLOSED_FORMS:
            return Obstacle(WRAPPED, Remedy.UNWRAP)
        if is_backward(node) or _is_untagged(node):
            pending.extend(node.all_input_nodes)
        elif node in depends and depends[node].data and depends[node].is_parameter_free and _is_real(node):
            jagged = any(item.jagged for item in joint.inputs if item.role is Role.DATA)
            found = Obstacle(JAGGED if jagged else BY_HAND)
    return found


def _of_parts(joint: JointGraph, call: Call, weights: Iterable[str]) -> str | None:
    """The reason why weights or data that are sharded over processes (DTensor) cannot be rewritten, or None."""
    if any(item.parts for item in joint.inputs if item.role in (Role.DATA, Role.CONDITION)):
        return "its input is sharded over processes (DTensor), so that each process holds only a part of the rows"
    for item in joint.inputs:
        if item.name not in weights or not item.parts:
            continue
        nodes = joint.parameters.get(item.name, ())
        if set(item.parts) != {0} or call.geometry.groups > 1 or not _has_outputs_first(call, nodes):
            return (
                "its weight is sharded over processes (DTensor) along a dimension other than its outputs, so that no "
                "process holds whole rows"
            )
    return None


def _has_outputs_first(call: Call, parameters: Iterable[Node]) -> bool:
    """Whether dimension 0 of the parameter counts the outputs of the layer: ``x @ w.T``, a convolution, or ``w @ x``."""
    if isinstance(call.geometry, TransposedGeometry) or call.sums_batch:
        return False
    node, transposed = call.weight, False
    while target_of(node) in SAME_VALUES:
        transposed ^= target_of(node) in _TRANSPOSITIONS and node.meta["val"].dim() == 2
        node = node.args[0]
    from_right = call.kind is Kind.PRODUCT and call.side is Side.RIGHT
    return node in parameters and transposed == from_right


def _is_untagged(node: Node) -> bool:
    """Whether a node is of neither direction: the backward pass of a ``torch.autograd.Function`` is traced like that."""
    return node.op == "call_function" and node.meta.get("partitioner_tag") is None and is_tensor_node(node)


def _is_complex(node: Node) -> bool:
    return node.meta["val"].is_complex()


def _is_real(node: Node) -> bool:
    value = node.meta.get("val")
    return getattr(value, "is_floating_point", bool)()
