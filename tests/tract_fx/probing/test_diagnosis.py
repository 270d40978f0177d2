"""Every planted fault is told, and nothing else; ordinary data are not remarked on."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from support.natural import natural_images, standardised
from support.works import works
from tract_fx import ConcernKind, Probe, probe
from tract_fx.probing.channels import duplicated_channels
from tract_fx.tools.images.arrays import load_digits
from tract_fx.tools.images.arrays import standardised as as_the_demo_does

pytestmark = works("probe")

IMAGES = natural_images(96, 32)
GOOD = standardised(IMAGES)
GREY = IMAGES.mean(1, keepdim=True)
IMAGENET = (
    255 * torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1),
    255 * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1),
)

STEMS = {"3x3": (3, 1, 1), "4x4 stride 4": (4, 4, 0), "7x7 stride 2": (7, 2, 3)}


def network(channels: int = 3, kernel: int = 3, stride: int = 1, padding: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 8, kernel, stride, padding),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def probed(images: Tensor, model: nn.Module | None = None, batch: int = 48, **arguments: Any) -> Probe:
    labels = torch.arange(len(images)) % 10
    pairs = list(zip(images.split(batch), labels.split(batch), strict=True))
    return probe(network(images.shape[1]) if model is None else model, pairs, **arguments)


def kinds(found: Probe) -> list[ConcernKind]:
    return [concern.kind for concern in found.warnings]


def with_borders(images: Tensor, width: int) -> Tensor:
    images = images.clone()
    images[:, :, :width] = images[:, :, -width:] = 0
    return images


def dead(images: Tensor, channel: int) -> Tensor:
    images = images.clone()
    images[:, channel] = 0.3
    return images


def partly_blank(share: float) -> Tensor:
    images = GOOD.clone()
    images[: round(share * len(images))] = torch.tensor([0.4, -0.8, 1.1]).view(3, 1, 1)
    return images


def not_finite(value: float) -> Tensor:
    images = GOOD.clone()
    images[50, 1, 4, 4] = value
    return images


ORDINARY = {
    "standardised": GOOD,
    "in -1..1": IMAGES / 127.5 - 1,
    "ImageNet's constants": (IMAGES - IMAGENET[0]) / IMAGENET[1],
    "ImageNet's constants, black borders": (with_borders(IMAGES, 10) - IMAGENET[0]) / IMAGENET[1],
    "grey": standardised(GREY),
    "two blank images": partly_blank(0.02),
    "smooth": nn.functional.interpolate(GOOD[:16], size=112, mode="bicubic"),
}


class Stems(nn.Module):
    """Networks beside one another: their stems are first layers of one graph."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.nets = nn.ModuleList([network(channels, *stem) for stem in STEMS.values()])

    def forward(self, x: Tensor) -> Tensor:
        return sum(net(x) for net in self.nets)


@pytest.mark.parametrize("name", ORDINARY)
def test_nothing_is_said_of_ordinary_images(name: str) -> None:
    images = ORDINARY[name]
    found = probed(images, Stems(images.shape[1]))
    assert found.warnings == ()
    assert [layer.features for layer in found.layers] == [images.shape[1] * pixels for pixels in (9, 16, 49)]
    assert found.verdict.splitlines() == [
        f"nets.{index}.0: nothing unusual in these data at lam=0.1" for index in range(3)
    ]
    assert str(found).startswith(found.verdict + "\n")


def test_nothing_is_said_of_digits_as_images() -> None:
    data = as_the_demo_does(load_digits(0, 0), torch.device("cpu"))
    pairs = list(zip(data.train_images.split(64), data.train_labels.split(64), strict=True))
    assert probe(Stems(1), pairs).warnings == ()


def test_nothing_is_said_of_digits_as_rows() -> None:
    data = as_the_demo_does(load_digits(0, 0), torch.device("cpu"))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    assert (
        probe(model, list(zip(data.train_images.split(128), data.train_labels.split(128), strict=True))).warnings == ()
    )


