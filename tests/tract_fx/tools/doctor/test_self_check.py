"""The self-check sees what is wrong."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tract_fx.tools.doctor import self_check as module
from tract_fx.tools.doctor.self_check import SelfCheck, self_check


def test_a_step_is_right_here() -> None:
    state = torch.get_rng_state()
    found = self_check("aot_eager")
    assert found.is_right
    assert 0 < max(found.first, found.others) < 1e-5
    assert torch.equal(torch.get_rng_state(), state)


class Wrapped:
    """A backend that does something else with its gradients."""

    def __init__(self, backend: Any, change: Callable[[torch.fx.GraphModule], None]) -> None:
        self.backend, self.change = backend, change
        self.__name__ = "wrapped"

    @property
    def matches(self) -> Any:
        return self.backend.matches

    def __call__(self, gm: torch.fx.GraphModule, inputs: Any) -> Any:
        self.change(gm)
        return self.backend(gm, inputs)


def double_the_output(gm: torch.fx.GraphModule) -> None:
    """Every gradient becomes twice what it was, without a change to what is rewritten."""
    (output,) = gm.graph.find_nodes(op="output")
    (value,) = output.all_input_nodes
    with gm.graph.inserting_before(output):
        output.replace_input_with(value, gm.graph.call_function(torch.mul, (value, 2)))
    gm.recompile()


def test_gradients_that_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    original = module.tract_backend
    monkeypatch.setattr(
        module, "tract_backend", lambda *args, **kwargs: Wrapped(original(*args, **kwargs), double_the_output)
    )
    found = self_check("aot_eager")
    assert not found.is_right
    assert found.first == pytest.approx(1, abs=1e-4)
    assert found.others == pytest.approx(1, abs=1e-4)


def test_a_first_layer_with_another_lam(monkeypatch: pytest.MonkeyPatch) -> None:
    original = module.tract_backend
    monkeypatch.setattr(module, "tract_backend", lambda lam, **kwargs: original(1.01 * lam, **kwargs))
    found = self_check("aot_eager")
    assert not found.is_right
    assert found.first > 1e-5 > found.others


def test_another_layer_than_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    original = module.tract_backend
    monkeypatch.setattr(module, "tract_backend", lambda lam, **kwargs: original(lam, layers=["head"], **kwargs))
    found = self_check("aot_eager")
    assert not found.is_right
    assert "head.weight instead of stem.weight" in str(found)


def test_a_nan_is_not_right() -> None:
    fine = SelfCheck(1e-7, 1e-7, ("stem.weight",), 1.0)
    assert fine.is_right
    for changed in ({"first": math.nan}, {"others": math.nan}, {"rewritten": ()}):
        assert not dataclasses.replace(fine, **changed).is_right
