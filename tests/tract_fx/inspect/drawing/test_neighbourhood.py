"""The picture shows every node that the pass has added, edges that are there, and the right side of the passes."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch import nn
from torch.fx import Graph

from support.explained import REWRITTEN, explained
from tract_fx.inspect.drawing.captions import value_of
from tract_fx.inspect.drawing.neighbourhood import Box, Neighbourhood, neighbourhood
from tract_fx.inspect.drawing.picture import draw
from tract_fx.inspect.explanation import ExplainedGraph, ExplainedLayer, explain
from tract_fx.passes.joint_graph import is_backward

SIDES = [False, True]


def sides(name: str, *, after: bool) -> list[tuple[Graph, ExplainedGraph, ExplainedLayer, Neighbourhood]]:
    found = []
    for graph in explained(name).graphs:
        one, other = graph.graph_before.graph, graph.graph_after.graph
        if after:
            one, other = other, one
        known = {node.name for node in other.nodes}
        for layer in graph.layers:
            match = layer.match
            drawn = neighbourhood(one, layer.nodes, match.weight, match.form, known, after=after)
            found.append((one, graph, layer, drawn))
    return found


def boxes_with(drawn: Neighbourhood, status: str) -> list[Box]:
    return [box for box in drawn.boxes.values() if box.status == status]


@pytest.mark.parametrize("name", REWRITTEN)
def test_every_added_node_is_in_one_box_of_one_layer(name: str) -> None:
    drawn = sides(name, after=True)
    for _, graph, _, _ in drawn:
        mine = [what for _, other, _, what in drawn if other is graph]
        inside = [node for what in mine for box in boxes_with(what, "added") for node in box.nodes]
        assert sorted(inside) == sorted(graph.added)


@pytest.mark.parametrize("after", SIDES, ids=["before", "after"])
@pytest.mark.parametrize("name", REWRITTEN)
def test_edges_and_regions_are_those_of_the_graph(name: str, after: bool) -> None:
    for graph, _, layer, drawn in sides(name, after=after):
        nodes = {node.name: node for node in graph.nodes}
        order = list(drawn.boxes)
        for source, target in drawn.edges:
            assert order.index(source) < order.index(target)
            first, second = drawn.boxes[source], drawn.boxes[target]
            if "rest" in (first.kind, second.kind) or second.kind == "result":
                continue
            uses = {item.name for node in second.nodes for item in nodes[node].all_input_nodes}
            assert uses & set(first.nodes)
        for box in drawn.boxes.values():
            regions = {is_backward(nodes[node]) for node in box.nodes if nodes[node].op != "placeholder"}
            assert regions <= {box.backward}
        members = [node for box in drawn.boxes.values() for node in box.nodes]
        assert len(members) == len(set(members))
        assert {layer.nodes.input, layer.nodes.weight, layer.nodes.output} <= set(members)
        gone = after and layer.match.op == "convolution"
        assert (layer.nodes.gradient in members) != gone


@pytest.mark.parametrize("after", SIDES, ids=["before", "after"])
@pytest.mark.parametrize("name", REWRITTEN)
def test_one_result_which_is_reached_from_the_data(name: str, after: bool) -> None:
    """Before through the plain gradient; after the rewrite through the Gram matrix, or the operator of the dual form."""
    for _, _, layer, drawn in sides(name, after=after):
        box = drawn.boxes["result"]
        assert (box.title, box.backward) == (layer.match.weight, True)
        data = next(key for key, item in drawn.boxes.items() if layer.nodes.input in item.nodes)
        through = "tract_fx." if after else layer_operator(layer)
        way = next(key for key, item in drawn.boxes.items() if item.title.startswith(through))
        assert way in reached(drawn, data)
        assert "result" in reached(drawn, way)


def layer_operator(layer: ExplainedLayer) -> str:
    return {"convolution": "convolution_backward", "bmm": "bmm"}.get(layer.match.op, "mm")


def reached(drawn: Neighbourhood, start: str) -> set[str]:
    found = {start}
    for source, target in sorted(drawn.edges, key=lambda edge: list(drawn.boxes).index(edge[0])):
        if source in found:
            found.add(target)
    return found


def test_the_closed_form_reads_like_the_paper() -> None:
    """Where it is not one operator: on any device but a CPU."""
    with mock.patch("tract_fx.ops.operands._is_on_cpu", return_value=False):
        model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Tanh())
        (graph,) = explain(model, torch.randn(4, 3, 9, 8)).graphs
    known = {node.name for node in graph.graph_before.graph.nodes}
    (layer,) = graph.layers
    drawn = neighbourhood(graph.graph_after.graph, layer.nodes, "0.weight", "primal", known, after=True)
    added = [(box.title, box.value) for box in boxes_with(drawn, "added")]
    steps = ["tract_fx.gram_and_gradient", "÷ rows, + λI", "tract_fx.factor_and_solve", "where"]
    assert [title for title, _ in added if title in steps] == steps
    assert dict(added)["÷ rows, + λI"] == "f64[1, 27, 27]"
    assert boxes_with(drawn, "removed") == boxes_with(drawn, "unused") == []


@pytest.mark.parametrize(("slow", "product"), [(False, "bmm"), (True, "tract_fx.weight_gradient")])
def test_the_dual_form_where_it_is_not_one_operator(slow: bool, product: str) -> None:
    """Where float64 is slow, the operator for ``dZᵀX`` computes the last product."""
    with (
        mock.patch("tract_fx.ops.dual._is_on_cpu", return_value=False),
        mock.patch("tract_fx.ops.dual._is_float64_slow", return_value=slow),
    ):
        (graph,) = explain(nn.Sequential(nn.Linear(40, 4), nn.Tanh()), torch.randn(8, 40)).graphs
    known = {node.name for node in graph.graph_before.graph.nodes}
    (layer,) = graph.layers
    drawn = neighbourhood(graph.graph_after.graph, layer.nodes, "0.weight", "dual", known, after=True)
    added = {box.title: box.caption for box in boxes_with(drawn, "added")}
    assert added["tract_fx.factor_and_solve"] == "dZᵀ (XXᵀ / r + λI)⁻¹ by Cholesky"
    assert added[product] == "times X"
    assert "result" in drawn.boxes


def test_the_primal_form_is_one_operator_on_a_cpu() -> None:
    ((_, _, _, drawn),) = sides("primal", after=True)
    (box,) = [box for box in boxes_with(drawn, "added") if box.title == "tract_fx.primal_gradient"]
    assert box.caption == "dZᵀX (C + λI)⁻¹"


def test_the_plain_gradient_of_the_dual_form_is_marked_as_unused() -> None:
    ((_, _, _, drawn),) = sides("dual", after=True)
    (box,) = boxes_with(drawn, "unused")
    assert box.title == "mm"


@pytest.mark.parametrize("name", ["dual", "dual groups"])
def test_the_dual_form_of_all_groups_is_one_operator_with_its_formula(name: str) -> None:
    ((_, _, _, drawn),) = sides(name, after=True)
    (box,) = [box for box in boxes_with(drawn, "added") if box.title == "tract_fx.dual_gradient"]
    assert box.caption == "((XXᵀ / r + λI)⁻¹ dZ)ᵀ X"


class Forecaster(nn.Module):
    """A small linear layer for each of five channels."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = nn.ModuleList(nn.Linear(12, 4) for _ in range(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(torch.cat([layer(x[:, index]) for index, layer in enumerate(self.channels)], 1))


