"""From a geometry to a launch of :mod:`tract_fx.ops.gpu.kernels`: addresses, splits, workspace.

Triton is imported at the first launch, not with this module.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import torch
from torch import Tensor

from tract_fx.ops.gpu.configs import TileConfig, tuned, width_class
from tract_fx.ops.patches import PatchGeometry

__all__ = ["LaunchPlan", "is_triton_usable", "plan", "triton_gram"]

PRODUCTS = {
    torch.float64: "float64",
    torch.float32: "float64",
    torch.bfloat16: "float32",
    torch.float16: "float32",
}

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

    @property
    def features(self) -> int:
        """``n``, of one group."""
        return self.sizes["features"]

    @property
    def groups(self) -> int:
        """Number of groups."""
        return self.constants["GROUPS"]

    def programs(self, block: int, tiles: int) -> int:
        """Number of programs with so wide tiles, and so many of them in a program."""
        blocks = -(-self.features // block)
        return -(-(blocks * (blocks + 1) // 2) // tiles) * self.groups * self.splits


def is_triton_usable(input: Tensor) -> bool:
    """Whether the kernels can run: an NVIDIA GPU of compute capability 8.0 or later, a dtype they know, and Triton."""
    return (
        input.device.type == "cuda"
        and torch.version.hip is None
        and input.dtype in PRODUCTS
        and can_import_triton()
        and torch.cuda.get_device_capability(input.device) >= (8, 0)
    )


@functools.cache
def can_import_triton() -> bool:
    """Whether Triton is installed and works."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


def triton_gram(
    input: Tensor, geometry: PatchGeometry, *, products: str | None = None, config: TileConfig | None = None
) -> Tensor:
    """``X^T X`` of each group, as of :func:`tract_fx.ops.gram.patch_gram`.

    Args:
        input: on a GPU, or anywhere in Triton's interpreter; not empty.
        geometry: the layer's geometry.
        products: the kernel's ``PRODUCTS``, by default the one that is exact for the dtype. ``"tf32x3"`` and ``"ieee"``
            are for float32 inputs that are standardised; on raw pixels their error is too large.
        config: how to run the kernel, by default the fastest way measured.

    Returns:
        ``(groups, n, n)`` in float64.
    """
    if input.device.type == "cpu":
        return _launch(input, plan(input, geometry, products, multiprocessors=2), config)
    properties = torch.cuda.get_device_properties(input.device)
    with torch.cuda.device(input.device):
        return _launch(input, plan(input, geometry, products, properties.multi_processor_count), config)


