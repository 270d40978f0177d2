"""What is done to images: augmentation, scales, planted contrast, normalised patches."""

import torch
import torchvision
from torch import nn

from benchmarks.convergence import augmentation, inputs, networks
from benchmarks.convergence.many_models import MODELS
from benchmarks.convergence.patch_norm import DualPatchNorm, PatchNorm


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_crop_is_a_window_of_the_padded_image_mirrored_or_not() -> None:
    images = torch.randint(1, 256, (64, 3, 8, 8), generator=generator(), dtype=torch.uint8)
    cropped = augmentation.crop_flip(images, generator())
    assert cropped.shape == images.shape
    assert cropped.dtype == images.dtype
    seen = set()
    padded = nn.functional.pad(images, (4,) * 4)
    for image, result in zip(padded, cropped, strict=True):
        windows = {
            (top, left, mirrored): image[:, top : top + 8, left : left + 8].flip(-1 if mirrored else ())
            for top in range(9)
            for left in range(9)
            for mirrored in (False, True)
        }
        found = [key for key, window in windows.items() if torch.equal(window, result)]
        assert len(found) == 1
        seen.update(found)
    assert len(seen) > 40
    assert len({mirrored for *_, mirrored in seen}) == 2


def test_erasing_takes_one_square_from_a_quarter_of_the_images() -> None:
    images = torch.ones(4000, 3, 32, 32)
    gone = augmentation.erase(images, generator()) == 0
    assert torch.equal(gone[:, :1].expand_as(gone), gone)
    touched = gone.flatten(1).any(1)
    assert 0.22 < touched.float().mean() < 0.28
    heights, widths = gone[touched, 0].any(2).sum(1), gone[touched, 0].any(1).sum(1)
    assert torch.equal(heights, widths)
    assert torch.equal(gone[touched, 0].flatten(1).sum(1), heights * widths)
    assert (heights.min(), heights.max()) == (8, 16)


def test_mixup_mixes_images_and_targets_alike() -> None:
    images, targets = torch.rand(6, 3, 4, 4), torch.eye(6)
    mixed, mixed_targets = augmentation.mix(images, targets, generator())
    share = mixed_targets[0, 0]
    assert 0 < share < 1
    torch.testing.assert_close(mixed, share * images + (1 - share) * images.flip(0))
    torch.testing.assert_close(mixed_targets.sum(1), torch.ones(6))


def test_randaugment_depends_on_the_generator_alone() -> None:
    images = torch.randint(0, 256, (40, 3, 16, 16), generator=generator(), dtype=torch.uint8)
    torch.manual_seed(1)
    first = augmentation.randaugment(images, generator(5))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = augmentation.randaugment(images, generator(5))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, second)
    assert not torch.equal(first, augmentation.randaugment(images, generator(6)))
    assert first.dtype == torch.uint8


def some_images() -> tuple[torch.Tensor, torch.Tensor]:
    """Neighbouring pixels are alike, as in photographs."""
    coarse = torch.randint(0, 256, (120, 3, 2, 2), generator=generator()).float()
    fine = nn.functional.interpolate(coarse, size=4, mode="bilinear") + 10 * torch.randn(120, 3, 4, 4)
    images = fine.clamp(0, 255).to(torch.uint8)
    return images[:80], images[80:]


