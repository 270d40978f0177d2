"""From a geometry to a launch of :mod:`tract_fx.ops.gpu.kernels`: addresses, splits, workspace.

Triton is imported at the first launch, not with this module.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from typing import Any

import torch
from torch import Tensor

from tract_fx.ops.gpu.configs import TileConfig, candidates, chosen, tuned, width_class
from tract_fx.ops.patches import PatchGeometry

__all__ = [
    "Device",
    "LaunchPlan",
    "configuration",
    "is_triton_usable",
    "launched",
    "plan",
]

PRODUCTS = {
    torch.float64: "float64",
    torch.float32: "float64",
    torch.bfloat16: "float32",
    torch.float16: "float32",
}

# The AMD GPUs for which the kernels are known to compile, and what stands for their compute capability here.
AMD_ARCHITECTURE, AMD_CAPABILITY = "gfx942", (94, 2)

# Compute capabilities at which float64 has matrix instructions of its own; at the others it is 32 or 64 times slower than
# float32.
FAST_FLOAT64 = ((8, 0), (9, 0), (10, 0), AMD_CAPABILITY)

# Rows that are summed in float32; see the kernels.
ROWS_PER_SUM = 256
# A split has a multiple of so many rows, and at least twice as many.
SPLIT_STEP = 64

# Programs for each multiprocessor, if tiles were as wide as this: several waves, so that the last one matters little.
PROGRAMS_PER_MULTIPROCESSOR = 4
NOMINAL_BLOCK = 64

# Sums of splits take at most so many bytes, or as much as the result if that is more.
WORKSPACE_BYTES = 2**25

# Elements of the workspace that one program of the reduction has at once.
REDUCED_AT_ONCE = 2048

LARGEST_INT32 = 2**31 - 1
# Sizes for whose values no kernel is compiled.
NOT_SPECIALISED = ("rows", "rows_per_split")


@dataclasses.dataclass(frozen=True)
class Device:
    """What a plan depends on."""

    multiprocessors: int
    capability: tuple[int, int] = (9, 0)

    @classmethod
    def of(cls, tensor: Tensor) -> Device:
        """That of a tensor; on a CPU one that Triton's interpreter stands for."""
        if tensor.device.type == "cpu":
            return cls(2)
        return _present_device(tensor.device)

    @property
    def has_fast_float64(self) -> bool:
        """Whether sums and products of float64 cost about as much as those of float32."""
        return self.capability in FAST_FLOAT64


@functools.cache
def _present_device(device: torch.device) -> Device:
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip is not None:
        return Device(properties.multi_processor_count, AMD_CAPABILITY)
    return Device(properties.multi_processor_count, (properties.major, properties.minor))


