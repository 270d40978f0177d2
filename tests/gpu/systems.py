"""Small systems on a GPU: the kernel is right, and the operator chooses between it and the library."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from support.oracle import error
from support.patch_shapes import sliced_patches
from support.photographs import photographs
from tract_fx.ops.gpu import small_systems
from tract_fx.ops.gpu.small_systems import eliminated
from tract_fx.ops.patches import PatchGeometry
from tract_fx.ops.solve import by_library, factor_and_solve, regularise

# A kernel that is not used would pass every test here.
pytestmark = pytest.mark.filterwarnings("error::tract_fx.TractWarning")

LAYERS = {"n = 27": (3, 1, 64), "n = 48": (4, 4, 384), "n = 12": (2, 2, 5)}


def system(name: str, pixels: str = "standardised") -> tuple[Tensor, Tensor]:
    """Two groups: regularised covariances of patches of photographs, and gradients."""
    kernel, stride, outputs = LAYERS[name]
    images = torch.cat([photographs(8, 32, pixels, seed) for seed in range(2)], 1)
    geometry = PatchGeometry((kernel,) * 2, (stride,) * 2, (0,) * 2, (1,) * 2, 2)
    rows = sliced_patches(images, geometry).double().to("cuda")
    noise = torch.randn(2, outputs, rows.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return regularise(rows.mT @ rows / rows.shape[1], 0.1), noise.to("cuda") @ rows


@pytest.mark.parametrize("pixels", ["standardised", "0..255"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_kernel_is_as_exact_as_the_library(name: str, pixels: str) -> None:
    matrix, gradient = system(name, pixels)
    found, info = eliminated(matrix, gradient)
    assert not info.any()
    assert error(found, torch.linalg.solve(matrix, gradient, left=False)) <= (1e-12 if pixels != "0..255" else 1e-9)


@pytest.mark.parametrize("size", [1, 16, 17, 32, 33, 64])
def test_every_size(size: int) -> None:
    rows = torch.randn(3, 2 * size, size, dtype=torch.float64, device="cuda")
    matrix, gradient = rows.mT @ rows + torch.eye(size, device="cuda"), torch.randn_like(rows)
    found, info = eliminated(matrix, gradient)
    assert not info.any()
    assert error(found, torch.linalg.solve(matrix, gradient, left=False)) <= 1e-12


def test_a_group_that_fails_says_so() -> None:
    matrix, gradient = system("n = 27")
    matrix[1, 13, 13] = -1.0
    for solve in (eliminated, by_library, factor_and_solve):
        assert (solve(matrix, gradient)[1] != 0).tolist() == [False, True]


@pytest.mark.parametrize("name", LAYERS)
def test_the_operator_has_made_a_choice_and_waits_for_nothing(name: str) -> None:
    matrix, gradient = system(name)
    expected = torch.linalg.solve(matrix, gradient, left=False)
    assert error(factor_and_solve(matrix, gradient)[0], expected) <= 1e-12
    assert (matrix.device, *gradient.shape) in small_systems._kept()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found, _ = factor_and_solve(matrix, gradient)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert error(found, expected) <= 1e-12


@pytest.mark.parametrize("solve", [eliminated, by_library, factor_and_solve])
def test_a_captured_graph_replays_it(solve: Callable[..., tuple[Tensor, Tensor]]) -> None:
    matrix, gradient = system("n = 48")
    solve(matrix, gradient)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found, info = solve(matrix, gradient)
    gradient.copy_(gradient.flip(1).clone())
    graph.replay()
    assert not info.any()
    assert error(found, torch.linalg.solve(matrix, gradient, left=False)) <= 1e-12
