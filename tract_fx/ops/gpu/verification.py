"""A check of the Triton kernels on the device that is to run them, before anything is trained with them.

Compilers and hardware differ; a wrong covariance would train quietly and badly. So the first call of a process for a
device and a dtype computes the sums of one small layer both ways: with the kernels, and as a product of patches in memory.
"""

from __future__ import annotations

import functools
import logging
import warnings

import torch
from torch import Tensor

from tract_fx.errors import TractWarning
from tract_fx.ops.gpu.configs import TileConfig
from tract_fx.ops.gpu.launch import triton_gram, triton_sums
from tract_fx.ops.patches import PatchGeometry, unfold_patches

__all__ = ["are_kernels_right"]

log = logging.getLogger(__name__)

# Every mask and both kinds of tiles are met: padding, a stride, groups, rows and features that fill no block.
LAYER = PatchGeometry((3, 3), (2, 1), (1, 2), (1, 1), 2)
SHAPE = (2, 6, 9, 11)
OUTPUTS = 10
CONFIG = TileConfig(16, 2)


def are_kernels_right(input: Tensor) -> bool:
    """Whether the kernels may be used for tensors like ``input``: checked at the first call for its device and dtype.

    A capture of a CUDA graph admits no check, so that until there was one the answer is no.
    """
    if input.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return _checked().get((input.device, input.dtype), False)
    if (input.device, input.dtype) not in _checked():
        _checked()[input.device, input.dtype] = _check(input.device, input.dtype)
    return _checked()[input.device, input.dtype]


@functools.cache
def _checked() -> dict[tuple[torch.device, torch.dtype], bool]:
    return {}


def _check(device: torch.device, dtype: torch.dtype, products: str | None = None) -> bool:
    """Small integers, of which no way rounds anything."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(-8, 8, SHAPE, generator=generator).to(device, dtype)
    shape = SHAPE[0], OUTPUTS, *LAYER.outputs(SHAPE[2:])
    outputs = torch.randint(-8, 8, shape, generator=generator).to(device, dtype)
    rows = unfold_patches(pixels, LAYER).to(torch.float64)
    columns = outputs.unflatten(1, (LAYER.groups, -1)).flatten(3).permute(1, 2, 0, 3).flatten(2).to(torch.float64)
    expected = rows.mT @ rows, columns @ rows
    try:
        agree = torch.equal(triton_gram(pixels, LAYER, products=products, config=CONFIG), expected[0])
        if agree:
            sums = triton_sums(pixels, outputs, LAYER, products=products, config=CONFIG)
            agree = all(map(torch.equal, sums, expected))
        problem = "give another result than a product of patches"
    except Exception as error:  # whatever a compiler or driver may raise: there is another way, and the user is told
        log.debug("the kernels failed their check", exc_info=True)
        agree, problem = False, f"fail ({type(error).__name__}: {error})"
    if not agree:
        warnings.warn(
            f"The Triton kernels of the first layer's gradient {problem} on {device} in {dtype}; PyTorch's own products, "
            "which need more time and memory, take their place. Please report this.",
            TractWarning,
            stacklevel=2,
        )
    return agree
