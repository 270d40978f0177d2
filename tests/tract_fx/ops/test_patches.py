"""Rows are what a convolution multiplies: the same numbers, in the order that the layout contract promises."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

from support.generated import examples
from support.patch_shapes import Layer, layers, sliced_patches
from tract_fx.ops.patches import LINEAR, PatchGeometry, unfold_patches

CONVOLUTION = {
    1: torch.nn.functional.conv1d,
    2: torch.nn.functional.conv2d,
    3: torch.nn.functional.conv3d,
}
STEM = PatchGeometry((7, 7), (2, 2), (3, 3), (1, 1))


@examples(150)
@given(layers(), st.integers(0, 2**31))
def test_rows_are_the_values_under_the_kernel(layer: Layer, seed: int) -> None:
    input = torch.randn(layer.shape, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(unfold_patches(input, layer.geometry), sliced_patches(input, layer.geometry))


@examples(60)
@given(layers(), st.integers(0, 2**31))
def test_rows_times_the_weight_are_the_layers_output(layer: Layer, seed: int) -> None:
    """Pins the order of rows and of features: batch before outputs, channel before kernel, groups ahead of both."""
    generator = torch.Generator().manual_seed(seed)
    geometry, dims = layer.geometry, len(layer.geometry.kernel_size)
    # Small integers, so that every order of adding gives the same sum.
    input = torch.randint(-4, 5, layer.shape, generator=generator).double()
    shape = (2 * geometry.groups, layer.shape[1] // geometry.groups, *geometry.kernel_size)
    weight = torch.randint(-4, 5, shape, generator=generator).double()
    if dims == 0:
        output = torch.nn.functional.linear(input, weight)
    else:
        output = CONVOLUTION[dims](
            input, weight, None, geometry.stride, geometry.padding, geometry.dilation, geometry.groups
        )
    rows = unfold_patches(input, geometry)
    expected = output.movedim(1, -1).flatten(0, -2).unflatten(1, (geometry.groups, 2)).movedim(1, 0)
    assert torch.equal(rows @ weight.flatten(1).unflatten(0, (geometry.groups, 2)).mT, expected)


def test_two_dimensional_rows_are_those_of_torch_unfold() -> None:
    input = torch.randn(2, 3, 11, 9)
    geometry = PatchGeometry((3, 2), (2, 1), (1, 4), (2, 3))
    columns = torch.nn.functional.unfold(input, (3, 2), dilation=(2, 3), padding=(1, 4), stride=(2, 1))
    assert torch.equal(unfold_patches(input, geometry)[0], columns.mT.flatten(0, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    assert unfold_patches(torch.ones(1, 3, 8, 8, dtype=dtype), STEM).dtype == dtype


def test_memory_layout_does_not_matter() -> None:
    input = torch.randn(2, 3, 12, 12)
    expected = unfold_patches(input, STEM)
    assert torch.equal(unfold_patches(input.to(memory_format=torch.channels_last), STEM), expected)
    every_other = torch.zeros(2, 6, 24, 12)[:, ::2, ::2].copy_(input)
    assert torch.equal(unfold_patches(every_other, STEM), expected)


def test_features_counts_the_columns() -> None:
    geometry = PatchGeometry((3, 5), (1, 1), (0, 0), (1, 1), groups=2)
    assert geometry.features(6) == 3 * 15 == unfold_patches(torch.ones(1, 6, 5, 5), geometry).shape[-1]
    assert LINEAR.features(7) == 7


@pytest.mark.parametrize(
    ("geometry", "shape"),
    [
        (STEM, (3, 14, 12)),
        (PatchGeometry((3, 3), (1, 2), (1, 1), (2, 1), groups=3), (3, 9, 9)),
        (PatchGeometry((5,), (2,), (2,), (1,)), (1, 20)),
        (PatchGeometry((2, 3, 3), (1, 2, 2), (0, 1, 1), (1, 1, 1)), (2, 4, 8, 8)),
        (LINEAR, (6,)),
    ],
)
def test_one_traced_graph_serves_every_batch_size(geometry: PatchGeometry, shape: tuple[int, ...]) -> None:
    # Tracing takes equal sizes for one and the same symbol: 29 is the size of nothing else.
    traced = make_fx(lambda input: unfold_patches(input, geometry), tracing_mode="symbolic")(torch.randn(29, *shape))
    larger = torch.randn(37, *shape)
    assert torch.equal(traced(larger), sliced_patches(larger, geometry))


def test_a_dynamic_batch_is_not_guarded_on() -> None:
    graphs = 0

    def count(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> torch.fx.GraphModule:
        nonlocal graphs
        graphs += 1
        return graph

    compiled = torch.compile(lambda input: unfold_patches(input, STEM), backend=count, fullgraph=True)
    for index, batch in enumerate((4, 7, 9)):
        input = torch.randn(batch, 3, 12, 12)
        if index == 0:
            torch._dynamo.mark_dynamic(input, 0)
        assert compiled(input).shape == (1, batch * 36, 147)
    assert graphs == 1
