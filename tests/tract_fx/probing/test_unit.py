"""Which of the two units of ``lam`` is said to suit, and with which numbers."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from tract_fx import probe
from tract_fx.probing.result import LayerProbe
from tract_fx.probing.unit import unit_of_lam


@pytest.fixture(scope="module")
def layer() -> LayerProbe:
    return probe(nn.Sequential(nn.Linear(4, 2), nn.Tanh()), [torch.randn(32, 4)]).layers[0]


def said(layer: LayerProbe, eigenvalues: list[list[float]], batches: tuple[float, ...] = (), **changes: object) -> str:
    """Of a layer of four features with these eigenvalues, one row for each group."""
    values: Tensor = torch.tensor(eigenvalues, dtype=torch.float64)
    return unit_of_lam(dataclasses.replace(layer, eigenvalues=values, mean_eigenvalues=batches, **changes))


def test_around_one_both_suit(layer: LayerProbe) -> None:
    assert said(layer, [[3.0, 1.0, 0.5, 0.3]]) == (
        "an absolute and a relative lam both suit: the mean eigenvalue tr(C)/n is 1.2, and lam=0.1 is 0.083 of it"
    )


@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_in_another_unit_a_relative_one_or_standardised_inputs(layer: LayerProbe, scale: float) -> None:
    text = said(layer, [[4 * scale, 0, 0, 0]])
    assert text.startswith("relative=True suits, or standardised inputs: ")
    assert f"the mean eigenvalue tr(C)/n is {scale:.2g}, and lam=0.1 is {0.1 / scale:.2g} of it" in text


def test_groups_in_different_units_suit_a_relative_one(layer: LayerProbe) -> None:
    text = said(layer, [[4.0, 0, 0, 0], [0.1, 0, 0, 0]])
    assert text.startswith("relative=True suits, because groups of channels differ by a factor of 40: ")


def test_batches_that_differ_suit_an_absolute_one_whatever_the_unit(layer: LayerProbe) -> None:
    text = said(layer, [[400.0, 0, 0, 0], [1.0, 0, 0, 0]], (1.0, 5.0, 0.0))
    assert text.startswith("an absolute lam on standardised inputs suits, because batches differ by a factor of 5: ")


def test_a_relative_lam_is_given_in_squared_inputs(layer: LayerProbe) -> None:
    assert said(layer, [[80.0, 0, 0, 0]], relative=True).endswith("is 20, and lam=0.1 is 2 in squared inputs")


def test_nothing_is_said_of_zeros(layer: LayerProbe) -> None:
    assert said(layer, [[0.0, 0, 0, 0]]) == ""
    assert unit_of_lam(dataclasses.replace(layer, eigenvalues=torch.zeros(0, 0))) == ""
