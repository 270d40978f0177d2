"""Inside ``as_default_backend``, whoever compiles without naming a backend trains with TrAct."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from support.oracle import error, squared, tract_gradients
from tract_fx import OptionError, TractWarning, as_default_backend, backend_of, compat

X = torch.randn(6, 3, 9, 8)
EAGER = {"inner": "aot_eager"}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Conv2d(3, 4, 3), nn.Linear(168, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x).tanh().flatten(1))


def assert_trains_with(lam: float, call: Callable[[Tensor], Tensor], model: Net) -> None:
    model.zero_grad()
    squared(call(X)).backward()
    assert error(model.stem.weight.grad, tract_gradients(model, [X], ["stem"], lam)["stem"]) <= 1e-5


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("arguments", [{}, {"backend": "inductor"}, {"mode": "default"}, {"dynamic": True}], ids=str)
def test_what_is_compiled_inside_stays_so_outside(arguments: dict) -> None:
    plain, in_place = Net(), Net()
    with as_default_backend(0.2, **EAGER) as backend:
        compiled = torch.compile(plain, **arguments)
        in_place.compile(**arguments)
    assert backend_of(compiled) is backend_of(in_place) is backend
    assert backend_of(plain) is backend  # before its first step
    assert_trains_with(0.2, compiled, plain)
    assert_trains_with(0.2, in_place, in_place)
    backend.lam = 0.5
    assert_trains_with(0.5, compiled, plain)


def test_as_a_decorator() -> None:
    function = torch.compile(lambda x: x + 1)
    with as_default_backend(**EAGER) as backend:

        @torch.compile
        def inside(x: Tensor) -> Tensor:
            return x + 1

        @torch.compile(fullgraph=True)
        def with_arguments(x: Tensor) -> Tensor:
            return x + 1

    assert backend_of(inside) is backend_of(with_arguments) is backend
    with pytest.raises(OptionError):
        backend_of(function)


def test_other_backends_modes_and_options_go_on() -> None:
    with as_default_backend() as backend:
        other = torch.compile(Net(), backend="aot_eager")
        mode = torch.compile(Net(), mode="reduce-overhead")
        options = torch.compile(Net(), options={"max_autotune": False})
        assert not hasattr(torch.compile(Net(), options={"use_aoti": True}).dynamo_ctx, "tract_backend")
    assert compat.given_backend(other).function is not backend
    assert compat.given_backend(mode)[1:] == (backend, {"mode": "reduce-overhead"})
    assert compat.given_backend(options)[1:] == (backend, {"options": {"max_autotune": False}})


def is_plain(compiled: object) -> bool:
    return compat.given_backend(compiled) is None


def test_outside_nothing_changes_also_after_an_error() -> None:
    assert is_plain(torch.compile(Net()))
    with pytest.raises(ZeroDivisionError), as_default_backend(**EAGER):
        raise ZeroDivisionError
    assert is_plain(torch.compile(Net()))
    with pytest.raises(OptionError, match="lam=0"), as_default_backend(0):
        pass
    assert is_plain(torch.compile(Net()))


def test_the_innermost_counts() -> None:
    with as_default_backend(0.2, **EAGER) as outer:
        first = torch.compile(Net())
        with as_default_backend(0.3, **EAGER) as inner:
            second = torch.compile(Net())
        third = torch.compile(Net())
    assert [backend_of(compiled) for compiled in (first, second, third)] == [outer, inner, outer]


def test_another_thread_is_not_concerned() -> None:
    found: list[object] = []
    with as_default_backend(**EAGER):
        thread = threading.Thread(target=lambda: found.append(torch.compile(Net())))
        thread.start()
        thread.join()
    assert is_plain(found[0])


def test_a_copy_of_what_was_compiled_before_stays_as_it_was() -> None:
    before = torch.compile(Net())
    with as_default_backend(**EAGER) as backend:
        assert is_plain(copy.deepcopy(before))
        assert backend_of(copy.deepcopy(torch.compile(Net()))) is not None
        assert isinstance(torch._TorchCompileInductorWrapper.__new__(torch._TorchCompileInductorWrapper), object)
    assert backend.matches == ()


@pytest.mark.parametrize("options", [{}, {"layers": ["stem"]}], ids=str)
def test_functions_without_parameters_never_warn(options: dict) -> None:
    with as_default_backend(**EAGER, **options):
        function = torch.compile(lambda x: (x.sin() * x).sum())
        model = torch.compile(Net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", TractWarning)
        function(X.clone().requires_grad_()).backward()
        function(model(X)).backward()
        optimizer.step()


@pytest.mark.slow
def test_hugging_face_s_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    for name in ("BACKEND", "MODE", "USE_FULLGRAPH"):  # the trainer sets them
        monkeypatch.delenv(f"ACCELERATE_DYNAMO_{name}", raising=False)
        monkeypatch.setenv(f"ACCELERATE_DYNAMO_{name}", "")
        monkeypatch.delenv(f"ACCELERATE_DYNAMO_{name}")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        image_size=16, patch_size=8, hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config)
    items = [{"pixel_values": torch.randn(3, 16, 16), "labels": torch.tensor(index % 3)} for index in range(8)]
    layer = "vit.embeddings.patch_embeddings.projection"
    batches: list[dict[str, Tensor]] = []
    errors: list[float] = []

    def collate(chosen: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        batches.append({name: torch.stack([item[name] for item in chosen]) for name in chosen[0]})
        return batches[-1]

    class Compare(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
            images, labels = batches[state.global_step].values()

            def loss(output):  # type: ignore[no-untyped-def]
                return nn.functional.cross_entropy(output.logits, labels)

            found = model.get_submodule(layer).weight.grad
            errors.append(error(found, tract_gradients(model, [images], [layer], 0.1, loss)[layer]))

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, max_grad_norm=0.0, use_cpu=True,
        report_to="none", save_strategy="no", disable_tqdm=True, torch_compile=True, dataloader_num_workers=0,
    )  # fmt: skip
    trainer = transformers.Trainer(model, arguments, data_collator=collate, train_dataset=items, callbacks=[Compare()])
    with as_default_backend(lam=0.1, **EAGER) as backend:
        trainer.train()
    assert len(errors) == 2
    assert max(errors) <= 1e-5
    assert [match.layer for match in backend.matches] == [layer]
    assert backend_of(model) is backend


@pytest.fixture
def accelerate() -> Iterator[ModuleType]:
    """The package without its state, which is the first `Accelerator`'s of the process, be it of a `Trainer`."""
    package = pytest.importorskip("accelerate")
    package.state.AcceleratorState._reset_state(reset_partial_state=True)
    yield package
    package.state.AcceleratorState._reset_state(reset_partial_state=True)


