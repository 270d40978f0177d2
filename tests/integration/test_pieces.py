"""Models that reach the compiler in pieces or through wrappers: names are those of the state_dict, and warnings are true."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from support.natural import natural_images, standardised
from support.parts import Part, tract_warnings
from tract_fx import TractWarning, UnsupportedLayerError, tract_backend

X = torch.randn(9, 6)


class Net(nn.Module):
    """Two layers, also called by another method."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.encode(x)

    def encode(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.stem(x)))


class Outer(nn.Module):
    """Reads the layers of its part as if they were its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def __getattr__(self, name: str) -> object:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("net"), name)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.stem(x)))


def step(model: nn.Module, loss: Tensor) -> list[str]:
    """One step of an optimiser; returns its warnings."""
    loss.backward()
    with tract_warnings() as messages:
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    return messages


@pytest.mark.parametrize("layers", ["first", ["net.stem"], ["net.stem.weight"]])
def test_names_behind_a_getattr(layers: str | list[str]) -> None:
    backend = tract_backend(inner="aot_eager", layers=layers)
    torch.compile(Outer(), backend=backend)(X).sum().backward()
    assert [(match.layer, match.weight) for match in backend.matches] == [("net.stem", "net.stem.weight")]


def test_a_layer_is_named_by_any_of_its_names() -> None:
    model = Net()
    model.alias = model.stem
    backend = tract_backend(inner="aot_eager", layers=["alias"])
    torch.compile(model, backend=backend)(X).sum().backward()
    assert [match.layer for match in backend.matches] == ["stem"]


def test_no_warning_for_a_part_that_is_compiled_twice() -> None:
    student, backend = Net(), tract_backend(inner="aot_eager")
    evaluation = torch.compile(student, backend=backend)
    training = torch.compile(nn.ModuleDict({"student": student})["student"], backend=backend)
    assert evaluation is not training
    outer = Outer()
    outer.net = student
    assert step(student, torch.compile(outer, backend=backend)(X).sum()) == []


def test_compiled_parts_without_the_first_layer() -> None:
    model = Net()
    model.head.compile(backend=tract_backend(inner="aot_eager"))

    model.head = Part(nn.Linear(4, 2))
    model.head.compile(backend=tract_backend(inner="aot_eager"))
    (message,) = step(model, model(X).sum())
    assert "stem.weight of Net trained outside of these graphs" in message
    assert step(model, model(X).sum()) == []


class Block(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.fc = nn.Linear(features, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.fc(x))


class Blocks(nn.Module):
    """Blocks that are compiled each by itself, and a layer whose name one in each of them has, too."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.fc = nn.ModuleList([Block(6), Block(4), Block(4)]), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.fc(x)


