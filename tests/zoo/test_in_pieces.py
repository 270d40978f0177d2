"""Models of the zoo that reach the compiler in pieces: every gradient is that of an eager float64 copy.

The first layers' are in closed form, with the operands that the layers saw there; all others are plain.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import timm
import torch
import transformers
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from support.oracle import closed_forms
from support.parts import Part, tract_warnings
from tract_fx import tract_backend

from .diffusion import UNet

pytestmark = pytest.mark.slow

LAM, TOLERANCE = 0.1, 1e-5
# A gradient that is zero but for rounding (the bias of keys) is compared on the scale of the largest one.
FLOOR = 1e-3
Step = Callable[[nn.Module, Tensor], Tensor]


def pixels(size: int, batch: int = 3, channels: int = 3) -> Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


def squared(output: Any) -> Tensor:
    value = getattr(output, "last_hidden_state", output)
    return (value * torch.linspace(0.5, 2, value.numel(), dtype=value.dtype).view_as(value)).square().mean()


def of_output(model: nn.Module, x: Tensor) -> Tensor:
    return squared(model(x))


@dataclasses.dataclass(frozen=True)
class Pieces:
    """A model, what of it is compiled, and its first layers.

    Attributes:
        make: makes the model, in training mode.
        x: the data.
        parts: the modules that are compiled in place.
        first: names of the modules that are first layers.
        step: the loss of a call; it draws what is random.
        told: a part of every warning; None where none is due.
        names: qualified name of the module whose names are used; that of a wrapper without parameters is not.
        tolerance: of all gradients, relative.
    """

    make: Callable[[], nn.Module]
    x: Tensor
    parts: Callable[[nn.Module], Iterable[nn.Module]]
    first: tuple[str, ...]
    step: Step = of_output
    told: str | None = None
    names: str = ""
    tolerance: float = TOLERANCE


class Checkpointed(nn.Module):
    """A block that is checkpointed in the way of the given kind."""

    def __init__(self, block: nn.Module, reentrant: bool) -> None:
        super().__init__()
        self.block, self.reentrant = block, reentrant

    def forward(self, *arguments: Any) -> Any:
        return checkpoint(self.block, *arguments, use_reentrant=self.reentrant)


def timm_vit(reentrant: bool | None = None) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=32, num_classes=5)
    if reentrant is not None:
        model.blocks = nn.Sequential(*(Checkpointed(block, reentrant) for block in model.blocks))
    return model


def timm_convnext(reentrant: bool | None = None) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("test_convnext", num_classes=5)
    if reentrant is not None:
        for stage in model.stages:
            stage.blocks = nn.Sequential(*(Checkpointed(block, reentrant) for block in stage.blocks))
    return model


def transformers_vit() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 37}
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=8, hidden_dropout_prob=0.0)
    return transformers.ViTModel(config, add_pooling_layer=False).train()


class Distilled(nn.Module):
    """A student whose projected output is drawn to that of a frozen teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = timm_vit(), timm_convnext().requires_grad_(False).eval()
        self.projection = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.teacher(x)
        return self.projection(self.student(x)) - target


class LowRank(nn.Module):
    """A frozen convolution with a trainable low-rank one beside it, as PEFT wraps a stem."""

    def __init__(self, base: nn.Conv2d, rank: int = 2) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A = nn.ModuleDict(
            {"default": nn.Conv2d(base.in_channels, rank, base.kernel_size, base.stride, base.padding, bias=False)}
        )
        self.lora_B = nn.ModuleDict({"default": nn.Conv2d(rank, base.out_channels, 1, bias=False)})

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_layer"), name)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


def adapted() -> nn.Module:
    model = timm_vit()
    model.patch_embed.proj = LowRank(model.patch_embed.proj)
    return model


class Denoiser(nn.Module):
    """Draws time steps and noise itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = UNet()

    def forward(self, x: Tensor) -> Tensor:
        time = torch.rand(len(x)).to(x.dtype)
        noise = torch.randn(x.shape).to(x.dtype)
        share = time[:, None, None, None]
        return self.net((1 - share) * x + share * noise, time) - noise


def denoiser_with_stem() -> nn.Module:
    model = Denoiser()
    model.net.stem = Part(model.net.stem)
    return model


class Recurrent(nn.Module):
    """Rows of an image, one after another, into a cell with one layer for its input and one for its state."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.input, self.state, self.head = nn.Linear(24, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 16)
        for row in x.flatten(1).unflatten(1, (8, -1)).unbind(1):
            state = torch.tanh(self.input(row) + self.state(state))
        return self.head(state)


