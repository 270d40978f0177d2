"""One case: trained with the pass, with a plain compile and by the oracle; and what the three must have in common."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import linecache
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tract_fx import TractWarning, UnsupportedLayerError, tract_backend

from .network import Case, make_case
from .oracle import Oracle, convolve, error
from .recipe import Input

__all__ = ["FuzzError", "check_seed"]

TOLERANCE = {"float32": 1e-5, "float64": 1e-11}
_numbers = itertools.count()


class FuzzError(AssertionError):
    """A promise that a network of the fuzz breaks; its text has the network and how to replay it."""


@dataclasses.dataclass
class Run:
    """What the steps of one training leave behind: one dictionary of tensors for each step."""

    steps: list[dict[str, Tensor | None]]
    matches: list[str] = dataclasses.field(default_factory=list)
    warned: list[str] = dataclasses.field(default_factory=list)
    failure: Exception | None = None


def check_seed(seed: int, inner: str = "aot_eager") -> int:
    """Build the network of a seed and check it.

    Returns:
        How many of its gradients are right only when it is taken into account that the solve magnifies rounding.

    Raises:
        FuzzError: naming everything that is not as it must be.
    """
    case = make_case(seed)
    try:
        problems, lenient = _problems(case, seed, inner)
    except Exception as failure:
        problems = [f"{type(failure).__name__}: {failure}"]
        raise FuzzError(_report(case, seed, inner, problems)) from failure
    if problems:
        raise FuzzError(_report(case, seed, inner, problems))
    return lenient


def _report(case: Case, seed: int, inner: str, problems: list[str]) -> str:
    found = "\n".join(f"- {problem}" for problem in problems)
    return f"seed {seed}: replay with: python -m tests.fuzz --seed {seed} --inner {inner}\n{found}\n\n{case}"


def _problems(case: Case, seed: int, inner: str) -> tuple[list[str], int]:
    backend = tract_backend(case.lams[0], inner=inner)
    tract = _train(case, seed, backend)
    if case.net.unsupported:
        return _expect_refusal(tract), 0
    if tract.failure is not None:
        raise tract.failure
    plain = _train(case, seed, inner)
    if plain.failure is not None:
        raise plain.failure
    expected = _Expected(case, seed)
    problems = _compare_matches(case, tract) + _compare_values(case, tract, plain, expected)
    return problems, expected.needed_conditioning


def _expect_refusal(tract: Run) -> list[str]:
    causes, failure = [], tract.failure
    while failure is not None:
        causes.append(failure)
        failure = failure.__cause__ or failure.__context__
    if any(isinstance(cause, UnsupportedLayerError) or "TrAct cannot be applied to" in str(cause) for cause in causes):
        return []
    return [f"a layer that cannot be rewritten raises no UnsupportedLayerError, but {tract.failure!r}"]


def _compare_matches(case: Case, tract: Run) -> list[str]:
    wanted = sorted(call.weight for call in case.net.calls_with_gradient())
    found = sorted(tract.matches)
    problems = []
    # Other batch sizes are other graphs, with the same matches again.
    if (found != wanted) if len(case.batches) == 1 else (set(found) != set(wanted)):
        problems.append(f"backend.matches are {found}, first layers are {wanted}")
    warned = case.net.warned_segments()
    if bool(warned) != bool(tract.warned):
        problems.append(f"graphs without a first layer are {warned}, warnings are {tract.warned}")
    return problems


class _Expected:
    """What the oracle says of one case, and how far from it a right implementation may be."""

    def __init__(self, case: Case, seed: int) -> None:
        self._case, self._seed = case, seed
        self.gradients = _oracle(case, seed)
        self.needed_conditioning = 0

    @functools.cached_property
    def plain(self) -> Run:
        """The plain gradients in float64."""
        return _oracle(self._case, self._seed, with_lam=False)

    @functools.cached_property
    def from_rounded(self) -> Run:
        """The closed form applied to the plain gradient that the network itself computes, without a compiler."""
        return _oracle(self._case, self._seed, exact=False)

    def allowed(self, step: int, name: str, plain: Tensor | None) -> float:
        """The largest error that keeps the promise."""
        if not self._case.reduced:
            return TOLERANCE[self._case.dtype]
        return 2 * error(plain, self.plain.steps[step][name])

    def allowed_by_conditioning(self, step: int, name: str) -> float:
        """The largest error that the rounding of rows and plain gradient explains.

        The system that is solved magnifies it, most where rows are few or alike. It is the error that the closed form has
        when it is applied in float64 to the network's own plain gradient.
        """
        self.needed_conditioning += 1
        return 2 * error(self.from_rounded.steps[step][name], self.gradients.steps[step][name])


def _compare_values(case: Case, tract: Run, plain: Run, expected: _Expected) -> list[str]:
    affected = frozenset().union(*(call.parameters for call in case.net.calls_with_gradient()))
    problems = []
    for step, values in enumerate(tract.steps):
        for name, found in values.items():
            other = plain.steps[step][name]
            if name not in affected:
                if not _same(found, other):
                    problems.append(f"step {step}: {name} differs from that of the plain compile")
            elif (found is None) != (other is None):
                problems.append(f"step {step}: gradient of {name} is {found}, and {other} in the plain compile")
            else:
                problems += _compare_gradient(step, name, found, other, expected)
    return problems


def _compare_gradient(
    step: int, name: str, found: Tensor | None, plain: Tensor | None, expected: _Expected
) -> list[str]:
    wanted = expected.gradients.steps[step][name]
    size, allowed = error(found, wanted), expected.allowed(step, name, plain)
    if size <= allowed or size <= (allowed := max(allowed, expected.allowed_by_conditioning(step, name))):
        return []
    return [
        f"step {step}: gradient of {name}: error {size:.2e}, allowed {allowed:.2e}; "
        f"the plain gradient differs by {error(plain, wanted):.2e}"
    ]


def _same(left: Tensor | None, right: Tensor | None) -> bool:
    if left is None or right is None:
        return left is right
    return torch.equal(left, right) or bool(left.isnan().any() and right.isnan().any())


# -- training -----------------------------------------------------------------------------------------------------------


def _train(case: Case, seed: int, backend: Any) -> Run:
    """All steps, compiled with a backend."""
    torch._dynamo.reset()
    model = _model(case, seed)
    run = _run(case, seed, model, _compiled(case, model, backend), backend)
    run.matches = [match.weight for match in getattr(backend, "matches", ())]
    return run


def _oracle(case: Case, seed: int, exact: bool = True, with_lam: bool = True) -> Run:
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
    with warnings.catch_warnings(record=True) as caught, torch.random.fork_rng(devices=[]):
        warnings.simplefilter("always")
        try:
            for step, (batch, lam) in enumerate(zip(case.batches, case.lams, strict=True)):
                if step and getattr(holder, "lam", None) is not None:
                    holder.lam = lam
                if not case.accumulate:
                    model.zero_grad()
                run.steps.append(_step(case, model, call, _arguments(case, seed, step, batch, exact)))
        except Exception as failure:
            run.failure = failure
    run.warned = [str(item.message) for item in caught if issubclass(item.category, TractWarning)]
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
    return _laid_out(x, item.layout)


def _laid_out(x: Tensor, layout: str) -> Tensor:
    """``x`` with the same values and other strides."""
    if layout == "channels last" and x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        return torch.stack([x, x], dim=-1)[..., 0]
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    return x
