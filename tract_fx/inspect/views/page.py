"""The explanation as one self-contained HTML page: it loads nothing from a network and is readable without scripts."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
from html import escape

import sympy
from markupsafe import Markup

from tract_fx.inspect.cost.formula import formula
from tract_fx.inspect.cost.layer_cost import ZERO, LayerCost, Work
from tract_fx.inspect.drawing.neighbourhood import neighbourhood
from tract_fx.inspect.drawing.picture import Picture, draw
from tract_fx.inspect.formatting import human, human_bytes, multiple, percent, summarize
from tract_fx.inspect.result import ExplainedGraph, ExplainedLayer, ExplanationResult
from tract_fx.inspect.views.html import asset, template
from tract_fx.inspect.views.listing import Block, compare
from tract_fx.passes.joint_graph import target_of
from tract_fx.records import LayerRejection, RejectionKind, Severity

__all__ = ["render_frame", "render_html"]

PACKAGE = "tract_fx.inspect.views"

# The order of findings on the page.
KINDS = [kind.value for kind in RejectionKind]

NO_BREAK = "\u00a0"

# Nodes of unchanged graphs whose code is shown.
MOST_LINES = 10_000


def render_html(explanation: ExplanationResult) -> str:
    """A complete HTML document."""
    style, script = asset(PACKAGE, "page.css"), asset(PACKAGE, "page.js")
    return template(PACKAGE, "page.html").render(page=_Page(explanation), style=style, script=script)


def render_frame(explanation: ExplanationResult, height: int = 720) -> str:
    """The page in an ``<iframe>``, for a notebook: neither page affects the style of the other."""
    return (
        f'<iframe title="tract-fx explains {escape(explanation.model_name)}" srcdoc="{escape(render_html(explanation))}" '
        f'style="width: 100%; height: {height}px; border: 0" sandbox="allow-scripts"></iframe>'
    )


@dataclasses.dataclass(frozen=True)
class _Finding:
    """A rejection in the words of the page."""

    item: LayerRejection

    @property
    def severity(self) -> str:
        return self.item.severity.value

    @property
    def kind(self) -> str:
        return "cannot be rewritten" if self.item.severity is Severity.ERROR else self.item.kind

    @property
    def is_problem(self) -> bool:
        return self.item.severity is not Severity.NOTE

    @property
    def name(self) -> str:
        return self.item.name


@dataclasses.dataclass(frozen=True)
class _Quantity:
    """A number for people, and its exact value."""

    text: str
    exact: str


@dataclasses.dataclass(frozen=True)
class _CostRow:
    name: str
    what: str
    flops: _Quantity
    bytes: _Quantity
    memory: _Quantity


@dataclasses.dataclass(frozen=True)
class _Bar:
    """A bar as long as its share, in percent, of the longest one."""

    name: str
    text: str
    share: float
    kind: str


class _Cost:
    def __init__(self, cost: LayerCost) -> None:
        self.cost, self.numbers = cost, cost.at()
        self.symbols = ", ".join(
            f"{symbol} = {dict(cost.hints).get(symbol, '?')}" + (" (batch)" if symbol == cost.batch else "")
            for symbol in cost.symbols
        )

    @property
    def rows(self) -> list[_CostRow]:
        dual = self.cost.form == "dual"
        matrix = "XXᵀ / r" if dual else "C = XᵀX / r"
        parts = {
            "Covariance": (matrix, "covariance"),
            "Factorisation": ("Cholesky of the regularised matrix", "factorisation"),
            "Solve": ("coefficients, and their product with X" if dual else "G′ = G (C + λI)⁻¹", "solve"),
            "Together": ("memory: of the largest part", "total"),
        }
        return [self._row(name, what, attribute) for name, (what, attribute) in parts.items()]

    def _row(self, name: str, what: str, attribute: str) -> _CostRow:
        work: Work = getattr(self.numbers, attribute)
        quantities = _quantity(work.flops, "FLOP"), _quantity(work.bytes, "B"), _quantity(work.memory, "B")
        return _CostRow(name, what, *quantities)

    @property
    def formulas(self) -> list[tuple[str, Markup]]:
        """Of everything that depends on a symbol."""
        found = [("rows", self.cost.rows)]
        for part in ("covariance", "factorisation", "solve"):
            work: Work = getattr(self.cost, part)
            quantities = {"operations": work.flops, "traffic": work.bytes, "memory": work.memory}
            found += [(f"{part}, {name}", expr) for name, expr in quantities.items()]
        found += [("layer, forward", self.cost.forward), ("the whole step", self.cost.step or ZERO)]
        return [(name, formula(expr)) for name, expr in found if expr.free_symbols]

    @property
    def figures(self) -> list[tuple[str, str]]:
        """The answer in three numbers."""
        found = [(multiple(self.numbers.of_layer), "the operations of the layer itself, forward and backward")]
        if (share := self.numbers.of_step) is not None:
            found.append((percent(share), "operations in the whole step"))
        found.append(
            (_quantity(self.numbers.total.memory, "B").text, "of additional memory at most, during the computation")
        )
        return found

    @property
    def bars(self) -> list[_Bar]:
        numbers = self.numbers
        sizes = [
            ("layer, forward", numbers.forward, "own"),
            ("layer, backward", numbers.weight_gradient + numbers.input_gradient, "own"),
            ("covariance", numbers.covariance.flops, "new"),
            ("factorisation", numbers.factorisation.flops, "new"),
            ("solve", numbers.solve.flops, "new"),
        ]
        if not all(size.is_number for _, size, _ in sizes):
            return []
        most = max(float(size) for _, size, _ in sizes) or 1.0
        return [_Bar(name, human(size, "FLOP"), 100 * float(size) / most, kind) for name, size, kind in sizes]

    @property
    def any_image(self) -> bool:
        """Whether the memory bound holds for images of any size, which makes it much looser."""
        return bool(self.cost.covariance.memory.free_symbols - {self.cost.batch})

    @property
    def replaced(self) -> _Quantity:
        return _quantity(self.numbers.replaced, "FLOP")

    @property
    def step(self) -> _Quantity | None:
        if self.numbers.step is None:
            return None
        return _quantity(self.numbers.step, "FLOP")


class _Layer:
    """A rewritten layer: its pictures and its cost."""

    def __init__(self, layer: ExplainedLayer, graph: ExplainedGraph) -> None:
        self.layer, self.graph, self.match = layer, graph, layer.match
        self.name = layer.match.name
        self.cost = _Cost(layer.cost)
        self.tab = self.name

    @functools.cached_property
    def pictures(self) -> list[tuple[str, Picture]]:
        sides = {"Before": (self.graph.graph_before, False), "After": (self.graph.graph_after, True)}
        drawn = []
        for side, (module, after) in sides.items():
            other = self.graph.graph_before if after else self.graph.graph_after
            known = {node.name for node in other.graph.nodes}
            about = self.layer.nodes, self.match.weight, self.match.form
            names = dict(self.graph.input_names)
            what = neighbourhood(module.graph, *about, known, after=after, names=names)
            drawn.append((side, draw(what, f"{side} the pass: the graph around {self.name}")))
        return drawn

    @property
    def sums(self) -> str:
        """How ``G`` is computed, and what became of the plain weight gradient."""
        added = {
            target_of(node)
            for node in self.graph.graph_after.graph.nodes
            if node.op == "call_function" and node.name not in self.known_before
        }
        sentences = []
        if self.match.form == "primal" and "tract_fx.primal_gradient" in added:
            sentences = [
                "G is summed from the operands of the layer, in float32 where an estimate of the error allows it and else "
                "in float64. It takes the place of the plain weight gradient. Its operations are as many, or twice as "
                "many where float32 does not do, and are not counted as added."
            ]
        elif self.match.form == "primal":
            sentences = [
                "G is summed in float64 from the operands of the layer, in the place of the plain weight gradient and by "
                "as many operations, which are not counted as added."
            ]
        elif self.cost.cost.replaced:
            sentences = [
                "The step grows by less than the sum, because the graph no longer asks for the plain weight gradient, "
                f"{self.cost.replaced.text}."
            ]
        if self._is_computed_with_bias():
            sentences.append(
                "On a CPU, oneDNN computes the plain one all the same, together with the gradient of the bias."
            )
        return " ".join(sentences)

    def _is_computed_with_bias(self) -> bool:
        """Whether what is left of a convolution's backward pass on a CPU is the gradient of the bias."""
        before = {node.name: node for node in self.graph.graph_before.graph.nodes}
        sources = {node.name for node in before[self.layer.nodes.gradient].all_input_nodes}
        return any(
            node.name in sources
            and target_of(node) == "convolution_backward"
            and node.args[0].meta["val"].device.type == "cpu"
            and node.args[10][1:] == [False, True]
            for node in self.graph.graph_after.graph.nodes
            if node.op == "call_function"
        )

    @functools.cached_property
    def known_before(self) -> set[str]:
        """Names of the nodes of the graph before."""
        return {node.name for node in self.graph.graph_before.graph.nodes}

    @property
    def columns(self) -> str:
        """Widths of the pictures beside each other, so that both have the same scale."""
        return " ".join(f"minmax(0, {picture.width}fr)" for _, picture in self.pictures)

    @property
    def facts(self) -> list[tuple[str, str | Markup]]:
        match = self.match
        rows = (
            human(match.rows).replace(" ", NO_BREAK) if isinstance(match.rows, int) else formula(self.layer.cost.rows)
        )
        size = match.size if match.form == "primal" or match.blocks else rows
        systems = f"{match.count} × " if match.count > 1 else ""
        most = "up to " if match.is_largest else ""
        return [
            ("form", match.form),
            ("system", Markup("{}{}{} × {}").format(systems, most, size, size)),
            ("rows", rows),
            ("features", f"{match.features:,}"),
            ("operator", match.op),
        ]


