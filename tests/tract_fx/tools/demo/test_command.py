"""Whole runs of `tract-fx demo`, without code generation."""

import json

import torch
from PIL import Image

from tract_fx import cli

NAMES = ["curves.png", "filters_resnet.png", "filters_vit.png", "results.json"]


def test_demo_on_a_folder_writes_what_it_promises(capsys, tmp_path, write_images):
    folder, out = write_images("train/a", "train/b", "test/a", "test/b", count=12), tmp_path / "out"
    threads = torch.get_num_threads()
    argv = ["demo", "--data", str(folder), "--input", "3x16x16", "--batch", "8", "--epochs", "1"]
    assert cli.main([*argv, "--out", str(out), "--inner", "aot_eager", "--lam", "0.3", "--device", "cpu"]) == 0
    assert torch.get_num_threads() == threads
    said = capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == NAMES
    for name in NAMES:
        assert str(out / name) in said.replace("\n", "")
    for name in NAMES[:-1]:
        with Image.open(out / name) as picture:
            assert picture.width >= 1200
            assert picture.height >= 500
    results = json.loads((out / "results.json").read_text())
    assert results["settings"]["lam"] == 0.3
    assert results["images"]["train"] == results["images"]["test"] == 24
    for name, layer, features in (("resnet", "stem", 27), ("vit", "patch_embedding", 48)):
        network = results["models"][name]
        assert [(match["layer"], match["features"]) for match in network["matches"]] == [(layer, features)]
        assert f"TrAct rewrote {layer}" in said
        for run in network["runs"].values():
            assert len(run["epochs"]) == 1


def test_demo_on_the_digits_learns_them(tmp_path, capsys):
    argv = ["demo", "--model", "resnet", "--epochs", "3", "--limit", "600", "--device", "cpu"]
    assert cli.main([*argv, "--out", str(tmp_path), "--inner", "aot_eager"]) == 0
    assert "Using 600 of 1,797 images" in capsys.readouterr().out
    runs = json.loads((tmp_path / "results.json").read_text())["models"]["resnet"]["runs"]
    assert all(run["epochs"][-1]["test_accuracy"] > 0.6 for run in runs.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "filters_resnet.png", "results.json"]
