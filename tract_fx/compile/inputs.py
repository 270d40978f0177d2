"""The roles of the inputs of a captured graph, which are known only where Dynamo calls the backend.

Parameters of modules are marked as such. In functional code they are plain tensors like the data, and only their use
distinguishes them: the weight argument of a convolution is a weight and no image.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from tract_fx import compat
from tract_fx.compat import FUNCTORCH_GRAD, is_static_input, source_name
from tract_fx.compile.model_names import parameters_of
from tract_fx.compile.origins import guard_roles, note_parameter, role_of_value
from tract_fx.passes.first_layer import is_named
from tract_fx.passes.joint_graph import GraphInput, Role, is_condition
from tract_fx.passes.naming import Naming, root_variable

__all__ = ["classify", "differentiated_inputs", "guard_names", "naming_of_function", "weight_inputs"]

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


def classify(
    gm: GraphModule, example_inputs: Sequence[Any], naming: Naming, model: object | None = None
) -> tuple[GraphInput, ...]:
    """Name and role of every input of a graph that Dynamo captured, in the order of the inputs.

    Args:
        gm: the captured graph.
        example_inputs: what Dynamo passes to a backend: parameters, fake tensors and symbolic sizes.
        naming: translates Dynamo's names into those of the user's model.
        model: the model to which the graph belongs, if it is known.
    """
    placeholders = gm.graph.find_nodes(op="placeholder")
    weights, differentiated = weight_inputs(gm), differentiated_inputs(gm)

    def role(placeholder: Node, example: Any) -> Role:
        trains = placeholder in differentiated or (isinstance(example, torch.Tensor) and example.requires_grad)
        # In functional code parameters are plain tensors: the weight of a layer is one if it is differentiated.
        if trains and placeholder in weights and example.is_leaf and not is_held(placeholder, example):
            if (value := compat.real_value(placeholder)) is not None:
                note_parameter(value)
            return Role.PARAMETER
        return _role(placeholder, example, model)

    found = tuple(
        GraphInput(
            _name(placeholder, naming),
            role(placeholder, example),
            placeholder in differentiated,
            compat.distributed_parts(example),
            isinstance(example, torch.Tensor) and example.is_nested,
        )
        for placeholder, example in zip(placeholders, example_inputs, strict=True)
    )
    if any(item.role is Role.PARAMETER for item in found):
        guard_roles(
            gm, found, [_open_value(*each) for each in zip(placeholders, example_inputs, found, strict=True)], model
        )
    return found


def guard_names(gm: GraphModule, layers: str | Sequence[str], model: torch.nn.Module | None) -> None:
    """Make Dynamo recompile the graph for a block in which ``layers`` names other parameters.

    Dynamo runs the code that it compiled for one block for all blocks of the same class.
    """
    if layers == "first" or model is None:
        return
    named: dict[int, set[str]] = {}
    for qualified, parameter in parameters_of(model):
        found = {name for name in layers if is_named(name, qualified.rpartition(".")[0], (qualified,))}
        named.setdefault(id(parameter), set()).update(found)
    alive = weakref.ref(model)

    def guard(wanted: set[str] | None) -> Callable[[Any], bool]:
        return lambda parameter: alive() is None or named.get(id(parameter)) == wanted

    for placeholder in gm.graph.find_nodes(op="placeholder"):
        value = compat.real_value(placeholder)
        if isinstance(value, torch.nn.Parameter):
            compat.add_guard(placeholder, guard(named.get(id(value))), f"the names in layers={layers!r}")


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


def is_held(placeholder: Node, example: Any) -> bool:
    """Whether a module holds the input: a parameter, a buffer, or what Dynamo marks static."""
    # Sub-graphs that DDPOptimizer cuts out have plain fake tensors for parameters, but keep Dynamo's mark on them.
    return isinstance(example, torch.nn.Parameter) or is_static_input(placeholder)


def _open_value(placeholder: Node, example: Any, item: GraphInput) -> torch.Tensor | None:
    """The real tensor of an input whose role depends on its value."""
    if item.role in (Role.PARAMETER, Role.STATIC) or not isinstance(example, torch.Tensor):
        return None
    if not torch.is_grad_enabled() and not example.requires_grad:
        return None
    return compat.real_value(placeholder)


def _role(placeholder: Node, example: Any, model: object | None) -> Role:
    if not isinstance(example, torch.Tensor):
        return Role.STATIC
    if is_held(placeholder, example):
        return Role.PARAMETER if example.requires_grad and example.is_leaf else Role.STATIC
    value = compat.real_value(placeholder)
    if value is not None:
        found = role_of_value(value, model)
    else:
        found = Role.ACTIVATION if example.requires_grad and not example.is_leaf else Role.DATA
    return Role.CONDITION if found is Role.DATA and is_condition(example) else found


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
