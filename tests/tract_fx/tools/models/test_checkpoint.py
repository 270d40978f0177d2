"""Weights come from a file; whatever does not fit is said, and no code of the file runs."""

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tract_fx.tools.errors import CheckpointError
from tract_fx.tools.models.checkpoint import load_checkpoint


def model(classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, classes))


WRAPPINGS = {
    "a state_dict": lambda state: state,
    "with an optimiser": lambda state: {"epoch": 3, "model": state, "optimizer": {"lr": 0.1}},
    "of Lightning": lambda state: {"state_dict": {f"model.{name}": item for name, item in state.items()}},
    "of a parallel, compiled model": lambda state: {f"module._orig_mod.{name}": item for name, item in state.items()},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_weights_are_found_however_they_are_wrapped(tmp_path: Path, wrapping: str) -> None:
    saved, other = model(), model()
    saved[1].running_mean.fill_(7)
    torch.save(WRAPPINGS[wrapping](saved.state_dict()), tmp_path / "weights.pt")
    assert load_checkpoint(other, tmp_path / "weights.pt") == ()
    for name, item in saved.state_dict().items():
        assert torch.equal(other.state_dict()[name], item), name


def test_another_head_stays_as_it_is_and_is_said(tmp_path: Path) -> None:
    saved, other = model(10), model(3)
    before = other[3].weight.clone()
    torch.save({**saved.state_dict(), "more": torch.zeros(1)}, tmp_path / "weights.pt")
    said = load_checkpoint(other, tmp_path / "weights.pt")
    assert torch.equal(other[0].weight, saved[0].weight)
    assert torch.equal(other[3].weight, before)
    assert ["3.weight, 3.bias are in another shape" in said[0], "more is there, and not in the model" in said[1]] == [
        True
    ] * 2


class Malicious:
    """Makes a folder when it is unpickled."""

    folder = Path(tempfile.gettempdir()) / f"tract-fx-unpickled-{os.getpid()}"

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.folder),))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"other": torch.zeros(2)}, "none of its 1 weights fits the model: it has 'other'.*the model has '0.weight'"),
        ({"epoch": 3}, "holds no state_dict: it is a dict without tensors"),
        ([1, 2], "holds no state_dict: it is a list"),
        (Malicious(), "holds more than tensors and plain values.*would run code from the file"),
        (b"no archive", "holds more than|cannot be read"),
        (None, "there is no such file"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path: Path, content: Any, said: str) -> None:
    path = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=said) as caught:
        load_checkpoint(model(), path)
    assert str(caught.value).startswith(f"--checkpoint {path}: ")
    assert not re.search(r"\n", str(caught.value))
    assert not Malicious.folder.exists()
