"""Train two steps with every library, and compare the first layer's gradient with the closed form at each of them.

python -m tests.libraries                                  # all, in an environment of their own
python -m tests.libraries peft_lora skorch                 # some
python -m tests.libraries --out benchmarks/results/libraries.json
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402

from support.oracle import error  # noqa: E402

from .cases import CASES  # noqa: E402
from .environment import with_packages  # noqa: E402
from .trial import SIDES, Side, Trial  # noqa: E402

# The promise for float32, and the difference that the trainings must make.
TOLERANCE, DIFFERENCE = 1e-5, 1e-2
TIMEOUT = 600
RESULT = "result: "


def main() -> int:
    """Run the cases; returns 1 when one of them fails."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.libraries", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)} (default: all)")
    parser.add_argument("--environment", type=Path, help="folder that keeps the environment (default: a temporary one)")
    parser.add_argument(
        "--out", type=Path, help="write the results of the cases that passed, in JSON; others in the file stay"
    )
    parser.add_argument("--here", action="store_true", help="install nothing, and run under this interpreter")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(CASES):
        parser.error(f"there is no case {', '.join(sorted(unknown))}")
    names = arguments.names or list(CASES)
    if arguments.here:
        here(names)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        python = with_packages(
            arguments.environment or Path(temporary), sorted({CASES[name].library for name in names})
        )
        passed = apart(python, names)
    if arguments.out is not None:
        write(arguments.out, passed, names)
    print(f"{len(passed)} of {len(names)} passed; failed: {sorted(set(names) - set(passed))}")
    return int(len(passed) < len(names))


def write(path: Path, passed: dict[str, dict[str, Any]], tried: Iterable[str]) -> None:
    """Write the results; those of other cases with the same version of PyTorch stay, those that failed go."""
    record: dict[str, Any] = {"torch": torch.__version__.partition("+")[0], "cases": {}}
    if path.exists() and (before := json.loads(path.read_text()))["torch"] == record["torch"]:
        record["cases"] = {name: result for name, result in before["cases"].items() if name not in tried}
    record["cases"] |= passed
    path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def apart(python: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The results of the cases that pass under another interpreter."""
    command = [python, "-m", "tests.libraries", "--here", *names]
    results = {}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            if line.startswith(RESULT):
                name, result = json.loads(line.removeprefix(RESULT))
                results[name] = result
                print(f"{name}: {result['errors']}", flush=True)
    return results


def here(names: Iterable[str]) -> None:
    """Print the results of the cases, each of which runs in a process of its own that imports PyTorch no second time."""
    torch.set_num_threads(1)
    for name in names:
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            continue
        try:
            signal.alarm(TIMEOUT)
            print(RESULT + json.dumps((name, tried(name))), flush=True)
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(0)


def tried(name: str) -> dict[str, Any]:
    """Train on every side that applies, and compare.

    Raises:
        AssertionError: when a gradient is not that of the closed form, or is that of the plain layer, too.
    """
    warnings.simplefilter("ignore")
    case = CASES[name]
    expected, errors = run(name, SIDES[0]), {}
    differences = [error(plain, new) for plain, new in zip(expected.plain, expected.gradients, strict=True)]
    assert len(differences) >= 2, f"{len(differences)} steps"
    assert min(differences) > DIFFERENCE, f"the plain gradients differ by {differences} only"
    for side in case.sides:
        found = run(name, side)
        assert len(found.gradients) == len(expected.gradients), (side, len(found.gradients), len(expected.gradients))
        errors[side] = max(map(error, found.gradients, expected.gradients))
        assert errors[side] <= TOLERANCE, (side, errors[side])
    return {
        "library": case.library,
        "version": metadata.version(case.library).partition("+")[0],
        "use": case.use,
        "order": case.order,
        "steps": len(differences),
        "errors": errors,
        "without": case.without,
    }


def run(name: str, side: Side) -> Trial:
    """One training."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    trial = Trial(side)
    CASES[name].train(trial)
    return trial


if __name__ == "__main__":
    sys.exit(main())