@dataclasses.dataclass(frozen=True)
class LaunchPlan:
    """Arguments of the kernels.

    Attributes:
        sizes: arguments that are not constants of the compiled kernel, by name.
        constants: those that are, except for the ones that a :class:`TileConfig` has.
        splits: number of parts of the rows.
    """

    sizes: dict[str, int]
    constants: dict[str, Any]
    splits: int

    @functools.cached_property
    def kernel(self) -> tuple[Any, ...]:
        """What decides which compiled kernel runs, and over which tiles; two plans with the same need one check."""
        sizes = {name: size for name, size in self.sizes.items() if name not in NOT_SPECIALISED}
        special = tuple((size == 1, size % 16 == 0, size > LARGEST_INT32) for size in sizes.values())
        return tuple(self.constants.values()), self.features, self.outputs, special

    @property
    def features(self) -> int:
        """``n``, of one group."""
        return self.sizes["features"]

    @property
    def channels(self) -> int:
        """Of the image, of one group."""
        return self.features // math.prod(self.constants["KERNEL"])

    @property
    def groups(self) -> int:
        """Number of groups."""
        return self.constants["GROUPS"]

    @property
    def outputs(self) -> int:
        """``m``, of one group."""
        return self.sizes["output_features"]

    @property
    def width(self) -> int:
        """Columns of the workspace."""
        return self.features * self.constants["GRAM"] + self.outputs * self.constants["GRADIENT"]

    def programs(self, block: int, tiles: int) -> int:
        """Number of programs with so wide tiles, and so many of those of ``X^T X`` in a program."""
        blocks = -(-self.features // block)
        of_gram = -(-(blocks * (blocks + 1) // 2) // tiles) * self.constants["GRAM"]
        of_gradient = blocks * -(-self.outputs // block) * self.constants["GRADIENT"]
        return (of_gram + of_gradient) * self.groups * self.splits


def is_triton_usable(input: Tensor) -> bool:
    """Whether the kernels can run: a GPU they compile for, a dtype they know, and Triton.

    They compile for NVIDIA GPUs of compute capability 8.0 or later and for AMD's gfx942.
    """
    return (
        input.device.type == "cuda"
        and input.dtype in PRODUCTS
        and can_import_triton()
        and _is_known_architecture(input.device)
    )


def _is_known_architecture(device: torch.device) -> bool:
    if torch.version.hip is None:
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.cuda.get_device_properties(device).gcnArchName.partition(":")[0] == AMD_ARCHITECTURE


@functools.cache
def can_import_triton() -> bool:
    """Whether Triton is installed and works."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


def launched(
    input: Tensor, output_gradient: Tensor | None, planned: LaunchPlan, config: TileConfig | None
) -> tuple[Tensor, ...]:
    """The sums that a plan is for, on the device of the input; without a configuration, with the fastest one measured."""
    with torch.cuda.device(input.device) if input.device.type == "cuda" else contextlib.nullcontext():
        return _launch(input, output_gradient, planned, config)


def configuration() -> TileConfig:
    """That of the latest launch without one."""
    return chosen(_kernels()[1])


def _launch(
    input: Tensor, output_gradient: Tensor | None, plan: LaunchPlan, config: TileConfig | None
) -> tuple[Tensor, ...]:
    partial_gram, tuned_partial_gram, reduce_splits = _kernels()
    features, groups = plan.features, plan.groups

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float64, device=input.device)

    workspace = empty(plan.splits, groups, features, plan.width)
    others = [input if output_gradient is None else output_gradient]
    scales = _scales([input, *others[: output_gradient is not None]]) if plan.constants["SCALED"] else None
    pointers = input, *others, input if scales is None else scales, workspace
    # Triton is about to change its default, and says so at each call that leaves it open.
    arguments = {**plan.sizes, **plan.constants, "enable_fp_fusion": True}
    if config is None:
        grid = lambda meta: (plan.programs(meta["BLOCK"], meta["TILES"]),)  # noqa: E731
        tuned_partial_gram[grid](*pointers, **arguments)
    else:
        partial_gram[(plan.programs(config.block, config.tiles),)](
            *pointers,
            **arguments,
            BLOCK=config.block,
            TILES=config.tiles,
            num_warps=config.warps,
            num_stages=config.stages,
        )
    wanted = {name: plan.constants[name] for name in ("GRAM", "GRADIENT")}
    gram = empty(groups, features, features) if wanted["GRAM"] else workspace
    gradient = empty(groups, plan.outputs, features) if wanted["GRADIENT"] else workspace
    entries = groups * features * plan.width
    at_once, block = reduction_blocks(plan.splits)
    reduce_splits[(-(-entries // block),)](
        workspace, gram, gradient, plan.splits, entries, features, plan.outputs, plan.channels, **wanted,
        RUN=plan.constants["RUN"], SPLITS=at_once, BLOCK=block, enable_fp_fusion=True,
    )  # fmt: skip
    if scales is not None:
        of_input, *of_outputs = scales.to(torch.float64).unbind()
        gram /= of_input * of_input
        if of_outputs:
            gradient /= of_input * of_outputs[0]
    return tuple(result for name, result in zip(wanted, (gram, gradient), strict=True) if wanted[name])


def _scales(tensors: list[Tensor]) -> Tensor:
    """Powers of two that bring the largest element of each tensor to about 1, in float32; 1 if it is zero or not finite."""
    largest = torch.stack([torch.linalg.vector_norm(tensor, math.inf) for tensor in tensors])
    exponent = -torch.ceil(torch.log2(largest)).clamp(-126, 126)
    return torch.where(largest.isfinite() & (largest > 0), torch.exp2(exponent), 1.0).to(torch.float32)


@functools.cache
def _kernels() -> tuple[Any, Any, Any]:
    from tract_fx.ops.gpu import kernels

    return kernels.partial_gram, tuned(kernels.partial_gram), kernels.reduce_splits


def reduction_blocks(splits: int) -> tuple[int, int]:
    """``SPLITS`` and ``BLOCK`` of the kernel that adds splits."""
    at_once = min(128, 2 ** math.ceil(math.log2(splits)))
    return at_once, min(256, REDUCED_AT_ONCE // at_once)


def plan(
    input: Tensor,
    geometry: PatchGeometry,
    device: Device,
    output_gradient: Tensor | None = None,
    *,
    gram: bool = True,
) -> LaunchPlan:
    """Arguments for tensors that are not empty; made once for each shape and layout."""
    outputs = None if output_gradient is None else _Described.of(output_gradient)
    return _planned(_Described.of(input), geometry, device, outputs, gram)


@dataclasses.dataclass(frozen=True)
class _Described:
    """What a plan depends on of a tensor. The stride of a dimension of size 1 can be anything, and is 0 here."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> _Described:
        strides = (stride if extent > 1 else 0 for extent, stride in zip(tensor.shape, tensor.stride(), strict=True))
        return cls(tuple(tensor.shape), tuple(strides), tensor.dtype)


@functools.lru_cache(maxsize=256)
def _planned(
    input: _Described,
    geometry: PatchGeometry,
    device: Device,
    output_gradient: _Described | None,
    gram: bool,
) -> LaunchPlan:
    leading = 3 - len(geometry.kernel_size)
    ones, zeros = (1,) * leading, (0,) * leading
    kernel, step = ones + geometry.kernel_size, ones + geometry.stride
    padding, dilation = zeros + geometry.padding, ones + geometry.dilation
    batch, channels = input.shape[:2]
    size = ones + tuple(input.shape[2:])
    strides = input.strides
    stride = zeros + tuple(strides[2:])
    output = tuple(
        (extent + 2 * width - reach * (offsets - 1) - 1) // move + 1
        for extent, width, reach, offsets, move in zip(size, padding, dilation, kernel, step, strict=True)
    )
    rows, features = batch * math.prod(output), geometry.features(channels)
    channels_out = 0 if output_gradient is None else output_gradient.shape[1]
    output_strides = _output_strides(output_gradient, leading)
    compensated = not device.has_fast_float64 and input.dtype != torch.float64
    products = "ieee" if compensated and input.dtype == torch.float32 else PRODUCTS[input.dtype]
    reshaped = all(
        offsets == move and width == 0 and (reach == 1 or offsets == 1)
        for offsets, move, width, reach in zip(kernel, step, padding, dilation, strict=True)
    )
    bits = sum(offsets for offsets, width in zip(kernel, padding, strict=True) if width)
    farthest = (batch - 1) * strides[0] + (channels - 1) * strides[1]
    farthest += sum((extent + 2 * width) * s for extent, width, s in zip(size, padding, stride, strict=True))
    farthest_output = (batch - 1) * output_strides[0] + channels_out * output_strides[1]
    farthest_output += sum(extent * s for extent, s in zip(output, output_strides[2:], strict=True))
    outputs = channels_out // geometry.groups
    of_group = channels // geometry.groups
    # Where all channels of a pixel lie together, and pixels of a line one behind the other.
    run = of_group * kernel[2] if reshaped and geometry.groups == 1 and (strides[1], stride[2]) == (1, channels) else 0
    constants = {
        "GROUPS": geometry.groups,
        "KERNEL": kernel,
        "STEP": step,
        "PADDING": padding,
        "DILATION": dilation,
        "FLAT": math.prod(output) == 1,
        "RESHAPED": reshaped,
        "RUN": run,
        "MARKED": 0 < bits <= 30,
        "ROWS_FIRST": not reshaped and are_rows_first(),
        "OUTPUT_ROWS_FIRST": output_strides[1] != 1 and are_rows_first(),
        "WIDE": max(farthest, farthest_output, 2 * rows) > LARGEST_INT32,
        "GRAM": gram,
        "GRADIENT": output_gradient is not None,
        "PRODUCTS": products,
        "COMPENSATED": compensated,
        "SCALED": compensated and input.dtype == torch.float32,
        "ROWS": 64 if reshaped and products == "float32" else 32,
        "ROWS_PER_SUM": ROWS_PER_SUM,
        "WIDTH": width_class(features),
        "LAYOUT": int(strides[1] == 1) + 2 * int(output_strides[1] == 1),
        "CAPABILITY": 10 * device.capability[0] + device.capability[1],
    }
    # The same for every configuration, so that the fastest of them can be taken without changing a bit.
    best_guess = candidates(constants, device.capability[0])[0]
    rows_per_split = split_rows(
        rows, features, geometry.groups, device.multiprocessors, outputs, gram=gram, at_once=best_guess.tiles
    )
    axes = list(zip("zyx", output, size, stride, strict=True))
    return LaunchPlan(
        sizes={
            "rows": rows,
            "rows_per_split": rows_per_split,
            "features": features,
            "output_features": outputs,
            **{f"outputs_{axis}": value for axis, value, _, _ in axes},
            **{f"size_{axis}": value for axis, _, value, _ in axes},
            "stride_group": of_group * strides[1],
            "stride_batch": strides[0],
            "stride_channel": strides[1],
            **{f"stride_{axis}": value for axis, _, _, value in axes},
            "output_stride_group": outputs * output_strides[1],
            "output_stride_batch": output_strides[0],
            "output_stride_channel": output_strides[1],
            **{f"output_stride_{axis}": stride for axis, stride in zip("zyx", output_strides[2:], strict=True)},
        },
        constants=constants,
        splits=-(-rows // rows_per_split),
    )


def _output_strides(output_gradient: _Described | None, leading: int) -> tuple[int, ...]:
    """Of ``(image, channel, z, y, x)``."""
    if output_gradient is None:
        return (0,) * 5
    batch, channel, *spatial = output_gradient.strides
    return batch, channel, *(0,) * leading, *spatial


def split_rows(
    rows: int,
    features: int,
    groups: int,
    multiprocessors: int,
    outputs: int = 0,
    *,
    gram: bool = True,
    at_once: int = 1,
) -> int:
    """Rows of a split, so that programs fill the device a few times.

    It does not depend on the width of tiles, so that this may be tuned without changing a bit. Where programs have several
    tiles of ``X^T X`` ``at_once``, they are as many fewer, and one of them takes a whole multiprocessor.
    """
    blocks = -(-features // NOMINAL_BLOCK)
    tiles = -(-blocks * (blocks + 1) // (2 * at_once)) * gram + blocks * -(-outputs // NOMINAL_BLOCK)
    wanted = PROGRAMS_PER_MULTIPROCESSOR * multiprocessors // (groups * tiles)
    possible = WORKSPACE_BYTES // (8 * groups * features * (features * gram + outputs))
    splits = max(1, min(wanted, possible))
    return max(2, -(-rows // (splits * SPLIT_STEP))) * SPLIT_STEP


@functools.cache
def are_rows_first() -> bool:
    """Whether the compiler lets neighbouring threads load neighbours along a tile's first axis if it has no reason.

    Triton 3.6 takes the first, 3.9 the last; a wrong guess is slower by a factor of about two.
    """
    import triton

    return tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 7)
