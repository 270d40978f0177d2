"""Models by name: what each name means, that it takes no memory, and what is said of a wrong one."""

from __future__ import annotations

import json
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest
import timm
import torch
import transformers
from torch import nn

from support.python import ROOT
from support.works import works
from tract_fx.tools.errors import ModelError
from tract_fx.tools.models.loaded import Task
from tract_fx.tools.models.loading import load_model

pytestmark = works("command line")


def refusal(spec: str, **arguments: object) -> str:
    """The one sentence that is said of a name."""
    with pytest.raises(ModelError) as caught:
        load_model(spec, **arguments).arguments(2)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    "spec",
    [
        "timm:test_vit",
        "timm:resnet18.a1_in1k",
        "torchvision:resnet18",
        "torchvision:r3d_18",
        "torchvision:lraspp_mobilenet_v3_large",
        "hf:vit",
        "hf:videomae",
        "hf:bert",
        "hf:t5",
        "hf:clip",
        "hf:whisper",
    ],
)
def test_a_model_is_fed_as_its_configuration_says_and_takes_no_memory(spec: str) -> None:
    loaded = load_model(spec)
    assert loaded.model.training
    assert all(parameter.is_meta for parameter in loaded.model.parameters())
    positional, keywords = loaded.arguments(3)
    assert {len(tensor) for tensor in (*positional, *keywords.values())} == {3}
    loaded.model(*positional, **keywords)  # raises where a shape does not fit


def test_a_billion_parameters_are_made_without_memory() -> None:
    model = load_model("timm:vit_giant_patch14_dinov2").model
    assert sum(parameter.numel() for parameter in model.parameters()) > 1e9
    assert all(parameter.is_meta for parameter in model.parameters())


def test_what_timm_says_of_the_model_is_used() -> None:
    loaded, config = load_model("timm:test_vit"), timm.create_model("test_vit").pretrained_cfg
    assert loaded.shape == tuple(config["input_size"])
    assert loaded.normalisation == (config["mean"], config["std"])
    (images,), _ = loaded.arguments(2)
    assert images.shape == (2, *config["input_size"])
    assert loaded.arguments(5, (3, 32, 48))[0][0].shape == (5, 3, 32, 48)


def test_a_model_with_values_when_they_are_asked_for() -> None:
    loaded = load_model("timm:test_vit", allocate=True)
    assert not any(parameter.is_meta for parameter in loaded.model.parameters())
    assert not loaded.arguments(2)[0][0].is_meta


def test_torchvision_downloads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    loaded = load_model("torchvision:fcn_resnet50", allocate=True)
    assert loaded.normalisation == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


CONFIG = {
    "model_type": "vit",
    "image_size": 24,
    "patch_size": 8,
    "num_channels": 1,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 37,
}


@pytest.mark.parametrize("name", ["", "config.json"])
def test_a_configuration_in_a_folder_or_a_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    loaded = load_model(f"hf:{tmp_path / name}")
    assert isinstance(loaded.model, transformers.ViTModel)
    assert loaded.model.config.hidden_size == 32
    assert loaded.arguments(2)[1]["pixel_values"].shape == (2, 1, 24, 24)


@pytest.mark.parametrize(
    ("content", "said"),
    [("{}", "no field 'model_type'"), ("{", "cannot be used"), ('{"model_type": "vti"}', "Unrecognized model")],
)
def test_a_configuration_that_cannot_be_used(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    assert said in refusal(f"hf:{path}")


def test_a_name_on_the_hub_says_that_it_needs_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: object, **keywords: object) -> None:
        raise OSError("We couldn't connect.\nSee the documentation.")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", unreachable)
    said = refusal("hf:google/vit-base-patch16-224")
    assert "needs a network (We couldn't connect)" in said
    assert "hf:vit" in said


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("timm:resnt50", "did you mean 'resnet50'"),
        ("timm:resnet50.a1_in1", "did you mean 'resnet50.a1_in1k'"),
        ("torchvision:resnet_50", "did you mean 'resnet50'"),
        ("torchvision:raft_small", "takes more than one tensor"),
        ("hf:vti", "did you mean 'vit'"),
        ("hf:./nowhere", "there is no such file or folder"),
        ("hf:wav2vec2", "shape of input_values; give --input, such as 16000"),
        ("hf:poolformer", "shape of pixel_values; give --input, such as 3x224x224"),
        ("resnet18", "did you mean timm:resnet18"),
        ("timm:", "write timm:NAME"),
        ("tim:resnet18", "there is no module 'tim'; did you mean 'timm'"),
        ("torch.nnn:Linear", "there is no module 'torch.nnn'; did you mean 'torch.nn'"),
        ("torch.nn:Lineaar", "torch.nn has no 'Lineaar'; did you mean 'Linear'"),
        ("torch.nn:Linear", "calling it failed: TypeError"),
        ("torch.nn:Identity", "give --input"),
        ("torch:pi", "must be a function without arguments, or a torch.nn.Module, not float"),
        ("json:dumps.nothing", "dumps has no 'nothing'"),
    ],
)
def test_a_wrong_name_is_one_sentence_with_what_was_meant(spec: str, said: str) -> None:
    sentence = refusal(spec)
    assert said in sentence
    assert spec in sentence


