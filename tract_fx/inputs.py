"""What the inputs of a captured graph are. Only where the backend is called do they still differ from each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tract_fx import compat
from tract_fx.compat import is_static_input, source_name
from tract_fx.passes.joint_graph import GraphInput, Role
from tract_fx.passes.naming import Naming, root_variable
from tract_fx.usage import differentiated_inputs, weight_inputs

__all__ = ["classify", "naming_of_function"]


def classify(gm: torch.fx.GraphModule, example_inputs: Sequence[Any], naming: Naming) -> tuple[GraphInput, ...]:
    """Name and role of every input of a graph that Dynamo captured, in its order.

    Args:
        gm: the captured graph.
        example_inputs: what Dynamo passes to a backend: parameters, fake tensors, symbolic sizes.
        naming: how parameters are called.
    """
    placeholders = gm.graph.find_nodes(op="placeholder")
    weights, differentiated = weight_inputs(gm), differentiated_inputs(gm)

    def role(placeholder: torch.fx.Node, example: Any) -> Role:
        found = _role(placeholder, example)
        trains = placeholder in differentiated or (isinstance(example, torch.Tensor) and example.requires_grad)
        # In functional code parameters are plain tensors: what a layer has for a weight, and is trained, is one.
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


def naming_of_function(gm: torch.fx.GraphModule) -> Naming:
    """Names in a graph captured from a plain function.

    The variable that holds the one model it uses is left out, so that names are those of its ``state_dict``; if there are
    several, they are needed to tell the models apart.
    """
    sources = [source_name(node) for node in gm.graph.find_nodes(op="placeholder") if is_static_input(node)]
    roots = {root_variable(source) for source in sources if source is not None and "." in source}
    return Naming(root=roots.pop() if len(roots) == 1 else None)


def _name(placeholder: torch.fx.Node, naming: Naming) -> str:
    source = source_name(placeholder)
    return placeholder.name if source is None else naming.of_source(source)


def _role(placeholder: torch.fx.Node, example: Any) -> Role:
    if not isinstance(example, torch.Tensor):
        return Role.STATIC
    # Sub-graphs that DDPOptimizer cuts out have plain fake tensors for parameters, but keep Dynamo's mark on them.
    held = isinstance(example, torch.nn.Parameter) or is_static_input(placeholder)
    if held:
        return Role.PARAMETER if example.requires_grad and example.is_leaf else Role.STATIC
    return Role.ACTIVATION if example.requires_grad and not example.is_leaf else Role.DATA