class _Graph:
    def __init__(self, graph: ExplainedGraph) -> None:
        self.graph, self.number = graph, graph.number
        self.layers = [_Layer(layer, graph) for layer in graph.layers]
        by_name = operator.attrgetter("name")
        for name, call in itertools.groupby(sorted(self.layers, key=by_name), by_name):
            calls = list(call)
            for number, layer in enumerate(calls, start=1):
                layer.tab = f"{name}, call {number}" if len(calls) > 1 else name
        self.findings = [_Finding(item) for item in graph.rejections]
        self.nodes = len(graph.graph_before.graph.nodes)
        self.reason = summarize(graph.break_reason) if graph.break_reason else ""
        self.reason_in_full = graph.break_reason or ""

    @property
    def outcome(self) -> str:
        if self.layers:
            return "rewritten: " + ", ".join(layer.name for layer in self.layers)
        problems = [finding for finding in self.findings if finding.is_problem]
        return "; ".join(f"{finding.name}: {finding.kind}" for finding in problems) or "not changed"

    @property
    def listing(self) -> list[Block]:
        graph = self.graph
        return compare(graph.graph_before.graph, graph.graph_after.graph, graph.naming, dict(graph.input_names))


class _Page:
    """What the template shows."""

    def __init__(self, explanation: ExplanationResult) -> None:
        self.explanation = explanation
        self.graphs = [_Graph(graph) for graph in explanation.graphs]
        self.rewritten = [graph for graph in self.graphs if graph.layers]
        self.findings = [finding for graph in self.graphs for finding in graph.findings]
        self.findings.sort(key=lambda finding: KINDS.index(finding.item.kind))
        self.problems = [finding for finding in self.findings if finding.is_problem]
        self.quiet = [finding for finding in self.findings if not finding.is_problem]

    @property
    def listed(self) -> list[_Graph]:
        """Unchanged graphs whose code is shown, up to ``MOST_LINES`` nodes in all so that a browser stays responsive."""
        left, found = MOST_LINES, []
        for graph in self.graphs:
            if not graph.layers and graph.nodes <= left:
                left -= graph.nodes
                found.append(graph)
        return found

    @property
    def verdict(self) -> str:
        """Colour of the headline: ``"error"``, ``"good"`` or ``"warning"``."""
        if any(finding.severity == "error" for finding in self.problems):
            return "error"
        return "good" if self.rewritten else "warning"

    @property
    def environment(self) -> list[tuple[str, str]]:
        return [(key.replace("_", " "), str(value)) for key, value in self.explanation.environment.items()]


def _quantity(value: sympy.Expr, unit: str) -> _Quantity:
    if not value.is_number:
        return _Quantity("depends on data", "")
    number = int(value)
    return _Quantity(human_bytes(number) if unit == "B" else human(number, unit), f"{number:,} {unit}")