# images, lam, kind, what the sentence must say
FAULTS = {
    "0..255": (IMAGES, 0.1, ConcernKind.NOT_STANDARDISED, r"not standardised: values from 0 to 255, mean \(1\d\d"),
    "0..1": (
        IMAGES / 255,
        0.1,
        ConcernKind.NOT_STANDARDISED,
        "values from 0 to 1, .*all positive; the mean alone is 8",
    ),
    "dark, negative": (-IMAGES / 255, 0.1, ConcernKind.NOT_STANDARDISED, "all negative"),
    "a mean of 4": (GOOD + 4, 0.1, ConcernKind.NOT_STANDARDISED, "the mean alone is 94 %"),
    "dead channel": (dead(GOOD, 1), 0.1, ConcernKind.DEAD_CHANNEL, "channel 1 of 3 is constant"),
    "grey as RGB": (
        (GREY.expand(-1, 3, -1, -1) - IMAGENET[0]) / IMAGENET[1],
        0.1,
        ConcernKind.DUPLICATED_CHANNELS,
        "channels 0, 1 and 2 of 3 are copies of each other",
    ),
    "one channel twice": (GOOD[:, [0, 1, 1]], 0.1, ConcernKind.DUPLICATED_CHANNELS, "channels 1 and 2 of 3 are copies"),
    "a negative": (torch.cat([GOOD[:, :2], -GOOD[:, :1]], 1), 0.1, ConcernKind.DUPLICATED_CHANNELS, "channels 0 and 2"),
    "all blank": (
        torch.randn(96, 3, 1, 1).expand(-1, -1, 32, 32).contiguous(),
        0.1,
        ConcernKind.NEAR_CONSTANT,
        r"100 % of the 96 images are nearly constant \(100 % exactly\)",
    ),
    "a quarter blank": (partly_blank(0.25), 0.1, ConcernKind.NEAR_CONSTANT, "25 % of the 96 images"),
    "low contrast": (0.01 * GOOD, 0.1, ConcernKind.LOW_CONTRAST, "within a sample is 0.00"),
    "low contrast of different brightness": (
        torch.randn(96, 3, 1, 1) + 0.05 * GOOD,
        0.1,
        ConcernKind.LOW_CONTRAST,
        "within a sample is 0.0",
    ),
    "lam=1e6": (GOOD, 1e6, ConcernKind.LAM_TOO_LARGE, "cosine between TrAct's gradient and the plain one is 1.0000"),
    "lam=1e-6": (standardised(IMAGES + 40 * torch.randn_like(IMAGES)), 1e-6, ConcernKind.LAM_TOO_SMALL, "adds nothing"),
    "smooth and lam=1e-6": (
        ORDINARY["smooth"],
        1e-6,
        ConcernKind.ILL_CONDITIONED,
        r"even with lam=1e-06.* is \d\.\de\+0[6-9]",
    ),
    "noise": (torch.randn(96, 3, 32, 32), 0.1, ConcernKind.WHITE, "uncorrelated and have equal variance"),
    "NaN": (not_finite(float("nan")), 0.1, ConcernKind.NOT_FINITE, "in 1 of 2 backward passes"),
    "infinity": (not_finite(float("inf")), 0.1, ConcernKind.NOT_FINITE, "in 1 of 2 backward passes"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_told_and_nothing_else(name: str) -> None:
    images, lam, kind, words = FAULTS[name]
    found = probed(images, lam=lam)
    assert kinds(found) == [kind]
    assert re.search(words, found.warnings[0].sentence)
    assert found.warnings[0].advice
    assert (
        str(found).replace("\n", " ").startswith(f"0: {found.warnings[0].sentence} ".replace("\n", " "))
        or len(found.verdict) > 118
    )


def test_a_relative_lam_has_no_unit_to_be_told_about() -> None:
    assert "or give relative=True" in probed(IMAGES).warnings[0].advice
    assert ConcernKind.LOW_CONTRAST in kinds(probed(0.01 * GOOD))
    assert probed(0.01 * GOOD, relative=True).warnings == ()


def test_a_relative_lam_is_suggested_in_its_own_unit() -> None:
    """A tenth of the variance within a sample, as a share of the mean eigenvalue, which is that of all values."""
    images = 3 * (torch.randn(96, 3, 1, 1) + 0.05 * GOOD)
    (concern,) = probed(images, relative=True).warnings
    suggested = float(re.search(r"lam near (\S+),", concern.advice)[1])
    within = images.var((2, 3), correction=0).mean()
    assert suggested == pytest.approx((within / 10 / images.square().mean()).item(), rel=0.5)


def test_two_faults_are_two_concerns_and_the_verdict_counts_them() -> None:
    found = probed(dead(GOOD, 2), lam=1e6)
    assert kinds(found) == [ConcernKind.DEAD_CHANNEL, ConcernKind.LAM_TOO_LARGE]
    assert found.verdict == "0: channel 2 of 3 is constant (and 1 more)"


def test_few_rows() -> None:
    found = probed(GOOD[:4], network(3, 16, 16, 0), batch=4)
    assert kinds(found) == [ConcernKind.FEW_ROWS]
    assert "16 rows, fewer than the 768 features" in found.verdict


def test_a_last_batch_with_few_rows_is_no_fault() -> None:
    # 8x8 patches: 192 features, 16 rows of an image
    assert probed(GOOD[:29], network(3, 8, 8, 0), batch=14).warnings == ()


def test_a_gradient_of_zero() -> None:
    model = network()
    nn.init.zeros_(model[-1].weight)
    found = probed(GOOD, model)
    assert kinds(found) == [ConcernKind.ZERO_GRADIENT]
    assert found.layers[0].at_lam.cosine is None
    assert "infinite" not in str(found)


def test_a_gradient_that_is_not_finite_though_the_inputs_are() -> None:
    found = probed(GOOD, loss=lambda output, item: output.sum() * float("inf"))
    assert kinds(found) == [ConcernKind.NOT_FINITE]
    assert "the gradient holds NaN or infinity in 2 of 2" in found.verdict
    assert found.layers[0].eigenvalues.numel() == 27


def test_nothing_finite_at_all() -> None:
    found = probed(torch.full((4, 3, 8, 8), float("nan")), batch=4)
    assert kinds(found) == [ConcernKind.NOT_FINITE]
    assert str(found).startswith("0: the inputs hold NaN or infinity in the only backward pass")
    assert found.layers[0].values is None


def test_constant_features_of_a_linear_layer_are_told_when_they_are_many() -> None:
    model = nn.Sequential(nn.Linear(12, 4), nn.Tanh())
    x = torch.randn(64, 12) @ torch.randn(12, 12) / 12**0.5
    x[:, 3] = 0
    assert probe(model, [x]).warnings == ()
    x[:, ::3] = 0
    assert kinds(probe(model, [x])) == [ConcernKind.DEAD_CHANNEL]
    assert "features 0, 3, 6 and 9 of 12 are constant" in probe(model, [x]).verdict


def test_copies_among_the_features_of_a_linear_layer_are_told_when_they_are_many() -> None:
    model = nn.Sequential(nn.Linear(12, 4), nn.Tanh())
    x = torch.randn(64, 6) @ torch.randn(6, 6) / 6**0.5
    found = probe(model, [torch.cat([x, 2 * x + 0.1], 1)])
    assert kinds(found) == [ConcernKind.DUPLICATED_CHANNELS]
    assert "features 0 and 6 of 12 are copies" in found.verdict


def test_duplicates_are_found_whatever_their_scale_and_offset() -> None:
    a, b, c = torch.randn(3, 500).double()
    x = torch.stack([a, b, 30 * a - 7, torch.zeros(500), c + 0.05 * b, -b, a + 0.05 * c])
    mean, std = x.mean(1), x.std(1, correction=0)
    assert duplicated_channels(mean, std, x @ x.T / 500) == ((0, 2), (1, 5))