def test_scales() -> None:
    train, test = some_images()
    for kind, low, high in (("symmetric", -1.0, 1.0), ("unit", 0.0, 1.0), ("raw", 0.0, 255.0)):
        for split in inputs.INPUTS[kind](train, test, 0.0):
            x = split.finish(split.images)
            assert x.dtype == torch.float32
            assert low <= x.min() <= low + 0.1 * (high - low)
            assert high - 0.1 * (high - low) <= x.max() <= high
    split, _ = inputs.standardised(train, test, 0.0)
    x = split.finish(split.images).transpose(0, 1).flatten(1)
    torch.testing.assert_close(x.mean(1), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std(1, correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_whitened_images_have_the_covariance_that_epsilon_leaves() -> None:
    train, test = some_images()
    whitened, _ = inputs.zca(train, test, 0.0)
    x = whitened.finish(whitened.images).flatten(1).double()
    centred = (standard := inputs.standardised(train, test, 0.0)[0].finish(train).flatten(1).double()) - standard.mean(
        0
    )
    values = torch.linalg.eigvalsh(centred.T @ centred / len(centred))
    expected = values / (values + inputs.ZCA_EPSILON)
    found = torch.linalg.eigvalsh(x.T @ x / len(x))
    torch.testing.assert_close(found, expected.sort().values, rtol=1e-3, atol=1e-4)


def test_planted_contrast_scales_deviations_and_adds_noise() -> None:
    train, test = some_images()
    finish = inputs.standardised(train, test, 0.0)[0].finish
    for number, (split, images) in enumerate(
        zip(inputs.planted_contrast(train, test, 0.0), (train, test), strict=True)
    ):
        plain, group = finish(images), inputs.contrast_groups(len(images), split=number)
        assert set(group.tolist()) == set(range(len(inputs.CONTRASTS)))
        ratio = split.images.flatten(1).std(1) / plain.flatten(1).std(1)
        torch.testing.assert_close(ratio, torch.tensor(inputs.CONTRASTS)[group], rtol=1e-4, atol=0)
        torch.testing.assert_close(split.images.flatten(1).mean(1), plain.flatten(1).mean(1), rtol=1e-3, atol=1e-5)
    split, _ = inputs.planted_contrast(train, test, 0.0)
    noisy, _ = inputs.planted_contrast(train, test, 0.3)
    assert abs((noisy.images - split.images).std().item() - 0.3) < 0.02


def test_normalised_patches_against_patches_in_memory() -> None:
    torch.manual_seed(0)
    for convolution in (nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.Conv2d(3, 6, 4, stride=4)):
        x = 3 * torch.randn(2, 3, 8, 8) + 1
        patches = nn.functional.unfold(x, convolution.kernel_size, 1, convolution.padding, convolution.stride)
        patches = patches.transpose(1, 2)
        normal = nn.functional.layer_norm(patches, patches.shape[-1:])
        z = nn.functional.linear(normal, convolution.weight.flatten(1), convolution.bias)
        found = PatchNorm(convolution)(x)
        torch.testing.assert_close(found.flatten(2).transpose(1, 2), z, rtol=1e-4, atol=1e-4)

        dual = DualPatchNorm(convolution)
        for parameter in (dual.gain, dual.offset, *dual.after.parameters()):
            nn.init.normal_(parameter)
        rows = normal * dual.gain.flatten() + dual.offset.flatten()
        z = dual.after(nn.functional.linear(rows, convolution.weight.flatten(1), convolution.bias))
        torch.testing.assert_close(dual(x).flatten(2).transpose(1, 2), z, rtol=1e-3, atol=1e-3)


def test_every_architecture_reads_small_images_finely() -> None:
    """Its first layer sees the image itself, at full resolution or as patches, and every network is trainable."""
    for name, architecture in MODELS.items():
        model = architecture.build(7, 1.0)
        first = model.get_submodule(networks.first_layer_name(model))
        assert first.in_channels == 3
        assert first.stride in ((1, 1), first.kernel_size), name
        assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 7), name


def test_widths_change_the_first_layer() -> None:
    for build in (networks.small_resnet, networks.small_vit, networks.resnet18, networks.vit):
        filters = []
        for width in (0.5, 1.0, 2.0):
            model = build(4, width)
            filters.append(model.get_submodule(networks.first_layer_name(model)).out_channels)
            assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 4)
        assert filters[0] * 2 == filters[1] == filters[2] / 2


def test_resnet18_is_that_of_torchvision_but_for_its_stem() -> None:
    found, known = networks.resnet18(10, 1.0), torchvision.models.resnet18(num_classes=10)
    shapes = [
        sorted(tuple(p.shape) for name, p in model.named_parameters() if name not in ("stem.weight", "conv1.weight"))
        for model in (found, known)
    ]
    assert shapes[0] == shapes[1]
