"""One comparison from settings to files: every run has a file, and goes on from its last epoch."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from tract_fx.environment import environment
from tract_fx.tools.compare.figures import draw_comparison
from tract_fx.tools.compare.plan import Cost, Plan, make_plan
from tract_fx.tools.compare.report import Findings, print_findings, write_results
from tract_fx.tools.compare.settings import CompareSettings
from tract_fx.tools.compare.subject import Subject, read_subject
from tract_fx.tools.compare.verdict import Curve, Point
from tract_fx.tools.errors import CompareError
from tract_fx.tools.files import check_folder, replacing
from tract_fx.tools.training.batches import classified_right, epoch_seed, shuffled
from tract_fx.tools.training.console import say
from tract_fx.tools.training.journal import Journal, read
from tract_fx.tools.training.loop import PEAK_RATES, make_optimizer
from tract_fx.tools.training.machine import choose_compiler, choose_device, choose_threads, processor_threads
from tract_fx.tools.training.progress import Watcher, watching
from tract_fx.tools.training.sides import CompiledSides, Side, SideRun, alternating, first_step_seconds

__all__ = ["Outcome", "run_compare"]

RESULTS, PICTURE = "results.json", "comparison.png"
MEASURED_SECONDS, MEASURED_STEPS = 2.0, 30
"""A side's steps are measured for so long, or until there are so many."""


@dataclass(frozen=True)
class Outcome:
    """The files that were written, and whether Ctrl-C ended the comparison."""

    files: tuple[Path, ...]
    interrupted: bool


class OutOfTimeError(Exception):
    """The time budget is spent."""


def run_compare(settings: CompareSettings, console: Console) -> Outcome:
    """Train every side with every seed, report, and write the picture and `results.json`.

    Raises:
        CompareError: if it cannot be done, or the time is over before the end of any epoch.
        JournalError: if the folder has runs of another comparison.
        OutputError: if a result cannot be written; it is raised before the training wherever that can be known.
    """
    started = time.perf_counter()
    check_folder(settings.out, [RESULTS, PICTURE])
    settings = _resolved(settings)
    with processor_threads(settings.threads or 1):
        subject = read_subject(settings, settings.device or "cpu", console)
        settings = replace(settings, batch_size=min(settings.batch_size, len(subject.data.train_images)))
        stopped = Comparison(settings, subject, console, started).train()
        findings = _findings(settings, subject, stopped)
    print_findings(console, findings)
    return Outcome(_write(settings, subject, findings), stopped == "Ctrl-C")


def _resolved(settings: CompareSettings) -> CompareSettings:
    device = choose_device(settings.device, CompareError)
    return replace(
        settings,
        device=device,
        threads=choose_threads(settings.threads, CompareError),
        inner=choose_compiler(settings.inner, device),
        rate=settings.rate or PEAK_RATES[settings.optimizer],
    )


