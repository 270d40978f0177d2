"""The Triton kernels against patches taken by slicing; ``test_kernels.py`` runs this in Triton's interpreter.

Integers whose sums float64 holds exactly, and float32 within ``ROWS_PER_SUM`` rows, leave nothing to tolerate.
"""

import os

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from support import interpreter
from support.generated import examples
from support.patch_shapes import Layer, expected_gram, layers, pixels, square
from support.triton_sums import triton_gram, with_products
from tract_fx.ops.gpu import configs, launch
from tract_fx.ops.gpu.configs import TileConfig
from tract_fx.ops.gpu.launch import Device, launched, plan
from tract_fx.ops.patches import LINEAR, PatchGeometry

assert os.environ.get("TRITON_INTERPRET") == "1", "run by test_kernels.py"
interpreter.repair()

SMALL, LARGE, THREE = TileConfig(16, 1), TileConfig(64, 8), TileConfig(64, 8, tiles=3)
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def found_gram(input: torch.Tensor, geometry: PatchGeometry, config: TileConfig = LARGE) -> torch.Tensor:
    return triton_gram(input, geometry, config)


def check(input: torch.Tensor, geometry: PatchGeometry, config: TileConfig = LARGE) -> None:
    found = found_gram(input, geometry, config)
    assert found.dtype == torch.float64
    assert torch.equal(found, expected_gram(input, geometry))
    assert torch.equal(found, found.mT)


@examples(25)
@given(layers(), st.sampled_from(DTYPES), st.sampled_from([TileConfig(16, 1), TileConfig(32, 4), LARGE]))
@example(Layer((1, 1, 1, 2), PatchGeometry((1, 2), (5, 1), (2, 0), (1, 1))), torch.float32, LARGE)
def test_any_layer(layer: Layer, dtype: torch.dtype, config: TileConfig) -> None:
    if layer.geometry.features(layer.shape[1]) > 32:
        config = LARGE  # programs are slow here
    check(pixels(layer.shape, dtype), layer.geometry, config)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "geometry"),
    [
        ((300, 37), LINEAR),
        ((3, 3, 16, 20), square(4, 4, 0)),
        ((3, 3, 18, 17), square(4, 4, 0)),
        ((2, 3, 13, 9), square(3, 1, 1)),
        ((2, 4, 12, 11), square(3, 2, 2, dilation=2, groups=2)),
        ((2, 3, 20, 20), square(3, 5, 0)),
        ((3, 2, 40), PatchGeometry((5,), (2,), (4,), (3,))),
        ((2, 2, 4, 7, 6), PatchGeometry((2, 3, 3), (1, 2, 1), (1, 1, 0), (1, 1, 2))),
        ((70, 2, 4, 4), square(4, 4, 0)),
        ((40, 1, 3, 3), square(5, 1, 1)),
        ((5, 3, 7, 7), square(1, 1, 0)),
        ((1, 1, 60, 2), PatchGeometry((33, 1), (1, 1), (17, 0), (1, 1))),
    ],
)
def test_each_kind_of_layer(shape: tuple[int, ...], geometry: PatchGeometry, dtype: torch.dtype) -> None:
    """Rows beyond a block and a split, features beyond a tile, one output, more offsets than bits for marks."""
    check(pixels(shape, dtype), geometry)


def test_these_kinds_take_every_path() -> None:
    constants = [
        plan(torch.empty(shape), geometry, Device(2)).constants
        for shape, geometry in [
            ((300, 37), LINEAR),
            ((70, 2, 4, 4), square(4, 4, 0)),
            ((40, 1, 3, 3), square(5, 1, 1)),
            ((2, 3, 13, 9), square(3, 1, 1)),
            ((1, 1, 60, 2), PatchGeometry((33, 1), (1, 1), (17, 0), (1, 1))),
            ((2, 3, 20, 20), square(3, 5, 0)),
        ]
    ]
    found = {tuple(item[key] for key in ("FLAT", "RESHAPED", "MARKED")) for item in constants}
    assert found == {
        (True, True, False),
        (True, False, True),
        (False, False, True),
        (False, False, False),
    }


