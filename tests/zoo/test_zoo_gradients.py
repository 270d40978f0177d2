"""Through Inductor's generated code the first layers of real models get the gradients of the method."""

import copy
import functools
from typing import Any

import pytest
import timm
import torch
from timm.models import crossvit
from torch import Tensor, nn
from torchvision.models.video import resnet

import tract_fx
from support.marks import codegen
from support.oracle import error, squared

from .case import Case, image
from .gradients import expected_gradients, in_double
from .tables import case_of
from .thin import thin

Model = tuple[nn.Module, tuple, dict[str, Any]]
LAM = 0.1
# Relative, for float32 against float64.
TOLERANCE = 1e-5
# A deep network hands its first layer a gradient that float32 has already rounded more than that; no first layer can do
# better than what comes in, so there the plain gradient of the same layer is the measure.
PLAIN_ERRORS = 2


def from_table(identifier: str) -> Model:
    case: Case = case_of(identifier)
    return case.make(), *case.arguments()


def beginning(name: str, stages: int = 1) -> Model:
    """A convolutional network of timm's up to one of its first stages: every layer more is a kernel more to compile."""
    return timm.create_model(name, features_only=True, out_indices=(stages,)), (image(32, batch=3),), {}


def vit() -> Model:
    model, images = timm.create_model("test_vit", img_size=32), image(32, batch=3)
    thin(model, lambda: model(images))
    return model, (images,), {}


def two_scales() -> Model:
    sizes = {"img_scale": (1.0, 0.75), "patch_size": (8, 12), "embed_dim": (8, 16), "depth": ([1, 1, 0],)}
    model = crossvit.CrossVit(48, **sizes, num_heads=(1, 2), mlp_ratio=(1, 1, 1), num_classes=3)
    model.blocks, model.global_pool = nn.ModuleList(), "avg"  # the class token would see no image
    return model, (image(48),), {}


def video() -> Model:
    convolutions = [resnet.Conv3DSimple] * 4
    model = resnet.VideoResNet(resnet.BasicBlock, convolutions, [1] * 4, resnet.BasicStem, num_classes=3)
    model.layer2, model.layer3, model.layer4, model.fc = nn.Identity(), nn.Identity(), nn.Identity(), nn.Linear(64, 3)
    return model, (torch.randn(2, 3, 4, 24, 24),), {}


def weight_norm() -> Model:
    model, _, inputs = from_table("transformers:EncodecModel")
    return model.encoder, tuple(inputs.values()), {}


MODELS = {
    "resnet": functools.partial(beginning, "test_resnet"),
    "convnext": functools.partial(beginning, "test_convnext", stages=0),
    "byobnet": functools.partial(beginning, "test_byobnet"),
    "efficientnet": functools.partial(beginning, "test_efficientnet", stages=0),
    "weight standardisation": functools.partial(beginning, "test_nfnet", stages=0),
    "weight norm": weight_norm,
    "vit": vit,
    "two scales": two_scales,
    "video": video,
    "video patches": functools.partial(from_table, "transformers:VideoMAEModel"),
    "audio": functools.partial(from_table, "transformers:Wav2Vec2Model"),
    "time series": functools.partial(from_table, "transformers:PatchTSTModel"),
}


def loss(output: Any) -> Tensor:
    """Of the first tensor of the output, weighted: what a normalisation gives out has the same norm whatever goes in."""
    while not isinstance(output, Tensor):
        output = next(iter(output.values() if isinstance(output, dict) else output))
    return squared(output * torch.linspace(0.5, 1.5, output.numel(), dtype=output.dtype).reshape(output.shape))


@codegen
@pytest.mark.parametrize("family", MODELS)
def test_gradients_through_generated_code(family: str) -> None:
    model, arguments, keywords = MODELS[family]()
    model.eval()  # dropout and dropped paths would be drawn anew
    expected = expected_gradients(model, arguments, keywords, loss, LAM)
    found = compiled_gradients(model, arguments, keywords, tract_fx.tract_backend(LAM))
    assert expected
    errors = {name: error(found[name], gradient) for name, gradient in expected.items()}
    assert all(gradient.norm() > 0 for gradient in expected.values())
    if max(errors.values()) > TOLERANCE:
        plain = plain_errors(model, arguments, keywords, list(expected))
        assert {name: value for name, value in errors.items() if value > PLAIN_ERRORS * plain[name]} == {}


def compiled_gradients(model: nn.Module, arguments: tuple, keywords: dict, backend: Any) -> dict[str, Tensor]:
    twin = copy.deepcopy(model)
    torch._dynamo.reset()
    loss(torch.compile(twin, backend=backend)(*arguments, **keywords)).backward()
    return {name: parameter.grad for name, parameter in twin.named_parameters() if parameter.grad is not None}


def plain_errors(model: nn.Module, arguments: tuple, keywords: dict, names: list[str]) -> dict[str, float]:
    """Errors of the plain compiled gradients against those of an eager float64 run."""
    found = compiled_gradients(model, arguments, keywords, "inductor")
    twin = in_double(copy.deepcopy(model))
    loss(twin(*map(in_double, arguments), **{name: in_double(item) for name, item in keywords.items()})).backward()
    exact = dict(twin.named_parameters())
    return {name: error(found[name], exact[name].grad) for name in names}
