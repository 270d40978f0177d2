"""How a captured graph uses its inputs: as weights of layers, or as what a gradient is taken with respect to.

Parameters of modules say what they are. In functional code they are plain tensors like the data, and only their use
tells: nobody convolves with an image.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.fx import GraphModule, Node

from tract_fx.compat import FUNCTORCH_GRAD

__all__ = ["differentiated_inputs", "weight_inputs"]

# Functions with an argument that can only be a weight; a product written ``x @ w`` may be of two inputs.
_LAYERS = frozenset(
    (
        torch.nn.functional.linear,
        torch.conv1d,
        torch.conv2d,
        torch.conv3d,
        torch.conv_transpose1d,
        torch.conv_transpose2d,
        torch.conv_transpose3d,
    )
)
_WEIGHT = 1  # position of that argument, in all of them

_GRADIENTS = frozenset((torch.autograd.grad, FUNCTORCH_GRAD))

# What stands between an input and the tensor that a transform of ``torch.func`` differentiates, or a layer multiplies.
_SAME_VALUE = frozenset(
    (
        "_add_batch_dim",
        "_set_tensor_requires_grad",
        "_wrap_for_grad",
        "alias",
        "clone",
        "contiguous",
        "detach",
        "detach_",
        "requires_grad_",
        "to",
    )
)


def weight_inputs(gm: GraphModule) -> frozenset[Node]:
    """Placeholders that are the weight of a convolution or of ``torch.nn.functional.linear``."""
    weights = (
        node.kwargs.get("weight", node.args[_WEIGHT] if len(node.args) > _WEIGHT else None)
        for node in gm.graph.nodes
        if node.op == "call_function" and node.target in _LAYERS
    )
    return frozenset(_inputs(weights))


def differentiated_inputs(gm: GraphModule) -> frozenset[Node]:
    """Placeholders with respect to which a gradient is taken inside the graph.

    Dynamo captures ``torch.func.grad`` and its relatives, and with ``torch._dynamo.config.trace_autograd_ops`` also
    ``torch.autograd.grad`` and ``backward()``, as a call like any other. AOTAutograd then sees forward and backward pass
    as one piece of forward code.
    """
    variables = (
        variable
        for node in gm.graph.nodes
        if node.op == "call_function" and node.target in _GRADIENTS
        for variable in _as_sequence(node.kwargs.get("inputs", node.args[1] if len(node.args) > 1 else ()))
    )
    return frozenset(_inputs(variables))


def _as_sequence(value: object) -> tuple[object, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def _inputs(values: Iterator[object]) -> Iterator[Node]:
    """The placeholders that are the given values, if any."""
    for value in values:
        node = value
        while isinstance(node, Node) and _name(node) in _SAME_VALUE and node.args:
            node = node.args[0]
        if isinstance(node, Node) and node.op == "placeholder":
            yield node


def _name(node: Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
