"""timm's training script with ``--torchcompile tract``, and what it is made of.

The script is in no package. Where it is, ``TIMM_TRAIN_SCRIPT`` says; without it, the parts of timm that it calls are called
in its place.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from timm.task import ClassificationTask, resume_task_checkpoint
from timm.utils import CheckpointSaver, unwrap_model
from torch import Tensor, nn

from support.python import ROOT, TESTS
from support.works import works
from tests.examples.observed import Errors, Recorder, errors
from tests.examples.timm_observed import LAYER

SCRIPT = os.environ.get("TIMM_TRAIN_SCRIPT")
SHELL = ROOT / "examples" / "timm_script.sh"
LOW = "bfloat16, channels last, EMA"
WAYS = {"float32": [], LOW: ["--amp", "--amp-dtype", "bfloat16", "--channels-last", "--model-ema"]}


def run_script(photographs: Path, folder: Path, *arguments: str) -> dict[str, Any]:
    """The example's command, with the observer in the place of ``python``."""
    report = folder / "report.json"
    binary = folder / "bin" / "python"
    binary.parent.mkdir(exist_ok=True)
    observer = Path(__file__).with_name("timm_observed.py")
    binary.write_text(f'#!/bin/sh\nscript=$1; shift\nexec "{sys.executable}" "{observer}" "$script" "{report}" "$@"\n')
    binary.chmod(0o755)
    small = ["--model", "test_resnet", "--num-classes", "2", "--input-size", "3", "32", "32", "--batch-size", "32"]
    there = ["--val-split", "val", "--device", "cpu", "--workers", "1", "--output", str(folder), "--experiment", "run"]
    finished = subprocess.run(
        ["sh", str(SHELL), SCRIPT, str(photographs), *small, *there, *arguments],
        env={
            **os.environ,
            "PATH": f"{binary.parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, TESTS))),
            "TRACT_FX_INNER": "aot_eager",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(report.read_text())


@works("trainers")
@pytest.mark.skipif(SCRIPT is None, reason="TIMM_TRAIN_SCRIPT is not set to timm's train.py, which is in no package")
@pytest.mark.parametrize("arguments", WAYS.values(), ids=WAYS)
def test_the_script(photographs: Path, tmp_path: Path, arguments: list[str]) -> None:
    """An epoch of two steps; then another one from the checkpoint, in a second process."""
    first = run_script(photographs, tmp_path, "--epochs", "1", *arguments)
    saved = torch.load(tmp_path / "run" / "last.pth.tar", weights_only=False)
    assert list(saved["state_dict"]) == first["keys"]
    assert ("state_dict_ema" in saved) == ("--model-ema" in arguments)
    assert list(saved.get("state_dict_ema", saved["state_dict"])) == first["keys"]
    last = str(tmp_path / "run" / "last.pth.tar")
    again = run_script(photographs, tmp_path, "--epochs", "2", "--resume", last, *arguments)
    assert again["steps"][0]["weight"] == first["after"]
    assert (first["steps"][0]["states"], again["steps"][0]["states"] > 0) == (0, True)
    assert [len(run["steps"]) for run in (first, again)] == [2, 2]
    for step in (*first["steps"], *again["steps"]):
        found = Errors(**step["errors"])
        assert found.are_of_tract, found


class Training:
    """What the script does with a network between two checkpoints."""

    def __init__(self, autocast: bool, channels_last: bool, ema: bool) -> None:
        model = timm.create_model("test_resnet", num_classes=2)
        if channels_last:
            model.to(memory_format=torch.channels_last)
        self.autocast, self.channels_last = autocast, channels_last
        self.task = ClassificationTask(model, criterion_kwargs={"smoothing": 0.1}, verbose=False)
        self.optimizer = create_optimizer_v2(model, opt="sgd", lr=0.05, momentum=0.9)
        self.ema = ema

    def compile(self) -> None:
        if self.ema:
            self.task.setup_ema(decay=0.5)
        self.task.compile(backend="tract", mode=None)
        self.task.compile_ema(backend="tract", mode=None)

    def step(self, images: Tensor, labels: Tensor) -> None:
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16) if self.autocast else contextlib.nullcontext():
            loss = self.task(images, labels)["loss"]
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.task.update_ema()

    @property
    def plain(self) -> nn.Module:
        return unwrap_model(self.task.get_trainable_module())


@works("trainers")
@pytest.mark.filterwarnings("error::tract_fx.TractWarning")
@pytest.mark.parametrize("low", [False, True], ids=["float32", LOW])
def test_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, low: bool) -> None:
    """A step, a checkpoint, and a step of another network that has resumed from it."""
    monkeypatch.setenv("TRACT_FX_INNER", "aot_eager")
    images = 3 * torch.randn(16, 3, 32, 32)
    batch = (images, torch.randint(0, 2, (16,)))
    first = Training(low, low, low)
    first.compile()
    with Recorder() as recorder:
        first.step(*batch)
    saver = CheckpointSaver(
        first.task.get_trainable_module(), first.optimizer, task=first.task, checkpoint_dir=str(tmp_path)
    )
    saver.save_checkpoint(0)
    saved = torch.load(tmp_path / "last.pth.tar", weights_only=False)
    assert list(saved["state_dict"]) == list(first.plain.state_dict())
    if low:
        assert list(saved["state_dict_ema"]) == list(first.plain.state_dict())

    again = Training(low, low, low)
    resume_task_checkpoint(again.task, str(tmp_path / "last.pth.tar"), optimizer=again.optimizer, log_info=False)
    again.compile()
    with Recorder() as resumed:
        again.step(*batch)
    criterion, model = first.task.criterion, copy.deepcopy(first.plain)
    (before,), (after,) = recorder.steps(first.plain, [batch]), resumed.steps(again.plain, [batch])
    assert all(torch.equal(item, after.weights[name]) for name, item in first.plain.named_parameters())
    assert (before.states, after.states) == (0, len(after.weights))
    for step in (before, after):
        found = errors(model, step, LAYER, criterion=criterion, dtype=torch.bfloat16 if low else torch.float32)
        assert found.are_of_tract, found
