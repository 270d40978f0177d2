"""The closed form: equal to the equations solved independently, and finite whatever the pixels."""

import math

import mpmath
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from support.generated import examples
from support.oracle import error
from support.patch_shapes import Layer, layers, sliced_patches, square
from tract_fx.ops.dual import _in_float64, dual_gradient
from tract_fx.ops.patches import LINEAR, PatchGeometry
from tract_fx.ops.solve import factor_and_solve, primal_gradient, regularise

LAM = 0.1


def rows_and_gradient(input: Tensor, geometry: PatchGeometry, outputs: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """``X``, ``dZ`` and ``G`` of every group, in float64."""
    rows = sliced_patches(input, geometry).double()
    output_gradient = torch.randn(*rows.shape[:2], outputs, dtype=torch.float64)
    return rows, output_gradient, output_gradient.mT @ rows


def solved(rows: Tensor, gradient: Tensor, lam: float = LAM) -> Tensor:
    """``G (X^T X / r + lam I)^-1`` by elimination with pivots."""
    covariance = rows.mT @ rows / rows.shape[1]
    return torch.linalg.solve(covariance + lam * torch.eye(rows.shape[2], dtype=torch.float64), gradient, left=False)


def raw_images(count: int, seed: int = 0) -> Tensor:
    """Pixels 0..255 like a photograph's: neighbours and channels nearly alike, a few edges, a little texture."""
    generator = torch.Generator().manual_seed(seed)

    def noise(channels: int, size: int) -> Tensor:
        coarse = torch.randn(count, channels, size, size, generator=generator)
        return torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic", align_corners=True)

    grey = 60 * noise(1, 3) + 25 * noise(1, 9) + 40 * (noise(1, 5) > 0.7)
    colour = 12 * noise(3, 4) + 4 * torch.randn(count, 3, 32, 32, generator=generator)
    return (110 + grey + colour).round().clamp(0, 255)


@examples(100)
@given(layers(), st.floats(0.01, 10.0), st.integers(0, 2**31))
def test_the_primal_form_solves_its_equations(layer: Layer, lam: float, seed: int) -> None:
    torch.manual_seed(seed)
    input = torch.randn(layer.shape)
    rows, _, gradient = rows_and_gradient(input, layer.geometry)
    found = primal_gradient(input, gradient, rows.shape[1], lam, layer.geometry)
    assert found.dtype == torch.float64
    assert error(found, solved(rows, gradient, lam)) < 1e-11


@examples(100)
@given(layers(), st.floats(0.01, 10.0), st.integers(0, 2**31))
def test_both_forms_agree(layer: Layer, lam: float, seed: int) -> None:
    torch.manual_seed(seed)
    input = torch.randn(layer.shape)
    rows, output_gradient, gradient = rows_and_gradient(input, layer.geometry)
    assume(rows.shape[1] < 300)
    primal = primal_gradient(input, gradient, rows.shape[1], lam, layer.geometry)
    dual = dual_gradient(input.double(), output_gradient, rows.shape[1], lam, layer.geometry)
    assert dual.dtype == torch.float64
    assert error(dual, primal) < 1e-11


def test_the_dual_form_solves_its_equations() -> None:
    input, geometry = torch.randn(3, 4, 16, 16), PatchGeometry((8, 8), (4, 4), (0, 0), (1, 1), groups=2)
    rows, output_gradient, _ = rows_and_gradient(input, geometry)
    kernel = rows @ rows.mT / rows.shape[1] + LAM * torch.eye(rows.shape[1], dtype=torch.float64)
    expected = torch.linalg.solve(kernel, output_gradient).mT @ rows
    assert error(dual_gradient(input.double(), output_gradient, rows.shape[1], LAM, geometry), expected) < 1e-12


def test_the_result_minimises_the_papers_objective() -> None:
    """``||r dZ - X W^T||^2 + lam r ||W||^2`` is lowest at the gradient: its derivative is zero there."""
    input, geometry = torch.randn(2, 3, 12, 12), PatchGeometry((3, 3), (1, 1), (1, 1), (1, 1))
    rows, output_gradient, gradient = rows_and_gradient(input, geometry)
    count = rows.shape[1]
    weight = primal_gradient(input, gradient, count, LAM, geometry).requires_grad_()
    objective = (count * output_gradient - rows @ weight.mT).square().sum() + LAM * count * weight.square().sum()
    (slope,) = torch.autograd.grad(objective, weight)
    assert slope.norm() < 1e-11 * (2 * count * gradient).norm()


@pytest.mark.parametrize("lam", [0.1, torch.tensor(0.1), torch.tensor([0.1], dtype=torch.float64)])
def test_lam_may_be_a_number_or_a_tensor(lam: float | Tensor) -> None:
    input, geometry = torch.randn(2, 4, 8, 8), PatchGeometry((3, 3), (1, 1), (0, 0), (1, 1), groups=2)
    rows, output_gradient, gradient = rows_and_gradient(input, geometry)
    expected = solved(rows, gradient, float(lam))
    assert error(primal_gradient(input, gradient, rows.shape[1], lam, geometry), expected) < 1e-12
    assert error(dual_gradient(input.double(), output_gradient, rows.shape[1], lam, geometry), expected) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_dtypes_are_only_a_rounding_of_what_goes_in(dtype: torch.dtype) -> None:
    input, geometry = torch.randn(2, 3, 12, 12).to(dtype), PatchGeometry((3, 3), (2, 2), (1, 1), (1, 1))
    rows, output_gradient, gradient = rows_and_gradient(input, geometry)
    narrow, narrow_output = gradient.to(dtype), output_gradient.to(dtype)
    count = rows.shape[1]
    found = primal_gradient(input, narrow, count, LAM, geometry)
    assert error(found, solved(rows, narrow.double())) < 1e-12
    found = dual_gradient(input, narrow_output, count, LAM, geometry)
    assert error(found, solved(rows, narrow_output.double().mT @ rows)) < 1e-5


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (7, 2), (4, 4), (16, 16)])
def test_on_raw_pixels_only_the_rounding_of_the_plain_gradient_is_left(kernel: int, stride: int) -> None:
    """The plain gradient arrives in float32; what its rounding costs, everything else being exact, is the floor."""
    input, geometry = raw_images(256), square(kernel, stride)
    rows, output_gradient, gradient = rows_and_gradient(input, geometry)
    exact, rounded = solved(rows, gradient), gradient.float()
    floor = error(solved(rows, rounded.double()), exact)
    count = rows.shape[1]
    assert error(primal_gradient(input, rounded, count, LAM, geometry), exact) < 3 * floor
    assert error(primal_gradient(input, gradient, count, LAM, geometry), exact) < 1e-3 * floor
    if count < 2000:
        assert error(dual_gradient(input.double(), output_gradient, count, LAM, geometry), exact) < 1e-3 * floor


