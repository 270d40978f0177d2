"""Which processes share a covariance: options, what they stand for, and the keys of the caches."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch._dynamo.utils import counters
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from support.marks import codegen
from support.oracle import squared
from support.works import works
from tests.distributed.training import LAM
from tract_fx import OptionError, TractOptions, tract_backend
from tract_fx.distributed.agreement import Group
from tract_fx.distributed.groups import sharing_groups


@contextlib.contextmanager
def simulated(size: int) -> Iterator[distributed.ProcessGroup]:
    """A group whose other ranks do not exist."""
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=size)
    try:
        yield distributed.group.WORLD
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("value", [3, "", ["ddp"], object()])
def test_what_is_no_process_group(value: object) -> None:
    with pytest.raises(OptionError, match=r"process_group=.* is not allowed.*ProcessGroup, \"ddp\""):
        tract_backend(process_group=value)


def test_a_group_is_kept_by_its_name() -> None:
    with simulated(2) as world:
        options = TractOptions(process_group=world)
        assert options == TractOptions(process_group=world.group_name)
        backend = pickle.loads(pickle.dumps(tract_backend(process_group=world)))
        assert sharing_groups(backend.options.process_group) == (Group(world.group_name, 2),)


def test_the_backend_by_name_takes_it_too() -> None:
    assert TractOptions.from_compile_arguments(None, {"process_group": "ddp"}).process_group == "ddp"


@pytest.mark.parametrize("given", ["ddp", "no such group"])
def test_one_process_has_nobody_to_share_with(given: str) -> None:
    """So a script runs with one process as it does with many."""
    assert sharing_groups(given) == ()
    with simulated(1):
        assert sharing_groups(given) == ()


def compiled(**arguments: Any) -> Any:
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh())
    squared(torch.compile(model, backend=tract_backend(LAM, **arguments))(torch.randn(9, 6))).backward()


def test_a_model_that_no_engine_runs() -> None:
    with simulated(2), pytest.raises(Exception, match="neither inside DistributedDataParallel nor sharded by FSDP2"):
        compiled(inner="aot_eager", process_group="ddp")


def test_a_name_that_nothing_has() -> None:
    with simulated(2), pytest.raises(Exception, match="process_group='dpp' does not name a process group"):
        compiled(inner="aot_eager", process_group="dpp")


def test_the_engine_s_own_group_is_taken() -> None:
    with simulated(4):
        pair = distributed.new_group([0, 1])

        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.stem = nn.Linear(6, 4)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                found.append(sharing_groups("ddp"))
                return self.stem(x)

        found: list[tuple[Group, ...]] = []
        DistributedDataParallel(Net(), process_group=pair)(torch.randn(9, 6))
        assert found == [(Group(pair.group_name, 2),)]


@works("processes")
@codegen
def test_group_and_size_are_part_of_the_key() -> None:
    def events(size: int, ranks: list[int] | None = None) -> list[int]:
        torch._dynamo.reset()
        counters.clear()
        with simulated(size) as world:
            compiled(process_group=world if ranks is None else distributed.new_group(ranks))
        return [counters["aot_autograd"][f"autograd_cache_{event}"] for event in ("hit", "miss", "bypass")]

    assert events(2) == [0, 1, 0]
    assert events(2) == [1, 0, 0]
    assert events(3) == [0, 1, 0]
    assert events(3, [0, 1]) == [0, 1, 0]
    assert events(3) == [1, 0, 0]


def test_features_that_are_too_many_to_share() -> None:
    message = r"5000 x 5000, 191 MiB.*too large. Leave process_group out"
    with simulated(2) as world:
        model = torch.compile(nn.Linear(5000, 2).forward, backend=tract_backend(inner="aot_eager", process_group=world))
        with pytest.raises(Exception, match=message):
            model(torch.randn(9, 5000))
