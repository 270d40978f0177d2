"""Tables, signals and images are judged each by their own measure, and spoken of in their own words."""

import pytest
import torch
from torch import Tensor, nn

from support.works import works
from tract_fx import ConcernKind, Probe, probe
from tract_fx.probing.channels import constant_channels, duplicated_channels

pytestmark = works("probe")


def table(features: int) -> nn.Module:
    return nn.Sequential(nn.Linear(features, 8), nn.ReLU(), nn.Linear(8, 2))


def probed(x: Tensor, model: nn.Module | None = None, lam: float = 0.1) -> Probe:
    labels = torch.arange(len(x)) % 2
    return probe(table(x.shape[1]) if model is None else model, [(x, labels)], lam)


def kinds(found: Probe) -> list[ConcernKind]:
    return [concern.kind for concern in found.warnings]


def one_hot(count: int, classes: int) -> Tensor:
    return nn.functional.one_hot(torch.randint(0, classes, (count,)), classes).float()


def test_features_in_other_units_are_not_constant() -> None:
    """Columns of a table that vary by a tenth of their mean, but 100,000 times less than the widest one."""
    units = torch.logspace(-3, 3, 12)
    x = units * (1 + 0.1 * torch.randn(256, 12) @ torch.randn(12, 12) / 12**0.5)
    found = probed(x)
    assert kinds(found) == [ConcernKind.NOT_STANDARDISED]
    assert found.layers[0].values.dead == ()
    assert "each feature" in found.warnings[0].advice
    assert "relative=True" not in found.warnings[0].advice  # has one unit for all features
    standardised = (x - x.mean(0)) / x.std(0)
    assert probed(standardised).warnings == ()


def test_features_in_units_below_that_of_the_others_are_told_as_such() -> None:
    x = torch.randn(256, 6) @ torch.randn(6, 6)
    x[:, 2] *= 1e-5
    found = probed(x)
    assert kinds(found) == [ConcernKind.DIFFERENT_UNITS]
    assert "features are in different units" in found.verdict


@pytest.mark.parametrize("offset", [0.0, 0.3, 1.7e9])
def test_a_feature_without_variation_is_constant_at_every_scale(offset: float) -> None:
    x = torch.randn(64, 3, dtype=torch.float64)
    x[:, 1] = offset
    x[:, 2] = 1.7e9 + 1e4 * x[:, 2]
    std = (x.square().mean(0) - x.mean(0).square()).clamp(min=0).sqrt()  # with the rounding of sums of squares
    assert constant_channels(std, x.amin(0), x.amax(0)) == (1,)


def test_the_rounding_of_nearly_constant_features_makes_no_copies() -> None:
    """Means of products in float64 of 1e9 plus a noise of one: their rounding is larger than the variance."""
    x = 1e9 + torch.randn(3, 500, dtype=torch.float64)
    assert duplicated_channels(x.mean(1), x.std(1), x @ x.T / 500) == ()


def test_nothing_is_said_of_one_hot_columns() -> None:
    x = torch.cat([one_hot(256, 40), one_hot(256, 4), torch.randn(256, 3)], 1)
    assert probed(x).warnings == ()
    assert probed(x[:, :44]).warnings == ()
    assert probed(x).layers[0].values.zero_one == tuple(range(44))


def test_only_the_other_columns_are_to_be_standardised() -> None:
    x = torch.cat([one_hot(256, 5), 1000 * torch.rand(256, 3)], 1)
    found = probed(x)
    assert kinds(found)[0] is ConcernKind.NOT_STANDARDISED
    assert "columns of 0 and 1 can stay as they are" in found.warnings[0].advice
    numeric = x[:, 5:]
    assert f"values from {numeric.min():.3g} to {numeric.max():.3g}" in found.verdict  # not from the 0 of the columns


def test_a_single_feature_is_not_a_blank_sample() -> None:
    assert probed(torch.randn(64, 1)).warnings == ()


def test_rows_of_zeros_are_usual_where_columns_are_few_and_binary() -> None:
    assert probed((torch.rand(256, 4) < 0.3).float()).warnings == ()


def signals(x: Tensor) -> Probe:
    net = nn.Sequential(nn.Conv1d(x.shape[1], 8, 9, 4), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    return probed(x, nn.Sequential(net, nn.Linear(8, 2)))


def test_a_quiet_recording_is_told_in_words_of_sound() -> None:
    wave = torch.randn(32, 1, 800).cumsum(-1)
    wave = (wave - wave.mean(-1, keepdim=True)) / wave.std(-1, keepdim=True)
    assert signals(wave).warnings == ()
    found = signals(0.03 * wave)
    assert kinds(found) == [ConcernKind.LOW_CONTRAST]
    assert "signals are very quiet" in found.verdict
    assert not any(word in str(found) for word in ("image", "pixel", "feature "))


def test_a_volume_and_a_clip_are_no_images() -> None:
    scans = torch.randn(16, 1, 8, 8, 8).cumsum(2).cumsum(3).cumsum(4)
    scans[:8] = 0.5
    scans[8:] = (scans[8:] - scans[8:].mean()) / scans[8:].std()
    net = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2))
    found = probed(scans, net)
    assert "50 % of the 16 volumes are nearly constant" in found.verdict
    assert "empty volumes" in found.warnings[0].advice


def test_a_table_is_spoken_of_as_one() -> None:
    x = 0.01 * torch.randn(64, 5) @ torch.randn(5, 5)
    found = probed(x)
    assert kinds(found) == [ConcernKind.LOW_CONTRAST]
    assert "features hardly vary" in found.verdict
    assert not any(word in str(found) for word in ("image", "channel", "contrast"))


def test_a_raised_lam_is_told_with_its_value() -> None:
    """Beside Unix times float64 cannot tell 0.1 from zero: the least that it can is 8 n eps tr(C)."""
    x = torch.cat([torch.randn(64, 8), 1.7e9 + 3e7 * torch.rand(64, 1)], 1)
    found = probed(x)
    assert kinds(found) == [ConcernKind.NOT_STANDARDISED, ConcernKind.LAM_RAISED]
    least = 8 * 9 * torch.finfo(torch.float64).eps * x.double().square().sum(1).mean().item()
    assert found.layers[0].raised == pytest.approx(least, rel=1e-6)
    assert f"raised to {least:.2g}" in found.warnings[1].sentence
    assert probed(x, lam=1e5).layers[0].raised is None
    assert probed(x[:, :8]).layers[0].raised is None


def test_a_lam_that_is_raised_in_the_dual_form_is_measured_there() -> None:
    x = 1e7 * torch.rand(4, 50)
    model = nn.Linear(50, 4)
    found = probe(model, [x], loss=lambda output, item: output.sum())
    least = 8 * 4 * torch.finfo(torch.float64).eps * x.double().square().sum(1).mean().item()
    assert found.layers[0].raised == pytest.approx(least, rel=1e-6)
