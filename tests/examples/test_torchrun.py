"""The example for ``torchrun``, started by it: two processes have the gradients of one with the whole batch."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import torch

from support.python import ROOT, TESTS
from support.works import works
from tests.distributed.processes import free_port
from tests.examples.observed import EXAMPLES, Step, errors, load


def torchrun(arguments: list[str], folder: Path) -> list[list[list[Step]]]:
    """The command in the example's first line, with the observer in the place of the example: steps by rank and run."""
    first_line = (EXAMPLES / "torchrun_ddp.py").read_text().splitlines()[0]
    command = shlex.split(first_line.rpartition("&&")[2])
    script = command.index("examples/torchrun_ddp.py")
    assert command[0] == "torchrun"
    observer = str(Path(__file__).with_name("rank_observed.py"))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", *command[1:script]]
    finished = subprocess.run(
        [*launcher, observer, str(folder), str(free_port()), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, TESTS))), "TRACT_FX_INNER": "aot_eager"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    ranks = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]
    return [[[Step(**step) for step in run] for run in runs] for runs in ranks]


@works("trainers")
def test_two_processes_train_like_one_and_go_on(photographs: Path, tmp_path: Path) -> None:
    ranks = torchrun(["--data", str(photographs), "--batch", "8", "--out", str(tmp_path)], tmp_path)
    model = load("common").Net(3, 2)
    for first, second in zip(*ranks, strict=True):
        for one, other in zip(first, second, strict=True):
            assert not torch.equal(one.batch[0], other.batch[0]), "each process has images of its own"
            assert all(torch.equal(one.gradients[name], other.gradients[name]) for name in one.gradients)
            whole = (torch.cat([one.batch[0], other.batch[0]]), torch.cat([one.batch[1], other.batch[1]]))
            step = Step(one.weights, one.gradients, whole, one.states)
            found = errors(model, step, "stem")
            assert found.are_of_tract, found
    assert [[len(run) for run in runs] for runs in ranks] == [[2, 1]] * 2
    (before, last), (resumed,) = ranks[0]
    assert (before.states, resumed.states) == (0, len(resumed.weights))
    assert not any(torch.equal(last.weights[name], item) for name, item in resumed.weights.items())
    saved = torch.load(tmp_path / "last.pt")
    assert saved["step"] == 3
    assert saved["model"].keys() == model.state_dict().keys()
