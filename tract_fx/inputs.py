"""What the inputs of a captured graph are. Only where the backend is called do they still differ from each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tract_fx.compat import is_static_input, source_name
from tract_fx.passes.joint_graph import GraphInput, Role, readable_name

__all__ = ["classify"]


def classify(gm: torch.fx.GraphModule, example_inputs: Sequence[Any], prefix: str = "") -> tuple[GraphInput, ...]:
    """Name and role of every input of a graph that Dynamo captured, in its order.

    Args:
        gm: the captured graph.
        example_inputs: what Dynamo passes to a backend: parameters, fake tensors, symbolic sizes.
        prefix: qualified name, in the user's model, of the module whose ``forward`` was captured.
    """
    placeholders = gm.graph.find_nodes(op="placeholder")
    return tuple(
        GraphInput(_name(placeholder, prefix), _role(placeholder, example))
        for placeholder, example in zip(placeholders, example_inputs, strict=True)
    )


def _name(placeholder: torch.fx.Node, prefix: str) -> str:
    source = source_name(placeholder)
    if source is None:
        return placeholder.name
    name = readable_name(source)
    return f"{prefix}.{name}" if prefix and is_static_input(placeholder) else name


def _role(placeholder: torch.fx.Node, example: Any) -> Role:
    if not isinstance(example, torch.Tensor):
        return Role.STATIC
    # Sub-graphs that DDPOptimizer cuts out have plain fake tensors for parameters, but keep Dynamo's mark on them.
    held = isinstance(example, torch.nn.Parameter) or is_static_input(placeholder)
    if held:
        return Role.PARAMETER if example.requires_grad and example.is_leaf else Role.STATIC
    return Role.ACTIVATION if example.requires_grad and not example.is_leaf else Role.DATA
