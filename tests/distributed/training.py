"""The same training in many processes, and in one process in float64 with the whole batch."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from support.oracle import squared, tract_gradients
from support.parts import Part, tract_warnings
from tests.distributed.processes import process_group
from tract_fx import tract_backend

LAM, RATE, STEPS = 0.1, 0.01, 3


class Net(nn.Module):
    """A first layer and a head, called from a forward of its own."""

    def __init__(self, stem: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.stem, self.head = stem, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.stem(x)).flatten(1))


class Unused(Net):
    """Has a parameter that no loss depends on."""

    def __init__(self, stem: nn.Module, head: nn.Module) -> None:
        super().__init__(stem, head)
        self.unused = nn.Linear(2, 2)


class TwoStems(nn.Module):
    """Two first layers on the same data."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.other, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 2, 3), nn.Linear(6 * 42, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(torch.cat([self.stem(x), self.other(x)], 1)).flatten(1))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "conv": (lambda: Net(nn.Conv2d(3, 4, 3), nn.Linear(4 * 42, 3)), (3, 9, 8), "stem"),
    "grouped": (lambda: Net(nn.Conv2d(4, 6, 3, stride=2, groups=2), nn.Linear(6 * 12, 3)), (4, 9, 8), "stem"),
    # Four rows a process and six features: one process alone would take the dual form.
    "linear": (lambda: Net(nn.Linear(6, 4), nn.Linear(4, 3)), (6,), "stem"),
    "stem": (lambda: Net(Part(nn.Conv2d(3, 4, 3)), nn.Linear(4 * 42, 3)), (3, 9, 8), "stem.layer"),
    "transposed": (lambda: Net(nn.ConvTranspose2d(4, 3, 3, 2, 1), nn.Linear(3 * 63, 3)), (4, 4, 5), "stem"),
    "two stems": (TwoStems, (3, 9, 8), "stem"),
    "unused": (lambda: Unused(nn.Conv2d(3, 4, 3), nn.Linear(4 * 42, 3)), (3, 9, 8), "stem"),
    "wide": (lambda: Net(nn.Conv2d(3, 8, 3), nn.Sequential(nn.Linear(8 * 42, 800), nn.Linear(800, 3))), (3, 9, 8), "stem"),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """One training.

    Attributes:
        engine: key of :data:`ENGINES`.
        model: key of :data:`MODELS`.
        parts: for each step, for each micro-batch, the number of samples of each rank.
        inner: of the backend.
        dtype: of parameters and data.
        autocast: to bfloat16.
        dynamic: for ``torch.compile``.
        lam: of the backend.
        relative: of the backend.
    """

    engine: str
    model: str = "conv"
    parts: tuple[tuple[tuple[int, ...], ...], ...] = (((4, 4),),) * STEPS
    inner: str = "aot_eager"
    dtype: torch.dtype = torch.float32
    autocast: bool = False
    dynamic: bool | None = None
    lam: float = LAM
    relative: bool = False

    @property
    def layers(self) -> list[str]:
        """Names of the first layers."""
        return ["stem", "other"] if self.model == "two stems" else [MODELS[self.model][2]]

    def make(self) -> nn.Module:
        """The model, the same in every process."""
        torch.manual_seed(0)
        return MODELS[self.model][0]().to(self.dtype)

    def batch(self, step: int, micro: int) -> tuple[Tensor, ...]:
        """Data of all ranks. Contrast differs between them, so that their covariances do."""
        generator = torch.Generator().manual_seed(100 * step + micro)
        parts = self.parts[step][micro]
        data = torch.randn(sum(parts), *MODELS[self.model][1], generator=generator, dtype=self.dtype)
        return tuple(part * (1 + rank) for rank, part in enumerate(data.split(parts)))


def mean_loss(output: Tensor) -> Tensor:
    """Over the samples of one process."""
    return squared(output) / len(output)


def expected(case: Case) -> list[dict[str, Tensor]]:
    """Gradients of each step in one process, in float64.

    The engine's loss is the mean over processes of the mean over each one's samples.
    """
    model = case.make().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    found = []
    for step, micros in enumerate(case.parts):
        optimizer.zero_grad()
        total: dict[str, Tensor] = {}
        for micro, parts in enumerate(micros):

            def loss(output: Tensor, parts: tuple[int, ...] = parts) -> Tensor:
                return sum(mean_loss(part) for part in output.split(parts)) / len(parts)

            whole = torch.cat(case.batch(step, micro)).double()
            loss(model(whole)).backward()
            found_now = tract_gradients(model, [whole], case.layers, case.lam, loss, relative=case.relative)
            total = {name: gradient + total.get(name, 0) for name, gradient in found_now.items()}
        for name, gradient in total.items():
            model.get_submodule(name).weight.grad = gradient
        found.append({name: item.grad.clone() for name, item in model.named_parameters() if item.grad is not None})
        optimizer.step()
    return found


