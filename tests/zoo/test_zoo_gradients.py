"""Through Inductor's generated code the first layers of real models get the gradients of the method."""

import copy
import functools
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import video

import tract_fx
from support.marks import codegen
from support.oracle import error, squared

from .case import Case, image
from .gradients import expected_gradients, in_double
from .tables import case_of
from .thin import thin

LAM = 0.1
# Relative, for float32 against float64.
TOLERANCE = 1e-5
# A deep network hands its first layer a gradient that float32 has already rounded more than that; no first layer can do
# better than what comes in, so there the plain gradient of the same layer is the measure.
PLAIN_ERRORS = 2


def from_table(identifier: str) -> tuple[nn.Module, tuple, dict]:
    case: Case = case_of(identifier)
    return case.make(), *case.arguments()


def from_timm(name: str, size: int = 32, **sizes: Any) -> tuple[nn.Module, tuple, dict]:
    return timm.create_model(name, **sizes), (image(size, batch=3),), {}


def small_video() -> tuple[nn.Module, tuple, dict]:
    convolutions = [video.resnet.Conv3DSimple] * 4
    model = video.resnet.VideoResNet(video.resnet.BasicBlock, convolutions, [1, 0, 0, 0], video.resnet.BasicStem, 5)
    return model, (torch.randn(2, 3, 4, 24, 24),), {}


MODELS = {
    "resnet": functools.partial(from_timm, "test_resnet"),
    "vit": functools.partial(from_timm, "test_vit", img_size=32),
    "convnext": functools.partial(from_timm, "test_convnext"),
    "byobnet": functools.partial(from_timm, "test_byobnet"),
    "efficientnet": functools.partial(from_timm, "test_efficientnet"),
    "weight standardisation": functools.partial(from_timm, "test_nfnet"),
    "mixer": functools.partial(from_timm, "mixer_s32_224", num_blocks=1, embed_dim=32, img_size=64, size=64),
    "two scales": functools.partial(from_table, "timm:crossvit_9_240"),
    "two kernels": functools.partial(from_table, "timm:fastvit_t8"),
    "video": small_video,
    "video patches": functools.partial(from_table, "transformers:VideoMAEModel"),
    "audio": functools.partial(from_table, "transformers:Wav2Vec2Model"),
    "weight norm": functools.partial(from_table, "transformers:EncodecModel"),
    "time series": functools.partial(from_table, "transformers:TimeSeriesTransformerModel"),
    "denoiser": functools.partial(from_table, "denoiser:UNet"),
}


def loss(output: Any) -> Tensor:
    while not isinstance(output, Tensor):
        output = next(iter(output.values() if isinstance(output, dict) else output))
    return squared(output)


@codegen
@pytest.mark.parametrize("family", MODELS)
def test_gradients_through_generated_code(family: str) -> None:
    model, arguments, keywords = MODELS[family]()
    model.eval()  # dropout and dropped paths would be drawn anew
    thin(model, lambda: model(*arguments, **keywords))
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
