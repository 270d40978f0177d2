"""Compiles the Triton kernels for a GPU that is not there, as a launch on it would, and tells what came out."""

import dataclasses
import itertools
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from support.patch_shapes import square
from tract_fx.ops.gpu.configs import TileConfig, candidates
from tract_fx.ops.gpu.launch import Device, LaunchPlan, plan, reduction_blocks
from tract_fx.ops.gpu.small_systems import launch_sizes
from tract_fx.ops.patches import LINEAR, PatchGeometry

# AMD's gfx942 among compute capabilities.
GFX942 = 942
# Bytes of shared memory that one program may have: CUDA's programming guide, and for gfx942 that of CDNA 3.
SHARED_MEMORY = {
    capability: size * 1024
    for capability, size in {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99, GFX942: 64}.items()
}
MULTIPROCESSORS = {80: 108, 86: 82, 89: 128, 90: 132, 100: 148, 120: 170, GFX942: 304}
# Three tiles at once are worth a few registers in local memory.
STACK_BYTES = 160
# Channels of a layer's output, of one group.
OUTPUTS = 64
NAMES = {torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclasses.dataclass(frozen=True)
class Layer:
    """A geometry, and the shape and memory format of an input for it."""

    shape: tuple[int, ...]
    geometry: PatchGeometry
    channels_last: bool = False

    def input(self, dtype: torch.dtype) -> torch.Tensor:
        """A tensor without memory."""
        input = torch.empty(self.shape, dtype=dtype, device="meta")
        return input.contiguous(memory_format=torch.channels_last) if self.channels_last else input

    def output_gradient(self, input: torch.Tensor) -> torch.Tensor:
        """``dZ`` of so many outputs for an input, without memory and in its memory format."""
        shape = input.shape[0], OUTPUTS * self.geometry.groups, *self.geometry.outputs(input.shape[2:])
        result = torch.empty(shape, dtype=input.dtype, device="meta")
        return result.contiguous(memory_format=torch.channels_last) if self.channels_last else result


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What a kernel needs, and its matrix instructions."""

    registers: int
    stack: int
    shared: int
    instructions: frozenset[str]


# For each of the widths that have configurations of their own, one layer that gathers and one that is a reshape.
LAYERS = {
    "1x1 n=3": Layer((128, 3, 32, 32), square(1, 1, 0)),
    "3x1x1 n=9": Layer((4, 3, 8, 64, 64), PatchGeometry((3, 1, 1), (1, 1, 1), (1, 0, 0), (1, 1, 1))),
    "2x2/2 n=12": Layer((128, 3, 32, 32), square(2, 2, 0)),
    "3x3 n=27": Layer((128, 3, 32, 32), square(3, 1, 1)),
    "3x3/3 n=27": Layer((128, 3, 33, 33), square(3, 3, 0)),
    "audio 10/5 n=10": Layer((8, 1, 16000), PatchGeometry((10,), (5,), (0,), (1,))),
    "4x4/4 n=48": Layer((128, 3, 32, 32), square(4, 4, 0)),
    "4x4/2 n=48": Layer((128, 3, 32, 32), square(4, 2, 1)),
    "5x5 n=75": Layer((32, 3, 64, 64), square(5, 1, 2)),
    "6x6/6 n=108": Layer((32, 3, 66, 66), square(6, 6, 0)),
    "7x7/2 n=147": Layer((256, 3, 224, 224), square(7, 2, 3)),
    "7x7/2 channels last": Layer((256, 3, 224, 224), square(7, 2, 3), channels_last=True),
    "8x8/8 n=192": Layer((64, 3, 224, 224), square(8, 8, 0)),
    "3x3 grouped": Layer((8, 64, 56, 56), square(3, 1, 1, groups=2)),
    "3x3 dilated": Layer((8, 32, 56, 56), square(3, 1, 2, dilation=2)),
    "31x31/2 n=2883": Layer((4, 3, 224, 224), square(31, 2, 15)),
    "16x16/16 n=768": Layer((64, 3, 224, 224), square(16, 16, 0)),
    "16x16/16 channels last": Layer((64, 3, 224, 224), square(16, 16, 0), channels_last=True),
    "4x4/4 channels last": Layer((128, 3, 32, 32), square(4, 4, 0), channels_last=True),
    "14x14/14 channels last": Layer((64, 3, 224, 224), square(14, 14, 0), channels_last=True),
    "16x16/8 n=768": Layer((64, 3, 224, 224), square(16, 8, 0)),
    "2x14x14 n=1176": Layer((8, 3, 4, 224, 224), PatchGeometry((2, 14, 14), (2, 14, 14), (0,) * 3, (1,) * 3)),
    "linear n=3072": Layer((1024, 3072), LINEAR),
    "linear n=20": Layer((100_000, 20), LINEAR),
    "wide offsets": Layer((16384, 3, 224, 224), square(7, 2, 3)),
}


def combinations(capability: int, dtype: torch.dtype, name: str) -> Iterator[tuple[LaunchPlan, TileConfig]]:
    """A layer's launch with each configuration that is tried for it."""
    layer = LAYERS[name]
    device = Device(MULTIPROCESSORS[capability], divmod(capability, 10))
    input = layer.input(dtype)
    launch = plan(input, layer.geometry, device, layer.output_gradient(input))
    for config in candidates(launch.constants, capability // 10):
        yield launch, config


def compile_gram(launch: LaunchPlan, dtype: torch.dtype, config: TileConfig, capability: int) -> Compiled:
    """The kernel that sums tiles, specialised as Triton's launcher does: see :func:`specialised`."""
    from tract_fx.ops.gpu.kernels import partial_gram

    constants = {**launch.constants, "BLOCK": config.block, "TILES": config.tiles}
    pointers = {"input": NAMES[dtype], "output_gradient": NAMES[dtype], "scales": "fp32", "workspace": "fp64"}
    source = specialised(partial_gram, pointers, launch.sizes, constants, {"rows", "rows_per_split"})
    return compiled(source, capability, num_warps=config.warps, num_stages=config.stages)


def compile_reduction(launch: LaunchPlan, capability: int) -> Compiled:
    """The kernel that adds splits."""
    from tract_fx.ops.gpu.kernels import reduce_splits

    at_once, block = reduction_blocks(launch.splits)
    entries = launch.groups * launch.features * launch.width
    sizes = {
        "splits": launch.splits,
        "entries": entries,
        "features": launch.features,
        "output_features": launch.outputs,
        "channels": launch.channels,
    }
    pointers = {"workspace": "fp64", "gram": "fp64", "gradient": "fp64"}
    constants = {
        "SPLITS": at_once,
        "BLOCK": block,
        **{name: launch.constants[name] for name in ("GRAM", "GRADIENT", "RUN")},
    }
    return compiled(specialised(reduce_splits, pointers, sizes, constants, {"splits", "entries"}), capability)


def compile_elimination(features: int, capability: int) -> Compiled:
    """The kernel that solves a small system of so many features."""
    from tract_fx.ops.gpu.elimination import eliminate

    constants, warps = launch_sizes(features)
    pointers = {**dict.fromkeys(("matrix", "gradient", "solution"), "fp64"), "info": "i32"}
    source = specialised(eliminate, pointers, {"n": features, "m": OUTPUTS}, constants, {"n", "m"})
    return compiled(source, capability, num_warps=warps)


def specialised(
    kernel: Any, pointers: dict[str, str], sizes: dict[str, int], constants: dict[str, Any], as_given: set[str]
) -> ASTSource:
    """What is compiled for these arguments: a 1 is a constant, and multiples of 16 are known to be."""
    constants = {**constants, **{name: 1 for name, size in sizes.items() if size == 1 and name not in as_given}}
    signature, attributes = {}, {}
    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in pointers:
            signature[name] = f"*{pointers[name]}"
        else:
            signature[name] = "i32" if sizes[name] < 2**31 else "i64"
        if name in pointers or (signature[name] != "constexpr" and name not in as_given and sizes[name] % 16 == 0):
            attributes[(index,)] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, constants, attributes)


def compiled(source: ASTSource, capability: int, **options: int) -> Compiled:
    if capability == GFX942:
        return compiled_for_amd(source, **options)
    target = GPUTarget("cuda", capability, 32)
    result = triton.compile(source, target=target, options={**options, "enable_fp_fusion": True})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(result.asm["cubin"])
        program = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        usage = subprocess.run([program, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    ((registers, stack),) = re.findall(r"REG:(\d+) STACK:(\d+)", usage)
    instructions = re.findall(r"\b((?:wgmma\.mma_async|mma)\.sync\.[\w.]+|tcgen05\.mma\.[\w.:]+)", result.asm["ptx"])
    return Compiled(int(registers), int(stack), result.metadata.shared, frozenset(instructions))


def compiled_for_amd(source: ASTSource, **options: int) -> Compiled:
    """The same for gfx942: what its assembler tells of registers and of memory that belongs to a thread."""
    target = GPUTarget("hip", "gfx942", 64)
    result = triton.compile(source, target=target, options={**options, "enable_fp_fusion": True})
    assembly = result.asm["amdgcn"]
    registers, stack = (
        max(int(size) for size in re.findall(rf"\.{name}:\s+(\d+)", assembly))
        for name in ("vgpr_count", "private_segment_fixed_size")
    )
    instructions = re.findall(r"\b(v_mfma_\w+)", assembly)
    return Compiled(registers, stack, result.metadata.shared, frozenset(instructions))


def unfit(found: Compiled, capability: int, most_stack: int = STACK_BYTES) -> list[str]:
    """Of what a kernel has too much."""
    result = []
    if found.shared > SHARED_MEMORY[capability]:
        result.append(f"{found.shared} bytes of shared memory")
    if found.stack > most_stack:
        result.append(f"{found.stack} bytes of registers in local memory")
    return result


def complaints(found: Compiled, dtype: torch.dtype, config: TileConfig, capability: int) -> list[str]:
    """What is wrong with a compiled kernel for sums, if anything."""
    result = unfit(found, capability)
    half = dtype.itemsize == 2
    if capability == GFX942:
        kinds = {torch.bfloat16: "_bf16", torch.float16: "_f16"}.get(dtype, "_f64")
        right = found.instructions and all(kinds in name for name in found.instructions)
        return [*result, *([] if right else [f"matrix instructions {sorted(found.instructions)}"])]
    if dtype == torch.float32 and not Device(1, divmod(capability, 10)).has_fast_float64:
        return [*result, *(["matrix instructions for float32"] if found.instructions else [])]
    if capability == 100 and not half and not found.instructions:
        return result  # Triton 3.6 knows none in float64 for it
    inputs = {torch.bfloat16: ".f32.bf16.bf16", torch.float16: ".f32.f16.f16"}.get(dtype, ".f64.f64.f64.f64")
    wide = half and config.block >= 64
    wanted = {90: "wgmma.", 100: "tcgen05."}.get(capability, "mma.") if wide else "mma."
    if wanted == "tcgen05.":
        inputs = "kind::f16"
    if not found.instructions or not all(name.startswith(wanted) and inputs in name for name in found.instructions):
        result.append(f"matrix instructions {sorted(found.instructions)}")
    return result


def every_case() -> list[tuple[int, torch.dtype, str]]:
    return list(itertools.product(SHARED_MEMORY, NAMES, LAYERS))
