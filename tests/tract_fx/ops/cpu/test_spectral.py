"""What the Gram matrix from spectra promises: errors of some units of the norms of lines, in memory of some megabytes."""

import contextlib
import math
from collections.abc import Callable, Iterator
from unittest import mock

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from support.generated import examples
from support.patch_shapes import Layer, expected_gram, sliced_patches
from tract_fx.ops import gram as module
from tract_fx.ops.cpu import spectral
from tract_fx.ops.cpu.selection import is_spectral_possible
from tract_fx.ops.cpu.toeplitz import Axis
from tract_fx.ops.gram import gram
from tract_fx.ops.patches import PatchGeometry
from tract_fx.ops.solve import primal_gradient, regularise

EPSILON = torch.finfo(torch.float64).eps
STEM = PatchGeometry((7, 7), (2, 2), (3, 3), (1, 1))
SMALL = PatchGeometry((3, 3), (1, 1), (1, 1), (1, 1))


@st.composite
def overlapping_layers(draw: st.DrawFn) -> Layer:
    """Convolutions in one to three dimensions that spectra can do: they overlap along columns, and not along frames."""
    dims = draw(st.integers(1, 3))
    largest = (9, 6, 4)[dims - 1]
    axes = []
    for dim in range(dims):
        kernel = draw(st.integers(2 if dim == dims - 1 else 1, largest))
        if dim == 0 and dims == 3:
            stride = draw(st.integers(kernel, kernel + 2))
        else:
            stride = draw(st.integers(1, kernel - 1 if dim == dims - 1 else 4))
        padding = draw(st.integers(0, 4))
        fewest = kernel + (-(-kernel // stride) - 1) * stride - 2 * padding
        axes.append((max(1, fewest) + draw(st.integers(0, 11)), kernel, stride, padding, 1))
    sizes, *geometry = zip(*axes, strict=True)
    groups = draw(st.integers(1, 2))
    shape = (draw(st.integers(1, 5)), groups * draw(st.integers(1, 3)), *sizes)
    layer = Layer(shape, PatchGeometry(*geometry, groups))
    assume(is_spectral_possible(layer.shape, layer.geometry))
    return layer


@contextlib.contextmanager
def from_spectra(band: int = spectral.BAND_ELEMENTS) -> Iterator[None]:
    """Takes this way, with bands of about so many elements."""
    with (
        mock.patch.object(module, "select_algorithm", return_value="spectral"),
        mock.patch.object(spectral, "BAND_ELEMENTS", band),
    ):
        yield


def bound(input: Tensor, geometry: PatchGeometry) -> Tensor:
    """Products of the norms of the channels that two features belong to: ``(groups, n, n)``."""
    norms = input.double().pow(2).transpose(0, 1).flatten(1).sum(1).sqrt().view(geometry.groups, -1)
    features = norms.repeat_interleave(math.prod(geometry.kernel_size), dim=1)
    return features[:, :, None] * features[:, None]


@pytest.mark.parametrize("band", [spectral.BAND_ELEMENTS, 1, 300])
@examples(100)
@given(
    overlapping_layers(),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.integers(0, 2**31),
)
@example(Layer((2, 1, 1, 9), PatchGeometry((3, 2), (2, 1), (4, 0), (1, 1))), torch.float32, 0)  # rows of zeros only
def test_errors_are_some_units_of_the_norms(band: int, layer: Layer, dtype: torch.dtype, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Channels of different scales, each with an error of its own scale.
    scales = 10.0 ** torch.randint(-3, 4, (layer.shape[1],), generator=generator)
    input = torch.randn(layer.shape, generator=generator, dtype=torch.float64) + 1
    input = (input * scales.view(-1, *[1] * (len(layer.shape) - 2))).to(dtype)
    with from_spectra(band):
        found = gram(input, layer.geometry)
    assert ((found - expected_gram(input, layer.geometry)).abs() <= 16 * EPSILON * bound(input, layer.geometry)).all()
    assert torch.equal(found, found.mT)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@examples(60)
@given(overlapping_layers(), st.data())
def test_no_entry_of_a_broken_pixel_is_finite(value: float, layer: Layer, data: st.DataObject) -> None:
    input = torch.ones(layer.shape)
    input.view(-1)[data.draw(st.integers(0, input.numel() - 1))] = value
    with from_spectra(64):
        found = gram(input, layer.geometry)
    assert not found[~expected_gram(input, layer.geometry).isfinite()].isfinite().any()


def test_a_pixel_in_no_patch_does_not_count() -> None:
    input = torch.randn(2, 3, 12, 12)
    input[:, :, -1] = input[..., -1] = float("nan")
    geometry = PatchGeometry((5, 5), (2, 2), (0, 0), (1, 1))
    with from_spectra():
        assert torch.equal(gram(input, geometry), gram(input[:, :, :11, :11], geometry))


def test_nothing_but_zeros_gives_zeros() -> None:
    with from_spectra():
        assert not gram(torch.zeros(2, 3, 20, 20), STEM).any()


def test_memory_layout_does_not_matter() -> None:
    input = torch.randn(2, 4, 18, 16)
    geometry = PatchGeometry((5, 3), (2, 1), (2, 1), (1, 1), groups=2)
    transposed = torch.zeros(16, 18, 4, 2).permute(3, 2, 1, 0).copy_(input)
    with from_spectra():
        expected = gram(input, geometry)
        assert torch.equal(gram(input.to(memory_format=torch.channels_last), geometry), expected)
        assert torch.equal(gram(transposed, geometry), expected)


def smooth(shape: tuple[int, ...]) -> Tensor:
    """Raw pixels of images enlarged seven times."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (*shape[:2], *(size // 7 for size in shape[2:])), generator=generator).float()
    return torch.nn.functional.interpolate(pixels, size=shape[2:], mode="bilinear")


@pytest.mark.parametrize(
    "input",
    [
        smooth((4, 3, 112, 112)),
        torch.full((4, 3, 64, 64), 200.0),
        torch.tensor([200.0, 0.3, -1.7]).view(1, 3, 1, 1).expand(4, 3, 64, 64),
        smooth((4, 1, 112, 112)).expand(4, 3, 112, 112) / 50,
    ],
    ids=["smooth raw pixels", "constant", "constant channels", "grey"],
)
@pytest.mark.parametrize("geometry", [STEM, SMALL])
@pytest.mark.parametrize("lam", [0.00625, 0.1, 1.6])
def test_ill_conditioned_images_keep_their_gradient(input: Tensor, geometry: PatchGeometry, lam: float) -> None:
    """Float32 rounding of ``G`` alone makes errors of 3e-5 on such images."""
    patches = sliced_patches(input, geometry)[0].double()
    gradient = (torch.randn(8, len(patches), generator=torch.Generator().manual_seed(1)).double() @ patches)[None]
    with from_spectra():
        found = primal_gradient(input, gradient, len(patches), lam, geometry)
    matrix = regularise((patches.T @ patches)[None] / len(patches), lam)
    expected = torch.linalg.solve(matrix, gradient.mT).mT
    assert (found - expected).norm() <= 1e-7 * expected.norm()


@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 3000))
def test_the_transform_is_long_enough_and_quick(kernel: int, stride: int, more: int) -> None:
    axis = Axis(kernel + more, kernel, stride, 0)
    size = rest = spectral.transform_size(axis)
    assert size >= axis.outputs + 2 * axis.reach
    assert size % 2 == 0
    for prime in (2, 3, 5):
        while rest % prime == 0:
            rest //= prime
    assert rest == 1
    assert size <= 1.15 * (axis.outputs + 2 * axis.reach) + 2


def most_bytes(call: Callable[[], Tensor]) -> int:
    """Bytes that are allocated at the same time, beyond the result."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = call()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    used = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        used += event.nbytes()
        most = max(most, used)
    # What is left is the result, so that no allocation was missed.
    assert used == result.nbytes
    return most - result.nbytes


def test_a_twentieth_of_the_memory_of_patches_is_enough() -> None:
    input = torch.ones(16, 3, 224, 224)
    padded, unfolded = 16 * 3 * 230 * 230, 16 * 112 * 112 * 147
    with from_spectra():
        assert most_bytes(lambda: gram(input, STEM)) <= 4 * (padded + unfolded) / 20


@pytest.mark.parametrize("shape", [(3, 112, 112), (3, 224, 224), (3, 9, 48, 48)])
def test_memory_does_not_grow_with_the_batch(shape: tuple[int, ...]) -> None:
    geometry = STEM if len(shape) == 3 else PatchGeometry((3, 5, 5), (3, 2, 2), (1, 2, 2), (1, 1, 1))
    batch = math.ceil(2**21 / math.prod(shape))
    few, many = torch.ones(batch, *shape), torch.ones(3 * batch, *shape)
    with from_spectra(2**15):
        assert most_bytes(lambda: gram(many, geometry)) <= 1.1 * most_bytes(lambda: gram(few, geometry)) < 6e6
