"""What the pass does to a model: which layers it rewrites, into what, at what cost, and what it leaves alone and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from tract_fx.environment import environment
from tract_fx.inspect.capture import Capture, CapturedGraph, capture
from tract_fx.inspect.cost.flops import step_flops
from tract_fx.inspect.cost.layer_cost import LayerCost, layer_cost
from tract_fx.inspect.formatting import describe_layer, human, outcome, refusal, summarize
from tract_fx.inspect.nodes import LayerNodes
from tract_fx.options import DEFAULT_LAM, TractOptions
from tract_fx.passes.first_layer import Match, RejectionKind
from tract_fx.passes.naming import Naming
from tract_fx.records import LayerMatch, LayerRejection

__all__ = ["ExplainedGraph", "ExplainedLayer", "Explanation", "explain"]

PROBLEMS = (RejectionKind.UNSUPPORTED.value, RejectionKind.NO_FIRST_LAYER.value)


def explain(
    model: Callable[..., Any],
    *args: Any,
    lam: float = DEFAULT_LAM,
    layers: str | Sequence[str] = "first",
    backward_of: Callable[[Any], Any] | None = None,
    dynamic: bool | None = None,
    **kwargs: Any,
) -> Explanation:
    """Which layers of a model TrAct rewrites, into what, and at what cost, without training or generating code.

    The joint graphs are traced on fake tensors: a model of any size takes little memory, may be on ``meta``, and is left as
    it is, with its gradients, buffers, and what ``torch.compile`` has made of it. Where its Python code asks for values of
    tensors, a copy with values is run instead, and the explanation says so. A plain function is not copied; what it does to
    Python objects happens.

    The mode (training or not), autocast and ``torch._dynamo.mark_dynamic`` count as for a compile.

    Args:
        model: a module or function; also what ``torch.compile`` returned.
        *args: positional arguments of one call, tensors of the shapes and dtypes of real batches.
        lam: as in ``tract_backend``; no finding depends on it.
        layers: as in ``tract_backend``.
        backward_of: takes from the model's output what the loss is made of, such as ``lambda output: output.logits``;
            without it every output that requires a gradient.
        dynamic: as in ``torch.compile``: with True, sizes are symbols, also in the costs.
        **kwargs: keyword arguments of the call.

    Raises:
        OptionError: for a ``lam`` or ``layers`` that is not allowed.
        UnknownLayerError: for a name in ``layers`` that the model does not have.
        CaptureError: when the model cannot be traced.
    """
    options = TractOptions(lam=lam, layers=layers, on_unsupported="ignore")
    captured = capture(model, args, kwargs, options, describe=_explain, backward_of=backward_of, dynamic=dynamic)
    return Explanation(
        model_name=_name(model),
        lam=options.lam,
        graphs=tuple(ExplainedGraph.of(number, graph) for number, graph in enumerate(captured.graphs)),
        notes=_notes(captured),
        environment=environment(),
    )


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
class Explanation:
    """What :func:`explain` has found; ``print`` it, or write a page with :meth:`to_html`.

    Attributes:
        model_name: class of the model, or name of the function.
        lam: the regularisation it was explained with.
        graphs: every joint graph of the call, in the order of compilation.
        notes: what else has to be known, in sentences.
        environment: versions and hardware.
    """

    model_name: str
    lam: float
    graphs: tuple[ExplainedGraph, ...]
    notes: tuple[str, ...]
    environment: Mapping[str, str | int]

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
        """The rejections that a compile is not silent about: an error or a warning."""
        return tuple(rejection for rejection in self.rejections if rejection.kind in PROBLEMS)

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
            "headline": self.headline,
            "is_fine": self.is_fine,
            "graphs": [_graph_to_dict(graph) for graph in self.graphs],
            "notes": list(self.notes),
            "environment": dict(self.environment),
        }

    def to_html(self, path: str | Path) -> Path:
        """Write one page that needs nothing but a browser.

        Returns:
            ``path``.
        """
        from tract_fx.inspect.views.page import render_html

        path = Path(path)
        path.write_text(render_html(self), encoding="utf-8")
        return path

    def __str__(self) -> str:
        from tract_fx.inspect.views.text import as_text

        return as_text(self)

    def __rich_console__(self, console: Any, options: Any) -> Any:
        from tract_fx.inspect.views.text import report

        yield from report(self)

    def _repr_html_(self) -> str:
        from tract_fx.inspect.views.page import render_frame

        return render_frame(self)

    @property
    def _main_graph(self) -> ExplainedGraph:
        if not self.graphs:
            raise LookupError("Dynamo compiles no graph of this model: there is nothing to show.")
        return next((graph for graph in self.graphs if graph.layers), self.graphs[0])


def _explain(match: Match, graph: GraphModule) -> dict[str, Any]:
    cost = layer_cost(match, step_flops(graph.graph))
    return {"description": describe_layer(match), "cost": cost, "nodes": LayerNodes.of(match)}


def _notes(captured: Capture) -> tuple[str, ...]:
    notes = []
    if captured.on_values is not None:
        notes.append(
            f"A copy of the model ran on real tensors, because its code needs their values: {captured.on_values}"
        )
    if not captured.graphs:
        notes.append("Dynamo skips the frames of this model, so that no backend sees it and its layers train plain.")
    notes.extend(f"Dynamo does not trace all of it: {summarize(reason)}" for reason in captured.untraced)
    return tuple(dict.fromkeys(notes))


def _name(model: Callable[..., Any]) -> str:
    if isinstance(model, nn.Module):
        return type(getattr(model, "_orig_mod", model)).__name__
    return getattr(model, "__qualname__", type(model).__name__)


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
