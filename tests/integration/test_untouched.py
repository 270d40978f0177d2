"""Promise 1: only the first layer's weight gradient changes."""

import pytest
import torch
from torch import nn

from support.marks import INNERS, vectorised
from support.training import gradients
from support.works import works
from tract_fx import tract_backend

pytestmark = vectorised


def convnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 5),
    )


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 5))


class Attention(nn.Module):
    """Patch embedding, one attention block and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 2, stride=2)
        self.position = nn.Parameter(torch.randn(1, 9, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(self.patch(x).flatten(2).transpose(1, 2) + self.position).mean(1))


MODELS = {
    "convnet": (convnet, "0.weight", (4, 3, 9, 9)),
    "mlp": (mlp, "1.weight", (20, 3, 4, 4)),
    "attention": (Attention, "patch.weight", (4, 3, 6, 6)),
}


@works("untouched")
@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize("name", MODELS)
def test_only_the_first_weight_gradient_changes(name: str, inner: str) -> None:
    """Bitwise, on the CPU, under both: the generated kernels of everything else are the same.

    But for the bias of a convolution, which is no longer summed with the gradient of its weight.
    """
    make, first, shape = MODELS[name]
    torch.manual_seed(0)
    model, x = make(), torch.randn(shape)
    plain = gradients(model, [x], inner)
    again = gradients(model, [x], inner)
    tract = gradients(model, [x], tract_backend(0.1, inner=inner))
    assert plain.keys() == tract.keys()
    assert not torch.allclose(plain[first], tract[first], rtol=1e-2)
    assert all(torch.equal(plain[key], again[key]) for key in plain), "the comparison means nothing"
    changed = {key for key in plain if not torch.equal(plain[key], tract[key])}
    bias = first.replace("weight", "bias")
    assert {first} <= changed <= ({first} if name == "mlp" else {first, bias})
    assert torch.allclose(tract[bias], plain[bias], rtol=1e-5, atol=1e-6)
