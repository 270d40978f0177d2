"""One demo run from settings to files."""

import copy
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from tract_fx.compat import can_generate_code
from tract_fx.tools.demo.figures import draw_curves, draw_filters
from tract_fx.tools.demo.models import RECIPES, SIZE_STEP, Recipe
from tract_fx.tools.demo.pair import Pair
from tract_fx.tools.demo.progress import watching
from tract_fx.tools.demo.report import print_pair, write_results
from tract_fx.tools.demo.settings import DemoSettings
from tract_fx.tools.demo.sides import SIDES, Side
from tract_fx.tools.demo.threads import default_threads, processor_threads
from tract_fx.tools.demo.training import Run, Schedule, train
from tract_fx.tools.errors import DemoError
from tract_fx.tools.images.arrays import DIGITS_SIZE, ImageSet, TrainingData, load_digits, load_images, standardised

DEFAULT_IMAGE_SIZE = 32


def run_demo(settings: DemoSettings, console: Console) -> list[Path]:
    """Train, report on the console, and write the pictures and `results.json`.

    Returns:
        The files written, all in `settings.out`.

    Raises:
        DemoError: if the settings ask for something that is not there.
    """
    started = time.perf_counter()
    asked, settings = settings, resolved(settings)
    assert settings.threads is not None
    with console.status("reading images"):
        images = read_images(settings)
        data = standardised(images, torch.device(settings.device))
    schedule = Schedule(settings.epochs, min(settings.batch_size, len(images.train_images)), settings.seed)
    _introduce(console, settings, images, schedule)
    if settings.inner != (asked.inner or "inductor"):
        console.print("no C++ compiler found (g++ or clang++): both sides run without generated code")
    with processor_threads(settings.threads):
        pairs = {name: train_pair(RECIPES[name], images, data, schedule, settings, console) for name in settings.models}
    for name, pair in pairs.items():
        print_pair(console, RECIPES[name].title, pair)
    return _write(settings, images, pairs, started)


def resolved(settings: DemoSettings) -> DemoSettings:
    """The settings with image size, device, threads and compiler filled in, and the output folder made.

    Raises:
        DemoError: if the image size, the device or the output folder cannot be used.
    """
    size = settings.image_size or (DIGITS_SIZE if settings.data is None else DEFAULT_IMAGE_SIZE)
    if settings.data is None and size != DIGITS_SIZE:
        raise DemoError(f"--image-size {size}: applies to --data only, the digits are {DIGITS_SIZE} pixels wide")
    if size % SIZE_STEP:
        raise DemoError(f"--image-size {size}: must be a multiple of {SIZE_STEP}")
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DemoError(f"--out {settings.out}: cannot be made a folder ({error.strerror})") from error
    threads = settings.threads or default_threads()
    device = _device(settings.device)
    inner = settings.inner or ("inductor" if can_generate_code(device) else "aot_eager")
    return replace(settings, image_size=size, device=device, threads=threads, inner=inner)


def _device(name: str | None) -> str:
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DemoError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return name


def read_images(settings: DemoSettings) -> ImageSet:
    """The digits, or what `--data` points to."""
    if settings.data is None:
        return load_digits(settings.limit, settings.seed)
    assert settings.image_size is not None
    return load_images(settings.data, settings.image_size, settings.limit, settings.seed)


def train_pair(
    recipe: Recipe, images: ImageSet, data: TrainingData, schedule: Schedule, settings: DemoSettings, console: Console
) -> Pair:
    """Train one network on both sides, from the same weights, on the same batches."""
    assert settings.inner is not None
    torch.manual_seed(settings.seed)
    initial = recipe.build(images.channels, len(images.classes), images.image_size)
    filters = initial.first_layer.weight.detach().clone()
    runs: dict[str, Run] = {}
    matches: tuple[dict[str, Any], ...] = ()
    for name in SIDES:
        side = Side(name, settings.lam, settings.inner)
        model = copy.deepcopy(initial).to(settings.device)
        runs[name] = _train_side(model, side, recipe, data, schedule, console)
        matches += side.matches  # now: the backend forgets them with the compiled code it is reset with
    return Pair(filters, runs, matches)


def _train_side(
    model: nn.Module, side: Side, recipe: Recipe, data: TrainingData, schedule: Schedule, console: Console
) -> Run:
    # Dynamo keeps compiled code per forward method; without this the second side would count as a recompilation.
    torch.compiler.reset()
    steps = schedule.epochs * (len(data.train_images) // schedule.batch_size)
    with watching(console, f"{recipe.title} {side.name}", steps) as watcher:
        return train(model, side.compile(model), recipe, data, schedule, watcher)


def _introduce(console: Console, settings: DemoSettings, images: ImageSet, schedule: Schedule) -> None:
    size, kind = images.image_size, "colour" if images.channels == 3 else "gray"
    lines = (
        f"{images.name}: {len(images.train_images):,} training and {len(images.test_images):,} test images, "
        f"{len(images.classes)} classes, {size}x{size} {kind}",
        *images.notices,
        f"{schedule.epochs} epochs of batches of {schedule.batch_size}, lam {settings.lam}, seed {settings.seed}, "
        f"device {settings.device}, processor threads {settings.threads}",
    )
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _write(settings: DemoSettings, images: ImageSet, pairs: dict[str, Pair], started: float) -> list[Path]:
    curves = settings.out / "curves.png"
    draw_curves({RECIPES[name].title: pair for name, pair in pairs.items()}, images.name, curves)
    pictures = {name: settings.out / f"filters_{name}.png" for name in pairs}
    for name, path in pictures.items():
        draw_filters(RECIPES[name].title, pairs[name], path)
    results = settings.out / "results.json"
    write_results(results, settings, images, pairs, time.perf_counter() - started)
    return [curves, *pictures.values(), results]
