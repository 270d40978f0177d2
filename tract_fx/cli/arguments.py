"""What the sub-commands share: options, how arguments are read, and how it is said that they do not work."""

import argparse
import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

__all__ = [
    "FOUND",
    "INTERRUPTED",
    "SUCCESS",
    "USAGE_ERROR",
    "Parser",
    "UsageError",
    "add_shared",
    "count",
    "floats",
    "layer_names",
    "path",
    "positive",
    "positives",
    "require",
    "shape",
    "subcommand",
]

SUCCESS, FOUND, USAGE_ERROR, INTERRUPTED = 0, 1, 2, 130

MODEL_HELP = (
    "timm:NAME, torchvision:NAME, hf:NAME (a model type such as vit, a folder or JSON file with a configuration, or a name "
    "on the Hub), or package.module:factory or folder/file.py:factory, a class or function without arguments that returns a "
    "module, or a pair of a module and its inputs; weights are random. Naming a model runs its code"
)


class UsageError(Exception):
    """A sentence for the person at the command line; shown without a traceback."""


class Parser(argparse.ArgumentParser):
    """Raises `UsageError` instead of ending the process, so that every complaint is printed in one place."""

    def error(self, message: str) -> NoReturn:
        """Complain."""
        raise UsageError(message)


def subcommand(
    commands: Any, name: str, about: str, run: Callable[[argparse.Namespace], int], epilog: str
) -> argparse.ArgumentParser:
    """Declare one; its parser takes the arguments."""
    parser = commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".", epilog=epilog)
    parser.set_defaults(run=run)
    return parser


def require(extra: str, *modules: str, command: str | None = None) -> None:
    """Complain about missing optional dependencies before any work is done."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        needs = f"{command or extra}: needs {', '.join(missing)}"
        raise UsageError(f"{needs}; install with: pip install 'tract-fx[{extra}]'")


def count(least: int) -> Callable[[str], int]:
    """Reads a whole number from `least` up."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value < 2**31:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} up, got {text!r}")
        return value

    return parse


def positive(text: str) -> float:
    """Reads a positive number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return value


def positives(text: str) -> tuple[float, ...]:
    """Reads `0.05,0.1,0.2`."""
    return tuple(map(positive, text.split(",")))


def shape(text: str) -> tuple[int, ...]:
    """Reads `3x224x224`."""
    parts = text.lower().split("x")
    if not all(part.isdecimal() and 0 < int(part) < 2**31 for part in parts):
        raise argparse.ArgumentTypeError(f"must be sizes without the batch, such as 3x224x224, got {text!r}")
    return tuple(map(int, parts))


def floats(text: str) -> tuple[float, ...]:
    """Reads `0.485,0.456,0.406`."""
    try:
        values = tuple(map(float, text.split(",")))
    except ValueError:
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise argparse.ArgumentTypeError(f"must be numbers with commas between them, got {text!r}")
    return values


def path(text: str) -> Path:
    """Reads the path of a file or folder; an empty one would mean the current folder."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"must be a path, got {text!r}")
    return Path(text)


def layer_names(text: str) -> str | list[str]:
    """Reads `first`, or names with commas between them."""
    return text if text == "first" else [name.strip() for name in text.split(",")]


def _square(text: str) -> tuple[int, int]:
    side = count(1)(text)
    return side, side


# One name and one form for what several commands take.
SHARED: dict[str, dict[str, Any]] = {
    "model": {"metavar": "MODEL", "help": MODEL_HELP},
    "--batch": {"type": count(1), "metavar": "N", "help": "examples in a batch (default: %(default)s)"},
    "--data": {"type": path, "metavar": "PATH"},
    "--device": {"metavar": "NAME", "help": "torch device (default: cuda where there is one, else cpu)"},
    "--epochs": {"type": count(1), "metavar": "N"},
    "--html": {"type": path, "metavar": "FILE"},
    "--inner": {
        "choices": ("inductor", "aot_eager"),
        "help": "compiler behind all sides; aot_eager generates no code (default: inductor where there is a C++ compiler)",
    },
    "--input": {"type": shape, "metavar": "SHAPE"},
    "--json": {"type": path, "metavar": "FILE", "help": "write the findings for other tools"},
    "--lam": {"type": positive, "default": 0.1, "metavar": "X", "help": "TrAct's regularisation (default: 0.1)"},
    "--layers": {
        "type": layer_names,
        "default": "first",
        "metavar": "NAMES",
        "help": "names of layers, with commas (default: every first layer)",
    },
    "--limit": {
        "type": count(0),
        "default": 10_000,
        "metavar": "N",
        "help": "images in all, balanced over the classes, 0: no limit (default: 10000)",
    },
    "--relative": {
        "action": "store_true",
        "help": "lam is in units of tr(C)/n, the mean eigenvalue of the data's covariance",
    },
    "--out": {"type": path, "metavar": "DIR"},
    "--seed": {"type": count(0), "default": 0, "metavar": "N"},
    "--threads": {
        "type": count(1),
        "metavar": "N",
        "help": "processor threads (default: leave one free for other work)",
    },
}
# Older spellings, which keep working and are not shown.
ALIASES: dict[str, dict[str, dict[str, Any]]] = {
    "--batch": {"--batch-size": {}},
    "--input": {"--image-size": {"type": _square}},
}


def add_shared(parser: argparse.ArgumentParser, name: str, **changes: Any) -> None:
    """Declare an argument that other commands have, too.

    Args:
        parser: of the command.
        name: as in `SHARED`.
        **changes: what differs here: the help, the default, how small a value may be.
    """
    declared = SHARED[name] | changes
    parser.add_argument(name, **declared)
    for alias, differs in ALIASES.get(name, {}).items():
        hidden = {"dest": name.lstrip("-"), "default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
        parser.add_argument(alias, **declared | hidden | differs)
