"""The dual form as GPUs compute it on which float64 is slow; ``test_kernels.py`` runs this in Triton's interpreter."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from support import interpreter
from support.oracle import error
from support.patch_shapes import sliced_patches
from support.photographs import RANGES, photographs
from tract_fx.ops import dual, gradient, gram
from tract_fx.ops.gpu import configs, launch, verification
from tract_fx.ops.gpu.launch import Device
from tract_fx.ops.patches import LINEAR, PatchGeometry

assert os.environ.get("TRITON_INTERPRET") == "1", "run by test_kernels.py"
interpreter.repair()

LAM = 0.1
SLOW = Device(2, (8, 9))
# Of the gradient: with products of float32 numbers in X X^T, what these lack is divided by small eigenvalues.
BOUNDS = {**dict.fromkeys(RANGES, 2e-4), "nearly blank": 5e-3, "noise": 1e-6}
# What the last product adds to that.
PRODUCT_BOUNDS = {**dict.fromkeys(RANGES, 1e-5), "0..255": 5e-5, "nearly blank": 5e-3, "noise": 1e-6}

# The interpreter takes seconds for each; outputs that are sorted cancel most on images that are alike.
CASES = [*((kind, "random") for kind in BOUNDS), ("standardised", "sorted"), ("nearly blank", "sorted")]


def rows_of(kind: str, count: int = 24, size: int = 10) -> Tensor:
    """Flattened images, ``(count, 3 * size * size)``."""
    if kind == "noise":
        return torch.randn(count, 3 * size * size, generator=torch.Generator().manual_seed(1))
    images = photographs(count, size, "standardised" if kind == "nearly blank" else kind)
    return (3 + 1e-3 * images if kind == "nearly blank" else images).flatten(1)


def output_gradients(count: int, kind: str = "random") -> Tensor:
    random = torch.randn(count, 20, generator=torch.Generator().manual_seed(2))
    return random if kind == "random" else torch.linspace(-1, 1, count)[:, None] + 0.01 * random


def closed_form(rows: Tensor, outputs: Tensor) -> Tensor:
    """In float64, by elimination with pivots."""
    rows, outputs = rows.double(), outputs.double()
    kernel = rows @ rows.T / len(rows) + LAM * torch.eye(len(rows), dtype=torch.float64)
    return torch.linalg.solve(kernel, outputs).T @ rows


@pytest.fixture(autouse=True)
def a_device_with_slow_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter stands in for it, and nothing is measured there."""

    def measure(call: Callable[[], object], quantiles: tuple[float, ...]) -> list[float]:
        call()
        return [1.0] * len(quantiles)

    checked: dict[Any, Any] = {}
    monkeypatch.setattr(configs, "measure", measure)
    kernels = launch._kernels.__wrapped__()  # which look for it now
    monkeypatch.setattr(launch, "_kernels", lambda: kernels)
    monkeypatch.setattr(verification, "_checked", lambda: checked)
    monkeypatch.setattr(Device, "of", classmethod(lambda cls, tensor: SLOW))
    monkeypatch.setattr(dual, "_is_on_cpu", lambda tensor: False)
    monkeypatch.setattr(dual, "_is_float64_slow", lambda patches: patches.dtype != torch.float64)
    for module in (gradient, gram):
        monkeypatch.setattr(module, "is_triton_usable", lambda tensor: True)
    yield
    assert None not in checked.values()


@pytest.mark.parametrize(("kind", "outputs"), CASES)
def test_photographs(kind: str, outputs: str) -> None:
    rows, dZ = rows_of(kind), output_gradients(24, outputs)
    found = dual.dual_gradient(rows, dZ[None], 24, LAM, LINEAR)[0]
    assert error(found, closed_form(rows, dZ)) <= BOUNDS[kind]


@pytest.mark.parametrize(("kind", "outputs"), CASES)
def test_the_last_product(kind: str, outputs: str) -> None:
    """With the coefficients of the closed form."""
    rows = rows_of(kind).double()
    kernel = rows @ rows.T / len(rows) + LAM * torch.eye(len(rows), dtype=torch.float64)
    coefficients = torch.linalg.solve(kernel, output_gradients(24, outputs).double()).T
    found = dual._multiplied_in_float32(coefficients[None], rows.float()[None])[0]
    assert found.dtype == torch.float64
    assert error(found, coefficients @ rows.float().double()) <= PRODUCT_BOUNDS[kind]
    assert next(iter(verification._checked())) is not None, "by the kernel"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_rows_are_widened_first(dtype: torch.dtype) -> None:
    coefficients = torch.randn(1, 20, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    patches = rows_of("noise").to(dtype)
    found = dual._multiplied_in_float32(coefficients, patches[None])
    assert error(found, coefficients @ patches.double()) <= 1e-6


@pytest.mark.parametrize("exponent", [-200, 200])
def test_coefficients_that_float32_does_not_have(exponent: int) -> None:
    """And of which some are far smaller than those of another output."""
    coefficients = torch.randn(1, 20, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    coefficients[:, 3] *= 2.0**-100
    patches = rows_of("noise")[None]
    unit = dual._multiplied_in_float32(coefficients, patches)
    found = dual._multiplied_in_float32(coefficients * 2.0**exponent, patches)
    assert torch.equal(found, unit * 2.0**exponent)
    assert error(unit[:, 3], (coefficients @ patches.double())[:, 3]) <= 1e-6


def test_coefficients_of_zero_and_those_that_are_not_finite() -> None:
    coefficients = torch.ones(1, 3, 24, dtype=torch.float64)
    coefficients[0, 0], coefficients[0, 1, 5] = 0.0, float("nan")
    found = dual._multiplied_in_float32(coefficients, rows_of("noise")[None])[0]
    assert not found[0].any()
    assert found[1].isnan().all()
    assert found[2].isfinite().all()


def test_groups_of_a_convolution() -> None:
    images, geometry = photographs(4, 8), PatchGeometry((6, 6), (2, 2), (0, 0), (1, 1), 3)
    rows = sliced_patches(images, geometry)
    dZ = torch.randn(3, rows.shape[1], 5, generator=torch.Generator().manual_seed(0))
    found = dual.dual_gradient(images, dZ, rows.shape[1], LAM, geometry)
    expected = torch.stack([closed_form(*group) for group in zip(rows, dZ, strict=True)])
    assert error(found, expected) <= 2e-4


def test_a_group_that_fails_has_the_plain_gradient() -> None:
    rows, dZ = rows_of("noise"), output_gradients(24)
    rows[3, 5] = float("inf")
    found = dual.dual_gradient(rows, dZ[None], 24, LAM, LINEAR)[0]
    plain = dZ.double().T @ rows.double()
    others = torch.arange(rows.shape[1]) != 5
    assert torch.equal(found.isfinite().all(0), others)
    assert error(found[:, others], plain[:, others]) <= 1e-6
