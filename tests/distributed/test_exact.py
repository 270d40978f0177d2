"""Promise 7: the gradients that the optimiser sees are those of one process with the whole batch."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from support.marks import codegen
from support.oracle import error
from support.works import works
from tests.distributed.processes import Processes
from tests.distributed.training import STEPS, Case, expected, train

EQUAL = ((4, 4),)
ENGINES = [
    Case("ddp outside"),
    Case("ddp inside"),
    Case("ddp split", "wide"),
    Case("ddp unused", "unused"),
    Case("ddp zero"),
    Case("fsdp root"),
    Case("fsdp stem", "stem"),
]
LAYERS = {
    "grouped convolution": Case("ddp inside", "grouped"),
    "linear, fewer rows than features": Case("ddp inside", "linear"),
    "two first layers": Case("ddp inside", "two stems"),
    "transposed convolution, float64": Case("ddp inside", "transposed", dtype=torch.float64),
    "float64, scaled by what the rank with the largest input needs": Case("ddp inside", dtype=torch.float64),
    "another lam": Case("ddp inside", lam=0.5),
    "relative lam, of the rows of all": Case("ddp inside", "grouped", relative=True),
    "relative lam, float64": Case("ddp inside", dtype=torch.float64, relative=True),
}
BATCHES = {
    "the last batch is smaller on one rank": Case("ddp inside", parts=(EQUAL, EQUAL, ((4, 2),))),
    "sizes differ, one dynamic graph": Case("ddp inside", parts=(EQUAL, ((5, 3),), ((7, 6),)), dynamic=True),
    "linear, dynamic": Case("ddp inside", "linear", parts=(EQUAL, ((5, 3),), ((7, 6),)), dynamic=True),
    "one sample on a rank": Case("ddp inside", parts=(((4, 1),),) * STEPS),
}
ACCUMULATION = {
    "ddp inside": Case("ddp inside", parts=(EQUAL * 2, EQUAL * 3, EQUAL)),
    "ddp outside": Case("ddp outside", parts=(EQUAL * 2,) * STEPS),
}
FOUR = [Case(engine, parts=(((2, 3, 4, 5),), ((3, 3, 3, 3),), ((3, 3, 3, 1),))) for engine in ("ddp inside", "hsdp")]


def cases(table: dict[str, Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", table.values(), ids=table)


def check(case: Case, results: list[dict[str, Any]], bound: float = 1e-5) -> None:
    """Every gradient of every step, on every rank."""
    wanted = expected(case)
    for result in results:
        assert result["warnings"] == []
        for found, step in zip(result["steps"], wanted, strict=True):
            assert found.keys() == step.keys()
            for name, gradient in step.items():
                assert error(found[name], gradient) <= bound, name


@works("processes")
@pytest.mark.parametrize("case", ENGINES, ids=lambda case: case.engine)
def test_every_engine(two: Processes, case: Case) -> None:
    results = two.run(train, case)
    check(case, results)
    for result in results:
        assert [match.weight.endswith("weight") and match.form for match in result["matches"]] == ["primal"]
        assert result["graphs"] >= 1 + (case.engine in ("ddp split", "fsdp stem"))


@works("processes")
@codegen
@pytest.mark.parametrize("engine", ["ddp inside", "fsdp root"])
def test_with_generated_code(two: Processes, engine: str) -> None:
    case = Case(engine, inner="inductor")
    check(case, two.run(train, case, seconds=300))


@works("processes")
@cases(LAYERS)
def test_every_layer(two: Processes, case: Case) -> None:
    check(case, two.run(train, case))


@works("processes")
@cases(BATCHES)
def test_batches_of_different_sizes(two: Processes, case: Case) -> None:
    """The covariance is that of all rows; how the gradients of the parts are averaged is the engine's."""
    results = two.run(train, case)
    check(case, results)
    if case.dynamic:
        assert [result["graphs"] for result in results] == [1, 1]


@works("processes")
@cases(ACCUMULATION)
def test_accumulation_without_synchronisation(two: Processes, case: Case) -> None:
    """``no_sync`` keeps gradients apart, not covariances: each micro-batch has that of all its rows on all ranks."""
    check(case, two.run(train, case))


@works("processes")
@pytest.mark.parametrize("case", FOUR, ids=lambda case: case.engine)
def test_four_processes(four: Processes, case: Case) -> None:
    check(case, four.run(train, case))


@works("processes")
@pytest.mark.parametrize("given", ["world", "by name"])
def test_a_group_and_the_backend_s_name(two: Processes, given: str) -> None:
    case = Case("ddp outside")
    check(case, two.run(train, case, given))


@works("processes")
def test_under_autocast(two: Processes) -> None:
    """No worse than twice the error that the plain gradient of the same weight has."""
    case = Case("ddp inside", parts=(EQUAL,), autocast=True)
    results = two.run(train, case)
    single = dataclasses.replace(case, autocast=False)
    (wanted,) = expected(single)
    plain = plain_gradients(single)
    rounded = plain_gradients(case)
    bound = 2 * error(rounded["stem.weight"], plain["stem.weight"])
    for result in results:
        found = result["steps"][0]["stem.weight"]
        assert found.dtype == torch.float32
        assert error(found, wanted["stem.weight"]) <= bound


def plain_gradients(case: Case) -> dict[str, torch.Tensor]:
    """Of one process with the whole batch, eagerly."""
    from tests.distributed.training import mean_loss

    model = case.make()
    whole = torch.cat(case.batch(0, 0))
    with torch.autocast("cpu", torch.bfloat16, enabled=case.autocast):
        output = model(whole)
    mean_loss(output.float()).backward()
    return {name: item.grad for name, item in model.named_parameters()}


def test_without_the_argument_each_process_has_a_covariance_of_its_own(two: Processes) -> None:
    """And the result is another: the tests above can fail. One warning says so, however many graphs there are."""
    case = Case("ddp inside", parts=(EQUAL, EQUAL, ((4, 2),)))
    results = two.run(train, case, None)
    (wanted, *_) = expected(case)
    for result in results:
        assert error(result["steps"][0]["stem.weight"], wanted["stem.weight"]) > 1e-2
        assert error(result["steps"][0]["head.weight"], wanted["head.weight"]) < 1e-5
        assert result["matches"]
        (message,) = result["warnings"]
        assert "There are 2 processes, and each uses the covariance of its own part" in message
        assert 'process_group="ddp"' in message


def test_a_first_layer_that_is_a_unit_of_its_own(two: Processes) -> None:
    """No process compiles it, and none waits for another; it trains plain, and each says so."""
    case = Case("fsdp stem", "conv")
    for result in two.run(train, case):
        (message,) = result["warnings"]
        assert "TrAct is not applied" in message
        assert "stem.weight" in message
        assert result["matches"] == ()