def test_the_worst_conditioned_system_agrees_with_exact_arithmetic() -> None:
    """Smooth raw images, a condition number of 1e9: integers are exact, and elimination runs with 60 digits."""
    ramp = torch.arange(12.0)
    input = torch.stack([(8 * ramp[:, None] + 13 * ramp + tint) for tint in (0.0, 1.0, 20.0)])[None].clamp(0, 255)
    geometry, count, lam = square(2, 1), 121, 1e-4
    rows = sliced_patches(input, geometry)[0].double()
    gradient = torch.randint(-9, 9, (2, count)).double() @ rows
    with mpmath.workdps(60):
        exact_rows = mpmath.matrix(rows.tolist())
        system = exact_rows.T * exact_rows / count + mpmath.mpf(lam) * mpmath.eye(12)
        lines = [mpmath.lu_solve(system, mpmath.matrix(line)) for line in gradient.tolist()]
        expected = torch.tensor([[float(value) for value in line] for line in lines], dtype=torch.float64)
    covariance = rows.T @ rows / count + lam * torch.eye(12, dtype=torch.float64)
    assert torch.linalg.cond(covariance) > 1e8
    assert error(primal_gradient(input, gradient[None], count, lam, geometry)[0], expected) < 1e-6


def test_a_constant_image_has_a_known_answer() -> None:
    """Of one pixel value ``c``, ``C = c^2 1 1^T``, and the gradient is ``G / (lam + n c^2)``."""
    input, geometry = torch.full((4, 3, 16, 16), 200.0), square(4, 4)
    rows, output_gradient, gradient = rows_and_gradient(input, geometry)
    expected = gradient / (LAM + 48 * 200.0**2)
    assert error(primal_gradient(input, gradient, rows.shape[1], LAM, geometry), expected) < 1e-7
    assert error(dual_gradient(input, output_gradient, rows.shape[1], LAM, geometry), expected) < 1e-7


