"""A release of PyTorch that lacks a private name is refused in one sentence, and the doctor checks every name."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import tract_fx
from tract_fx import UnsupportedTorchError, cli, compat, passes
from tract_fx.private_names import PRIVATE_NAMES, PrivateName, problems


def import_compat_again() -> None:
    spec = importlib.util.spec_from_file_location("compat_again", compat.__file__)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_this_release_has_every_name() -> None:
    assert not problems()


def test_a_name_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import_compat_again()
    monkeypatch.delattr(torch._guards, "detect_fake_mode")
    with pytest.raises(ImportError) as raised:
        import_compat_again()
    assert isinstance(raised.value, UnsupportedTorchError)
    assert str(raised.value) == (
        f"tract-fx supports torch 2.11 to 2.15, and torch {torch.__version__} is installed, which has no "
        "torch._guards.detect_fake_mode."
    )


def test_a_module_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch._dynamo.pgo", None)
    with pytest.raises(UnsupportedTorchError, match=r"has no torch\._dynamo\.pgo\._CODE_STATE\.$"):
        import_compat_again()


def test_another_signature_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def trace_structured(name: str, *, payload_fn: object) -> None:
        pass

    monkeypatch.setattr(torch._logging, "trace_structured", trace_structured)
    with pytest.raises(UnsupportedTorchError, match=r"another signature of torch\._logging\.trace_structured .*metad"):
        import_compat_again()


def test_names_of_modules_that_load_slowly_are_checked_before_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import decomposition

    monkeypatch.delattr(decomposition, "select_decomp_table")
    import_compat_again()
    with pytest.raises(UnsupportedTorchError, match=r"has no torch\._inductor\.decomposition\.select_decomp_table"):
        compat.inductor_decompositions()


def test_the_doctor_names_each_of_them_and_looks_no_further(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(torch._guards, "detect_fake_mode")
    monkeypatch.delattr(torch._dynamo.pgo, "_CODE_STATE")
    for module in ("tract_fx.compat", "tract_fx.tools.doctor.checkup"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.delattr(sys.modules["tract_fx"], "compat")
    assert cli.main(["doctor", "--json"]) == 1
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert [check["name"] for check in checks] == ["torch._dynamo.pgo._CODE_STATE", "torch._guards.detect_fake_mode"]
    assert {check["state"] for check in checks} == {"broken"}
    assert cli.main(["doctor"]) == 1
    assert "TrAct does not work here" in capsys.readouterr().out


def private_names(tree: ast.AST) -> Iterator[str]:
    """What is imported from PyTorch, and what is reached by attributes of ``torch`` or of a name imported from it."""
    imports = [
        node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("torch.")
    ]
    origins = {"torch": "torch"}
    origins |= {item.asname or item.name: f"{node.module}.{item.name}" for node in imports for item in node.names}
    yield from origins.values()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            base, _, rest = ast.unparse(node).partition(".")
            if base in origins:
                yield f"{origins[base]}.{rest}"


def is_private(name: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in name.split(".")) and "(" not in name


def test_the_table_has_every_private_name_that_is_used() -> None:
    listed = {str(name) for name in PRIVATE_NAMES}
    known = {".".join(parts[: end + 1]) for name in listed if (parts := name.split(".")) for end in range(len(parts))}
    tree = ast.parse(Path(compat.__file__).read_text(encoding="utf-8"))
    used = set(filter(is_private, private_names(tree)))
    assert len(used) > 40
    longer = {name for name in used - known if not any(name.startswith(f"{item}.") for item in listed)}
    assert longer == set()


def test_no_other_file_uses_one() -> None:
    package = Path(tract_fx.__file__).parent
    files = [*package.rglob("*.py"), *Path(passes.__file__).parent.rglob("*.py")]
    others = [file for file in files if file.name not in ("compat.py", "private_names.py")]
    assert len(others) > 100
    found = {(file.name, name) for file in others for name in private_names(ast.parse(file.read_text("utf-8")))}
    assert {item for item in found if is_private(item[1]) and not item[1].startswith("torch.ops.aten.")} == set()


def test_a_name_in_another_place_is_a_problem() -> None:
    assert PrivateName("torch", "_C._no_such_name").problem() == "has no torch._C._no_such_name"
    assert PrivateName("torch", "_C._current_graph_task_id", 0).problem() is None  # of C++, without a signature
