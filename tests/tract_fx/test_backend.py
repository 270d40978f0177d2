"""What a user of the backend sees."""

import copy
import logging
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch._inductor import config as inductor_config
from torch._inductor.custom_graph_pass import CustomGraphPass

from support.marks import INNERS, codegen
from support.oracle import error, squared, tract_gradients
from support.refused import Pairs
from support.training import gradients
from support.works import works
from tract_fx import LayerMatch, TractWarning, UnsupportedLayerError, tract_backend
from tract_fx.backend import tract

LAM = 0.1


class Net(nn.Module):
    """A stem under a name with a dot in it, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Sequential()
        self.patch_embed.add_module("proj", nn.Conv2d(3, 5, 4, stride=4))
        self.head = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.patch_embed(x)).mean((2, 3)))


X = torch.randn(8, 3, 16, 12)
FIRST = "patch_embed.proj.weight"


def expected(model: nn.Module, lam: float = LAM) -> torch.Tensor:
    return tract_gradients(model, [X], ["patch_embed.proj"], lam)["patch_embed.proj"]


def test_matches_tell_what_has_been_rewritten(caplog: pytest.LogCaptureFixture) -> None:
    backend = tract_backend(LAM, inner="aot_eager")
    assert backend.matches == ()
    with caplog.at_level(logging.INFO, "tract_fx"):
        gradients(Net(), [X], backend)
    match = LayerMatch(FIRST, "patch_embed.proj", "convolution", 8 * 4 * 3, 48, 1, "primal")
    assert backend.matches == (match,)
    assert [record.message for record in caplog.records if record.name.startswith("tract_fx")] == [str(match)]
    assert str(match) == f"{FIRST}: convolution rewritten, primal, 1 x (48 x 48), 96 rows, 48 features"


def test_dynamo_s_reset_forgets_the_matches() -> None:
    backend = tract_backend(LAM, inner="aot_eager")
    gradients(Net(), [X], backend)
    torch._dynamo.reset()
    assert backend.matches == ()


def test_rows_of_a_dynamic_graph_are_an_expression() -> None:
    backend = tract_backend(LAM, inner="aot_eager")
    gradients(Net(), [X], backend, dynamic=True)
    (match,) = backend.matches
    assert isinstance(match.rows, str)
    assert "s" in match.rows


@works("named")
@pytest.mark.parametrize("layers", [["head"], ["head.weight"]])
def test_named_layers(layers: list[str]) -> None:
    model, backend = Net(), tract_backend(LAM, layers=layers, inner="aot_eager")
    found = gradients(model, [X], backend)
    plain = gradients(model, [X], "aot_eager")
    assert error(found["head.weight"], tract_gradients(model, [X], ["head"], LAM)["head"]) <= 1e-5
    assert torch.equal(found[FIRST], plain[FIRST])


@works("named")
def test_several_named_layers() -> None:
    model, backend = Net(), tract_backend(LAM, layers=["head", "patch_embed.proj"], inner="aot_eager")
    found = gradients(model, [X], backend)
    assert error(found["head.weight"], tract_gradients(model, [X], ["head"], LAM)["head"]) <= 1e-5
    assert error(found[FIRST], expected(model)) <= 1e-5


def test_the_string_backend_with_options() -> None:
    model = Net()
    found = gradients(model, [X], "tract", options={"lam": 0.3, "inner": "aot_eager"})
    assert error(found[FIRST], expected(model, 0.3)) <= 1e-5


def test_the_string_backend_takes_lam_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACT_FX_LAM", "0.7")
    model = Net()
    found = gradients(model, [X], "tract", options={"inner": "aot_eager"})
    assert error(found[FIRST], expected(model, 0.7)) <= 1e-5


def test_the_entry_point_is_the_string_backend() -> None:
    assert torch._dynamo.lookup_backend("tract") is tract


@works("modes")
@codegen
@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune-no-cudagraphs"])
def test_modes_and_options_reach_inductor(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tract_fx import compat

    seen: list[dict[str, object]] = []
    plain = compat.compile_fx
    monkeypatch.setattr(
        compat, "compile_fx", lambda gm, x, patches: seen.append(dict(patches)) or plain(gm, x, patches)
    )
    model = Net()
    found = gradients(model, [X], tract_backend(LAM, mode=mode, options={"shape_padding": False}))
    assert seen[0]["shape_padding"] is False
    assert seen[0].items() >= torch._inductor.list_mode_options(mode).items()
    assert error(found[FIRST], expected(model)) <= 1e-5


class Recorder(CustomGraphPass):
    """A pass of the user's."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.Graph) -> None:
        self.graphs += 1

    def uuid(self) -> str:
        return "recorder"


