"""`tract-fx compare`."""

import argparse
from pathlib import Path
from typing import Any

from tract_fx.cli.arguments import INTERRUPTED, SUCCESS, add_shared, count, positive, positives, require, subcommand

__all__ = ["declare", "run"]

MINUTES = 10.0


def declare(commands: Any, epilog: str) -> None:
    """Say what the arguments are."""
    about = "train a model on images, plain and with TrAct, and say whether TrAct helps"
    parser = subcommand(commands, "compare", about, run, epilog)
    add = parser.add_argument
    add_shared(parser, "model")
    add_shared(parser, "--data", required=True, help="folder or tar of class folders")
    add(
        "--minutes",
        type=positive,
        metavar="X",
        help="time for everything, from which the number of epochs follows (default: 10, or no limit with --epochs)",
    )
    add_shared(parser, "--epochs", help="passes over the data (default: as many as fit into the time)")
    add("--seeds", type=count(1), default=4, metavar="N", help="trainings of each side (default: 4)")
    add_shared(parser, "--seed", help="the first seed, of weights and batches (default: 0)")
    add_shared(
        parser,
        "--lam",
        type=positives,
        default=(0.1,),
        metavar="X[,X...]",
        help="TrAct's regularisation; several values with commas are compared with the same plain runs (default: 0.1)",
    )
    add("--optimizer", choices=("adam", "sgd"), default="adam", help="AdamW, or SGD with momentum (default: adam)")
    add("--lr", type=positive, metavar="X", help="peak learning rate (default: 0.001 for adam, 0.05 for sgd)")
    add_shared(parser, "--batch", type=count(2), default=64)
    add_shared(parser, "--input", help="resize images to this, such as 3x64x64 (default: what the model expects)")
    add("--amp", action="store_true", help="forward passes under bfloat16 autocast")
    for name in ("--limit", "--device", "--threads", "--inner"):
        add_shared(parser, name)
    add_shared(
        parser,
        "--out",
        default=Path("tract-fx-compare"),
        help="folder for the runs, the picture and results.json; with the same one, a comparison that was stopped goes on "
        "(default: ./tract-fx-compare)",
    )


def run(args: argparse.Namespace) -> int:
    """Compare."""
    require("demo", "matplotlib", "numpy", "PIL", command="compare")
    from rich.console import Console

    from tract_fx.tools.compare.session import run_compare
    from tract_fx.tools.compare.settings import CompareSettings

    settings = CompareSettings(
        model=args.model,
        data=args.data,
        out=args.out,
        minutes=args.minutes or (MINUTES if args.epochs is None else None),
        epochs=args.epochs,
        seeds=args.seeds,
        seed=args.seed,
        lams=args.lam,
        optimizer=args.optimizer,
        rate=args.lr,
        batch_size=args.batch,
        input=args.input,
        limit=args.limit,
        amp=args.amp,
        device=args.device,
        threads=args.threads,
        inner=args.inner,
    )
    outcome = run_compare(settings, Console())
    for path in outcome.files:
        print(path)
    return INTERRUPTED if outcome.interrupted else SUCCESS