class Joined(nn.Module):
    """A cell of one layer for both, which is fed by data alone in no step but the first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.both, self.head = nn.Linear(24 + 16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 16)
        for row in x.flatten(1).unflatten(1, (8, -1)).unbind(1):
            state = torch.tanh(self.both(torch.cat([row, state], 1)))
        return self.head(state)


class Stage(nn.Sequential):
    """With a ``forward`` of its own, because Dynamo in PyTorch 2.11 skips that of ``nn.Sequential``."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Stages(nn.Module):
    """Two stages; the second gets a detached leaf, whose gradient the first one is given."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = Stage(nn.Conv2d(3, 8, 3), nn.Tanh())
        self.second = Stage(nn.Conv2d(8, 8, 3), nn.Tanh(), nn.Conv2d(8, 4, 3))


class Through(torch.autograd.Function):
    """Gives ``sent`` the gradient that reached ``received``, when its output is differentiated."""

    @staticmethod
    def forward(ctx: Any, sent: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return sent.new_zeros(())

    @staticmethod
    def backward(ctx: Any, of_loss: Tensor) -> tuple[Tensor, None]:
        return of_loss * ctx.saved_tensors[0], None


def staged(model: nn.Module, x: Tensor) -> Tensor:
    sent = model.first(x)
    received = sent.detach().requires_grad_()
    loss = squared(model.second(received))
    loss.backward()
    return Through.apply(sent, received.grad)


def whole(model: nn.Module) -> list[nn.Module]:
    return [model]


def with_stem_and_blocks(*names: str) -> Callable[[nn.Module], list[nn.Module]]:
    """The named parts, and every block of what is a list of blocks."""

    def parts(model: nn.Module) -> list[nn.Module]:
        found: list[nn.Module] = []
        for name in names:
            part = model.get_submodule(name)
            listed = isinstance(part, (nn.Sequential, nn.ModuleList))
            found += [getattr(block, "block", block) for block in part] if listed else [part]
        return found

    return parts


def convnext_with_stem(reentrant: bool | None = None) -> nn.Module:
    model = timm_convnext(reentrant)
    model.stem = Part(model.stem)
    return model


def convnext_blocks(model: nn.Module) -> list[nn.Module]:
    blocks = [getattr(block, "block", block) for stage in model.stages for block in stage.blocks]
    return [model.stem, *blocks] if isinstance(model.stem, Part) else blocks


DENOISER = with_stem_and_blocks("net.time", "net.stem", "net.down", "net.middle", "net.up")
VIT = with_stem_and_blocks("patch_embed", "blocks")
CASES = {
    **{
        f"timm vit, blocks, {kind}": Pieces(lambda r=r: timm_vit(r), pixels(32), VIT, ("patch_embed.proj",))
        for kind, r in {"plain": None, "non-reentrant": False, "reentrant": True}.items()
    },
    **{
        f"timm convnext, blocks and stem, {kind}": Pieces(
            lambda r=r: convnext_with_stem(r), pixels(32), convnext_blocks, ("stem.layer.0",)
        )
        for kind, r in {"plain": None, "reentrant": True}.items()
    },
    "low-rank stem": Pieces(adapted, pixels(32), whole, ("patch_embed.proj.lora_A.default",)),
    "low-rank stem, blocks": Pieces(adapted, pixels(32), VIT, ("patch_embed.proj.lora_A.default",)),
    "diffusion, time drawn inside": Pieces(Denoiser, pixels(8), whole, ("net.stem",)),
    "diffusion, time drawn inside, blocks": Pieces(
        denoiser_with_stem, pixels(8), DENOISER, ("net.stem.layer",), names="net."
    ),
    "timm vit, blocks, stem eager": Pieces(
        timm_vit, pixels(32), with_stem_and_blocks("blocks"), (), told="patch_embed.proj.weight of VisionTransformer"
    ),
    "transformers vit, blocks": Pieces(
        transformers_vit,
        pixels(32),
        with_stem_and_blocks("embeddings.patch_embeddings", "layers"),
        ("embeddings.patch_embeddings.projection",),
        tolerance=5e-5,  # float32 rounding is that large in all of its layers
    ),
    "distillation": Pieces(Distilled, pixels(32), whole, ("student.patch_embed.proj",)),
    "distillation, the student compiled twice": Pieces(
        Distilled, pixels(32), lambda model: [model, model.student], ("student.patch_embed.proj",)
    ),
    "distillation, in parts": Pieces(
        Distilled, pixels(32), lambda model: [model.student, model.teacher], ("student.patch_embed.proj",)
    ),
    "recurrent": Pieces(Recurrent, pixels(8), whole, ("input",)),
    "recurrent, one layer": Pieces(Joined, pixels(8), whole, (), told="a recurrent cell"),
    "two stages": Pieces(Stages, pixels(12), lambda model: [model.first, model.second], ("first.0",), staged),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_a_model_in_pieces(name: str) -> None:
    case = CASES[name]
    torch._dynamo.reset()
    model = case.make()
    expected = gradients_in_double(model, case)
    backend = tract_backend(LAM, inner="aot_eager")
    for part in case.parts(model):
        part.compile(backend=backend)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with torch._dynamo.config.patch(recompile_limit=64), tract_warnings() as said:
        for _ in range(2):
            optimizer.zero_grad()
            torch.manual_seed(0)
            case.step(model, case.x).backward()
            optimizer.step()
    found = {key: item.grad for key, item in model.named_parameters() if item.grad is not None}
    assert found.keys() == expected.keys()
    assert errors(found, expected, case.tolerance) == {}
    if case.step is of_output:
        assert {match.weight for match in backend.matches} == {
            f"{name.removeprefix(case.names)}.weight" for name in case.first
        }
    assert [message for message in said if case.told is None or case.told not in message] == []
    assert bool(said) == (case.told is not None)


def errors(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> dict[str, float]:
    """What is further from the expected gradient than rounding."""
    largest = max(item.norm() for item in expected.values())
    sizes = {
        key: ((found[key].double() - wanted).norm() / max(wanted.norm(), FLOOR * largest)).item()
        for key, wanted in expected.items()
    }
    return {key: size for key, size in sizes.items() if not size <= tolerance}


def gradients_in_double(model: nn.Module, case: Pieces) -> dict[str, Tensor]:
    """Gradients of an eager copy, and in closed form those of the layers that are first by construction."""
    twin = copy.deepcopy(model).double()
    torch.manual_seed(0)
    first = closed_forms(twin, case.first, lambda: case.step(twin, case.x.double()), LAM)
    gradients = {key: item.grad for key, item in twin.named_parameters() if item.grad is not None}
    return gradients | {f"{key}.weight": gradient for key, gradient in first.items()}
