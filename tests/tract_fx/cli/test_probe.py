"""`tract-fx probe`: what reaches `tract_fx.probe`, and what is made of its answer."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import tract_fx
from support.works import works
from tract_fx import cli

pytestmark = works("command line")


class Fake:
    """The answer of a probe."""

    def __init__(self, warnings: tuple[str, ...]) -> None:
        self.warnings = warnings

    def __str__(self) -> str:
        return "a probe"

    def to_dict(self) -> dict[str, Any]:
        return {"warnings": list(self.warnings)}

    def to_html(self, path: Path) -> None:
        path.write_text("a page")

    def save_figures(self, folder: Path) -> None:
        (folder / "spectrum.png").write_bytes(b"a picture")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (8, 8), (40 * index, 9, 9)).save(tmp_path / "data" / name / f"{index}.png")
    return tmp_path / "data"


@pytest.mark.parametrize(("warnings", "status"), [((), 0), (("inputs are not standardised",), 1)])
def test_the_answer_is_printed_saved_and_a_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], images: Path, warnings: Any, status: int
) -> None:
    calls: list[Any] = []

    def probe(model: nn.Module, loader: Any, lam: float, **options: Any) -> Fake:
        calls.append((model, list(loader), lam, options))
        return Fake(warnings)

    monkeypatch.setattr(tract_fx, "probe", probe, raising=False)
    out = images.parent / "out"
    argv = f"probe timm:test_vit --data {images} --batches 2 --batch 2 --input 3x160x160 --lam 0.3 --out {out}"
    assert cli.main(argv.split()) == status
    ((model, batches, lam, options),) = calls
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert [(pixels.shape, labels.shape) for pixels, labels in batches] == [((2, 3, 160, 160), (2,))] * 2
    assert (lam, options) == (0.3, {"batches": 2, "layers": "first", "relative": False})
    assert torch.cat([pixels for pixels, _ in batches]).min() < 0  # standardised as the model's configuration says
    assert capsys.readouterr().out == "a probe\n"
    assert json.loads((out / "probe.json").read_text()) == {"warnings": list(warnings)}
    assert (out / "spectrum.png").exists()


def test_weights_layers_and_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], images: Path
) -> None:
    calls: list[Any] = []

    def probe(model: nn.Module, loader: Any, lam: float, **options: Any) -> Fake:
        calls.append((model, options["layers"]))
        return Fake(())

    monkeypatch.setattr(tract_fx, "probe", probe, raising=False)
    saved, folder = nn.Conv2d(3, 4, 3), images.parent
    (folder / "a_model_with_weights.py").write_text(
        "from torch import nn\n\ndef net():\n    return nn.Conv2d(3, 4, 3)\n"
    )
    monkeypatch.syspath_prepend(folder)
    torch.save({"state_dict": saved.state_dict()}, folder / "weights.pt")
    argv = f"probe a_model_with_weights:net --data {images} --input 3x8x8 --checkpoint {folder}/weights.pt --layers a,b"
    assert cli.main([*argv.split(), "--html", f"{folder}/p.html", "--json", f"{folder}/p.json"]) == 0
    ((model, layers),) = calls
    assert torch.equal(model.weight, saved.weight)
    assert layers == ["a", "b"]
    assert (folder / "p.html").read_text() == "a page"
    assert json.loads((folder / "p.json").read_text()) == {"warnings": []}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["timm:resnet18"], "--data"),
        (["timm:resnt18", "--data", "."], "did you mean 'resnet18'"),
        (["timm:test_vit", "--data", "no/such/place"], "--data no/such/place: no such folder or archive"),
        (["timm:test_vit", "--data", "."], "holds no image"),
        (["torch.nn:Identity", "--data", "."], "give --input"),
        (["timm:test_vit", "--data", ".", "--lam", "0"], "--lam"),
        (["timm:test_vit", "--data", ".", "--mean", "a,b"], "--mean"),
        (["timm:test_vit", "--data", ".", "--out", "taken"], "taken: is no folder"),
    ],
)
def test_what_does_not_work_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argv: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("a file")
    monkeypatch.setattr(tract_fx, "probe", lambda *arguments, **options: Fake(()), raising=False)
    assert cli.main(["probe", *argv]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.out == ""


@pytest.mark.parametrize("module", ["PIL", "numpy"])
def test_a_missing_library_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert cli.main(["probe", "timm:test_vit", "--data", "."]) == 2
    assert f"probe: needs {module}; install with: pip install 'tract-fx[demo]'" in capsys.readouterr().err
