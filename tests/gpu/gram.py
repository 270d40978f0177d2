"""The operator on a GPU: right, reproducible, and usable where nothing may wait for the GPU."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support.patch_shapes import Layer, expected_gram, layers, sliced_patches, square
from support.triton_sums import triton_gram
from tract_fx import TractWarning
from tract_fx.ops import gram as module
from tract_fx.ops.gpu import launch, verification
from tract_fx.ops.gpu.configs import candidates
from tract_fx.ops.gpu.launch import Device, is_triton_usable, plan
from tract_fx.ops.gradient import sums_of
from tract_fx.ops.gram import gram, patch_gram
from tract_fx.ops.patches import LINEAR, PatchGeometry
from tract_fx.ops.solve import primal_gradient

# A kernel that is not used would pass every test here.
pytestmark = pytest.mark.filterwarnings("error::tract_fx.TractWarning")

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]

CASES = {
    "1x1": ((8, 3, 32, 32), square(1, 1, 0)),
    "3x3": ((128, 3, 32, 32), square(3, 1, 1)),
    "4x4/4": ((128, 3, 32, 32), square(4, 4, 0)),
    "5x5": ((16, 3, 40, 41), square(5, 1, 2)),
    "7x7/2": ((8, 3, 112, 113), square(7, 2, 3)),
    "8x8/8": ((16, 3, 64, 72), square(8, 8, 0)),
    "16x16/16": ((16, 3, 96, 96), square(16, 16, 0)),
    "16x16/8": ((4, 3, 96, 97), square(16, 8, 0)),
    "32 channels, 3x3, 2 groups": ((4, 32, 28, 28), square(3, 1, 1, groups=2)),
    "dilated": ((4, 3, 40, 40), square(3, 2, 4, dilation=3)),
    "large kernel": ((2, 1, 64, 64), square(31, 3, 15)),
    "audio": ((4, 1, 8000), PatchGeometry((10,), (5,), (0,), (1,))),
    "video": ((2, 3, 8, 32, 32), PatchGeometry((3, 7, 7), (1, 2, 2), (1, 3, 3), (1, 1, 1))),
    "one output": ((300, 3, 5, 5), square(7, 1, 1)),
    "linear": ((1000, 784), LINEAR),
    "linear, wide": ((300, 3072), LINEAR),
}


def pixels(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator("cuda").manual_seed(0)
    return torch.randint(0, 256, shape, generator=generator, device="cuda").to(dtype)


def layouts(input: torch.Tensor) -> list[torch.Tensor]:
    if input.ndim == 2:
        return [input, input.T.contiguous().T]
    formats = {4: [torch.channels_last], 5: [torch.channels_last_3d]}.get(input.ndim, [])
    padded = torch.nn.functional.pad(input, (1, 2), value=float("nan"))
    return [input, *(input.to(memory_format=memory) for memory in formats), padded[..., 1:-2]]


def test_the_kernels_are_what_is_tested() -> None:
    assert is_triton_usable(torch.ones(2, 2, device="cuda")), "Triton is missing, or the GPU is older than sm_80"


def first_choice(input: torch.Tensor, geometry: PatchGeometry) -> torch.Tensor:
    """With the first configuration: to compile and measure all of them takes longer than most tests may."""
    planned = plan(input, geometry, Device.of(input))
    return triton_gram(input, geometry, config=candidates(planned.constants, Device.of(input).capability[0])[0])


@pytest.mark.parametrize("name", ["3x3", "4x4/4", "7x7/2", "16x16/16", "linear"])
def test_the_operator_with_the_configuration_that_it_has_chosen(name: str) -> None:
    shape, geometry = CASES[name]
    input = pixels(shape, torch.bfloat16)
    assert torch.equal(gram(input, geometry), expected_gram(input, geometry))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_integer_pixels_give_the_exact_matrix(name: str, dtype: torch.dtype) -> None:
    shape, geometry = CASES[name]
    expected = expected_gram(pixels(shape, dtype), geometry)
    layouts_here = layouts(pixels(shape, dtype))
    # The other layouts in the dtypes of training only.
    for input in layouts_here if dtype in (torch.float32, torch.bfloat16) else layouts_here[:1]:
        found = first_choice(input, geometry)
        assert torch.equal(found, expected)
        assert torch.equal(found, found.mT)


@settings(max_examples=15, deadline=None, database=None)
@given(layers(), st.sampled_from(DTYPES))
def test_any_layer(layer: Layer, dtype: torch.dtype) -> None:
    """Each is compiled for itself."""
    input = pixels(layer.shape, dtype)
    assert torch.equal(first_choice(input, layer.geometry), expected_gram(input, layer.geometry))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["3x3", "4x4/4", "7x7/2", "8x8/8", "16x16/16", "linear"])
def test_every_configuration_gives_the_same_bits(name: str, dtype: torch.dtype) -> None:
    shape, geometry = CASES[name]
    input = torch.randn(shape, device="cuda").to(dtype)
    launch = plan(input, geometry, Device.of(input))
    found = [
        triton_gram(input, geometry, config=config)
        for config in candidates(launch.constants, Device.of(input).capability[0])
    ]
    different = [(matrix - found[0]).abs().max().item() for matrix in found if not torch.equal(matrix, found[0])]
    assert not different
    assert all(torch.equal(gram(input, geometry), found[0]) for _ in range(5))


@pytest.mark.parametrize("dtype", DTYPES)
def test_standardised_pixels(dtype: torch.dtype) -> None:
    shape, geometry = CASES["7x7/2"]
    input = torch.randn(shape, device="cuda").to(dtype)
    found, expected = gram(input, geometry), expected_gram(input, geometry)
    is_exact = dtype == torch.float64 or (dtype == torch.float32 and Device.of(input).has_fast_float64)
    assert (found - expected).abs().max() <= (1e-13 if is_exact else 1e-6) * expected.abs().max()


@pytest.mark.parametrize("exponent", [-100, 100])
def test_scales_that_overflow_or_vanish_when_squared_in_float32(exponent: int) -> None:
    shape, geometry = CASES["3x3"]
    input = torch.randn(shape, device="cuda")
    assert torch.equal(gram(input * 2.0**exponent, geometry), gram(input, geometry) * 2.0 ** (2 * exponent))


def test_smooth_raw_pixels_are_solved_to_rounding() -> None:
    """The case that needs float64: condition numbers of 1e8."""
    if not Device.of(torch.ones(1, device="cuda")).has_fast_float64:
        pytest.skip("products are rounded to float32 here")
    small = pixels((4, 3, 8, 8), torch.float32)
    input = torch.nn.functional.interpolate(small, size=(224, 224), mode="bicubic").clamp(0, 255)
    geometry = square(7, 2, 3)
    gradient = torch.randn(1, 64, 147, device="cuda", dtype=torch.float64)
    rows = sliced_patches(input, geometry).double()
    covariance = rows.mT @ rows / rows.shape[1] + 0.1 * torch.eye(147, device="cuda", dtype=torch.float64)
    expected = torch.linalg.solve(covariance, gradient, left=False)
    found = primal_gradient(input, gradient, rows.shape[1], 0.1, geometry)
    assert (found - expected).norm() <= 1e-5 * expected.norm()


def test_more_than_two_to_the_31_elements() -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < 8e9:
        pytest.skip("needs 8 GB")
    input = torch.zeros(14_400, 3, 224, 224, device="cuda", dtype=torch.bfloat16)
    input[-2:] = pixels((2, 3, 224, 224), torch.bfloat16)
    for geometry in (square(7, 2, 3), square(16, 16, 0)):
        assert torch.equal(gram(input, geometry), expected_gram(input[-2:], geometry))


def test_another_stream_and_another_device() -> None:
    shape, geometry = CASES["3x3"]
    input = pixels(shape, torch.float32)
    expected = expected_gram(input, geometry)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = gram(input, geometry)
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(found, expected)
    if torch.cuda.device_count() > 1:
        assert torch.equal(gram(input.to("cuda:1"), geometry).to("cuda:0"), expected)


@pytest.mark.parametrize("name", ["3x3", "4x4/4", "7x7/2", "linear"])
def test_a_captured_graph_replays_it(name: str) -> None:
    shape, geometry = CASES[name]
    input = pixels(shape, torch.bfloat16)
    gram(input, geometry)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = gram(input, geometry)
    input.copy_(pixels(shape, torch.bfloat16).flip(0) // 2)
    graph.replay()
    assert torch.equal(found, expected_gram(input, geometry))


def test_a_layer_that_was_not_checked_before_is_captured_without_the_kernels() -> None:
    """Nothing can be checked while a graph is captured: PyTorch's own products are taken, and the user is told."""
    input, geometry = pixels((8, 3, 30, 30), torch.float16), square(6, 3, 1)
    expected = expected_gram(input, geometry)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with pytest.warns(TractWarning, match="not checked yet"), torch.cuda.graph(graph):
        found = gram(input, geometry)
    graph.replay()
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["3x3", "4x4/4", "7x7/2", "16x16/16", "32 channels, 3x3, 2 groups", "linear"])
def test_both_sums_of_integers_are_exact(name: str, dtype: torch.dtype) -> None:
    shape, geometry = CASES[name]
    image = pixels(shape, dtype)
    size = shape[0], 20 * geometry.groups, *geometry.outputs(shape[2:])
    outputs = torch.randint(-8, 9, size, generator=torch.Generator().manual_seed(0)).to("cuda", dtype)
    rows = sliced_patches(image, geometry).double()
    columns = outputs.double().reshape(shape[0], geometry.groups, 20, -1).permute(1, 2, 0, 3).flatten(2)
    for input, gradient in zip(layouts(image), layouts(outputs), strict=True):
        found = sums_of(input, gradient, geometry)
        assert torch.equal(found[0], rows.mT @ rows)
        assert torch.equal(found[1], columns @ rows)