@pytest.mark.parametrize(
    ("source", "library"), [("timm", "timm"), ("torchvision", "torchvision"), ("hf", "transformers")]
)
def test_a_missing_library_is_named_with_the_way_to_install_it(
    monkeypatch: pytest.MonkeyPatch, source: str, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    assert refusal(f"{source}:vit").endswith(f"needs {library}; install with: pip install 'tract-fx[models]'")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(requirement.startswith(library) for requirement in extras["models"])


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's in the working directory."""
    code = """
        import torch
        from torch import nn

        calls = []
        ready = nn.Linear(6, 4)

        def net():
            return nn.Sequential(nn.Conv2d(3, 4, 3))

        def pair():
            return nn.Linear(6, 4), torch.zeros(9, 6)

        def several():
            return nn.Bilinear(6, 5, 4), (torch.zeros(9, 6), torch.zeros(9, 5))

        def named():
            return nn.Linear(6, 4), {"input": torch.zeros(9, 6)}

        def looks_at_values():
            calls.append(1)
            scale = float(torch.rand(()))
            return nn.Linear(6, 4)

        def strange():
            return nn.Linear(6, 4), 7

        def nothing():
            return None

        class Holder:
            make = staticmethod(net)
    """
    (tmp_path / "own_models.py").write_text(textwrap.dedent(code))
    (tmp_path / "broken_models.py").write_text("import not_there_at_all\n")
    (tmp_path / "failing_models.py").write_text("1 / 0\n")
    (tmp_path / "types.py").write_text("net = None\n")  # called like a module of Python's
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield "own_models"
    for name in ("own_models", "broken_models", "failing_models"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("path", ["net", "Holder.make"])
def test_a_function_of_the_user_s(own: str, path: str) -> None:
    loaded = load_model(f"{own}:{path}")
    assert loaded.on_meta
    assert loaded.arguments(2, (3, 8, 9))[0][0].shape == (2, 3, 8, 9)


@pytest.mark.parametrize("file", ["own_models.py", "./own_models.py", "../{}/own_models.py"])
def test_a_file_of_the_user_s(own: str, file: str) -> None:
    loaded = load_model(f"{file.format(Path.cwd().name)}:net")
    assert isinstance(loaded.model[0], nn.Conv2d)


@pytest.mark.parametrize("path", ["pair", "several", "named"])
def test_a_function_that_makes_its_inputs_too(own: str, path: str) -> None:
    loaded = load_model(f"{own}:{path}")
    positional, keywords = loaded.arguments(2)
    assert loaded.model(*positional, **keywords).shape == (9, 4)
    with pytest.raises(ModelError, match="makes its own inputs: leave --input out"):
        loaded.arguments(2, (6,))


def test_a_module_that_is_there_already(own: str) -> None:
    loaded = load_model(f"{own}:ready")
    assert loaded.model is sys.modules[own].ready
    assert not loaded.on_meta


def test_a_constructor_that_looks_at_values_gets_them(own: str) -> None:
    loaded = load_model(f"{own}:looks_at_values")
    assert isinstance(loaded.model, nn.Linear)
    assert not loaded.on_meta
    assert len(sys.modules[own].calls) == 2


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("own_models:pear", "own_models has no 'pear'; did you mean 'pair'"),
        ("own_model:net", "there is no module 'own_model'; did you mean 'own_models'"),
        ("own_models:nothing", "must return a torch.nn.Module, or a pair of one and its inputs, not NoneType"),
        ("own_models:strange", "inputs must be a tensor, a tuple or a dictionary, not int"),
        ("broken_models:net", "importing broken_models failed: No module named 'not_there_at_all'"),
        ("failing_models:net", "importing failing_models failed: ZeroDivisionError: division by zero"),
        ("failing_models.py:net", "importing failing_models failed: ZeroDivisionError: division by zero"),
        ("own_model.py:net", "there is no file 'own_model.py'; did you mean 'own_models.py'"),
        ("nowhere/own_models.py:net", "there is no file 'nowhere/own_models.py'"),
        ("types.py:net", "another module is called types: give the file another name"),
    ],
)
@pytest.mark.usefixtures("own")
def test_what_is_wrong_with_a_function_of_the_user_s(spec: str, said: str) -> None:
    assert said in refusal(spec)


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ("timm:test_vit", (3, 32, 32)),
        ("timm:resnet18", (1, 32, 48)),
        ("torchvision:resnet18", (3, 48, 48)),
        ("torchvision:vit_b_32", (3, 64, 64)),
        ("hf:vit", (1, 32, 32)),
        ("hf:resnet", (3, 64, 32)),
    ],
)
def test_a_classifier_for_so_many_classes_of_images_of_a_shape(spec: str, shape: tuple[int, ...]) -> None:
    model = load_model(spec, task=Task(7, shape)).model
    scores = model(torch.empty(2, *shape, device="meta"))
    assert getattr(scores, "logits", scores).shape == (2, 7)


def test_a_type_without_a_classifier_is_refused() -> None:
    assert "no image classifier of this model type" in refusal("hf:bert", task=Task(7, (3, 32, 32)))


@pytest.mark.parametrize(
    ("name", "meant"),
    [("ast", "'audio-spectrogram-transformer'"), ("AST", "'audio-spectrogram-transformer'"), ("vti", "'vit'")],
)
def test_an_abbreviation_is_understood(name: str, meant: str) -> None:
    assert f"did you mean {meant}" in refusal(f"hf:{name}")
