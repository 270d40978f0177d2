"""Promise 2: the new gradient equals the float64 reference, for every geometry, through the joint graph."""

import pytest
import torch
from torch import nn

from support.marks import codegen, vectorised
from support.oracle import error, tract_gradients
from support.training import gradients
from support.works import works
from tract_fx import tract_backend

LAM = 0.1
FLOAT32 = 1e-5  # the promise of the project for float32


class Stem(nn.Module):
    """A first layer, a non-linearity and a head, so that gradients of the pre-activations are not trivial."""

    def __init__(self, layer: nn.Module, features: int) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(features, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.layer(x)
        if isinstance(self.layer, nn.Linear):
            return self.head(torch.tanh(z))
        return self.head(torch.tanh(z).flatten(-spatial_dims(self.layer)).mean(-1))


def spatial_dims(layer: nn.Module) -> int:
    return len(layer.kernel_size)


CASES = {
    "linear": (nn.Linear(6, 5), (16, 6)),
    "linear, no bias": (nn.Linear(6, 5, bias=False), (16, 6)),
    "linear, 3d": (nn.Linear(6, 5), (4, 7, 6)),
    "linear, 3d, no bias": (nn.Linear(6, 5, bias=False), (4, 7, 6)),
    "linear, 4d": (nn.Linear(6, 5), (2, 3, 4, 6)),
    # At most one number for each sample: first layers where nothing else is fed, and none beside the others.
    "condition, 1d": (nn.Linear(6, 5), (6,)),
    "linear, dual": (nn.Linear(40, 5), (7, 40)),
    "linear, one row": (nn.Linear(40, 5), (1, 40)),
    "linear, one row, small": (nn.Linear(6, 5), (1, 6)),
    "linear, one output": (nn.Linear(6, 1), (9, 6)),
    "linear, one row, one output": (nn.Linear(6, 1), (1, 6)),
    "condition, one feature": (nn.Linear(1, 5), (9, 1)),
    "condition, one feature, one row": (nn.Linear(1, 5), (1, 1)),
    "condition, all one": (nn.Linear(1, 1), (1, 1)),
    "conv1d": (nn.Conv1d(3, 5, 4, stride=2, padding=1), (4, 3, 17)),
    "conv2d": (nn.Conv2d(3, 5, 3, padding=1), (4, 3, 9, 8)),
    "conv2d, no bias": (nn.Conv2d(3, 5, 3, padding=1, bias=False), (4, 3, 9, 8)),
    "conv2d, same": (nn.Conv2d(3, 5, 4, padding="same"), (4, 3, 9, 8)),
    "conv2d, stride": (nn.Conv2d(3, 5, (3, 2), stride=(2, 3), padding=(1, 0)), (4, 3, 9, 8)),
    "conv2d, dilation": (nn.Conv2d(3, 5, 3, dilation=(2, 1)), (4, 3, 9, 8)),
    "conv2d, groups": (nn.Conv2d(6, 8, 3, groups=2, padding=1), (4, 6, 9, 8)),
    "conv2d, depthwise": (nn.Conv2d(4, 8, 3, groups=4), (4, 4, 9, 8)),
    "conv2d, patchify": (nn.Conv2d(3, 5, 4, stride=4), (4, 3, 12, 8)),
    "conv2d, pointwise": (nn.Conv2d(3, 5, 1), (4, 3, 9, 8)),
    "conv2d, reflect": (nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect"), (4, 3, 9, 8)),
    "conv2d, dual": (nn.Conv2d(3, 5, 4, stride=4), (2, 3, 12, 8)),
    "conv2d, dual, groups": (nn.Conv2d(4, 6, 4, stride=4, groups=2), (2, 4, 12, 8)),
    "conv2d, one image": (nn.Conv2d(3, 5, 8, stride=8), (1, 3, 8, 8)),
    "conv2d, unbatched": (nn.Conv2d(3, 5, 3), (3, 9, 8)),
    "conv3d": (nn.Conv3d(2, 5, (2, 3, 3), stride=(1, 2, 1), padding=(0, 1, 1)), (2, 2, 5, 7, 6)),
}


def make(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    layer, shape = CASES[name]
    model = Stem(layer, layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)
    return model, torch.randn(shape)


@pytest.mark.parametrize("name", CASES)
def test_gradient_equals_reference(name: str) -> None:
    check(name, "aot_eager")


# To Inductor they are what others of the cases are.
ONLY_ON_THE_GRAPH = [
    f"conv2d, {what}" for what in ("no bias", "stride", "dilation", "depthwise", "reflect", "one image")
]


class Stems(nn.Module):
    """Several networks beside one another, in one graph: what each of them is given by Inductor takes seconds alone."""

    def __init__(self, stems: list[nn.Module]) -> None:
        super().__init__()
        self.stems = nn.ModuleList(stems)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat([stem(x).flatten() for stem, x in zip(self.stems, inputs, strict=True)])


@works("convolutions")
@works("products")
@codegen
@pytest.mark.parametrize(
    "kind",
    [
        "linear",
        "condition",
        pytest.param("conv1d", marks=vectorised),
        "conv2d",
        pytest.param("conv3d", marks=vectorised),
    ],
)
def test_gradient_equals_reference_through_generated_code(kind: str) -> None:
    cases = {name: make(name) for name in CASES if name.startswith(kind) and name not in ONLY_ON_THE_GRAPH}
    model, inputs = Stems([stem for stem, _ in cases.values()]), [x for _, x in cases.values()]
    layers = [f"stems.{index}.layer" for index in range(len(cases))]
    backend = tract_backend(LAM)
    found = gradients(model, inputs, backend)
    expected = tract_gradients(model, inputs, layers, LAM)
    assert sorted(match.layer for match in backend.matches) == sorted(layers)
    for name, layer in zip(cases, layers, strict=True):
        assert error(found[f"{layer}.weight"], expected[layer]) <= FLOAT32, name


def check(name: str, inner: str) -> None:
    model, x = make(name)
    backend = tract_backend(LAM, inner=inner)
    found = gradients(model, [x], backend)
    expected = tract_gradients(model, [x], ["layer"], LAM)
    assert [match.layer for match in backend.matches] == ["layer"]
    assert error(found["layer.weight"], expected["layer"]) <= FLOAT32
