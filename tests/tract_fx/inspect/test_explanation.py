import json

import pytest
import torch
from torch import nn

import tract_fx
from support.explained import explained
from support.refused import Pairs
from support.works import works
from tract_fx.inspect.explanation import explain

pytestmark = works("explain")


def stem(groups: int = 1) -> nn.Module:
    layers = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=groups), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 3)
    return nn.Sequential(*layers)


class Broken(nn.Module):
    """Two graphs, with the first layer in the first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.conv(x).relu()
        torch._dynamo.graph_break()
        return self.head(features.mean((2, 3)))


class AsksForValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.fc(x)
        return y * 2 if y.sum().item() > 0 else y


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (5, 4, 8, 8)))


def through_the_backend(model: nn.Module, *inputs: torch.Tensor, **options: object) -> tract_fx.TractBackend:
    torch._dynamo.reset()
    backend = tract_fx.tract_backend(inner="aot_eager", on_unsupported="ignore", **options)
    torch.compile(model, backend=backend)(*inputs)
    return backend


@pytest.mark.parametrize("groups", [1, 2])
def test_it_says_what_the_backend_says(groups: int) -> None:
    backend = through_the_backend(stem(groups), images())
    explanation = explain(stem(groups), images())
    assert explanation.matches == backend.matches != ()
    assert explanation.rejections == backend.rejections


def test_the_first_line_is_the_answer() -> None:
    assert explain(stem(groups=2), images()).headline == (
        "0: Conv2d 4->8, 3x3 stride 2, groups 2: rewritten, primal, 2 x 18x18, 80 rows"
    )
    assert (
        str(explain(nn.Linear(20, 3), images(5, 20)))
        .splitlines()[0]
        .endswith("Linear 20->3: rewritten, dual, 5x5, 5 rows")
    )


def test_chosen_layers() -> None:
    explanation = explain(stem(), images(), layers=["3"])
    assert [match.weight for match in explanation.matches] == ["3.weight"]
    with pytest.raises(tract_fx.UnknownLayerError, match=r"'3\.wieght'.*did you mean '3\.weight'"):
        explain(stem(), images(), layers=["3.wieght"])


def test_before_and_after_differ_in_what_is_added() -> None:
    explanation = explain(stem(), images())
    (graph,) = explanation.graphs
    names = {node.name for node in explanation.graph_before.graph.nodes}
    assert graph.added
    assert names.isdisjoint(graph.added)
    assert names - set(graph.removed) | set(graph.added) == {node.name for node in explanation.graph_after.graph.nodes}
    targets = [str(node.target) for node in explanation.graph_after.graph.nodes]
    assert targets.count("tract_fx.primal_gradient.default") == 1
    assert not any("tract_fx" in str(node.target) for node in explanation.graph_before.graph.nodes)


def test_the_graphs_run() -> None:
    """They are the graphs themselves, not drawings of them: the one after gives the new gradient."""
    torch.manual_seed(0)
    model, x, lam = nn.Linear(6, 3), images(50, 6), torch.full((), 0.1, dtype=torch.float64)
    explanation = explain(model, x)
    tangent = images(50, 3)
    by_shape = {(3, 6): model.weight, (3,): model.bias, (50, 6): x, (50, 3): tangent, (): lam}
    placeholders = explanation.graph_after.graph.find_nodes(op="placeholder")
    inputs = [by_shape[tuple(node.meta["val"].shape)] for node in placeholders]
    with torch.no_grad():
        outputs = explanation.graph_after(*_as_called(explanation.graph_after, inputs))
    gradient = next(
        item for item in torch.utils._pytree.tree_leaves(outputs) if item is not None and item.shape == (3, 6)
    )
    rows = x.double()
    expected = (tangent.double().T @ rows) @ torch.linalg.inv(rows.T @ rows / 50 + 0.1 * torch.eye(6))
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-6)


def _as_called(module: torch.fx.GraphModule, inputs: list) -> tuple:
    """A joint graph takes primals and tangents."""
    names = [node.name for node in module.graph.find_nodes(op="placeholder")]
    tangents = [item for name, item in zip(names, inputs, strict=True) if name.startswith("tangents")]
    primals = [item for name, item in zip(names, inputs, strict=True) if not name.startswith("tangents")]
    return primals, tangents


def test_graphs_are_numbered_and_say_why_they_end() -> None:
    explanation = explain(Broken(), images(2, 3, 8, 8))
    assert [graph.number for graph in explanation.graphs] == [0, 1]
    assert [bool(graph.layers) for graph in explanation.graphs] == [True, False]
    assert "graph_break" in explanation.graphs[0].break_reason
    assert explanation.graphs[1].break_reason is None
    assert explanation.graph_after is explanation.graphs[0].graph_after
    assert "Graph 0" in str(explanation)


def test_a_rejected_layer_comes_first_with_its_way_out() -> None:
    explanation = explain(nn.Sequential(Pairs(2, 2, 4), nn.Linear(4, 4)), images(2, 3, 2, 2))
    assert not explanation.is_fine
    assert explanation.headline.startswith("0 (_trilinear): not rewritten: the rows of a bilinear layer")
    lines = str(explanation).splitlines()
    assert lines[0] == explanation.headline
    assert "on_unsupported" in lines[1] + lines[2]


def test_no_first_layer() -> None:
    explanation = explain(nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4)), torch.zeros(2, 3, dtype=torch.long))
    assert not explanation.is_fine
    assert "embedding" in explanation.headline


def test_a_model_without_graphs_says_why() -> None:
    explanation = explain(nn.LSTM(3, 4), images(5, 2, 3))
    assert explanation.graphs == ()
    assert explanation.headline.startswith("Nothing is rewritten")
    assert any("LSTM" in note for note in explanation.notes)
    with pytest.raises(LookupError, match="no graph"):
        _ = explanation.graph_before


def test_what_needs_values_is_run_on_a_copy_and_said() -> None:
    model = AsksForValues()
    explanation = explain(model, images(6, 4))
    assert [match.weight for match in explanation.matches] == ["fc.weight"]
    assert any("real tensors" in note for note in explanation.notes)
    assert not any("real tensors" in note for note in explain(stem(), images()).notes)


@pytest.mark.parametrize("values", [False, True])
def test_a_model_that_cannot_be_copied_keeps_its_tensors(values: bool) -> None:
    """Fake tensors, or copies with values, stand in for its own, in lists as well, for the time."""

    class Uncopyable(AsksForValues if values else nn.Sequential):
        def __deepcopy__(self, memo: object) -> None:
            raise TypeError("it holds the handle of a device")

    model = Uncopyable() if values else Uncopyable(nn.Linear(4, 3), nn.Tanh())
    model.scales = [torch.ones(3)]
    before, scale = {name: (item, item.clone()) for name, item in model.named_parameters()}, model.scales[0]
    explanation = explain(model, images(6, 4))
    assert len(explanation.matches) == 1
    assert any("real tensors" in note for note in explanation.notes) == values
    assert all(item is before[name][0] and torch.equal(*before[name]) for name, item in model.named_parameters())
    assert model.scales[0] is scale
    assert type(scale) is torch.Tensor
    assert all(item.grad is None for item in model.parameters())


def test_a_model_that_can_neither_be_copied_nor_run_fails_in_its_own_words() -> None:
    class Uncopyable(nn.Linear):
        def __deepcopy__(self, memo: object) -> None:
            raise TypeError("it holds the handle of a device")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("the device is busy")

    with pytest.raises(tract_fx.CaptureError, match="ValueError: the device is busy"):
        explain(Uncopyable(4, 4), images(6, 4))


def test_what_needs_values_and_has_none_is_an_error() -> None:
    with torch.device("meta"):
        model = AsksForValues()
    with pytest.raises(tract_fx.CaptureError, match="without the values"):
        explain(model, images(6, 4))


def test_a_wrong_call_is_an_error_with_its_own_words() -> None:
    with pytest.raises(tract_fx.CaptureError, match=r"could not be traced.*5(x|, )2"):
        explain(nn.Linear(4, 4), images(5, 2))


def test_a_model_on_meta() -> None:
    with torch.device("meta"):
        model = stem()
    assert explain(model, images()).matches == explain(stem(), images()).matches


def test_the_loss_tells_what_is_trained() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"left": self.left(x), "right": self.right(x)}

    model, x = TwoHeads(), images(9, 4)
    assert [match.weight for match in explain(model, x).matches] == ["left.weight", "right.weight"]
    chosen = explain(model, x, backward_of=lambda output: output["right"])
    assert [match.weight for match in chosen.matches] == ["right.weight"]


def test_functions_and_compiled_models() -> None:
    model, x = stem(), images()
    assert [match.weight for match in explain(lambda x: model(x).sum(), x).matches] == ["0.weight"]
    assert explain(torch.compile(model), x).matches == explain(model, x).matches


def test_a_marked_batch_stays_a_symbol() -> None:
    x = images()
    torch._dynamo.mark_dynamic(x, 0)
    (match,) = explain(stem(), x).matches
    assert isinstance(match.rows, str)
    assert "16" in match.rows


def test_autocast_counts() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        explanation = explain(stem(), images())
    dtypes = {node.meta["val"].dtype for node in explanation.graph_before.graph.nodes if _is_convolution(node)}
    assert dtypes == {torch.bfloat16}


def _is_convolution(node: torch.fx.Node) -> bool:
    return node.target is torch.ops.aten.convolution.default


def test_without_gradients_it_enables_them() -> None:
    with torch.no_grad():
        assert explain(stem(), images()).is_fine


def test_it_can_be_stored() -> None:
    explanation = explain(Broken(), images(2, 3, 8, 8))
    stored = json.loads(json.dumps(explanation.to_dict()))
    assert stored["headline"] == explanation.headline
    assert stored["graphs"][0]["layers"][0]["weight"] == "conv.weight"
    assert stored["graphs"][0]["break_reason"]
    assert stored["environment"]["torch"] == torch.__version__


def test_several_first_layers_have_a_reason_each() -> None:
    explanation = explained("stems")
    first, second, others = explanation.reasons
    for line, layer, name in zip((first, second), explanation.layers, ("x", "y"), strict=True):
        assert line.startswith(f"{layer.match.layer}: its input depends on ")
        assert line.endswith(f"{name} and on no parameter.")
    assert others.startswith("All other layers")
    assert all(line in " ".join(str(explanation).split()) for line in explanation.reasons)
    assert explained("primal").reasons == ()


def test_a_named_layer_says_so() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    first, second, _ = explain(model, torch.randn(3, 4), layers=["0", "2"]).reasons
    assert "on no parameter" in first
    assert second == "2: its input depends on 0.weight, 0.bias, and layers=[...] names it."
