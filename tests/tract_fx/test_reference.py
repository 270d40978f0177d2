"""The oracle is itself checked: against the minimisation that defines the method, and against autograd."""

import copy

import pytest
import torch
from torch import Tensor, nn

from support.oracle import error, layer_gradient
from support.transposed_shapes import LAYERS
from tract_fx import reference


def minimiser(X: Tensor, dZ: Tensor, lam: float) -> Tensor:
    """Minimum over ``dW`` of the paper's equation 6, ``||-r dZ^T - dW X^T||^2 + lam r ||dW||^2``, by L-BFGS."""
    rows = X.shape[0]
    change = torch.zeros(dZ.shape[1], X.shape[1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [change], max_iter=2000, tolerance_grad=1e-13, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        optimiser.zero_grad()
        value = (-rows * dZ.T - change @ X.T).pow(2).sum() + lam * rows * change.pow(2).sum()
        value.backward()
        return value

    optimiser.step(objective)
    return change.detach()


@pytest.mark.parametrize("form", [reference.primal, reference.dual])
@pytest.mark.parametrize(("rows", "features"), [(30, 5), (5, 12), (1, 4)])
@pytest.mark.parametrize("lam", [0.05, 1.0])
def test_the_gradient_is_the_minimiser_of_equation_6(form: object, rows: int, features: int, lam: float) -> None:
    X, dZ = torch.randn(rows, features).double(), torch.randn(rows, 3).double()
    # The minimiser is a step downhill, the gradient points uphill.
    assert error(form(X, dZ, lam), -minimiser(X, dZ, lam)) <= 1e-6


def test_primal_and_dual_agree() -> None:
    X, dZ = torch.randn(9, 7), torch.randn(9, 3)
    assert error(reference.primal(X, dZ, 0.1), reference.dual(X, dZ, 0.1)) <= 1e-12


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (3, 4, 11)),
        (nn.Conv2d(3, 5, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (3, 3, 9, 8)),
        (nn.Conv3d(2, 4, 2, groups=2), (2, 2, 4, 5, 3)),
    ],
)
def test_a_huge_lam_gives_the_plain_gradient_over_lam(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """The rows of a convolution are checked by what autograd makes of them: ``G = dZ^T X``."""
    layer = layer.double()
    x = torch.randn(shape).double()
    output = layer(x)
    output_gradient = torch.randn_like(output)
    (plain,) = torch.autograd.grad(output, layer.weight, output_gradient)
    geometry = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    lam = 1e12
    found = reference.conv_gradient(x, output_gradient, layer.weight, lam, groups=layer.groups, **geometry)
    assert error(found * lam, plain) <= 1e-9


@pytest.mark.parametrize("name", LAYERS)
def test_a_huge_lam_gives_the_plain_gradient_of_a_transposed_convolution(name: str) -> None:
    layer, shape = LAYERS[name]
    layer = copy.deepcopy(layer).double()
    x = torch.randn(shape if len(shape) == layer.weight.dim() else (1, *shape)).double()
    output = layer(x)
    output_gradient = torch.randn_like(output)
    (plain,) = torch.autograd.grad(output, layer.weight, output_gradient)
    assert error(layer_gradient(layer, x, output_gradient, 1e12) * 1e12, plain) <= 1e-9


def test_rows_of_a_transposed_convolution_times_its_weight_are_its_output() -> None:
    layer = nn.ConvTranspose2d(4, 6, (3, 2), 2, (1, 0), (1, 0), 2, bias=False, dilation=(1, 3)).double()
    x = torch.randn(2, 4, 3, 4).double()
    geometry = {name: getattr(layer, name) for name in ("stride", "padding", "output_padding", "dilation")}
    rows = reference.transposed_conv_rows(x, layer.kernel_size, 2, **geometry)
    weights = layer.weight.unflatten(0, (2, 2)).transpose(1, 2).flatten(2)
    output = rows @ weights.mT  # (groups, r, m)
    expected = layer(x).unflatten(1, (2, 3)).permute(1, 0, 3, 4, 2).flatten(1, 3)
    assert error(output, expected) <= 1e-12