def test_layers_that_are_solved_together_have_pictures_of_their_own() -> None:
    (graph,) = explain(Forecaster(), torch.randn(40, 5, 12)).graphs
    known = {node.name for node in graph.graph_before.graph.nodes}
    assert [layer.match.weight for layer in graph.layers] == [f"channels.{index}.weight" for index in range(5)]
    for layer in graph.layers:
        match = layer.match
        drawn = neighbourhood(graph.graph_after.graph, layer.nodes, match.weight, match.form, known, after=True)
        inside = {node for box in drawn.boxes.values() for node in box.nodes}
        assert any(box.title == "tract_fx.alike_gradients" and box.caption for box in drawn.boxes.values())
        assert {item.nodes.output_gradient for item in graph.layers} & inside == {layer.nodes.output_gradient}
        assert drawn.boxes["result"].value == "f32[4, 12]"
        assert sum(target == "result" for _, target in drawn.edges) == 1


def test_a_removed_cast_is_shown_before() -> None:
    """The plain gradient, which is removed too, has a box with the operator that still computes that of the bias."""
    ((_, graph, layer, drawn),) = sides("autocast", after=False)
    removed = [node for box in boxes_with(drawn, "removed") for node in box.nodes]
    assert [layer.nodes.gradient, *removed] == list(graph.removed)
    assert removed


def test_what_makes_a_weight_of_a_parameter_is_one_box() -> None:
    ((_, _, layer, drawn),) = sides("weight from a parameter", after=False)
    (box,) = [box for box in drawn.boxes.values() if layer.nodes.weight in box.nodes]
    assert box.kind == "chain"
    assert [
        item.title for item in drawn.boxes.values() if item.kind == "input" and item.caption == "the parameter"
    ] == ["stem.weight"]


def test_a_number_of_nodes_stands_for_the_rest() -> None:
    """Every node of the graph is in a box, or counted, or an input or output."""
    graph, _, _, drawn = sides("primal", after=False)[0]
    counted = sum(int(box.caption.split()[0]) for box in drawn.boxes.values() if box.kind == "rest")
    inside = {node for box in drawn.boxes.values() for node in box.nodes}
    calls = [node.name for node in graph.nodes if node.op == "call_function"]
    assert counted == len(set(calls) - inside)


@pytest.mark.parametrize("name", ["primal", "dual groups"])
def test_a_picture_has_every_box_and_every_sign(name: str) -> None:
    ((_, _, _, drawn),) = sides(name, after=True)
    svg = str(draw(drawn, "After <the> pass").svg)
    assert svg.count('<g class="box') == len(drawn.boxes)
    assert svg.count('<circle class="sign"') == len(boxes_with(drawn, "added")) + len(boxes_with(drawn, "unused"))
    assert svg.count('<path class="edge') == len(drawn.edges)
    assert "After &lt;the&gt; pass" in svg
    assert ">forward pass<" in svg
    assert ">backward pass<" in svg


def test_values_are_abbreviated_as_torch_does() -> None:
    graph = explained("autocast").graph_before.graph
    values = {value_of(node).partition("[")[0] for node in graph.nodes}
    assert {"f32", "bf16"} <= values
