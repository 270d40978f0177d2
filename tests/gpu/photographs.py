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
# Where float64 is slow: standardised and similar pixels, and raw ones.
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


def found_error(name: str, kind: str, dtype: torch.dtype | None, memory: torch.memory_format, **options: str) -> float:
    """Of the gradient, against the closed form of images and weights in the dtype of the layer."""
    torch.manual_seed(0)
    make, count, size = LAYERS[name]
    images = torch.randn(count, 3, size, size) if kind == "noise" else photographs(count, size, kind)
    images = images.to(DEVICE, memory_format=memory)
    network = Weighted(make().to(DEVICE, memory_format=memory), dtype)
    narrow = dtype or torch.float32
    # With numbers that the layer's dtype has, dZ is the same wherever the compiler rounds it.
    weights = torch.randn_like(network.layer(images)).to(narrow).float()
    backend = tract_backend(LAM, **options)
    torch._dynamo.reset()
    torch.compile(network, backend=backend)(images, weights).backward()
    assert len(backend.matches) == 1
    expected = layer_gradient(network.layer, images.to(narrow), weights.to(narrow), LAM)
    return error(network.layer.weight.grad, expected)


def float32_bound(kind: str) -> float:
    """What is promised on this device."""
    slow = DEVICE == "cuda" and not Device.of(torch.empty(0, device=DEVICE)).has_fast_float64
    return max(FLOAT32_WITHOUT_FLOAT64.get(kind, FLOAT32), FLOAT32) if slow else FLOAT32


@pytest.mark.parametrize("memory", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LAYERS)
def test_float32(name: str, kind: str, memory: str) -> None:
    assert found_error(name, kind, None, FORMATS[memory]) <= float32_bound(kind)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LAYERS)
def test_autocast(name: str, kind: str, memory: str, dtype: torch.dtype) -> None:
    assert found_error(name, kind, dtype, FORMATS[memory]) <= MIXED
