"""``relative=True``: the regularisation is ``lam tr(C) / n``, and training does not depend on the unit of the data."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from support.oracle import error, squared, tract_gradients
from support.photographs import photographs
from support.training import Counter, gradients
from tract_fx import TrAct, TractBackend, apply_tract, explain, reference, tract_backend

LAM, RATE, STEPS = 0.1, 0.02, 10
# Channels of one image in units of their own.
UNITS = torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)[:, None, None]


class Classifier(nn.Module):
    """A first layer and a head."""

    def __init__(self, stem: nn.Module) -> None:
        super().__init__()
        self.stem, self.head = stem, nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.stem(x))
        return self.head(z.flatten(2).mean(2) if z.dim() > 2 else z)


STEMS: dict[str, Callable[[], nn.Module]] = {
    "primal": lambda: nn.Conv2d(3, 6, 3, padding=1),
    "dual": lambda: nn.Conv2d(3, 6, 12, stride=12),
    "grouped": lambda: nn.Conv2d(3, 6, 3, groups=3),
}


def trained(stem: str, how: str, unit: Tensor | float, *, relative: bool = True) -> dict[str, Tensor]:
    """Parameters and losses of ten steps of SGD on photographs in another unit, expressed in the old one.

    The first layer starts with weights divided by the unit. Its learning rate stays: ``G`` is multiplied by the unit ``s``,
    ``C`` by ``s^2``, so that ``G (C + lam tr(C) / n I)^-1`` is divided by ``s`` like the weight itself. The same holds for
    momentum and for weight decay.
    """
    torch.manual_seed(0)
    model = Classifier(STEMS[stem]()).double()
    unit = torch.as_tensor(unit, dtype=torch.float64)
    of_weight = unit.repeat_interleave(2, 0)[:, None] if model.stem.weight.shape[1] == 1 and unit.dim() else unit
    with torch.no_grad():
        model.stem.weight /= of_weight
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=1e-3)
    torch._dynamo.reset()
    if how == "eager":
        apply_tract(model, "stem", LAM, relative=relative)
        call: Callable[[Tensor], Tensor] = model
    else:
        call = torch.compile(model, backend=tract_backend(LAM, relative=relative, inner="aot_eager"))
    labels, losses = torch.tensor([0, 1, 2, 3]), []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(call(photographs(4, 24, "0..1", seed=step).double() * unit), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    found = {name: item.detach().clone() for name, item in model.named_parameters()}
    found["stem.weight"] *= of_weight
    return {**found, "losses": torch.stack(losses)}


@pytest.mark.parametrize("how", ["compiled", "eager"])
@pytest.mark.parametrize("stem", ["primal", "dual"])
def test_training_by_sgd_does_not_depend_on_the_unit(stem: str, how: str) -> None:
    expected = trained(stem, how, 1.0)
    assert (expected["losses"][-1] - expected["losses"][0]).abs() > 1e-3
    for scale in (1 / 255, 255.0):
        found = trained(stem, how, scale)
        for name, value in expected.items():
            assert error(found[name], value) < 1e-9, (scale, name)


def test_training_with_an_absolute_lam_depends_on_the_unit() -> None:
    expected, found = (trained("primal", "eager", scale, relative=False) for scale in (1.0, 255.0))
    assert error(found["stem.weight"], expected["stem.weight"]) > 1e-2


def test_groups_of_channels_may_have_units_of_their_own() -> None:
    """Each group of channels has a trace of its own."""
    expected, found = (trained("grouped", "eager", unit) for unit in (1.0, UNITS))
    for name, value in expected.items():
        assert error(found[name], value) < 1e-9, name


def test_channels_of_one_group_may_not() -> None:
    """Their traces add up, and channels in small units are damped; with a ``lam`` near zero no unit matters."""
    torch.manual_seed(0)
    x, dz = photographs(4, 12, "0..1").double(), torch.randn(4, 6, 12, 12, dtype=torch.float64)

    def gradient(x: Tensor, lam: float) -> Tensor:
        layer = TrAct(nn.Conv2d(3, 6, 1).double(), lam, relative=True)
        (layer(x) * dz).sum().backward()
        return layer.weight.grad

    for lam, lowest, highest in ((LAM, 0.1, 10.0), (1e-12, 0.0, 1e-4)):
        difference = error(gradient(x * UNITS, lam) * UNITS, gradient(x, lam))
        assert lowest <= difference < highest


def test_lam_is_set_without_a_compile_and_follows_every_batch() -> None:
    torch._dynamo.reset()
    model, backend = nn.Sequential(nn.Linear(6, 4)), tract_backend(LAM, relative=True, inner="aot_eager")
    counter = Counter(backend)
    compiled = torch.compile(copy.deepcopy(model), backend=counter)
    for lam, scale in ((0.1, 1.0), (0.5, 1.0), (0.02, 100.0), (0.02, 1e-3)):
        backend.lam = lam
        compiled.zero_grad()
        x = torch.randn(9, 6) * scale
        squared(compiled(x)).backward()
        expected = tract_gradients(model, [x], ["0"], lam, relative=True)["0"]
        assert error(compiled._orig_mod[0].weight.grad, expected) <= 1e-5
    assert counter.graphs == 1


def test_each_call_of_a_layer_has_the_trace_of_its_own_rows() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 4)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.tanh(self.layer(x)) + torch.tanh(self.layer(y))

    model, inputs = Twice(), [torch.randn(9, 6), 20 * torch.randn(9, 6)]
    found = gradients(model, inputs, tract_backend(LAM, relative=True, inner="aot_eager"))["layer.weight"]
    assert error(found, tract_gradients(model, inputs, ["layer"], LAM, relative=True)["layer"]) <= 1e-5


@pytest.mark.parametrize("rows", [9, 3])
def test_each_system_of_a_batched_product_has_its_own_trace(rows: int) -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 6, 4))

        def forward(self, x: Tensor) -> Tensor:
            return torch.bmm(x, self.weight)

    model = Product()
    x = torch.randn(3, rows, 6) * torch.tensor([0.01, 1.0, 50.0])[:, None, None]
    found = gradients(model, [x], tract_backend(LAM, relative=True, inner="aot_eager"))["weight"]
    z = (x.double() @ model.weight.double()).detach().requires_grad_()
    squared(z).backward()
    form = reference.dual if rows < 6 else reference.primal
    expected = [form(X, dZ, LAM, relative=True).T for X, dZ in zip(x, z.grad, strict=True)]
    for system, wanted in zip(found, expected, strict=True):
        assert error(system, wanted) <= 1e-5


@pytest.mark.parametrize("rows", [9, 3])
@pytest.mark.parametrize("value", [0.0, 1e-30, 1e30])
def test_finite_data_of_any_scale_give_a_finite_gradient(value: float, rows: int) -> None:
    model, x = nn.Sequential(nn.Linear(6, 4), nn.Tanh()), torch.full((rows, 6), value)
    for found in (
        gradients(model, [x], tract_backend(LAM, relative=True, inner="aot_eager"))["0.weight"],
        gradients(apply_tract(copy.deepcopy(model), "0", LAM, relative=True), [x])["0.weight"],
    ):
        assert found.isfinite().all()
        assert bool(found.any()) == (value == 1e-30)  # of 1e30 the outputs are 1 and have no gradient


def test_a_transposed_convolution_does_not_depend_on_the_unit_either() -> None:
    """Each of its systems has its own trace; here there are four, of four, two, two and one of the kernel's offsets."""
    torch.manual_seed(0)
    layer, x = nn.ConvTranspose2d(3, 4, 3, stride=2).double(), photographs(2, 12, "0..1").double()
    dz = torch.randn(2, 4, 25, 25, dtype=torch.float64)
    found = []
    for scale in (1.0, 255.0):
        for twin in (copy.deepcopy(layer), apply_tract(nn.Sequential(copy.deepcopy(layer)), "0", LAM, relative=True)):
            twin.zero_grad()
            torch._dynamo.reset()
            backend = tract_backend(LAM, relative=True, inner="aot_eager")
            call = twin if isinstance(twin, nn.Sequential) else torch.compile(nn.Sequential(twin), backend=backend)
            (call(x * scale) * dz).sum().backward()
            found.append(next(twin.parameters()).grad * scale)
    for gradient in found[1:]:
        assert error(gradient, found[0]) < 1e-9


