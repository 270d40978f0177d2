import math

import pytest
import torch

from tract_fx.tools.demo.compare import compare, paired_difference, verdict
from tract_fx.tools.demo.training import Epoch, Run


def run(accuracies: list[float], right: int, images: int = 1000, loss: float = 0.1) -> Run:
    """A run that gets the first `right` images right at the end."""
    epochs = tuple(Epoch(loss, accuracy) for accuracy in accuracies)
    return Run(epochs, 1.0, 1.0, torch.arange(images) < right, torch.zeros(1, 1, 3, 3))


def test_paired_difference_against_its_definition():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 500, generator=generator) < torch.tensor([[0.7], [0.8]])
    difference, noise = paired_difference(first, second)
    samples = second.double() - first.double()
    assert difference == pytest.approx((second.sum() - first.sum()).item() / 500)
    assert noise == pytest.approx(2 * samples.std(correction=0).item() / math.sqrt(500))


@pytest.mark.parametrize(
    ("plain", "tract", "winner", "said"),
    [
        (900, 950, "TrAct", "TrAct ends 5.0 points ahead"),
        (950, 900, "plain", "plain ends 5.0 points ahead"),
        (900, 902, None, "a tie, 0.2 points apart"),
        (900, 900, None, "a tie, both classify the same images right"),
    ],
)
def test_verdict_names_whoever_is_ahead(plain, tract, winner, said):
    comparison = compare(run([plain / 1000], plain), run([tract / 1000], tract))
    assert comparison.winner == winner
    assert verdict("Net", comparison, 1).startswith(f"Net: {said}")


def test_first_epoch_at_plains_final_accuracy():
    comparison = compare(run([0.5, 0.9, 0.8], 800), run([0.7, 0.8, 0.9], 900))
    assert comparison.reached == 2
    assert "in epoch 2 of 3." in verdict("Net", comparison, 3)


def test_never_reaching_it_is_said():
    comparison = compare(run([0.5, 0.8], 800), run([0.4, 0.7], 700))
    assert comparison.reached is None
    assert "does not reach plain's final accuracy in 2 epochs" in verdict("Net", comparison, 2)


def test_divergence_is_said_instead_of_a_winner():
    comparison = compare(run([0.5], 500), run([0.1], 100, loss=math.nan))
    assert comparison.diverged == ("TrAct",)
    assert verdict("Net", comparison, 1) == "Net: the training loss of TrAct is no longer finite; no comparison."
