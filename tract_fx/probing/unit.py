"""Which unit of ``lam`` suits the data: squared inputs, as in the paper, or the mean eigenvalue of their covariance."""

from __future__ import annotations

from torch import Tensor

from tract_fx.probing.result import LayerProbe

__all__ = ["unit_of_lam"]

# The mean eigenvalue tr(C)/n is the mean square of the rows' elements: 1 for standardised inputs, 0.3 for pixels in -1..1 or
# 0..1, and 2e4 for pixels in 0..255. Between these bounds lam = 0.1 is 0.01 to 1 times the mean eigenvalue.
USUAL = (0.1, 10.0)

# Batches of one data set differ by a few per cent; where they differ by more than this, some of them are nearly empty.
VARIED_BATCHES = 4.0

# Groups of channels in different units, such as bands of a sensor.
VARIED_GROUPS = 10.0


def unit_of_lam(layer: LayerProbe) -> str:
    """Whether a relative or an absolute ``lam`` suits the data of a layer, and why, in one sentence without a full stop."""
    by_group = layer.eigenvalues.sum(-1) / layer.features if layer.eigenvalues.numel() else layer.eigenvalues
    mean = by_group.mean().item() if by_group.numel() else 0.0
    if not mean > 0:
        return ""
    here = f"{layer.lam * mean:.2g} in squared inputs" if layer.relative else f"{layer.lam / mean:.2g} of it"
    measured = f"the mean eigenvalue tr(C)/n is {mean:.2g}, and lam={layer.lam:g} is {here}"
    return f"{_suitable(mean, by_group, layer.mean_eigenvalues)}: {measured}"


def _suitable(mean: float, by_group: Tensor, by_batch: tuple[float, ...]) -> str:
    batches, groups = _spread(by_batch), _spread(by_group.tolist())
    if batches > VARIED_BATCHES:
        return f"an absolute lam on standardised inputs suits, because batches differ by a factor of {batches:.2g}"
    if groups > VARIED_GROUPS:
        return f"relative=True suits, because groups of channels differ by a factor of {groups:.2g}"
    if USUAL[0] <= mean <= USUAL[1]:
        return "an absolute and a relative lam both suit"
    return "relative=True suits, or standardised inputs"


def _spread(values: tuple[float, ...] | list[float]) -> float:
    """Largest over smallest of the values that are not zero."""
    positive = [value for value in values if value > 0]
    return max(positive) / min(positive) if positive else 1.0
