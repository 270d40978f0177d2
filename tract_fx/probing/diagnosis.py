"""What is unusual about a layer's data, or about ``lam``, in words.

A consequence is not reported beside its cause: raw pixels are ill-conditioned and make ``lam`` too small, but the
remedy is to standardise them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from tract_fx.probing.result import Concern, ConcernKind, LayerProbe, ValueSummary

__all__ = ["dead_channels", "diagnose", "duplicated_channels"]

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

# Of the spread of the other channels: no channel of natural images is a thousand times flatter than another.
DEAD_SHARE = 1e-3

# Red and green of photographs correlate at 0.9 to 0.99, of nearly grey ones at 0.999; copies rounded to bfloat16 at 0.99999.
COPIES = 0.9999

# Single features of a linear layer are constant in many data sets (borders of digits); a third is a channel of an image.
MANY_FEATURES = 0.3

# From ten times the largest eigenvalue on, 1 / (s + lam) is the same in all directions up to a tenth.
LARGE_LAM = 10.0

# Below a hundredth of the smallest eigenvalue lam changes nothing by more than a hundredth.
SMALL_LAM = 0.01

# A lam up to here is one for standardised inputs: where it is too large, it is the inputs that are small.
LARGEST_USUAL_LAM = 1.0

# Raw pixels have 1e6 to 1e8 at lam = 0.1, and there the rounding of a float32 gradient alone was seen to change the result
# in the fourth to third digit; standardised ones have less than 1e4 up to 768 features.
ILL_CONDITIONED = 1e6

# All eigenvalues within a factor of two are one value and the scatter of a sample; photographs give 1e2 to 1e6.
WHITE_CONDITION = 2.0

STANDARDISE = "Subtract the mean of each channel and divide by its standard deviation"
CHANNELS_SHOWN = 4

Check = Callable[[LayerProbe], Iterator[tuple[ConcernKind, str, str]]]

# Kinds that are a mere consequence of another one.
CONSEQUENCES = {
    ConcernKind.NOT_STANDARDISED: (ConcernKind.ILL_CONDITIONED, ConcernKind.LAM_TOO_SMALL),
    ConcernKind.NEAR_CONSTANT: (ConcernKind.LOW_CONTRAST,),
}


def diagnose(probe: LayerProbe) -> tuple[Concern, ...]:
    """Everything that is unusual, causes first."""
    found = {kind: Concern(probe.name, kind, *text) for check in CHECKS for kind, *text in check(probe)}
    for cause, consequences in CONSEQUENCES.items():
        if cause in found:
            for consequence in consequences:
                found.pop(consequence, None)
    if ConcernKind.LOW_CONTRAST in found and probe.lam <= LARGEST_USUAL_LAM:
        found.pop(ConcernKind.LAM_TOO_LARGE, None)
    return tuple(found[kind] for kind in ConcernKind if kind in found)


def dead_channels(std: Tensor) -> tuple[int, ...]:
    """Channels that hardly vary while others do."""
    spread = std.square().mean().sqrt()
    if spread == 0:
        return ()
    return tuple((std <= DEAD_SHARE * spread).nonzero().flatten().tolist())


def duplicated_channels(mean: Tensor, std: Tensor, products: Tensor) -> tuple[tuple[int, ...], ...]:
    """Sets of channels that are copies of each other up to scale and offset.

    Args:
        mean: ``(channels,)``.
        std: ``(channels,)``.
        products: means of products of two channels, ``(channels, channels)``.
    """
    alive = std > DEAD_SHARE * std.square().mean().sqrt()
    scale = torch.where(alive, std, 1.0)
    correlation = (products - torch.outer(mean, mean)) / torch.outer(scale, scale)
    alike = (correlation.abs() >= COPIES) & alive[:, None] & alive
    sets: list[tuple[int, ...]] = []
    taken: set[int] = set()
    for index in (alike.sum(1) > 1).nonzero().flatten().tolist():
        if index not in taken:
            members = tuple(alike[index].nonzero().flatten().tolist())
            taken.update(members)
            sets.append(members)
    return tuple(sets)


def _not_finite(probe: LayerProbe) -> Iterator[tuple[ConcernKind, str, str]]:
    if probe.bad_inputs:
        yield (
            ConcernKind.NOT_FINITE,
            f"the inputs hold NaN or infinity in {_of(probe.bad_inputs, probe.passes)}",
            "They make every gradient NaN. Look for a division by a standard deviation of zero, or a logarithm of zero, in "
            "the loader.",
        )
    elif probe.bad_gradients:
        yield (
            ConcernKind.NOT_FINITE,
            f"the gradient holds NaN or infinity in {_of(probe.bad_gradients, probe.passes)}, though the inputs are finite",
            "TrAct does not repair it. Lower the learning rate or the loss scale, or use bfloat16 instead of float16.",
        )


def _not_standardised(probe: LayerProbe) -> Iterator[tuple[ConcernKind, str, str]]:
    values = probe.values
    if values is None:
        return
    low, high = values.minimum.min().item(), values.maximum.max().item()
    seen = f"inputs are not standardised: values from {low:.3g} to {high:.3g}, {_per_channel(values)}"
    if values.overall_std > LARGE_STD and not probe.relative:
        advice = (
            f"{STANDARDISE}, or give relative=True; lam={probe.lam:g} has the unit of squared inputs and is meant for a "
            "variance of 1."
        )
        yield ConcernKind.NOT_STANDARDISED, seen, advice
    elif values.near_constant <= 0.5 and (_one_sign(low, high) or values.mean_share > LARGE_MEAN_SHARE):
        sign = ", all positive" if low >= 0 else ", all negative" if high <= 0 else ""
        offset = f"; the mean alone is {_percent(values.mean_share)} of their second moment"
        advice = f"{STANDARDISE}: TrAct's covariance is not centred, so that the mean is its leading direction."
        yield ConcernKind.NOT_STANDARDISED, seen + sign + offset, advice


def _one_sign(low: float, high: float) -> bool:
    return (low >= 0 or high <= 0) and low != high


def _contrast(probe: LayerProbe) -> Iterator[tuple[ConcernKind, str, str]]:
    values = probe.values
    if values is None:
        return
    if values.near_constant >= MANY_NEAR_CONSTANT:
        yield (
            ConcernKind.NEAR_CONSTANT,
            f"{_percent(values.near_constant)} of the {values.samples:,} samples are nearly constant"
            + (f" ({_percent(values.constant)} exactly)" if values.constant else ""),
            "A first layer learns only the mean from them. Look for unreadable files, blank pages and black frames.",
        )
    contrast = values.contrast
    if contrast is None:
        return
    small = not probe.relative and contrast < LOW_CONTRAST and contrast**2 < probe.lam
    unit = probe.eigenvalues.sum().item() / (len(probe.eigenvalues) * probe.features) if probe.relative else 1.0
    if small or contrast < LOW_CONTRAST * values.overall_std:
        yield (
            ConcernKind.LOW_CONTRAST,
            f"contrast is very low: the standard deviation within a sample is {contrast:.2g}, where that of standardised "
            "images is 0.5 to 1",
            f"{STANDARDISE}, with the constants of this data set; or take lam near {contrast**2 / 10 / unit:.1g}, a tenth "
            "of their variance.",
        )


def _channels(probe: LayerProbe) -> Iterator[tuple[ConcernKind, str, str]]:
    values = probe.values
    if values is None or values.near_constant == 1:
        return
    count, is_image = len(values.std), bool(probe.geometry.kernel_size)
    noun = "channel" if is_image else "feature"
    if values.dead and (is_image or len(values.dead) > MANY_FEATURES * count):
        yield (
            ConcernKind.DEAD_CHANNEL,
            f"{_named(noun, values.dead, count)} constant",
            "No weight that reads it learns anything but an offset. Look for a missing band, a mask, or an alpha channel.",
        )
    copies = sum(map(len, values.duplicates))
    if values.duplicates and (is_image or copies > MANY_FEATURES * count):
        more = len(values.duplicates) - 1
        yield (
            ConcernKind.DUPLICATED_CHANNELS,
            f"{_named(noun, values.duplicates[0], count)} copies of each other, up to scale and offset"
            + (f", and so in {more} more sets" if more else ""),
            "Their covariance is singular, and lam alone decides how the gradient is shared among them. One channel is "
            "enough for grey images.",
        )


def _lam(probe: LayerProbe) -> Iterator[tuple[ConcernKind, str, str]]:
    if not probe.eigenvalues.numel():
        return
    eigenvalues = probe.scaled_eigenvalues
    largest, smallest = eigenvalues[:, 0].max().item(), eigenvalues[:, -1].min().item()
    lam, cosine = probe.lam, probe.at_lam.cosine
    where = (
        f"Eigenvalues are {smallest:.2g} to {largest:.2g}{' times their mean' if probe.relative else ''}: a lam between "
        f"them damps some directions and leaves others; 0.1 is usual{'' if probe.relative else ' for standardised inputs'}."
    )
    if largest > 0 and lam > LARGE_LAM * largest:
        seen = "" if cosine is None else f": the cosine between TrAct's gradient and the plain one is {cosine:.4f}"
        yield (
            ConcernKind.LAM_TOO_LARGE,
            f"lam={lam:g} is far above the largest eigenvalue {largest:.2g}, and TrAct is a multiple of the plain gradient"
            + seen,
            where,
        )
    elif lam < SMALL_LAM * smallest:
        yield (
            ConcernKind.LAM_TOO_SMALL,
            f"lam={lam:g} is far below the smallest eigenvalue {smallest:.2g} and adds nothing",
            where,
        )
    if probe.condition_with_lam > ILL_CONDITIONED:
        advice = f"Take a larger lam: {largest / 1e4:.1g} gives a condition number of 1e4."
        with_lam = f"{probe.condition_with_lam:.1e}"
        text = f"the covariance is ill-conditioned even with lam={lam:g}: its condition number is {with_lam}"
        yield ConcernKind.ILL_CONDITIONED, text, advice


def _rows(probe: LayerProbe) -> Iterator[tuple[ConcernKind, str, str]]:
    rows = max(probe.rows, default=0)
    if 0 < rows < probe.features:
        yield (
            ConcernKind.FEW_ROWS,
            f"a batch has {rows:,} rows, fewer than the {probe.features:,} features",
            "Its covariance fits the batch rather than the data. Take larger batches, or a larger lam.",
        )


def _gradient(probe: LayerProbe) -> Iterator[tuple[ConcernKind, str, str]]:
    scale = probe.eigenvalues.max().item() if probe.eigenvalues.numel() else 0.0
    if probe.features > 1 and probe.condition < WHITE_CONDITION:
        yield (
            ConcernKind.WHITE,
            "the features are uncorrelated and have equal variance (their covariance has condition number "
            f"{probe.condition:.2g}), and TrAct only rescales the gradient",
            "TrAct has nothing to gain from any direction. Noise instead of data looks like this.",
        )
    if scale > 0 and probe.zero_gradients:
        yield (
            ConcernKind.ZERO_GRADIENT,
            f"its gradient is zero in {_of(probe.zero_gradients, probe.passes)}",
            "Either the loss does not depend on it, or a part of the model that starts at zero hides it: probe a model that "
            "has been trained for some steps, or give another loss.",
        )


CHECKS: tuple[Check, ...] = (_not_finite, _not_standardised, _contrast, _channels, _lam, _rows, _gradient)


def _of(count: int, total: int) -> str:
    return f"{count} of {total} backward passes" if total > 1 else "the only backward pass"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else f"{100 * share:.1g} %"


def _per_channel(values: ValueSummary) -> str:
    if len(values.mean) <= CHANNELS_SHOWN:
        mean, std = (", ".join(f"{item:.3g}" for item in tensor.tolist()) for tensor in (values.mean, values.std))
        return f"mean ({mean}), standard deviation ({std})" if "," in mean else f"mean {mean}, standard deviation {std}"
    return f"mean {values.mean.mean().item():.3g}, standard deviation {values.overall_std:.3g}"


def _named(noun: str, members: tuple[int, ...], count: int) -> str:
    if len(members) == 1:
        return f"{noun} {members[0]} of {count} is"
    if len(members) > CHANNELS_SHOWN:
        return f"{len(members)} of {count} {noun}s are"
    listed = ", ".join(map(str, members[:-1]))
    return f"{noun}s {listed} and {members[-1]} of {count} are"
