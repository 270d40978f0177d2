"""The Gram matrix is exact to rounding for every geometry, input and way of computing it."""

import contextlib
import itertools
import math
from collections.abc import Iterator
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from support.generated import examples
from support.patch_shapes import Layer, expected_gram, layers, sliced_patches
from tract_fx.ops import gram as module
from tract_fx.ops.cpu import blocks, spectral
from tract_fx.ops.cpu.plain import write_plain
from tract_fx.ops.cpu.selection import Algorithm, is_spectral_possible, is_toeplitz_possible, select_algorithm
from tract_fx.ops.gram import gram, patch_gram
from tract_fx.ops.patches import LINEAR, PatchGeometry, unfold_patches

DIRECT_WAYS = ("plain", "toeplitz")
WAYS = (*DIRECT_WAYS, "spectral")
POSSIBLE = {"plain": lambda shape, geometry: True, "toeplitz": is_toeplitz_possible, "spectral": is_spectral_possible}
STEM = PatchGeometry((7, 7), (2, 2), (3, 3), (1, 1))
MORE_PADDING_THAN_PIXELS = Layer((1, 1, 1, 2), PatchGeometry((1, 2), (5, 1), (2, 0), (1, 1)))
STEM_ARGUMENTS = ([7, 7], [2, 2], [3, 3], [1, 1], 1)


@contextlib.contextmanager
def computed(way: str, block: int | None = None) -> Iterator[None]:
    """The way to take wherever it is possible, with blocks of about so many elements."""
    with contextlib.ExitStack() as stack:
        if way != "chosen":
            choice = lambda shape, geometry: way if POSSIBLE[way](shape, geometry) else "plain"  # noqa: E731
            stack.enter_context(mock.patch.object(module, "select_algorithm", choice))
        if block is not None:
            stack.enter_context(mock.patch.object(blocks, "PADDED_ELEMENTS", block))
            stack.enter_context(mock.patch.object(spectral, "BAND_ELEMENTS", block))
            sizes = {"BLOCK_ELEMENTS": block, "FEWEST_ROWS": 1, "ROWS_PER_SUM": max(1, block // 8), "TRIANGLE_STEP": 5}
            stack.enter_context(mock.patch.multiple(blocks, **sizes))
        yield


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("way", ["chosen", *DIRECT_WAYS])
@pytest.mark.parametrize("block", [None, 1, 300])
@examples(60)
@given(layers(), st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]), st.integers(0, 2**31))
@example(MORE_PADDING_THAN_PIXELS, torch.float32, 0)
def test_integer_pixels_give_the_exact_matrix(
    way: str, block: int | None, layer: Layer, dtype: torch.dtype, seed: int
) -> None:
    """Sums of integers are exact in float64 in every order, so that nothing has to be allowed for rounding."""
    generator = torch.Generator().manual_seed(seed)
    input = torch.randint(0, 256, layer.shape, generator=generator).to(dtype)
    with computed(way, block):
        assert torch.equal(gram(input, layer.geometry), expected_gram(input, layer.geometry))


