"""`tract-fx explain`: the answer, the files, and the exit status."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tract_fx
from support.works import works
from tract_fx import cli

pytestmark = works("command line")


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Models of the user's in the working directory."""
    code = """
        import torch
        from torch import nn

        class OnValues(nn.Module):
            def __init__(self):
                super().__init__()
                self.first = nn.Linear(6, 4)
                self.register_buffer("scale", torch.ones(()))

            def forward(self, x):
                return self.first(x) * int(self.scale.item())

        def conv():
            return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh())

        def embedding():
            return nn.Embedding(9, 4), torch.zeros(5, 7, dtype=torch.long)

        def bilinear():
            return nn.Bilinear(6, 5, 4), (torch.zeros(9, 6), torch.zeros(9, 5))
    """
    (tmp_path / "own_cli_models.py").write_text(textwrap.dedent(code))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    yield
    sys.modules.pop("own_cli_models", None)


def test_the_answer_is_printed_first_and_written_for_tools(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["explain", "own_cli_models:conv", "--input", "3x8x9", "--batch", "5", "--json", "found.json"]
    assert cli.main(argv) == 0
    first, *_ = capsys.readouterr().out.splitlines()
    assert first == "0: Conv2d 3->4, 3x3: rewritten, primal, 27x27, 210 rows"
    found = json.loads(Path("found.json").read_text())
    assert found["is_fine"]
    assert found["headline"] == first


@pytest.mark.parametrize(
    ("model", "said"),
    [("embedding", "there is no first layer"), ("bilinear", "not rewritten")],
)
def test_a_model_that_trax_leaves_alone_is_a_finding(capsys: pytest.CaptureFixture[str], model: str, said: str) -> None:
    assert cli.main(["explain", f"own_cli_models:{model}"]) == 1
    assert said in " ".join(capsys.readouterr().out.split())


def test_a_model_whose_code_looks_at_values_is_made_with_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "own_cli_models:OnValues", "--input", "6"]) == 0
    assert capsys.readouterr().out.startswith("first: Linear 6->4: rewritten")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["timm:resnt50"], "timm has no model"),
        (["own_cli_models:conf"], "did you mean 'conv'"),
        (["own_cli_models:conv"], "give --input"),
        (["own_cli_models:conv", "--input", "3x8x9", "--layers", "1.weight"], "did you mean '0.weight'"),
        (["own_cli_models:conv", "--input", "7"], "could not be traced"),
        (["own_cli_models:conv", "--input", "3by3"], "--input: must be sizes without the batch"),
        (["own_cli_models:conv", "--input", "3x0x3"], "--input: must be sizes without the batch"),
        (["own_cli_models:conv", "--batch", "0"], "--batch"),
        (["own_cli_models:conv", "--dtype", "int8"], "--dtype"),
        (["own_cli_models:conv", "--html", "no/such/page.html"], "no/such/page.html: cannot be written"),
        (["own_cli_models:conv", "--json", "."], "cannot be written"),
    ],
)
def test_what_does_not_work_is_a_sentence(capsys: pytest.CaptureFixture[str], argv: list[str], said: str) -> None:
    assert cli.main(["explain", *argv]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err.replace(f"timm {__import__('timm').__version__}", "timm")
    assert "Traceback" not in printed.err


class Fake:
    """An explanation of nothing."""

    is_fine = True

    def __str__(self) -> str:
        return "an explanation"

    def to_html(self, path: Path) -> None:
        path.write_text("a page")


def test_every_argument_reaches_explain(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[Any] = []

    def explain(model: nn.Module, *inputs: torch.Tensor, **options: Any) -> Fake:
        calls.append((model, inputs, options))
        return Fake()

    monkeypatch.setattr(tract_fx, "explain", explain, raising=False)
    options = "--input 3x5x6 --batch 7 --dtype bf16 --lam 0.3 --relative --layers 0,1 --dynamic --html a.html"
    assert cli.main(["explain", "own_cli_models:conv", *options.split()]) == 0
    ((model, (images,), given),) = calls
    assert images.shape == (7, 3, 5, 6)
    assert images.dtype == next(model.parameters()).dtype == torch.bfloat16
    assert model.training
    assert given == {"lam": 0.3, "relative": True, "layers": ["0", "1"], "dynamic": True}
    assert Path("a.html").read_text() == "a page"
    assert capsys.readouterr().out == "an explanation\n"
    assert cli.main(["explain", "own_cli_models:embedding"]) == 0
    assert calls[-1][2] == {"lam": 0.1, "relative": False, "layers": "first", "dynamic": None}
    assert calls[-1][1][0].dtype == torch.long  # indices stay what they are
