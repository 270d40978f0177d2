"""Harm is told where a first layer would learn noise, and not where TrAct gains or there is nothing to compare."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from support.natural import natural_images, standardised
from support.works import works
from tract_fx import ConcernKind, Probe, probe

pytestmark = works("probe")


def after_relu(count: int, features: int = 512) -> tuple[Tensor, Tensor]:
    """Features of a random network: a ReLU of a few factors, and a little noise."""
    factors = torch.randn(count, 24)
    x = (factors @ torch.randn(24, features) / 5 + 0.05 * torch.randn(count, features) - 0.5).relu()
    return (x - x.mean(0)) / x.std(0), (factors[:, :6] @ torch.randn(6, 5)).argmax(1)


def mlp(features: int) -> nn.Module:
    return nn.Sequential(nn.Linear(features, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 5))


def loader(x: Tensor, labels: Tensor, batch: int) -> DataLoader:
    return DataLoader(TensorDataset(x, labels), batch, shuffle=True, drop_last=True)


def is_told(found: Probe) -> bool:
    return any(item.kind is ConcernKind.HARM for item in found.warnings)


def test_correlated_features_with_few_rows_are_told_with_a_better_lam() -> None:
    """Such data cost up to eleven points of test accuracy in benchmarks/results/harm.jsonl."""
    data = loader(*after_relu(1536), 512)
    found = probe(mlp(512), data)
    assert is_told(found)
    layer = found.layers[0]
    at = {point.lam: point for point in layer.grid}
    assert layer.suggested_lam > 1
    assert at[layer.suggested_lam].other > at[0.1].other
    assert f"lam near {layer.suggested_lam:g}" in found.warnings[0].advice
    assert not is_told(probe(mlp(512), data, layer.suggested_lam))


def test_independent_features_are_not() -> None:
    x = torch.randn(1200, 40)
    assert not is_told(probe(mlp(40), loader(x, (x[:, :8] @ torch.randn(8, 5)).argmax(1), 120)))


def test_mixed_features_are_not() -> None:
    """There TrAct gained seven points."""
    x = torch.randn(1200, 40)
    labels = (x[:, :8] @ torch.randn(8, 5)).argmax(1)
    assert not is_told(probe(mlp(40), loader(x @ torch.randn(40, 40) / 40**0.5, labels, 120)))


@pytest.mark.parametrize("batches", [2, 4])
def test_without_labels_nothing_is_said(batches: int) -> None:
    """The gradient of a random functional of the outputs is noise, of which no batch says anything about another one."""
    x, _ = after_relu(128 * batches, 128)
    assert not is_told(probe(mlp(128), list(x.split(128))))


def test_images_are_not_though_another_batch_says_little() -> None:
    """A filter has thousands of rows for each feature, and explains little of ``dZ`` on any batch."""
    images = standardised(natural_images(96, 16))
    net = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    assert not is_told(probe(net, loader(images, torch.arange(96) % 5, 32)))


def test_one_batch_has_nothing_to_be_compared_with() -> None:
    x, labels = after_relu(200)
    found = probe(mlp(512), [(x, labels)])
    assert not is_told(found)
    assert found.layers[0].at_lam.own is None
    assert "next batch" not in str(found)


@pytest.mark.parametrize("dead", [slice(0, 32), slice(32, 64)])
def test_outputs_without_a_gradient_are_not_compared(dead: slice) -> None:
    """Only some of many outputs are looked at, and they may all be dead."""
    x, labels = after_relu(60, 30)
    net = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 5))
    nn.init.constant_(net[0].bias[dead], -100.0)
    found = probe(net, loader(x, labels, 30))
    assert not found.layers[0].zero_gradients
    assert (found.layers[0].at_lam.own is None) == (dead.start == 0)
    assert ("next batch" in str(found)) == (dead.start != 0)
    assert "nan" not in str(found)


def changed(found: Probe, own: float, others: Any, examples: int | None) -> list[ConcernKind]:
    """What is said of a layer with these measures."""
    from tract_fx.probing.harm import likely_harm

    layer = found.layers[0]
    grid = tuple(dataclasses.replace(point, own=own) for point in layer.grid)
    return [kind for kind, *_ in likely_harm(dataclasses.replace(layer, grid=grid, others=others, examples=examples))]


@pytest.mark.parametrize(
    ("own", "others", "examples", "told"),
    [
        (0.9, ((0.2, 0.3), (0.2, 0.3)), None, True),
        (0.5, ((0.2, 0.3), (0.2, 0.3)), None, False),  # explains little of its own batch
        (0.9, ((0.29, 0.3), (0.29, 0.3)), None, False),
        (0.9, ((0.2, 0.3), (0.2, -0.1)), None, False),  # the plain gradient says nothing of another batch either
        (0.9, ((-0.5, 0.4), *3 * ((0.5, 0.4),)), None, False),  # worse on average because of one batch
        (
            0.9,
            3 * ((-0.2, 0.5), (-0.4, -0.3)),
            None,
            False,
        ),  # which the scatter of the plain gradient does not tell from 0
        (0.9, 3 * ((0.2, 0.35), (0.1, 0.25)), None, True),
        (0.9, ((0.3, 0.3), (0.3, 0.3)), 60, True),  # few examples
        (0.9, ((0.5, 0.3), (0.5, 0.3)), 60, False),  # few examples, and a gain
        (0.9, ((0.3, 0.3), (0.3, 0.3)), 100_000, False),
    ],
)
def test_each_condition(own: float, others: Any, examples: int | None, told: bool) -> None:
    x, labels = after_relu(60, 30)
    assert changed(probe(mlp(30), loader(x, labels, 30), batches=2), own, others, examples) == told * [ConcernKind.HARM]


def with_cosines(found: Probe, other: dict[float, float], plain: float) -> Any:
    """The layer with these cosines on another batch, for each ``lam``."""
    layer = found.layers[0]
    grid = tuple(dataclasses.replace(layer.grid[0], lam=lam, own=0.9, other=value) for lam, value in other.items())
    return dataclasses.replace(layer, grid=grid, others=2 * ((other[0.1], plain),))


@pytest.mark.parametrize(
    ("other", "plain", "suggested", "advice"),
    [
        ({0.1: 0.2, 1.0: 0.49, 10.0: 0.5, 100.0: 0.48}, 0.4, 100.0, "Take lam near 100,"),
        ({0.1: 0.2, 1.0: 0.49, 10.0: 0.5, 100.0: 0.47}, 0.4, 10.0, "Take lam near 10,"),
        ({0.1: 0.2, 1.0: 0.29, 10.0: 0.3, 100.0: 0.1}, 0.4, 10.0, "Train this layer without TrAct"),  # none is as good
        ({0.01: 0.5, 0.1: 0.2, 1.0: 0.1, 10.0: 0.1}, 0.4, 0.01, "Train this layer without TrAct"),  # less is no way out
    ],
)
def test_the_suggestion_is_the_largest_of_the_best(
    other: dict[float, float], plain: float, suggested: float, advice: str
) -> None:
    from tract_fx.probing.harm import likely_harm

    x, labels = after_relu(60, 30)
    layer = with_cosines(probe(mlp(30), loader(x, labels, 30), batches=2), other, plain)
    assert layer.suggested_lam == suggested
    ((_, _, said),) = likely_harm(layer)
    assert advice in said


class Endless(IterableDataset):
    """A data set that does not say how long it is."""

    def __iter__(self) -> Any:
        while True:
            yield torch.randn(8)


def test_the_number_of_examples_is_the_loaders() -> None:
    net = nn.Sequential(nn.Linear(8, 4), nn.Tanh())
    x = torch.randn(50, 8)
    assert probe(net, DataLoader(TensorDataset(x), 10), batches=2).layers[0].examples == 50
    assert probe(net, list(x.split(20)), batches=2).layers[0].examples == 50
    assert probe(net, iter(x.split(20)), batches=2).layers[0].examples is None
    assert probe(net, DataLoader(Endless(), 10), batches=2).layers[0].examples is None


def test_the_norm_of_all_gradients_is_that_which_clipping_sees() -> None:
    """Against ``clip_grad_norm_`` after a backward pass of the backend."""
    from tract_fx import tract_backend

    x, labels = after_relu(120, 20)
    net = mlp(20)
    plain, new = probe(net, [(x, labels)]).norm_of_all
    loss = nn.functional.cross_entropy
    loss(net(x), labels).backward()
    assert plain == pytest.approx(nn.utils.clip_grad_norm_(net.parameters(), 1e9).item(), rel=1e-5)
    net.zero_grad()
    loss(torch.compile(net, backend=tract_backend(inner="aot_eager"))(x), labels).backward()
    assert new == pytest.approx(nn.utils.clip_grad_norm_(net.parameters(), 1e9).item(), rel=1e-5)
