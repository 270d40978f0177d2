"""A Python process of its own, with this checkout and its entry points."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent


def run(code: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in ``folder``, with nothing of PyTorch's logging set but what ``variables`` sets.

    ``tract_fx`` is this checkout's, and so are its entry points, whatever is installed.
    """
    _declare_entry_points(folder / "installed")
    paths = os.pathsep.join(map(str, (folder / "installed", ROOT, TESTS)))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TORCH_LOGS", "TORCH_TRACE"))}
    finished = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**kept, "PYTHONPATH": paths, "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache"), **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished


def _declare_entry_points(installed: Path) -> None:
    """What an installer leaves behind; the first distribution of a name on the path is the one that counts."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    info = installed / f"tract_fx-{project['version']}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = (
        "\n".join([f"[{group}]", *(f"{name} = {target}" for name, target in entries.items())])
        for group, entries in project["entry-points"].items()
    )
    (info / "entry_points.txt").write_text("\n".join(groups))
