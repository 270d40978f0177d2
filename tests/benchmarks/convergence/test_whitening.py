"""Whitening in its parts: what the study trains without whitened patches is what networks with whitened patches are."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.convergence import data, inputs
from benchmarks.convergence.data import Images
from benchmarks.convergence.methods import FirstLayerGradient
from benchmarks.convergence.runs import Run
from benchmarks.convergence.sizes import Size
from benchmarks.convergence.training import Training
from benchmarks.convergence.whitening import eigenvector_filters, patch_covariance, whitened_start
from tract_fx import reference
from tract_fx.tools.training.loop import make_optimizer

FEATURES, FILTERS, LAM = 27, 6, 0.01


@pytest.fixture(scope="module")
def images(image_folder: Path) -> Images:
    return data.load(str(image_folder), Path("unused"), train=0, test=0, device="cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photographs(images: Images, count: int = 8) -> torch.Tensor:
    """Standardised, small, float64."""
    return inputs.standardised(images.train, images.test, 0.0)[0].finish(images.train)[:count, :, 8:18, 8:18].double()


def covariance_of(x: torch.Tensor) -> torch.Tensor:
    rows = reference.conv_rows(x, (3, 3), 1, stride=1, padding=1)[0]
    return rows.T @ rows / len(rows)


def stem() -> nn.Conv2d:
    torch.manual_seed(1)
    return nn.Conv2d(3, FILTERS, 3, padding=1, bias=False).double()


class Rest(nn.Module):
    """What follows a first layer in the small ResNet: batch normalisation, ReLU, more."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.norm = nn.BatchNorm2d(FILTERS)
        self.more = nn.Conv2d(FILTERS, 5, 3, stride=2)
        self.double()

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.more(nn.functional.relu(self.norm(z))).mean(dim=(2, 3))


class WhiteningFilters(nn.Sequential):
    """The layer of the recipes: fixed filters that whiten patches, then a trained 1x1 convolution of their outputs.

    Args:
        filters: ``F`` with ``F (C + lam I) F^T = I``, a filter in each row.
        mixing: weights of the 1x1 convolution, a row for each of its outputs.
    """

    def __init__(self, filters: torch.Tensor, mixing: torch.Tensor) -> None:
        fixed = nn.Conv2d(3, FEATURES, 3, padding=1, bias=False).double()
        fixed.weight.data = filters.reshape(fixed.weight.shape).clone()
        fixed.weight.requires_grad_(requires_grad=False)
        mixed = nn.Conv2d(FEATURES, FILTERS, 1, bias=False).double()
        mixed.weight.data = mixing[..., None, None].clone()
        super().__init__(fixed, mixed)

    def as_one_layer(self) -> torch.Tensor:
        fixed, mixed = (layer.weight.detach().flatten(1) for layer in self)
        return mixed @ fixed


def trained(first: nn.Module, x: torch.Tensor, gradient: FirstLayerGradient | None, steps: int = 4) -> list[float]:
    """The losses of some steps on the same rest of a network; SGD with momentum and weight decay."""
    model = nn.Sequential(first, Rest())
    optimizer = make_optimizer("sgd", [p for p in model.parameters() if p.requires_grad], 0.1)
    losses = []
    for step in range(steps):
        batch = x[step % 2 :: 2]
        loss = nn.functional.cross_entropy(model(batch), torch.arange(len(batch)) % 5)
        optimizer.zero_grad()
        loss.backward()
        if gradient:
            gradient.precondition(batch)
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_whitening_from_the_same_function_is_tract_with_the_covariance_of_the_data(images: Images) -> None:
    """Weights mapped back, whitening by the Cholesky factor: the same training, momentum and weight decay included."""
    x = photographs(images)
    covariance = covariance_of(x)
    factor = torch.linalg.cholesky(covariance + LAM * torch.eye(FEATURES, dtype=torch.float64))
    layer, plain = stem(), stem()
    whitening = WhiteningFilters(torch.linalg.inv(factor), layer.weight.detach().flatten(1) @ factor)
    torch.testing.assert_close(whitening.as_one_layer(), layer.weight.detach().flatten(1))

    losses = trained(layer, x, FirstLayerGradient(layer, LAM, covariance))
    torch.testing.assert_close(losses, trained(whitening, x, None), rtol=1e-9, atol=0)
    torch.testing.assert_close(layer.weight.detach().flatten(1), whitening.as_one_layer(), rtol=1e-8, atol=1e-10)
    assert abs(trained(plain, x, None)[-1] - losses[-1]) > 1e-3


