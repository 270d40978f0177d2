"""Which kernels a training step has, plain and with TrAct, and which of them stand behind this package's operators."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_first.records import Records
from benchmarks.gpu_first.steps import BASE, OURS, PRECISIONS, WARM_UP, Setting, in_memory
from benchmarks.gpu_first.timing import wait
from benchmarks.sides import training_step

__all__ = ["run"]

NAMES = ("resnet50-224", "deit-s-224")
STEPS = 3
# Kernels of each step that a line has, those that take longest.
MOST_KERNELS = 60
# Of this package; and those inside of its smallest one, which PyTorch 2.15 does not always show to a profiler.
OPERATORS = ("tract_fx::", "aten::linalg_cholesky_ex", "aten::cholesky_solve")


def run(records: Records) -> int:
    """Profile what is missing."""
    wrong = 0
    for name in ["tiny"] if records.tiny else NAMES:
        setting = Setting(name, PRECISIONS[0], None)
        for side in (BASE, OURS):
            key = f"{setting.key} {side}"
            if "kernels" in records.found().get(key, {}):
                continue
            try:
                found = in_memory(
                    lambda batch, setting=setting, side=side: measure(records, setting, side, batch),
                    setting,
                    records.device,
                )
                records.write(key, workload=name, side=side, steps=STEPS, **found)
            except Exception as problem:  # the next one may work
                print(f"gpu_first: profile of {key}: {type(problem).__name__}: {problem}", file=sys.stderr)
                records.write(key, workload=name, side=side, problem=f"{type(problem).__name__}: {problem}"[:1000])
                wrong += 1
    return int(wrong > 0)


def measure(records: Records, setting: Setting, side: str, batch: int) -> dict[str, Any]:
    """Microseconds of one step by kernel, and by kernel behind each operator; the trace is written beside the results."""
    device, workload = records.device, setting.workload
    torch.manual_seed(0)
    data = workload.data(device, batch)
    step = training_step(side, workload.make(), workload.first, *data, setting.precision)
    for _ in range(WARM_UP):
        step()
    wait(device)
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * (device == "cuda")]
    with profile(activities=activities) as profiler:
        for _ in range(STEPS):
            step()
        wait(device)
    profiler.export_chrome_trace(str(records.out / f"trace {setting.key} {side}.json.gz".replace(" ", "_")))
    kernels = kernel_times(profiler.key_averages(), device)
    return {
        "batch": batch,
        "step_microseconds": sum(kernels.values()) / STEPS,
        "kernels": {name: spent / STEPS for name, spent in kernels.most_common(MOST_KERNELS)},
        "operators": operator_times(profiler.events(), device),
    }


def kernel_times(averages: Iterable[Any], device: str) -> Counter[str]:
    """Microseconds of each kernel; on a CPU, of each operator without what it calls."""
    found: Counter[str] = Counter()
    for event in averages:
        if device == "cpu":
            found[event.key] += event.self_cpu_time_total
        elif event.device_type == torch.autograd.DeviceType.CUDA and not getattr(event, "is_user_annotation", False):
            found[event.key] += event.self_device_time_total
    return found


def operator_times(events: Iterable[Any], device: str) -> dict[str, dict[str, float]]:
    """Microseconds of one step: of each kernel that an operator of this package has queued."""
    found: dict[str, Counter[str]] = {}
    for event in events:
        if event.name.startswith(OPERATORS) and not is_inside_operator(event):
            found.setdefault(event.name, Counter()).update(behind(event, device))
    return {name: {kernel: spent / STEPS for kernel, spent in kernels.most_common()} for name, kernels in found.items()}


def is_inside_operator(event: Any) -> bool:
    """Whether one of the callers of an event is an operator of this package."""
    caller = event.cpu_parent
    while caller is not None:
        if caller.name.startswith(OPERATORS):
            return True
        caller = caller.cpu_parent
    return False


def behind(event: Any, device: str) -> Counter[str]:
    """Microseconds of the kernels that an event and what it calls have queued."""
    found: Counter[str] = Counter()
    if device == "cpu":
        found[event.name] += event.self_cpu_time_total
    for kernel in event.kernels:
        found[kernel.name] += kernel.duration
    for child in event.cpu_children:
        found.update(behind(child, device))
    return found
