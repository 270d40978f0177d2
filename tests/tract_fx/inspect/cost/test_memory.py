"""What the covariance holds is bounded, for every way to it, and not by much more than it is."""

from __future__ import annotations

import pytest
import sympy
import torch

from support.memory import peak_memory
from tract_fx.inspect.cost.memory import WIDEST_STEP, gram_memory
from tract_fx.ops import gram
from tract_fx.ops.cpu.blocks import MOST_STEPS, row_steps
from tract_fx.ops.cpu.selection import is_spectral_possible, is_toeplitz_possible
from tract_fx.ops.patches import LINEAR, PatchGeometry, unfold_patches

# Shape, geometry.
CASES = {
    "7x7": ((8, 3, 64, 64), PatchGeometry((7, 7), (2, 2), (3, 3), (1, 1))),
    "7x7, large": ((8, 3, 224, 224), PatchGeometry((7, 7), (2, 2), (3, 3), (1, 1))),
    "3x3": ((8, 3, 112, 112), PatchGeometry((3, 3), (2, 2), (1, 1), (1, 1))),
    "patches": ((2, 3, 224, 224), PatchGeometry((16, 16), (16, 16), (0, 0), (1, 1))),
    "groups": ((8, 8, 32, 32), PatchGeometry((5, 5), (1, 1), (2, 2), (1, 1), 4)),
    "11x11": ((4, 3, 128, 128), PatchGeometry((11, 11), (4, 4), (2, 2), (1, 1))),
    "dilated": ((8, 3, 32, 32), PatchGeometry((3, 3), (1, 1), (1, 1), (2, 2))),
    "1d": ((8, 1, 4000), PatchGeometry((10,), (5,), (3,), (1,))),
    "3d": ((2, 2, 8, 32, 32), PatchGeometry((3, 5, 5), (1, 2, 2), (1, 2, 2), (1, 1, 1))),
    "linear": ((500, 700), LINEAR),
}


def possible_ways(shape: tuple[int, ...], geometry: PatchGeometry) -> list[str]:
    if not geometry.kernel_size:
        return ["plain"]
    ways = [("toeplitz", is_toeplitz_possible), ("spectral", is_spectral_possible)]
    return ["plain", *(way for way, is_possible in ways if is_possible(shape, geometry))]


def peaks(shape: tuple[int, ...], geometry: PatchGeometry, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of every way that is possible."""
    x, found = torch.randn(shape), []
    lists = map(list, (geometry.kernel_size, geometry.stride, geometry.padding, geometry.dilation))
    arguments = (x, *lists, geometry.groups)
    for way in possible_ways(shape, geometry):
        monkeypatch.setattr(gram, "select_algorithm", lambda shape, geometry, way=way: way)
        found.append(peak_memory(gram.patch_gram._init_fn, *arguments))
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_bound_holds_for_every_way_and_is_near(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, geometry = CASES[name]
    groups, rows, features = (
        unfold_patches(torch.empty(shape, device="meta"), geometry).shape if geometry.kernel_size else (1, *shape)
    )
    assert groups == geometry.groups
    sizes = [sympy.Integer(size) for size in shape]
    bound = gram_memory(sizes, geometry, sympy.Integer(rows), sympy.Integer(features), 4, "cpu")
    measured = max(peaks(shape, geometry, monkeypatch))
    # A block of a megabyte of numbers is assumed to be full.
    assert measured <= bound <= 2 * measured + 2**23


def test_sizes_that_are_symbols_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    shape, geometry = CASES["7x7, large"]
    symbols = sympy.symbols("batch height width", positive=True, integer=True)
    batch, height, width = symbols
    rows = batch * ((height - 1) // 2 + 1) * ((width - 1) // 2 + 1)
    bound = gram_memory((batch, sympy.Integer(3), height, width), geometry, rows, sympy.Integer(147), 4, "cpu")
    assert bound.free_symbols == set(symbols)
    values = dict(zip(symbols, (shape[0], *shape[2:]), strict=True))
    assert bound.subs(values) >= max(peaks(shape, geometry, monkeypatch))


def test_a_large_batch_takes_no_more_memory() -> None:
    """Images follow one another: the memory of a batch of any size is that of a few."""
    _, geometry = CASES["7x7"]
    batch = sympy.Symbol("batch", positive=True, integer=True)
    spatial = [sympy.Integer(3), sympy.Integer(64), sympy.Integer(64)]
    bound = gram_memory((batch, *spatial), geometry, batch * 1024, sympy.Integer(147), 4, "cpu")
    assert bound.subs(batch, 10**6) == bound.subs(batch, 10**7)


def test_kernels_on_a_gpu_have_a_workspace() -> None:
    _, geometry = CASES["7x7"]
    sizes = [sympy.Integer(size) for size in (8, 3, 64, 64)]
    bound = gram_memory(sizes, geometry, sympy.Integer(8192), sympy.Integer(147), 4, "cuda")
    assert bound >= 8 * 147**2 + 2**25


def test_the_widest_range_of_rows_is_that_of_the_algorithm() -> None:
    ranges = [list(row_steps(size)) for size in range(1, 2000)]
    widths = [rows.stop - rows.start for steps in ranges if len(steps) < MOST_STEPS for rows in steps]
    assert 0 <= WIDEST_STEP - max(widths) <= 1
