"""Small systems by one kernel, and which way is chosen; ``test_kernels.py`` runs this in Triton's interpreter."""

import functools
import os
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from support import interpreter
from support.oracle import error
from support.patch_shapes import sliced_patches
from support.photographs import photographs
from tract_fx import TractWarning
from tract_fx.ops import solve
from tract_fx.ops.gpu import small_systems
from tract_fx.ops.gpu.small_systems import eliminated
from tract_fx.ops.patches import PatchGeometry
from tract_fx.ops.solve import factor_and_solve, regularise, relative_to, solve_primal, trace_of

assert os.environ.get("TRITON_INTERPRET") == "1", "run by test_kernels.py"
interpreter.repair()

LAM = 0.1


@functools.cache
def system(kernel: int, stride: int, groups: int, pixels: str, outputs: int) -> tuple[Tensor, Tensor]:
    """The covariance ``(groups, n, n)`` of patches of photographs, and their plain gradient for random ``dZ``."""
    images = torch.cat([photographs(4, 24, pixels, seed) for seed in range(groups)], 1)
    geometry = PatchGeometry((kernel,) * 2, (stride,) * 2, (0,) * 2, (1,) * 2, groups)
    rows = sliced_patches(images, geometry).double()
    noise = torch.randn(groups, outputs, rows.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return rows.mT @ rows / rows.shape[1], noise @ rows


def closed_form(covariance: Tensor, gradient: Tensor, lam: Tensor | float = LAM) -> Tensor:
    """By elimination with pivots."""
    identity = torch.eye(covariance.shape[-1], dtype=torch.float64)
    return torch.linalg.solve(
        covariance + torch.as_tensor(lam, dtype=torch.float64).reshape(-1, 1, 1) * identity, gradient, left=False
    )


LAYERS = {
    "n = 27": (3, 1, 1),
    "n = 48": (4, 4, 1),
    "n = 12, 3 groups": (2, 2, 3),
    "n = 3": (1, 1, 1),
    "n = 27, 2 groups": (3, 1, 2),
}


@pytest.mark.parametrize("outputs", [1, 16, 37])
@pytest.mark.parametrize("pixels", ["standardised", "0..255"])
@pytest.mark.parametrize("name", LAYERS)
def test_photographs(name: str, pixels: str, outputs: int) -> None:
    """With raw pixels the condition number is 1e5 and more, and as much larger are the errors of either solution."""
    covariance, gradient = system(*LAYERS[name], pixels, outputs)
    found, info = eliminated(regularise(covariance, LAM), gradient)
    assert info.dtype == torch.int32
    assert not info.any()
    assert error(found, closed_form(covariance, gradient)) <= (1e-12 if pixels == "standardised" else 1e-9)


@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 31, 32, 33, 63, 64])
def test_every_size_and_its_neighbours(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    rows = torch.randn(2, 2 * size, size, generator=generator, dtype=torch.float64)
    matrix, gradient = rows.mT @ rows, torch.randn(2, 17, size, generator=generator, dtype=torch.float64)
    found, info = eliminated(matrix, gradient)
    assert not info.any()
    assert error(found, torch.linalg.solve(matrix, gradient, left=False)) <= 1e-12


@pytest.mark.parametrize("condition", [1e3, 1e8, 1e13])
def test_the_error_grows_with_the_condition_number_as_that_of_a_library(condition: float) -> None:
    """1e13 is the worst that ``regularise`` leaves."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.linalg.qr(torch.randn(48, 48, generator=generator, dtype=torch.float64)).Q
    values = torch.logspace(0, -torch.tensor(condition).log10(), 48, dtype=torch.float64)
    matrix = (vectors * values) @ vectors.T
    exact = torch.randn(1, 20, 48, generator=generator, dtype=torch.float64)
    found, info = eliminated(matrix[None], exact @ matrix)
    assert not info.any()
    assert error(found, exact) <= 1e-15 * condition


@pytest.mark.parametrize("at", [0, 13, 26])
def test_a_group_whose_factorisation_fails_says_where(at: int) -> None:
    covariance, gradient = system(3, 1, 2, "standardised", 5)
    matrix = regularise(covariance, LAM)
    matrix[1, at, at] = -1.0
    found, info = eliminated(matrix, gradient)
    assert info.tolist() == torch.linalg.cholesky_ex(matrix).info.tolist() == [0, at + 1]
    assert error(found[0], closed_form(covariance, gradient)[0]) <= 1e-12


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_covariance_that_is_not_finite_fails(value: float) -> None:
    covariance, gradient = system(3, 1, 2, "standardised", 5)
    matrix = regularise(covariance, LAM)
    matrix[0, 4], matrix[0, :, 4] = value, value
    found, info = eliminated(matrix, gradient)
    assert (info != 0).tolist() == [True, False]
    assert found[1].isfinite().all()


def test_tensors_that_are_not_contiguous() -> None:
    covariance, gradient = system(3, 1, 2, "standardised", 37)
    matrix = regularise(covariance, LAM)
    wide = torch.zeros(2, 54, 54, dtype=torch.float64)
    wide[:, ::2, ::2] = matrix
    strided, _ = eliminated(wide[:, ::2, ::2], gradient.mT.contiguous().mT)
    assert torch.equal(strided, eliminated(matrix, gradient)[0])


class Choice:
    """A process on a device whose kernel and library take so long, and where nothing was chosen yet."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kept: dict[Any, bool] = {}
        self.kernel, self.library = 1.0, 2.0
        self.measured = self.used = 0
        monkeypatch.setattr(small_systems, "_kept", lambda: self.kept)
        monkeypatch.setattr(small_systems, "is_triton_usable", lambda tensor: True)
        monkeypatch.setattr(small_systems, "measure", self.measure)
        original = small_systems.eliminated

        def counted(matrix: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
            self.used += 1
            return original(matrix, gradient)

        monkeypatch.setattr(small_systems, "eliminated", counted)

    def measure(self, call: Callable[[], object], quantiles: tuple[float, ...]) -> list[float]:
        before = self.used
        call()
        self.measured += 1
        return [self.kernel if self.used > before else self.library]


@pytest.fixture
def choice(monkeypatch: pytest.MonkeyPatch) -> Choice:
    return Choice(monkeypatch)


def uses_kernel(choice: Choice, matrix: Tensor, gradient: Tensor) -> bool:
    before = choice.used
    found, info = factor_and_solve(matrix, gradient)
    assert not info.any()
    assert error(found, torch.linalg.solve(matrix, gradient, left=False)) <= 1e-8
    return choice.used > before


@pytest.mark.parametrize("pixels", ["standardised", "0..255"])
def test_the_faster_one_is_kept(pixels: str, choice: Choice) -> None:
    covariance, gradient = system(3, 1, 2, pixels, 5)
    matrix = regularise(covariance, LAM)
    assert uses_kernel(choice, matrix, gradient)
    once = choice.measured
    assert uses_kernel(choice, matrix, gradient)
    assert choice.measured == once == 2
    choice.kernel = 3.0
    uses_kernel(choice, matrix[:1], gradient[:1])
    assert not uses_kernel(choice, matrix[:1], gradient[:1])
    assert list(choice.kept.values()) == [True, False]


def test_while_a_graph_is_captured_nothing_is_tried(choice: Choice, monkeypatch: pytest.MonkeyPatch) -> None:
    covariance, gradient = system(3, 1, 1, "standardised", 5)
    matrix = regularise(covariance, LAM)
    monkeypatch.setattr(small_systems, "is_capturing", lambda device: True)
    assert not uses_kernel(choice, matrix, gradient)
    assert choice.kept == {}
    monkeypatch.setattr(small_systems, "is_capturing", lambda device: False)
    assert uses_kernel(choice, matrix, gradient)
    monkeypatch.setattr(small_systems, "is_capturing", lambda device: True)
    assert uses_kernel(choice, matrix, gradient)


def test_where_results_must_not_depend_on_a_measurement_the_library_solves(choice: Choice) -> None:
    covariance, gradient = system(3, 1, 1, "standardised", 5)
    matrix = regularise(covariance, LAM)
    assert uses_kernel(choice, matrix, gradient)
    torch.use_deterministic_algorithms(True)
    try:
        assert not uses_kernel(choice, matrix, gradient)
    finally:
        torch.use_deterministic_algorithms(False)


def test_large_systems_and_empty_ones_are_left_to_the_library(choice: Choice) -> None:
    identity = torch.eye(65, dtype=torch.float64)[None]
    assert not uses_kernel(choice, identity, torch.ones(1, 3, 65, dtype=torch.float64))
    assert not uses_kernel(choice, identity[:, :9, :9], torch.ones(1, 0, 9, dtype=torch.float64))


def broken_everywhere(matrix: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    solution, info = eliminated(matrix, gradient)
    return solution * (1 + 1e-9), info


def blind_to_failures(matrix: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    solution, info = eliminated(matrix, gradient)
    return solution, torch.zeros_like(info)


def failing(matrix: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    raise RuntimeError("no such instruction")


@pytest.mark.parametrize(
    ("kernel", "message"),
    [(broken_everywhere, "another result"), (blind_to_failures, "another result"), (failing, "no such instruction")],
)
@pytest.mark.parametrize("pixels", ["0..255", "zeros", "infinite"])
def test_a_kernel_that_is_wrong_is_not_used(
    kernel: Callable[..., Any], message: str, pixels: str, choice: Choice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the layer's own system would not show it: it is of no condition, or of one that allows any result."""
    monkeypatch.setattr(small_systems, "eliminated", kernel)
    covariance, gradient = system(3, 1, 1, "0..255", 5)
    covariance = {"0..255": covariance, "zeros": 0 * covariance, "infinite": covariance / 0}[pixels]
    with pytest.warns(TractWarning, match=message):
        factor_and_solve(regularise(covariance, LAM), gradient)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        factor_and_solve(regularise(covariance, LAM), gradient)  # checked once, and told once
    assert list(choice.kept.values()) == [False]


@pytest.mark.parametrize("relative", [False, True])
def test_the_gradient_with_a_lam_of_each_kind(relative: bool, choice: Choice) -> None:
    covariance, gradient = system(2, 2, 3, "0..1", 5)
    lam = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64) if not relative else 0.1
    found = solve_primal(covariance, gradient, lam, 1.0, relative=relative)
    assert choice.kept == {(torch.device("cpu"), 3, 5, 12): True}
    unit = relative_to(trace_of(covariance) / 12, 0.1) if relative else lam
    assert error(found, closed_form(covariance, gradient, unit)) <= 1e-12


def test_a_group_that_fails_keeps_its_plain_gradient(choice: Choice) -> None:
    covariance, gradient = system(2, 2, 3, "0..1", 5)
    covariance = covariance.clone()
    covariance[1, 2, 3] = float("nan")
    found = solve_primal(covariance, gradient, LAM, 1.0)
    assert choice.used
    assert torch.equal(found[1], gradient[1])
    assert error(found[[0, 2]], closed_form(covariance, gradient)[[0, 2]]) <= 1e-12


def test_the_operator_asks_it() -> None:
    assert solve.small_solution is small_systems.small_solution
