"""The Triton kernels compile for GPUs that are not here, into matrix instructions, within what a program may have.

A part of ``python -m tests.gpu.aot``, which takes every configuration of every layer.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch

pytest.importorskip("triton")

from support import ahead_of_time
from support.ahead_of_time import (
    GFX942,
    LAYERS,
    MULTIPROCESSORS,
    SHARED_MEMORY,
    combinations,
    compile_elimination,
    compile_gram,
    compile_reduction,
    complaints,
    every_case,
    unfit,
)
from tract_fx.ops.gpu import launch
from tract_fx.ops.gpu.configs import candidates, every_candidate, width_class


@pytest.fixture(autouse=True, scope="module")
def triton_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    patch = pytest.MonkeyPatch()
    patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
    yield
    patch.undo()


@pytest.mark.parametrize(
    ("capability", "dtype", "name", "number"),
    [
        (80, torch.bfloat16, "7x7/2 n=147", 0),
        (80, torch.float16, "16x16/16 n=768", 0),
        (80, torch.float32, "3x3 n=27", 0),
        (80, torch.float64, "linear n=3072", 3),
        (89, torch.float32, "3x3 n=27", 0),
        (89, torch.bfloat16, "16x16/16 n=768", 0),
        (100, torch.bfloat16, "7x7/2 n=147", 0),
        (120, torch.float32, "7x7/2 n=147", 0),
        (90, torch.bfloat16, "7x7/2 n=147", 0),
        (90, torch.bfloat16, "16x16/16 n=768", 0),
        (90, torch.bfloat16, "6x6/6 n=108", 0),
        (90, torch.float16, "wide offsets", 0),
        (90, torch.float16, "linear n=20", 0),
        (90, torch.float32, "7x7/2 n=147", 0),
        (90, torch.float32, "4x4/4 n=48", 3),
        (90, torch.float64, "3x3 grouped", 0),
        (90, torch.bfloat16, "16x16/16 channels last", 0),
        (80, torch.float16, "14x14/14 channels last", 0),
        (GFX942, torch.bfloat16, "7x7/2 n=147", 0),
        (GFX942, torch.bfloat16, "16x16/16 channels last", 0),
        (GFX942, torch.float32, "3x3 n=27", 0),
    ],
)
def test_a_configuration_is_as_it_should_be(capability: int, dtype: torch.dtype, name: str, number: int) -> None:
    launch, config = list(combinations(capability, dtype, name))[number]
    assert complaints(compile_gram(launch, dtype, config, capability), dtype, config, capability) == []


@pytest.mark.parametrize("capability", [80, 90, GFX942])
def test_the_reduction_keeps_its_registers(capability: int) -> None:
    launch, _ = next(combinations(capability, torch.float32, "4x4/4 channels last"))
    found = compile_reduction(launch, capability)
    assert found.stack <= ahead_of_time.STACK_BYTES
    assert found.shared <= ahead_of_time.SHARED_MEMORY[capability]


@pytest.mark.parametrize("features", [16, 27, 48])
@pytest.mark.parametrize("capability", SHARED_MEMORY)
def test_small_systems_stay_in_registers(capability: int, features: int) -> None:
    assert unfit(compile_elimination(features, capability), capability, most_stack=16) == []


def test_pixels_of_a_reshaped_image_are_loaded_as_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 bytes at once, asynchronously, is what the addressing is made for."""
    sources = []
    monkeypatch.setattr(ahead_of_time, "compiled", lambda source, capability, **options: sources.append(source))
    for name in ("16x16/16 n=768", "16x16/16 channels last", "linear n=3072"):
        planned, config = next(combinations(90, torch.bfloat16, name))
        if name == "16x16/16 n=768":  # dZ in the contiguous format has its channels far apart
            layer = LAYERS[name]
            planned = launch.plan(layer.input(torch.bfloat16), layer.geometry, launch.Device(132))
        compile_gram(planned, torch.bfloat16, config, 90)
        target = ahead_of_time.GPUTarget("cuda", 90, 32)
        ptx = ahead_of_time.triton.compile(sources.pop(), target=target, options={"enable_fp_fusion": True}).asm["ptx"]
        assert "cp.async.cg.shared.global" in ptx, name
        assert "ld.global.b16" not in ptx, name


