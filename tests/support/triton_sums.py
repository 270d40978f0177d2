"""The sums of the Triton kernels as they are, without the check before their first use."""

import dataclasses

import torch
from torch import Tensor

from tract_fx.ops.gpu.configs import TileConfig
from tract_fx.ops.gpu.launch import Device, LaunchPlan, launched, plan
from tract_fx.ops.patches import PatchGeometry


def triton_gram(input: Tensor, geometry: PatchGeometry, config: TileConfig | None = None) -> Tensor:
    """``X^T X`` of each group; without a configuration, with the fastest one measured."""
    (gram,) = triton_sums(input, None, geometry, config)
    return gram


def triton_sums(
    input: Tensor,
    output_gradient: Tensor | None,
    geometry: PatchGeometry,
    config: TileConfig | None = None,
    device: Device | None = None,
    *,
    gram: bool = True,
) -> tuple[Tensor, ...]:
    """``X^T X``, unless ``gram`` is false, and ``dZ^T X`` if there is a ``dZ``, of each group.

    The launch is planned for ``device``, by default the input's own.
    """
    planned = plan(input, geometry, device or Device.of(input), output_gradient, gram=gram)
    if input.dtype == torch.bfloat16 and input.device.type == "cpu":
        # The interpreter multiplies the bits of bfloat16 numbers, so these are converted before.
        planned = with_products(planned, "ieee")
    return launched(input, output_gradient, planned, config)


def with_products(planned: LaunchPlan, products: str) -> LaunchPlan:
    """A plan with another ``PRODUCTS`` than the one for its dtype and device."""
    return dataclasses.replace(planned, constants={**planned.constants, "PRODUCTS": products})
