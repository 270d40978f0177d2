"""What the doctor sees of this machine."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest
import torch

from tract_fx import compat
from tract_fx.tools.doctor import checkup as module
from tract_fx.tools.doctor import elsewhere
from tract_fx.tools.doctor.checkup import checkup
from tract_fx.tools.doctor.elsewhere import StepElsewhere
from tract_fx.tools.doctor.result import Check, State
from tract_fx.tools.doctor.self_check import SelfCheck


def named(checks: tuple[Check, ...], name: str) -> Check:
    (check,) = [check for check in checks if check.name == name]
    return check


def test_a_checkup_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_devices_with_code", lambda: ())  # generated code has tests of its own
    unwanted = StepElsewhere("aot_eager", "cpu")
    found = checkup(unwanted)
    assert unwanted.process.returncode is not None
    assert found.is_fine
    assert found.versions["torch"] == metadata.version("torch")
    assert found.versions["torchvision"] == metadata.version("torchvision")
    assert found.devices[0].startswith("cpu: ")
    assert len(found.devices) == 1 + torch.cuda.device_count()
    assert named(found.checks, "a step without generated code").state is State.WORKS
    assert named(found.checks, "cache folder").detail == compat.cache_dir()
    compiler = State.WORKS if compat.can_generate_code("cpu") else State.LIMITED
    assert named(found.checks, "C++ compiler").state is compiler


def test_a_step_in_another_process_is_right_or_says_how_it_failed() -> None:
    right, wrong = (StepElsewhere(inner, "cpu") for inner in ("aot_eager", "aot_lazy"))
    check = module._step("a step", wrong.result)
    assert check.state is State.BROKEN
    assert "inner='aot_lazy' is not allowed" in check.detail
    assert "report this" in check.advice
    assert right.result().is_right


def test_a_step_that_never_ends_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elsewhere, "PATIENCE", 0.01)
    step = StepElsewhere("aot_eager", "cpu")
    check = module._step("a step", step.result)
    assert (check.state, check.detail) == (State.BROKEN, "RuntimeError: no result after 0.01 s")
    assert step.process.wait(timeout=60) != 0


def test_a_step_that_is_wrong_is_broken() -> None:
    check = module._step("a step", lambda: SelfCheck(0.3, 0.0, ("stem.weight",), 1.0))
    assert check.state is State.BROKEN
    assert "off by 3e-01" in check.detail


def test_without_a_compiler_there_is_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "cpp_compiler", lambda: None)
    check = module._code_generation()
    assert check.state is State.LIMITED
    assert "aot_eager" in check.advice
    assert "cpu" not in module._devices_with_code()


def test_a_cache_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file" / "cache"))
    check = module._cache()
    assert check.state is State.BROKEN
    assert "TORCHINDUCTOR_CACHE_DIR" in check.advice


@pytest.mark.parametrize(("entries", "state"), [(["inductor", "tract"], State.WORKS), (["inductor"], State.LIMITED)])
def test_whether_the_backend_has_its_name(monkeypatch: pytest.MonkeyPatch, entries: list[str], state: State) -> None:
    found = [metadata.EntryPoint(name, "module:function", "torch_dynamo_backends") for name in entries]
    monkeypatch.setattr(metadata, "entry_points", lambda group: found if group == "torch_dynamo_backends" else [])
    assert module._entry_point().state is state
