"""``lam`` reaches every graph as one float64 node, whether it is an input or had to be compiled in."""

import pytest
import torch
from torch import nn

from support.graphs import joint_graph
from tract_fx import OptionError
from tract_fx.compile.lam_input import LamInput, LamValue

CPU = torch.device("cpu")


def test_without_gradients_there_is_no_input() -> None:
    gm = torch.fx.symbolic_trace(nn.Linear(2, 2))
    assert LamValue(0.3).enter(gm, None) == LamInput(0.3)
    with torch.no_grad():
        assert LamValue(0.3).enter(gm, CPU) == LamInput(0.3)


def test_a_graph_that_dynamo_did_not_make_gets_the_value(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="tract_fx"):
        found = LamValue(0.3).enter(torch.fx.symbolic_trace(nn.Linear(2, 2)), CPU)
    assert found == LamInput(0.3, CPU)
    assert "lam=0.3 is a constant of a graph that Dynamo did not capture" in caplog.text


def test_a_compiled_in_value_is_a_node_that_computes_it() -> None:
    joint = joint_graph(nn.Linear(3, 2), torch.randn(4, 3))
    node = LamInput(0.3).node_in(joint.graph)
    joint.graph.lint()
    assert node.target(*node.args, **node.kwargs) == torch.tensor(0.3, dtype=torch.float64)
    assert (node.meta["val"].dtype, node.meta["val"].shape) == (torch.float64, ())


def test_a_missing_input_is_an_error() -> None:
    joint = joint_graph(nn.Linear(3, 2), torch.randn(4, 3))
    with pytest.raises(LookupError, match="no input _tract_fx_lam"):
        LamInput().node_in(joint.graph)


def test_values_are_checked() -> None:
    value = LamValue(0.3)
    with pytest.raises(OptionError, match=r"lam=0 .*greater than zero"):
        value.value = 0
    assert value.value == 0.3