def test_whitened_filters_of_the_recipes_are_the_whitened_start_with_that_gradient(images: Images) -> None:
    """Eigenvectors over deviations, then a 1x1 convolution: the start ``v P``, turned by the eigenvectors."""
    x = photographs(images)
    covariance = covariance_of(x)
    _, singular, vectors = torch.linalg.svd(
        reference.conv_rows(x, (3, 3), 1, stride=1, padding=1)[0], full_matrices=False
    )
    deviations = (singular.square() / (len(x) * 100) + LAM).sqrt()
    layer = stem()
    whitening = WhiteningFilters(vectors / deviations[:, None], layer.weight.detach().flatten(1) @ vectors.T)

    whitened_start(layer, covariance, LAM, keep_norm=False)
    torch.testing.assert_close(whitening.as_one_layer(), layer.weight.detach().flatten(1))
    losses = trained(layer, x, FirstLayerGradient(layer, LAM, covariance))
    torch.testing.assert_close(losses, trained(whitening, x, None), rtol=1e-9, atol=0)
    torch.testing.assert_close(layer.weight.detach().flatten(1), whitening.as_one_layer(), rtol=1e-8, atol=1e-10)


def test_a_start_of_the_same_norm_is_the_same_function_behind_batch_normalisation(images: Images) -> None:
    x = photographs(images)
    free, kept, before = stem(), stem(), stem()
    for layer, keep_norm in ((free, False), (kept, True)):
        whitened_start(layer, covariance_of(x), LAM, keep_norm=keep_norm)
    norm = nn.BatchNorm2d(FILTERS, eps=1e-12).double()
    torch.testing.assert_close(norm(free(x)), norm(kept(x)))
    torch.testing.assert_close(kept.weight.flatten(1).norm(dim=1), before.weight.flatten(1).norm(dim=1))
    assert (free.weight.norm() - before.weight.norm()).abs() > 0.1 * before.weight.norm()


def test_a_mean_of_all_patches_changes_nothing_in_front_of_batch_normalisation(images: Images) -> None:
    """Gradients of the pre-activations then have the sum zero, so that a constant row has no part in ``G``."""
    x = photographs(images) + 3.0
    layer, rest = stem(), Rest()
    z = layer(x).detach().requires_grad_()
    nn.functional.cross_entropy(rest(z), torch.arange(len(x)) % 5).backward()
    rows = reference.conv_rows(x, (3, 3), 1, stride=1, padding=1)[0]
    dz = z.grad.movedim(1, -1).flatten(0, 2)
    torch.testing.assert_close(dz.T @ rows, dz.T @ (rows - rows.mean(0)), rtol=1e-9, atol=1e-12)


def test_eigenvector_filters_whiten(images: Images) -> None:
    """Unit variance, no correlation, largest eigenvalue first, both signs beside each other."""
    x = photographs(images)
    layer = nn.Conv2d(3, 10, 3, padding=1, bias=False).double()
    eigenvector_filters(layer, covariance_of(x))
    weight = layer.weight.detach().flatten(1)
    torch.testing.assert_close(weight[0::2], -weight[1::2])
    outputs = layer(x).detach().movedim(1, -1).flatten(0, 2)[:, 0::2]
    torch.testing.assert_close(outputs.T @ outputs / len(outputs), torch.eye(5).double(), rtol=1e-9, atol=1e-9)
    norms = weight[0::2].norm(dim=1)
    assert (norms[1:] > norms[:-1]).all(), "less variance, larger filter"
    wide = nn.Conv2d(3, 60, 3, padding=1, bias=False).double()
    eigenvector_filters(wide, covariance_of(x))
    assert torch.equal(wide.weight[54:], wide.weight[:6])


