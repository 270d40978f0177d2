"""Compiles every configuration of the Triton kernels for sm_80, 86, 89, 90, 100 and 120 and for gfx942 (942), without a GPU.

    python -m tests.gpu.aot [--jobs N] [--capability 90 ...]

Each is checked for shared memory, for registers that went to local memory, and for matrix instructions of the right kind.
Exits with status 1 if one fails.
"""

import argparse
import concurrent.futures
import itertools
import multiprocessing
import sys

import torch

from support.ahead_of_time import (
    MULTIPROCESSORS,
    combinations,
    compile_elimination,
    compile_gram,
    compile_reduction,
    complaints,
    every_case,
    unfit,
)
from tract_fx.ops.gpu.small_systems import WARPS


def check(capability: int, dtype: torch.dtype, name: str) -> tuple[list[str], int]:
    """Lines about one layer, and the number of failures."""
    lines, failures = [], 0
    for launch, config in combinations(capability, dtype, name):
        try:
            found = compile_gram(launch, dtype, config, capability)
            wrong = complaints(found, dtype, config, capability)
            text = f"{found.registers:3} registers, {found.stack:3} stack, {found.shared:6} shared"
        except Exception as error:  # one kernel that does not compile is a result too
            wrong, text = [f"{type(error).__name__}: {error}"], ""
        failures += bool(wrong)
        lines.append(f"{'FAIL' if wrong else 'ok  '} sm_{capability} {dtype} {name} {config} {text} {' '.join(wrong)}")
    compile_reduction(launch, capability)
    return lines, failures


def check_elimination(capability: int, size: int) -> tuple[str, bool]:
    """A line about the kernel for systems of one size, and whether it failed."""
    try:
        found = compile_elimination(size, capability)
        wrong, text = unfit(found, capability, most_stack=16), f"{found.registers:3} registers, {found.shared:6} shared"
    except Exception as error:
        wrong, text = [f"{type(error).__name__}: {error}"], ""
    return f"{'FAIL' if wrong else 'ok  '} sm_{capability} systems of {size} {text} {' '.join(wrong)}", bool(wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    parser.add_argument(
        "--capability", type=int, action="append", choices=MULTIPROCESSORS, help="only this one (default: all)"
    )
    parser.add_argument("layers", nargs="*", help="parts of names of layers (default: all)")
    arguments = parser.parse_args()
    cases = [case for case in every_case() if not arguments.layers or any(part in case[2] for part in arguments.layers)]
    cases = [case for case in cases if not arguments.capability or case[0] in arguments.capability]
    total = failed = 0
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(arguments.jobs, mp_context=context) as pool:
        for lines, failures in pool.map(check, *zip(*cases, strict=True)):
            sys.stdout.write("\n".join(lines) + "\n")
            sys.stdout.flush()
            total, failed = total + len(lines), failed + failures
    for capability, size in itertools.product(arguments.capability or MULTIPROCESSORS, WARPS):
        if not arguments.layers:
            line, failure = check_elimination(capability, size)
            sys.stdout.write(f"{line}\n")
            total, failed = total + 1, failed + failure
    sys.stdout.write(f"{total - failed} of {total} kernels are as they should be\n")
    return 1 if failed or not total else 0


if __name__ == "__main__":
    raise SystemExit(main())
