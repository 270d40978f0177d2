"""The data of an explanation, from which the views render text, a page and pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import GraphModule

from tract_fx.inspect.capture import CapturedGraph
from tract_fx.inspect.cost.layer_cost import LayerCost
from tract_fx.inspect.formatting import human, outcome, refusal
from tract_fx.inspect.nodes import LayerNodes
from tract_fx.inspect.walks import ancestors
from tract_fx.passes.joint_graph import JointGraph, Role, is_tensor_node
from tract_fx.passes.naming import Naming
from tract_fx.records import LayerMatch, LayerRejection, Severity
from tract_fx.wording import listed

__all__ = ["ExplainedGraph", "ExplainedLayer", "ExplanationResult"]

NAMES_SHOWN = 4
OTHERS = "All other layers that are not listed below multiply activations, which depend on parameters."


@dataclasses.dataclass(frozen=True)
class ExplainedLayer:
    """A layer that is rewritten.

    Attributes:
        match: as in ``backend.matches``.
        description: kind, sizes and geometry, as ``Conv2d 3->64, 7x7 stride 2``.
        cost: what the rewrite costs, beside the layer and the step.
        nodes: where it is in ``graph_before``.
        reason: why it is a first layer, in one line.
    """

    match: LayerMatch
    description: str
    cost: LayerCost
    nodes: LayerNodes
    reason: str = ""

    def __str__(self) -> str:
        rows = self.cost.at().rows if isinstance(self.match.rows, str) else None
        here = f" ({human(rows)} in the example)" if rows is not None and rows.is_number else ""
        return f"{self.match.name}: {self.description}: {outcome(self.match)}{here}"


@dataclasses.dataclass(frozen=True)
class ExplainedGraph:
    """One joint graph, before and after the pass.

    Attributes:
        number: its place in the order of compilation; a model without graph breaks has one graph, number 0.
        layers: what is rewritten in it.
        rejections: as in ``backend.rejections``.
        break_reason: why Dynamo ended it before its function returned, in Dynamo's words; None where it did not.
        graph_before: as AOTAutograd made it.
        graph_after: as the pass leaves it to Inductor.
        naming: how its layers are called.
        input_names: of the placeholders that are inputs of the model: the name in the graph, and that of the parameter.
    """

    number: int
    layers: tuple[ExplainedLayer, ...]
    rejections: tuple[LayerRejection, ...]
    break_reason: str | None
    graph_before: GraphModule
    graph_after: GraphModule
    naming: Naming
    input_names: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, number: int, graph: CapturedGraph) -> ExplainedGraph:
        """From what was captured."""
        joint = JointGraph(graph.before.graph, graph.inputs, graph.naming)
        layers = tuple(
            ExplainedLayer(match, **described, reason=_reason(described["nodes"], joint))
            for match, described in zip(graph.record.matches, graph.described, strict=True)
        )
        names = tuple((node.name, item.name) for node, item in joint.input_of.items())
        # What comes in besides, before the gradients of the outputs, is lam.
        added = (node for node in joint.graph.find_nodes(op="placeholder") if node not in joint.input_of)
        names += tuple((node.name, "lam") for node in added if node.name.startswith("primals"))
        return cls(
            number, layers, graph.record.rejections, graph.break_reason, graph.before, graph.after, graph.naming, names
        )

    @property
    def matches(self) -> tuple[LayerMatch, ...]:
        """As in ``backend.matches``."""
        return tuple(layer.match for layer in self.layers)

    @property
    def costs(self) -> tuple[LayerCost, ...]:
        """What each rewrite costs."""
        return tuple(layer.cost for layer in self.layers)

    @property
    def added(self) -> tuple[str, ...]:
        """Names of the nodes that only the graph after the pass has, in its order."""
        return _only_in(self.graph_after, self.graph_before)

    @property
    def removed(self) -> tuple[str, ...]:
        """Names of the nodes that only the graph before the pass has, in its order."""
        return _only_in(self.graph_before, self.graph_after)


@dataclasses.dataclass(frozen=True)
class ExplanationResult:
    """What ``explain`` has found, without its renderings.

    Attributes:
        model_name: class of the model, or name of the function.
        lam: the regularisation it was explained with.
        graphs: every joint graph of the call, in the order of compilation.
        notes: further remarks, in full sentences.
        environment: versions and hardware.
        relative: whether ``lam`` is in units of ``tr(C) / n``.
    """

    model_name: str
    lam: float
    graphs: tuple[ExplainedGraph, ...]
    notes: tuple[str, ...]
    environment: Mapping[str, str | int]
    relative: bool = False

    @property
    def layers(self) -> tuple[ExplainedLayer, ...]:
        """Every layer that is rewritten."""
        return tuple(layer for graph in self.graphs for layer in graph.layers)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why these layers are first and no others, in a line each; empty where at most one layer is rewritten."""
        if len(self.layers) < 2:
            return ()
        lines = [f"{layer.match.name}: {layer.reason}" for layer in self.layers if layer.reason]
        return (*lines, OTHERS)

    @property
    def matches(self) -> tuple[LayerMatch, ...]:
        """What ``backend.matches`` would be."""
        return tuple(layer.match for layer in self.layers)

    @property
    def rejections(self) -> tuple[LayerRejection, ...]:
        """What ``backend.rejections`` would be."""
        return tuple(rejection for graph in self.graphs for rejection in graph.rejections)

    @property
    def problems(self) -> tuple[LayerRejection, ...]:
        """The rejections that are an error or a warning when the model is compiled."""
        return tuple(rejection for rejection in self.rejections if rejection.severity is not Severity.NOTE)

    @property
    def graph_before(self) -> GraphModule:
        """The joint graph that the pass changes, before; the first graph when it changes none."""
        return self._main_graph.graph_before

    @property
    def graph_after(self) -> GraphModule:
        """The joint graph that the pass changes, after."""
        return self._main_graph.graph_after

    @property
    def is_fine(self) -> bool:
        """Whether something is rewritten, and nothing that should be is not."""
        return bool(self.layers) and not self.problems

    @property
    def headlines(self) -> tuple[str, ...]:
        """The answer: a line for each layer that is rewritten, or should be and is not."""
        lines = [*map(str, self.layers), *map(refusal, self.problems)]
        if lines:
            return tuple(lines)
        if not self.graphs:
            return ("Nothing is rewritten: Dynamo compiles no graph of this model.",)
        return ("Nothing is rewritten: no layer is trained on data here.",)

    @property
    def headline(self) -> str:
        """The answer in one line."""
        first, *others = self.headlines
        return first + (f" (and {len(others)} more)" if others else "")

    def to_dict(self) -> dict[str, Any]:
        """For tools: plain lists, dictionaries, strings and numbers, without the code of the graphs."""
        return {
            "model": self.model_name,
            "lam": self.lam,
            "relative": self.relative,
            "headline": self.headline,
            "is_fine": self.is_fine,
            "graphs": [_graph_to_dict(graph) for graph in self.graphs],
            "reasons": list(self.reasons),
            "notes": list(self.notes),
            "environment": dict(self.environment),
        }

    @property
    def _main_graph(self) -> ExplainedGraph:
        if not self.graphs:
            raise LookupError("Dynamo compiles no graph of this model, so there is no graph to show.")
        return next((graph for graph in self.graphs if graph.layers), self.graphs[0])