class Comparison:
    """The trainings of all sides and seeds.

    Args:
        settings: without what is to be chosen.
        subject: model and images.
        console: for progress.
        started: when the time began to run, by `time.perf_counter`.
    """

    def __init__(self, settings: CompareSettings, subject: Subject, console: Console, started: float) -> None:
        self.settings, self.subject, self.console = settings, subject, console
        self.deadline = None if settings.minutes is None else started + 60 * settings.minutes
        self.steps_per_epoch = len(subject.data.train_images) // settings.batch_size
        self._weights: dict[int, Mapping[str, Any]] = {}

    def train(self) -> str | None:
        """Train what is not finished.

        Returns:
            What stopped it: ``"Ctrl-C"``, ``"the time budget"``, or None when everything is finished.
        """
        self._introduce()
        try:
            plan = _earlier_plan(self.settings.out)
            if plan is not None and all(journal.finished for _, _, journal in self._journals(plan)):
                self._say("All of these runs are finished; their length is that of the first start.")
                return None
            compiled = CompiledSides(self.subject.model, self.settings.inner or "inductor")
            self._compile(compiled)
            plan = self._plan(compiled) if plan is None else self._continued(plan)
            self._train_seeds(compiled, plan)
        except KeyboardInterrupt:
            return "Ctrl-C"
        except OutOfTimeError:
            return "the time budget"
        return None

    def _introduce(self) -> None:
        settings, images = self.settings, self.subject.images
        size = "x".join(map(str, self.subject.shape))
        lams = ", ".join(f"{side.lam:g}" for side in settings.sides if side.lam is not None)
        self._say(
            f"{settings.model} on {images.name}: {len(images.train_images):,} training and {len(images.test_images):,} test "
            f"images of {len(images.classes)} classes, as {size}",
            *images.notices,
        )
        precision = "bfloat16 autocast" if settings.amp else "float32"
        self._say(
            f"{settings.optimizer}, peak learning rate {settings.rate:g}, batches of {settings.batch_size}, {precision}; "
            f"plain and TrAct with lam {lams}, {settings.seeds} seeds; device {settings.device}, "
            f"{settings.threads} processor threads, compiled by {settings.inner}"
        )

    def _compile(self, compiled: CompiledSides) -> None:
        batch = next(self._batches(self.settings.seed, 1))
        with self.console.status("compiling"):
            times = [
                first_step_seconds(self._begin(compiled, side, self.settings.seed, 1), batch) for side in self._forms
            ]
        if not compiled.matches:
            raise CompareError(
                f"{self.settings.model}: TrAct rewrites no layer of it, so there is nothing to compare; `tract-fx explain "
                f"{self.settings.model}` says why"
            )
        self._say(f"First steps, with compilation: plain {times[0]:.1f} s, TrAct {times[1]:.1f} s.")

    def _plan(self, compiled: CompiledSides) -> Plan:
        settings = self.settings
        cost = self._measure(compiled)
        left = None if self.deadline is None else self.deadline - time.perf_counter()
        plan, seconds = make_plan(cost, settings.sides, settings.seeds, self.steps_per_epoch, left, settings.epochs)
        steps = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in list(cost.step.items())[:2])
        runs = settings.seeds * len(settings.sides)
        length = f"{plan.epochs} epochs" if plan.epochs > 1 else "an epoch"
        if plan.steps < self.steps_per_epoch:
            length = "a part of an epoch"
        self._say(
            f"A step takes: {steps}; the test after an epoch {cost.epoch:.1f} s. So {runs} runs of {length} "
            f"({plan.steps} steps each) take about {seconds / 60:.1f} minutes."
        )
        if left is not None and seconds > left:
            self._say(
                f"That is more than the {max(left, 0.0) / 60:.1f} minutes that are left: it will be stopped then."
            )
        return plan

    def _measure(self, compiled: CompiledSides) -> Cost:
        batch = next(self._batches(self.settings.seed, 1))
        steps, around = {}, []
        for side in self._forms:
            run = self._begin(compiled, side, self.settings.seed, MEASURED_STEPS)
            with run.in_place():
                times: list[float] = []
                while len(times) < 2 or (sum(times) < MEASURED_SECONDS and len(times) < MEASURED_STEPS):
                    times.append(run.train_on([batch]).seconds)
                started = time.perf_counter()
                classified_right(run, self.subject.data, self._test_batch)
                with tempfile.TemporaryDirectory(prefix=".tract-fx-", dir=self.settings.out) as folder:
                    torch.save(run.state_dict(), Path(folder, "checkpoint"))
                around.append(time.perf_counter() - started)
            steps[side.name] = fmean(times)
        tract = steps[self._forms[1].name]
        return Cost({side.name: steps.get(side.name, tract) for side in self.settings.sides}, fmean(around))

    def _continued(self, plan: Plan) -> Plan:
        self._say(f"Going on with runs of {plan.epochs} epochs, {plan.steps} steps each, as at the first start.")
        return plan

    def _train_seeds(self, compiled: CompiledSides, plan: Plan) -> None:
        unfinished = [found for found in self._journals(plan) if not found[2].finished]
        states = [(side, seed, journal, journal.resume()) for side, seed, journal in unfinished]
        done = sum(state["done"] for *_, state in states if state is not None)
        with watching(self.console, "training", plan.steps * len(states) - done, "first epoch") as watcher:
            for seed, group in itertools.groupby(states, key=lambda found: found[1]):
                self._train_seed(compiled, plan, seed, list(group), watcher)

    def _train_seed(self, compiled: CompiledSides, plan: Plan, seed: int, group: list[Any], watcher: Watcher) -> None:
        journals, runs = {}, []
        for side, _, journal, state in group:
            run = self._begin(compiled, side, seed, plan.steps)
            if state is not None:
                run.load_state_dict(state)
            runs.append(run)
            journals[side.name] = journal
        for run in alternating(runs, plan.epochs):
            torch.manual_seed(epoch_seed(seed, run.epochs + 1))  # the same masks of dropout on all sides
            batches = itertools.islice(self._batches(seed, run.epochs + 1), plan.steps - run.done)
            trained = run.train_on(watcher.counted(self._until_deadline(batches)))
            accuracy = classified_right(run, self.subject.data, self._test_batch).float().mean().item()
            watcher.epoch(f"seed {seed} {run.side.name}", run.epochs, trained.loss, accuracy)
            line = {"epoch": run.epochs, **asdict(Point(trained.loss, accuracy, trained.steps, trained.seconds))}
            journals[run.side.name].epoch(line, run.state_dict())
            if run.epochs == plan.epochs:
                journals[run.side.name].finish({"matches": compiled.matches if run.side.lam is not None else ()})
        self._weights.pop(seed, None)

    def _begin(self, compiled: CompiledSides, side: Side, seed: int, total: int) -> SideRun:
        settings = self.settings
        if seed not in self._weights:
            self._weights[seed] = self.subject.weights(seed)
        rate = settings.rate or PEAK_RATES[settings.optimizer]
        return SideRun(
            side,
            compiled,
            self._weights[seed],
            lambda trained: make_optimizer(settings.optimizer, trained, rate),
            total,
            amp=settings.amp,
        )

    def _journals(self, plan: Plan) -> list[tuple[Side, int, Journal]]:
        """Of every run, seed by seed."""
        settings, images = self.settings, self.subject.images
        same = {
            "model": settings.model,
            "images": {
                "name": images.name,
                "classes": len(images.classes),
                "train": len(images.train_images),
                "test": len(images.test_images),
                "shape": list(self.subject.shape),
            },
            "optimizer": settings.optimizer,
            "rate": settings.rate,
            "batch": settings.batch_size,
            "amp": settings.amp,
            "epochs": settings.epochs or plan.epochs,
            "steps": settings.epochs * self.steps_per_epoch if settings.epochs else plan.steps,
        }
        where = {**environment(settings.device or "cpu"), "threads": settings.threads, "inner": settings.inner}
        return [
            (side, seed, Journal(run_file(settings.out, side, seed), {**same, "lam": side.lam, "seed": seed}, where))
            for seed in settings.all_seeds
            for side in settings.sides
        ]

    @property
    def _forms(self) -> tuple[Side, Side]:
        """One side for each compiled form."""
        plain, tract, *_ = self.settings.sides
        return plain, tract

    @property
    def _test_batch(self) -> int:
        """Tests need less memory than training, and no batch of another order of size."""
        return max(self.settings.batch_size, 128)

    def _batches(self, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        return shuffled(self.subject.data, self.settings.batch_size, seed, epoch)

    def _until_deadline(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in batches:
            if self.deadline is not None and time.perf_counter() > self.deadline:
                raise OutOfTimeError
            yield batch

    def _say(self, *lines: str) -> None:
        say(self.console, *lines)


def run_file(folder: Path, side: Side, seed: int) -> Path:
    """The file of a run."""
    name = "plain" if side.lam is None else f"tract_lam-{side.lam:g}"
    return folder / f"{name}_seed-{seed}.jsonl"


def _earlier_plan(folder: Path) -> Plan | None:
    """Of the runs that a folder has."""
    for path in sorted(folder.glob("*_seed-*.jsonl")):
        first = read(path)[0]
        return Plan(first["epochs"], first["steps"])
    return None


def _findings(settings: CompareSettings, subject: Subject, stopped: str | None) -> Findings:
    curves: list[Curve] = []
    matches: list[dict[str, Any]] = []
    plan = _earlier_plan(settings.out)
    for seed, side in itertools.product(settings.all_seeds, settings.sides):
        path = run_file(settings.out, side, seed)
        lines = read(path) if path.exists() else []
        points = [Point(**{k: v for k, v in line.items() if k != "epoch"}) for line in lines if "epoch" in line]
        curves.append(Curve(side.name, seed, tuple(points)))
        matches = next((line["matches"] for line in lines if line.get("matches")), matches)
    if plan is None or not any(curve.points for curve in curves):
        if stopped == "Ctrl-C":
            raise KeyboardInterrupt
        raise CompareError(f"stopped by {stopped} before the end of the first epoch: there is nothing to report")
    return Findings(
        model=settings.model,
        images=subject.images.name,
        test_images=len(subject.images.test_images),
        sides=tuple(side.name for side in settings.sides),
        seeds=tuple(settings.all_seeds),
        plan=plan,
        curves=tuple(curves),
        matches=tuple(matches),
        stopped=stopped,
    )


def _write(settings: CompareSettings, subject: Subject, findings: Findings) -> tuple[Path, ...]:
    results, picture = settings.out / RESULTS, settings.out / PICTURE
    with replacing(results) as part:
        write_results(part, settings, subject.images, findings)
    with replacing(picture) as part:
        draw_comparison(findings, part)
    return picture, results
