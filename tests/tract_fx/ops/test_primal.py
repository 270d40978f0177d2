"""The operator of the primal form on a CPU: sums in float32 where their error is small enough, and nowhere else."""

import math
from unittest import mock

import pytest
import torch
from torch import Tensor

from support.memory import peak_memory
from support.oracle import error
from support.patch_shapes import sliced_patches
from support.photographs import RANGES, photographs
from tract_fx import reference
from tract_fx.ops import primal as module
from tract_fx.ops.cpu import blocks
from tract_fx.ops.cpu.gradient import add_single_gradient
from tract_fx.ops.patches import LINEAR, PatchGeometry
from tract_fx.ops.primal import _primal, primal_gradient_on_cpu

LAM = 0.1
GEOMETRIES = {
    "3x3": (PatchGeometry((3, 3), (1, 1), (1, 1), (1, 1)), 24),
    "4x4/4": (PatchGeometry((4, 4), (4, 4), (0, 0), (1, 1)), 48),
    "7x7/2": (PatchGeometry((7, 7), (2, 2), (3, 3), (1, 1)), 48),
}


def layer(name: str, pixels: str, count: int = 8, outputs: int = 8) -> tuple[Tensor, Tensor, PatchGeometry]:
    geometry, size = GEOMETRIES[name]
    x = photographs(count, size, pixels)
    generator = torch.Generator().manual_seed(1)
    return x, torch.randn(count, outputs, *geometry.outputs(x.shape[2:]), generator=generator), geometry


def expected(x: Tensor, output_gradient: Tensor, geometry: PatchGeometry) -> Tensor:
    rows = sliced_patches(x, geometry)[0].double()
    return reference.primal(rows, output_gradient.transpose(0, 1).flatten(1).T, LAM)


def found(x: Tensor, output_gradient: Tensor, geometry: PatchGeometry) -> Tensor:
    return primal_gradient_on_cpu(x, output_gradient, output_gradient[:, 0].numel(), LAM, geometry)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pixels", RANGES)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_the_error_is_as_promised(name: str, pixels: str, dtype: torch.dtype) -> None:
    x, output_gradient, geometry = layer(name, pixels)
    x, output_gradient = x.to(dtype), output_gradient.to(dtype)
    new = found(x, output_gradient, geometry)
    assert new.dtype == torch.float32
    assert error(new, expected(x, output_gradient, geometry)) <= (1e-5 if dtype == torch.float32 else 1e-4)


def test_more_outputs_than_features_are_as_exact() -> None:
    """The order of the factors follows from the sizes; the estimate belongs to features all the same."""
    x, output_gradient, geometry = layer("3x3", "standardised", outputs=60)
    scale = torch.logspace(-3, 3, 3)[:, None, None]  # features that differ
    x = x * scale
    assert error(found(x, output_gradient, geometry), expected(x, output_gradient, geometry)) <= 1e-5
    (gradient, squares), sums = single_sums(x, output_gradient, geometry), output_gradient.transpose(0, 1).flatten(1)
    rows = sliced_patches(x, geometry)[0]
    assert error(gradient, sums.double() @ rows.double()) <= 1e-6
    parts = [a @ b for a, b in zip(sums.split(512, 1), rows.split(512), strict=True)]
    assert torch.allclose(squares, torch.stack(parts).double().square().sum((0, 1)), rtol=0.1)


def single_sums(x: Tensor, output_gradient: Tensor, geometry: PatchGeometry) -> tuple[Tensor, Tensor]:
    gradient = x.new_zeros(output_gradient.shape[1], geometry.features(x.shape[1]), dtype=torch.float64)
    return gradient, add_single_gradient(gradient, x, output_gradient, geometry)


def sums_in_float64(x: Tensor, output_gradient: Tensor, geometry: PatchGeometry) -> int:
    with mock.patch.object(module, "add_gradient", wraps=module.add_gradient) as exact:
        found(x, output_gradient, geometry)
    return exact.call_count


@pytest.mark.parametrize("name", GEOMETRIES)
def test_float64_is_for_bad_inputs_only(name: str) -> None:
    assert sums_in_float64(*layer(name, "standardised", 32)) == 0
    x, output_gradient, geometry = layer(name, "standardised")
    blurred = torch.nn.functional.avg_pool2d(x, 9, 1, 4) * 255  # neighbours nearly equal: features nearly dependent
    with mock.patch.object(module, "add_single_gradient", wraps=module.add_single_gradient) as tried:
        assert sums_in_float64(blurred, output_gradient, geometry) == 1
    assert not tried.called
    assert error(found(blurred, output_gradient, geometry), expected(blurred, output_gradient, geometry)) <= 1e-5


