"""The explanation in a terminal: the answer, then the graphs, then the layers that stay unchanged and the reasons."""

from __future__ import annotations

import io
from collections.abc import Iterator

import sympy
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from tract_fx.inspect.cost.layer_cost import LayerCost
from tract_fx.inspect.formatting import describe_lam, human, human_bytes, multiple, percent, refusal, summarize
from tract_fx.inspect.result import ExplainedGraph, ExplanationResult
from tract_fx.records import LayerRejection, Severity

__all__ = ["as_text", "report"]

WIDTH = 120
# Graphs in which nothing is rewritten and nothing refused are counted beyond this many, not listed.
GRAPHS_SHOWN = 8
QUIET_STYLE = "dim"
STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: QUIET_STYLE}


def as_text(explanation: ExplanationResult) -> str:
    """Return the explanation as text without colours."""
    written = io.StringIO()
    console = Console(file=written, width=WIDTH, color_system=None)
    console.print(Group(*report(explanation)), soft_wrap=False)
    return written.getvalue().rstrip()


def report(explanation: ExplanationResult) -> Iterator[RenderableType]:
    """Yield the renderables that rich prints."""
    for layer in explanation.layers:
        yield Text(str(layer), style="bold green")
        yield Padding(Text(cost_in_words(layer.cost)), (0, 0, 0, 2))
    for reason in explanation.reasons:
        yield Text(reason, style=QUIET_STYLE)
    for rejection in explanation.problems:
        yield from _rejection(rejection)
    if not explanation.layers and not explanation.problems:
        yield Text(explanation.headline, style="bold yellow")
    yield from _graphs(explanation)
    for rejection in explanation.rejections:
        if rejection not in explanation.problems:
            yield from _rejection(rejection)
    for note in explanation.notes:
        yield Text(f"Note: {note}", style="yellow")
    versions = explanation.environment
    lam = describe_lam(explanation.lam, explanation.relative)
    yield Text(f"{explanation.model_name}, lam {lam}, torch {versions['torch']}", style=QUIET_STYLE)


def cost_in_words(cost: LayerCost) -> str:
    """Operations of the parts, how much that is, and the memory; with the sizes of the example where some are symbols."""
    at = cost.at()
    parts = ", ".join(
        f"{name} {_number(getattr(at, name).flops, 'FLOP')}" for name in ("covariance", "factorisation", "solve")
    )
    share = f"{multiple(at.of_layer)} the layer's own operations" if at.layer_flops else ""
    step = "" if at.of_step is None else f"{percent(at.of_step)} of the step's"
    memory = at.total.memory
    held = f"at most {human_bytes(int(memory))} more memory" if memory.is_number else ""
    where = "With the sizes of the example: " if cost.symbols else ""
    return where + "; ".join(filter(None, (parts, ", ".join(filter(None, (share, step))), held)))


def _number(value: sympy.Expr, unit: str) -> str:
    return human(value, unit) if value.is_number else str(value)


def _graphs(explanation: ExplanationResult) -> Iterator[RenderableType]:
    graphs = explanation.graphs
    shown = graphs if len(graphs) <= GRAPHS_SHOWN else tuple(item for item in graphs if item.layers or item.rejections)
    for graph in shown:
        yield from _graph(graph, numbered=len(graphs) > 1)
    if len(shown) < len(graphs):
        yield Text(f"{len(graphs) - len(shown)} other graphs, which contain no candidate layer")


def _graph(graph: ExplainedGraph, *, numbered: bool) -> Iterator[RenderableType]:
    name = f"Graph {graph.number}" if numbered else "One graph"
    nodes = f"{len(graph.graph_before.graph.nodes):,} nodes"
    change = f", {len(graph.added)} added, {len(graph.removed)} removed" if graph.layers else ", not changed"
    yield Text(f"{name}: {nodes}{change}")
    if graph.break_reason:
        yield Padding(Text(f"ended by a graph break: {summarize(graph.break_reason)}", style=QUIET_STYLE), (0, 0, 0, 2))


def _rejection(rejection: LayerRejection) -> Iterator[RenderableType]:
    yield Text(refusal(rejection), style=STYLES[rejection.severity])
    if rejection.advice:
        yield Padding(Text(rejection.advice), (0, 0, 0, 2))
