"""The cost of a layer, against torch's counter on the plain computation, and against tensors that are really there."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import sympy
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from support.graphs import joint_graph
from support.memory import peak_memory
from support.product import Product
from support.works import works
from tract_fx.inspect.cost.flops import step_flops
from tract_fx.inspect.cost.layer_cost import LayerCost, layer_cost
from tract_fx.ops.operands import layer_operands
from tract_fx.ops.patches import LINEAR, PatchGeometry
from tract_fx.ops.transposed import TransposedGeometry
from tract_fx.passes.first_layer import find

pytestmark = works("explain")


def cost_of(model: Callable[..., torch.Tensor], x: torch.Tensor, **arguments: bool) -> LayerCost:
    joint = joint_graph(model, x, **arguments)
    (match,) = find(joint).matches
    return layer_cost(match, step_flops(joint.graph))


def counted(function: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def conv(*args: int, **kwargs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(*args, **kwargs), nn.Tanh())


def up(*args: int, **kwargs: int) -> nn.Module:
    return nn.Sequential(nn.ConvTranspose2d(*args, **kwargs), nn.Tanh())


# Layer, shape of its input, (groups, rows, features, outputs).
LAYERS = {
    "convolution": (lambda: conv(3, 4, 3, stride=2, padding=1), (4, 3, 9, 8), (1, 80, 27, 4)),
    "groups": (lambda: conv(4, 6, 3, groups=2), (4, 4, 9, 8), (2, 168, 18, 3)),
    "linear": (lambda: nn.Linear(6, 4), (9, 3, 6), (1, 27, 6, 4)),
    "weight on the left": (lambda: Product(lambda x, w: w @ x, 4, 6), (6, 9), (1, 9, 6, 4)),
    "one row": (lambda: Product(lambda x, w: x @ w, 6, 4), (1, 6), (1, 1, 6, 4)),
    "vector": (lambda: Product(lambda x, w: x @ w, 6), (9, 6), (1, 9, 6, 1)),
    "batched": (lambda: Product(lambda x, w: torch.bmm(x, w), 2, 6, 4), (2, 9, 6), (2, 9, 6, 4)),
    "expanded": (lambda: Product(lambda x, w: x.bmm(w.expand(2, -1, -1)), 6, 4), (2, 9, 6), (1, 18, 6, 4)),
    "dual": (lambda: nn.Linear(30, 4), (7, 30), (1, 7, 30, 4)),
    "dual convolution": (lambda: conv(8, 4, 3, bias=False), (2, 8, 4, 4), (1, 8, 72, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_operations_are_those_of_the_plain_computation(name: str) -> None:
    """``bmm`` computes both triangles of a symmetric matrix, of which only one and the diagonal are needed."""
    layer, shape, (groups, rows, features, outputs) = LAYERS[name]
    cost = cost_of(layer(), torch.randn(shape))
    assert (cost.groups, cost.rows, cost.features, cost.outputs) == (groups, rows, features, outputs)
    X, dZ = torch.empty(groups, rows, features), torch.empty(groups, rows, outputs)
    system, inner = (rows, features) if cost.form == "dual" else (features, rows)
    both = counted(lambda: X @ X.mT if cost.form == "dual" else X.mT @ X)
    assert cost.covariance.flops == (both + 2 * groups * inner * system) // 2
    product = counted(lambda: dZ.mT @ X)
    inverse, right = torch.empty(groups, system, system), torch.empty(groups, system, outputs)
    solution = counted(lambda: inverse @ right)  # two triangles have as many entries as a square and a diagonal
    assert cost.solve.flops == solution + (product if cost.form == "dual" else 0)
    assert cost.forward == cost.weight_gradient == product
    assert cost.input_gradient == 0
    assert cost.added == cost.total.flops - (product if cost.form == "dual" else 0)
    assert cost.layer_flops == 2 * product


@pytest.mark.parametrize(("batch", "form"), [(5, "primal"), (2, "dual")])
def test_a_transposed_convolution_costs_what_its_parts_do(batch: int, form: str) -> None:
    """Of 6 x 4 pixels: four covariances of 2 x 2 taps, for three outputs each. The layer's own zeros are not counted."""
    x = torch.randn(batch, 20, 6, 4) if form == "primal" else torch.randn(batch, 20, 2, 2)
    model = up(20, 3, 4, stride=2, padding=1)
    cost = cost_of(model, x)
    rows, features, outputs = x[:, 0].numel(), 80, 3
    assert (cost.form, cost.rows, cost.features, cost.groups) == (form, 4 * rows, 320, 1)
    system, inner = (rows, features) if form == "dual" else (features, rows)
    assert cost.covariance.flops == 4 * inner * system * (system + 1)
    assert cost.factorisation.flops == 4 * system * (system + 1) * (2 * system + 1) // 6
    product = 4 * 2 * rows * features * outputs
    assert cost.solve.flops == 4 * 2 * system**2 * outputs + (product if form == "dual" else 0)
    assert cost.forward == cost.weight_gradient == counted(lambda: model[0](x)) == product


