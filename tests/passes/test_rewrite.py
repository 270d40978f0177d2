"""The rewritten graph computes the reference, leaves everything else alone, and is well formed."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from support.graphs import joint_graph, lam_node
from support.oracle import error, squared, tract_gradients
from support.product import Product
from support.training import gradients
from tract_fx import reference, tract_backend
from tract_fx.passes.first_layer import find
from tract_fx.passes.joint_graph import is_backward
from tract_fx.passes.rewrite import apply

LAM = 0.1


def rows_last(tensor: torch.Tensor) -> torch.Tensor:
    """``(batch, columns, rows)`` as rows."""
    return tensor.transpose(-1, -2).flatten(0, -2)


def rows_first(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten(0, -2)


def side_by_side(tensor: torch.Tensor) -> torch.Tensor:
    """The factors of products that are added up as those of one product."""
    return tensor.transpose(0, 1).flatten(1)


def below_one_another(tensor: torch.Tensor) -> torch.Tensor:
    return rows_last(tensor.flatten(0, 1))


def added_up(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return torch.addbmm(torch.ones(left.shape[1], right.shape[2], dtype=left.dtype), left, right, beta=0.5)


def two_right(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.T.unflatten(0, (2, -1))


def two_left(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.unflatten(1, (2, -1)).transpose(0, 1)


# function, input, parameter, rows of the input, rows of the output, gradient (m, n) in the parameter's layout
PRODUCTS = {
    "x @ w.t()": (lambda x, w: x @ w.t(), (9, 6), (4, 6), rows_first, rows_first, lambda g: g),
    "x @ w": (lambda x, w: x @ w, (9, 6), (6, 4), rows_first, rows_first, lambda g: g.T),
    "x @ w, 3d": (lambda x, w: x @ w, (2, 5, 6), (6, 4), rows_first, rows_first, lambda g: g.T),
    "w @ x.t()": (lambda x, w: w @ x.t(), (9, 6), (4, 6), rows_first, rows_last, lambda g: g),
    "w @ x": (lambda x, w: w @ x, (6, 9), (4, 6), rows_last, rows_last, lambda g: g),
    "w @ x, 3d": (lambda x, w: w @ x, (2, 6, 5), (4, 6), rows_last, rows_last, lambda g: g),
    "expanded left": (lambda x, w: torch.bmm(w.expand(2, -1, -1), x), (2, 6, 5), (4, 6), rows_last, rows_last, lambda g: g),
    "expanded right": (lambda x, w: x.bmm(w.expand(2, -1, -1)), (2, 5, 6), (6, 4), rows_first, rows_first, lambda g: g.T),
    "expanded, few": (lambda x, w: x.bmm(w.expand(2, -1, -1)), (2, 2, 6), (6, 4), rows_first, rows_first, lambda g: g.T),
    "einsum": (lambda x, w: torch.einsum("btc,oc->bto", x, w), (2, 5, 6), (4, 6), rows_first, rows_first, lambda g: g),
    "addmm": (lambda x, w: torch.addmm(torch.ones(4), x, w), (9, 6), (6, 4), rows_first, rows_first, lambda g: g.T),
    "w @ vector": (lambda x, w: w @ x, (6,), (4, 6), lambda x: x[None], lambda z: z[None], lambda g: g),
    "x @ vector": (lambda x, w: x @ w, (9, 6), (6,), rows_first, lambda z: z[:, None], lambda g: g[0]),
    "one row": (lambda x, w: x @ w, (1, 6), (6, 4), rows_first, rows_first, lambda g: g.T),
    "one row, left": (lambda x, w: w @ x, (6, 1), (4, 6), rows_last, rows_last, lambda g: g),
    "one feature, left": (lambda x, w: w @ x, (1, 9), (4, 1), rows_last, rows_last, lambda g: g),
    "one by one, left": (lambda x, w: w @ x, (6, 1), (1, 6), rows_last, rows_last, lambda g: g),
    "dual": (lambda x, w: x @ w, (3, 6), (6, 4), rows_first, rows_first, lambda g: g.T),
    "dual, left": (lambda x, w: w @ x, (6, 3), (4, 6), rows_last, rows_last, lambda g: g),
    "addbmm": (added_up, (2, 19, 6), (2, 6, 4), side_by_side, rows_first, two_right),
    "addbmm, few": (added_up, (2, 5, 6), (2, 6, 4), side_by_side, rows_first, two_right),
    "addbmm, one row": (added_up, (2, 1, 6), (2, 6, 4), side_by_side, rows_first, two_right),
    "addbmm, left": (lambda x, w: added_up(w, x), (2, 6, 19), (2, 4, 6), below_one_another, rows_last, two_left),
}  # fmt: skip


@pytest.mark.parametrize("decomposed", [True, False], ids=["inductor", "aot_eager"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_in_every_form(name: str, decomposed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under Inductor's decompositions, too: they change what the graph holds for one row, one feature, a vector."""
    function, shape, parameter, input_rows, output_rows, layout = PRODUCTS[name]
    if decomposed:
        use_inductor_decompositions(monkeypatch)
    model, x = Product(function, *parameter), torch.randn(shape)
    backend = tract_backend(LAM, inner="aot_eager")
    found = gradients(model, [x], backend)["w"]
    weight = model.w.detach().double().requires_grad_()
    product = function_in_double(function, x, weight)
    product.retain_grad()
    squared(torch.tanh(product)).backward()
    rows = input_rows(x)
    form = reference.dual if rows.shape[0] < rows.shape[1] else reference.primal
    assert len(backend.matches) == 1
    assert error(found, layout(form(rows, output_rows(product.grad), LAM))) <= 1e-5


