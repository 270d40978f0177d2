"""Promise 2 over generated geometries: on the joint graph for many, through Inductor's generated code for some."""

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from support.generated import examples
from support.layouts import LAYOUTS, laid_out
from support.marks import codegen
from support.oracle import error, tract_gradients
from support.training import gradients
from support.works import works
from tract_fx import tract_backend

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
LAM = 0.1
ON_THE_GRAPH = examples(40, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
# Each example is compiled to code, which takes seconds: few, and no time spent on making a failing one smaller.
THROUGH_INDUCTOR = settings(
    max_examples=2, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, torch.Tensor]:
    dims = draw(st.integers(1, 3))
    per_dim = [
        (draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(0, 2)), draw(st.integers(1, 2)))
        for _ in range(dims)
    ]
    kernel, stride, padding, dilation = zip(*per_dim, strict=True)
    groups = draw(st.integers(1, 3))
    channels, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    layer = CONVOLUTIONS[dims](channels, outputs, kernel, stride, padding, dilation, groups, bias=draw(st.booleans()))
    sizes = [d * (k - 1) + 1 + draw(st.integers(0, 4)) for k, d in zip(kernel, dilation, strict=True)]
    x = torch.randn(draw(st.integers(1, 4)), channels, *sizes)
    return layer, laid_out(x, draw(st.sampled_from(LAYOUTS)))


@st.composite
def linears(draw: st.DrawFn) -> tuple[nn.Module, torch.Tensor]:
    features = draw(st.integers(1, 24))
    leading = draw(st.lists(st.integers(1, 7), min_size=0, max_size=3))
    layer = nn.Linear(features, draw(st.integers(1, 5)), bias=draw(st.booleans()))
    x = torch.randn(*leading, features)
    return layer, laid_out(x, draw(st.sampled_from(LAYOUTS))) if leading else x


def check(layer: nn.Module, x: torch.Tensor, inner: str) -> None:
    model, backend = nn.Sequential(layer, nn.Tanh()), tract_backend(LAM, inner=inner)
    found = gradients(model, [x], backend)["0.weight"]
    assert [match.layer for match in backend.matches] == ["0"]
    assert error(found, tract_gradients(model, [x], ["0"], LAM)["0"]) <= 1e-5


@works("convolutions")
@ON_THE_GRAPH
@given(convolutions())
def test_convolutions(case: tuple[nn.Module, torch.Tensor]) -> None:
    check(*case, inner="aot_eager")


@works("products")
@ON_THE_GRAPH
@given(linears())
def test_linear_layers(case: tuple[nn.Module, torch.Tensor]) -> None:
    check(*case, inner="aot_eager")


@works("convolutions")
@codegen
@THROUGH_INDUCTOR
@given(convolutions())
def test_convolutions_through_generated_code(case: tuple[nn.Module, torch.Tensor]) -> None:
    check(*case, inner="inductor")


@works("products")
@codegen
@THROUGH_INDUCTOR
@given(linears())
def test_linear_layers_through_generated_code(case: tuple[nn.Module, torch.Tensor]) -> None:
    check(*case, inner="inductor")
