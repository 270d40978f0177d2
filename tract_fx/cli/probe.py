"""`tract-fx probe`."""

import argparse
import json
import sys
from typing import Any

from tract_fx.cli.arguments import (
    FOUND,
    SUCCESS,
    add_shared,
    count,
    floats,
    require,
    subcommand,
)

__all__ = ["declare", "run"]

REPORT = "probe.json"


def declare(commands: Any, epilog: str) -> None:
    """Say what the arguments are."""
    about = "look whether images suit TrAct and a lam: a few batches through the model, nothing is trained"
    parser = subcommand(commands, "probe", about, run, epilog)
    add = parser.add_argument
    add_shared(parser, "model")
    add_shared(parser, "--data", required=True, help="folder or tar of images; class folders are labels")
    add("--batches", type=count(1), default=8, metavar="N", help="how many, drawn at random (default: 8)")
    add_shared(parser, "--batch", default=64)
    add_shared(parser, "--input", help="resize images to this, such as 3x224x224 (default: what the model expects)")
    add_shared(parser, "--lam")
    add_shared(parser, "--relative")
    add("--mean", type=floats, metavar="X,X,X", help="subtracted from pixels in 0..1 (default: the model's own, or 0)")
    add("--std", type=floats, metavar="X,X,X", help="divides after that (default: the model's own, or 1)")
    add_shared(parser, "--seed", help="of the choice of images (default: 0)")
    add_shared(parser, "--out", help="write pictures and probe.json into this folder")


def run(args: argparse.Namespace) -> int:
    """Probe one model with the images of a folder."""
    require("demo", "numpy", "PIL", *(("matplotlib",) if args.out else ()), command="probe")
    from rich.console import Console

    import tract_fx
    from tract_fx.tools.files import check_folder, replacing, staged
    from tract_fx.tools.images.loader import image_batches
    from tract_fx.tools.models.loading import load_model

    if args.out is not None:
        check_folder(args.out, [REPORT])
    loaded = load_model(args.model, allocate=True)
    batches, notices = image_batches(
        args.data,
        loaded,
        shape=args.input,
        batch_size=args.batch,
        batches=args.batches,
        mean=args.mean,
        std=args.std,
        seed=args.seed,
    )
    for notice in notices:
        print(notice, file=sys.stderr)
    found = tract_fx.probe(loaded.model, batches, args.lam, batches=args.batches, relative=args.relative)
    Console().print(found)
    if args.out is not None:
        with replacing(args.out / REPORT) as part:
            part.write_text(json.dumps(found.to_dict(), indent=2) + "\n", encoding="utf-8")
        with staged(args.out) as folder:
            found.save_figures(folder)
    return FOUND if found.warnings else SUCCESS