def first_step(method: str, tiny: Size, images: Images, lam: float = LAM) -> tuple[torch.Tensor, torch.Tensor]:
    """First layer before and after a step of plain SGD at rate 1."""
    training = Training(Run("resnet", "sgd", 1, method, 0, lam=lam), dataclasses.replace(tiny, batch=16), images)
    training.trainee.plain = training.trainee.model  # eager: nothing of the compiler is asked here
    before = training.trainee.first_layer.weight.detach().clone()
    for optimizer, rates in zip(training.optimizers, training.rates, strict=True):
        optimizer.param_groups[0].update(momentum=0, nesterov=False, weight_decay=0)
        rates.base_lrs, rates.lr_lambdas = [1.0], [lambda step: 1.0]
        optimizer.param_groups[0]["lr"] = 1.0
    training.step(*next(iter(training._batches(generator()))))
    return before, training.trainee.first_layer.weight.detach().clone()


def test_the_methods_take_their_parts(tiny: Size, images: Images) -> None:
    """Gradient and start of each against the closed form on all training patches, from the real training."""
    split = inputs.standardised(images.train, images.test, 0.0)[0]
    covariance = covariance_of(split.finish(split.images).double())
    torch.testing.assert_close(patch_covariance(stem(), split), covariance, rtol=1e-5, atol=1e-6)
    damped = covariance + LAM * torch.eye(FEATURES, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(damped)
    root = vectors @ torch.diag(values.rsqrt()) @ vectors.T

    before, after = first_step("plain", tiny, images)
    gradient = (before - after).flatten(1).double()
    start, moved = first_step("tract-dataset", tiny, images)
    assert torch.equal(start, before)
    solved = torch.linalg.solve(damped, gradient, left=False)
    assert ((start - moved).flatten(1).double() - solved).norm() < 1e-3 * solved.norm()

    fresh, moved = first_step("whitened", tiny, images)
    torch.testing.assert_close(fresh.flatten(1).double(), before.flatten(1).double() @ root, rtol=1e-4, atol=1e-4)
    same, _ = first_step("whitened-start", tiny, images)
    torch.testing.assert_close(same.flatten(1).norm(dim=1), before.flatten(1).norm(dim=1))
    torch.testing.assert_close(nn.functional.normalize(same.flatten(1)), nn.functional.normalize(fresh.flatten(1)))
    assert not torch.equal(fresh, moved)

    for method in ("frozen", "frozen-eigenvectors"):
        start, end = first_step(method, tiny, images)
        assert torch.equal(start, end), method
        assert torch.equal(start, before) == (method == "frozen")


@pytest.mark.parametrize("size", inputs.LOCAL_SIZES)
def test_local_zca_is_the_middle_of_whitened_patches(size: int) -> None:
    coarse = torch.randint(0, 256, (40, 3, 6, 6), generator=generator()).float()
    fine = nn.functional.interpolate(coarse, size=12, mode="bilinear") + 10 * torch.randn(40, 3, 12, 12)
    pixels = fine.clamp(0, 255).to(torch.uint8)
    train, test = pixels[:30], pixels[30:]
    split, other = inputs.INPUTS[f"zca{size}"](train, test, 0.0)
    finish = inputs.standardised(train, test, 0.0)[0].finish
    rows = reference.conv_rows(finish(train), (size, size), 1, stride=1, padding=0)[0]
    _, singular, vectors = torch.linalg.svd(rows, full_matrices=True)
    variances = torch.zeros(rows.shape[1], dtype=rows.dtype)
    variances[: len(singular)] = singular.square() / len(rows)
    root = vectors.T @ ((variances + inputs.ZCA_EPSILON).rsqrt()[:, None] * vectors)
    middle = [channel * size * size + size * size // 2 for channel in range(3)]
    for found, original in ((split, train), (other, test)):
        patches = reference.conv_rows(finish(original), (size, size), 1, stride=1, padding=0)[0]
        inside = found.finish(found.images)[:, :, size // 2 : 12 - size // 2, size // 2 : 12 - size // 2]
        expected = (patches @ root)[:, middle].float()
        torch.testing.assert_close(inside.movedim(1, -1).flatten(0, 2), expected, rtol=1e-3, atol=1e-3)
        assert found.images.shape == original.shape
