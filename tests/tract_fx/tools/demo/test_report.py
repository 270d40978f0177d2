import json
import math
from pathlib import Path

import torch

from tract_fx.tools.demo.pair import Pair
from tract_fx.tools.demo.report import print_pair, write_results
from tract_fx.tools.demo.settings import DemoSettings
from tract_fx.tools.demo.training import Epoch, Run

MATCH = {
    "weight": "stem.weight",
    "layer": "stem",
    "op": "convolution",
    "rows": 64,
    "features": 9,
    "groups": 1,
    "form": "primal",
}


def run(accuracies: list[float], loss: float = 0.25, epoch_seconds: float = 0.5) -> Run:
    epochs = tuple(Epoch(loss, accuracy) for accuracy in accuracies)
    return Run(epochs, 12.0, epoch_seconds, torch.arange(100) < 100 * accuracies[-1], torch.zeros(1, 1, 3, 3))


def pair(**options) -> Pair:
    return Pair(torch.zeros(1, 1, 3, 3), {"plain": run([0.5, 0.6]), "TrAct": run([0.4, 0.9], **options)}, (MATCH,))


def test_report_says_accuracies_layer_time_and_verdict(console):
    print_pair(console, "Net", pair(epoch_seconds=1.5))
    said = console.file.getvalue()
    rows = [line.replace("│", " ").split() for line in said.splitlines() if "│" in line]
    assert rows == [["1", "50.0", "40.0", "-10.0"], ["2", "60.0", "90.0", "+30.0"]]
    assert "TrAct rewrote stem (convolution: 64 rows of 9 features, primal form)" in said
    assert "plain: first step 12.0 s with compilation, then 0.50 s per epoch" in said
    assert "TrAct: first step 12.0 s with compilation, then 1.50 s per epoch" in said
    assert "Net: TrAct ends 30.0 points ahead" in said


def test_results_hold_every_number_as_strict_json(tmp_path, image_set):
    settings = DemoSettings(Path("d"), ("resnet",), 2, 0.1, 0, 16, 8, 0, "cpu", 1, tmp_path, "inductor")
    write_results(tmp_path / "results.json", settings, image_set, {"resnet": pair(loss=math.nan)}, 99.5)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    results = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert results["settings"]["lam"] == 0.1
    assert results["settings"]["data"] == "d"
    assert results["environment"]["torch"] == torch.__version__
    assert results["images"]["train"] == 40
    assert results["seconds"] == 99.5
    network = results["models"]["resnet"]
    assert network["matches"] == [MATCH]
    assert network["comparison"]["diverged"] == ["TrAct"]
    assert network["runs"]["plain"]["epochs"][1] == {"train_loss": 0.25, "test_accuracy": 0.6}
    assert network["runs"]["TrAct"]["epochs"][1] == {"train_loss": None, "test_accuracy": 0.9}
