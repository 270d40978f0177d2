"""`tract-fx explain`."""

import argparse
from typing import Any

from tract_fx.cli.arguments import FOUND, SUCCESS, add_shared, subcommand

__all__ = ["declare", "run"]

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "fp64": "float64"}


def declare(commands: Any, epilog: str) -> None:
    """Say what the arguments are."""
    about = "show which layers of a model TrAct rewrites, into what, and why others not; nothing is trained"
    parser = subcommand(commands, "explain", about, run, epilog)
    add = parser.add_argument
    add_shared(parser, "model")
    add_shared(parser, "--input", help="shape of one example, such as 3x224x224 (default: the model's own)")
    add_shared(parser, "--batch", default=32)
    add("--dtype", choices=(*DTYPES, *DTYPES.values()), default="fp32", help="of model and input (default: fp32)")
    add_shared(parser, "--lam")
    add_shared(parser, "--relative")
    add_shared(parser, "--layers")
    add("--dynamic", action="store_true", help="with sizes as symbols, as for torch.compile(dynamic=True)")
    add_shared(parser, "--html", help="write a page with the graphs before and after, and the costs")
    add_shared(parser, "--json")


def run(args: argparse.Namespace) -> int:
    """Explain one model."""
    from rich.console import Console

    from tract_fx.tools.files import check_file, replacing, write_json

    for file in filter(None, (args.html, args.json)):
        check_file(file)
    explanation = _explain(args)
    Console().print(explanation)
    if args.html is not None:
        with replacing(args.html) as part:
            explanation.to_html(part)
    if args.json is not None:
        write_json(args.json, explanation.to_dict())
    return SUCCESS if explanation.is_fine else FOUND


def _explain(args: argparse.Namespace) -> Any:
    """On `meta` where that will do; else with values, for a model whose code looks at them."""
    from tract_fx.errors import CaptureError
    from tract_fx.tools.models.loading import load_model

    model = load_model(args.model)
    try:
        return _explain_loaded(model, args)
    except CaptureError:
        if not model.on_meta:
            raise
    return _explain_loaded(load_model(args.model, allocate=True), args)


def _explain_loaded(loaded: Any, args: argparse.Namespace) -> Any:
    import torch

    import tract_fx
    from tract_fx.compat import pytree

    dtype = getattr(torch, DTYPES.get(args.dtype, args.dtype))
    positional, keywords = pytree.tree_map_only(
        torch.Tensor,
        lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor,
        loaded.arguments(args.batch, args.input),
    )
    return tract_fx.explain(
        loaded.model.to(dtype),
        *positional,
        lam=args.lam,
        relative=args.relative,
        layers=args.layers,
        dynamic=True if args.dynamic else None,
        **keywords,
    )
