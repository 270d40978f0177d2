import pytest
import torch

from tract_fx.tools.demo.models import RECIPES
from tract_fx.tools.demo.training import Schedule, train_sides
from tract_fx.tools.images.arrays import standardised
from tract_fx.tools.training.sides import CompiledSides, Side

SCHEDULE = Schedule(epochs=8, batch_size=16, seed=5)
PLAIN = Side("plain", None)


class Counter:
    def __init__(self) -> None:
        self.steps, self.epochs = 0, []

    def counted(self, batches):
        for batch in batches:
            self.steps += 1
            yield batch

    def epoch(self, label, number, loss, accuracy) -> None:
        self.epochs.append((label, number, loss, accuracy))


@pytest.mark.parametrize("name", RECIPES)
def test_training_learns_and_reports_every_epoch(image_set, name, monkeypatch):
    monkeypatch.setattr(CompiledSides, "plain", property(lambda self: self.model))
    torch.manual_seed(0)
    model, watcher = RECIPES[name].build(1, 2, 8), Counter()
    initial = model.first_layer.weight.detach().clone()
    data = standardised(image_set, torch.device("cpu"))
    run = train_sides(CompiledSides(model, "aot_eager"), (PLAIN,), RECIPES[name], data, SCHEDULE, watcher)["plain"]
    assert watcher.steps == 8 * 2
    label = f"{RECIPES[name].title} plain"
    assert watcher.epochs == [(label, i, run.train_loss, run.test_accuracy) for i, run in enumerate(run.epochs, 1)]
    assert run.epochs[-1].train_loss < 0.8 * run.epochs[0].train_loss
    assert run.epochs[-1].test_accuracy == pytest.approx(run.correct.double().mean().item())
    assert torch.equal(run.filters, model.first_layer.weight)
    assert not torch.equal(run.filters, initial)
    assert run.first_step_seconds > 0
    assert run.epoch_seconds > 0
