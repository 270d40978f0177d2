"""An environment of its own for the libraries: it sees what is installed here, and adds what is missing."""

from __future__ import annotations

import subprocess
import sysconfig
import venv
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

INSTALLED = """
import sys
from importlib import metadata
known = {item.name.lower() for item in metadata.distributions()}
sys.exit(not all(name.lower() in known for name in sys.argv[1:]))
"""

__all__ = ["python_of", "with_packages"]

# A library must not replace what is tested.
PINNED = ("torch", "torchvision", "numpy")


def python_of(folder: Path) -> Path:
    """The interpreter of the environment in ``folder``."""
    return folder / "bin" / "python"


def with_packages(folder: Path, packages: Sequence[str]) -> Path:
    """The interpreter of an environment in ``folder`` that has ``packages``; those that are missing are installed."""
    python = python_of(folder)
    if not python.exists():
        venv.create(folder, with_pip=True)
        site = next((folder / "lib").glob("python*")) / "site-packages"
        (site / "installed_here.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    if subprocess.run([python, "-c", INSTALLED, *packages], check=False).returncode == 0:
        return python
    pins = folder / "constraints.txt"
    pins.write_text("".join(f"{name}=={metadata.version(name)}\n" for name in PINNED))
    subprocess.run([python, "-m", "pip", "install", "-q", "-c", pins, *packages], check=True)
    return python
