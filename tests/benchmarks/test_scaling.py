"""The cost model of the shared covariance: what it counts is what is sent, and its numbers are those of the page."""

from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.scaling import ALPHA, BETA, Network, fit, ring, seconds, table, tree
from support.graphs import joint_graph, lam_node
from tract_fx.distributed.agreement import Group
from tract_fx.passes.first_layer import find
from tract_fx.passes.rewrite import apply_shared

PAGE = Path(__file__).parents[2] / "docs" / "results" / "scaling.md"


@pytest.mark.parametrize("groups", [1, 2])
def test_bytes_are_those_of_the_all_reduce_in_the_graph(groups: int) -> None:
    joint = joint_graph(nn.Sequential(nn.Conv2d(4, 6, 3, groups=groups), nn.Tanh()), torch.randn(5, 4, 9, 8))
    (match,) = find(joint, shared=True).matches
    apply_shared(match, lam_node(joint.graph), (Group("a", 2),), joint.first_tangent)
    (sent,) = (node for node in joint.graph.nodes if node.target is torch.ops._c10d_functional.all_reduce.default)
    value = sent.meta["val"]
    assert Network("", 0, 4 // groups * 9, groups).covariance_bytes == value.numel() * value.dtype.itemsize


def test_a_fit_finds_the_numbers_that_made_the_times() -> None:
    sizes = (8, 8_000, 8_000_000)
    alpha, beta = fit(sizes, [ring(size, 4, 3e-5, 2e9) for size in sizes], 4)
    assert alpha == pytest.approx(3e-5)
    assert beta == pytest.approx(2e9)


def test_limits_of_the_formulas() -> None:
    """A small message costs latencies, of which the tree has fewer; of a large one the ring sends no more than needed."""
    assert seconds(8, 4096) == tree(8, 4096, ALPHA, BETA) == pytest.approx(24 * ALPHA, rel=1e-3)
    assert seconds(10**12, 8) == ring(10**12, 8, ALPHA, BETA) == pytest.approx(2 * 7 / 8 * 10**12 / BETA, rel=1e-3)
    assert seconds(10**6, 1) == 0


def test_the_page_has_the_table_of_the_script() -> None:
    assert table(ALPHA, BETA) in PAGE.read_text()
