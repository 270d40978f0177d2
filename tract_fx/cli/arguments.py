"""What the sub-commands share: how arguments are read, and how it is said that they do not work."""

import argparse
import math
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NoReturn

__all__ = [
    "FOUND",
    "INTERRUPTED",
    "MODEL_HELP",
    "SUCCESS",
    "USAGE_ERROR",
    "Parser",
    "UsageError",
    "count",
    "floats",
    "positive",
    "require",
    "shape",
    "subcommand",
]

SUCCESS, FOUND, USAGE_ERROR, INTERRUPTED = 0, 1, 2, 130

MODEL_HELP = (
    "timm:NAME, torchvision:NAME, hf:NAME (a model type such as vit, a folder or JSON file with a configuration, or a name "
    "on the Hub), or package.module:factory, a function without arguments that returns a module, or a pair of a module and "
    "its inputs; weights are random. Naming a model runs its code"
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
