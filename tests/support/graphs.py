"""Joint graphs of small models, captured without code generation."""

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph, Node

from tract_fx import compat
from tract_fx.compile.inputs import classify
from tract_fx.compile.lam_input import LamInput
from tract_fx.compile.model_frame import current_frame
from tract_fx.passes.joint_graph import JointGraph


def joint_graphs(
    model: Callable[..., Any], *inputs: Any, inductor: bool = True, train: bool = True, **compile_arguments: Any
) -> list[JointGraph]:
    """Joint graphs that AOTAutograd makes of ``model``, in the order of compilation, one for each Dynamo graph.

    Args:
        model: a module or function; it is called once.
        *inputs: its arguments.
        inductor: whether Inductor's decompositions are applied, or none, as for ``inner="aot_eager"``.
        train: whether gradients are enabled.
        **compile_arguments: for ``torch.compile``.
    """
    captured: list[JointGraph] = []

    def backend(gm: torch.fx.GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
        naming = current_frame(gm).naming
        described = classify(gm, example_inputs, naming)

        def keep(graph: Graph) -> None:
            captured.append(JointGraph(graph, described, naming=naming))

        decompositions = compat.inductor_decompositions() if inductor else None
        return compat.aot_eager(gm, example_inputs, keep, decompositions)

    torch._dynamo.reset()
    with torch.set_grad_enabled(train):
        torch.compile(model, backend=backend, **compile_arguments)(*inputs)
    return captured


def lam_node(graph: Graph, lam: float = 0.1) -> Node:
    """A node of a joint graph that holds ``lam``."""
    return LamInput(lam).node_in(graph)


def joint_graph(model: Callable[..., Any], *inputs: Any, **arguments: Any) -> JointGraph:
    """The joint graph of a model without graph breaks."""
    (graph,) = joint_graphs(model, *inputs, **arguments)
    return graph
