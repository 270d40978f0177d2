"""`tract-fx demo`."""

import argparse
from pathlib import Path
from typing import Any

from tract_fx.cli.arguments import SUCCESS, add_shared, count, require, subcommand

__all__ = ["declare", "run"]

MODELS = ("resnet", "vit")


def declare(commands: Any, epilog: str) -> None:
    """Say what the arguments are."""
    about = "train a small ResNet and a small ViT, plain and with TrAct, and compare"
    parser = subcommand(commands, "demo", about, run, epilog)
    add = parser.add_argument
    add_shared(parser, "--data", help="folder or tar of class folders (default: scikit-learn's digits)")
    add("--model", choices=(*MODELS, "both"), default="both", help="network to train (default: both)")
    add_shared(parser, "--epochs", default=20, help="passes over the data (default: 20)")
    add_shared(parser, "--lam")
    add_shared(parser, "--out", default=Path("tract-fx-demo"), help="default: ./tract-fx-demo")
    add_shared(parser, "--seed", help="of split, weights and batches (default: 0)")
    add_shared(parser, "--batch", type=count(2), default=64)
    add_shared(parser, "--input", help="resize --data to this, squares of a multiple of 8 (default: 3x32x32)")
    for name in ("--limit", "--device", "--threads", "--inner"):
        add_shared(parser, name)


def run(args: argparse.Namespace) -> int:
    """Train and compare."""
    require("demo", "matplotlib", "numpy", "PIL", *(() if args.data else ("sklearn",)))
    from rich.console import Console

    from tract_fx.tools.demo.session import run_demo
    from tract_fx.tools.demo.settings import DemoSettings

    settings = DemoSettings(
        data=args.data,
        models=MODELS if args.model == "both" else (args.model,),
        epochs=args.epochs,
        lam=args.lam,
        seed=args.seed,
        batch_size=args.batch,
        input=args.input,
        limit=args.limit,
        device=args.device,
        threads=args.threads,
        out=args.out,
        inner=args.inner,
    )
    for path in run_demo(settings, Console()):
        print(path)
    return SUCCESS
