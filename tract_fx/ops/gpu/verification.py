"""A check of the Triton kernels on the device that is to run them, before anything is trained with them.

Compilers and hardware differ; a wrong covariance would train quietly and badly. So the first call for each compiled kernel,
which has chosen the fastest configuration, computes the sums of its first images both ways: with that kernel in that
configuration, and as products of patches in memory. Later calls run what was found to be right without another question.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import warnings
from typing import Any

import torch
from torch import Tensor

from tract_fx.errors import TractWarning
from tract_fx.ops.cpu.gradient import add_gradient
from tract_fx.ops.cpu.plain import write_plain
from tract_fx.ops.gpu import launch
from tract_fx.ops.gpu.configs import TileConfig
from tract_fx.ops.gpu.launch import Device, LaunchPlan, plan
from tract_fx.ops.patches import PatchGeometry

__all__ = ["checked_sums", "is_capturing"]

log = logging.getLogger(__name__)

# Elements of the patches of the images that are compared.
MOST_ELEMENTS = 2**22
# Differences relative to the norms of the two columns that are multiplied: of sums in float64, and of sums of
# `ROWS_PER_SUM` rows in float32, whose products may be rounded too.
TOLERANCE = {"float64": 1e-12}
TOLERANCE_FLOAT32 = 2e-5


def checked_sums(
    input: Tensor, output_gradient: Tensor | None, geometry: PatchGeometry, *, gram: bool = True
) -> tuple[Tensor, ...] | None:
    """``X^T X``, unless ``gram`` is false, and ``dZ^T X`` if there is ``dZ``, of each group, in float64.

    None if the kernels may not be used for these tensors. Where float64 is slow, products of float32 numbers are rounded.

    While a CUDA graph is captured nothing can be checked: a kernel that was not checked before is not used, with a warning.

    Args:
        input: on a GPU, or anywhere in Triton's interpreter; not empty.
        output_gradient: of the dtype of ``input``; None where ``X^T X`` alone is wanted.
        geometry: the layer's geometry.
        gram: whether ``X^T X`` is wanted.
    """
    planned = plan(input, geometry, Device.of(input), output_gradient, gram=gram)
    key, checked = (input.device, input.dtype, planned.kernel), _checked()
    if key in checked:
        config = checked[key]
        return None if config is None else launch.launched(input, output_gradient, planned, config)
    if is_capturing(input.device):
        _warn("were not checked yet", input, "Run a step like this one before you capture it.")
        return None
    try:
        found = launch.launched(input, output_gradient, planned, None)
        config = launch.configuration()
        checked[key] = config if _is_right(input, output_gradient, geometry, planned, config) else None
        problem = "give another result than a product of patches"
    except Exception as error:  # whatever a compiler or driver may raise: there is another way, and the user is told
        log.debug("the kernels failed their check", exc_info=True)
        checked[key], problem = None, f"fail ({type(error).__name__}: {error})"
    if checked[key] is not None:
        return found
    _warn(problem, input, "Please report this.")
    return None


def is_capturing(device: torch.device) -> bool:
    """Whether what is queued on the device becomes part of a CUDA graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


@functools.cache
def _checked() -> dict[Any, TileConfig | None]:
    """The configuration of each kernel that was checked; None for one that is wrong."""
    return {}


def _warn(problem: str, input: Tensor, advice: str) -> None:
    warnings.warn(
        f"The Triton kernels of the first layer's gradient {problem} on {input.device} in {input.dtype}; PyTorch's own "
        f"products, which need more time and memory, take their place. {advice}",
        TractWarning,
        stacklevel=3,
    )


def _is_right(
    input: Tensor, output_gradient: Tensor | None, geometry: PatchGeometry, planned: LaunchPlan, config: TileConfig
) -> bool:
    """Whether the sums of the first images are those of their patches."""
    count = _images(planned, len(input))
    images = _telling(input[:count])
    outputs = None if output_gradient is None else _telling(output_gradient[:count])
    gram = planned.constants["GRAM"]
    few = plan(images, geometry, Device.of(input), outputs, gram=gram)
    found = launch.launched(images, outputs, _as_planned(few, planned), config)
    products = _products(images, images if outputs is None else outputs, geometry, planned)
    pixels = products[0].diagonal(dim1=1, dim2=2).sqrt()
    expected = [(products[0], pixels)] * gram
    if outputs is not None:
        norms = torch.linalg.vector_norm(_by_group(outputs, geometry.groups).to(torch.float64), dim=2)
        expected.append((products[1], norms))
    tolerance = TOLERANCE.get(planned.constants["PRODUCTS"], TOLERANCE_FLOAT32)
    return all(
        bool(((sums - right).abs() <= tolerance * norms[:, :, None] * pixels[:, None, :]).all())
        for sums, (right, norms) in zip(found, expected, strict=True)
    )


def _images(planned: LaunchPlan, batch: int) -> int:
    """How many images are compared: at least one."""
    elements = planned.sizes["rows"] // batch * planned.features * planned.groups
    return max(1, min(batch, MOST_ELEMENTS // elements))


def _telling(tensor: Tensor) -> Tensor:
    """A tensor itself; or noise in its layout, where zeros or overflow would hide what is wrong."""
    if tensor.isfinite().all() and tensor.any():
        return tensor
    shape = [size if stride else 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)]
    noise = torch.empty_strided(shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    return noise.copy_(torch.randn(shape, generator=torch.Generator().manual_seed(0))).expand(tensor.shape)


def _as_planned(few: LaunchPlan, planned: LaunchPlan) -> LaunchPlan:
    """The plan for some of the images, for the very kernel that runs for all of them."""
    strides = {name: planned.sizes[name] for name in ("stride_batch", "output_stride_batch")}
    return dataclasses.replace(few, sizes={**few.sizes, **strides}, constants=planned.constants)


def _products(images: Tensor, outputs: Tensor, geometry: PatchGeometry, planned: LaunchPlan) -> tuple[Tensor, Tensor]:
    """``X^T X`` and ``dZ^T X`` by group, from blocks of patches in memory."""
    groups, features = planned.groups, planned.features
    gram = images.new_zeros((groups, features, features), dtype=torch.float64)
    gradient = images.new_zeros((groups, planned.outputs, features), dtype=torch.float64)
    for group, channels in enumerate(images.unflatten(1, (groups, -1)).unbind(1)):
        write_plain(gram[group], channels, geometry)
        if planned.constants["GRADIENT"]:
            add_gradient(gradient[group], channels, outputs.unflatten(1, (groups, -1))[:, group], geometry)
    return gram, gradient


def _by_group(outputs: Tensor, groups: int) -> Tensor:
    """``dZ`` as ``(groups, m, rows)``."""
    flat = outputs.unflatten(1, (groups, -1)).flatten(3) if outputs.dim() > 2 else outputs.unflatten(1, (groups, -1, 1))
    return flat.permute(1, 2, 0, 3).flatten(2)
