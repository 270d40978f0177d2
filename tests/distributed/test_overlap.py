"""The all-reduce starts where the backward pass begins, and is awaited where the factorisation needs it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch._inductor.utils import run_and_get_code
from torch.fx import Node
from torch.testing._internal.distributed.fake_pg import FakeStore

from support.graphs import joint_graph, lam_node
from support.marks import codegen
from support.works import works
from tract_fx import compat, tract_backend
from tract_fx.distributed.agreement import Group
from tract_fx.passes.first_layer import find
from tract_fx.passes.joint_graph import JointGraph, is_backward
from tract_fx.passes.rewrite import apply_shared

aten, functional = torch.ops.aten, torch.ops._c10d_functional
AWAIT = torch.ops.tract_fx.await_sums.default
GROUPS = (Group("a group", 2),)


OWN_GRADIENT = torch.ops.tract_fx.weight_gradient.default


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(100, 2))


def shared(groups: tuple[Group, ...] = GROUPS, dtype: torch.dtype = torch.float32, **arguments: Any) -> JointGraph:
    joint = joint_graph(network().to(dtype), torch.randn(4, 3, 9, 8, dtype=dtype), **arguments)
    (match,) = find(joint, shared=True).matches
    apply_shared(match, lam_node(joint.graph), groups, joint.first_tangent)
    joint.graph.lint()
    return joint


def positions(graph: torch.fx.Graph, target: object) -> list[int]:
    return [index for index, node in enumerate(graph.nodes) if node.target is target]


@pytest.mark.parametrize("arguments", [{}, {"inductor": False}, {"dynamic": True}], ids=["inductor", "aot", "dynamic"])
def test_communication_lies_over_the_whole_backward_pass(arguments: dict[str, bool]) -> None:
    graph = shared(**arguments).graph
    (start,), (wait,) = positions(graph, functional.all_reduce.default), positions(graph, AWAIT)
    (solve,) = positions(graph, torch.ops.tract_fx.factor_and_solve.default)
    convolutions = positions(graph, aten.convolution_backward.default)
    products = [index for index in positions(graph, aten.mm.default) if is_backward(list(graph.nodes)[index])]
    (own,) = positions(graph, OWN_GRADIENT)
    assert len(convolutions) == 2  # that of the first layer still computes the gradient of its bias
    assert start < min(*convolutions, *products, own)
    assert max(*convolutions, *products, own) < wait < solve


def test_all_of_it_is_backward_and_stays_there() -> None:
    joint = shared()
    agree = next(node for node in joint.graph.nodes if node.target is torch.ops.tract_fx.agree.default)
    assert joint.first_tangent in agree.all_input_nodes
    pending, seen = [agree], set()
    while pending:
        node = pending.pop()
        if node.op != "output" and node not in seen:
            seen.add(node)
            pending.extend(node.users)
    assert {functional.all_reduce.default, AWAIT} <= {node.target for node in seen}
    for node in joint.graph.nodes:
        if "tract_fx" in str(node.target) or "_c10d_functional" in str(node.target):
            assert is_backward(node)
            assert node.meta["val"] is not None
            assert node.meta["seq_nr"] is not None


def test_the_partitioner_keeps_that_order() -> None:
    """What does not depend on the gradients of outputs, the partitioner moves to where it is used."""
    joint = joint_graph(network(), torch.randn(4, 3, 9, 8))
    captured: list[Node] = []
    module = torch.fx.GraphModule(nn.Module(), joint.graph)
    (match,) = find(joint, shared=True).matches
    apply_shared(match, lam_node(joint.graph), GROUPS, joint.first_tangent)
    outputs = len(joint.graph.output_node().args[0])
    forward_outputs = outputs - sum(
        isinstance(desc, compat.GradAOTOutput) or desc is None for desc in descriptors(joint)
    )
    module.recompile()
    inputs = [node.meta["val"] for node in joint.graph.find_nodes(op="placeholder")]
    forward, backward = compat.min_cut_rematerialization_partition(
        module,
        inputs,
        num_fwd_outputs=forward_outputs,
        static_lifetime_input_indices=[],
    )
    assert not [node for node in forward.graph.nodes if "tract_fx" in str(node.target)]
    captured = [node for node in backward.graph.nodes if node.op == "call_function"]
    names = [node.target for node in captured]
    start, wait = names.index(functional.all_reduce.default), names.index(AWAIT)
    between = names[start:wait]
    assert between.count(aten.convolution_backward.default) == 2
    assert OWN_GRADIENT in between
    assert aten.mm.default in between


def descriptors(joint: JointGraph) -> list[Any]:
    return list(joint.graph.output_node().meta["desc"])


def test_hsdp_has_two_sums_and_float64_a_common_scale_first() -> None:
    graph = shared((Group("a", 2), Group("b", 4)), torch.float64).graph
    reductions = [node.args[1:] for node in graph.nodes if node.target is functional.all_reduce.default]
    assert reductions == [("max", "a"), ("max", "b"), ("sum", "a"), ("sum", "b")]


@pytest.fixture
def simulated() -> Iterator[distributed.ProcessGroup]:
    """A group whose other rank does not exist."""
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield distributed.group.WORLD
    distributed.destroy_process_group()


@works("processes")
@codegen
def test_generated_code_has_that_order(simulated: distributed.ProcessGroup) -> None:
    """Inductor sorts kernels anew, by the memory they need."""
    model = torch.compile(network(), backend=tract_backend(process_group=simulated))
    x = torch.randn(4, 3, 9, 8)
    with torch._inductor.config.patch(fx_graph_cache=False):
        _, codes = run_and_get_code(lambda: model(x).sum().backward())
    lines = [line for line in codes[-1].splitlines() if not line.lstrip().startswith("#")]

    def line_of(text: str) -> list[int]:
        return [index for index, line in enumerate(lines) if text in line]

    (start,), (wait,) = line_of("all_reduce_.default("), line_of("await_sums.default(")
    first, last = line_of("convolution_backward.default(")
    (solve,) = line_of("factor_and_solve.default(")
    assert start < first < last < wait < solve