class Around(nn.Module):
    """A wrapper without parameters of its own, as that for several processes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


def plain_gradients(model: nn.Module) -> dict[str, Tensor]:
    with torch.compiler.set_stance("force_eager"):
        names, parameters = zip(*model.named_parameters(), strict=True)
        return dict(zip(names, torch.autograd.grad(model(X).square().sum(), parameters), strict=True))


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize(
    ("layers", "found"),
    [
        ("first", ["blocks.0.fc.weight"]),
        (["blocks.0.fc"], ["blocks.0.fc.weight"]),
        (["blocks.2.fc.weight"], ["blocks.2.fc.weight"]),
        (["blocks.0", "blocks.1.fc"], ["blocks.1.fc.weight"]),
    ],
)
def test_blocks_that_are_compiled_by_themselves_have_the_names_of_the_model(
    layers: str | list[str], found: list[str], wrapped: bool
) -> None:
    """And a name means the block that it names, though Dynamo runs one compiled code for several."""
    torch._dynamo.reset()
    model, backend = Blocks(), tract_backend(inner="aot_eager", layers=layers, on_unsupported="warn")
    for block in model.blocks:
        block.compile(backend=backend)
    plain = plain_gradients(model)
    (Around(model) if wrapped else model)(X).square().sum().backward()
    assert [match.weight for match in backend.matches] == found
    changed = [name for name, item in model.named_parameters() if not torch.allclose(item.grad, plain[name], rtol=1e-4)]
    assert changed == found


class Checkpointed(Blocks):
    """Computes each block anew in the backward pass, where no module calls it."""

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=True)
        return self.fc(x)


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize(
    ("layers", "found"),
    [("first", ["blocks.0.fc.weight"]), (["blocks.1.fc", "blocks.2.fc"], ["blocks.2.fc.weight", "blocks.1.fc.weight"])],
)
def test_blocks_that_a_backward_pass_computes_anew_have_the_names_of_the_model(
    layers: str | list[str], found: list[str], wrapped: bool
) -> None:
    torch._dynamo.reset()
    model, backend = Checkpointed(), tract_backend(inner="aot_eager", layers=layers)
    for block in model.blocks:
        block.compile(backend=backend)
    # Without an input that requires grad, this kind of checkpointing computes no gradient of the first block.
    perturbed = X + torch.zeros_like(X, requires_grad=True)
    (Around(model) if wrapped else model)(perturbed).square().sum().backward()
    assert [match.weight for match in backend.matches] == found


def test_a_name_that_the_whole_model_does_not_have_may_be_one_of_a_block() -> None:
    class Stemless(Blocks):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.fc = self.fc, nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(super().forward(x))

    model, backend = Stemless(), tract_backend(inner="aot_eager", layers=["fc.weight"])
    model.blocks[1].compile(backend=backend)
    assert step(model, model(X).square().sum()) == []
    assert [match.weight for match in backend.matches] == ["blocks.1.fc.weight"]


def test_a_chosen_layer_outside_of_the_blocks_that_are_compiled() -> None:
    model = Blocks()
    for block in model.blocks:
        block.compile(backend=tract_backend(inner="aot_eager", layers=["fc"]))
    model(X).square().sum().backward()
    with pytest.raises(UnsupportedLayerError, match=r"'fc' in layers=.*fc\.weight, fc\.bias trained, and no compiled"):
        torch.optim.SGD(model.parameters(), lr=0.1).step()


def test_training_through_a_method_that_is_not_compiled() -> None:
    model = Net()
    model.compile(backend=tract_backend(inner="aot_eager"))
    with torch.no_grad():
        model(X)
    (message,) = step(model, model.encode(X).sum())
    assert "through another method" in message
    assert "Dynamo" not in message


def test_a_frozen_weight_and_the_next_layer_are_named() -> None:
    model = Net()
    model.stem.weight.requires_grad_(False)
    with pytest.warns(TractWarning, match=r"stem\.weight is frozen.*layers=\[\"head\"\]"):
        torch.compile(model, backend=tract_backend(inner="aot_eager"))(X)


def test_data_in_an_opaque_operator_beside_a_match() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.one, self.two = (nn.Linear(6, 4) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.stem(x) + torch.cond(x.sum() > 0, lambda x: self.one(x), lambda x: self.two(x), (x,))

    backend = tract_backend(inner="aot_eager")
    with pytest.warns(TractWarning, match="data meets a weight in cond, and this pass cannot see its products"):
        torch.compile(Both(), backend=backend)(X).sum().backward()
    assert [match.weight for match in backend.matches] == ["stem.weight"]


class Skipped(Net):
    """Calls its first layer where no compiler sees it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.eager(x)))

    @torch.compiler.disable
    def eager(self, x: Tensor) -> Tensor:
        return self.stem(x)


class OldSignature(Skipped):
    """``named_parameters`` as some packages override it."""

    def named_parameters(self, prefix: str = "", recurse: bool = True) -> object:
        return super().named_parameters(prefix=prefix, recurse=recurse)


class Contains(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.activation = Net(), nn.Tanh()
        self.unused, self.frozen = nn.Linear(6, 4), nn.Linear(6, 4).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.activation(x))