@works("modes")
@codegen
@pytest.mark.parametrize("route", ["option", "config"])
def test_the_user_s_own_joint_pass_still_runs(route: str) -> None:
    model, theirs = Net(), Recorder()
    with inductor_config.patch(force_disable_caches=True):
        if route == "option":
            found = gradients(model, [X], tract_backend(LAM, options={"joint_custom_pre_pass": theirs}))
        else:
            with inductor_config.patch(joint_custom_pre_pass=theirs):
                found = gradients(model, [X], tract_backend(LAM))
    assert theirs.graphs == 1
    assert error(found[FIRST], expected(model)) <= 1e-5


@works("inference")
@pytest.mark.parametrize("inner", INNERS)
def test_evaluation_and_no_grad_pass_through(inner: str) -> None:
    model, backend = Net(), tract_backend(LAM, inner=inner)
    compiled = torch.compile(model, backend=backend)
    with warnings.catch_warnings():
        warnings.simplefilter("error", TractWarning)
        with torch.no_grad():
            torch.testing.assert_close(compiled(X), model(X))
        with torch.inference_mode():
            torch.testing.assert_close(compiled(X), model(X))
        assert backend.matches == ()
        model.eval()
        squared(compiled(X)).backward()  # evaluation mode with gradients is a training graph
    assert [match.weight for match in backend.matches] == [FIRST]
    assert error(model.patch_embed.proj.weight.grad, expected(model)) <= 1e-5


def frozen_first() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3).requires_grad_(False), nn.Tanh(), nn.Conv2d(4, 2, 3))


def no_layer() -> nn.Module:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.scale

    return Scale()


@works("frozen")
@pytest.mark.parametrize("inner", INNERS)
def test_a_frozen_first_layer(inner: str) -> None:
    model, backend = frozen_first(), tract_backend(LAM, inner=inner)
    found = gradients(model, [X], backend)
    assert "0.weight" not in found
    assert error(found["2.weight"], tract_gradients(model, [X], ["2"], LAM)["2"]) <= 1e-5


@works("frozen")
def test_an_entirely_frozen_model() -> None:
    x = X.clone().requires_grad_()
    squared(torch.compile(Net().requires_grad_(False), backend=tract_backend(inner="aot_eager"))(x)).backward()
    assert x.grad is not None


@pytest.mark.parametrize("inner", INNERS)
def test_a_model_without_a_layer_says_where_data_meets_a_parameter(inner: str) -> None:
    model, backend = no_layer(), tract_backend(LAM, inner=inner)
    with pytest.warns(TractWarning, match=r"there is no first layer: data first meets a parameter in mul"):
        found = gradients(model, [X], backend)
    assert [(item.weight, item.op) for item in backend.rejections] == [("scale", "mul")]
    assert torch.equal(found["scale"], gradients(model, [X], inner)["scale"])


def test_an_embedding_is_named() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3))
    backend = tract_backend(LAM, inner="aot_eager")
    with pytest.warns(TractWarning, match=r"0 \(embedding\): there is no first layer.*look-up in a table"):
        gradients(model, [torch.randint(0, 9, (5, 7))], backend)


def refused() -> nn.Module:
    return nn.Sequential(Pairs(12, 12, 4), nn.Tanh())