@dataclasses.dataclass
class Engine:
    """What an engine makes of a model: what is called, what has the parameters, the optimiser, and how not to average."""

    call: Callable[[Tensor], Tensor]
    module: nn.Module
    optimizer: torch.optim.Optimizer | None = None
    no_sync: Callable[[], Any] = contextlib.nullcontext


def _ddp(model: nn.Module, **arguments: Any) -> DistributedDataParallel:
    return DistributedDataParallel(model, **arguments)


def ddp_outside(model: nn.Module, compiled: Callable[[nn.Module], Any]) -> Engine:
    engine = _ddp(compiled(model))
    return Engine(engine, model, no_sync=engine.no_sync)


def ddp_inside(model: nn.Module, compiled: Callable[[nn.Module], Any]) -> Engine:
    engine = _ddp(model)
    return Engine(compiled(engine), model, no_sync=engine.no_sync)


def ddp_split(model: nn.Module, compiled: Callable[[nn.Module], Any]) -> Engine:
    """DDPOptimizer cuts the graph where the buckets end."""
    engine = _ddp(model, bucket_cap_mb=1)
    return Engine(compiled(engine), model, no_sync=engine.no_sync)


def ddp_unused(model: nn.Module, compiled: Callable[[nn.Module], Any]) -> Engine:
    return Engine(_ddp(compiled(model), find_unused_parameters=True), model)


def ddp_zero(model: nn.Module, compiled: Callable[[nn.Module], Any]) -> Engine:
    optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.SGD, lr=RATE)
    return Engine(_ddp(compiled(model)), model, optimizer)


def fsdp_root(model: nn.Module, compiled: Callable[[nn.Module], Any]) -> Engine:
    fully_shard(model, mesh=_mesh())
    return Engine(compiled(model), model)


def fsdp_stem(model: nn.Module, compiled: Callable[[nn.Module], Any]) -> Engine:
    """FSDP2 wants the layer inside of a module of the user's: of torch.nn's own layer Dynamo skips the frame."""
    fully_shard(model.stem, mesh=_mesh())
    fully_shard(model, mesh=_mesh())
    return Engine(compiled(model), model)


def hsdp(model: nn.Module, compiled: Callable[[nn.Module], Any]) -> Engine:
    """Two replicas of two shards."""
    size = distributed.get_world_size()
    fully_shard(model, mesh=distributed.init_device_mesh("cpu", (size // 2, 2), mesh_dim_names=("replicate", "shard")))
    return Engine(compiled(model), model)


def _mesh() -> Any:
    return distributed.init_device_mesh("cpu", (distributed.get_world_size(),))


ENGINES = {
    "ddp outside": ddp_outside,
    "ddp inside": ddp_inside,
    "ddp split": ddp_split,
    "ddp unused": ddp_unused,
    "ddp zero": ddp_zero,
    "fsdp root": fsdp_root,
    "fsdp stem": fsdp_stem,
    "hsdp": hsdp,
}


def train(rank: int, size: int, port: int, case: Case, given: str | None = "ddp") -> dict[str, Any]:
    """Gradients of each step as the optimiser sees them, what was rewritten, and what was warned about.

    Args:
        rank: of this process.
        size: number of processes.
        port: for their group.
        case: what to train.
        given: as ``process_group``; ``"world"`` for the default group itself, ``"by name"`` for the backend's name.
    """
    with process_group(rank, size, port) as world, tract_warnings() as messages:
        backend = tract_backend(
            case.lam,
            inner=case.inner,
            process_group=world if given == "world" else given and "ddp",
            relative=case.relative,
        )
        named = {"backend": "tract", "options": {"lam": case.lam, "inner": case.inner, "process_group": "ddp"}}
        how = named if given == "by name" else {"backend": backend}
        engine = ENGINES[case.engine](case.make(), lambda module: torch.compile(module, dynamic=case.dynamic, **how))
        optimizer = engine.optimizer or torch.optim.SGD(engine.module.parameters(), lr=RATE)
        steps = []
        for step, micros in enumerate(case.parts):
            optimizer.zero_grad()
            for micro in range(len(micros)):
                last = micro == len(micros) - 1
                with contextlib.nullcontext() if last else engine.no_sync():
                    with torch.autocast("cpu", torch.bfloat16, enabled=case.autocast):
                        output = engine.call(case.batch(step, micro)[rank])
                    mean_loss(output.float() if case.autocast else output).backward()
            steps.append(
                {name: _whole(item.grad) for name, item in engine.module.named_parameters() if item.grad is not None}
            )
            optimizer.step()
    return {"steps": steps, "matches": backend.matches, "graphs": len(backend._records), "warnings": messages}


def _whole(gradient: Tensor) -> Tensor:
    found = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
    return copy.deepcopy(found.detach())