@pytest.mark.parametrize("make", [Skipped, OldSignature])
@pytest.mark.parametrize("form", ["object", "options", "environment"])
def test_a_chosen_layer_outside_of_every_graph_is_an_error(
    make: type[Net], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, options = make(), {"inner": "aot_eager"}
    if form == "environment":
        monkeypatch.setenv("TRACT_FX_LAYERS", "stem")
    elif form == "options":
        options["layers"] = "stem"
    backend = tract_backend(inner="aot_eager", layers=["stem"]) if form == "object" else "tract"
    compiled = torch.compile(model, backend=backend, options=None if form == "object" else options)
    compiled(X).sum().backward()
    before, optimizer = model.stem.weight.detach().clone(), torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UnsupportedLayerError, match=r"'stem' in layers=.*stem\.weight, stem\.bias trained, and no"):
        optimizer.step()
    assert torch.equal(model.stem.weight, before)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("net", r"it is no layer but holds others\. Name the layer itself: net\.stem, net\.head"),
        ("activation", "there is no parameter in it"),
        ("frozen", r"it is frozen \(requires_grad=False of frozen\.weight, frozen\.bias\)"),
    ],
)
def test_a_chosen_name_that_can_have_no_effect(name: str, reason: str) -> None:
    model = Contains()
    torch.compile(model, backend=tract_backend(inner="aot_eager", layers=["net.stem", name]))(X).sum().backward()
    with pytest.raises(UnsupportedLayerError, match=reason):
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    torch._dynamo.reset()
    quiet = tract_backend(inner="aot_eager", layers=["net.stem", name], on_unsupported="warn")
    (message,) = step(model, torch.compile(model, backend=quiet)(X).sum())
    assert repr(name) in message
    assert step(model, torch.compile(model, backend=quiet)(X).sum()) == []


def test_a_chosen_layer_of_a_model_that_is_skipped_entirely() -> None:
    class Uncompiled(Net):
        @torch.compiler.disable
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    model = Uncompiled()
    torch.compile(model, backend=tract_backend(inner="aot_eager", layers=["stem"]))(X).sum().backward()
    for _ in range(2):
        with pytest.raises(UnsupportedLayerError, match="no graph of Uncompiled was compiled"):
            torch.optim.SGD(model.parameters(), lr=0.1).step()


def test_a_chosen_layer_that_has_not_run_yet_is_told_once_and_no_error() -> None:
    model = Contains()
    compiled = torch.compile(model, backend=tract_backend(inner="aot_eager", layers=["net.stem", "unused"]))
    (message,) = step(model, compiled(X).sum())
    assert "no gradient has reached unused.weight, unused.bias so far" in message
    assert step(model, compiled(X).sum()) == []


def test_another_model_s_step_says_nothing_about_a_chosen_layer() -> None:
    model, other = Skipped(), nn.Linear(6, 1)
    torch.compile(model, backend=tract_backend(inner="aot_eager", layers=["stem"]))(X).sum().backward()
    assert step(other, other(X).sum()) == []


def arriving(model: nn.Module, loss: Tensor) -> list[str]:
    with tract_warnings() as messages:
        loss.backward()
    return messages


def test_a_second_use_of_a_rewritten_weight_that_is_not_compiled() -> None:
    model = Net()
    compiled = torch.compile(model, backend=tract_backend(inner="aot_eager"))
    assert arriving(model, compiled(X).sum()) == []
    (message,) = arriving(model, compiled(X).sum() + model.stem(X.flip(1)).square().sum())
    assert "uses of stem.weight: code that is not compiled uses it" in message
    assert arriving(model, compiled(X).sum() + model.stem(X).square().sum()) == []


def test_no_warning_for_penalties_hooks_and_calls_of_compiled_code() -> None:
    model = Net()
    model.stem.weight.register_hook(lambda gradient: gradient.clamp(-0.01, 0.01))
    compiled = torch.compile(model, backend=tract_backend(inner="aot_eager"))
    model.stem.weight.register_hook(lambda gradient: 2 * gradient)
    for _ in range(2):
        assert arriving(model, compiled(X).sum() + 0.1 * model.stem.weight.square().sum()) == []
        assert arriving(model, compiled(X).sum() + 0.1 * model.stem.weight.abs().sum()) == []
        assert arriving(model, compiled(X).sum() + compiled(X.flip(1)).square().sum()) == []
        assert arriving(model, model(X).square().sum()) == []


def stem_of_photographs() -> tuple[nn.Conv2d, Tensor]:
    return nn.Conv2d(3, 8, 3), standardised(natural_images(8, 12))