def test_nothing_waits_for_the_gpu() -> None:
    shape, geometry = CASES["7x7/2"]
    input = pixels(shape, torch.bfloat16)
    gram(input, geometry)
    torch.cuda.set_sync_debug_mode("error")
    try:
        gram(input, geometry)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_memory_is_the_workspace_and_the_result() -> None:
    shape, geometry = CASES["7x7/2"]
    input = pixels((64, *shape[1:]), torch.bfloat16)
    gram(input, geometry)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = gram(input, geometry)
    assert torch.cuda.max_memory_allocated() - before <= launch.WORKSPACE_BYTES + 2 * found.nbytes + 2**20


def test_the_operator_keeps_what_its_registration_says() -> None:
    torch.library.opcheck(patch_gram, (torch.randn(2, 3, 16, 16, device="cuda"), [7, 7], [2, 2], [3, 3], [1, 1], 1))


def test_without_triton_the_plain_way_gives_the_same_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_triton_usable", lambda input: False)
    for shape, geometry in (CASES["3x3"], CASES["16x16/16"], CASES["linear"]):
        input = pixels(shape, torch.bfloat16)
        assert torch.equal(gram(input, geometry), expected_gram(input, geometry))


def test_no_kernel_has_failed_its_check() -> None:
    gram(pixels((8, 3, 8, 8), torch.bfloat16), square(3, 1, 1))
    assert verification._checked()
    assert None not in verification._checked().values()
