import copy
import dataclasses
import time

import pytest
import torch

from tract_fx.tools.demo.models import RECIPES
from tract_fx.tools.demo.training import Schedule, StepClock, batches, classified_right, rate_share, train
from tract_fx.tools.images.arrays import standardised

CPU = torch.device("cpu")
SCHEDULE = Schedule(epochs=2, batch_size=16, seed=5)


class Counter:
    def __init__(self) -> None:
        self.steps, self.epochs = 0, []

    def step(self) -> None:
        self.steps += 1

    def epoch(self, number, result) -> None:
        self.epochs.append((number, result))


@pytest.fixture
def data(image_set):
    return standardised(image_set, CPU)


def test_batches_are_full_distinct_and_repeatable(data):
    marked = dataclasses.replace(data, train_labels=torch.arange(40))
    first, again = (list(batches(marked, SCHEDULE, epoch=1)) for _ in range(2))
    assert [len(labels) for _, labels in first] == [16, 16]
    assert len(torch.cat([labels for _, labels in first]).unique()) == 32
    for (images, labels), (other_images, other_labels) in zip(first, again, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)
        assert torch.equal(images, data.train_images[labels])


def test_order_depends_on_epoch_and_seed(data):
    orders = [
        torch.cat([images for images, _ in batches(data, dataclasses.replace(SCHEDULE, seed=seed), epoch)])
        for seed, epoch in ((5, 1), (5, 2), (6, 1))
    ]
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


@pytest.mark.parametrize("total", [1, 2, 5, 10, 400])
def test_rate_rises_to_the_peak_and_falls_to_nothing(total):
    shares = [rate_share(step, total) for step in range(total)]
    top = shares.index(max(shares))
    assert all(0 < share <= 1 for share in shares)
    assert shares[: top + 1] == sorted(shares[: top + 1])
    assert shares[top:] == sorted(shares[top:], reverse=True)
    assert max(shares) > 0.6
    assert total < 100 or shares[-1] < 0.01


@pytest.mark.parametrize("name", RECIPES)
def test_training_learns_and_reports_every_epoch(data, name):
    torch.manual_seed(0)
    model, watcher = RECIPES[name].build(1, 2, 8), Counter()
    initial = model.first_layer.weight.detach().clone()
    run = train(model, model, RECIPES[name], data, dataclasses.replace(SCHEDULE, epochs=8), watcher)
    assert watcher.steps == 8 * 2
    assert watcher.epochs == list(enumerate(run.epochs, 1))
    assert run.epochs[-1].train_loss < 0.8 * run.epochs[0].train_loss
    assert run.epochs[-1].test_accuracy == pytest.approx(run.correct.double().mean().item())
    assert run.correct.tolist() == classified_right(model, data).tolist()
    assert torch.equal(run.filters, model.first_layer.weight)
    assert not torch.equal(run.filters, initial)
    assert run.first_step_seconds > 0
    assert run.epoch_seconds > 0


def test_same_start_and_same_batches_give_the_same_curve(data):
    initial = RECIPES["resnet"].build(1, 2, 8)
    runs = []
    for _ in range(2):
        model = copy.deepcopy(initial)
        torch.compiler.reset()
        runs.append(
            train(model, torch.compile(model, backend="aot_eager"), RECIPES["resnet"], data, SCHEDULE, Counter())
        )
    assert runs[0].epochs == runs[1].epochs
    assert torch.equal(runs[0].filters, runs[1].filters)


def test_classified_right_compares_the_best_score_with_the_label(data):
    class Constant(torch.nn.Module):
        def forward(self, images):
            return torch.tensor([0.0, 1.0]).expand(len(images), 2)

    assert classified_right(Constant(), data).tolist() == (data.test_labels == 1).tolist()


def test_clock_keeps_the_first_step_apart(monkeypatch):
    ticks = iter(range(1000))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    clock = StepClock(CPU)
    for _ in range(3):
        clock.start_epoch()
        for _ in range(4):
            clock.step()
        clock.end_epoch()
    assert clock.first_step_seconds == 1
    assert clock.epoch_seconds(steps=4) == 1


def test_clock_scales_a_lonely_epoch_and_knows_when_it_cannot(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = StepClock(CPU)
    clock.start_epoch()
    for seconds in (100.0, 1.0, 1.0):
        now[0] += seconds
        clock.step()
    clock.end_epoch()
    assert clock.first_step_seconds == 100
    assert clock.epoch_seconds(steps=3) == 3
    assert clock.epoch_seconds(steps=1) is None
