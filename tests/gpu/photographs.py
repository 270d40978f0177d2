"""On photographs and on noise: the gradient is the float64 closed form on the operands that the layer saw.

The promises are those of ``tests/integration/test_photographs.py``. In float32 they hold where float64 is fast; elsewhere
products of float32 numbers are rounded, see ``tract_fx/ops/gpu/kernels.py``.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gpu.models import DEVICE, LAM
from support.oracle import error, layer_gradient
from support.photographs import RANGES, photographs
from tract_fx import tract_backend
from tract_fx.ops.gpu.launch import Device

MIXED, FLOAT32 = 1e-4, 1e-5
# Raw pixels where float64 is slow.
FLOAT32_WITHOUT_FLOAT64 = {"0..255": 1e-4}
KINDS = [*RANGES, "noise"]
FORMATS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
# Layer, number and size of images.
LAYERS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "3x3": (lambda: nn.Conv2d(3, 16, 3, padding=1), 8, 32),
    "4x4/4": (lambda: nn.Conv2d(3, 48, 4, stride=4), 32, 32),
    "7x7/2": (lambda: nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False), 8, 96),
    "16x16/16": (lambda: nn.Conv2d(3, 48, 16, stride=16), 64, 96),
}


class Weighted(nn.Module):
    """A layer, and a sum of its outputs with weights, which are dZ."""

    def __init__(self, layer: nn.Module, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.layer, self.dtype = layer, dtype

    def forward(self, images: Tensor, weights: Tensor) -> Tensor:
        with torch.autocast(DEVICE, self.dtype, enabled=self.dtype is not None):
            outputs = self.layer(images)
        return (outputs.float() * weights).sum()


def images_of(kind: str, count: int, size: int) -> Tensor:
    """``(count, 3, size, size)``."""
    return torch.randn(count, 3, size, size) if kind == "noise" else photographs(count, size, kind)


def found_errors(name: str, dtype: torch.dtype | None, memory: torch.memory_format) -> dict[str, float]:
    """Of the gradient for each kind of image, against the closed form of images and weights in the dtype of the layer."""
    torch.manual_seed(0)
    make, count, size = LAYERS[name]
    network = Weighted(make().to(DEVICE, memory_format=memory), dtype)
    narrow, backend = dtype or torch.float32, tract_backend(LAM)
    compiled, found = torch.compile(network, backend=backend), {}
    for kind in KINDS:
        images = images_of(kind, count, size).to(DEVICE, memory_format=memory)
        # With numbers that the layer's dtype has, dZ is the same wherever the compiler rounds it.
        weights = torch.randn_like(network.layer(images)).to(narrow).float()
        network.zero_grad()
        compiled(images, weights).backward()
        expected = layer_gradient(network.layer, images.to(narrow), weights.to(narrow), LAM)
        found[kind] = error(network.layer.weight.grad, expected)
    assert len(backend.matches) == 1
    return found


def bound(kind: str, dtype: torch.dtype | None) -> float:
    """What is promised on this device."""
    if dtype is not None:
        return MIXED
    slow = DEVICE == "cuda" and not Device.of(torch.empty(0, device=DEVICE)).has_fast_float64
    return FLOAT32_WITHOUT_FLOAT64.get(kind, FLOAT32) if slow else FLOAT32


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16], ids=["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("memory", FORMATS)
@pytest.mark.parametrize("name", LAYERS)
def test_every_kind_of_image(name: str, memory: str, dtype: torch.dtype | None) -> None:
    """In one compiled function, as to compile takes longer than all the rest."""
    errors = found_errors(name, dtype, FORMATS[memory])
    assert {kind: value for kind, value in errors.items() if not value <= bound(kind, dtype)} == {}
