"""Which layers are first, which are named, and why others are not taken."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import nn

from support.graphs import joint_graph, lam_node
from support.works import works
from tract_fx.passes.first_layer import Findings, Form, find, is_named
from tract_fx.passes.rewrite import apply
from tract_fx.records import RejectionKind

both = pytest.mark.parametrize("inductor", [True, False], ids=["inductor", "aot_eager"])


def network(**layers: nn.Module) -> nn.Sequential:
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model


def image(*shape: int) -> torch.Tensor:
    return torch.randn(shape or (4, 3, 9, 8))


class Call(nn.Module):
    """Parameters and modules, and a function of them and the input."""

    def __init__(self, function: Callable[..., torch.Tensor], **members: object) -> None:
        super().__init__()
        self.function = function
        for name, member in members.items():
            setattr(self, name, member)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(self, *inputs)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


def taken(findings: Findings) -> list[tuple[str, ...]]:
    return [match.weights for match in findings.matches]


@both
def test_the_first_of_several_layers(inductor: bool) -> None:
    model = network(conv1=nn.Conv2d(3, 4, 3), act=nn.ReLU(), conv2=nn.Conv2d(4, 4, 3))
    (match,) = find(joint_graph(model, image(), inductor=inductor)).matches
    assert (match.layer, match.weights) == ("conv1", ("conv1.weight",))
    assert (match.rows, match.features, match.groups, match.form) == (4 * 7 * 6, 27, 1, Form.PRIMAL)


@both
def test_sizes_of_a_grouped_dual_convolution(inductor: bool) -> None:
    model = network(conv=nn.Conv2d(4, 6, 4, stride=4, groups=2))
    (match,) = find(joint_graph(model, image(2, 4, 8, 8), inductor=inductor)).matches
    assert (match.rows, match.features, match.groups, match.form) == (8, 32, 2, Form.DUAL)


@works("stems")
@both
def test_every_layer_that_data_feeds_is_first(inductor: bool) -> None:
    model = Call(
        lambda m, x: m.q(x) * m.k(x) * m.v(x), q=nn.Linear(6, 4), k=nn.Linear(6, 4, bias=False), v=nn.Linear(6, 4)
    )
    findings = find(joint_graph(model, image(2, 5, 6), inductor=inductor))
    assert taken(findings) == [("q.weight",), ("k.weight",), ("v.weight",)]
    gradients = [match.gradient.node for match in findings.matches]
    assert len(set(gradients)) == 3, "each call has a weight gradient of its own, though all share an input"


@works("stems")
@both
def test_two_stems(inductor: bool) -> None:
    model = Call(lambda m, x, y: m.a(x).mean() * m.b(y), a=nn.Conv2d(3, 4, 3), b=nn.Linear(6, 4))
    assert taken(find(joint_graph(model, image(), image(5, 6), inductor=inductor))) == [("a.weight",), ("b.weight",)]


@works("integers")
@both
def test_preprocessing_and_buffers_are_no_layers(inductor: bool) -> None:
    model = Call(lambda m, x: m.conv((x.float() / 255 - m.mean) / m.std), conv=nn.Conv2d(3, 4, 3))
    model.register_buffer("mean", torch.zeros(3, 1, 1))
    model.register_buffer("std", torch.ones(3, 1, 1))
    x = torch.randint(0, 256, (4, 3, 9, 8), dtype=torch.uint8)
    assert taken(find(joint_graph(model, x, inductor=inductor))) == [("conv.weight",)]


@both
def test_a_frozen_first_layer_makes_the_second_one_first(inductor: bool) -> None:
    model = network(conv1=nn.Conv2d(3, 4, 3).requires_grad_(False), act=nn.ReLU(), conv2=nn.Conv2d(4, 4, 3))
    assert taken(find(joint_graph(model, image(), inductor=inductor))) == [("conv2.weight",)]


@both
def test_an_input_that_requires_grad_is_data(inductor: bool) -> None:
    model = network(conv1=nn.Conv2d(3, 4, 3), conv2=nn.Conv2d(4, 4, 3))
    x = image().requires_grad_()
    assert taken(find(joint_graph(model, x, inductor=inductor))) == [("conv1.weight",)]


@both
def test_weights_that_are_computed_from_parameters(inductor: bool) -> None:
    def standardised(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        flat = m.weight - m.weight.mean((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x, flat / flat.std((1, 2, 3), keepdim=True) * m.gain)

    model = Call(standardised, weight=weight(4, 3, 3, 3), gain=weight(4, 1, 1, 1))
    (match,) = find(joint_graph(model, image(), inductor=inductor)).matches
    assert match.weights == ("gain", "weight")
    assert match.gradient.node.meta["val"].shape == (4, 3, 3, 3)


@both
def test_weight_norm(inductor: bool) -> None:
    model = network(conv=nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)))
    (match,) = find(joint_graph(model, image(), inductor=inductor)).matches
    assert match.layer == "conv"
    assert len(match.weights) == 2


@works("products")
@both
@pytest.mark.parametrize(
    ("function", "shape", "parameter"),
    [
        (lambda m, x: x @ m.w.t(), (5, 6), (4, 6)),
        (lambda m, x: m.w @ x.t(), (5, 6), (4, 6)),
        (lambda m, x: m.w @ x, (2, 6, 5), (4, 6)),
        (lambda m, x: torch.einsum("btc,oc->bto", x, m.w), (2, 5, 6), (4, 6)),
        (lambda m, x: torch.einsum("bgi,gio->bgo", x, m.w), (9, 2, 6), (2, 6, 4)),
        (lambda m, x: torch.bmm(m.w.expand(2, -1, -1), x), (2, 6, 5), (4, 6)),
        (lambda m, x: torch.baddbmm(torch.zeros(2, 5, 4), x, m.w.expand(2, 6, 4)), (2, 5, 6), (6, 4)),
        (lambda m, x: m.w @ x, (6,), (4, 6)),
        (lambda m, x: x @ m.w, (9, 6), (6,)),
    ],
    ids=["right", "left", "left 3d", "einsum", "einsum groups", "expanded", "baddbmm", "vector", "to vector"],
)
def test_matrix_products_in_every_form(
    inductor: bool, function: Callable[..., torch.Tensor], shape: tuple[int, ...], parameter: tuple[int, ...]
) -> None:
    findings = find(joint_graph(Call(function, w=weight(*parameter)), image(*shape), inductor=inductor))
    assert taken(findings) == [("w",)]
    assert findings.matches[0].features == 6
    assert findings.matches[0].groups == (2 if parameter == (2, 6, 4) else 1)


@both
def test_rows_of_an_expanded_weight_are_those_of_the_whole_batch(inductor: bool) -> None:
    model = Call(lambda m, x: torch.bmm(m.w.expand(2, -1, -1), x), w=weight(4, 6))
    (match,) = find(joint_graph(model, image(2, 6, 5), inductor=inductor)).matches
    assert (match.rows, match.groups, match.shared_batch) == (10, 1, True)


@both
def test_a_product_of_two_weights_is_no_layer(inductor: bool) -> None:
    model = Call(lambda m, x: x @ (m.base + m.a @ m.b), base=weight(6, 4), a=weight(6, 2), b=weight(2, 4))
    (match,) = find(joint_graph(model, image(9, 6), inductor=inductor)).matches
    assert match.weights == ("a", "b", "base")


@both
def test_a_product_of_data_with_a_function_of_data_is_no_layer(inductor: bool) -> None:
    model = Call(lambda m, x: m.fc(x) @ (x @ x.t()).softmax(-1), fc=nn.Linear(6, 9))
    assert taken(find(joint_graph(model, image(9, 6), inductor=inductor))) == [("fc.weight",)]


@works("not first")
@both
def test_constant_inputs_are_reported_and_not_taken(inductor: bool) -> None:
    model = Call(
        lambda m, x: m.fc(x) + m.position(torch.linspace(0, 1, 5)[:, None]),
        fc=nn.Linear(6, 4),
        position=nn.Linear(1, 4),
    )
    findings = find(joint_graph(model, image(5, 6), inductor=inductor))
    assert taken(findings) == [("fc.weight",)]
    assert [(item.kind, item.layer) for item in findings.rejections] == [(RejectionKind.CONSTANT_INPUT, "position")]


@works("not first")
@both
@pytest.mark.parametrize(
    ("model", "x", "layer", "reason"),
    [
        (
            network(table=nn.Embedding(9, 4), fc=nn.Linear(4, 3)),
            torch.randint(0, 9, (5, 7)),
            "table",
            "embedding.*look-up",
        ),
        (network(norm=nn.LayerNorm(6), fc=nn.Linear(6, 3)), torch.randn(5, 6), "norm", "meets a parameter in"),
        (Call(lambda m, x: m.fc(x + m.prompt), prompt=weight(6), fc=nn.Linear(6, 3)), torch.randn(5, 6), "", "in add"),
    ],
    ids=["embedding", "norm", "prompt"],
)
def test_without_a_first_layer_it_says_where_data_meets_a_parameter(
    inductor: bool, model: nn.Module, x: torch.Tensor, layer: str, reason: str
) -> None:
    findings = find(joint_graph(model, x, inductor=inductor))
    assert findings.matches == ()
    (rejection,) = findings.rejections
    assert (rejection.kind, rejection.layer) == (RejectionKind.NO_FIRST_LAYER, layer)
    assert "there is no first layer" in rejection.reason
    assert re.search(reason, rejection.reason)


@both
@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.a(x) + x @ m.b.weight.detach().t(),
        lambda m, x: x @ m.b.weight.detach().t() + m.a(x),
        lambda m, x: m.a(x) + (x * m.b.bias.sum()) @ torch.ones(6, 4) + x @ m.b.weight.detach().t(),
    ],
    ids=["after", "before", "after something else"],
)
def test_a_weight_without_a_gradient_is_reported(inductor: bool, function: Callable[..., torch.Tensor]) -> None:
    """Autograd gives what it does not differentiate the number of what it differentiated last."""
    model = Call(function, a=nn.Linear(6, 4), b=nn.Linear(6, 6))
    model.b.weight = nn.Parameter(torch.randn(4, 6))
    findings = find(joint_graph(model, image(5, 6), inductor=inductor))
    assert taken(findings) == [("a.weight",)]
    assert (RejectionKind.NO_GRADIENT, ("b.weight",)) in [(item.kind, item.weights) for item in findings.rejections]


@works("not first")
@both
def test_a_layer_behind_a_constant_table_is_no_first_layer(inductor: bool) -> None:
    """Codes that a network made carry no gradient; after a graph break they are integers like any other."""
    table = torch.randn(9, 6)
    forms = {
        "embedding": lambda m, x: m.fc(nn.functional.embedding(x, m.table)),
        "index": lambda m, x: m.fc(m.table[x]),
        "index_select": lambda m, x: m.fc(m.table.index_select(0, x.flatten())),
        "gather": lambda m, x: m.fc(m.table.gather(0, x[:, :1].expand(-1, 6))),
    }
    for name, form in forms.items():
        model = Call(form, fc=nn.Linear(6, 4))
        model.register_buffer("table", table)
        findings = find(joint_graph(model, torch.randint(0, 9, (4, 5)), inductor=inductor))
        assert findings.matches == (), name
        kinds = [rejection.kind for rejection in findings.rejections]
        assert kinds == [RejectionKind.CONSTANT_INPUT, RejectionKind.NO_FIRST_LAYER], name
        assert "constant table" in findings.rejections[0].reason
        assert "constant table" in findings.rejections[1].reason


@both
def test_indices_into_data_and_numbers_that_are_no_indices_are_data(inductor: bool) -> None:
    model = Call(lambda m, x, i: m.a(x[i]) + m.b(i.float())[:, None], a=nn.Linear(6, 4), b=nn.Linear(3, 4))
    model.register_buffer("table", torch.randn(4, 6))
    x, i = torch.randn(9, 6), torch.randint(0, 9, (5, 3))
    assert taken(find(joint_graph(model, x, i, inductor=inductor))) == [("a.weight",), ("b.weight",)]
    mixed = Call(lambda m, x, i: m.a(x[:, None] + m.table[i]), a=nn.Linear(6, 4))
    mixed.register_buffer("table", torch.randn(9, 6))
    assert taken(find(joint_graph(mixed, x[:5], i, inductor=inductor))) == [("a.weight",)]


@both
def test_without_data_there_is_nothing_to_do(inductor: bool) -> None:
    no_data = Call(lambda m: m.fc(m.query).sum(), fc=nn.Linear(6, 4), query=weight(2, 6))
    assert find(joint_graph(no_data, inductor=inductor)) == Findings(has_gradients=True)


@both
def test_a_second_run_finds_nothing(inductor: bool) -> None:
    model = network(conv=nn.Conv2d(3, 4, 3), act=nn.Tanh(), flat=nn.Flatten(), fc=nn.Linear(4 * 42, 2))
    joint = joint_graph(model, image(), inductor=inductor)
    for match in find(joint).matches:
        apply(match, lam_node(joint.graph))
    assert find(joint) == Findings(has_gradients=True)


@both
@pytest.mark.parametrize("name", ["conv2", "conv2.weight"])
def test_named_layers(inductor: bool, name: str) -> None:
    model = network(conv1=nn.Conv2d(3, 4, 3), act=nn.ReLU(), conv2=nn.Conv2d(4, 4, 3))
    findings = find(joint_graph(model, image(), inductor=inductor), layers=(name,))
    assert taken(findings) == [("conv2.weight",)]
    assert findings.rejections == ()


@both
@pytest.mark.parametrize(
    ("name", "reason"), [("norm", "is the weight of a convolution"), ("frozen", "none of its parameters requires grad")]
)
def test_a_named_layer_that_cannot_be_taken(inductor: bool, name: str, reason: str) -> None:
    model = network(conv1=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), frozen=nn.Conv2d(4, 4, 3).requires_grad_(False))
    findings = find(joint_graph(model, image(), inductor=inductor), layers=(name,))
    assert findings.matches == ()
    (rejection,) = findings.rejections
    assert rejection.kind is RejectionKind.UNSUPPORTED
    assert reason in rejection.reason


def test_names_with_and_without_the_wrapper_of_data_parallelism() -> None:
    assert is_named("conv1", "module.conv1", ("module.conv1.weight",))
    assert is_named("module.conv1.weight", "module.conv1", ("module.conv1.weight",))
    assert not is_named("conv", "module.conv1", ("module.conv1.weight",))


@both
def test_rows_of_a_dynamic_batch_are_symbolic(inductor: bool) -> None:
    model = network(conv=nn.Conv2d(3, 4, 3))
    (match,) = find(joint_graph(model, image(5, 3, 9, 8), inductor=inductor, dynamic=True)).matches
    assert isinstance(match.rows, torch.SymInt)
    assert match.form is Form.PRIMAL


@both
def test_a_dynamic_batch_with_many_features_is_dual(inductor: bool) -> None:
    model = network(fc=nn.Linear(5000, 3))
    x = image(5, 5000)
    torch._dynamo.mark_dynamic(x, 0)
    (match,) = find(joint_graph(model, x, inductor=inductor)).matches
    assert isinstance(match.rows, torch.SymInt)
    assert match.form is Form.DUAL
