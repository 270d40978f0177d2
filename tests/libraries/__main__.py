"""Train two steps with every library, and compare the first layer's gradient with the closed form at each of them.

python -m tests.libraries                                  # all, in an environment of their own
python -m tests.libraries peft_lora skorch                 # some
python -m tests.libraries --out benchmarks/results/libraries.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
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
    parser.add_argument("--here", action="store_true", help="install nothing, run one case in this process")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(CASES):
        parser.error(f"there is no case {', '.join(sorted(unknown))}")
    names = arguments.names or list(CASES)
    if arguments.here:
        print(json.dumps(tried(names[0])))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.environment or Path(temporary)
        results = {name: apart(name, folder) for name in names}
    passed = {name: result for name, result in results.items() if result is not None}
    if arguments.out is not None:
        write(arguments.out, passed, names)
    print(f"{len(passed)} of {len(results)} passed")
    return int(len(passed) < len(results))


def write(path: Path, passed: dict[str, dict[str, Any]], tried: Iterable[str]) -> None:
    """Write the results; those of other cases with the same version of PyTorch stay, those that failed go."""
    record: dict[str, Any] = {"torch": torch.__version__.partition("+")[0], "cases": {}}
    if path.exists() and (before := json.loads(path.read_text()))["torch"] == record["torch"]:
        record["cases"] = {name: result for name, result in before["cases"].items() if name not in tried}
    record["cases"] |= passed
    path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def apart(name: str, folder: Path) -> dict[str, Any] | None:
    """The result of a case, which runs in a process and an environment of its own; None where it fails."""
    try:
        python = with_packages(folder, [CASES[name].library])
        command = [python, "-m", "tests.libraries", "--here", name]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as failure:
        print(f"{name}: {failure}", flush=True)
        return None
    if done.returncode:
        print(f"{name}: failed\n{done.stderr[-2000:]}", flush=True)
        return None
    result = json.loads(done.stdout.splitlines()[-1])
    print(f"{name}: {result['errors']}", flush=True)
    return result


def tried(name: str) -> dict[str, Any]:
    """Train on every side that applies, and compare.

    Raises:
        AssertionError: when a gradient is not that of the closed form, or is that of the plain layer, too.
    """
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
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