def _reason(nodes: LayerNodes, joint: JointGraph) -> str:
    """Why a layer is first: the inputs of the model that its own input is computed from."""
    (node,) = (node for node in joint.graph.nodes if node.name == nodes.input)
    before = ancestors([node], lambda _: True)
    sources = [item for node, item in joint.input_of.items() if node in before and is_tensor_node(node)]
    trained = dict.fromkeys(item.name for item in sources if item.role in (Role.PARAMETER, Role.ACTIVATION))
    if trained:
        return f"its input depends on {listed(list(trained), NAMES_SHOWN)}, and layers=[...] names it."
    data = dict.fromkeys(item.name for item in sources if item.role is not Role.STATIC)
    if data:
        return f"its input depends on {listed(list(data), NAMES_SHOWN)} and on no parameter."
    return "its input depends on no parameter."


def _only_in(one: torch.fx.GraphModule, other: torch.fx.GraphModule) -> tuple[str, ...]:
    known = {node.name for node in other.graph.nodes}
    return tuple(node.name for node in one.graph.nodes if node.name not in known)


def _graph_to_dict(graph: ExplainedGraph) -> dict[str, Any]:
    return {
        "number": graph.number,
        "break_reason": graph.break_reason,
        "layers": [
            {"description": layer.description, **dataclasses.asdict(layer.match), "cost": layer.cost.to_dict()}
            for layer in graph.layers
        ],
        "rejections": [dataclasses.asdict(rejection) for rejection in graph.rejections],
        "nodes": {"before": len(graph.graph_before.graph.nodes), "after": len(graph.graph_after.graph.nodes)},
        "added": list(graph.added),
        "removed": list(graph.removed),
    }
