"""`tract-fx probe`."""

import argparse
import json
from pathlib import Path
from typing import Any

from tract_fx.cli.arguments import (
    FOUND,
    MODEL_HELP,
    SUCCESS,
    UsageError,
    count,
    floats,
    positive,
    require,
    subcommand,
)

__all__ = ["declare", "run"]


def declare(commands: Any, epilog: str) -> None:
    """Say what the arguments are."""
    about = "look whether images suit TrAct and a lam: a few batches through the model, nothing is trained"
    add = subcommand(commands, "probe", about, run, epilog).add_argument
    add("model", metavar="MODEL", help=MODEL_HELP)
    add("--data", type=Path, required=True, metavar="PATH", help="folder or tar of images; class folders are labels")
    add("--batches", type=count(1), default=8, metavar="N", help="how many, drawn at random (default: 8)")
    add("--batch-size", type=count(1), default=64, metavar="N", help="images in a batch (default: 64)")
    add("--image-size", type=count(1), metavar="N", help="resize images to this (default: what the model expects)")
    add("--lam", type=positive, default=0.1, metavar="X", help="TrAct's regularisation (default: 0.1)")
    add("--mean", type=floats, metavar="X,X,X", help="subtracted from pixels in 0..1 (default: the model's own, or 0)")
    add("--std", type=floats, metavar="X,X,X", help="divides after that (default: the model's own, or 1)")
    add("--seed", type=count(0), default=0, metavar="N", help="of the choice of images (default: 0)")
    add("--out", type=Path, metavar="DIR", help="write pictures and probe.json into this folder")


def run(args: argparse.Namespace) -> int:
    """Probe one model with the images of a folder."""
    require("demo", "numpy", "PIL", *(("matplotlib",) if args.out else ()), command="probe")
    from rich.console import Console

    import tract_fx
    from tract_fx.errors import TractError
    from tract_fx.tools.images.loader import image_batches
    from tract_fx.tools.models.loading import load_model

    if args.out is not None and args.out.exists() and not args.out.is_dir():
        raise UsageError(f"probe: --out {args.out} is no folder")
    try:
        loaded = load_model(args.model, allocate=True)
        batches = image_batches(
            args.data,
            loaded,
            size=args.image_size,
            batch_size=args.batch_size,
            batches=args.batches,
            mean=args.mean,
            std=args.std,
            seed=args.seed,
        )
        found = tract_fx.probe(loaded.model, batches, args.lam, batches=args.batches)
    except TractError as error:
        raise UsageError(f"probe: {error}") from error
    Console().print(found)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        found.save_figures(args.out)
        (args.out / "probe.json").write_text(json.dumps(found.to_dict(), indent=2) + "\n", encoding="utf-8")
    return FOUND if found.warnings else SUCCESS
