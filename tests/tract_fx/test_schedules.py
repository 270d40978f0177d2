"""``lam`` by the step: what a schedule sets is what the backward pass of that step uses, also after a restart."""

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from support.marks import INNERS
from support.oracle import error, squared, tract_gradients
from support.training import Counter
from support.works import works
from tract_fx import CosineLam, LamScheduler, OptionError, TrAct, tract_backend

STEPS = 4
BATCHES = torch.randn(STEPS, 6, 3, 9, 8)


class Target:
    """Remembers what it is set to."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    @property
    def lam(self) -> float:
        return self.seen[-1] if self.seen else 1.0

    @lam.setter
    def lam(self, value: float) -> None:
        self.seen.append(value)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(168, 3))


def cosine(step: int, steps: int = STEPS, start: float = 0.05, end: float = 0.2) -> float:
    """From ``start`` to ``end``, by the angle."""
    return start + (end - start) * math.sin(math.pi / 2 * step / steps) ** 2


@works("schedules")
@pytest.mark.parametrize("inner", INNERS)
def test_every_step_has_its_own_lam_and_none_compiles(inner: str) -> None:
    model, backend = network(), tract_backend(inner=inner)
    counter = Counter(backend)
    compiled = torch.compile(model, backend=counter)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    schedule = CosineLam(backend, STEPS)
    for step, x in enumerate(BATCHES):
        optimizer.zero_grad()
        before = copy.deepcopy(model)
        squared(compiled(x)).backward()
        assert error(model[0].weight.grad, tract_gradients(before, [x], ["0"], cosine(step))["0"]) <= 1e-5
        optimizer.step()
        schedule.step()
    assert counter.graphs == 1


@works("schedules")
@pytest.mark.parametrize("kind", ["cosine", "function"])
def test_a_resumed_training_goes_on_with_the_same_lam_and_the_same_weights(kind: str) -> None:
    """A checkpoint that went through a file, in a process that has made everything anew."""

    def make(backend: Any) -> LamScheduler:
        return CosineLam(backend, STEPS) if kind == "cosine" else LamScheduler(backend, lambda step: 0.1 * 1.5**step)

    def run(first: int, last: int, state: dict[str, Any] | None) -> tuple[dict[str, Any], list[float]]:
        model, backend = network(), tract_backend(inner="aot_eager")
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        schedule, used = make(backend), []
        parts = {"model": model, "optimizer": optimizer, "lam": schedule}
        for name, part in parts.items() if state else ():
            part.load_state_dict(state[name])
        compiled = torch.compile(model, backend=backend)
        for x in BATCHES[first:last]:
            optimizer.zero_grad()
            used.append(backend.lam)
            squared(compiled(x)).backward()
            optimizer.step()
            schedule.step()
        return {name: part.state_dict() for name, part in parts.items()}, used

    whole, expected = run(0, STEPS, None)
    begun, before = run(0, 2, None)
    file = io.BytesIO()
    torch.save(begun, file)
    file.seek(0)
    resumed, after = run(2, STEPS, torch.load(file))
    assert before + after == expected
    assert len(set(expected)) == STEPS
    assert whole["lam"] == resumed["lam"]
    for name, weight in whole["model"].items():
        assert torch.equal(weight, resumed["model"][name])


@works("schedules")
def test_a_model_that_was_compiled_in_place() -> None:
    """The way for trainers that only take the name of a backend."""

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    model, backend = Holder(), tract_backend(inner="aot_eager")
    model.compile(backend=backend)
    schedule = CosineLam(backend, STEPS)
    for step, x in enumerate(BATCHES[:2]):
        model.zero_grad()
        squared(model(x)).backward()
        assert error(model.net[0].weight.grad, tract_gradients(network(), [x], ["0"], cosine(step))["0"]) <= 1e-5
        schedule.step()


@works("schedules")
def test_several_targets_of_both_kinds() -> None:
    backend, layer = tract_backend(0.3), TrAct(nn.Linear(6, 4), 0.7)
    schedule = LamScheduler((item for item in (backend, layer)), lambda step: 0.1 / (step + 1))
    assert backend.lam == layer.lam == 0.1
    schedule.step()
    assert backend.lam == layer.lam == schedule.get_last_lam() == 0.05


@works("schedules")
def test_the_form_of_the_cosine() -> None:
    target = Target()
    schedule = CosineLam(target, 10, start=0.5, end=0.1)
    for _ in range(13):
        schedule.step()
    expected = [cosine(min(step, 10), 10, 0.5, 0.1) for step in range(14)]
    assert target.seen == pytest.approx(expected, rel=1e-12)
    assert (target.seen[0], target.seen[10], target.seen[13]) == (0.5, 0.1, 0.1)
    assert all(later < earlier for earlier, later in zip(target.seen[:10], target.seen[1:11], strict=True))


@works("schedules")
def test_loading_writes_into_the_targets_and_takes_over_the_form() -> None:
    saved = CosineLam(Target(), 10, start=0.02, end=0.3)
    for _ in range(4):
        saved.step()
    target = Target()
    loaded = CosineLam(target, 3)
    loaded.load_state_dict(saved.state_dict())
    assert target.lam == loaded.get_last_lam() == saved.get_last_lam()
    for _ in range(8):
        saved.step()
        loaded.step()
        assert target.lam == saved.get_last_lam()


def test_a_step_that_fails_changes_nothing() -> None:
    target = Target()
    schedule = LamScheduler(target, lambda step: 0.1 - 0.1 * step)
    with pytest.raises(OptionError, match=r"lam=0.0.*greater than zero"):
        schedule.step()
    assert (target.seen, schedule.state_dict()) == ([0.1], {"last_step": 0, "last_lam": 0.1})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LamScheduler("tract", lambda step: 0.1), r"'tract' has no lam.*tract_fx.backend_of\(model\)"),
        (
            lambda: LamScheduler(nn.MultiheadAttention(4, 1), lambda step: 0.1),
            r"^MultiheadAttention\(\.\.\.\) has no lam",
        ),
        (lambda: LamScheduler([], lambda step: 0.1), r"\[\] has no lam that could be set"),
        (lambda: LamScheduler([Target(), nn.Linear(6, 4)], lambda step: 0.1), r"Linear\(.*\) has no lam"),
        (lambda: LamScheduler(tract_backend(), lambda step: -1.0), r"lam=-1.0.*greater than zero"),
        (lambda: LamScheduler(tract_backend(), lambda step: torch.tensor(0.1)), r"lam=tensor.*is a Tensor"),
        (lambda: CosineLam(tract_backend(), 0), "steps=0 is not allowed"),
        (lambda: CosineLam(tract_backend(), 2.5), "steps=2.5 is not allowed"),
        (lambda: CosineLam(tract_backend(), 5, end=float("nan")), "end=nan is not allowed"),
        (lambda: CosineLam(tract_backend(), 5, start=10**400), "start is too large for a float"),
        (lambda: LamScheduler(tract_backend(), 0.1), "function=0.1 is not allowed"),
    ],
)
def test_arguments_that_are_not_allowed(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make()


def test_targets_that_are_modules_are_not_iterated_over() -> None:
    """A wrapped layer may be inside of something that iterates over its own."""
    layer = TrAct(nn.Linear(6, 4))
    assert LamScheduler(layer, lambda step: 0.4).targets == (layer,)
    x: Tensor = torch.randn(9, 6)
    squared(layer(x)).backward()
    assert error(layer.weight.grad, tract_gradients(nn.Sequential(nn_copy(layer)), [x], ["0"], 0.4)["0"]) <= 1e-5


def nn_copy(layer: nn.Module) -> nn.Linear:
    plain = nn.Linear(layer.in_features, layer.out_features)
    plain.load_state_dict(layer.state_dict())
    return plain
