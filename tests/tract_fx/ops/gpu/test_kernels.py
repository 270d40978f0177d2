"""The Triton kernels, in Triton's interpreter; and who uses them."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from support import python
from support.interpreter import ROOT, pytest_in_the_interpreter
from tract_fx import TractWarning
from tract_fx.ops import gram as module
from tract_fx.ops.gpu import launch, verification
from tract_fx.ops.gpu.configs import TileConfig
from tract_fx.ops.gram import gram
from tract_fx.ops.patches import LINEAR


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "file",
    [
        "interpreted_dual.py",
        "interpreted_elimination.py",
        "interpreted_gram.py",
        "interpreted_selection.py",
        "interpreted_sums.py",
    ],
)
def test_the_kernels_in_the_interpreter(file: str) -> None:
    pytest.importorskip("triton")
    finished = pytest_in_the_interpreter(Path(__file__).parent / file)
    assert finished.returncode == 0, finished.stdout[-8000:] + finished.stderr[-2000:]
    assert "skipped" not in finished.stdout


def test_some_layers_in_the_interpreter(tmp_path: Path) -> None:
    """A linear layer, overlapping patches and others, of which each takes kernels of its own."""
    pytest.importorskip("triton")
    code = (
        "from tests.tract_fx.ops.gpu.interpreted_gram import LINEAR, check, pixels, square\n"
        "check(pixels((300, 37)), LINEAR)\n"
        "check(pixels((2, 3, 13, 9)), square(3, 1, 1))\n"
        "check(pixels((3, 3, 16, 20)), square(4, 4, 0))\n"
    )
    python.run(code, tmp_path, TRITON_INTERPRET="1")


def test_triton_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, tract_fx.ops.gram, tract_fx.backend; assert not any(n.startswith('triton') for n in sys.modules), 1"
    # Inductor itself imports Triton where it is installed; the operators may not be the reason.
    code = code.replace(", tract_fx.backend", "").replace("tract_fx.ops.gram", "torch, tract_fx.ops.gram")
    before = "import torch, sys; print(any(n.startswith('triton') for n in sys.modules))"
    if subprocess.run([sys.executable, "-c", before], capture_output=True, text=True).stdout.strip() == "True":
        pytest.skip("torch itself imports Triton")
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_everything_works_without_triton() -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch\n"
        "from tract_fx.ops.gpu import launch\n"
        "from tract_fx.ops.gram import gram\n"
        "from tract_fx.ops.patches import LINEAR\n"
        "assert not launch.can_import_triton()\n"
        "assert torch.equal(gram(torch.ones(3, 2), LINEAR), torch.full((1, 2, 2), 3.0, dtype=torch.float64))\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


class Elsewhere:
    """What is asked of a tensor that is on some GPU."""

    def __init__(self, device: str, dtype: torch.dtype) -> None:
        self.device, self.dtype = torch.device(device), dtype


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "amd", "installed", "expected"),
    [
        ("cuda", torch.float32, (8, 0), None, True, True),
        ("cuda", torch.bfloat16, (9, 0), None, True, True),
        ("cuda", torch.float32, (7, 5), None, True, False),
        ("cuda", torch.float32, (9, 4), "gfx942:sramecc+:xnack-", True, True),
        ("cuda", torch.float32, (9, 0), "gfx90a:sramecc+:xnack-", True, False),
        ("cuda", torch.float32, (9, 0), None, False, False),
        ("cuda", torch.float8_e4m3fn, (9, 0), None, True, False),
        ("cpu", torch.float32, (9, 0), None, True, False),
        ("xpu", torch.float32, (9, 0), None, True, False),
    ],
)
def test_where_the_kernels_are_used(
    device: str, dtype: torch.dtype, capability: tuple[int, int], amd: str | None, installed: bool, expected: bool
) -> None:
    with (
        mock.patch.object(torch.cuda, "get_device_capability", return_value=capability),
        mock.patch.object(torch.cuda, "get_device_properties", return_value=SimpleNamespace(gcnArchName=amd)),
        mock.patch.object(torch.version, "hip", amd and "6.4"),
        mock.patch.object(launch, "can_import_triton", return_value=installed),
    ):
        assert launch.is_triton_usable(Elsewhere(device, dtype)) is expected


def test_the_operator_calls_them_unless_there_is_nothing_to_add() -> None:
    calls = []
    answer = torch.full((1, 4, 4), 7.0, dtype=torch.float64)
    with (
        mock.patch.object(module, "is_triton_usable", return_value=True),
        mock.patch.object(module, "checked_sums", lambda *arguments: calls.append(arguments) or (answer,)),
    ):
        assert torch.equal(gram(torch.ones(3, 4), LINEAR), answer)
        assert torch.equal(gram(torch.ones(0, 4), LINEAR), torch.zeros(1, 4, 4, dtype=torch.float64))
    assert [(tuple(input.shape), geometry) for input, _, geometry in calls] == [((3, 4), LINEAR)]


def failing(*_: object, **__: object) -> torch.Tensor:
    raise RuntimeError("no such instruction")


@pytest.mark.parametrize(
    ("kernels", "message"),
    [
        (failing, "no such instruction"),
        (lambda *_, **__: (torch.ones(1, 3, 3, dtype=torch.float64),), "another result"),
    ],
)
def test_kernels_that_are_wrong_on_a_device_are_not_used(
    kernels: Callable[..., torch.Tensor], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "launched", kernels)
    monkeypatch.setattr(launch, "configuration", lambda: TileConfig(16, 2))
    monkeypatch.setattr(module, "is_triton_usable", lambda input: True)
    checked: dict[object, TileConfig | None] = {}
    monkeypatch.setattr(verification, "_checked", lambda: checked)
    x = torch.randn(4, 3)
    with pytest.warns(TractWarning, match=message):
        found = gram(x, LINEAR)
    assert torch.allclose(found[0], x.T.double() @ x.double())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gram(x, LINEAR)  # checked once, and told once
    assert list(checked.values()) == [None]
