"""The dual form on a CPU: within 1e-5 of the closed form in float32 whatever the pixels, mostly by a product in float32."""

import functools
from unittest import mock

import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor

from support.oracle import error
from tract_fx import reference
from tract_fx.ops.cpu import product
from tract_fx.ops.dual import dual_gradient
from tract_fx.ops.patches import LINEAR, PatchGeometry

LAM = 0.1


@functools.cache
def crops(count: int, size: int = 32) -> Tensor:
    """Raw pixels of crops of two photographs, ``(count, 3, size, size)``."""
    images = [torch.tensor(image).permute(2, 0, 1).float() for image in load_sample_images().images]
    generator = torch.Generator().manual_seed(0)
    found = []
    for index in range(count):
        image = images[index % 2]
        top, left = (int(torch.randint(0, length - size, (), generator=generator)) for length in image.shape[1:])
        found.append(image[:, top : top + size, left : left + size])
    return torch.stack(found)


def standardised(count: int) -> Tensor:
    images = crops(count)
    dims = (0, 2, 3)
    return (images - images.mean(dims, keepdim=True)) / images.std(dims, keepdim=True)


SCALES = {
    "standardised": lambda count: standardised(count),
    "-1..1": lambda count: crops(count) / 127.5 - 1,
    "0..1": lambda count: crops(count) / 255,
    "0..255": crops,
    "nearly blank": lambda count: 3 + 1e-3 * standardised(count),
    "every image twice": lambda count: standardised(count)[torch.arange(count) // 2],
    "noise": lambda count: torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1)),
    "1e-30": lambda count: 1e-30 * standardised(count),
    "1e18": lambda count: 1e18 * standardised(count),
}


def output_gradients(rows: Tensor, kind: str) -> Tensor:
    """``dZ``: random, of a loss and so correlated with the rows, or large in a half and small in the other."""
    generator = torch.Generator().manual_seed(2)
    count = len(rows)
    random = torch.randn(count, 64, generator=generator)
    if kind == "random":
        return random
    if kind == "sorted":
        return torch.linspace(-1, 1, count)[:, None] + 0.01 * random
    scale = rows.abs().max() * rows.shape[1] ** 0.5
    first = (rows / scale @ torch.randn(rows.shape[1], 64, generator=generator)).requires_grad_()
    logits = first.relu() @ torch.randn(64, 10, generator=generator) / 8
    loss = torch.nn.functional.cross_entropy(logits, torch.randint(0, 10, (count,), generator=generator))
    return torch.autograd.grad(loss, first)[0]


@pytest.mark.parametrize("kind", ["random", "of a loss", "sorted"])
@pytest.mark.parametrize("count", [16, 128, 400])
@pytest.mark.parametrize("scale", SCALES)
def test_float32_rows_keep_the_promise(scale: str, count: int, kind: str) -> None:
    rows = SCALES[scale](count).flatten(1)
    output_gradient = output_gradients(rows, kind)
    found = dual_gradient(rows, output_gradient[None], count, LAM, LINEAR)[0]
    assert found.dtype == torch.float32
    assert error(found, reference.dual(rows, output_gradient, LAM)) <= 1e-5


@pytest.mark.parametrize("kind", ["random", "of a loss", "sorted"])
@pytest.mark.parametrize("scale", ["standardised", "-1..1", "0..1", "0..255", "noise"])
def test_the_estimated_error_is_that_of_float32(scale: str, kind: str) -> None:
    rows = SCALES[scale](128).flatten(1)
    wide = rows.double()
    kernel = wide @ wide.T
    system = kernel / len(rows) + LAM * torch.eye(len(rows), dtype=torch.float64)
    coefficients = torch.linalg.solve(system, output_gradients(rows, kind).double())
    actual = error(coefficients.float().T @ rows, coefficients.T @ wide)
    assert actual <= product.estimated_error(coefficients, kernel, rows) <= 3 * actual


@pytest.mark.parametrize(("scale", "narrow"), [("standardised", True), ("noise", True), ("nearly blank", False)])
def test_float64_is_used_only_where_it_is_needed(scale: str, narrow: bool) -> None:
    rows = SCALES[scale](128).flatten(1)
    output_gradient = output_gradients(rows, "random")[None]
    in_float32 = dual_gradient(rows, output_gradient, 128, LAM, LINEAR)
    with mock.patch.object(product, "TOLERANCE", -1.0):
        in_float64 = dual_gradient(rows, output_gradient, 128, LAM, LINEAR)
    assert torch.equal(in_float32, in_float64) != narrow


@pytest.mark.parametrize("size", [1e-44, 1e-30, 1e-20, 1e20, 1e35])
def test_output_gradients_near_the_ends_of_float32_lose_nothing(size: float) -> None:
    rows = SCALES["standardised"](64).flatten(1)
    output_gradient = (output_gradients(rows, "random") * size).float()
    found = dual_gradient(rows, output_gradient[None], 64, LAM, LINEAR)[0]
    expected = reference.dual(rows, output_gradient, LAM).float()
    assert found.isfinite().all()
    # What float32 cannot hold is a rounding of the result.
    assert (found - expected).double().norm() <= 1e-5 * expected.double().norm() + 1e-44 * expected.numel() ** 0.5


def test_less_exact_products_that_a_user_asks_for_are_not_used() -> None:
    rows = SCALES["standardised"](64).flatten(1)
    output_gradient = output_gradients(rows, "random")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        found = dual_gradient(rows, output_gradient[None], 64, LAM, LINEAR)[0]
    finally:
        torch.set_float32_matmul_precision(before)
    assert error(found, reference.dual(rows, output_gradient, LAM)) <= 1e-7


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_and_groups(dtype: torch.dtype) -> None:
    input = standardised(8)[:, [0, 1, 2, 0]].to(dtype)
    geometry = PatchGeometry((16, 16), (16, 16), (0, 0), (1, 1), groups=2)
    output_gradient = torch.randn(2, 32, 6, generator=torch.Generator().manual_seed(0))
    found = dual_gradient(input, output_gradient, 32, LAM, geometry)
    expected = torch.stack(
        [
            reference.dual(rows, outputs, LAM)
            for rows, outputs in zip(
                reference.conv_rows(input, (16, 16), 2, stride=16, padding=0, dilation=1), output_gradient, strict=True
            )
        ]
    )
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert error(found, expected) <= (1e-12 if dtype == torch.float64 else 1e-5)


def test_the_operator_is_well_formed() -> None:
    lists = [[16, 16], [16, 16], [0, 0], [1, 1], 1]
    lam = torch.tensor(LAM, dtype=torch.float64)
    torch.library.opcheck(
        torch.ops.tract_fx.dual_gradient.default, (standardised(2), torch.randn(1, 8, 5), 8, lam, *lists)
    )
