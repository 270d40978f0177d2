"""`tract-fx probe`."""

import argparse
import sys
from typing import Any

from tract_fx.cli.arguments import (
    FOUND,
    SUCCESS,
    add_shared,
    count,
    floats,
    path,
    require,
    subcommand,
)

__all__ = ["declare", "run"]

REPORT = "probe.json"


def declare(commands: Any, epilog: str) -> None:
    """Say what the arguments are."""
    about = (
        "say what is unusual about images and a lam, and whether TrAct may harm: a few batches through the model, "
        "nothing is trained"
    )
    parser = subcommand(commands, "probe", about, run, epilog)
    add = parser.add_argument
    add_shared(parser, "model")
    add_shared(parser, "--data", required=True, help="folder or tar of images; class folders are labels")
    add("--batches", type=count(1), default=8, metavar="N", help="how many, drawn at random (default: 8)")
    add_shared(parser, "--batch", default=64)
    add_shared(parser, "--input", help="resize images to this, such as 3x224x224 (default: what the model expects)")
    add("--checkpoint", type=path, metavar="FILE", help="weights of the model, a state_dict; no code in it is run")
    add_shared(parser, "--layers")
    add_shared(parser, "--lam")
    add_shared(parser, "--relative")
    add("--mean", type=floats, metavar="X,X,X", help="subtracted from pixels in 0..1 (default: the model's own, or 0)")
    add("--std", type=floats, metavar="X,X,X", help="divides after that (default: the model's own, or 1)")
    add_shared(parser, "--seed", help="of the choice of images (default: 0)")
    add_shared(parser, "--out", help="write pictures and probe.json into this folder")
    add_shared(parser, "--html", help="write a page with the findings, the numbers and the pictures")
    add_shared(parser, "--json")


def run(args: argparse.Namespace) -> int:
    """Probe one model with the images of a folder."""
    require("demo", "numpy", "PIL", *(("matplotlib",) if args.out or args.html else ()), command="probe")
    from rich.console import Console

    import tract_fx
    from tract_fx.tools.files import check_file, check_folder, replacing, staged, write_json
    from tract_fx.tools.images.loader import image_batches
    from tract_fx.tools.models.checkpoint import load_checkpoint
    from tract_fx.tools.models.loading import load_model

    if args.out is not None:
        check_folder(args.out, [REPORT])
    for file in filter(None, (args.html, args.json)):
        check_file(file)
    loaded = load_model(args.model, allocate=True)
    left = () if args.checkpoint is None else load_checkpoint(loaded.model, args.checkpoint)
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
    for notice in (*left, *notices):
        print(notice, file=sys.stderr)
    found = tract_fx.probe(
        loaded.model, batches, args.lam, batches=args.batches, layers=args.layers, relative=args.relative
    )
    Console().print(found)
    reports = [args.json, *([] if args.out is None else [args.out / REPORT])]
    for file in filter(None, reports):
        write_json(file, found.to_dict())
    if args.out is not None:
        with staged(args.out) as folder:
            found.save_figures(folder)
    if args.html is not None:
        with replacing(args.html) as part:
            found.to_html(part)
    return FOUND if found.warnings else SUCCESS
