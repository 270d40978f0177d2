"""Train on real images, plain and with TrAct, and keep what every run gave.

    python -m benchmarks.convergence speedup --data cifar10_jpeg.tar.xz --seeds 0 1 2

Stop it whenever you like: it goes on from the last epoch of every run, and leaves finished runs alone. What several
experiments need is run once.
`python -m benchmarks.report` and `python -m benchmarks.plots` make tables and pictures.
"""

from __future__ import annotations

import argparse
import functools
import time
from pathlib import Path

import torch

from benchmarks.convergence.data import load
from benchmarks.convergence.experiments import EXPERIMENTS
from benchmarks.convergence.sizes import SIZES
from benchmarks.convergence.summary import RESULTS
from benchmarks.convergence.workers import run_all
from tract_fx.tools.errors import ToolError


def main(arguments: list[str] | None = None) -> int:
    """Run an experiment; exit status 1 where the images, or what is there already, do not fit."""
    options = _parser().parse_args(arguments)
    size = SIZES[options.size or ("full" if torch.device(options.device).type == "cuda" else "small")]
    runs = EXPERIMENTS[options.experiment].all_runs(size, options.seeds)
    runs = [
        run
        for run in runs
        if all(part in run.name for part in options.only) and not any(part in run.name for part in options.without)
    ]
    images = functools.partial(load, options.data, options.downloads, size.train, size.test, options.device)
    folder = options.out / size.name
    print(f"{EXPERIMENTS[options.experiment].question}\n{len(runs)} runs, size {size.name}, into {folder}", flush=True)
    try:
        run_all(runs, size, images, folder, options.steps, options.workers, _tell)
    except ToolError as error:
        print(error)
        return 1
    return 0


def _tell(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.convergence",
        description=__doc__,
        epilog="experiments:\n" + "\n".join(f"  {name:<10} {item.question}" for name, item in EXPERIMENTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("experiment", choices=EXPERIMENTS, metavar="EXPERIMENT", help="one of those below")
    parser.add_argument(
        "--data", default="cifar10", help="folder or archive of class folders, or cifar10 or cifar100 to download"
    )
    parser.add_argument("--downloads", type=Path, default=Path("data"), help="where downloads go (default: data)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=device, help=f"default: {device}")
    parser.add_argument("--size", choices=SIZES, help="default: small on a CPU, full on a GPU")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="folder of results (default: benchmarks/results/convergence)"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="PART", help="only runs with all of these in their names"
    )
    parser.add_argument(
        "--without", nargs="+", default=[], metavar="PART", help="no runs with one of these in their names"
    )
    parser.add_argument("--steps", type=int, help="end each run after so many steps, to try it out")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the device (default: 1)")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