def function_in_double(
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], x: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """``function`` with every constant it makes in float64."""
    torch.set_default_dtype(torch.float64)
    try:
        return function(x.double(), weight)
    finally:
        torch.set_default_dtype(torch.float32)


def use_inductor_decompositions(monkeypatch: pytest.MonkeyPatch) -> None:
    from tract_fx import compat

    plain = compat.aot_eager
    table = compat.inductor_decompositions()
    monkeypatch.setattr(compat, "aot_eager", lambda gm, inputs, joint_pass: plain(gm, inputs, joint_pass, table))


@pytest.mark.parametrize("rows", [9, 3], ids=["primal", "dual"])
def test_the_new_gradient_can_be_viewed_like_the_old_one(rows: int) -> None:
    """The weight is a view, so that its gradient is viewed as well, which depends on strides."""
    model = Product(lambda x, w: torch.einsum("bgi,gio->bgo", x, w.view(2, 6, 4)), 2, 24)
    x = torch.randn(rows, 2, 6)
    found = gradients(model, [x], tract_backend(LAM, inner="aot_eager"))["w"]
    z = torch.einsum("bgi,gio->bgo", x.double(), model.w.detach().double().view(2, 6, 4)).requires_grad_()
    squared(torch.tanh(z)).backward()
    form = reference.dual if rows < 6 else reference.primal
    expected = [form(x[:, group], z.grad[:, group], LAM).T for group in range(2)]
    assert error(found, torch.stack(expected).flatten(1)) <= 1e-5


