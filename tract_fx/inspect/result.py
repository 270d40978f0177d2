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
from tract_fx.passes.naming import Naming
from tract_fx.records import LayerMatch, LayerRejection, Severity

__all__ = ["ExplainedGraph", "ExplainedLayer", "ExplanationResult"]


@dataclasses.dataclass(frozen=True)
class ExplainedLayer:
    """A layer that is rewritten.

    Attributes:
        match: as in ``backend.matches``.
        description: kind, sizes and geometry, as ``Conv2d 3->64, 7x7 stride 2``.
        cost: what the rewrite costs, beside the layer and the step.
        nodes: where it is in ``graph_before``.
    """

    match: LayerMatch
    description: str
    cost: LayerCost
    nodes: LayerNodes

    def __str__(self) -> str:
        rows = self.cost.at().rows if isinstance(self.match.rows, str) else None
        here = f" ({human(rows)} in the example)" if rows is not None and rows.is_number else ""
        return f"{self.match.layer or self.match.weight}: {self.description}: {outcome(self.match)}{here}"


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
    """

    number: int
    layers: tuple[ExplainedLayer, ...]
    rejections: tuple[LayerRejection, ...]
    break_reason: str | None
    graph_before: GraphModule
    graph_after: GraphModule
    naming: Naming

    @classmethod
    def of(cls, number: int, graph: CapturedGraph) -> ExplainedGraph:
        """From what was captured."""
        layers = tuple(
            ExplainedLayer(match, **described)
            for match, described in zip(graph.record.matches, graph.described, strict=True)
        )
        return cls(number, layers, graph.record.rejections, graph.break_reason, graph.before, graph.after, graph.naming)

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
            "notes": list(self.notes),
            "environment": dict(self.environment),
        }

    @property
    def _main_graph(self) -> ExplainedGraph:
        if not self.graphs:
            raise LookupError("Dynamo compiles no graph of this model, so there is no graph to show.")
        return next((graph for graph in self.graphs if graph.layers), self.graphs[0])


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