@pytest.mark.parametrize("inductor", [True, False], ids=["inductor", "aot_eager"])
@pytest.mark.parametrize("name", ["convolution", "linear", "weight on the left", "batched", "dual"])
def test_an_input_that_requires_grad_has_a_gradient_that_costs(name: str, inductor: bool) -> None:
    layer, shape, _ = LAYERS[name]
    cost = cost_of(layer(), torch.randn(shape, requires_grad=True), inductor=inductor)
    assert cost.input_gradient == cost.weight_gradient > 0


def test_the_plain_gradient_is_not_computed_for_the_sake_of_the_bias() -> None:
    """One operator has both gradients; that of the bias is summed on its own."""
    cost = cost_of(conv(8, 4, 3), torch.randn(2, 8, 4, 4))
    assert (cost.form, cost.replaced) == ("dual", cost.weight_gradient)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_bytes_are_those_of_the_tensors(dtype: torch.dtype) -> None:
    model, x = conv(3, 4, 3, stride=2, padding=1).to(dtype), torch.randn(4, 3, 9, 8, dtype=dtype)
    cost = cost_of(model, x)
    C, G = (torch.empty(size, 27, dtype=torch.float64) for size in (27, 4))
    new = torch.empty(4, 27, dtype=torch.promote_types(dtype, torch.float32))
    dZ = torch.empty(model(x).shape, dtype=dtype)
    assert cost.covariance.bytes == x.nbytes + dZ.nbytes + C.nbytes + G.nbytes
    assert cost.factorisation.bytes == 2 * C.nbytes
    assert cost.solve.bytes == C.nbytes + G.nbytes + new.nbytes
    assert cost.total.bytes == x.nbytes + dZ.nbytes + 4 * C.nbytes + 2 * G.nbytes + new.nbytes


