"""One demo run from settings to files."""

import time
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from tract_fx.tools.demo.figures import draw_curves, draw_filters
from tract_fx.tools.demo.models import RECIPES, SIZE_STEP, Recipe
from tract_fx.tools.demo.pair import Pair
from tract_fx.tools.demo.report import print_pair, write_results
from tract_fx.tools.demo.settings import DemoSettings
from tract_fx.tools.demo.training import Schedule, train_sides
from tract_fx.tools.errors import DemoError
from tract_fx.tools.files import check_folder, replacing
from tract_fx.tools.images.arrays import DIGITS_SIZE, ImageSet, TrainingData, load_digits, load_images, standardised
from tract_fx.tools.training.console import say
from tract_fx.tools.training.machine import choose_compiler, choose_device, choose_threads, processor_threads
from tract_fx.tools.training.progress import watching
from tract_fx.tools.training.sides import PLAIN, TRACT, CompiledSides, Side

DEFAULT_IMAGE_SIZE = 32
RESULTS, CURVES = "results.json", "curves.png"


def run_demo(settings: DemoSettings, console: Console) -> list[Path]:
    """Train, report on the console, and write the pictures and `results.json`.

    Returns:
        The files written, all in `settings.out`.

    Raises:
        DemoError: if the settings ask for something that is not there.
        OutputError: if a result cannot be written; it is raised before the training wherever that can be known.
    """
    started = time.perf_counter()
    asked, settings = settings, resolved(settings)
    assert settings.threads is not None
    say(console, f"Reading {settings.data or 'the digits'}")
    console.file.flush()
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
    """The settings with input shape, device, threads and compiler filled in, and the output folder made.

    Raises:
        DemoError: if the input shape, the device or the number of threads cannot be used.
        OutputError: if the results could not be written.
    """
    shape = _shape(settings)
    pictures = [CURVES, *map(filters_name, settings.models)]
    check_folder(settings.out, [RESULTS, *pictures])
    device = choose_device(settings.device, DemoError)
    threads, inner = choose_threads(settings.threads, DemoError), choose_compiler(settings.inner, device)
    return replace(settings, input=shape, device=device, threads=threads, inner=inner)


def _shape(settings: DemoSettings) -> tuple[int, ...]:
    shape = settings.input
    if shape is None:
        size = DIGITS_SIZE if settings.data is None else DEFAULT_IMAGE_SIZE
        return (size, size)
    asked = f"--input {'x'.join(map(str, shape))}"
    if settings.data is None and shape[-2:] != (DIGITS_SIZE, DIGITS_SIZE):
        raise DemoError(f"{asked}: applies to --data only, the digits are {DIGITS_SIZE} pixels wide")
    if len(shape) not in (2, 3) or shape[-1] != shape[-2] or shape[-1] % SIZE_STEP:
        raise DemoError(f"{asked}: must be square with sides that are a multiple of {SIZE_STEP}, such as 3x32x32")
    return shape


def read_images(settings: DemoSettings) -> ImageSet:
    """The digits, or what `--data` points to.

    Raises:
        DemoError: if another number of channels was asked for.
    """
    assert settings.input is not None
    *channels, _, size = settings.input
    if settings.data is None:
        images = load_digits(settings.limit, settings.seed)
    else:
        images = load_images(settings.data, size, settings.limit, settings.seed)
    if channels and channels[0] != images.channels:
        kind = "gray" if images.channels == 1 else "of colour"
        raise DemoError(
            f"--input {'x'.join(map(str, settings.input))}: the images are {kind}, {images.channels}x{size}x{size}"
        )
    return images


def train_pair(
    recipe: Recipe, images: ImageSet, data: TrainingData, schedule: Schedule, settings: DemoSettings, console: Console
) -> Pair:
    """Train one network on both sides, from the same weights, on the same batches."""
    assert settings.inner is not None
    torch.manual_seed(settings.seed)
    model = recipe.build(images.channels, len(images.classes), images.image_size)
    filters = model.first_layer.weight.detach().clone()
    compiled = CompiledSides(model.to(settings.device), settings.inner)
    sides = Side(PLAIN, None), Side(TRACT, settings.lam)
    steps = len(sides) * schedule.epochs * (len(data.train_images) // schedule.batch_size)
    with watching(console, recipe.title, steps) as watcher:
        runs = train_sides(compiled, sides, recipe, data, schedule, watcher)
    return Pair(filters, runs, compiled.matches)


def _introduce(console: Console, settings: DemoSettings, images: ImageSet, schedule: Schedule) -> None:
    size, kind = images.image_size, "colour" if images.channels == 3 else "gray"
    say(
        console,
        f"{images.name}: {len(images.train_images):,} training and {len(images.test_images):,} test images, "
        f"{len(images.classes)} classes, {size}x{size} {kind}",
        *images.notices,
        f"{schedule.epochs} epochs of batches of {schedule.batch_size}, lam {settings.lam}, seed {settings.seed}, "
        f"device {settings.device}, processor threads {settings.threads}",
    )


def filters_name(model: str) -> str:
    """File name of the picture of a network's filters."""
    return f"filters_{model}.png"


def _write(settings: DemoSettings, images: ImageSet, pairs: dict[str, Pair], started: float) -> list[Path]:
    """Write the numbers first: they are what a training cannot be had back from."""
    results, curves = settings.out / RESULTS, settings.out / CURVES
    with replacing(results) as part:
        write_results(part, settings, images, pairs, time.perf_counter() - started)
    with replacing(curves) as part:
        draw_curves({RECIPES[name].title: pair for name, pair in pairs.items()}, images.name, part)
    pictures = {name: settings.out / filters_name(name) for name in pairs}
    for name, path in pictures.items():
        with replacing(path) as part:
            draw_filters(RECIPES[name].title, pairs[name], part)
    return [curves, *pictures.values(), results]
