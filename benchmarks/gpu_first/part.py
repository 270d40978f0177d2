"""One part, in this process: ``python -m benchmarks.gpu_first.part PART --out FOLDER --device DEVICE [--tiny]``.

Exits with status 1 if something was measured that should not be so, and 0 if all results are there.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from benchmarks.gpu_first.records import Records

# Part, its module in this package, and its share of the time.
PARTS = {"correctness": ("correctness", 3), "solve": ("solve", 1), "steps": ("steps", 4), "profile": ("profiles", 2)}


def main() -> int:
    """Run the part that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    records = Records(arguments.part, arguments.out, arguments.device, arguments.tiny)
    module, _ = PARTS[arguments.part]
    return importlib.import_module(f"benchmarks.gpu_first.{module}").run(records)


if __name__ == "__main__":
    sys.exit(main())
