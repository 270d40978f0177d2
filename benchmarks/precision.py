"""How exact is the new gradient on photographs, and what does mixed precision itself cost?

    python -m benchmarks.precision --out benchmarks/results/precision.jsonl

For each first layer and precision, through generated code, scikit-learn's two sample photographs in:

- ``error``: of the new gradient against the float64 closed form of the operands that the layer saw, for each range of
  pixels, the loss being a random weight for each output;
- ``plain_whole`` and ``new_whole``: distance of the plain and of the new gradient to those of the whole model in float64,
  with the cross-entropy of a small classifier on standardised images: what mixed precision itself costs.

Errors are relative, in the Frobenius norm.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.lines import emit
from tract_fx import reference, tract_backend
from tract_fx.environment import environment

LAM = 0.1
OUTPUTS = 64
# Kernel, stride, padding, size and number of images.
LAYERS = [(3, 1, 1, 32, 64), (4, 4, 0, 32, 64), (7, 2, 3, 96, 16), (16, 16, 0, 96, 64)]
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
RANGES = ("standardised", "-1..1", "0..1", "0..255")


class Network(nn.Module):
    """A first layer and either all of its outputs, weighted, or a classifier on top."""

    def __init__(self, layer: nn.Conv2d, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.layer, self.dtype = layer, dtype

    def forward(self, x: Tensor, weights: Tensor | None) -> Tensor:
        """A loss; the cross-entropy of the classifier without ``weights``."""
        with torch.autocast("cpu", self.dtype, enabled=self.dtype is not None):
            z = self.layer(x)
        if weights is not None:
            return (z.to(weights.dtype) * weights).sum()
        scores = torch.tanh(z.to(torch.promote_types(z.dtype, torch.float32))).flatten(2).mean(2)
        return torch.nn.functional.cross_entropy(scores, torch.arange(len(scores)) % OUTPUTS)


def main() -> None:
    """Measure everything and write JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file to which JSON lines are appended")
    parser.add_argument("--inner", default="inductor", help="the compiler (default: inductor)")
    arguments = parser.parse_args()
    for record in records(arguments.inner):
        emit(record, arguments.out)


def records(inner: str) -> Iterator[dict[str, Any]]:
    """One for each layer and precision."""
    where = environment("cpu")
    for kernel, stride, padding, size, count in LAYERS:
        torch.manual_seed(0)
        layer = nn.Conv2d(3, OUTPUTS, kernel, stride=stride, padding=padding)
        images = photographs(count, size)
        for precision, dtype in PRECISIONS.items():
            network = Network(layer, dtype)
            yield {
                "benchmark": "precision",
                "layer": f"{kernel}x{kernel}/{stride}",
                "image": size,
                "batch": count,
                "precision": precision,
                "inner": inner,
                "error": {pixels: own_error(network, in_range(images, pixels), inner) for pixels in RANGES},
                **whole_errors(network, in_range(images, "standardised"), inner),
                **where,
            }


def own_error(network: Network, x: Tensor, inner: str) -> float:
    """Of the new gradient, against the closed form of the operands in the layer's dtype."""
    weights = torch.randn(network.layer(x).shape)
    dtype = network.dtype or torch.float32
    expected = closed_form(network.layer, x.to(dtype), weights.to(dtype))
    return relative(gradient(network, x, weights, tract_backend(LAM, inner=inner)), expected)


def whole_errors(network: Network, x: Tensor, inner: str) -> dict[str, float]:
    """Of the plain and of the new gradient, against those of the whole model in float64."""
    exact = Network(copy.deepcopy(network.layer).double(), None)
    seen: list[Tensor] = []
    exact.layer.register_forward_hook(lambda module, arguments, z: (z.retain_grad(), seen.append(z))[0])
    exact(x.double(), None).backward()
    new = closed_form(exact.layer, x, seen[0].grad)
    return {
        "plain_whole": relative(gradient(network, x, None, inner), exact.layer.weight.grad),
        "new_whole": relative(gradient(network, x, None, tract_backend(LAM, inner=inner)), new),
    }


def gradient(network: Network, x: Tensor, weights: Tensor | None, backend: Any) -> Tensor:
    """Of the layer's weight, after one step of a copy."""
    torch._dynamo.reset()
    twin = copy.deepcopy(network)
    torch.compile(twin, backend=backend)(x, weights).backward()
    return twin.layer.weight.grad


def closed_form(layer: nn.Conv2d, x: Tensor, output_gradient: Tensor) -> Tensor:
    """In float64."""
    return reference.conv_gradient(x, output_gradient, layer.weight, LAM, stride=layer.stride, padding=layer.padding)


def relative(found: Tensor, expected: Tensor) -> float:
    """Error in the Frobenius norm, to three digits."""
    error = ((found.double() - expected).norm() / expected.norm()).item()
    return float(f"{error:.2e}") if math.isfinite(error) else error


def photographs(count: int, size: int) -> Tensor:
    """Crops of both photographs in turn, ``(count, 3, size, size)`` in 0..255."""
    from sklearn.datasets import load_sample_images

    images = [torch.tensor(image).permute(2, 0, 1).float() for image in load_sample_images().images]
    crops = []
    for index in range(count):
        image = images[index % len(images)]
        top, left = (int(torch.randint(side - size + 1, ())) for side in image.shape[1:])
        crops.append(image[:, top : top + size, left : left + size])
    return torch.stack(crops)


def in_range(images: Tensor, pixels: str) -> Tensor:
    """Images of 0..255 in one of :data:`RANGES`."""
    if pixels == "standardised":
        deviation, mean = torch.std_mean(images, dim=(0, 2, 3), keepdim=True)
        return (images - mean) / deviation
    return {"-1..1": images / 127.5 - 1, "0..1": images / 255, "0..255": images}[pixels]


if __name__ == "__main__":
    main()
