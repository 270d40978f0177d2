"""Which configuration is chosen, and its check before the first use; ``test_kernels.py`` runs this in the interpreter."""

import os
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from support import interpreter
from support.patch_shapes import expected_gram, pixels, sliced_patches, square
from support.photographs import photographs
from support.triton_sums import triton_gram
from tract_fx import TractWarning
from tract_fx.ops.gpu import configs, launch, verification
from tract_fx.ops.gpu.launch import Device, plan
from tract_fx.ops.gpu.verification import checked_sums
from tract_fx.ops.patches import LINEAR, PatchGeometry

assert os.environ.get("TRITON_INTERPRET") == "1", "run by test_kernels.py"
interpreter.repair()


def expected_sums(input: torch.Tensor, outputs: torch.Tensor, geometry: PatchGeometry) -> tuple[torch.Tensor, ...]:
    rows = sliced_patches(input, geometry).double()
    columns = outputs.double().reshape(len(input), geometry.groups, -1, outputs[0, 0].numel())
    return rows.mT @ rows, columns.permute(1, 2, 0, 3).flatten(2) @ rows


class Tuning:
    """Stands in for the GPU that configurations are measured on: each takes a little less time than the one before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.measured = 0
        monkeypatch.setattr(configs, "measure", self.measure)
        kernels = launch._kernels.__wrapped__()
        monkeypatch.setattr(launch, "_kernels", lambda: kernels)

    def measure(self, call: Callable[[], object], quantiles: tuple[float, ...]) -> list[float]:
        call()
        self.measured += 1
        return [1.0 / self.measured] * len(quantiles)


def test_a_layer_is_tuned_once_and_not_for_each_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    tuning = Tuning(monkeypatch)
    geometry = square(3, 1, 1)
    for batch in (2, 3, 2):
        input = pixels((batch, 3, 6, 5))
        assert torch.equal(triton_gram(input, geometry), expected_gram(input, geometry))
        assert tuning.measured == 4
    triton_gram(pixels((2, 3, 6, 5), torch.float16), geometry)
    assert tuning.measured == 4 + 3
    triton_gram(pixels((2, 3, 6, 5)), square(3, 1, 0))
    assert tuning.measured == 4 + 3 + 4


@pytest.fixture
def tuning(monkeypatch: pytest.MonkeyPatch) -> Tuning:
    """A process in which nothing was chosen or checked yet."""
    checked: dict[Any, Any] = {}
    monkeypatch.setattr(verification, "_checked", lambda: checked)
    return Tuning(monkeypatch)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("shape", "geometry", "outputs"),
    [
        ((3, 3, 9, 8), square(3, 1, 1), 5),
        ((2, 4, 8, 8), square(3, 2, 1, groups=2), 3),
        ((3, 3, 8, 8), square(4, 4, 0), 5),
        ((70, 20), LINEAR, 4),
    ],
)
def test_kernels_that_are_right_pass(
    shape: tuple[int, ...], geometry: PatchGeometry, outputs: int, dtype: torch.dtype, tuning: Tuning
) -> None:
    """In the configuration that was measured to be the fastest, and for photographs as for other images."""
    input = pixels(shape, dtype)
    gradient = torch.randn(shape[0], outputs * geometry.groups, *geometry.outputs(shape[2:])).to(dtype)
    gram, found = checked_sums(input, gradient, geometry)
    expected = expected_sums(input, gradient, geometry)
    assert (gram - expected[0]).abs().max() <= 1e-6 * expected[0].max()
    assert (found - expected[1]).abs().max() <= 1e-5 * expected[1].abs().max()
    (config,) = verification._checked().values()
    assert config == configs.candidates(plan(input, geometry, Device(2), gradient).constants, 9)[-1]


def test_photographs_pass_in_float16(tuning: Tuning) -> None:
    assert checked_sums(photographs(2, 16).half(), None, square(3, 1, 1)) is not None


def test_what_was_checked_is_not_checked_or_measured_again(tuning: Tuning, monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = square(3, 1, 1)
    checked_sums(pixels((2, 3, 6, 5)), None, geometry)
    measured = tuning.measured
    monkeypatch.setattr(verification, "_is_right", lambda *_: pytest.fail("it was checked again"))
    monkeypatch.setattr(launch, "_kernels", lambda kernels=launch._kernels: (kernels()[0], None, kernels()[2]))
    for batch in (2, 3):  # the number of images is no reason either
        (found,) = checked_sums(pixels((batch, 3, 6, 5)), None, geometry)
        assert torch.equal(found, expected_gram(pixels((batch, 3, 6, 5)), geometry))
    assert tuning.measured == measured


@pytest.mark.parametrize("pixel", ["photographs", "zeros", "infinite"])
def test_the_configuration_that_was_chosen_is_what_is_checked(
    pixel: str, tuning: Tuning, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is wrong is found out, also by images that would hide it."""
    original = launch._launch

    def broken(input: torch.Tensor, gradient: Any, planned: Any, config: Any) -> tuple[torch.Tensor, ...]:
        found = original(input, gradient, planned, config)
        return found if config is None else tuple(sums * (1 + 1e-4) for sums in found)

    monkeypatch.setattr(launch, "_launch", broken)
    input = {"photographs": photographs(2, 8), "zeros": torch.zeros(2, 3, 8, 8), "infinite": torch.ones(2, 3, 8, 8) / 0}
    with pytest.warns(TractWarning, match="give another result than a product of patches"):
        assert checked_sums(input[pixel], None, square(3, 1, 1)) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checked_sums(input[pixel], None, square(3, 1, 1)) is None  # checked once, and told once