def test_accelerate_s_dynamo_backend(accelerate: ModuleType) -> None:
    model = Net()
    accelerator = accelerate.Accelerator(cpu=True, dynamo_backend="inductor")
    with as_default_backend(0.2, **EAGER):
        prepared = accelerator.prepare(model)
    assert_trains_with(0.2, prepared, model)


@pytest.fixture
def lightning() -> ModuleType:
    return pytest.importorskip("lightning")


@pytest.mark.slow
@pytest.mark.parametrize("part", ["whole", "net"])
def test_lightning_s_trainer(lightning: ModuleType, part: str) -> None:
    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()
            self.found: list[Tensor] = []

        def configure_model(self) -> None:
            if part == "net":
                self.net.compile()

        def training_step(self, batch: Tensor, index: int) -> Tensor:
            return squared(self.net(batch))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def on_after_backward(self) -> None:
            self.found.append(self.net.stem.weight.grad.clone())

    module = Module()
    expected = tract_gradients(module.net, [X], ["stem"], 0.2)["stem"]
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(max_steps=1, accelerator="cpu", devices=1, enable_model_summary=False, **quiet)
    with as_default_backend(0.2, **EAGER) as backend:
        trainer.fit(torch.compile(module) if part == "whole" else module, torch.utils.data.DataLoader(X, len(X)))
    assert error(module.found[0], expected) <= 1e-5
    assert backend_of(module) is backend


def test_lightning_s_fabric_compiles_again_in_its_setup(lightning: ModuleType) -> None:
    model = Net()
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    with as_default_backend(0.2, **EAGER) as backend:
        prepared = fabric.setup(torch.compile(model))
    assert_trains_with(0.2, prepared, model)
    assert backend_of(prepared) is backend
