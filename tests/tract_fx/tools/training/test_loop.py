"""The loop that the demo, ``compare`` and the study of convergence share."""

from __future__ import annotations

import collections
import copy

import pytest
import torch
from torch import nn

from tract_fx.tools.errors import ToolError
from tract_fx.tools.training.loop import TrainingLoop, class_scores, make_optimizer, rate_share


@pytest.mark.parametrize("total", [1, 2, 5, 10, 400])
def test_rate_rises_to_the_peak_and_falls_to_nothing(total: int) -> None:
    shares = [rate_share(step, total) for step in range(total)]
    top = shares.index(max(shares))
    assert all(0 < share <= 1 for share in shares)
    assert shares[: top + 1] == sorted(shares[: top + 1])
    assert shares[top:] == sorted(shares[top:], reverse=True)
    assert max(shares) > 0.6
    assert total < 100 or shares[-1] < 0.01


def test_steps_are_those_of_the_optimiser_at_the_rates_of_the_schedule() -> None:
    """Against stochastic gradient descent written out, in float64; momentum and weight decay are off."""
    torch.manual_seed(0)
    model = nn.Linear(3, 4, bias=False).double()
    weight = model.weight.detach().clone()
    batches = [(torch.randn(5, 3).double(), torch.randint(4, (5,))) for _ in range(6)]
    loop = TrainingLoop(model, [torch.optim.SGD(model.parameters(), 0.5)], total=len(batches))
    trained = loop.train_on(batches)
    losses = []
    for number, (x, y) in enumerate(batches):
        probabilities = (x @ weight.T).softmax(1)
        losses.append(-probabilities[range(5), y].log().mean())
        gradient = (probabilities - nn.functional.one_hot(y, 4)).T @ x / 5
        weight -= 0.5 * rate_share(number, 6) * gradient
    torch.testing.assert_close(model.weight.detach(), weight)
    assert trained.loss == pytest.approx(torch.stack(losses).mean().item())
    assert (trained.steps, loop.done) == (6, 6)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_a_checkpoint_goes_on_as_if_nothing_had_happened(kind: str) -> None:
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    second = copy.deepcopy(first)
    batches = [(torch.randn(5, 3), torch.randint(4, (5,))) for _ in range(4)]
    loops = [TrainingLoop(model, [make_optimizer(kind, model.parameters(), 0.1)], 4) for model in (first, second)]
    loops[0].train_on(batches[:2])
    loops[1].load_state_dict(copy.deepcopy(loops[0].state_dict()))
    for loop in loops:
        loop.train_on(batches[2:])
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


Outputs = collections.namedtuple("Outputs", ["logits", "hidden"])


@pytest.mark.parametrize("pack", [lambda x: x, lambda x: (x, 1, 2), lambda x: {"logits": x}, lambda x: Outputs(x, 0)])
def test_scores_are_found_in_what_classifiers_return(pack) -> None:
    scores = torch.zeros(2, 3)
    assert class_scores(pack(scores)) is scores


@pytest.mark.parametrize(
    ("output", "said"),
    [(torch.zeros(2, 3, 4), "returns 2x3x4"), ((), "returns a tuple"), ({"pooled": 1}, "returns a dict")],
)
def test_what_has_no_scores_is_refused(output: object, said: str) -> None:
    with pytest.raises(ToolError, match=said):
        class_scores(output)
