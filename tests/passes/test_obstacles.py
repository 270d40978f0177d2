"""Every reason for which a layer is not rewritten, and the way out that comes with it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor

from support.graphs import joint_graph
from support.works import works
from tract_fx.compile.remedies import advice
from tract_fx.passes.calls import Call, Kind
from tract_fx.passes.first_layer import find
from tract_fx.passes.joint_graph import JointGraph
from tract_fx.passes.obstacles import obstacle
from tract_fx.records import RejectionKind

pytestmark = works("errors")
both = pytest.mark.parametrize("inductor", [True, False], ids=["inductor", "aot_eager"])


class Net(nn.Module):
    """A layer given as a function of the input and a weight."""

    def __init__(self, layer: Callable[..., Tensor], *weight: int, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.layer = layer
        self.weight = nn.Parameter(torch.randn(weight, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x, self.weight))


class Product(torch.autograd.Function):
    """A matrix product with a backward pass of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return gradient @ weight, gradient.T @ x


class Convolution(torch.autograd.Function):
    """A convolution with a backward pass of its own, that calls the operator which autograd would call."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.conv2d(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        x, weight = ctx.saved_tensors
        geometry = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)
        mask = [ctx.needs_input_grad[0], True, False]
        of_input, of_weight, _ = torch.ops.aten.convolution_backward(gradient, x, weight, None, *geometry, mask)
        return of_input, of_weight.sign()


class IntegerProduct(Product):
    """The same with rounded factors."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch._int_mm((16 * x).to(torch.int8), (16 * weight).to(torch.int8).T) / 256.0


class Float8Product(Product):
    """The same in float8."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        one = torch.ones((), device=x.device)
        factors = x.to(torch.float8_e4m3fn), weight.to(torch.float8_e4m3fn).T
        return torch._scaled_mm(*factors, one, one, out_dtype=torch.float32)


def bilinear() -> nn.Module:
    layer = nn.Bilinear(6, 6, 4)
    return Net(lambda x, w: nn.functional.bilinear(x, x, w, layer.bias), 4, 6, 6)


def subclass() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh())
    model[0].weight = nn.Parameter(TwoTensor(torch.randn(4, 6), torch.randn(4, 6)))
    return model


complex_ = torch.complex64
IMAGE, ROWS, EIGHT = torch.randn(2, 3, 5, 5), torch.randn(9, 6), torch.randn(32, 16)
JAGGED = torch.nested.nested_tensor([torch.randn(3, 6), torch.randn(5, 6)], layout=torch.jagged)
REFUSED = {
    "complex linear": (
        lambda: Net(lambda x, w: nn.functional.linear(x, w).abs(), 4, 6, dtype=complex_), ROWS.to(complex_), "complex",
    ),
    "complex convolution": (
        lambda: Net(lambda x, w: nn.functional.conv2d(x, w).abs(), 4, 3, 3, 3, dtype=complex_),
        IMAGE.to(complex_), "complex",
    ),
    "complex input": (
        lambda: Net(lambda x, w: (x @ torch.complex(w, w).T).abs(), 4, 6), ROWS.to(complex_), "dtype torch.complex64",
    ),
    "hand-written": (lambda: Net(lambda x, w: Product.apply(x, w), 4, 6), ROWS, "hand-written"),
    "hand-written convolution": (lambda: Net(lambda x, w: Convolution.apply(x, w), 4, 3, 3, 3), IMAGE, "hand-written"),
    "integers": (lambda: Net(lambda x, w: IntegerProduct.apply(x, w), 16, 16), EIGHT, "product of integers"),
    "float8": (lambda: Net(lambda x, w: Float8Product.apply(x, w), 16, 16), EIGHT, "float8"),
    "bilinear": (bilinear, ROWS, "products of its inputs"),
    "jagged": (lambda: Net(lambda x, w: nn.functional.linear(x, w).values(), 4, 6), JAGGED, "jagged tensor"),
    "subclass": (subclass, ROWS, "tensor subclass"),
}  # fmt: skip


@both
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_rewritten_has_a_reason_and_a_way_out(name: str, inductor: bool) -> None:
    make, x, reason = REFUSED[name]
    findings = find(joint_graph(make(), x, inductor=inductor))
    assert findings.matches == ()
    assert {rejection.kind for rejection in findings.rejections} == {RejectionKind.UNSUPPORTED}
    assert reason in findings.rejections[0].reason
    assert "on_unsupported" in advice(findings.rejections[0].remedy)
    assert any("weight" in weight for weight in findings.rejections[0].weights)


@both
def test_one_weight_in_products_that_are_added_up(inductor: bool) -> None:
    """Its rows are sums of inputs, which are nowhere in the graph."""
    refused = Net(lambda x, w: torch.addbmm(torch.zeros(5, 4), x, w.expand(3, 6, 4)), 6, 4)
    (rejection,) = find(joint_graph(refused, torch.randn(3, 5, 6), inductor=inductor)).rejections
    assert "products with one weight are added up" in rejection.reason
    assert rejection.kind is RejectionKind.UNSUPPORTED


def test_a_kernel_whose_size_depends_on_the_data() -> None:
    def flexible(x: Tensor, weight: Tensor) -> Tensor:
        size = x.shape[-1] // 4
        weight = nn.functional.interpolate(weight, size=(size, size), mode="bilinear")
        return nn.functional.conv2d(x, weight, stride=size)

    model = Net(flexible, 4, 3, 8, 8)
    (rejection,) = find(joint_graph(model, torch.randn(2, 3, 20, 20), dynamic=True)).rejections
    assert (rejection.kind, rejection.reason) == (RejectionKind.UNSUPPORTED, "its kernel size or stride is dynamic")
    assert "dynamic=False" in advice(rejection.remedy)
    (match,) = find(joint_graph(model, torch.randn(2, 3, 20, 20), dynamic=False)).matches
    assert match.features == 3 * 5 * 5


def test_a_device_without_float64() -> None:
    graph = torch.fx.Graph()
    x, weight = graph.placeholder("x"), graph.placeholder("weight")
    with FakeTensorMode():
        x.meta["val"] = torch.empty(9, 6, device="mps")
    found = obstacle(JointGraph(graph, ()), Call(Kind.PRODUCT, "mm", x, weight, weight, (weight,)), ())
    assert "mps" in found.reason


def test_a_layer_that_is_refused_only_under_its_own_name() -> None:
    """``layers`` puts names in the place of the rule: what is not named is not judged."""
    model = nn.Sequential(bilinear(), nn.Linear(4, 2))
    assert [item.op for item in find(joint_graph(model, ROWS), ("0.weight",)).rejections] == ["_trilinear"]
    findings = find(joint_graph(model, ROWS), ("1",))
    assert (len(findings.matches), findings.rejections) == (1, ())


def test_a_weight_that_trains_only_through_another_use_is_not_called_hand_written() -> None:
    model = Net(lambda x, w: x @ w.detach().T + w.square().sum(), 4, 6)
    findings = find(joint_graph(model, ROWS))
    assert findings.matches == ()
    assert [item.kind for item in findings.rejections] == [RejectionKind.NO_GRADIENT, RejectionKind.NO_FIRST_LAYER]