def test_black_images_only_divide_by_lam() -> None:
    input, geometry = torch.zeros(2, 3, 8, 8), square(3, 1)
    gradient = torch.randn(1, 5, 27, dtype=torch.float64)
    found = primal_gradient(input, gradient, 72, LAM, geometry)
    assert error(found, gradient / LAM) < 1e-15
    assert not dual_gradient(input, torch.randn(1, 72, 5), 72, LAM, geometry).any()


def test_equal_channels_get_equal_gradients() -> None:
    input, geometry = raw_images(8)[:, [0, 0, 1]], square(3, 1)
    rows, _, gradient = rows_and_gradient(input, geometry)
    found = primal_gradient(input, gradient, rows.shape[1], LAM, geometry)
    assert error(found, solved(rows, gradient)) < 1e-7
    assert error(found[..., :9], found[..., 9:18]) < 1e-7


HOSTILE = {
    "all zeros": torch.zeros(2, 3, 16, 16),
    "constant": torch.full((2, 3, 16, 16), 255.0),
    "one lit pixel": torch.zeros(2, 3, 16, 16).index_put((torch.tensor([0]),) * 4, torch.tensor(255.0)),
    "one channel three times": raw_images(2)[:, :1, :16, :16].expand(-1, 3, -1, -1),
    "raw pixels": raw_images(2)[..., :16, :16],
    "pixels of 1e30": raw_images(2)[..., :16, :16] * 1e28,
    "pixels of 1e-30": raw_images(2)[..., :16, :16] * 1e-32,
    "pixels of 1e30 and 1e-30": torch.where(raw_images(2)[..., :16, :16] > 110, 1e30, 1e-30),
    "float64 of 1e200": raw_images(2)[..., :16, :16].double() * 1e198,
    "float64 of 1e-200": raw_images(2)[..., :16, :16].double() * 1e-202,
    "the largest float16": torch.full((2, 3, 16, 16), 65504.0, dtype=torch.float16),
    "one row": raw_images(1)[..., :4, :4],
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("lam", [0.1, 1e-12])
def test_finite_pixels_give_a_finite_gradient(name: str, lam: float) -> None:
    input, geometry = HOSTILE[name], square(4, 2)
    rows, output_gradient, gradient = rows_and_gradient(input, geometry)
    assert gradient.isfinite().all()
    count = rows.shape[1]
    assert primal_gradient(input, gradient, count, lam, geometry).isfinite().all()
    assert dual_gradient(input, output_gradient, count, lam, geometry).isfinite().all()


@pytest.mark.parametrize("scale", [2.0**-100, 1.0, 2.0**100])
def test_the_factorisation_succeeds_at_every_scale(scale: float) -> None:
    """A failed one would hand back the plain gradient, which is wrong by the size of the covariance."""
    input, geometry = raw_images(16) * scale, square(4, 4)
    rows, output_gradient, gradient = rows_and_gradient(input, geometry)
    found = primal_gradient(input, gradient, rows.shape[1], LAM * scale**2, geometry)
    assert error(found, solved(rows / scale, gradient / scale) / scale) < 1e-6
    found = dual_gradient(input, output_gradient, rows.shape[1], LAM * scale**2, geometry)
    assert error(found, solved(rows / scale, gradient / scale) / scale) < 1e-6


def test_scaling_float64_changes_nothing() -> None:
    """Pixels of 1e200 are brought down by a power of two before they are squared, and the result is scaled back."""
    input, geometry = raw_images(16).double(), square(4, 4)
    rows, output_gradient, gradient = rows_and_gradient(input, geometry)
    expected = solved(rows, gradient)
    assert error(primal_gradient(input, gradient, rows.shape[1], LAM, geometry), expected) < 1e-6
    assert error(dual_gradient(input, output_gradient, rows.shape[1], LAM, geometry), expected) < 1e-6


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_pixel_reaches_the_gradient_of_its_group_only(value: float) -> None:
    input, geometry = torch.randn(2, 4, 8, 8), PatchGeometry((3, 3), (1, 1), (0, 0), (1, 1), groups=2)
    input[1, 3, 4, 4] = value
    rows, output_gradient, gradient = rows_and_gradient(input, geometry)
    primal = primal_gradient(input, gradient, rows.shape[1], LAM, geometry)
    dual = dual_gradient(input, output_gradient, rows.shape[1], LAM, geometry)
    for found in (primal, dual):
        assert found[0].isfinite().all()
        assert not found[1].isfinite().all()
        # What a failed factorisation hands back is the plain gradient: features that never meet the pixel keep theirs.
        torch.testing.assert_close(
            found[1].nan_to_num(), gradient[1].to(found.dtype).nan_to_num(), rtol=1e-6, atol=1e-6
        )


def test_values_whose_squares_overflow_float64_are_solved_and_not_handed_back() -> None:
    """Far above ``lam``, pixels ``s`` times as large have a gradient that is as many times smaller."""
    input, geometry = raw_images(16).double(), square(4, 4)
    rows, output_gradient, gradient = rows_and_gradient(input, geometry)
    count, large, larger = rows.shape[1], 2.0**100, 2.0**508
    found, expected = (
        primal_gradient(input * scale, gradient * scale, count, LAM, geometry) * scale for scale in (larger, large)
    )
    assert error(found, expected) < 1e-6
    found, expected = (
        dual_gradient(input * scale, output_gradient, count, LAM, geometry) * scale for scale in (larger, large)
    )
    assert error(found, expected) < 1e-6


def test_one_row_of_a_linear_layer() -> None:
    """``C = x x^T`` has a known inverse: the gradient is ``G / (lam + |x|^2)``."""
    input = torch.randn(1, 6)
    rows, output_gradient, gradient = rows_and_gradient(input, LINEAR)
    expected = gradient / (LAM + rows.square().sum())
    assert error(primal_gradient(input, gradient, 1, LAM, LINEAR), expected) < 1e-13
    assert error(dual_gradient(input.double(), output_gradient, 1, LAM, LINEAR), expected) < 1e-13


def test_lam_is_exact_until_float64_cannot_tell_it_from_zero() -> None:
    matrix = torch.diag_embed(torch.tensor([[1.0, 2.0], [1e18, 1.0]], dtype=torch.float64))
    shift = (regularise(matrix, LAM) - matrix).diagonal(dim1=-2, dim2=-1)
    assert torch.equal(regularise(matrix, LAM)[0], matrix[0] + LAM * torch.eye(2, dtype=torch.float64))
    assert (shift[1] > 1e18 * torch.finfo(torch.float64).eps).all()


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("lam", [0.1, 1e-12])
def test_a_relative_lam_gives_a_finite_gradient_and_the_same_in_both_forms(name: str, lam: float) -> None:
    input, geometry = HOSTILE[name], square(4, 2)
    rows, output_gradient, gradient = rows_and_gradient(input, geometry)
    count = rows.shape[1]
    primal = primal_gradient(input, gradient, count, lam, geometry, relative=True)
    dual = dual_gradient(input, output_gradient, count, lam, geometry, relative=True)
    assert primal.isfinite().all()
    assert dual.isfinite().all()
    if lam == 0.1 and (input.double().square() > 0).any():
        assert error(dual, primal) < 1e-5


@pytest.mark.parametrize("relative", [False, True])
def test_black_images_have_a_gradient_of_zero(relative: bool) -> None:
    """The plain gradient is zero, and no division makes anything else of it; groups beside it are as they should be."""
    input, geometry = torch.randn(2, 4, 8, 8), PatchGeometry((3, 3), (1, 1), (0, 0), (1, 1), groups=2)
    input[:, :2] = 0
    rows, output_gradient, gradient = rows_and_gradient(input, geometry)
    for found in (
        primal_gradient(input, gradient, rows.shape[1], LAM, geometry, relative=relative),
        dual_gradient(input, output_gradient, rows.shape[1], LAM, geometry, relative=relative),
    ):
        assert not found[0].any()
        lam = LAM * rows[1].square().mean().item() if relative else LAM
        assert error(found[1], solved(rows, gradient, lam)[1]) < 1e-5


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("few", [False, True])
def test_the_form_for_other_devices_has_the_same_lam(few: bool, relative: bool) -> None:
    """On a GPU the dual form is made of other operators."""
    input, geometry = raw_images(1 if few else 4).double(), square(8, 8)
    rows, output_gradient, gradient = rows_and_gradient(input, geometry)
    lam = LAM * rows.square().mean().item() if relative else LAM
    found = _in_float64(input, output_gradient, rows.shape[1], LAM, geometry, relative)
    assert error(found, solved(rows, gradient, lam)) < 1e-6


def test_a_relative_lam_does_not_depend_on_the_unit() -> None:
    """``X s`` has the gradient ``G' / s``, up to squares of 1e-38."""
    input, geometry = raw_images(4), square(4, 4)
    rows, output_gradient, gradient = rows_and_gradient(input, geometry)
    count = rows.shape[1]
    primal = primal_gradient(input, gradient, count, LAM, geometry, relative=True)
    dual = dual_gradient(input, output_gradient, count, LAM, geometry, relative=True)
    assert error(primal, solved(rows, gradient, LAM * rows.square().mean().item())) < 1e-9
    for scale in (2.0**-60, 1 / 255, 255.0, 2.0**60):
        scaled = input.double() * scale
        assert (
            error(primal_gradient(scaled, gradient * scale, count, LAM, geometry, relative=True) * scale, primal) < 1e-9
        )
        assert error(dual_gradient(scaled, output_gradient, count, LAM, geometry, relative=True) * scale, dual) < 1e-5


@pytest.mark.parametrize(("groups", "outputs", "size"), [(1, 5, 27), (3, 4, 2), (2, 0, 3)])
def test_factor_and_solve_is_well_formed(groups: int, outputs: int, size: int) -> None:
    rows = torch.randn(groups, 3 * size, size, dtype=torch.float64)
    matrix, gradient = regularise(rows.mT @ rows, LAM), torch.randn(groups, outputs, size, dtype=torch.float64)
    torch.library.opcheck(factor_and_solve, (matrix, gradient))
    found, info = factor_and_solve(matrix, gradient)
    assert not info.any()
    assert error(found, torch.linalg.solve(matrix, gradient, left=False)) < 1e-12


def test_a_factorisation_that_fails_says_so_for_its_group_alone() -> None:
    matrix = torch.stack([torch.eye(3, dtype=torch.float64), -torch.eye(3, dtype=torch.float64)])
    gradient = torch.randn(2, 4, 3, dtype=torch.float64)
    found, info = factor_and_solve(matrix, gradient)
    assert (info == 0).tolist() == [True, False]
    assert torch.equal(found[0], gradient[0])


def test_both_halves_are_one_operator_in_a_graph() -> None:
    """So that one tag keeps them out of a CUDA graph."""
    input, geometry = torch.randn(2, 3, 8, 8), square(3, 1)
    gradient = torch.randn(1, 5, 27, dtype=torch.float64)
    traced = make_fx(lambda x, g: primal_gradient(x, g, 72, LAM, geometry))(input, gradient)
    targets = [str(node.target) for node in traced.graph.nodes]
    assert targets.count("tract_fx.factor_and_solve.default") == 1
    assert not any("cholesky" in target for target in targets)
