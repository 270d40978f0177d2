"""The tables leave no family out and agree with what the libraries say about their own models."""

from collections import Counter

import pytest
import timm
from torchvision import models

from . import table_timm, table_torchvision
from .case import layers_of
from .tables import all_cases


def test_every_module_of_timm_has_a_model() -> None:
    assert set(table_timm.TABLE) == set(timm.list_modules())


@pytest.mark.parametrize("module", table_timm.TABLE)
def test_models_of_timm_stand_under_their_module(module: str) -> None:
    names = list(table_timm.TABLE[module])
    assert names
    assert set(names) <= set(timm.list_models(module=module))


def test_timm_calls_the_same_layers_first() -> None:
    # For these timm's configuration says nothing: the stem of csatv2 sees DCT coefficients.
    silent = {"csatv2"}
    for models_of_module in table_timm.TABLE.values():
        for name, weights in models_of_module.items():
            first = timm.get_pretrained_cfg(name).first_conv
            first = {first} if isinstance(first, str) else set(first)
            assert bool(first) != (name in silent), name
            expected = {weight.rpartition(".")[0] for layer in layers_of(weights) for weight in layer}
            assert name in silent or expected == first, name


def test_every_module_of_torchvision_has_a_model() -> None:
    tables = (table_torchvision.IMAGES, table_torchvision.VIDEOS, table_torchvision.FLOWS, table_torchvision.DETECTORS)
    listed = {
        name: module.removeprefix("torchvision.models.")
        for name in models.list_models()
        if (module := models.get_model_builder(name).__module__)
    }
    assert {module for table in tables for module in table} == set(listed.values())
    assert all(listed[name] == module for table in tables for module, names in table.items() for name in names)


def test_enough_models_of_transformers_of_every_kind() -> None:
    kinds = Counter(case.kind for case in all_cases() if case.id.startswith("transformers:"))
    assert kinds.total() >= 20
    assert set(kinds) == {"image", "image and text", "video", "audio", "time series", "text"}


def test_names_are_unique_and_every_row_expects_something() -> None:
    cases = all_cases()
    assert len({case.id for case in cases}) == len(cases)
    assert all(bool(case.layers) != bool(case.meets) for case in cases)