def test_under_autocast_the_narrow_input_is_read() -> None:
    model = nn.Linear(6, 4)

    def call(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(x)

    assert cost_of(call, torch.randn(9, 6)).covariance.bytes == 9 * 6 * 2 + 9 * 4 * 2 + 6 * 6 * 8 + 4 * 6 * 8


def test_bytes_of_the_dual_form() -> None:
    """Patches of a convolution are written, and read twice."""
    cost = cost_of(conv(8, 4, 3), x := torch.randn(2, 8, 4, 4))
    kernel, patches = torch.empty(8, 8, dtype=torch.float64), torch.empty(8, 72)
    dZ, new = torch.empty(8, 4), torch.empty(4, 72)
    assert cost.covariance.bytes == x.nbytes + 2 * patches.nbytes + kernel.nbytes
    assert cost.solve.bytes == kernel.nbytes + dZ.nbytes + patches.nbytes + new.nbytes


MEMORY = {
    "stem": (lambda: conv(3, 64, 7, stride=2, padding=3), (8, 3, 64, 64)),
    "patches": (lambda: conv(3, 384, 16, stride=16), (4, 3, 112, 112)),
    "groups": (lambda: conv(8, 64, 5, groups=4), (8, 8, 32, 32)),
    "linear": (lambda: nn.Linear(700, 500), (900, 700)),
    "dual": (lambda: nn.Linear(2000, 300), (600, 2000)),
    "dual convolution": (lambda: conv(64, 32, 5), (8, 64, 12, 12)),
    "transposed": (lambda: up(64, 24, 4, stride=2, padding=1), (8, 64, 24, 24)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", MEMORY)
def test_memory_is_bounded_and_not_by_much_more(name: str, dtype: torch.dtype) -> None:
    layer, shape = MEMORY[name]
    model, x = layer().to(dtype), torch.randn(shape, dtype=dtype)
    cost = cost_of(model, x)
    held = peak_memory(closed_form(model, cost, model(x).detach()), x)
    assert held <= cost.total.memory <= 2 * held + 2**23


def closed_form(
    model: nn.Module, cost: LayerCost, output_gradient: torch.Tensor
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The formula on tensors, as the graph has it."""
    from tract_fx.ops import dual, gram, primal

    layer = model if isinstance(model, nn.Linear) else model[0]
    geometry = LINEAR
    if not isinstance(layer, nn.Linear):
        sizes = layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups
        transposed = isinstance(layer, nn.ConvTranspose2d)
        geometry = TransposedGeometry(*sizes, layer.output_padding) if transposed else PatchGeometry(*sizes)
    operators = {gram: "patch_gram", primal: "_primal", dual: "_on_cpu"}

    def run(x: torch.Tensor) -> torch.Tensor:
        with pytest.MonkeyPatch.context() as patch:
            for module, name in operators.items():  # of an operator only the result would be seen
                patch.setattr(module, name, getattr(module, name)._init_fn)
            operands = layer_operands(x, output_gradient, layer.weight.shape, geometry)
            return operands.gradient(0.1, dual=cost.form == "dual")

    return run


def test_the_batch_stays_a_symbol_and_becomes_any_number() -> None:
    model, x = conv(3, 8, 3, stride=2, padding=1), torch.randn(5, 3, 32, 24)
    torch._dynamo.mark_dynamic(x, 0)
    cost = cost_of(model, x)
    assert cost.symbols == (cost.batch,)
    assert dict(cost.hints) == {cost.batch: 5}
    for batch in (2, 256):
        static = cost_of(model, torch.empty(batch, 3, 32, 24), dynamic=False)
        assert static.symbols == ()
        assert cost.at(batch=batch) == static
        assert cost.at({str(cost.batch): batch}) == static
    assert cost.at() == cost.at(batch=5)


def test_every_size_may_be_a_symbol() -> None:
    """Memory depends on how patches overlap, which takes sizes: it is a looser bound then."""
    model, x = conv(3, 8, 3, stride=2, padding=1), torch.randn(5, 3, 32, 24)
    cost = cost_of(model, x, dynamic=True)
    static = cost_of(model, torch.randn(5, 3, 32, 24), dynamic=False)
    assert len(cost.symbols) == 3
    at_hints = cost.at()
    for part in ("covariance", "factorisation", "solve"):
        found, expected = getattr(at_hints, part), getattr(static, part)
        assert (found.flops, found.bytes) == (expected.flops, expected.bytes)
        assert found.memory >= expected.memory
    assert (at_hints.step, at_hints.of_layer, at_hints.of_step) == (static.step, static.of_layer, static.of_step)


def test_rows_of_a_sequence_scale_with_the_batch() -> None:
    x = torch.randn(5, 7, 6)
    torch._dynamo.mark_dynamic(x, 0)
    cost = cost_of(nn.Sequential(nn.Linear(6, 4), nn.Tanh()), x)
    assert cost.rows == 7 * cost.batch
    assert cost.at(batch=10).rows == 70


def test_an_unknown_symbol_is_named() -> None:
    cost = cost_of(nn.Linear(6, 4), torch.randn(9, 6))
    with pytest.raises(ValueError, match=r"has no symbol 'batch'; it has none: its graph is static"):
        cost.at(batch=3)


def test_as_plain_data_it_has_expressions_and_numbers() -> None:
    x = torch.randn(5, 3, 32, 24)
    torch._dynamo.mark_dynamic(x, 0)
    cost = cost_of(conv(3, 8, 3, stride=2, padding=1), x)
    data = json.loads(json.dumps(cost.to_dict()))
    assert data["rows"] == {"expression": f"192*{cost.batch}", "value": 960}
    assert data["total"]["flops"]["value"] == cost.at().total.flops
    assert sympy.sympify(data["total"]["flops"]["expression"]).subs(str(cost.batch), 5) == cost.at().total.flops
    assert data["of_step"]["value"] == pytest.approx(float(cost.at().added / cost.at().step))
    assert data["hints"] == {str(cost.batch): 5}
    assert data["form"] == "primal"
