"""A ``lam`` that float64 raises is said once, from the first batch; ordinary data are not remarked on."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from support.natural import natural_images, with_times
from support.parts import tract_warnings
from tract_fx import tract_backend
from tract_fx.compile import raised_lam
from tract_fx.records import GraphRecord


def said(model: nn.Module, *batches: Tensor, **options: Any) -> list[str]:
    compiled = torch.compile(model, backend=tract_backend(inner="aot_eager", **options))
    with tract_warnings() as messages:
        for batch in batches:
            compiled(batch).square().mean().backward()
    return messages


def test_a_raised_lam_is_said_once_with_the_layer_and_the_value() -> None:
    model = nn.Sequential(nn.Linear(9, 4), nn.Tanh())
    x = with_times()
    (message,) = said(model, x, x, with_times(24))
    least = 8 * 9 * torch.finfo(torch.float64).eps * x.double().square().sum(1).mean().item()
    assert message.startswith("0: lam=0.1 is raised to about ")
    assert float(re.search(r"about (\S+) for", message)[1]) == pytest.approx(least, rel=0.06)


@pytest.mark.parametrize("options", [{"lam": 1e6}, {"relative": True}, {"on_unsupported": "ignore"}], ids=str)
def test_where_it_is_not_raised_or_nobody_wants_to_know_nothing_is_said(options: dict[str, Any]) -> None:
    assert said(nn.Sequential(nn.Linear(9, 4), nn.Tanh()), with_times(), **options) == []


@pytest.mark.parametrize("kernel", [3, 16])
def test_nothing_is_said_of_raw_pixels(kernel: int) -> None:
    images = natural_images(8, 32)
    assert said(nn.Sequential(nn.Conv2d(3, 4, kernel, kernel), nn.Tanh()), images, images / 255) == []


def test_nothing_is_said_of_large_inputs_that_the_model_standardises() -> None:
    assert said(nn.Sequential(nn.BatchNorm1d(9, affine=False), nn.Linear(9, 4), nn.Tanh()), with_times()) == []


def test_the_input_is_found_behind_views() -> None:
    assert len(said(nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.Tanh()), with_times()[:, None])) == 1


def test_an_evaluation_before_it_is_not_looked_at_and_later_batches_are_not() -> None:
    model = nn.Sequential(nn.Linear(9, 4), nn.Tanh())
    compiled = torch.compile(model, backend=tract_backend(inner="aot_eager"))
    with torch.no_grad():
        compiled(torch.randn(32, 9))
    looks: list[Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raised_lam, "warn_where_raised", lambda name, input, *_: looks.append(input))
        for _ in range(2):
            compiled(torch.randn(32, 9)).sum().backward()
    assert len(looks) == 1


def test_which_input_feeds_a_layer_is_stored_with_the_record() -> None:
    record = GraphRecord(sources=(2, None))
    assert GraphRecord.from_json(record.to_json()) == record
