"""What is unusual about the values that a layer is fed with: scale, contrast, constant and repeated channels."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from tract_fx.probing.result import ConcernKind, LayerProbe, ValueSummary
from tract_fx.probing.vocabulary import TABLE, words_for

__all__ = ["VALUE_CHECKS", "Found", "of_passes", "percent"]

# lam = 0.1 is meant for a standard deviation of 1. Common ways to standardise give 0.5 (pixels in -1..1) to 1.5 (black
# borders, ImageNet's constants on other images); raw pixels give about 60.
LARGE_STD = 10.0

# A mean of three standard deviations has nine tenths of the second moment: the covariance is that of the mean. Images with
# black borders, standardised with ImageNet's constants, stay below 0.85 even where four fifths are black.
LARGE_MEAN_SHARE = 0.9

# Standardised images have a standard deviation within one of 0.5 to 1; at 0.1 a feature's variance is a tenth of lam = 0.1,
# which therefore outweighs all but the leading directions.
LOW_CONTRAST = 0.1

# A few blank pages, black frames or missing files are normal in collected data.
MANY_NEAR_CONSTANT = 0.05

# No channel of natural images and no standardised feature varies a thousand times less than the others.
OTHER_UNIT = 1e-3

# Colours of photographs and features that were standardised with the constants of another data set stay above this.
SAME_UNIT = 0.1

# Single features of a linear layer are constant in many data sets (borders of digits); a third is a channel of an image.
MANY_FEATURES = 0.3

CHANNELS_SHOWN = 4
# Standard deviations further apart than this factor are shown as a range.
SIMILAR_UNITS = 4

Found = tuple[ConcernKind, str, str]


def of_passes(count: int, total: int) -> str:
    """``2 of 8 backward passes``."""
    return f"{count} of {total} backward passes" if total > 1 else "the only backward pass"


def percent(share: float) -> str:
    """A share of one in per cent."""
    return f"{100 * share:.0f} %" if share >= 0.01 else f"{100 * share:.1g} %"


def _not_finite(probe: LayerProbe) -> Iterator[Found]:
    if probe.bad_inputs:
        yield (
            ConcernKind.NOT_FINITE,
            f"the inputs hold NaN or infinity in {of_passes(probe.bad_inputs, probe.passes)}",
            "They make every gradient NaN. Look for a division by a standard deviation of zero, or a logarithm of zero, in "
            "the loader.",
        )
    elif probe.bad_gradients:
        yield (
            ConcernKind.NOT_FINITE,
            f"the gradient holds NaN or infinity in {of_passes(probe.bad_gradients, probe.passes)}, though the inputs are "
            "finite",
            "TrAct does not repair it. Lower the learning rate or the loss scale, or use bfloat16 instead of float16.",
        )


def _not_standardised(probe: LayerProbe) -> Iterator[Found]:
    values = probe.values
    if values is None or not values.measured.any():  # one-hot columns are as they should be
        return
    measured = values.of(values.measured)
    low, high = measured.minimum.min().item(), measured.maximum.max().item()
    seen = f"inputs are not standardised: values from {low:.3g} to {high:.3g}, {_per_channel(measured)}"
    if measured.overall_std > LARGE_STD and not probe.relative:
        smallest, largest = _unit_spread(measured)  # relative=True has one unit for all of them
        relative = "" if smallest < SAME_UNIT * largest else ", or give relative=True"
        advice = (
            f"{_standardise(probe, values)}{relative}; lam={probe.lam:g} has the unit of squared inputs and is meant for "
            "a variance of 1."
        )
        yield ConcernKind.NOT_STANDARDISED, seen, advice
    elif values.near_constant <= 0.5 and (_one_sign(low, high) or measured.mean_share > LARGE_MEAN_SHARE):
        sign = ", all positive" if low >= 0 else ", all negative" if high <= 0 else ""
        offset = f"; the mean alone is {percent(measured.mean_share)} of their second moment"
        why = "TrAct's covariance is not centred, so that the mean is its leading direction"
        advice = f"{_standardise(probe, values)}: {why}."
        yield ConcernKind.NOT_STANDARDISED, seen + sign + offset, advice


def _one_sign(low: float, high: float) -> bool:
    return (low >= 0 or high <= 0) and low != high


def _in_different_units(values: ValueSummary) -> bool:
    return values.std[values.measured].min().item() < OTHER_UNIT * values.of(values.measured).overall_std


def _unit_spread(values: ValueSummary) -> tuple[float, float]:
    """Smallest and largest standard deviation of the channels."""
    return values.std.min().item(), values.std.max().item()


def _standardise(probe: LayerProbe, values: ValueSummary) -> str:
    channel = words_for(probe.geometry).channel
    rest = " (columns of 0 and 1 can stay as they are)" if values.zero_one else ""
    return f"Subtract the mean of each {channel} and divide by its standard deviation{rest}"


def _different_units(probe: LayerProbe) -> Iterator[Found]:
    values = probe.values
    if values is None or not values.measured.any() or not _in_different_units(values):
        return
    channel = words_for(probe.geometry).channel
    smallest, largest = _unit_spread(values.of(values.measured))
    yield (
        ConcernKind.DIFFERENT_UNITS,
        f"{channel}s are in different units: their standard deviations are {smallest:.2g} to {largest:.2g}",
        f"{_standardise(probe, values)}: lam is the same for all of them, and hides those that vary least. One that should "
        f"vary like the others may be a dead {'column' if channel == 'feature' else 'band or sensor'}.",
    )


def _near_constant(probe: LayerProbe) -> Iterator[Found]:
    values = probe.values
    if values is None:
        return
    words = words_for(probe.geometry)
    share = values.near_constant
    if words is TABLE:
        if values.zero_one or len(values.std) == 1:  # few columns of 0 and 1 are often all the same
            return
        if values.measured.any() and _in_different_units(values):
            share = values.constant
    if share >= MANY_NEAR_CONSTANT:
        exactly = f" ({percent(values.constant)} exactly)" if values.constant else ""
        yield (
            ConcernKind.NEAR_CONSTANT,
            f"{percent(share)} of the {values.samples:,} {words.samples} are nearly constant{exactly}",
            f"A first layer learns only the mean from them. Look for {words.blank}.",
        )


def _contrast(probe: LayerProbe) -> Iterator[Found]:
    values = probe.values
    if values is None or not values.measured.any():
        return
    words = words_for(probe.geometry)
    contrast, offset = values.contrast, False
    if words is TABLE:  # features of one example need not be alike
        contrast = values.of(values.measured).overall_std
        where = "their standard deviation is"
    else:
        where = "the standard deviation within a sample is"
        offset = contrast is not None and contrast < LOW_CONTRAST * values.overall_std
    if contrast is None or contrast == 0:
        return
    small = not probe.relative and contrast < LOW_CONTRAST and contrast**2 < probe.lam
    unit = probe.eigenvalues.sum().item() / (len(probe.eigenvalues) * probe.features) if probe.relative else 1.0
    if small or offset:
        usual = "1" if words is TABLE else "0.5 to 1"
        yield (
            ConcernKind.LOW_CONTRAST,
            f"{words.low_contrast}: {where} {contrast:.2g}, where that of standardised ones is {usual}",
            f"{_standardise(probe, values)}, with the constants of this data set; or take lam near "
            f"{contrast**2 / 10 / unit:.1g}, a tenth of their variance.",
        )


def _channels(probe: LayerProbe) -> Iterator[Found]:
    values = probe.values
    if values is None or values.near_constant == 1:
        return
    words = words_for(probe.geometry)
    noun, count, is_table = words.channel, len(values.std), words is TABLE
    if values.dead and (not is_table or len(values.dead) > MANY_FEATURES * count):
        yield (
            ConcernKind.DEAD_CHANNEL,
            f"{_named(noun, values.dead, count)} constant",
            "No weight that reads it learns anything but an offset. "
            + ("Leave it out." if is_table else "Look for a missing band, a mask, or an alpha channel."),
        )
    copies = sum(map(len, values.duplicates))
    if values.duplicates and (not is_table or copies > MANY_FEATURES * count):
        more = len(values.duplicates) - 1
        yield (
            ConcernKind.DUPLICATED_CHANNELS,
            f"{_named(noun, values.duplicates[0], count)} copies of each other, up to scale and offset"
            + (f", and so in {more} more sets" if more else ""),
            "Their covariance is singular, and lam alone decides how the gradient is shared among them. "
            + ("Keep one of each set." if is_table else "One channel is enough for grey images."),
        )


VALUE_CHECKS = (_not_finite, _not_standardised, _near_constant, _contrast, _channels, _different_units)


def _per_channel(values: ValueSummary) -> str:
    if len(values.mean) <= CHANNELS_SHOWN:
        mean, std = (_listed(tensor) for tensor in (values.mean, values.std))
        return f"mean ({mean}), standard deviation ({std})" if "," in mean else f"mean {mean}, standard deviation {std}"
    smallest, largest = _unit_spread(values)
    if smallest < largest / SIMILAR_UNITS:
        return f"standard deviations from {smallest:.2g} to {largest:.3g}"
    return f"mean {values.mean.mean().item():.3g}, standard deviation {values.overall_std:.3g}"


def _listed(numbers: Tensor) -> str:
    return ", ".join(f"{item:.3g}" for item in numbers.tolist())


def _named(noun: str, members: tuple[int, ...], count: int) -> str:
    if len(members) == 1:
        return f"{noun} {members[0]} of {count} is"
    if len(members) > CHANNELS_SHOWN:
        return f"{len(members)} of {count} {noun}s are"
    listed = ", ".join(map(str, members[:-1]))
    return f"{noun}s {listed} and {members[-1]} of {count} are"
