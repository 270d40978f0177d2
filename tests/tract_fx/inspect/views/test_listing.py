"""The listing is both graphs, and nothing else."""

from __future__ import annotations

import re

import pytest

from support.explained import REWRITTEN, explained
from tract_fx.inspect.explanation import ExplainedGraph
from tract_fx.inspect.views.listing import CONTEXT, Block, compare


def text_of(code: str) -> str:
    return re.sub(r"<[^>]*>", "", code)


def listings(name: str) -> list[tuple[ExplainedGraph, list[Block]]]:
    graphs = explained(name).graphs
    return [(graph, compare(graph.graph_before.graph, graph.graph_after.graph, graph.naming)) for graph in graphs]


@pytest.mark.parametrize("name", REWRITTEN)
def test_each_side_is_complete_and_in_order(name: str) -> None:
    for graph, blocks in listings(name):
        lines = [line for block in blocks for line in block.lines]
        for module, numbers in (
            (graph.graph_before, [line.before for line in lines if line.change != "added"]),
            (graph.graph_after, [line.after for line in lines if line.change != "removed"]),
        ):
            assert numbers == list(range(1, len(numbers) + 1))
            shown = [line for line in lines if (line.before if module is graph.graph_before else line.after)]
            names = [text_of(line.code).partition(":")[0].split(" ")[0] for line in shown]
            expected = ["return" if node.op == "output" else node.name for node in module.graph.nodes]
            assert [item for item in names if item != "#"] == expected


@pytest.mark.parametrize("name", REWRITTEN)
def test_marked_are_added_and_removed_nodes_and_those_with_other_arguments(name: str) -> None:
    for graph, blocks in listings(name):
        lines = [line for block in blocks for line in block.lines]
        marked: dict[str, set[str]] = {"added": set(), "removed": set(), "same": set()}
        for line in lines:
            if not line.code.startswith('<span class="c"'):  # a comment
                marked[line.change].add(text_of(line.code).partition(":")[0])
        assert set(graph.added) <= marked["added"]
        assert set(graph.removed) <= marked["removed"]
        arguments = {node.name: str(node.args) for node in graph.graph_before.graph.nodes if node.op != "output"}
        for other in marked["added"] - set(graph.added):
            if not other.startswith("return"):
                after = next(node for node in graph.graph_after.graph.nodes if node.name == other)
                assert str(after.args) != arguments[other]


def test_only_what_is_far_from_a_change_is_folded() -> None:
    ((_, blocks),) = listings("primal")
    for at, block in enumerate(blocks):
        if block.folded:
            assert all(line.change == "same" for line in block.lines)
            near = [other for other in blocks[max(0, at - 1) : at + 2] if other is not block]
            assert all(len(other.lines) == CONTEXT for other in near)
    assert any(block.folded for block in blocks)


def test_a_graph_that_is_not_changed_is_one_folded_block() -> None:
    _, blocks = listings("breaks")[1]
    assert [block.folded for block in blocks] == [True]


def test_modules_and_regions_are_told() -> None:
    ((_, blocks),) = listings("primal")
    lines = [line for block in blocks for line in block.lines]
    comments = [text_of(line.code) for line in lines if line.code.startswith('<span class="c">#')]
    assert "# 0 (Conv2d)" in comments
    assert "# 0 (Conv2d), backward" in comments
    by_name = {text_of(line.code).partition(":")[0]: line.region for line in lines}
    assert by_name["convolution"] == "forward"
    assert by_name["convolution_backward"] == "backward"


def test_parameters_have_their_names() -> None:
    (graph,) = explained("stems").graphs
    arguments = graph.graph_before.graph, graph.graph_after.graph, graph.naming, dict(graph.input_names)
    text = "\n".join(text_of(line.code) for block in compare(*arguments) for line in block.lines)
    assert "primals_" not in text
    for match in graph.matches:
        assert f"{match.weight}: " in text  # where it comes in
        assert re.search(rf"\(.*\b{re.escape(match.weight)}\b.*\)", text)  # where it is used
