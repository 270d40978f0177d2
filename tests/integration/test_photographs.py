"""On photographs, in every precision: the new gradient is the float64 closed form of the operands that the layer saw."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from support.marks import codegen
from support.oracle import error, layer_gradient
from support.photographs import RANGES, photographs
from support.works import works
from tract_fx import TrAct, tract_backend

LAM = 0.1
FLOAT32, MIXED = 1e-5, 1e-4
# Half of the distance between 1 and the next number, of the result.
ROUNDING = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


def patches(x: torch.Tensor) -> torch.Tensor:
    """Of 4 x 4 pixels, as rows."""
    return x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(3)


# Layer, number and size of photographs, and how the layer is given them.
LAYERS: dict[str, tuple[Callable[[], nn.Module], int, int, Callable[[Tensor], Tensor]]] = {
    "3x3": (lambda: nn.Conv2d(3, 16, 3, padding=1), 8, 32, lambda x: x),
    "4x4/4": (lambda: nn.Conv2d(3, 16, 4, stride=4), 16, 32, lambda x: x),
    "7x7/2": (lambda: nn.Conv2d(3, 16, 7, stride=2, padding=3, bias=False), 4, 96, lambda x: x),
    "16x16/16": (lambda: nn.Conv2d(3, 24, 16, stride=16), 32, 96, lambda x: x),
    "linear": (lambda: nn.Linear(48, 16), 16, 32, patches),
    "grouped": (lambda: nn.Conv2d(3, 12, 5, groups=3), 8, 32, lambda x: x),
    "conv 1d": (lambda: nn.Conv1d(3, 16, 9, stride=2), 16, 32, lambda x: x.flatten(2)),
    "conv 3d": (lambda: nn.Conv3d(3, 8, 3, padding=1), 2, 32, lambda x: torch.stack([x, x.roll(1, 3), x.roll(1, 2)], 2)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 4, stride=2, padding=1), 8, 16, lambda x: x),
    "latent codes": (lambda: nn.ConvTranspose2d(48, 8, 4), 64, 4, lambda x: x.flatten(1)[..., None, None]),
}  # fmt: skip
# With fewer rows than features: the dual form.
FEW_ROWS: dict[str, tuple[Callable[[], nn.Module], int, int, Callable[[Tensor], Tensor]]] = {
    "16x16/16, few rows": (lambda: nn.Conv2d(3, 8, 16, stride=16), 2, 64, lambda x: x),
    "grouped, few rows": (lambda: nn.Conv2d(3, 12, 8, stride=8, groups=3), 3, 32, lambda x: x),
    "linear, few rows": (lambda: nn.Linear(768, 8), 6, 16, lambda x: x.flatten(1)),
}


class Network(nn.Module):
    """A layer and a loss that pays regard to every output: random weights of them, or a small classifier's entropy."""

    def __init__(self, layer: nn.Module, random: bool, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.layer, self.random, self.dtype = layer, random, dtype

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        with torch.autocast("cpu", self.dtype, enabled=self.dtype is not None):
            z = self.layer(x)
            self.seen(z)
        if self.random:
            return (z.float() * weights).sum()
        channels = z.movedim(-1, 1) if isinstance(self.layer, nn.Linear) else z
        scores = torch.tanh(channels.float()).flatten(2).mean(2)
        return torch.nn.functional.cross_entropy(scores, torch.arange(len(scores)) % scores.shape[1])

    def seen(self, z: Tensor) -> None:
        pass


def check(
    name: str,
    pixels: str,
    random: bool,
    autocast: torch.dtype | None,
    backend: Any,
    module: Any = None,
    relative: bool = False,
) -> float:
    """The error against the closed form of the operands in the dtype that the layer has them in."""
    torch.manual_seed(0)
    make, count, size, arrange = (LAYERS | FEW_ROWS)[name]
    network = Network(make().to(module or torch.float32), random, autocast)
    x = arrange(photographs(count, size, pixels)).to(module or torch.float32)
    weights = torch.randn_like(network.layer(x).float())
    found = copy.deepcopy(network)
    torch._dynamo.reset()
    call = torch.compile(found, backend=backend) if backend else found
    if backend is None:
        found.layer = TrAct(found.layer, LAM, relative=relative)
    call(x, weights).backward()
    gradient = next(p.grad for n, p in found.named_parameters() if n.endswith("weight"))
    # dZ as the layer saw it: of the same network without a compiler, in the dtype of its output.
    kept: list[Tensor] = []
    network.seen = lambda z: (z.retain_grad(), kept.append(z))  # type: ignore[method-assign,assignment]
    network(x, weights).backward()
    dtype = autocast or module or torch.float32
    assert kept[0].dtype == kept[0].grad.dtype == dtype
    assert gradient.dtype == (module or torch.float32)
    return error(gradient, layer_gradient(network.layer, x.to(dtype), kept[0].grad, LAM, relative=relative))


@works("autocast")
@pytest.mark.parametrize("random", [True, False], ids=["random", "loss"])
@pytest.mark.parametrize("pixels", RANGES)
@pytest.mark.parametrize("name", LAYERS)
def test_float32(name: str, pixels: str, random: bool) -> None:
    assert check(name, pixels, random, None, tract_backend(LAM, inner="aot_eager")) <= FLOAT32


@works("autocast")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("random", [True, False], ids=["random", "loss"])
@pytest.mark.parametrize("pixels", ["standardised", "0..255"])
@pytest.mark.parametrize("name", LAYERS)
def test_autocast(name: str, pixels: str, random: bool, dtype: torch.dtype) -> None:
    assert check(name, pixels, random, dtype, tract_backend(LAM, inner="aot_eager")) <= MIXED


@works("low precision")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LAYERS)
def test_narrow_modules_add_the_rounding_of_the_result(name: str, dtype: torch.dtype) -> None:
    backend = tract_backend(LAM, inner="aot_eager")
    assert check(name, "standardised", True, None, backend, dtype) <= ROUNDING[dtype]


@codegen
@works("autocast")
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["3x3", "4x4/4", "7x7/2", "linear"])
def test_generated_code(name: str, dtype: torch.dtype | None) -> None:
    """With weights of the outputs for a loss: generated code keeps what it fuses in wider dtypes than its eager twin."""
    assert check(name, "standardised", True, dtype, tract_backend(LAM)) <= (MIXED if dtype else FLOAT32)


@works("eager")
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pixels", ["standardised", "0..255"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_eager_wrapper(name: str, pixels: str, dtype: torch.dtype | None) -> None:
    assert check(name, pixels, True, dtype, None) <= (MIXED if dtype else FLOAT32)


@pytest.mark.parametrize("how", ["compiled", "eager"])
@pytest.mark.parametrize(("dtype", "pixels"), [(None, "0..255"), (None, "standardised"), (torch.bfloat16, "0..1")])
@pytest.mark.parametrize("name", ["3x3", "16x16/16", "linear", "grouped", *FEW_ROWS])
def test_relative_lam(name: str, pixels: str, dtype: torch.dtype | None, how: str) -> None:
    """In both forms, and on pixels of every range, ``lam`` times the mean of the squared elements of the rows."""
    backend = tract_backend(LAM, relative=True, inner="aot_eager") if how == "compiled" else None
    assert check(name, pixels, True, dtype, backend, relative=True) <= (MIXED if dtype else FLOAT32)


@codegen
@pytest.mark.parametrize("name", ["3x3", "16x16/16, few rows"])
def test_relative_lam_in_generated_code(name: str) -> None:
    assert check(name, "0..255", True, None, tract_backend(LAM, relative=True), relative=True) <= FLOAT32
