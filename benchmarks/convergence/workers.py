"""Many runs: one after another, or in several processes that share a device."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.convergence.data import Images
from benchmarks.convergence.runs import Run
from benchmarks.convergence.sizes import Size
from benchmarks.convergence.training import Training
from tract_fx.environment import environment
from tract_fx.tools.training.journal import Journal

__all__ = ["run_all"]


def run_all(
    runs: Sequence[Run],
    size: Size,
    load: Callable[[], Images],
    folder: Path,
    steps: int | None,
    workers: int,
    tell: Callable[[str], None],
) -> None:
    """Do what is not finished yet.

    Args:
        runs: in order; several workers take every so many of them.
        size: of everything.
        load: reads the images, in each worker.
        folder: where the files go.
        steps: of each run, None for all.
        workers: processes; 1 is this one.
        tell: is given a line for each epoch.

    Raises:
        JournalError: where a file is of another run.
        RuntimeError: where a worker failed.
    """
    if workers == 1:
        run_some(runs, size, load, folder, steps, tell)
        return
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=run_some, args=(runs[number::workers], size, load, folder, steps, tell))
        for number in range(workers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if failed := [process.exitcode for process in processes if process.exitcode]:
        raise RuntimeError(f"{len(failed)} of {workers} workers failed")


def run_some(
    runs: Sequence[Run],
    size: Size,
    load: Callable[[], Images],
    folder: Path,
    steps: int | None,
    tell: Callable[[str], None],
) -> None:
    """One worker's runs."""
    images = load()
    for number, run in enumerate(runs, 1):
        journal = Journal(folder / f"{run.name}.jsonl", _identity(run, size, images, steps), _environment(images))
        label = f"[{number} of {len(runs)}] {run.name}"
        if journal.finished:
            tell(f"{label}: already there")
            continue
        Training(run, size, images, steps).train(journal, lambda line, label=label: tell(f"{label}: {line}"))


def _identity(run: Run, size: Size, images: Images, steps: int | None) -> dict:
    rate = {"peak_rate": size.peak_rate(run.network, run.optimizer)}
    return {
        "run": run.record(),
        "size": size.name,
        "batch": run.batch or size.batch,
        **rate,
        "images": images.record(),
        "steps": steps,
    }


def _environment(images: Images) -> dict:
    return {**environment(str(images.train.device)), "threads": torch.get_num_threads()}