def test_the_estimate_is_about_the_error() -> None:
    """Neither below what is found, nor so far above that most inputs would be refused."""
    for pixels in RANGES:
        x, output_gradient, geometry = layer("3x3", pixels, 32)
        exact = expected(x, output_gradient, geometry)
        with mock.patch.dict(module.TOLERANCES, {torch.float32: 1e9}):
            single = error(found(x, output_gradient, geometry), exact)
        passing = [
            tolerance
            for tolerance in 2.0 ** torch.arange(-24.0, 0.0)
            if _accepts(x, output_gradient, geometry, tolerance.item())
        ]
        assert single <= passing[0] <= 16 * single


def _accepts(x: Tensor, output_gradient: Tensor, geometry: PatchGeometry, tolerance: float) -> bool:
    with (
        mock.patch.dict(module.TOLERANCES, {torch.float32: tolerance}),
        mock.patch.object(module._System, "_is_hopeless", return_value=False),
    ):
        return sums_in_float64(x, output_gradient, geometry) == 0


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_scales_at_which_squares_leave_float32(scale: float) -> None:
    x, output_gradient, geometry = layer("3x3", "standardised")
    new = found(x, output_gradient * scale, geometry)
    assert error(new.double() / scale, expected(x, output_gradient, geometry)) <= 1e-5


def test_gradients_that_cancel_are_not_thought_small() -> None:
    """Sums over images are zero up to rounding, their parts are not."""
    x, output_gradient, geometry = layer("3x3", "0..255")
    output_gradient = output_gradient - output_gradient.mean((0, 2, 3), keepdim=True)
    assert error(found(x, output_gradient, geometry), expected(x, output_gradient, geometry)) <= 1e-5


def test_gradients_that_nearly_vanish_are_summed_in_float64() -> None:
    """What a regression on the rows leaves: all sums over rows cancel, which no look at the factor tells."""
    x, output_gradient, geometry = layer("3x3", "standardised")
    rows = sliced_patches(x, geometry)[0].double()
    targets = output_gradient.transpose(0, 1).flatten(1).T.double()
    left = targets - rows @ torch.linalg.lstsq(rows, targets).solution
    output_gradient = left.T.reshape(output_gradient.transpose(0, 1).shape).transpose(0, 1).float()
    assert error(found(x, output_gradient, geometry), expected(x, output_gradient, geometry)) <= 1e-5


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_group_has_its_plain_gradient_and_spoils_no_other(value: float) -> None:
    geometry = PatchGeometry((3, 3), (1, 1), (1, 1), (1, 1), groups=3)
    x, output_gradient, _ = layer("3x3", "standardised", outputs=6)
    before = primal_gradient_on_cpu(x, output_gradient, 8 * 24 * 24, LAM, geometry)
    x[0, 1, 5, 5] = value
    after = primal_gradient_on_cpu(x, output_gradient, 8 * 24 * 24, LAM, geometry)
    assert torch.equal(after[::2], before[::2])
    assert not after[1].isfinite().all()


def test_no_gradient_gives_zeros() -> None:
    x, output_gradient, geometry = layer("3x3", "standardised")
    assert not found(x, torch.zeros_like(output_gradient), geometry).any()
    assert not primal_gradient_on_cpu(x[:0], output_gradient[:0], 0, LAM, geometry).any()


def test_where_products_are_not_float32_sums_are_in_float64() -> None:
    with mock.patch.object(module, "is_float32_exact", return_value=False):
        assert sums_in_float64(*layer("3x3", "standardised")) == 1


@pytest.mark.parametrize(("shape", "geometry"), [((3, 96, 96), GEOMETRIES["7x7/2"][0]), ((48,), LINEAR)])
def test_memory_does_not_grow_with_the_batch(shape: tuple[int, ...], geometry: PatchGeometry) -> None:
    lam = torch.tensor(LAM, dtype=torch.float64)

    def held(count: int) -> int:
        x = torch.randn(count, *shape)
        output_gradient = torch.randn(count, 4, *geometry.outputs(shape[1:]))
        rows = output_gradient[:, 0].numel()
        return peak_memory(_primal._init_fn, x, output_gradient, rows, lam, *geometry.arguments())

    large, small = (60, 40) if len(shape) > 1 else (60_000, 20_000)
    with mock.patch.object(blocks, "PADDED_ELEMENTS", 2**19):
        assert held(large) <= 1.1 * held(small)


def test_the_operator_keeps_what_its_registration_says() -> None:
    lam = torch.tensor(LAM, dtype=torch.float64)
    for dtype in (torch.float32, torch.float64):
        x, output_gradient, geometry = layer("3x3", "standardised", 2)
        torch.library.opcheck(_primal, (x.to(dtype), output_gradient.to(dtype), 1152, lam, *geometry.arguments()))
