"""Bad input gets a clear error that names the argument, the value and what is allowed."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from tract_fx import OptionError, TractOptions, UnknownLayerError, tract_backend
from tract_fx.backend import tract
from tract_fx.options import default_lam


@pytest.mark.parametrize(
    ("lam", "message"),
    [
        (0, r"lam=0 is not allowed.*greater than zero"),
        (-0.1, r"lam=-0\.1 is not allowed.*greater than zero"),
        (math.nan, r"lam=nan is not allowed.*finite"),
        (math.inf, r"lam=inf is not allowed.*finite"),
        ("0.1", r"lam='0\.1' is a str.*positive number"),
        (None, r"lam=None is a NoneType"),
        (True, r"lam=True is a bool"),
    ],
)
def test_lam_must_be_a_finite_positive_number(lam: object, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        tract_backend(lam)


@pytest.mark.parametrize("lam", [1, 0.05, np.float32(0.25), np.int64(2)])
def test_any_real_number_is_taken(lam: float) -> None:
    assert tract_backend(lam).lam == float(lam)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": "conv1"}, r'layers=\'conv1\' is not allowed.*"first".*list of names'),
        ({"layers": []}, r"layers=\[\] is not allowed.*at least one"),
        ({"layers": [1]}, r"layers=\[1\] is not allowed.*strings"),
        ({"layers": 3}, r"layers=3 is not allowed"),
        ({"on_unsupported": "raise"}, r"on_unsupported='raise' is not allowed.*error, warn, ignore"),
        ({"inner": "inducter"}, r"inner='inducter' is not allowed.*did you mean 'inductor'"),
        ({"mode": "reduce_overhead"}, r"mode='reduce_overhead' is not allowed.*did you mean 'reduce-overhead'"),
        ({"relative": "yes"}, r"relative='yes' is not allowed.*True or False"),
        ({"relative": 1}, r"relative=1 is not allowed.*True or False"),
        ({"options": {"max_autotun": True}}, r"options has 'max_autotun'.*did you mean 'max_autotune'"),
        ({"options": {"max_autotune": "yes"}}, r"options\['max_autotune'\]='yes' is not allowed"),
        ({"options": ["max_autotune"]}, r"options=\['max_autotune'\] is not allowed.*dictionary"),
        ({"inner": "aot_eager", "mode": "max-autotune"}, r"mode='max-autotune'.*inner=\"aot_eager\""),
    ],
)
def test_every_other_argument_is_checked_when_the_backend_is_made(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        tract_backend(0.1, **arguments)


def test_an_unknown_argument_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="lamda"):
        tract_backend(lamda=0.1)


def test_options_of_the_string_backend() -> None:
    options = TractOptions.from_compile_arguments(
        "max-autotune", {"lam": 0.05, "layers": "conv1, fc.weight", "on_unsupported": "warn", "shape_padding": True}
    )
    assert (options.lam, options.layers, options.on_unsupported) == (0.05, ("conv1", "fc.weight"), "warn")
    patches = options.inductor_patches()
    assert patches["shape_padding"] is True
    assert patches["max_autotune"] is True


@pytest.mark.parametrize(
    ("options", "message"),
    [({"lam": 0}, "lam=0 is not allowed"), ({"lamb": 0.1}, r"options has 'lamb'.*did you mean 'lam'")],
)
def test_the_string_backend_checks_its_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        tract(torch.fx.symbolic_trace(nn.Identity()), [], options=options)


def test_the_environment_gives_the_default_lam(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_lam() == 0.1
    monkeypatch.setenv("TRACT_FX_LAM", "0.025")
    assert TractOptions.from_compile_arguments(None, None).lam == 0.025
    assert TractOptions.from_compile_arguments(None, {"lam": 0.5}).lam == 0.5
    for text in ("zero", "0", "nan"):
        monkeypatch.setenv("TRACT_FX_LAM", text)
        with pytest.raises(OptionError, match=f"TRACT_FX_LAM='{text}' is not a positive number"):
            default_lam()


def test_the_environment_gives_what_a_command_line_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {
        "LAYERS": "conv1, fc.weight",
        "ON_UNSUPPORTED": "warn",
        "INNER": "aot_eager",
        "PROCESS_GROUP": "ddp",
        "RELATIVE": "1",
    }.items():
        monkeypatch.setenv(f"TRACT_FX_{name}", text)
    options = TractOptions.from_compile_arguments(None, None)
    assert options.layers == ("conv1", "fc.weight")
    assert (options.on_unsupported, options.inner, options.process_group) == ("warn", "aot_eager", "ddp")
    assert options.relative
    given = {
        "layers": "first",
        "on_unsupported": "error",
        "inner": "inductor",
        "process_group": None,
        "relative": False,
    }
    assert TractOptions.from_compile_arguments(None, given) == TractOptions()
    assert tract_backend().options == TractOptions(), "an object has what it was given"
    monkeypatch.setenv("TRACT_FX_INNER", "")
    assert TractOptions.from_compile_arguments(None, None).inner == "inductor"


def test_an_error_names_the_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACT_FX_INNER", "eager")
    with pytest.raises(OptionError, match=r"variable TRACT_FX_INNER: inner='eager' is not allowed.*aot_eager"):
        TractOptions.from_compile_arguments(None, None)


@pytest.mark.parametrize(("text", "relative"), [("1", True), ("True", True), ("0", False), ("false", False)])
def test_the_environment_switches_relative_on_and_off(
    monkeypatch: pytest.MonkeyPatch, text: str, relative: bool
) -> None:
    monkeypatch.setenv("TRACT_FX_RELATIVE", text)
    assert TractOptions.from_compile_arguments(None, None).relative is relative
    monkeypatch.setenv("TRACT_FX_RELATIVE", "perhaps")
    with pytest.raises(OptionError, match="variable TRACT_FX_RELATIVE: relative='perhaps' is not allowed"):
        TractOptions.from_compile_arguments(None, None)


def test_compile_arguments_are_merged_with_the_backend_s_own() -> None:
    options = TractOptions(options={"shape_padding": True}).with_compile_arguments(
        "max-autotune", {"max_fusion_size": 3}
    )
    assert dict(options.options) == {"shape_padding": True, "max_fusion_size": 3}
    assert options.mode == "max-autotune"
    with pytest.raises(OptionError, match=r"mode='default' in torch.compile and mode='max-autotune' in tract_backend"):
        TractOptions(mode="max-autotune").with_compile_arguments("default", None)
    with pytest.raises(OptionError, match=r"torch.compile\(options=...\) has lam: give it to tract_backend"):
        TractOptions().with_compile_arguments(None, {"lam": 0.2})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cnv1", r"layers has 'cnv1'.*no module and no parameter.*did you mean 'conv1'"),
        ("conv1.wight", r"layers has 'conv1\.wight'.*did you mean 'conv1\.weight'"),
    ],
)
def test_a_name_that_the_model_does_not_have(name: str, message: str) -> None:
    model = nn.Sequential()
    model.add_module("conv1", nn.Conv2d(3, 4, 3))
    model.add_module("conv2", nn.Conv2d(4, 4, 3))
    compiled = torch.compile(model, backend=tract_backend(layers=[name], inner="aot_eager"))
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match=message) as raised:
        compiled(torch.randn(2, 3, 9, 9))
    assert isinstance(raised.value.inner_exception, UnknownLayerError)
