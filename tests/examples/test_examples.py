"""Each trainer trains with TrAct, unmodified, and what it saves is the plain model, with which it goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.works import works
from torch import Tensor

from tests.distributed.processes import Processes
from tests.examples.observed import Observed, errors, observe_twice
from tests.examples.photographs import write

# Photographs are smooth: their covariance amplifies the rounding of the plain gradient in float32.
FIRST = 1e-4
OTHERS = 1e-5
FAR = 0.1  # the plain gradient is nowhere near


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("photographs"))


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
        found = errors(observed.model, step, case.layer, case.clip)
        assert found.first < FIRST
        assert found.first_to_plain > FAR
        assert found.others < OTHERS


@works("trainers")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_trains_with_tract_saves_the_plain_model_and_goes_on(
    process: Processes, photographs: Path, tmp_path: Path, case: Case
) -> None:
    arguments = ["--data", str(photographs), "--batch", "8", "--out", str(tmp_path), "--steps"]
    ((first, again),) = process.run(observe_twice, case.name, [*arguments, "2"], [*arguments, "3", "--resume"], seconds=300)
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
