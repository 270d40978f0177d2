"""The package is whole when installed, and works in a checkout that is not."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)


def test_every_package_is_installed() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "tract_fx").rglob("__init__.py")}
    assert set(declared) == found | {"tract_fx.passes"}


def test_every_file_that_is_no_module_is_installed() -> None:
    """Style sheets, scripts and templates of pages, and the mark of a typed package."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    installed = {path for package, globs in declared.items() for glob in globs for path in folder(package).glob(glob)}
    files = {path for path in (ROOT / "tract_fx").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert files == installed


def folder(package: str) -> Path:
    return ROOT.joinpath(*package.split("."))


def test_passes_is_no_package_of_its_own() -> None:
    finished = python("import passes", ROOT)
    assert finished.returncode == 1
    assert "Import tract_fx.passes" in finished.stderr


def test_a_checkout_works_without_being_installed(tmp_path: Path) -> None:
    """As does one that shadows an installed package, which a working directory does."""
    (tmp_path / "tract_fx").symlink_to(ROOT / "tract_fx")
    (tmp_path / "passes").symlink_to(ROOT / "passes")
    code = "import tract_fx.passes.first_layer as module, tract_fx; tract_fx.tract_backend(); print(module.__file__)"
    finished = python(code, tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert Path(finished.stdout.strip()).parent.resolve() == ROOT / "passes"


def test_names_are_imported_when_asked_for() -> None:
    code = "import sys, tract_fx; assert 'torch' not in sys.modules; assert 'tract_backend' in dir(tract_fx)"
    finished = python(code, ROOT)
    assert finished.returncode == 0, finished.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    finished = python("import tract_fx; tract_fx.nothing", ROOT)
    assert "module 'tract_fx' has no attribute 'nothing'" in finished.stderr
