"""Runs timm's training script, in a process of its own, and writes what its optimiser got, for each step, as JSON.

    python timm_observed.py SCRIPT REPORT [arguments of the script]

The script compiles the network and leaves the task around it alone, so that a note can be taken of what the task is called
with.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import runpy
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from tests.examples.observed import Batch, Recorder, Step, errors
from tract_fx import TractWarning

LAYER = "conv1.0"


def describe(step: Step, model: torch.nn.Module, criterion: Any, dtype: torch.dtype) -> dict[str, Any]:
    weight = f"{LAYER}.weight"
    return {
        "errors": dataclasses.asdict(errors(model, step, LAYER, criterion=criterion, dtype=dtype)),
        "weight": step.weights[weight].flatten().tolist(),
        "states": step.states,
    }


def main(script: str, report: str, *arguments: str) -> None:
    from timm.task import ClassificationTask
    from timm.utils import unwrap_model

    batches: list[Batch] = []
    tasks: list[ClassificationTask] = []
    forward = ClassificationTask.forward

    def noted(task: ClassificationTask, images: torch.Tensor, labels: torch.Tensor) -> Any:
        batches.append((images.clone(), labels.clone()))
        tasks.append(task)
        return forward(task, images, labels)

    ClassificationTask.forward = noted
    sys.argv = [script, *arguments]
    with Recorder() as recorder, warnings.catch_warnings():
        warnings.filterwarnings("error", category=TractWarning)
        runpy.run_path(script, run_name="__main__")
    model = unwrap_model(tasks[-1].trainable_module)
    dtype = torch.bfloat16 if "--amp" in arguments else torch.float32
    steps = recorder.steps(model, batches)
    plain = copy.deepcopy(model)
    found = [describe(step, plain, tasks[-1].criterion, dtype) for step in steps]
    after = model.get_parameter(f"{LAYER}.weight").flatten().tolist()
    Path(report).write_text(json.dumps({"steps": found, "after": after, "keys": list(model.state_dict())}))


if __name__ == "__main__":
    main(*sys.argv[1:])
