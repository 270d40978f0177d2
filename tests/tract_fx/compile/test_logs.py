"""What a user sees of a compile with TORCH_LOGS and TORCH_TRACE, and that nothing is computed for nobody."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from support.marks import codegen
from support.python import run
from support.refused import Pairs
from support.works import works
from tract_fx import TractBackend, UnsupportedLayerError, tract_backend
from tract_fx.compile import logs

pytestmark = works("logs")

LINE = "0.weight: convolution rewritten, primal, 1 x (27 x 27), 315 rows, 27 features"
IDLE = "nothing to rewrite: this graph computes no gradients"
NEW_NODE, PLAIN_GRADIENT = "tract_fx.primal_gradient", "convolution_backward"

TRAINING_AND_EVALUATION = """
import torch, tract_fx
from torch import nn
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh())
compiled = torch.compile(model, backend=tract_fx.tract_backend())
compiled(torch.randn(5, 3, 9, 11)).square().sum().backward()
with torch.no_grad():
    compiled(torch.randn(5, 3, 9, 11))
"""


def small() -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh()), torch.randn(5, 3, 9, 11)


def train(backend: TractBackend, model: nn.Module, x: torch.Tensor) -> None:
    torch.compile(model, backend=backend)(x).square().sum().backward()


def said(text: str, level: str) -> list[str]:
    """Messages of this package on stderr in PyTorch's format."""
    found = re.findall(rf"^{level}\d+ \S+ \d+ \S*tract_fx/\S+\] \[\S+\] (.*)$", text, re.MULTILINE)
    return [line for line in found if line.strip()]


def in_tlparse(trace: Path, out: Path) -> dict[str, str]:
    """Our artifacts of the first graph, as the real ``tlparse`` writes them; it refuses what it does not understand."""
    (recorded,) = trace.glob("*.log")
    program = shutil.which("tlparse", path=str(Path(sys.executable).parent)) or shutil.which("tlparse")
    if program is None:
        pytest.skip("tlparse has no wheel for this platform")
    subprocess.run([program, "--no-browser", "--strict", "-o", out, recorded], capture_output=True, check=True)
    (folder,) = out.glob("*0_0_0")
    listed = (out / "index.html").read_text()
    found = {re.sub(r"_\d+$", "", path.stem): path for path in folder.glob("tract_*")}
    assert all(path.name in listed for path in found.values())
    return {name: path.read_text() for name, path in found.items()}


@dataclasses.dataclass(frozen=True)
class Shown:
    """What one process printed, what tlparse made of its trace, and the folder for debugging."""

    printed: str
    artifacts: dict[str, str]
    debug: Path


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shown, Shown]:
    """The process that fills the caches, and one that finds everything in them."""
    folder = tmp_path_factory.mktemp("logs")
    shown = []
    for name in ("miss", "hit"):
        trace = folder / name
        debug = folder / f"{name}_debug"
        variables = {"TORCH_LOGS": "+tract_fx", "TORCH_TRACE": str(trace), "TORCH_COMPILE_DEBUG": "1"}
        done = run(TRAINING_AND_EVALUATION, folder, TORCH_COMPILE_DEBUG_DIR=str(debug), **variables)
        shown.append(Shown(done.stderr, in_tlparse(trace, folder / f"{name}_html"), debug))
    return shown[0], shown[1]


@codegen
def test_one_line_for_each_graph_on_a_miss_and_on_a_hit(processes: tuple[Shown, Shown]) -> None:
    for process in processes:
        assert said(process.printed, "I") == [LINE, IDLE]


@codegen
def test_a_miss_shows_the_joint_graph_before_and_after(processes: tuple[Shown, Shown]) -> None:
    miss, _ = processes
    code = "\n".join(said(miss.printed, "V"))
    before, after = code.split(logs.AFTER)
    assert before.startswith(logs.BEFORE)
    assert PLAIN_GRADIENT in before
    assert NEW_NODE not in before
    assert NEW_NODE in after
    assert "f32[5, 3, 9, 11]" in before  # with shapes and dtypes
    assert {*miss.artifacts} == {logs.BEFORE, logs.AFTER, logs.FINDINGS}
    assert miss.artifacts[logs.BEFORE].split() == before.removeprefix(logs.BEFORE).split()
    assert miss.artifacts[logs.AFTER].split() == after.split()
    assert logs.AFTER in json.loads(miss.artifacts[logs.FINDINGS])["joint_graphs"]


@codegen
def test_a_hit_has_the_findings_and_says_why_it_has_no_graphs(processes: tuple[Shown, Shown]) -> None:
    miss, hit = processes
    assert {*hit.artifacts} == {logs.FINDINGS}
    first, second = (json.loads(item.artifacts[logs.FINDINGS]) for item in (miss, hit))
    assert second["matches"] == first["matches"]
    assert second["matches"][0]["weight"] == "0.weight"
    assert second["rejections"] == first["rejections"] == []
    assert "came from the cache" in second["joint_graphs"]
    assert "came from the cache" in "\n".join(said(hit.printed, "V"))
    assert NEW_NODE not in hit.printed


