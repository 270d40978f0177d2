"""``X^T X`` and ``dZ^T X`` from one kernel; ``test_kernels.py`` runs this in Triton's interpreter."""

import dataclasses
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support import interpreter
from support.generated import examples
from support.oracle import error
from support.patch_shapes import Layer, layers, sliced_patches, square
from support.photographs import RANGES, photographs
from support.triton_sums import triton_gram, triton_sums
from tract_fx.ops.gpu import launch
from tract_fx.ops.gpu.configs import TileConfig
from tract_fx.ops.gpu.launch import Device, plan
from tract_fx.ops.patches import LINEAR, PatchGeometry
from tract_fx.ops.solve import solve_primal

assert os.environ.get("TRITON_INTERPRET") == "1", "run by test_kernels.py"
interpreter.repair()

SMALL, LARGE, THREE = TileConfig(16, 1), TileConfig(64, 8), TileConfig(64, 8, tiles=3)
FAST, SLOW = Device(2, (9, 0)), Device(2, (8, 9))
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
LAM = 0.1


def integers(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randint(-8, 9, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def output_gradient_for(input: torch.Tensor, geometry: PatchGeometry, outputs: int) -> torch.Tensor:
    return integers((len(input), outputs * geometry.groups, *geometry.outputs(input.shape[2:])), input.dtype, seed=1)


def rows_of(input: torch.Tensor, output_gradient: torch.Tensor, geometry: PatchGeometry) -> tuple[torch.Tensor, ...]:
    """``X`` and ``dZ`` of every group in float64, by slicing and by permuting."""
    outputs = output_gradient.double().reshape(len(input), geometry.groups, -1, output_gradient[0, 0].numel())
    return sliced_patches(input, geometry).double(), outputs.permute(1, 0, 3, 2).flatten(1, 2)


def check(
    input: torch.Tensor,
    output_gradient: torch.Tensor,
    geometry: PatchGeometry,
    config: TileConfig,
    device: Device = FAST,
) -> None:
    """Integers leave nothing to tolerate."""
    rows, outputs = rows_of(input, output_gradient, geometry)
    gram, gradient = triton_sums(input, output_gradient, geometry, config, device)
    assert gram.dtype == gradient.dtype == torch.float64
    assert torch.equal(gram, rows.mT @ rows)
    assert torch.equal(gradient, outputs.mT @ rows)


@examples(6)
@given(layers(), st.integers(1, 20), st.sampled_from(DTYPES), st.sampled_from([FAST, SLOW]))
def test_any_layer(layer: Layer, outputs: int, dtype: torch.dtype, device: Device) -> None:
    input = integers(layer.shape, dtype)
    config = LARGE if layer.geometry.features(layer.shape[1]) > 32 else SMALL
    check(input, output_gradient_for(input, layer.geometry, outputs), layer.geometry, config, device)


@pytest.mark.parametrize(
    ("dtype", "device"),
    [*((dtype, FAST) for dtype in DTYPES), (torch.float32, SLOW), (torch.float16, SLOW)],
    ids=[*(f"{dtype}" for dtype in DTYPES), "float32 with slow float64", "float16 with slow float64"],
)
@pytest.mark.parametrize(
    ("shape", "geometry", "outputs"),
    [
        ((300, 37), LINEAR, 70),
        ((3, 3, 16, 20), square(4, 4, 0), 5),
        ((2, 3, 13, 9), square(3, 1, 1), 66),
        ((2, 4, 12, 11), square(3, 2, 2, dilation=2, groups=2), 3),
        ((70, 2, 4, 4), square(4, 4, 0), 7),
        ((2, 2, 4, 7, 6), PatchGeometry((2, 3, 3), (1, 2, 1), (1, 1, 0), (1, 1, 2)), 4),
    ],
)
def test_each_kind_of_layer(
    shape: tuple[int, ...], geometry: PatchGeometry, outputs: int, dtype: torch.dtype, device: Device
) -> None:
    input = integers(shape, dtype)
    check(input, output_gradient_for(input, geometry, outputs), geometry, LARGE, device)


@pytest.mark.parametrize("channels_last_input", [False, True])
@pytest.mark.parametrize("channels_last_output", [False, True])
def test_memory_layouts_do_not_matter(channels_last_input: bool, channels_last_output: bool) -> None:
    geometry = square(3, 1, 1)
    input = integers((2, 3, 9, 8), torch.float16)
    outputs = output_gradient_for(input, geometry, 5)
    if channels_last_input:
        input = input.to(memory_format=torch.channels_last)
    if channels_last_output:
        outputs = outputs.to(memory_format=torch.channels_last)
    check(input, outputs, geometry, LARGE)
    check(input, outputs[:1, :, :1, :1].expand_as(outputs), geometry, LARGE)


@pytest.mark.parametrize("config", [SMALL, LARGE])
@pytest.mark.parametrize(
    ("shape", "geometry"),
    [
        ((3, 3, 8, 12), square(4, 4, 0)),
        ((2, 5, 6, 8), PatchGeometry((3, 2), (3, 2), (0, 0), (1, 1))),
        ((2, 3, 4, 6, 6), PatchGeometry((2, 3, 2), (2, 3, 2), (0, 0, 0), (1, 1, 1))),
        ((2, 3, 5, 4), square(1, 1, 0)),
    ],
)
def test_patches_of_channels_last_images_are_read_as_they_lie(
    shape: tuple[int, ...], geometry: PatchGeometry, config: TileConfig
) -> None:
    """In the order ``(k_z, k_y, k_x, channel)``, and written in that of the weight."""
    memory = {4: torch.channels_last, 5: torch.channels_last_3d}[len(shape)]
    for dtype in (torch.float32, torch.float16):
        input = integers(shape, dtype)
        outputs = output_gradient_for(input, geometry, 5)
        last = input.contiguous(memory_format=memory)
        assert plan(last, geometry, FAST).constants["RUN"] == shape[1] * geometry.kernel_size[-1]
        assert plan(input, geometry, FAST).constants["RUN"] == 0
        check(last, outputs, geometry, config)
        check(last, outputs.contiguous(memory_format=memory), geometry, config)


def test_channels_that_do_not_lie_together_are_read_one_by_one() -> None:
    input, geometry = integers((2, 4, 8, 8), torch.float32), square(4, 4, 0)
    wider = torch.zeros(2, 6, 8, 8).contiguous(memory_format=torch.channels_last)
    part = wider[:, 1:5].copy_(input)
    grouped = dataclasses.replace(geometry, groups=2)
    last = input.contiguous(memory_format=torch.channels_last)
    for images, layer in ((part, geometry), (last, grouped)):
        assert plan(images, layer, FAST).constants["RUN"] == 0
        check(images, output_gradient_for(input, layer, 3), layer, SMALL)


def test_three_tiles_at_once_and_tiles_of_the_gradient() -> None:
    input, geometry = integers((2, 3, 14, 13), torch.float16), square(7, 2, 3)
    check(input, output_gradient_for(input, geometry, 70), geometry, THREE)


def test_the_gradient_alone() -> None:
    input, geometry = integers((2, 4, 9, 8), torch.float32), square(3, 2, 1, groups=2)
    outputs = output_gradient_for(input, geometry, 5)
    (found,) = triton_sums(input, outputs, geometry, gram=False, config=SMALL)
    rows, wide = rows_of(input, outputs, geometry)
    assert torch.equal(found, wide.mT @ rows)


def test_the_covariance_has_the_same_bits_with_and_without_the_gradient() -> None:
    """As long as both have the same splits."""
    input, geometry = torch.randn(2, 3, 9, 8), square(3, 1, 1)
    outputs = torch.randn(2, 5, 9, 8)
    together, alone = plan(input, geometry, FAST, outputs), plan(input, geometry, FAST)
    assert together.sizes["rows_per_split"] == alone.sizes["rows_per_split"]
    assert torch.equal(
        triton_sums(input, outputs, geometry, config=SMALL)[0], triton_gram(input, geometry, config=SMALL)
    )


@pytest.mark.parametrize("exponent", [-110, 110])
def test_scales_that_overflow_or_vanish_in_float32(exponent: int) -> None:
    """Where products are float32, powers of two keep them in range."""
    generator = torch.Generator().manual_seed(0)
    input, outputs = torch.randn(2, 3, 8, 8, generator=generator), torch.randn(2, 4, 8, 8, generator=generator)
    geometry = square(3, 1, 1)
    unit = triton_sums(input, outputs, geometry, SMALL, SLOW)
    found = triton_sums(input * 2.0**exponent, outputs * 2.0**-exponent, geometry, SMALL, SLOW)
    assert torch.equal(found[0], unit[0] * 2.0 ** (2 * exponent))
    assert torch.equal(found[1], unit[1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("device", [FAST, SLOW])
def test_a_broken_pixel_reaches_the_sums_of_its_features_only(value: float, device: Device) -> None:
    input, outputs = torch.ones(70, 20), torch.ones(70, 3)
    input[5, 7] = value
    gram, gradient = triton_sums(input, outputs, LINEAR, SMALL, device)
    assert torch.equal(gradient.isfinite(), (torch.arange(20) != 7).expand(1, 3, 20))
    assert torch.equal(gram.isfinite()[0, 0], torch.arange(20) != 7)


def solved_error(
    images: torch.Tensor, geometry: PatchGeometry, dtype: torch.dtype, device: Device, noise: torch.Tensor
) -> float:
    """Relative error of the new gradient against the float64 closed form on the same operands."""
    input, outputs = images.to(dtype), noise.to(dtype)
    rows, wide = rows_of(input, outputs, geometry)
    count = rows.shape[1]
    gram, gradient = triton_sums(input, outputs, geometry, LARGE, device)
    found = solve_primal(gram / count, gradient, LAM, 1.0)
    covariance = rows.mT @ rows / count + LAM * torch.eye(rows.shape[2], dtype=torch.float64)
    return error(found, torch.linalg.solve(covariance, wide.mT @ rows, left=False))


# Where float64 is slow, products of float32 numbers are rounded: that is worse than what is promised elsewhere.
BOUNDS = {
    (torch.float32, FAST): 1e-9,
    (torch.float16, FAST): 1e-4,
    (torch.bfloat16, FAST): 1e-4,
    (torch.float32, SLOW): 2e-5,
    (torch.float16, SLOW): 1e-4,
    (torch.bfloat16, SLOW): 1e-4,
}


@pytest.mark.parametrize(
    ("kind", "dtype", "device"),
    [
        (kind, dtype, device)
        for kind in (*RANGES, "noise")
        for dtype, device in BOUNDS
        if dtype == torch.float32 or kind in ("standardised", "0..255")
    ],
)
def test_photographs(kind: str, dtype: torch.dtype, device: Device) -> None:
    """Of 900 rows, sums of 256 end in each split."""
    geometry, size = square(3, 1, 1), 15
    images = torch.randn(4, 3, size, size) if kind == "noise" else photographs(4, size, kind)
    outputs = torch.randn(4, 8, size, size, generator=torch.Generator().manual_seed(1))
    bound = BOUNDS[dtype, device] * (5 if kind == "0..255" and dtype == torch.float32 else 1)
    assert solved_error(images, geometry, dtype, device, outputs) <= bound


@pytest.mark.parametrize(("dtype", "device"), [(torch.float32, SLOW), (torch.bfloat16, FAST)])
def test_photographs_under_a_large_kernel(dtype: torch.dtype, device: Device) -> None:
    geometry = square(7, 2, 3)
    outputs = torch.randn(2, 8, 20, 20, generator=torch.Generator().manual_seed(1))
    assert solved_error(photographs(2, 40), geometry, dtype, device, outputs) <= BOUNDS[dtype, device]


def test_sums_that_float32_does_not_hold_are_compensated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of 256 rows stay below 2^24 and are exact; what they add up to in a split needs more digits."""
    monkeypatch.setattr(launch, "PROGRAMS_PER_MULTIPROCESSOR", 1)
    input = torch.randint(2**14, 2**15, (8192, 3), generator=torch.Generator().manual_seed(0)).float()
    planned = plan(input, LINEAR, SLOW, input[:, :1], gram=False)
    assert planned.constants["COMPENSATED"]
    assert planned.sizes["rows_per_split"] >= 4096, "sums of some 2^26 and more"
    (found,) = triton_sums(input, torch.ones(8192, 1), LINEAR, gram=False, config=SMALL, device=SLOW)
    assert torch.equal(found[0, 0], input.double().sum(0))


def test_a_small_sum_is_kept_beside_a_large_one_that_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the two numbers that are added, either may be the larger one."""
    monkeypatch.setattr(launch, "PROGRAMS_PER_MULTIPROCESSOR", 1)
    input, device = torch.zeros(3 * 256, 1), dataclasses.replace(SLOW, multiprocessors=1)
    input[[5, 256 + 7, 512 + 9], 0] = torch.tensor([3 / 1024, 2.0**20, -(2.0**20)])
    assert plan(input, LINEAR, device, input, gram=False).splits == 1
    (found,) = triton_sums(input, torch.ones_like(input), LINEAR, gram=False, config=SMALL, device=device)
    assert found.item() == 3 / 1024
