"""The benchmarks of whole steps run end to end, and compare what they say they compare."""

import pytest
import torch
from torch import nn
from torch_tract import TrActConv2d

from benchmarks import sides, throughput
from benchmarks.models import WORKLOADS, Workload
from benchmarks.sides import Precision, training_step
from support.marks import codegen


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 10))


SMALL = Workload(small, 8, {"cpu": 2}, ("0",))


@codegen
def test_every_side_is_measured_against_the_compiled_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(throughput.WORKLOADS, "small", SMALL)
    record = throughput.measure("small", ["eager", "compiled tract-fx"], 2, "cpu", None, Precision())
    assert set(record["sides"]) == {"compiled", "eager", "compiled tract-fx"}
    assert record["sides"]["compiled"]["ratio"] == 1.0
    assert all(side["seconds"] > 0 for side in record["sides"].values())
    assert record["batch"] == 2


@pytest.mark.parametrize("side", ["eager", "eager torch-tract"])
def test_a_step_trains_a_copy(side: str) -> None:
    model, (x, labels) = small(), SMALL.data("cpu", 2)
    before = model[0].weight.clone()
    training_step(side, model, SMALL.first, x, labels, Precision("bfloat16" if side == "eager" else "float32", True))()
    assert torch.equal(model[0].weight, before)


def test_the_authors_module_takes_the_place_of_the_first_layers() -> None:
    model = nn.ModuleDict({"stem": nn.Sequential(nn.Conv2d(3, 4, 3))})
    sides._replace_by_official(model, ["stem.0"])
    assert isinstance(model["stem"][0], TrActConv2d)


@pytest.mark.parametrize("name", [name for name in WORKLOADS if name != "resnet50-224"])
def test_the_named_first_layers_exist(name: str) -> None:
    with torch.device("meta"):
        model = WORKLOADS[name].make()
    assert all(
        isinstance(model.get_submodule(layer), (nn.Conv2d, nn.Conv3d, nn.Linear)) for layer in WORKLOADS[name].first
    )


@pytest.mark.parametrize("name", ["mlp-32", "small-cnn-32", "video-32", "forecaster-96"])
def test_small_networks_are_fed_what_they_take(name: str) -> None:
    workload = WORKLOADS[name]
    x, labels = workload.data("cpu", 2)
    scores = workload.make()(x)
    assert scores.shape[0] == len(labels)
    assert scores.shape[1] > labels.max()