def test_a_gradient_without_values_of_its_own_is_checked_with_noise(tuning: Tuning) -> None:
    outputs = torch.zeros(1, 5, 1, 1).expand(2, 5, 8, 8)
    assert not checked_sums(pixels((2, 3, 8, 8)), outputs, square(3, 1, 1))[1].any()


def test_while_a_graph_is_captured_only_checked_kernels_are_used(
    tuning: Tuning, monkeypatch: pytest.MonkeyPatch
) -> None:
    input, geometry = pixels((2, 3, 6, 5)), square(3, 1, 1)
    monkeypatch.setattr(verification, "is_capturing", lambda device: True)
    with pytest.warns(TractWarning, match=r"not checked yet .* Run a step like this one before you capture it"):
        assert checked_sums(input, None, geometry) is None
    monkeypatch.undo()
    checked: dict[Any, Any] = {}
    monkeypatch.setattr(verification, "_checked", lambda: checked)
    Tuning(monkeypatch)
    checked_sums(input, None, geometry)
    monkeypatch.setattr(verification, "is_capturing", lambda device: True)
    (found,) = checked_sums(input, None, geometry)
    assert torch.equal(found, expected_gram(input, geometry))


def test_some_of_the_images_are_compared() -> None:
    """A few million elements of their patches."""
    planned = plan(torch.empty(256, 3, 224, 224, device="meta"), square(7, 2, 3), Device(132))
    assert verification._images(planned, 256) == 2
    planned = plan(torch.empty(8192, 20, device="meta"), LINEAR, Device(132))
    assert verification._images(planned, 8192) == 8192


def test_plans_are_made_once_for_each_shape_and_layout() -> None:
    input, geometry = torch.empty(4, 3, 8, 8), square(3, 1, 1)
    first = plan(input, geometry, Device(132))
    assert plan(torch.empty(4, 3, 8, 8), geometry, Device(132)) is first
    others = [
        (torch.empty(5, 3, 8, 8), geometry, Device(132)),
        (input.to(memory_format=torch.channels_last), geometry, Device(132)),
        (input.half(), geometry, Device(132)),
        (input, square(3, 1, 0), Device(132)),
        (input, geometry, Device(132, (8, 9))),
    ]
    assert all(plan(image, layer, device) is not first for image, layer, device in others)
