"""What the commands of docs/guide/odd-loss.md print; ``python -m benchmarks.report`` puts it there.

python -m benchmarks.tutorial --data cifar10_jpeg.tar.xz [NAME ...]
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

from benchmarks.report import RESULTS, ROOT

FOLDER = RESULTS / "tutorial"
# As the data are called on the page, wherever they are.
IMAGES = "cifar10_jpeg.tar.xz"
COLUMNS = "110"
PROBE = f"tract-fx probe torchvision:resnet18 --data {IMAGES} --input 3x64x64"
COMMANDS = {
    "explain": "tract-fx explain timm:convnext_tiny --batch 256",
    "explain_nothing": "tract-fx explain hf:bert",
    "explain_skipped": "tract-fx explain benchmarks.tutorial_models:skipped",
    "explain_unsupported": "tract-fx explain benchmarks.tutorial_models:unsupported",
    "logs": 'TORCH_LOGS="tract_fx" python -m benchmarks.tutorial_models',
    "probe_raw": f"{PROBE} --mean 0,0,0 --std 0.0039,0.0039,0.0039",
    "probe_standardised": PROBE,
    "probe_lam": f"{PROBE} --lam 1e6",
}


def main() -> None:
    """Run the commands and keep what they print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="archive or folder of CIFAR-10 as class folders")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(COMMANDS)} (default: all)")
    arguments = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    for name in arguments.names or COMMANDS:
        text = printed(COMMANDS[name], arguments.data.resolve())
        (FOLDER / f"{name}.txt").write_text(text)
        print(text, flush=True)


def printed(command: str, data: Path) -> str:
    """A command and what it prints, as on a terminal; with its exit status where that is not 0."""
    variables = {"COLUMNS": COLUMNS, "PYTHONWARNINGS": "ignore"}
    words = shlex.split(command.replace(IMAGES, str(data)))
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        variables[name] = value
    words[:1] = [sys.executable] if words[0] == "python" else [sys.executable, "-m", "tract_fx.cli"]
    done = subprocess.run(
        words, env={**os.environ, **variables}, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines = [f"$ {command}", *(line.rstrip() for line in done.stdout.rstrip().splitlines())]
    if done.returncode:
        lines += ["$ echo $?", str(done.returncode)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
