"""``python -m tests.fuzz --seeds 500``; ``--seed N`` runs one and prints its network; ``--pieces`` compiles in pieces."""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import torch

from .check import FuzzError, Outcome, check_seed
from .network import make_case
from .pieces import Net, check_pieces


def main() -> int:
    """Run the seeds; returns 1 when one of them fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seeds", type=int, default=500, help="how many networks (default: 500)")
    parser.add_argument("--start", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--seed", type=int, help="run this one only, and print its network")
    parser.add_argument("--inner", choices=("aot_eager", "inductor"), default="aot_eager")
    parser.add_argument(
        "--pieces", action="store_true", help="networks compiled whole and in pieces (always aot_eager)"
    )
    parser.add_argument("--ways", type=int, default=4, help="with --pieces, ways to compile each network (default: 4)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="append one line with the counts")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", module="torch")
    torch.set_num_threads(1)
    seeds = range(arguments.start, arguments.start + arguments.seeds)
    if arguments.seed is not None:
        seeds = range(arguments.seed, arguments.seed + 1)
        print(Net(arguments.seed) if arguments.pieces else make_case(arguments.seed))
    failed, passed, began = [], {outcome: [] for outcome in Outcome}, time.monotonic()
    for seed in seeds:
        try:
            passed[_check(seed, arguments)].append(seed)
        except FuzzError as failure:
            failed.append(seed)
            print(failure, end="\n\n", flush=True)
    seconds = time.monotonic() - began
    print(f"{len(seeds) - len(failed)} of {len(seeds)} passed in {seconds:.0f} s, torch {torch.__version__}")
    for outcome in (Outcome.MAGNIFIED, Outcome.NO_PLAIN_COMPILE):
        print(f"{outcome.value}: {passed[outcome]}")
    print(f"failed seeds: {failed}")
    if arguments.json:
        counts = {outcome.name.lower(): len(found) for outcome, found in passed.items()}
        line = {
            "fuzz": f"pieces, {arguments.ways} ways" if arguments.pieces else "networks",
            "start": seeds.start,
            "seeds": len(seeds),
            **counts,
            "failed": failed,
            "inner": "aot_eager" if arguments.pieces else arguments.inner,
            "torch": torch.__version__,
        }
        with arguments.json.open("a") as file:
            file.write(json.dumps(line) + "\n")
    return 1 if failed else 0


def _check(seed: int, arguments: argparse.Namespace) -> Outcome:
    if not arguments.pieces:
        return check_seed(seed, arguments.inner)
    check_pieces(seed, arguments.ways)
    return Outcome.RIGHT


if __name__ == "__main__":
    sys.exit(main())
