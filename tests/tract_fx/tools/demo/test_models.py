import pytest
import torch

from tract_fx.tools.demo.models import RECIPES, patch_size


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 16), (3, 32), (3, 40)])
def test_scores_have_the_promised_shape(name, channels, size):
    model = RECIPES[name].build(channels, 5, size)
    assert model(torch.randn(2, channels, size, size)).shape == (2, 5)


@pytest.mark.parametrize("name", RECIPES)
def test_first_layer_is_the_one_that_reads_the_images(name):
    model = RECIPES[name].build(3, 5, 16)
    seen = []
    for module in model.modules():
        if not list(module.children()):
            module.register_forward_pre_hook(lambda module, inputs: seen.append((module, inputs[0])))
    images = torch.randn(2, 3, 16, 16)
    model(images)
    assert [module for module, inputs in seen if inputs is images] == [model.first_layer]


@pytest.mark.parametrize("name", RECIPES)
def test_every_parameter_gets_a_gradient(name):
    model = RECIPES[name].build(1, 5, 8)
    model(torch.randn(4, 1, 8, 8)).square().mean().backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("size", range(8, 129, 8))
def test_patches_tile_the_image(size):
    assert size % patch_size(size) == 0
    assert size // patch_size(size) in (4, 8)
