"""Promise 7: the gradients that the optimiser sees are those of one process with the whole batch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from support.oracle import error
from tests.distributed.processes import Processes
from tests.distributed.training import STEPS, Case, expected, train


@pytest.fixture(scope="module")
def two() -> Iterator[Processes]:
    processes = Processes(2)
    yield processes
    processes.close()


CASES = [
    Case("ddp outside"),
    Case("ddp inside"),
    Case("ddp split", "wide"),
    Case("ddp unused", "unused"),
    Case("ddp zero"),
    Case("fsdp root"),
    Case("fsdp stem", "stem"),
]


def check(case: Case, results: list[dict], bound: float = 1e-5) -> None:
    wanted = expected(case)
    for result in results:
        assert result["matches"]
        assert len(result["steps"]) == len(case.parts)
        for found, step in zip(result["steps"], wanted, strict=True):
            assert found.keys() == step.keys()
            for name, gradient in step.items():
                assert error(found[name], gradient) <= bound, name


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.engine)
def test_every_engine(two: Processes, case: Case) -> None:
    check(case, two.run(train, case))