def _launch(input: Tensor, plan: LaunchPlan, config: TileConfig | None) -> Tensor:
    partial_gram, tuned_partial_gram, reduce_splits = _kernels()
    features = plan.features
    shape = plan.groups, features, features
    workspace = torch.empty((plan.splits, *shape), dtype=torch.float64, device=input.device)
    # Triton is about to change its default, and says so at each call that leaves it open.
    arguments = {**plan.sizes, **plan.constants, "enable_fp_fusion": True}
    if config is None:
        grid = lambda meta: (plan.programs(meta["BLOCK"], meta["TILES"]),)  # noqa: E731
        tuned_partial_gram[grid](input, workspace, **arguments)
    else:
        partial_gram[(plan.programs(config.block, config.tiles),)](
            input,
            workspace,
            **arguments,
            BLOCK=config.block,
            TILES=config.tiles,
            num_warps=config.warps,
            num_stages=config.stages,
        )
    result = torch.empty(shape, dtype=torch.float64, device=input.device)
    at_once, block = reduction_blocks(plan.splits)
    reduce_splits[(-(-result.numel() // block),)](
        workspace, result, plan.splits, result.numel(), features, SPLITS=at_once, BLOCK=block, enable_fp_fusion=True
    )
    return result


@functools.cache
def _kernels() -> tuple[Any, Any, Any]:
    from tract_fx.ops.gpu import kernels

    return kernels.partial_gram, tuned(kernels.partial_gram), kernels.reduce_splits


def reduction_blocks(splits: int) -> tuple[int, int]:
    """``SPLITS`` and ``BLOCK`` of the kernel that adds splits."""
    at_once = min(128, 2 ** math.ceil(math.log2(splits)))
    return at_once, min(256, REDUCED_AT_ONCE // at_once)


def plan(input: Tensor, geometry: PatchGeometry, products: str | None, multiprocessors: int) -> LaunchPlan:
    """Arguments for an input that is not empty, on a device with so many multiprocessors."""
    leading = 3 - len(geometry.kernel_size)
    ones, zeros = (1,) * leading, (0,) * leading
    kernel, step = ones + geometry.kernel_size, ones + geometry.stride
    padding, dilation = zeros + geometry.padding, ones + geometry.dilation
    batch, channels = input.shape[:2]
    size = ones + tuple(input.shape[2:])
    # The stride of a dimension of size 1 can be anything.
    strides = [stride if extent > 1 else 0 for extent, stride in zip(input.shape, input.stride(), strict=True)]
    stride = zeros + tuple(strides[2:])
    output = tuple(
        (extent + 2 * width - reach * (offsets - 1) - 1) // move + 1
        for extent, width, reach, offsets, move in zip(size, padding, dilation, kernel, step, strict=True)
    )
    rows, features = batch * math.prod(output), geometry.features(channels)
    products = products or PRODUCTS[input.dtype]
    reshaped = all(
        offsets == move and width == 0 and (reach == 1 or offsets == 1)
        for offsets, move, width, reach in zip(kernel, step, padding, dilation, strict=True)
    )
    bits = sum(offsets for offsets, width in zip(kernel, padding, strict=True) if width)
    farthest = (batch - 1) * strides[0] + (channels - 1) * strides[1]
    farthest += sum((extent + 2 * width) * s for extent, width, s in zip(size, padding, stride, strict=True))
    rows_per_split = split_rows(rows, features, geometry.groups, multiprocessors)
    axes = list(zip("zyx", output, size, stride, strict=True))
    return LaunchPlan(
        sizes={
            "rows": rows,
            "rows_per_split": rows_per_split,
            "features": features,
            **{f"outputs_{axis}": value for axis, value, _, _ in axes},
            **{f"size_{axis}": value for axis, _, value, _ in axes},
            "stride_group": channels // geometry.groups * strides[1],
            "stride_batch": strides[0],
            "stride_channel": strides[1],
            **{f"stride_{axis}": value for axis, _, _, value in axes},
        },
        constants={
            "GROUPS": geometry.groups,
            "KERNEL": kernel,
            "STEP": step,
            "PADDING": padding,
            "DILATION": dilation,
            "FLAT": math.prod(output) == 1,
            "RESHAPED": reshaped,
            "MARKED": 0 < bits <= 30,
            "ROWS_FIRST": not reshaped and are_rows_first(),
            "WIDE": max(farthest, 2 * rows) > LARGEST_INT32,
            "PRODUCTS": products,
            "ROWS": 64 if reshaped and products == "float32" else 32,
            "ROWS_PER_SUM": ROWS_PER_SUM,
            "WIDTH": width_class(features),
        },
        splits=-(-rows // rows_per_split),
    )


def split_rows(rows: int, features: int, groups: int, multiprocessors: int) -> int:
    """Rows of a split; it does not depend on the width of tiles, so that this may be tuned without changing a bit."""
    blocks = -(-features // NOMINAL_BLOCK)
    wanted = PROGRAMS_PER_MULTIPROCESSOR * multiprocessors // (groups * blocks * (blocks + 1) // 2)
    possible = WORKSPACE_BYTES // (8 * groups * features * features)
    splits = max(1, min(wanted, possible))
    return max(2, -(-rows // (splits * SPLIT_STEP))) * SPLIT_STEP


@functools.cache
def are_rows_first() -> bool:
    """Whether the compiler lets neighbouring threads load neighbours along a tile's first axis if it has no reason.

    Triton 3.6 takes the first, 3.9 the last; a wrong guess is slower by a factor of about two.
    """
    import triton

    return tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 7)
