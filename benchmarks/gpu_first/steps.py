"""Whole training steps: what TrAct adds, with everything that a training loop overlaps.

Blocks of steps of all sides take turns, and no step waits for the one before it. The ratio of a side's block to the plain
one of its round is taken; reported are medians and quantiles.
"""

from __future__ import annotations

import gc
import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import torch
from torch import nn

from benchmarks.gpu_first.records import Records
from benchmarks.gpu_first.timing import seconds_of_block, wait
from benchmarks.models import WORKLOADS, Workload
from benchmarks.sides import Precision, training_step
from benchmarks.throughput import BASE, summary

__all__ = ["TINY", "Setting", "in_memory", "run", "settings", "skipped_captures"]

Result = TypeVar("Result")

OURS, AUTHORS = "compiled tract-fx", "compiled torch-tract"
NAMES = ("resnet50-224", "deit-s-224", "vit-cifar", "resnet18-cifar")
PRECISIONS = (Precision("bfloat16", channels_last=True), Precision("float32"))
MODES = (None, "reduce-overhead")
# Steps of a block; blocks of a side; what all blocks of a setting take before no further round is begun.
STEPS, FEWEST_ROUNDS, MOST_ROUNDS, ENOUGH_SECONDS = 20, 3, 11, 12.0
# Images below which a batch is not halved where memory is too small.
SMALLEST_BATCH = 16
# CUDA graphs are recorded in the second or third step.
WARM_UP = 5

TINY = Workload(
    lambda: nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10)),
    8,
    {"cpu": 16, "cuda": 16},
    ("0",),
)


class Setting(NamedTuple):
    """A network, and how it is trained."""

    name: str
    precision: Precision
    mode: str | None

    @property
    def key(self) -> str:
        """Its name among the results."""
        layout = "channels-last" if self.precision.channels_last else "contiguous"
        return f"{self.name} {self.precision.dtype} {layout} {self.mode or 'default'}"

    @property
    def workload(self) -> Workload:
        """The network."""
        return TINY if self.name == "tiny" else WORKLOADS[self.name]


def settings(tiny: bool) -> Iterator[Setting]:
    """Everything to measure, the most wanted first."""
    if tiny:
        yield Setting("tiny", PRECISIONS[0], MODES[1])
        return
    for precision, mode, name in itertools.product(PRECISIONS, MODES, NAMES):
        yield Setting(name, precision, mode)


def run(records: Records) -> int:
    """Measure what is missing; a setting that fails is a result, and the next one is measured."""
    wrong = 0
    for setting in settings(records.tiny):
        before = records.found().get(setting.key)
        if before is not None and "problem" not in before:
            continue
        try:
            in_memory(lambda batch, setting=setting: measure(records, setting, batch), setting, records.device)
        except (
            Exception
        ) as problem:  # whatever a compiler or driver may raise: it is said, and there are other settings
            print(f"gpu_first: {setting.key}: {type(problem).__name__}: {problem}", file=sys.stderr)
            records.write(setting.key, **about(setting), problem=f"{type(problem).__name__}: {problem}"[:1000])
            wrong += 1
    return int(wrong > 0)


def about(setting: Setting) -> dict[str, object]:
    """What a line says of its setting."""
    return {
        "workload": setting.name,
        "dtype": setting.precision.dtype,
        "channels_last": setting.precision.channels_last,
        "mode": setting.mode or "default",
    }


def in_memory(run: Callable[[int], Result], setting: Setting, device: str) -> Result:
    """What ``run`` gives for the batch of a setting, or for half of it, and so on, if the device has no memory for more."""
    batch = setting.workload.batch[device]
    while True:
        forget()
        try:
            return run(batch)
        except torch.OutOfMemoryError:
            if batch < 2 * SMALLEST_BATCH:
                raise
        batch //= 2  # out here, what the failed attempt has allocated is free


def measure(records: Records, setting: Setting, batch: int) -> None:
    """Compile every side, measure them, and write the result."""
    device, workload = records.device, setting.workload
    torch.manual_seed(0)
    model, data = workload.make(), workload.data(device, batch)
    steps: dict[str, Callable[[], None]] = {}
    skips, absent = {}, {}
    for side in sides():
        before = skipped_captures()
        try:
            step = training_step(side, model, workload.first, *data, setting.precision, setting.mode)
            for _ in range(WARM_UP):
                step()
            wait(device)
        except Exception as problem:
            if side != AUTHORS or isinstance(problem, torch.OutOfMemoryError):
                raise
            absent[side] = f"{type(problem).__name__}: {problem}"[:500]
            continue
        steps[side], skips[side] = step, skipped_captures() - before
    rounds = measured_rounds(steps, records)
    records.write(
        setting.key,
        **about(setting),
        batch=batch,
        image=workload.image,
        steps=2 if records.tiny else STEPS,
        rounds=len(rounds),
        sides={side: summary(rounds, side) for side in steps},
        captures_skipped=skips,
        absent=absent,
    )


def sides() -> list[str]:
    """The authors' module is there where it is installed."""
    return [BASE, OURS, *[AUTHORS] * (importlib.util.find_spec("torch_tract") is not None)]


def measured_rounds(steps: dict[str, Callable[[], None]], records: Records) -> list[dict[str, float]]:
    """Seconds of a step of each side in each round; who begins changes."""
    names, rounds, spent = list(steps), [], 0.0
    block = 2 if records.tiny else STEPS
    most = 2 if records.tiny else MOST_ROUNDS
    while len(rounds) < most and (len(rounds) < FEWEST_ROUNDS or spent < ENOUGH_SECONDS):
        turn = len(rounds) % len(names)
        row = {name: seconds_of_block(steps[name], block, records.device) for name in [*names[turn:], *names[:turn]]}
        rounds.append(row)
        spent += block * sum(row.values())
    return rounds


def forget() -> None:
    """What was compiled for the network before, and its memory."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def skipped_captures() -> int:
    """How often Inductor has decided not to capture a CUDA graph, and has said so nowhere but here."""
    return torch._dynamo.utils.counters["inductor"]["cudagraph_skips"]