@pytest.mark.parametrize("features", [15, 16, 17, 33, 49, 64, 65, 97])
def test_tails_of_tiles(features: int) -> None:
    """Each number of blocks, even and odd, has each pair of blocks once."""
    check(pixels((70, features)), LINEAR, SMALL)


@pytest.mark.parametrize("rows", [1, 31, 64, 65, 127, 129, 256, 257, 1025])
def test_tails_of_rows(rows: int) -> None:
    check(pixels((rows, 3)), LINEAR, SMALL)
    check(pixels((rows, 3), torch.float16), LINEAR, SMALL)


@pytest.mark.parametrize("config", [THREE, LARGE])
@pytest.mark.parametrize(
    ("shape", "geometry"),
    [((2, 3, 14, 13), square(7, 2, 3)), ((2, 3, 9, 9), square(5, 1, 2)), ((2, 3, 17, 16), square(8, 3, 0))],
)
@pytest.mark.parametrize("dtype", [torch.float16])
def test_three_tiles_at_once(
    shape: tuple[int, ...], geometry: PatchGeometry, dtype: torch.dtype, config: TileConfig
) -> None:
    check(pixels(shape, dtype), geometry, config)


@pytest.mark.parametrize("rows_first", [False, True])
def test_either_orientation_of_a_tile(rows_first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "are_rows_first", lambda: rows_first)
    for dtype in (torch.float32, torch.float16):
        check(pixels((2, 3, 9, 8), dtype), square(3, 1, 1))
        check(pixels((1, 1, 40, 2), dtype), PatchGeometry((33, 1), (1, 1), (17, 0), (1, 1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_64_bit_offsets(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "LARGEST_INT32", 0)
    check(pixels((2, 4, 9, 8), dtype), square(3, 1, 1, groups=2))
    check(pixels((2, 3, 17, 16), dtype), square(8, 3, 0), THREE if dtype == torch.float16 else LARGE)
    check(pixels((130, 20), dtype), LINEAR)


@pytest.mark.parametrize("geometry", [square(3, 2, 1, groups=2), square(2, 2, 0)])
def test_memory_layout_does_not_matter(geometry: PatchGeometry) -> None:
    input = pixels((2, 4, 10, 8))
    transposed = torch.zeros(8, 10, 4, 2).permute(3, 2, 1, 0).copy_(input)
    check(input.to(memory_format=torch.channels_last), geometry)
    check(transposed, geometry)
    check(pixels((4, 8, 20, 16))[1::2, ::2, ::2, ::2], geometry)
    check(input[:1].expand(3, -1, -1, -1), geometry)
    check(pixels((20, 70)).T, LINEAR)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_the_same_bits_each_time_and_for_every_tile(dtype: torch.dtype) -> None:
    """What is tuned is only how, so that another winner is not another result."""
    input = torch.randn(3, 3, 11, 10, generator=torch.Generator().manual_seed(0)).to(dtype)
    geometry = square(3, 1, 1)
    first = found_gram(input, geometry, LARGE)
    assert torch.equal(first, first.mT)
    assert torch.equal(found_gram(input, geometry, LARGE), first)
    tolerance = 1e-13 if dtype != torch.float16 else 1e-6
    for config in (TileConfig(32, 4), THREE if dtype == torch.float16 else SMALL):
        found = found_gram(input, geometry, config)
        # NumPy orders a product's sum by its shape, a GPU by its instruction: only there the bits are the same.
        assert (found - first).abs().max() <= tolerance * first.abs().max()


def test_while_a_graph_is_captured_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert configs.measure(lambda: pytest.fail("it ran"), (0.5, 0.2, 0.8)) == [0.0] * 3


def test_without_memory_to_measure_the_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr("triton.testing.do_bench", fail)
    assert configs.measure(lambda: None, (0.5, 0.2, 0.8)) == [float("inf")] * 3


def test_sums_in_half_precision_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than some 258 rows of 255 and the like have a sum of squares that float32 does not hold."""
    monkeypatch.setattr(launch, "PROGRAMS_PER_MULTIPROCESSOR", 1)  # 1024 rows in each of two splits
    input = 255 - torch.randint(0, 2, (2048, 2), generator=torch.Generator().manual_seed(0)).to(torch.float16)
    check(input, LINEAR)
    convolution = PatchGeometry((1, 2), (1, 3), (0, 0), (1, 1))
    check(input.view(1, 1, 2048, 2), convolution)
    check(input.view(1, 1, 2048, 2), convolution, THREE)


@pytest.mark.parametrize("config", [LARGE, THREE])
def test_nothing_outside_of_the_input_is_read(config: TileConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU that could be an illegal access, here it goes unnoticed."""
    inputs: list[torch.Tensor] = []
    load = interpreter.triton_interpreter().InterpreterBuilder.create_masked_load

    def watched(self, addresses, mask, *rest):
        if addresses.get_element_ty().name == "fp16":
            read = addresses.data[mask.data]
            first = inputs[0].data_ptr()
            assert ((read >= first) & (read < first + inputs[0].nbytes)).all()
        return load(self, addresses, mask, *rest)

    monkeypatch.setattr(interpreter.triton_interpreter().InterpreterBuilder, "create_masked_load", watched)
    for shape, geometry in [
        ((2, 3, 9, 8), square(3, 2, 1)),
        ((2, 3, 9, 8), square(3, 2, 0)),
        ((2, 3, 9, 9), square(3, 3, 0)),
        ((1, 1, 40, 2), PatchGeometry((33, 1), (1, 1), (17, 0), (1, 1))),
    ]:
        inputs[:] = [pixels(shape, torch.float16)]
        check(inputs[0], geometry, config)


def test_products_of_float32_numbers_are_exact() -> None:
    input = 1 + torch.randint(0, 2**23, (300, 5), generator=torch.Generator().manual_seed(0)).float() * 2.0**-23
    found, expected = found_gram(input, LINEAR), expected_gram(input, LINEAR)
    assert (found - expected).abs().max() <= 1e-14 * expected.abs().max()
    (rounded,) = launched(input, None, with_products(plan(input, LINEAR, Device.of(input)), "ieee"), LARGE)
    assert (rounded - expected).abs().max() > 1e-9 * expected.max()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("shape", "geometry"), [((2, 2, 9, 8), square(3, 1, 1)), ((2, 2, 9, 8), square(3, 3, 0)), ((70, 20), LINEAR)]
)
def test_exactly_the_entries_of_a_broken_pixel_are_not_finite(
    shape: tuple[int, ...], geometry: PatchGeometry, value: float
) -> None:
    """Features that do not exist, and rows beyond the last, are not read from somewhere else."""
    input = torch.ones(shape)
    input.view(-1)[-9] = value
    assert torch.equal(found_gram(input, geometry).isfinite(), expected_gram(input, geometry).isfinite())


def test_scales_that_overflow_or_vanish_when_squared_in_float32() -> None:
    input = torch.randn(2, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    unit = found_gram(input, square(3, 1, 1))
    for exponent in (-100, 100):
        assert torch.equal(found_gram(input * 2.0**exponent, square(3, 1, 1)), unit * 2.0 ** (2 * exponent))


def test_neighbours_of_the_input_in_memory_are_left_out() -> None:
    """A view of the middle of a tensor full of NaN."""
    around = torch.full((4, 4, 14, 14), float("nan"))
    around[1:3, 1:3, 3:11, 3:11] = pixels((2, 2, 8, 8))
    for geometry in (square(3, 1, 2), square(2, 2, 0), square(3, 2, 0)):
        check(around[1:3, 1:3, 3:11, 3:11], geometry)
