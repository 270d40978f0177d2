"""A transposed convolution is several ordinary ones, whose gradients together are the reference's."""

import math

import pytest
import torch
from torch import Tensor, nn

from support.oracle import error, layer_gradient
from support.transposed_shapes import LAYERS
from tract_fx.ops.gram import gram
from tract_fx.ops.operands import layer_operands
from tract_fx.ops.patches import PatchGeometry
from tract_fx.ops.transposed import TransposedGeometry, as_convolution, parts_of, swap_channels
from tract_fx.reference import transposed_conv_rows

LAM = 0.1


def geometry_of(layer: nn.Module) -> TransposedGeometry:
    return TransposedGeometry(
        layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups, layer.output_padding
    )


def case(name: str) -> tuple[nn.Module, TransposedGeometry, Tensor, Tensor]:
    """A layer, its geometry, and random values of its input and of its output's gradient, with a batch."""
    layer, shape = LAYERS[name]
    x = torch.randn(shape if len(shape) == 2 + len(layer.kernel_size) else (1, *shape))
    with torch.no_grad():
        return layer, geometry_of(layer), x, torch.randn_like(layer(x))


@pytest.mark.parametrize("dual", [False, True], ids=["primal", "dual"])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_the_reference_s(name: str, dual: bool) -> None:
    layer, geometry, x, output_gradient = case(name)
    operands = layer_operands(x, output_gradient, layer.weight.shape, geometry)
    assert geometry.outputs(x.shape[2:]) == tuple(output_gradient.shape[2:])
    assert error(operands.gradient(LAM, dual=dual), layer_gradient(layer, x, output_gradient, LAM)) <= 1e-5


@pytest.mark.parametrize("dual", [False, True], ids=["primal", "dual"])
@pytest.mark.parametrize("name", [name for name in LAYERS if name != "code with output padding"])  # sees nothing
def test_a_relative_lam_is_in_units_of_all_blocks_together(name: str, dual: bool) -> None:
    layer, geometry, x, output_gradient = case(name)
    x = x * torch.linspace(1, 30, x.shape[1]).view(-1, *(1 for _ in layer.kernel_size))  # groups in other units
    operands = layer_operands(x, output_gradient, layer.weight.shape, geometry)
    found = operands.gradient(LAM, dual=dual, relative=True)
    assert error(found, layer_gradient(layer, x, output_gradient, LAM, relative=True)) <= 1e-5


@pytest.mark.parametrize("name", LAYERS)
def test_one_convolution_has_all_rows(name: str) -> None:
    layer, geometry, x, output_gradient = case(name)
    rows = transposed_conv_rows(
        x, layer.kernel_size, layer.groups, stride=layer.stride, padding=layer.padding,
        output_padding=layer.output_padding, dilation=layer.dilation,
    )  # fmt: skip
    wide, ordinary = as_convolution(x, geometry)
    assert error(gram(wide, ordinary), rows.mT @ rows) <= 1e-6
    turned = tuple(range(2, x.dim()))
    found = torch.ops.tract_fx.weight_gradient(wide, output_gradient.flip(turned), *ordinary.arguments())
    weight = found.flatten(0, 1).unflatten(1, (-1, *layer.kernel_size))
    (plain,) = torch.autograd.grad(layer(x), layer.weight, output_gradient)
    assert error(swap_channels(weight, layer.groups), plain) <= 1e-5


# What is solved: (outputs of a phase, features, phases) of each part.
PARTS = {
    "stride 1": [((7, 8), 27, 1)],
    "patches": [((3, 4), 4, 4)],
    "generator": [((5, 4), 16, 1)] * 4,
    "output padding": [((5, 4), 4, 1), ((5, 4), 8, 1), ((5, 3), 8, 1), ((5, 3), 16, 1)],
    "latent code": [((1, 1), 6, 16)],
    "groups": [((5, 6), 12, 1), ((5, 5), 6, 1), ((4, 6), 6, 1), ((4, 5), 3, 1)],
}


@pytest.mark.parametrize("name", PARTS)
def test_systems_are_as_small_as_the_zeros_allow(name: str) -> None:
    layer, geometry, x, _ = case(name)
    found = [
        (part.outputs(x.shape[2:]), part.geometry.features(x.shape[1]), part.phases)
        for part in parts_of(geometry, x.shape[2:])
    ]
    assert sorted(found) == sorted(PARTS[name])
    if layer.padding == (0, 0):
        assert sum(size * phases for _, size, phases in found) == geometry.features(x.shape[1])


def test_a_large_kernel_makes_few_parts() -> None:
    geometry = TransposedGeometry((64, 64), (32, 32), (16, 16), (1, 1), 1, (0, 0))
    parts = parts_of(geometry, (7, 7))
    assert len(parts) <= 9
    assert sum(part.phases for part in parts) == math.prod(geometry.stride)


def test_an_output_that_meets_no_offset() -> None:
    layer = nn.ConvTranspose1d(2, 3, 1, stride=2, padding=1)
    x = torch.randn(4, 2, 2)
    output = layer(x)
    operands = layer_operands(x, torch.ones_like(output), layer.weight.shape, geometry_of(layer))
    assert operands.systems == ()
    assert torch.equal(operands.gradient(LAM, dual=False), torch.zeros(2, 3, 1).double())


def test_an_ordinary_geometry_is_left_alone() -> None:
    x, geometry = torch.randn(2, 3, 5), PatchGeometry((3,), (1,), (0,), (1,), 1)
    assert as_convolution(x, geometry) == (x, geometry)