def test_few_configurations_are_measured_and_all_are_known() -> None:
    for capability, dtype, name in every_case():
        found = [config for _, config in combinations(capability, dtype, name)]
        assert 1 <= len(found) == len(set(found)) <= 8
        assert set(found) <= set(every_candidate())


def test_the_candidates_for_a_layer_have_one_kind_of_matrix_instruction() -> None:
    """A tile of 64 is multiplied by warp groups in 16 bits on sm_90, and a smaller one by warps, see ``complaints``."""
    for capability, dtype, name in every_case():
        kinds = {dtype.itemsize == 2 and config.block >= 64 for _, config in combinations(capability, dtype, name)}
        assert len(kinds) == 1


def test_every_configuration_is_compiled_by_the_command() -> None:
    compiled = {config for case in every_case() for _, config in combinations(*case)}
    assert compiled == set(every_candidate())


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "wide offsets"])  # fewer images need fewer bits
def test_the_number_of_images_is_not_part_of_what_is_tuned_or_compiled(name: str) -> None:
    layer = LAYERS[name]
    few, many = (
        launch.plan(torch.empty(batch, *layer.shape[1:], device="meta"), layer.geometry, launch.Device(132))
        for batch in (8, 24)
    )
    assert few.constants == many.constants
    assert {key: value for key, value in few.sizes.items() if not key.startswith("rows")} == {
        key: value for key, value in many.sizes.items() if not key.startswith("rows")
    }


def test_three_tiles_are_a_whole_triangle() -> None:
    for capability, dtype, name in every_case():
        for planned, config in combinations(capability, dtype, name):
            if config.tiles == 3:
                assert planned.features <= 3 * config.block
                assert not planned.constants["FLAT"]
                assert planned.constants["PRODUCTS"] == "float32"


def test_the_split_is_the_same_for_every_configuration_and_the_workspace_is_bounded() -> None:
    for features, groups, rows in itertools.product((1, 3, 27, 147, 768, 3072), (1, 2, 64), (1, 100, 10_000, 10**7)):
        size = launch.split_rows(rows, features, groups, 132)
        splits = math.ceil(rows / size)
        assert size % launch.SPLIT_STEP == 0
        assert splits == 1 or splits * groups * features**2 * 8 <= launch.WORKSPACE_BYTES


@pytest.mark.parametrize("name", ["3x3 n=27", "4x4/4 n=48", "5x5 n=75", "7x7/2 n=147", "7x7/2 channels last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_programs_of_few_tiles_fill_the_device(name: str, dtype: torch.dtype) -> None:
    """Four times and nearly without a rest, if rows are enough; a program with three tiles takes a multiprocessor."""
    for capability in (80, 90):
        layer = dataclasses.replace(LAYERS[name], shape=(2048, *LAYERS[name].shape[1:]))
        input, device = layer.input(dtype), launch.Device(MULTIPROCESSORS[capability], divmod(capability, 10))
        planned = launch.plan(input, layer.geometry, device, layer.output_gradient(input))
        tiles = candidates(planned.constants, capability // 10)[0].tiles
        waves = planned.programs(64, tiles) / device.multiprocessors
        assert 3.5 <= waves <= 4.0


@pytest.mark.parametrize(
    ("features", "expected"), [(1, 16), (27, 32), (147, 192), (193, 256), (768, 1024), (3072, 4096)]
)
def test_width_classes(features: int, expected: int) -> None:
    assert width_class(features) == expected


def test_offsets_that_need_64_bits_get_them() -> None:
    geometry = LAYERS["7x7/2 n=147"].geometry
    widths = {
        batch: launch.plan(torch.empty(batch, 3, 224, 224, device="meta"), geometry, launch.Device(132)).constants[
            "WIDE"
        ]
        for batch in (14_000, 14_400)
    }
    assert 14_000 * 3 * 224 * 224 < 2**31 < 14_400 * 3 * 224 * 224
    assert widths == {14_000: False, 14_400: True}
    wide = {
        "WIDTH": 192,
        "PRODUCTS": "float32",
        "RESHAPED": False,
        "FLAT": False,
        "WIDE": True,
        "KERNEL": (1, 7, 7),
        "COMPENSATED": False,
    }
    assert candidates({**wide, "WIDE": False}, 9)[0].tiles == 3
    assert all(config.tiles == 1 for config in candidates(wide, 9))