@pytest.mark.parametrize("decomposed", [True, False], ids=["inductor", "aot_eager"])
@pytest.mark.parametrize("rows", [9, 3, 1], ids=["primal", "dual", "one row"])
def test_a_product_that_is_scaled(rows: int, decomposed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dual form starts from the gradient of the output, in which ``alpha`` is not."""
    if decomposed:
        use_inductor_decompositions(monkeypatch)
    model, x = Product(lambda x, w: torch.addmm(torch.ones(4), x, w, alpha=0.25), 6, 4), torch.randn(rows, 6)
    found = gradients(model, [x], tract_backend(LAM, inner="aot_eager"))["w"]
    product = (0.25 * x.double() @ model.w.detach().double() + 1).requires_grad_()
    squared(torch.tanh(product)).backward()
    form = reference.dual if rows < 6 else reference.primal
    assert error(found, form(x, 0.25 * product.grad, LAM).T) <= 1e-5


@pytest.mark.parametrize("decomposed", [True, False], ids=["inductor", "aot_eager"])
def test_products_that_are_added_up_and_scaled(decomposed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if decomposed:
        use_inductor_decompositions(monkeypatch)
    model = Product(lambda x, w: torch.addbmm(torch.ones(4), x, w, alpha=0.25), 2, 6, 4)
    x = torch.randn(2, 5, 6)
    found = gradients(model, [x], tract_backend(LAM, inner="aot_eager"))["w"]
    product = (0.25 * (x.double() @ model.w.detach().double()).sum(0) + 1).requires_grad_()
    squared(torch.tanh(product)).backward()
    expected = reference.dual(side_by_side(x), 0.25 * product.grad, LAM).T
    assert error(found, expected.unflatten(0, (2, 6))) <= 1e-5


@pytest.mark.parametrize("decomposed", [True, False], ids=["inductor", "aot_eager"])
def test_weights_of_each_batch_entry_have_their_own_covariance(
    decomposed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if decomposed:
        use_inductor_decompositions(monkeypatch)
    model, x = Product(lambda x, w: torch.einsum("bgi,gio->bgo", x, w), 2, 6, 4), torch.randn(9, 2, 6)
    found = gradients(model, [x], tract_backend(LAM, inner="aot_eager"))["w"]
    z = torch.einsum("bgi,gio->bgo", x.double(), model.w.detach().double()).requires_grad_()
    squared(torch.tanh(z)).backward()
    expected = [reference.primal(x[:, group], z.grad[:, group], LAM).T for group in range(2)]
    assert error(found, torch.stack(expected)) <= 1e-5


def rewritten(model: nn.Module, x: torch.Tensor, **arguments: bool) -> tuple[list[str], torch.fx.Graph]:
    """Names of the nodes before, and the graph after."""
    joint = joint_graph(model, x, **arguments)
    lam = lam_node(joint.graph, LAM)
    before = [node.name for node in joint.graph.nodes]
    for match in find(joint).matches:
        apply(match, lam)
    joint.graph.lint()
    return before, joint.graph


def stem() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 42, 2))


@pytest.mark.parametrize("inductor", [True, False], ids=["inductor", "aot_eager"])
def test_new_nodes_are_complete_and_backward(inductor: bool) -> None:
    before, graph = rewritten(stem(), torch.randn(4, 3, 9, 8), inductor=inductor)
    new = [node for node in graph.nodes if node.name not in before]
    assert new
    for node in new:
        assert node.meta["val"] is not None
        assert is_backward(node)
        assert node.meta["seq_nr"] is not None


def test_one_operator_does_everything_on_a_cpu() -> None:
    _, graph = rewritten(stem(), torch.randn(4, 3, 9, 8))
    targets = [node.target for node in graph.nodes]
    assert targets.count(torch.ops.tract_fx.primal_gradient.default) == 1
    assert torch.ops.aten.linalg_cholesky_ex.default not in targets


def test_elsewhere_both_sums_are_one_node_and_nothing_raises_on_the_device() -> None:
    with torch.device("meta"):
        _, graph = rewritten(stem(), torch.randn(4, 3, 9, 8))
    targets = [node.target for node in graph.nodes]
    assert targets.count(torch.ops.tract_fx.gram_and_gradient.default) == 1
    assert torch.ops.tract_fx.patch_gram.default not in targets
    assert targets.count(torch.ops.tract_fx.factor_and_solve.default) == 1
    assert not any("_local_scalar" in str(target) or "_linalg_check" in str(target) for target in targets)


def test_only_the_gradient_of_the_first_weight_has_other_inputs() -> None:
    """Every output but one is computed by the very nodes that computed it before."""
    joint = joint_graph(stem(), torch.randn(4, 3, 9, 8))
    outputs = list(joint.graph.output_node().args[0])
    (match,) = find(joint).matches
    apply(match, lam_node(joint.graph, LAM))
    after = list(joint.graph.output_node().args[0])
    changed = [index for index, (old, new) in enumerate(zip(outputs, after, strict=True)) if old is not new]
    descriptors = [joint.graph.output_node().meta["desc"][index] for index in changed]
    assert [joint.inputs[item.grad_of.idx].name for item in descriptors] == ["0.weight"]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("needs_input_gradient", [True, False])
def test_the_plain_weight_gradient_of_a_convolution_is_not_computed(bias: bool, needs_input_gradient: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=bias), nn.Tanh())
    _, graph = rewritten(model, torch.randn(4, 3, 9, 8, requires_grad=needs_input_gradient))
    backwards = graph.find_nodes(op="call_function", target=torch.ops.aten.convolution_backward.default)
    masks = [[needs_input_gradient, False, bias]] if needs_input_gradient or bias else []
    assert [node.args[10] for node in backwards] == masks


def test_the_plain_weight_gradient_of_a_product_has_no_users() -> None:
    joint = joint_graph(nn.Sequential(nn.Linear(8, 4), nn.Tanh()), torch.randn(20, 8))
    (match,) = find(joint).matches
    apply(match, lam_node(joint.graph, LAM))
    assert not match.gradient.node.users


@pytest.mark.parametrize("inductor", [True, False], ids=["inductor", "aot_eager"])
@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, 3), nn.Linear(8, 4), nn.Linear(8, 4, bias=False)])
def test_under_autocast_the_result_is_never_narrowed(inductor: bool, layer: nn.Module) -> None:
    """The gradient of a bfloat16 product goes to float64 and from there to float32, not through bfloat16 again."""
    model = nn.Sequential(layer, nn.Tanh())
    joint = joint_graph(autocast(model), torch.randn(4, 3, 9, 8), inductor=inductor)
    (match,) = find(joint).matches
    assert match.gradient.node.meta["val"].dtype == torch.bfloat16
    apply(match, lam_node(joint.graph, LAM))
    joint.graph.lint()
    gradient = next(
        node
        for node, desc in zip(joint.graph.output_node().args[0], joint.graph.output_node().meta["desc"], strict=True)
        if desc is not None
        and getattr(getattr(desc, "grad_of", None), "idx", None) is not None
        and joint.inputs[desc.grad_of.idx].name.endswith("weight")
    )
    node = gradient
    while node.target is not torch.ops.tract_fx.primal_gradient.default:
        assert node.meta["val"].dtype in (torch.float32, torch.float64)
        (node,) = node.all_input_nodes


def autocast(model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    def call(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(x)

    return call


def test_one_graph_holds_symbolic_rows() -> None:
    """The rows are computed from the sizes of the batch in hand, not baked in."""
    joint = joint_graph(stem(), torch.randn(5, 3, 9, 8), dynamic=True)
    (match,) = find(joint).matches
    apply(match, lam_node(joint.graph, LAM))
    joint.graph.lint()
    (node,) = joint.graph.find_nodes(op="call_function", target=torch.ops.tract_fx.primal_gradient.default)
    assert isinstance(node.args[2], torch.fx.Node)


def test_a_layer_called_twice_is_rewritten_at_each_call() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.tanh(self.stem(x)).mean() * torch.tanh(self.stem(y)).sum((1, 2, 3))

    model, inputs = Twice(), [torch.randn(4, 3, 9, 8), torch.randn(2, 3, 7, 7)]
    found = gradients(model, inputs, tract_backend(LAM, inner="aot_eager"))["stem.weight"]
    assert error(found, tract_gradients(model, inputs, ["stem"], LAM)["stem"]) <= 1e-5
