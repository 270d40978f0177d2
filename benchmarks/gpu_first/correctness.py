"""``tests/gpu`` in a few processes: kernels, the whole backend, photographs, captured graphs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu_first import outcomes
from benchmarks.gpu_first.records import Records

__all__ = ["run"]

ROOT = Path(__file__).parents[2]
TESTS = Path("tests") / "gpu"
# Files, and tests in them, of one process. All run at once: most of the time goes into compilation, on one processor.
SELECTIONS = (
    ("photographs.py", "channels-last"),
    ("photographs.py", "not channels-last"),
    ("capture.py", ""),
    ("backend.py", ""),
    ("gram.py", "integer_pixels or any_layer"),
    ("gram.py", "not (integer_pixels or any_layer)"),
    ("systems.py", ""),
)
# What runs without a GPU as well.
TINY = [str(TESTS / "photographs.py"), "-k", "3x3-contiguous and (float32 or bfloat16)"]
# Of each process; the tests' own choice is one, for machines where as many processes run as there are cores.
COMPILE_THREADS = "4"
# Exit statuses of pytest that are no failure: passed, and nothing left to run.
FINE = (0, 5)


def run(records: Records) -> int:
    """Run what has not passed yet; 1 if a test fails."""
    selections = [TINY] if records.tiny else [[str(TESTS / name), "-k", tests] for name, tests in SELECTIONS]
    statuses = [process.wait() for process in [started(selection, records) for selection in selections]]
    return int(any(status not in FINE for status in statuses))


def started(selection: list[str], records: Records) -> subprocess.Popen[bytes]:
    """A session of pytest without further processes of its own, which writes outcomes itself."""
    environment = {
        **os.environ,
        outcomes.FOLDER: str(records.out),
        outcomes.DEVICE: records.device,
        outcomes.TINY: str(int(records.tiny)),
        "TORCHINDUCTOR_COMPILE_THREADS": os.environ.get("TORCHINDUCTOR_COMPILE_THREADS", COMPILE_THREADS),
    }
    options = ["-q", "-n", "0", "-p", "no:cacheprovider", "-p", "benchmarks.gpu_first.outcomes"]
    return subprocess.Popen([sys.executable, "-m", "pytest", *options, *selection], cwd=ROOT, env=environment)
