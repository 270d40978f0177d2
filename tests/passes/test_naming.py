"""Names of parameters and layers as the user knows them."""

import pytest
import torch
from torch import nn

from support.graphs import joint_graph
from tract_fx.passes.joint_graph import operator_of
from tract_fx.passes.naming import Naming, root_variable


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("L['self']._modules['blk']._modules['0']._parameters['weight']", "blk.0.weight"),
        ("L['self']._modules['ml']._modules['0']._modules['parametrizations']._modules['weight']._parameters['original0']",
         "ml.0.parametrizations.weight.original0"),
        ("L['self']._modules['_orig_mod']._modules['conv']._parameters['weight']", "conv.weight"),
        ("L['self']._modules['a b']._buffers['mean']", "a b.mean"),
        ("L['self'].plain[0]._parameters['bias']", "plain[0].bias"),
        ("G['net']._parameters['w']", "net.w"),
        ("G['w']", "w"),
        ("L['x']", "x"),
        ("L['batch']['image']", "batch['image']"),
        ("L['args'][0]", "args[0]"),
        ("something else", "something else"),
    ],
)  # fmt: skip
def test_names_are_those_that_users_know(source: str, name: str) -> None:
    assert Naming().of_source(source) == name


def test_the_root_and_the_prefix() -> None:
    source = "L['net']._modules['conv']._parameters['weight']"
    assert root_variable(source) == "net"
    assert root_variable("something else") is None
    assert Naming().of_source(source) == "net.conv.weight"
    assert Naming("net").of_source(source) == "conv.weight"
    assert Naming("net", "outer.inner").of_source(source) == "outer.inner.conv.weight"


def test_layers() -> None:
    joint = joint_graph(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh()), torch.randn(2, 3, 9, 8))
    (convolution,) = (node for node in joint.forward_nodes if operator_of(node) == "convolution")
    assert joint.naming.of_layer(convolution) == "0"
    assert Naming(joint.naming.root, "backbone").of_layer(convolution) == "backbone.0"
    convolution.meta.pop("nn_module_stack")
    assert joint.naming.of_layer(convolution) == ""