@works("errors")
@pytest.mark.parametrize("inner", INNERS)
def test_what_cannot_be_rewritten_is_an_error_by_default(inner: str) -> None:
    with pytest.raises(
        torch._dynamo.exc.BackendCompilerFailed,
        match=r"TrAct cannot be applied to 0 \(_trilinear\): the rows of a bilinear layer.*layers=.*on_unsupported",
    ) as raised:
        gradients(refused(), [X], tract_backend(LAM, inner=inner))
    assert isinstance(raised.value.inner_exception, UnsupportedLayerError)


@works("errors")
def test_what_cannot_be_rewritten_can_be_a_warning_or_nothing() -> None:
    model = refused()
    plain = gradients(model, [X], "aot_eager")["0.weight"]
    with pytest.warns(TractWarning, match="the rows of a bilinear layer"):
        warned = gradients(model, [X], tract_backend(LAM, inner="aot_eager", on_unsupported="warn"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", TractWarning)
        ignored = gradients(model, [X], tract_backend(LAM, inner="aot_eager", on_unsupported="ignore"))
    assert torch.equal(warned["0.weight"], plain)
    assert torch.equal(ignored["0.weight"], plain)


def test_labels_after_a_graph_break_are_no_reason_to_warn() -> None:
    head = nn.Linear(5, 3)

    def step(model: Net, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        features = torch.tanh(model.patch_embed(x)).mean((2, 3))
        torch._dynamo.graph_break()
        return nn.functional.cross_entropy(head(features), labels)

    model, backend = Net(), tract_backend(LAM, inner="aot_eager")
    with warnings.catch_warnings():
        warnings.simplefilter("error", TractWarning)
        torch.compile(step, backend=backend)(model, X, torch.randint(0, 3, (8,))).backward()
    assert [match.weight for match in backend.matches] == [FIRST]


def test_one_backend_for_two_models() -> None:
    first, second, backend = Net(), nn.Sequential(nn.Conv2d(3, 4, 5), nn.Tanh()), tract_backend(LAM, inner="aot_eager")
    for model in (first, second):
        squared(torch.compile(model, backend=backend)(X)).backward()
    assert [match.weight for match in backend.matches] == [FIRST, "0.weight"]
    assert error(first.patch_embed.proj.weight.grad, expected(first)) <= 1e-5
    assert error(second[0].weight.grad, tract_gradients(second, [X], ["0"], LAM)["0"]) <= 1e-5


def compile_in_place(model: nn.Module, backend: object) -> nn.Module:
    model.compile(backend=backend)
    return model


@pytest.mark.parametrize("how", [lambda m, b: torch.compile(m, backend=b), compile_in_place], ids=["wrap", "in place"])
@pytest.mark.parametrize("name", ["outer.inner.conv", "outer.inner.conv.weight"])
def test_names_are_the_model_s_own_after_a_break_in_a_sub_module(
    how: Callable[[nn.Module, object], nn.Module], name: str
) -> None:
    """Dynamo captures the sub-module alone then, and knows only ``conv``."""

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x * 2
            torch._dynamo.graph_break()
            return torch.tanh(self.conv(x))

    model = nn.Sequential()
    model.add_module("outer", nn.Sequential())
    model.outer.add_module("inner", Inner())
    backend = tract_backend(LAM, layers=[name], inner="aot_eager")
    squared(how(copy.deepcopy(model), backend)(X)).backward()
    assert [match.weight for match in backend.matches] == ["outer.inner.conv.weight"]
    assert [match.layer for match in backend.matches] == ["outer.inner.conv"]


def test_a_name_that_a_compiled_function_does_not_use_is_a_warning() -> None:
    """There may be another graph that uses it; but nobody should have to guess why nothing was rewritten."""
    net = Net()

    def step(x: torch.Tensor) -> torch.Tensor:
        return net(x).sum()

    backend = tract_backend(LAM, layers=["patch_embed.prj", "head"], inner="aot_eager")
    with pytest.warns(TractWarning, match=r"layers has 'patch_embed\.prj'.*graph has no.*'patch_embed\.proj'"):
        torch.compile(step, backend=backend)(X).backward()
    assert [match.weight for match in backend.matches] == ["head.weight"]
