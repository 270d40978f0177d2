"""What an installed tract-fx does to everybody's ``import torch``: next to nothing."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.python import ROOT, run

KNOWN = (
    "import logging, torch; registry = torch._logging._internal.log_registry; "
    "print(registry.is_log('tract'), registry.is_log('tract_fx'), logging.getLogger('tract_fx').propagate)"
)
# Older versions read TORCH_LOGS before they call the function.
READ_LATE = torch.__version__ >= (2, 15)


def test_the_logger_stays_an_ordinary_one_where_nobody_asks_for_it(tmp_path: Path) -> None:
    for logs in ({}, {"TORCH_LOGS": "dynamo"}):
        assert run(KNOWN, tmp_path, **logs).stdout.split() == ["False", "False", "True"]


@pytest.mark.parametrize(
    "name", [pytest.param("tract", marks=pytest.mark.skipif(not READ_LATE, reason="2.15")), "tract_fx"]
)
def test_a_name_in_torch_logs_is_known_in_time(tmp_path: Path, name: str) -> None:
    level = "import logging, torch; print(logging.getLogger('tract_fx.logs').getEffectiveLevel())"
    assert run(level, tmp_path, TORCH_LOGS=name).stdout.split() == ["20"]


def test_it_loads_nothing(tmp_path: Path) -> None:
    """Not even PyTorch: whatever it loads, everybody waits for. Nor does it do anything but look at one variable."""
    code = (
        "import importlib.util, os, pathlib, sys, typing, contextlib; before = set(sys.modules); "
        "import tract_fx.autoload; tract_fx.autoload.register_logs(); print(*sorted(set(sys.modules) - before))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert loaded.split() == ["tract_fx", "tract_fx.autoload", "tract_fx.passes"]


def test_a_change_in_pytorch_does_not_break_its_import(monkeypatch: pytest.MonkeyPatch) -> None:
    from tract_fx.autoload import register_logs

    monkeypatch.setenv("TORCH_LOGS", "tract")
    monkeypatch.setitem(sys.modules, "torch._logging._internal", None)
    register_logs()


def test_packages_do_not_load_torch_by_themselves() -> None:
    """For a logger that it does not know torch 2.11 imports every package below it, while it is itself being imported."""
    code = (
        "import pkgutil, sys, tract_fx\n"
        "found = [item.name for item in pkgutil.walk_packages(tract_fx.__path__, 'tract_fx.')]\n"
        "assert 'torch' not in sys.modules\n"
        "assert 'tract_fx.ops.gram' in found, found\n"
        "assert not [name for name in found if name.startswith(('tract_fx.tract_fx', 'tract_fx.tests'))], found\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert finished.returncode == 0, finished.stderr
