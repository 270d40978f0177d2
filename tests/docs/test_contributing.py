"""CONTRIBUTING.md names files that exist, and every folder of the package."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def test_every_file_that_is_named_exists() -> None:
    named = {name for name in re.findall(r"`((?:[\w.]+/)+[\w.*]*)`", TEXT) if not name.startswith(".venv")}
    assert named
    for name in named:
        pattern = f"tract_fx/inspect/{name}" if name in ("cost/", "views/", "drawing/") else name
        inside = [*ROOT.glob(pattern), *ROOT.glob(f"tract_fx/*/{pattern}")]
        assert inside, name


def test_every_package_is_on_the_map() -> None:
    packages = {path.parent.name for path in (ROOT / "tract_fx").glob("*/__init__.py")}
    assert all(f"`tract_fx/{name}/`" in TEXT for name in packages)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
