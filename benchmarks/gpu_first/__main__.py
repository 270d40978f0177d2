"""Everything to know from the first ten minutes on a GPU: whether it is right, and what it costs.

    python -m benchmarks.gpu_first                          # all parts, ten minutes
    python -m benchmarks.gpu_first --minutes 30             # goes on with what is missing
    python -m benchmarks.gpu_first --parts steps profile

Each line of results is in --out as soon as it is known; python -m benchmarks.report makes tables from them. A part gets its
share of the time and what the parts before it left over. Exit status: 0 if all results are there, 1 if something is wrong,
75 if time was too short and nothing is wrong, 77 if there is no CUDA device.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.gpu_first.part import PARTS

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "gpu_first"
WRONG, UNFINISHED, NO_DEVICE = 1, 75, 77
# Between being asked to end and being ended.
GRACE_SECONDS = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that are asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all, in this order")
    parser.add_argument("--minutes", type=float, default=10.0, help="after which it stops (default: 10)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results (default: %(default)s)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a dry run")
    parser.add_argument("--tiny", action="store_true", help="everything as small as it gets: a dry run")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("gpu_first: there is no CUDA device here, nothing was tested or measured", file=sys.stderr)
        return NO_DEVICE
    options.out.mkdir(parents=True, exist_ok=True)
    begin, limit = time.monotonic(), 60 * options.minutes
    parts = [part for part in PARTS if part in options.parts]
    whole, spent = sum(PARTS[part][1] for part in parts), 0
    statuses = []
    for part in parts:
        spent += PARTS[part][1]
        status = run_part(part, options, begin + limit * spent / whole)
        print(f"gpu_first: {part}: {describe(status)} after {time.monotonic() - begin:.0f} s", flush=True)
        statuses.append(status)
    print(f"gpu_first: results are in {options.out}; python -m benchmarks.report makes tables from them")
    wrong = any(status not in (0, None) for status in statuses)
    return WRONG if wrong else UNFINISHED if None in statuses else 0


def run_part(part: str, options: argparse.Namespace, deadline: float) -> int | None:
    """Exit status of a part's process; None where it was not done in time."""
    command = [sys.executable, "-m", "benchmarks.gpu_first.part", part, "--out", str(options.out.absolute())]
    command += ["--device", options.device, *["--tiny"] * options.tiny]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        return process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it has started, which compile."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
            if sign == signal.SIGTERM:
                time.sleep(0.1)  # what it has started ends a moment later


def describe(status: int | None) -> str:
    """A status in words."""
    if status is None:
        return "stopped, as its time was up; the same command goes on with what is missing,"
    return "all results are there" if status == 0 else f"something is wrong (status {status}),"


if __name__ == "__main__":
    sys.exit(main())
