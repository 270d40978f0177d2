"""The roles of the inputs of a captured graph, which are known only where Dynamo calls the backend.

Parameters of modules are marked as such. In functional code they are plain tensors like the data, and only their use
distinguishes them: the weight argument of a convolution is a weight and no image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from tract_fx import compat
from tract_fx.compat import FUNCTORCH_GRAD, is_static_input, source_name
from tract_fx.passes.joint_graph import GraphInput, Role
from tract_fx.passes.naming import Naming, root_variable

__all__ = ["classify", "differentiated_inputs", "naming_of_function", "weight_inputs"]

# Functions with an argument that can only be a weight; both factors of a product ``x @ w`` may be data.
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

# Operations between an input and the tensor that a transform of ``torch.func`` differentiates, or that a layer multiplies.
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


def classify(gm: GraphModule, example_inputs: Sequence[Any], naming: Naming) -> tuple[GraphInput, ...]:
    """Name and role of every input of a graph that Dynamo captured, in the order of the inputs.

    Args:
        gm: the captured graph.
        example_inputs: what Dynamo passes to a backend: parameters, fake tensors and symbolic sizes.
        naming: translates Dynamo's names into those of the user's model.
    """
    placeholders = gm.graph.find_nodes(op="placeholder")
    weights, differentiated = weight_inputs(gm), differentiated_inputs(gm)

    def role(placeholder: Node, example: Any) -> Role:
        found = _role(placeholder, example)
        trains = placeholder in differentiated or (isinstance(example, torch.Tensor) and example.requires_grad)
        # In functional code parameters are plain tensors: the weight of a layer is one if it is differentiated.
        return Role.PARAMETER if found is Role.DATA and trains and placeholder in weights else found

    return tuple(
        GraphInput(
            _name(placeholder, naming),
            role(placeholder, example),
            placeholder in differentiated,
            compat.distributed_parts(example),
        )
        for placeholder, example in zip(placeholders, example_inputs, strict=True)
    )


def naming_of_function(gm: GraphModule) -> Naming:
    """Names in a graph captured from a plain function.

    If the function uses one model, the variable that holds it is left out of the names, so that they are those of the
    ``state_dict``; if it uses several, the variables are needed to distinguish them.
    """
    sources = [source_name(node) for node in gm.graph.find_nodes(op="placeholder") if is_static_input(node)]
    roots = {root_variable(source) for source in sources if source is not None and "." in source}
    return Naming(root=roots.pop() if len(roots) == 1 else None)


def _name(placeholder: Node, naming: Naming) -> str:
    source = source_name(placeholder)
    return placeholder.name if source is None else naming.of_source(source)


def _role(placeholder: Node, example: Any) -> Role:
    if not isinstance(example, torch.Tensor):
        return Role.STATIC
    # Sub-graphs that DDPOptimizer cuts out have plain fake tensors for parameters, but keep Dynamo's mark on them.
    held = isinstance(example, torch.nn.Parameter) or is_static_input(placeholder)
    if held:
        return Role.PARAMETER if example.requires_grad and example.is_leaf else Role.STATIC
    return Role.ACTIVATION if example.requires_grad and not example.is_leaf else Role.DATA


def weight_inputs(gm: GraphModule) -> frozenset[Node]:
    """Placeholders that are the weight of a convolution or of ``torch.nn.functional.linear``."""
    weights = (
        node.kwargs.get("weight", node.args[_WEIGHT] if len(node.args) > _WEIGHT else None)
        for node in gm.graph.nodes
        if node.op == "call_function" and node.target in _LAYERS
    )
    return frozenset(_inputs(weights))


def differentiated_inputs(gm: GraphModule) -> frozenset[Node]:
    """Placeholders with respect to which a gradient is computed inside the graph.

    Dynamo captures ``torch.func.grad`` and its relatives, and with ``torch._dynamo.config.trace_autograd_ops`` also
    ``torch.autograd.grad`` and ``backward()``, as ordinary calls. AOTAutograd then traces the forward and the backward pass
    together as forward code.
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
    """The placeholders behind the given values; values that are computed from them have none."""
    for value in values:
        node = value
        while isinstance(node, Node) and _operation(node) in _SAME_VALUE and node.args:
            node = node.args[0]
        if isinstance(node, Node) and node.op == "placeholder":
            yield node


def _operation(node: Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
