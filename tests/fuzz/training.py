"""A case trained: compiled with a backend, or eagerly by the oracle."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import linecache
import sys
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.support.layouts import laid_out
from tests.support.parts import tract_warnings

from .network import Case
from .oracle import Oracle, convolve
from .recipe import Input

__all__ = ["Run", "train", "train_by_oracle"]

_numbers = itertools.count()


@dataclasses.dataclass
class Run:
    """What the steps of one training leave behind: one dictionary of tensors for each step."""

    steps: list[dict[str, Tensor | None]]
    matches: list[str] = dataclasses.field(default_factory=list)
    warned: list[str] = dataclasses.field(default_factory=list)
    failure: Exception | None = None


def train(case: Case, seed: int, backend: Any) -> Run:
    """All steps, compiled with a backend."""
    torch._dynamo.reset()
    model = _model(case, seed)
    run = _run(case, seed, model, _compiled(case, model, backend), backend)
    run.matches = [match.weight for match in getattr(backend, "matches", ())]
    return run


def train_by_oracle(case: Case, seed: int, exact: bool = True, with_lam: bool = True) -> Run:
    """All steps by the oracle, eagerly, in float64 or (not ``exact``) in the network's own precision."""
    oracle = Oracle(case.lams[0] if with_lam else None, rounded=not exact)
    names = {"first": oracle.first, "convolve": convolve, "checkpoint": _call, "AUTOCAST": not exact}
    dtype = "float64" if exact else case.dtype
    twin = _module(case.oracle_text, dtype, exact, names).Model().to(getattr(torch, dtype))
    twin.load_state_dict(copy.deepcopy(_model(case, seed).state_dict()))
    run = _run(case, seed, twin, twin, oracle, exact)
    if run.failure is not None:
        raise run.failure
    return run


def _run(case: Case, seed: int, model: nn.Module, call: Callable[..., Any], holder: Any, exact: bool = False) -> Run:
    """All steps; ``holder`` is what ``lam`` is set on between them."""
    run = Run([])
    with tract_warnings() as run.warned, torch.random.fork_rng(devices=[]):
        try:
            for step, (batch, lam) in enumerate(zip(case.batches, case.lams, strict=True)):
                if step and getattr(holder, "lam", None) is not None:
                    holder.lam = lam
                if not case.accumulate:
                    model.zero_grad()
                run.steps.append(_step(case, model, call, _arguments(case, seed, step, batch, exact)))
        except Exception as failure:
            run.failure = failure
    return run


def _step(
    case: Case, model: nn.Module, call: Callable[..., Any], arguments: dict[str, Tensor]
) -> dict[str, Tensor | None]:
    outputs = call(*arguments.values())
    loss = outputs[0] if case.loss_inside else model.loss(*outputs)
    if loss.requires_grad:
        loss.backward()
    values = {name: _copy(parameter.grad) for name, parameter in model.named_parameters()}
    values |= {f"gradient of input {name}": _copy(item.grad) for name, item in arguments.items() if item.requires_grad}
    values |= {f"output {index}": output.detach().clone() for index, output in enumerate(outputs)}
    return values | {"loss": loss.detach().clone()}


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()


def _compiled(case: Case, model: nn.Module, backend: Any) -> Callable[..., Any]:
    if case.form == "compile":
        model.compile(backend=backend, dynamic=case.dynamic)
        return model
    if case.form == "module":
        return torch.compile(model, backend=backend, dynamic=case.dynamic)

    def function(*arguments: Tensor) -> Any:
        return model(*arguments)

    return torch.compile(function, backend=backend, dynamic=case.dynamic)


def _model(case: Case, seed: int) -> nn.Module:
    """The network with the parameters of its seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _module(case.text, case.dtype, False, {"checkpoint": checkpoint, "AUTOCAST": True}).Model()
    return model.to(getattr(torch, case.dtype))


def _call(function: Callable[..., Any], *arguments: Any, use_reentrant: bool) -> Any:
    return function(*arguments)


def _module(text: str, dtype: str, exact: bool, names: dict[str, Any]) -> types.ModuleType:
    """The text as a Python module, where Dynamo and tracebacks find it."""
    name = f"fuzzed_network_{next(_numbers)}"
    module = types.ModuleType(name)
    wide = "float64" if dtype == "float64" else "float32"
    low = "float64" if exact else "bfloat16"
    constants = {"DTYPE": getattr(torch, dtype), "WIDE": getattr(torch, wide), "LOW": getattr(torch, low)}
    module.__dict__.update({"torch": torch, "nn": nn, "F": nn.functional, **constants, **names})
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    sys.modules[name] = module
    exec(compile(text, name, "exec"), module.__dict__)
    return module


def _arguments(case: Case, seed: int, step: int, batch: int, exact: bool) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1000 * seed + step)
    made = {item.name: _argument(item, batch, case.dtype, generator) for item in case.net.inputs}
    for item in case.net.inputs:
        if exact and made[item.name].is_floating_point():
            made[item.name] = made[item.name].double()
        made[item.name].requires_grad_(item.requires_grad)
    return made


def _argument(item: Input, batch: int, dtype: str, generator: torch.Generator) -> Tensor:
    shape = (batch, *item.shape[1:]) if item.batched else item.shape
    if item.kind == "index":
        return torch.randint(0, 9, shape, generator=generator)
    if item.kind == "pixels":
        x = torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
    else:
        x = torch.randn(shape, generator=generator).to(getattr(torch, dtype))
    return laid_out(x, item.layout)