@codegen
def test_debug_folders_are_written_as_ever(processes: tuple[Shown, Shown]) -> None:
    """By TORCH_COMPILE_DEBUG: Inductor's own view of the graphs, and the code that it generates from them."""
    miss, _ = processes
    (folder,) = (miss.debug / "torch_compile_debug").glob("run_*")
    for name in ("fx_graph_readable.py", "output_code.py"):
        assert any(NEW_NODE in path.read_text() for path in folder.rglob(name)), name


def test_explain_of_dynamo_works_before_and_after_a_compile() -> None:
    model, x = small()
    backend = tract_backend(inner="aot_eager")
    assert torch._dynamo.explain(model)(x).graph_count == 1
    train(backend, model, x)
    gradient = model[0].weight.grad.clone()
    explained = torch._dynamo.explain(model)(x)
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)
    model.zero_grad()
    train(backend, model, x)
    assert torch.equal(model[0].weight.grad, gradient)
    assert [match.weight for match in backend.matches] == ["0.weight"]  # explain resets Dynamo: it is compiled anew


@pytest.fixture
def torch_logging() -> Iterator[None]:
    """PyTorch's logging, as it was after the test."""
    internal = torch._logging._internal
    yield
    logger = logging.getLogger("tract_fx")
    for name in [name for name in internal.log_registry.log_alias_to_log_qnames if name.startswith("tract_fx")]:
        del internal.log_registry.log_alias_to_log_qnames[name]
    internal.log_registry.child_log_qnames -= {
        name for name in internal.log_registry.child_log_qnames if name.startswith("tract_fx")
    }
    internal._clear_handlers(logger)
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("tract_fx")]:
        logging.getLogger(name).setLevel(logging.NOTSET)
        logging.getLogger(name).propagate = True
    torch._logging.set_logs()


@pytest.mark.usefixtures("torch_logging")
def test_set_logs_with_the_module_s_name(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_LOGS", raising=False)
    torch._logging.set_logs(modules={"tract_fx": logging.DEBUG})
    train(tract_backend(inner="aot_eager"), *small())
    printed = capsys.readouterr().err
    assert said(printed, "I") == [LINE]
    before, after = "\n".join(said(printed, "V")).split(logs.AFTER)
    assert before.startswith(logs.BEFORE)
    assert NEW_NODE not in before
    assert NEW_NODE in after


def test_no_graph_is_printed_where_nobody_listens(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    printed = []
    monkeypatch.setattr(torch._logging._internal.trace_log, "handlers", [])  # pytest listens to every logger
    monkeypatch.setattr(logs, "_code", lambda graph: printed.append(graph) or "code")
    with caplog.at_level(logging.INFO, "tract_fx"):
        train(tract_backend(inner="aot_eager"), *small())
    assert printed == []
    assert caplog.messages == [LINE]
    torch._dynamo.reset()
    with caplog.at_level(logging.DEBUG, "tract_fx"):
        train(tract_backend(inner="aot_eager"), *small())
    assert len(printed) == 2  # before and after


def test_one_line_says_what_was_not_rewritten(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(nn.Module):
        """A graph break, with a second graph that sees activations only."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.first(x)
            torch._dynamo.graph_break()
            return self.second(hidden)

    embedding, tokens = nn.Sequential(nn.Embedding(9, 4), nn.Tanh()), torch.randint(0, 9, (5, 7))
    with caplog.at_level(logging.INFO, "tract_fx"):
        train(tract_backend(inner="aot_eager"), Broken(), torch.randn(9, 6))
        train(tract_backend(inner="aot_eager", on_unsupported="ignore"), embedding, tokens)
    of_first, of_second, of_embedding = caplog.messages
    assert of_first.startswith("first.weight: addmm rewritten")
    assert of_second == "nothing to rewrite: no layer of this graph has an input that depends on data alone"
    assert of_embedding.startswith("not rewritten: 0 (embedding): there is no first layer")


def test_a_refused_graph_has_its_line_too(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(Pairs(8, 8, 4))
    with caplog.at_level(logging.INFO, "tract_fx"), pytest.raises(Exception, match="TrAct cannot") as caught:
        train(tract_backend(inner="aot_eager"), model, torch.randn(2, 3, 9, 8))
    assert UnsupportedLayerError.__name__ in repr(caught.value) + repr(caught.value.__cause__) + str(caught.type)
    (line,) = caplog.messages
    assert line.startswith("not rewritten: 0 (")