PENALTIES = {
    "elastic net": lambda w, start: 0.1 * w.abs().sum() + w.square().sum(),
    "group lasso": lambda w, start: w.flatten(1).norm(dim=1).sum(),
    "distance from the start": lambda w, start: (w - start).square().sum(),
    "orthogonal filters": lambda w, start: (w.flatten(1) @ w.flatten(1).T - torch.eye(8)).square().sum(),
    "largest singular value": lambda w, start: torch.linalg.matrix_norm(w.flatten(1), 2),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_no_warning_for_a_penalty_in_a_training(name: str) -> None:
    model, images = stem_of_photographs()
    start = model.weight.detach().clone()
    compiled = torch.compile(model, backend=tract_backend(inner="aot_eager"))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(5):
        optimizer.zero_grad()
        assert arriving(model, compiled(images).square().mean() + 0.1 * PENALTIES[name](model.weight, start)) == []
        optimizer.step()


@pytest.mark.parametrize("before", ["nothing", "zero", "penalty"])
def test_a_second_use_that_begins_later(before: str) -> None:
    """A loss that is ramped up from zero, or one that comes beside a penalty that was there all the time."""
    model, images = stem_of_photographs()
    compiled = torch.compile(model, backend=tract_backend(inner="aot_eager"))
    told = []
    for step in range(6):
        loss = compiled(images).square().mean()
        if before == "penalty":
            loss = loss + 0.01 * model.weight.square().sum()
        if step >= 2 or before == "zero":
            loss = loss + max(0, step - 1) * model(images.flip(3)).mean(dim=(2, 3)).square().sum()
        told.append(arriving(model, loss))
    assert not any(told[:2])
    assert sum(map(len, told)) == 1


def test_a_second_use_can_be_ignored() -> None:
    model = Net()
    compiled = torch.compile(model, backend=tract_backend(inner="aot_eager", on_unsupported="ignore"))
    assert arriving(model, compiled(X).sum() + model.stem(X.flip(1)).square().sum()) == []


class Quantised(nn.Module):
    """A codec: what eager code makes of the output of its encoder feeds its decoder."""

    def __init__(self, between: str = "codes") -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 4), nn.Linear(4, 6)
        self.register_buffer("table", torch.randn(8, 4))
        self.between = between

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        cut = other[:, :4] * 2
        codes = torch.tanh(self.encoder(x))
        if self.between == "codes":
            other = self.quantise(codes)
        elif self.between == "graph":
            torch._dynamo.graph_break()
            other = cut
        else:
            torch._dynamo.graph_break()
            other = other[:, :4]
        return torch.tanh(self.decoder(other)).sum() + codes.sum()

    @torch.compiler.disable
    def quantise(self, codes: Tensor) -> Tensor:
        return self.table[torch.cdist(codes.detach(), self.table).argmin(1)]


def said_by(model: nn.Module, sizes: tuple[int, ...] = (9,), **options: object) -> list[str]:
    with tract_warnings() as messages:
        compiled = torch.compile(model, backend=tract_backend(inner="aot_eager", **options))
        for rows in sizes:
            x = torch.randn(rows, 6)
            compiled(x, x.flip(0)).sum().backward()
    return messages


def test_a_second_first_layer_fed_by_code_between_two_graphs_is_told() -> None:
    (message,) = said_by(Quantised(), sizes=(9, 11))
    assert "TrAct is applied to decoder, although code between two graphs made its input" in message
    assert "encoder.weight is the start of this network" in message
    assert said_by(Quantised(), layers=["encoder"]) == []
    assert said_by(Quantised(), on_unsupported="ignore") == []


@pytest.mark.parametrize("between", ["graph", "argument"])
def test_a_second_input_that_crosses_a_break_is_data(between: str) -> None:
    assert said_by(Quantised(between)) == []


@pytest.mark.slow
@pytest.mark.parametrize("between", ["graph", "argument"])
def test_a_second_input_that_crosses_a_break_is_data_for_other_sizes_too(between: str) -> None:
    assert said_by(Quantised(between), sizes=(9, 11, 12)) == []


def test_one_stem_on_what_code_between_two_graphs_made_is_no_reason_to_warn() -> None:
    class Crops(Net):
        def forward(self, x: Tensor, other: Tensor) -> Tensor:
            return self.encode(x) + self.encode(self.crop(x))

        @torch.compiler.disable
        def crop(self, x: Tensor) -> Tensor:
            return x.roll(1, 0) * 0.5

    assert said_by(Crops()) == []
