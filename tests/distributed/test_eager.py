"""Layers that need no compile: their gradients, too, are those of one process with the whole batch."""

from __future__ import annotations

import pytest
import torch

from support.oracle import error
from support.works import works
from tests.distributed.eager import train
from tests.distributed.processes import Processes
from tests.distributed.test_exact import EQUAL, check
from tests.distributed.training import STEPS, Case, expected

CASES = {
    "ddp": Case("ddp outside"),
    "ddp, uneven last batch": Case("ddp outside", parts=(EQUAL, EQUAL, ((4, 2),))),
    "ddp, no_sync": Case("ddp outside", parts=(EQUAL * 2,) * STEPS),
    "ddp, unused parameters": Case("ddp unused", "unused"),
    "ddp, grouped convolution": Case("ddp outside", "grouped"),
    "ddp, fewer rows than features": Case("ddp outside", "linear"),
    "ddp, transposed convolution": Case("ddp outside", "transposed"),
    "ddp, two first layers": Case("ddp outside", "two stems"),
    "ddp, float64": Case("ddp outside", dtype=torch.float64),
    "ddp, relative lam": Case("ddp outside", "linear", relative=True),
    "zero": Case("ddp zero"),
    "fsdp": Case("fsdp root"),
    "fsdp, the layer is a unit of its own": Case("fsdp stem", "conv"),
}


@works("eager")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_engine(two: Processes, case: Case) -> None:
    check(case, two.run(train, case))


@works("eager")
def test_a_group(two: Processes) -> None:
    case = Case("ddp outside")
    check(case, two.run(train, case, "world"))


@pytest.mark.skipif(torch.__version__ < "2.15", reason="not understood: hangs in these processes, and in no others")
def test_in_compiled_code(two: Processes) -> None:
    case = Case("ddp outside")
    check(case, two.run(train, case, "ddp", "aot_eager", seconds=300))


def test_without_the_argument_each_process_has_a_covariance_of_its_own(two: Processes) -> None:
    """And one warning says so."""
    case = Case("ddp outside")
    (wanted, *_) = expected(case)
    for result in two.run(train, case, None):
        assert error(result["steps"][0]["stem.weight"], wanted["stem.weight"]) > 1e-2
        assert error(result["steps"][0]["head.weight"], wanted["head.weight"]) < 1e-5
        (message,) = result["warnings"]
        assert "There are 2 processes, and each uses the covariance of its own part" in message
        assert 'process_group="ddp"' in message


@works("schedules")
def test_all_processes_step_together(two: Processes) -> None:
    case = Case("ddp outside", "two stems", parts=(EQUAL,))
    check(case, two.run(train, case, "ddp", None, (2, 2)))


@works("schedules")
def test_a_process_that_does_not_step_is_an_error(two: Processes) -> None:
    for outcome in two.outcomes(train, Case("ddp outside"), "ddp", None, (2, 1)):
        assert outcome.error == "DisagreementError"
        assert "lam is 0.1 on rank 0; 0.3 on rank 1" in outcome.message