def test_backends_and_layers_say_so_and_keep_it() -> None:
    backend = tract_backend(0.2, relative=True)
    assert repr(backend).startswith("tract_backend(lam=0.2, relative=True, layers='first'")
    assert "relative" not in repr(tract_backend(0.2))
    kept: TractBackend = pickle.loads(pickle.dumps(backend))
    assert kept.options.relative
    layer = TrAct(nn.Linear(6, 4), 0.2, relative=True)
    assert repr(layer).endswith("lam=0.2, relative=True)")
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), layer.tract_like(nn.Linear(6, 4))):
        assert (twin.relative, twin.lam) == (True, 0.2)
    assert "relative" not in repr(TrAct(layer, 0.2))


def test_findings_and_explanations_have_it() -> None:
    model, x = nn.Sequential(nn.Linear(6, 4), nn.Tanh()), torch.randn(9, 6)
    for relative in (False, True):
        backend = tract_backend(LAM, relative=relative, inner="aot_eager")
        gradients(model, [x], backend)
        (match,) = backend.matches
        assert match.relative is relative
        assert ("relative lam" in str(match)) is relative
        explanation = explain(model, x, lam=LAM, relative=relative)
        assert explanation.matches == (match,)
        assert explanation.to_dict()["relative"] is relative
        assert ("lam 0.1 tr(C)/n" in str(explanation)) is relative


def test_options_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = nn.Sequential(nn.Linear(6, 4), nn.Tanh()), 100 * torch.randn(9, 6)
    expected = tract_gradients(model, [x], ["0"], LAM, relative=True)["0"]
    options = {"inner": "aot_eager", "relative": True}
    assert error(gradients(model, [x], "tract", options=options)["0.weight"], expected) <= 1e-5
    monkeypatch.setenv("TRACT_FX_RELATIVE", "1")
    assert error(gradients(model, [x], "tract", options={"inner": "aot_eager"})["0.weight"], expected) <= 1e-5
