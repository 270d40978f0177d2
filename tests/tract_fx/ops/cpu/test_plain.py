"""Patches of several outputs at once have the Gram matrix of the patches, to the last bit where sums are exact."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support.patch_shapes import sliced_patches
from tract_fx.ops.cpu.plain import write_tiled
from tract_fx.ops.cpu.selection import MOST_TILE_FEATURES, select_tile
from tract_fx.ops.patches import PatchGeometry


@st.composite
def tiled_layers(draw: st.DrawFn) -> tuple[tuple[int, ...], PatchGeometry, tuple[int, ...]]:
    """Shapes of inputs in one to three dimensions, geometries, and tiles that divide the outputs."""
    dims = draw(st.integers(1, 3))
    axes, tile = [], []
    for _ in range(dims):
        kernel, stride = draw(st.integers(1, (9, 5, 3)[dims - 1])), draw(st.integers(1, 4))
        tile.append(draw(st.integers(1, 3)))
        outputs = tile[-1] * draw(st.integers(1, 3))
        padding = draw(st.integers(0, min(kernel - 1, (outputs - 1) * stride // 2)))
        unused = draw(st.integers(0, stride - 1))
        axes.append((kernel + (outputs - 1) * stride + unused - 2 * padding, kernel, stride, padding, 1))
    sizes, *geometry = zip(*axes, strict=True)
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 3)), *(max(size, 1) for size in sizes))
    return shape, PatchGeometry(*geometry), tuple(tile)


def gram_of_tiles(input: torch.Tensor, geometry: PatchGeometry, tile: tuple[int, ...]) -> torch.Tensor:
    features = geometry.features(input.shape[1])
    matrix = torch.empty(features, features, dtype=torch.float64)
    write_tiled(matrix, input, geometry, tile)
    return matrix


@settings(max_examples=80, deadline=None)
@given(tiled_layers(), st.booleans(), st.integers(0, 2**31))
def test_tiles_change_nothing(
    layer: tuple[tuple[int, ...], PatchGeometry, tuple[int, ...]], broken: bool, seed: int
) -> None:
    shape, geometry, tile = layer
    generator = torch.Generator().manual_seed(seed)
    input = torch.randint(0, 256, shape, generator=generator).float()
    if broken:
        input.view(-1)[int(torch.randint(0, input.numel(), (), generator=generator))] = math.nan
    rows = sliced_patches(input, geometry)[0].double()
    found = gram_of_tiles(input, geometry, tile)
    assert torch.equal(found.isnan(), (rows.mT @ rows).isnan())
    assert torch.equal(found.nan_to_num(), (rows.mT @ rows).nan_to_num())


@pytest.mark.parametrize(
    ("shape", "geometry", "several"),
    [
        ((32, 3, 32, 32), PatchGeometry((3, 3), (1, 1), (1, 1), (1, 1)), True),
        ((64, 1, 28, 28), PatchGeometry((5, 5), (1, 1), (0, 0), (1, 1)), True),
        ((4, 3, 8, 32, 32), PatchGeometry((3, 5, 5), (1, 2, 2), (1, 2, 2), (1, 1, 1)), True),
        ((32, 3, 32, 32), PatchGeometry((3, 3), (1, 1), (2, 2), (2, 2)), False),
        ((16, 3, 224, 224), PatchGeometry((16, 16), (16, 16), (0, 0), (1, 1)), False),
        ((2, 3, 2, 2), PatchGeometry((3, 3), (1, 1), (0, 0), (1, 1)), False),
        ((32, 64), PatchGeometry(), False),
    ],
)
def test_outputs_are_taken_together_where_patches_overlap(
    shape: tuple[int, ...], geometry: PatchGeometry, several: bool
) -> None:
    tile = select_tile(shape, geometry)
    assert (math.prod(tile) > 1) == several
    assert geometry.tiled(tile).features(shape[1]) <= max(MOST_TILE_FEATURES, geometry.features(shape[1]))
    assert all(
        outputs % count == 0 for outputs, count in zip(geometry.outputs(shape[2:]), tile, strict=True) if several
    )
