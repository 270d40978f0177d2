"""Each trainer trains with TrAct, unmodified, and what it saves is the plain model, with which it goes on."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from support.python import ROOT
from support.works import works
from tests.distributed.processes import Processes
from tests.examples.observed import EXAMPLES, Observed, errors, observe_in_turn


@pytest.fixture
def process() -> Iterator[Processes]:
    """A new process, forked from one that has imported PyTorch."""
    processes = Processes(1)
    yield processes
    processes.close()


@dataclasses.dataclass(frozen=True)
class Case:
    """An example.

    Attributes:
        name: of its file.
        saved: from its folder, the weights in its last checkpoint under the names that the trainer gives them.
        prefix: of the network's names in the checkpoint.
        layer: the first one of the network.
        clip: norm to which the trainer clips all gradients together; 0 if it does not.
    """

    name: str
    saved: Callable[[Path], dict[str, Tensor]]
    prefix: str = ""
    layer: str = "stem"
    clip: float = 0.0


def lightning_checkpoint(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "last.ckpt", weights_only=False)["state_dict"]


def safetensors(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def last_of_hugging_face(folder: Path) -> dict[str, Tensor]:
    return safetensors(max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2])))


CASES = [
    Case(
        "huggingface_trainer",
        last_of_hugging_face,
        layer="resnet.embedder.embedder.convolution",
        clip=1.0,  # max_grad_norm
    ),
    Case("lightning_module", lightning_checkpoint, prefix="net."),
    Case("lightning_configure_model", lightning_checkpoint, prefix="net."),
    Case("accelerate_loop", safetensors),
]


def check(observed: Observed, case: Case) -> None:
    """Every gradient of every step."""
    for step in observed.steps:
        found = errors(observed.model, step, case.layer, clip=case.clip)
        assert found.are_of_tract, found


@works("trainers")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_trains_with_tract_saves_the_plain_model_and_goes_on(
    process: Processes, photographs: Path, tmp_path: Path, case: Case
) -> None:
    arguments = ["--data", str(photographs), "--batch", "8", "--out", str(tmp_path), "--steps"]
    ((first, again),) = process.run(
        observe_in_turn, case.name, [*arguments, "2"], [*arguments, "3", "--resume"], seconds=300
    )
    assert [len(item.steps) for item in (first, again)] == [2, 1]
    check(first, case)
    check(again, case)
    # It went on with the weights, and with the optimiser's state, of where the first run had ended.
    weights = dict(first.model.named_parameters())
    assert all(torch.equal(item, weights[name]) for name, item in again.steps[0].weights.items())
    assert [step.states for step in (*first.steps, *again.steps)] == [0, len(weights), len(weights)]
    # A plain model of the same kind loads what it has saved.
    saved = case.saved(tmp_path)
    trained = {f"{case.prefix}{name}": item for name, item in again.model.state_dict().items()}
    assert saved.keys() == trained.keys()
    assert all(torch.equal(saved[name], trained[name]) for name in saved)


@works("trainers")
def test_accelerate_and_the_trainer_take_no_name_that_they_do_not_know(tmp_path: Path) -> None:
    """So the examples compile the model themselves; should this become possible, they can be shorter."""
    from accelerate import Accelerator
    from transformers import Trainer, TrainingArguments

    with pytest.raises(ValueError, match="'TRACT' is not a valid DynamoBackend"):
        Accelerator(cpu=True, dynamo_backend="tract")
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, torch_compile_backend="tract", report_to="none")
    with pytest.raises(ValueError, match="'TRACT' is not a valid DynamoBackend"):
        Trainer(torch.nn.Linear(2, 2), arguments)


def test_the_first_line_is_the_command() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "examples" in extras
    install = r'# (git clone .* && )?pip install "\.\[examples\]" && '
    for path in {*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*.sh")} - {EXAMPLES / "common.py"}:
        run = rf"(python|sh|torchrun .*|accelerate launch) examples/{path.name} .*FOLDER"
        assert re.fullmatch(install + run, path.read_text().splitlines()[0]), path.name


@works("trainers")
def test_the_prefix_that_a_wrapped_network_has_in_checkpoints() -> None:
    """As the table of trainers says it: what `torch.compile` returns has it, and each trainer has a way around."""
    from accelerate import Accelerator
    from common import Net
    from lightning_configure_model import Classifier

    plain = Net(3, 2).state_dict().keys()
    module = Classifier(3, 2, 0.1)
    module.net = torch.compile(Net(3, 2), backend="tract")
    assert module.state_dict().keys() == {f"net._orig_mod.{name}" for name in plain}
    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare(torch.compile(Net(3, 2), backend="tract"))
    assert accelerator.get_state_dict(model, unwrap=False).keys() == {f"_orig_mod.{name}" for name in plain}
    assert accelerator.unwrap_model(model, keep_torch_compile=False).state_dict().keys() == plain
