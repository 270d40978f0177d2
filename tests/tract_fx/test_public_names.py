"""What users import and what they have pickled stays where it is, wherever the code behind it moves."""

import pickle
import warnings
from pathlib import Path

import pytest
import torch

import tract_fx
from tract_fx.eager.layers import TrActLayer

# Written by the first layout of the package: one object of every class that a user may have kept.
PICKLED = Path(__file__).parents[1] / "data" / "version_0_1.pkl"

PUBLIC = (
    "BackendGroup CaptureError Concern ConcernKind CosineLam DisagreementError Explanation LamScheduler LayerMatch "
    "LayerProbe LayerRejection OptionError Probe ProbeError TrAct TrActLayer TractBackend TractError TractOptions "
    "TractWarning UnknownLayerError UnsupportedLayerError UnsupportedTorchError apply_tract "
    "as_default_backend backend_of explain probe remove_tract tract_backend"
)
OPERATORS = (
    "patch_gram",
    "alike_gradients",
    "gram_and_gradient",
    "weight_gradient",
    "primal_gradient",
    "dual_gradient",
    "agree",
    "hold",
    "await_sums",
    "observe",
)


@pytest.mark.parametrize("name", PUBLIC.split())
def test_public_names_can_be_imported(name: str) -> None:
    assert name in tract_fx.__all__
    assert getattr(tract_fx, name).__name__.startswith(name)


def test_operators_keep_their_names() -> None:
    import tract_fx.backend
    import tract_fx.distributed.covariance
    import tract_fx.probing.operator  # noqa: F401 - registers an operator

    assert all(hasattr(torch.ops.tract_fx, name) for name in OPERATORS)


@pytest.fixture(scope="module")
def kept() -> dict:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch's own classes in graphs that an old version pickled
        return pickle.loads(PICKLED.read_bytes())


def test_old_pickles_of_records_and_options_can_be_read(kept: dict) -> None:
    assert kept["options"] == tract_fx.TractOptions(lam=0.2, layers=("conv1",))
    assert not kept["options"].relative
    assert not kept["match"].relative
    assert kept["record"].matches == (kept["match"],)
    assert kept["record"].rejections == (kept["rejection"],)
    assert [str(error) for error in kept["errors"]] == ["m"] * len(kept["errors"])


def test_old_pickles_of_layers_and_schedules_still_work(kept: dict) -> None:
    assert isinstance(kept["conv"], TrActLayer)
    assert not kept["conv"].relative
    assert kept["conv"].lam == kept["schedule"].get_last_lam()
    kept["linear"](torch.ones(2, 5)).sum().backward()
    assert kept["linear"].weight.grad.isfinite().all()


def test_old_pickles_of_explanations_and_probes_can_be_shown(kept: dict) -> None:
    assert kept["explanation"].matches[0].weight == kept["probe"].layers[0].weights[0]
    assert "rewritten" in str(kept["explanation"])
    assert kept["probe"].to_dict()