@pytest.mark.parametrize("way", ["chosen", *DIRECT_WAYS])
@examples(60)
@given(layers(), st.integers(0, 2**31))
def test_the_matrix_is_symmetric_to_the_last_bit(way: str, layer: Layer, seed: int) -> None:
    # Float64, so that all digits of an input are seen to count.
    input = torch.randn(layer.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with computed(way, 64):
        found = gram(input, layer.geometry)
    assert torch.equal(found, found.mT)
    assert relative_error(found, expected_gram(input, layer.geometry)) < 1e-14 or not found.any()


@pytest.mark.parametrize("way", DIRECT_WAYS)
def test_a_signal_agrees_with_loops(way: str) -> None:
    signal, kernel, stride, padding = [2.0, 3.0, 5.0, 7.0, 11.0, 13.0, 17.0], 4, 2, 3
    padded = [0.0] * padding + signal + [0.0] * padding
    expected = torch.zeros(1, kernel, kernel, dtype=torch.float64)
    for start in range(0, len(padded) - kernel + 1, stride):
        for first, second in itertools.product(range(kernel), repeat=2):
            expected[0, first, second] += padded[start + first] * padded[start + second]
    with computed(way):
        found = gram(torch.tensor(signal).view(1, 1, -1), PatchGeometry((kernel,), (stride,), (padding,), (1,)))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("way", DIRECT_WAYS)
def test_a_video_agrees_with_loops(way: str) -> None:
    sizes, kernel, stride = (3, 4, 5), (2, 3, 2), (1, 1, 2)
    video = torch.randint(0, 9, sizes).double()
    outputs = [(size - width) // step + 1 for size, width, step in zip(sizes, kernel, stride, strict=True)]
    offsets = list(itertools.product(*map(range, kernel)))
    expected = torch.zeros(1, len(offsets), len(offsets), dtype=torch.float64)
    for position in itertools.product(*map(range, outputs)):
        patch = [
            video[tuple(p * s + o for p, s, o in zip(position, stride, offset, strict=True))] for offset in offsets
        ]
        for first, second in itertools.product(range(len(offsets)), repeat=2):
            expected[0, first, second] += patch[first] * patch[second]
    geometry = PatchGeometry(kernel, stride, (0, 0, 0), (1, 1, 1))
    with computed(way):
        assert torch.equal(gram(video[None, None], geometry), expected)


@pytest.mark.parametrize("way", WAYS)
def test_the_error_stays_at_rounding_over_many_rows(way: str) -> None:
    """200704 rows of a sum that only grows: added one after the other they would lose three digits more."""
    input = torch.rand(16, 1, 224, 224)
    geometry = PatchGeometry((3, 3), (2, 2), (1, 1), (1, 1))
    rows = sliced_patches(input, geometry)[0].numpy().astype(np.longdouble)
    expected = np.stack([(rows[:, [column]] * rows).sum(0) for column in range(9)])
    with computed(way):
        found = gram(input, geometry)[0].numpy()
    assert float(np.abs(found - expected).max() / np.abs(expected).max()) < 3e-14


@pytest.mark.parametrize("way", DIRECT_WAYS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@examples(40)
@given(layers(), st.data())
def test_exactly_the_entries_of_a_broken_pixel_are_not_finite(
    way: str, value: float, layer: Layer, data: st.DataObject
) -> None:
    input = torch.ones(layer.shape)
    input.view(-1)[data.draw(st.integers(0, input.numel() - 1))] = value
    with computed(way, 64):
        found = gram(input, layer.geometry)
    assert torch.equal(found.isfinite(), expected_gram(input, layer.geometry).isfinite())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("exponent", [-100, 100])
def test_scales_that_overflow_or_vanish_when_squared_in_float32(way: str, exponent: int) -> None:
    input = torch.randn(2, 3, 20, 20)
    with computed(way):
        unit, scaled = gram(input, STEM), gram(input * 2.0**exponent, STEM)
    assert torch.equal(scaled, unit * 2.0 ** (2 * exponent))
    assert scaled.isfinite().all()
    assert scaled.any()


@pytest.mark.parametrize("shape", [(0, 3, 20, 20), (2, 0, 20, 20), (0, 3, 1, 1)])
def test_no_images_give_zeros(shape: tuple[int, ...]) -> None:
    found = gram(torch.randn(shape), STEM)
    assert torch.equal(found, torch.zeros(1, 49 * shape[1], 49 * shape[1], dtype=torch.float64))


def test_no_rows_of_a_linear_layer_give_zeros() -> None:
    assert torch.equal(gram(torch.randn(0, 5), LINEAR), torch.zeros(1, 5, 5, dtype=torch.float64))


@pytest.mark.parametrize("way", DIRECT_WAYS)
def test_memory_layout_does_not_matter(way: str) -> None:
    input = torch.randint(0, 256, (2, 4, 18, 16)).float()
    geometry = PatchGeometry((5, 3), (2, 1), (2, 1), (1, 1), groups=2)
    transposed = torch.zeros(16, 18, 4, 2).permute(3, 2, 1, 0).copy_(input)
    with computed(way):
        expected = gram(input, geometry)
        assert torch.equal(gram(input.to(memory_format=torch.channels_last), geometry), expected)
        assert torch.equal(gram(transposed, geometry), expected)
        assert torch.equal(gram(input[:1].expand(3, -1, -1, -1), geometry), 3 * gram(input[:1], geometry))


@pytest.mark.parametrize("way", WAYS)
def test_the_input_is_left_alone(way: str) -> None:
    input = torch.randn(2, 3, 16, 16)
    before = input.clone()
    with computed(way):
        gram(input, STEM)
    assert torch.equal(input, before)


@pytest.mark.parametrize(
    ("shape", "arguments"),
    [
        ((2, 3, 16, 16), STEM_ARGUMENTS),
        ((4, 6), ([], [], [], [], 1)),
        ((2, 4, 12), ([3], [1], [1], [2], 2)),
        ((1, 2, 4, 8, 8), ([2, 3, 3], [1, 2, 2], [0, 1, 1], [1, 1, 1], 1)),
        ((0, 3, 16, 16), STEM_ARGUMENTS),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_operator_keeps_what_its_registration_says(
    shape: tuple[int, ...], arguments: tuple[list[int], ...], dtype: torch.dtype
) -> None:
    torch.library.opcheck(patch_gram, (torch.randn(shape).to(dtype), *arguments))


@pytest.mark.parametrize("geometry", [STEM, PatchGeometry((3, 3), (1, 1), (1, 1), (2, 2), groups=3)])
def test_the_traced_operator_has_the_real_shape_for_every_size(geometry: PatchGeometry) -> None:
    traced = make_fx(lambda input: gram(input, geometry), tracing_mode="symbolic")(torch.randn(29, 3, 17, 19))
    (node,) = traced.graph.find_nodes(op="call_function", target=torch.ops.tract_fx.patch_gram.default)
    larger = torch.randn(5, 3, 23, 31)
    found = traced(larger)
    assert torch.equal(found, gram(larger, geometry))
    assert (node.meta["val"].dtype, node.meta["val"].device) == (found.dtype, found.device)
    assert [int(size) for size in node.meta["val"].shape] == list(found.shape)


class LargestTensor(TorchDispatchMode):
    """Remembers the size in bytes of the largest memory that an operator returned."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not any(
            isinstance(arg, torch.Tensor) and arg.untyped_storage().data_ptr() == result.untyped_storage().data_ptr()
            for arg in args
        ):
            self.bytes = max(self.bytes, result.untyped_storage().nbytes())
        return result


def largest_bytes(way: str, input: torch.Tensor, geometry: PatchGeometry) -> int:
    write = write_plain if way == "plain" else getattr(module, f"_write_{way}")
    features = geometry.features(input.shape[1])
    matrix = torch.zeros(features, features, dtype=torch.float64)
    with LargestTensor() as mode:
        write(matrix, input, geometry)
    return mode.bytes


@pytest.mark.parametrize(
    ("way", "shape", "geometry"),
    [
        *[(way, (3, size, size), STEM) for way in WAYS for size in (64, 300)],
        *[(way, (3, 9, 48, 48), PatchGeometry((3, 5, 5), (1, 2, 2), (1, 2, 2), (1,) * 3)) for way in DIRECT_WAYS],
        ("spectral", (3, 9, 48, 48), PatchGeometry((3, 5, 5), (3, 2, 2), (1, 2, 2), (1,) * 3)),
    ],
)
def test_memory_does_not_grow_with_the_batch(way: str, shape: tuple[int, ...], geometry: PatchGeometry) -> None:
    """A padded copy of some images, and a few blocks, here an eighth as large as usual; no matrix of patches."""
    batch = math.ceil(2**19 / math.prod(shape))
    with mock.patch.object(blocks, "PADDED_ELEMENTS", 2**19), mock.patch.object(blocks, "BLOCK_ELEMENTS", 2**16):
        small = largest_bytes(way, torch.ones(batch, *shape), geometry)
        large = largest_bytes(way, torch.ones(3 * batch, *shape), geometry)
    assert large <= 1.1 * small
    assert large < 6e6


def test_the_usual_blocks_are_some_megabytes() -> None:
    input = torch.ones(48, 3, 224, 224)
    assert largest_bytes("plain", input, STEM) < 25e6
    assert largest_bytes("toeplitz", input, STEM) < 25e6
    assert largest_bytes("spectral", input, STEM) < 2e6


def test_memory_of_a_wide_linear_layer_is_bounded() -> None:
    assert largest_bytes("plain", torch.ones(200_000, 32), LINEAR) < 8e6


def test_a_compiled_caller_gets_the_same_matrix() -> None:
    input = torch.randint(0, 256, (2, 3, 20, 20)).float()
    compiled = torch.compile(lambda input: gram(input, STEM) + 1, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(input), expected_gram(input, STEM) + 1)


def test_groups_are_separate() -> None:
    input = torch.randint(0, 256, (2, 4, 9, 9)).float()
    geometry = PatchGeometry((3, 3), (1, 1), (1, 1), (1, 1), groups=2)
    alone = PatchGeometry((3, 3), (1, 1), (1, 1), (1, 1))
    expected = torch.cat([gram(input[:, :2], alone), gram(input[:, 2:], alone)])
    assert torch.equal(gram(input, geometry), expected)


def test_one_row_gives_its_outer_product() -> None:
    input = torch.randn(1, 3, 7, 7)
    row = input.double().flatten()
    found = gram(input, PatchGeometry((7, 7), (2, 2), (0, 0), (1, 1)))
    assert torch.equal(found[0], torch.outer(row, row))


def test_patches_of_rows_and_rows_of_patches_agree() -> None:
    """The matrix of a convolution is that of a linear layer on its rows."""
    input = torch.randint(0, 256, (2, 3, 20, 20)).float()
    assert torch.equal(gram(unfold_patches(input, STEM)[0], LINEAR), gram(input, STEM))


@pytest.mark.parametrize(
    ("shape", "geometry", "way"),
    [
        ((16, 3, 224, 224), STEM, "spectral"),
        ((16, 3, 224, 224), PatchGeometry((11, 11), (4, 4), (2, 2), (1, 1)), "spectral"),
        ((16, 3, 16, 112, 112), PatchGeometry((1, 7, 7), (1, 2, 2), (0, 3, 3), (1, 1, 1)), "spectral"),
        ((4, 3, 16, 112, 112), PatchGeometry((3, 7, 7), (1, 2, 2), (1, 3, 3), (1, 1, 1)), "toeplitz"),
        ((8, 80, 3000), PatchGeometry((3,), (1,), (1,), (1,)), "toeplitz"),
        ((32, 3, 32, 32), PatchGeometry((3, 3), (1, 1), (1, 1), (1, 1)), "plain"),
        ((16, 3, 224, 224), PatchGeometry((16, 16), (16, 16), (0, 0), (1, 1)), "plain"),
        ((1, 3, 8, 8), STEM, "plain"),
        ((8192, 256), LINEAR, "plain"),
    ],
)
def test_the_cheapest_way_is_chosen(shape: tuple[int, ...], geometry: PatchGeometry, way: Algorithm) -> None:
    assert select_algorithm(shape, geometry) == way


@pytest.mark.parametrize(
    ("shape", "geometry"),
    [
        ((16, 3, 224, 224), PatchGeometry((7, 7), (2, 2), (3, 3), (2, 2))),  # dilated
        ((16, 3, 224, 224), PatchGeometry((3, 3), (3, 3), (0, 0), (1, 1))),  # no overlap
        ((16, 3, 5, 224), PatchGeometry((7, 7), (2, 2), (0, 0), (1, 1))),  # no output
        ((16, 512, 28, 28), PatchGeometry((3, 3), (1, 1), (1, 1), (1, 1))),  # hundreds of megabytes of sums
        ((1, 1, 10**6), PatchGeometry((251,), (1,), (0,), (1,))),  # and of shifted signals
    ],
)
def test_where_displacements_do_not_help_patches_are_written(shape: tuple[int, ...], geometry: PatchGeometry) -> None:
    assert not is_toeplitz_possible(shape, geometry)
    assert not is_spectral_possible(shape, geometry)
    assert select_algorithm(shape, geometry) == "plain"
