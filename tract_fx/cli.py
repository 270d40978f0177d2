"""The `tract-fx` command.

Each sub-command is a pair of functions: one declares its arguments, one runs it. What a sub-command needs is
imported when it runs, so that `--help` and a mistyped argument answer at once.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

MODELS = ("resnet", "vit")
SUCCESS, USAGE_ERROR, INTERRUPTED = 0, 2, 130


class UsageError(Exception):
    """A sentence for the person at the command line; shown without a traceback."""


class _Parser(argparse.ArgumentParser):
    """Raises `UsageError` instead of ending the process, so that every complaint is printed in one place."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments without the program's name; None reads `sys.argv`.

    Returns:
        Exit status: 0 done, 2 the arguments do not work (a sentence on stderr says which), 130 interrupted.
    """
    try:
        args = build_parser().parse_args(argv)
        return args.run(args)
    except UsageError as error:
        print(f"tract-fx: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """The parser of all sub-commands."""
    parser = _Parser(prog="tract-fx", description="TrAct for the first layer, as a torch.compile backend.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for declare in (_declare_demo,):
        declare(commands)
    return parser


def _declare_demo(commands: Any) -> None:
    about = "train a small ResNet and a small ViT, plain and with TrAct, and compare"
    parser = commands.add_parser("demo", help=about, description=about[0].upper() + about[1:] + ".")
    parser.set_defaults(run=_run_demo)
    add = parser.add_argument
    add("--data", type=Path, metavar="PATH", help="folder or tar of class folders (default: scikit-learn's digits)")
    add("--model", choices=(*MODELS, "both"), default="both", help="network to train (default: both)")
    add("--epochs", type=_count(1), default=20, metavar="N", help="passes over the data (default: 20)")
    add("--lam", type=_positive, default=0.1, metavar="X", help="TrAct's regularisation (default: 0.1)")
    add("--out", type=Path, default=Path("tract-fx-demo"), metavar="DIR", help="default: ./tract-fx-demo")
    add("--seed", type=_count(0), default=0, metavar="N", help="of split, weights and batches (default: 0)")
    add("--batch-size", type=_count(2), default=64, metavar="N", help="images per step (default: 64)")
    add("--image-size", type=_count(8), metavar="N", help="resize --data to this, a multiple of 8 (default: 32)")
    add("--limit", type=_count(0), default=10_000, metavar="N", help="images in all, 0: no limit (default: 10000)")
    add("--device", metavar="NAME", help="torch device (default: cuda where there is one, else cpu)")
    add("--threads", type=_count(1), metavar="N", help="processor threads (default: leave one free for other work)")
    add(
        "--inner",
        choices=("inductor", "aot_eager"),
        help="compiler behind both sides; aot_eager generates no code (default: inductor where there is a C++ compiler)",
    )


def _run_demo(args: argparse.Namespace) -> int:
    _require("demo", "matplotlib", "numpy", "PIL", *(() if args.data else ("sklearn",)))
    from rich.console import Console

    from tract_fx.demo.errors import DemoError
    from tract_fx.demo.session import run_demo
    from tract_fx.demo.settings import DemoSettings

    settings = DemoSettings(
        data=args.data,
        models=MODELS if args.model == "both" else (args.model,),
        epochs=args.epochs,
        lam=args.lam,
        seed=args.seed,
        batch_size=args.batch_size,
        image_size=args.image_size,
        limit=args.limit,
        device=args.device,
        threads=args.threads,
        out=args.out,
        inner=args.inner,
    )
    try:
        paths = run_demo(settings, Console())
    except DemoError as error:
        raise UsageError(f"demo: {error}") from error
    for path in paths:
        print(path)
    return SUCCESS


def _require(extra: str, *modules: str) -> None:
    """Complain about missing optional dependencies before any work is done."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise UsageError(f"{extra}: needs {', '.join(missing)}; install with: pip install 'tract-fx[{extra}]'")


def _count(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value < 2**31:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} up, got {text!r}")
        return value

    return parse


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return value


if __name__ == "__main__":
    sys.exit(main())
