"""The pass as Inductor sees it: one callable with a key."""

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch._inductor.custom_graph_pass import CustomGraphPass

from support.graphs import joint_graph, lam_node
from tract_fx.passes.first_layer import Findings
from tract_fx.passes.tract_pass import TractPass


class Named(CustomGraphPass):
    """A pass of a user's, with a key."""

    def __call__(self, graph: torch.fx.Graph) -> None:
        graph.seen_by_user = True

    def uuid(self) -> str:
        return "named"


def ignore(findings: Findings) -> None:
    del findings


def make(**arguments: object) -> TractPass:
    return TractPass(
        **{"inputs": (), "layers": "first", "lam": lam_node, "identity": ("a",), "on_findings": ignore, **arguments}
    )


def test_the_key_holds_the_identity_and_those_of_the_user_s_passes() -> None:
    assert make().uuid() == ("a",)
    assert make(before=[Named()]).uuid() == ("a", "named")


@pytest.mark.parametrize("other", [lambda graph: None, type("Keyless", (Named,), {"uuid": lambda self: None})()])
def test_a_user_s_pass_without_a_key_turns_the_caches_off(other: object) -> None:
    assert make(before=[Named(), other]).uuid() is None


def test_the_user_s_passes_run_first_and_findings_come_before_the_change() -> None:
    joint = joint_graph(nn.Sequential(nn.Conv2d(3, 4, 3)), torch.randn(2, 3, 9, 8))
    sizes = []
    before = len(joint.graph.nodes)

    def remember(findings: Findings) -> None:
        sizes.append((len(findings.matches), len(joint.graph.nodes), joint.graph.seen_by_user))

    make(inputs=joint.inputs, on_findings=remember, before=[Named()])(joint.graph)
    assert sizes == [(1, before, True)]
    assert len(joint.graph.nodes) > before


def test_an_error_on_the_findings_leaves_the_graph_as_it_was() -> None:
    joint = joint_graph(nn.Sequential(nn.Conv2d(3, 4, 3)), torch.randn(2, 3, 9, 8))
    before = str(joint.graph)

    def refuse(findings: Findings) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        make(inputs=joint.inputs, on_findings=refuse)(joint.graph)
    assert str(joint.graph) == before


def test_whoever_watches_sees_a_graph_before_and_after_its_change_and_no_other() -> None:
    seen = []

    @contextlib.contextmanager
    def watch(graph: torch.fx.Graph) -> Iterator[None]:
        seen.append(str(graph))
        yield
        graph.lint()
        seen.append(str(graph))

    joint = joint_graph(nn.Sequential(nn.Conv2d(3, 4, 3)), torch.randn(2, 3, 9, 8))
    before = str(joint.graph)
    tract_pass = make(inputs=joint.inputs, watch=watch)
    tract_pass(joint.graph)
    assert seen == [before, str(joint.graph)]
    assert seen[0] != seen[1]
    tract_pass(joint.graph)  # nothing is left to do
    assert len(seen) == 2
