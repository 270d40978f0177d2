"""What is unusual about a layer's data, or about ``lam``, in words.

A consequence is not reported beside its cause: raw pixels are ill-conditioned and make ``lam`` too small, but the
remedy is to standardise them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tract_fx.probing.harm import likely_harm
from tract_fx.probing.result import Concern, ConcernKind, LayerProbe
from tract_fx.probing.value_checks import VALUE_CHECKS, Found, of_passes

__all__ = ["diagnose"]

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

Check = Callable[[LayerProbe], Iterator[Found]]

# Kinds that are a mere consequence of another one.
CONSEQUENCES = {
    ConcernKind.NOT_STANDARDISED: (
        ConcernKind.ILL_CONDITIONED,
        ConcernKind.LAM_TOO_SMALL,
        ConcernKind.DIFFERENT_UNITS,
    ),
    ConcernKind.LAM_RAISED: (ConcernKind.ILL_CONDITIONED, ConcernKind.LAM_TOO_SMALL),
    ConcernKind.HARM: (ConcernKind.FEW_ROWS,),
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


def _lam(probe: LayerProbe) -> Iterator[Found]:
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


def _raised(probe: LayerProbe) -> Iterator[Found]:
    if probe.raised is not None:
        yield (
            ConcernKind.LAM_RAISED,
            f"lam={probe.lam:g} is raised to {probe.raised:.2g} in squared inputs, the least that float64 can tell from "
            "zero beside the largest of them",
            "The gradients of all features are divided by at least that. Bring the inputs with the largest values to the "
            "scale of the others.",
        )


def _rows(probe: LayerProbe) -> Iterator[Found]:
    rows = max(probe.rows, default=0)
    if 0 < rows < probe.features:
        yield (
            ConcernKind.FEW_ROWS,
            f"a batch has {rows:,} rows, fewer than the {probe.features:,} features",
            "Its covariance fits the batch rather than the data. Take a larger lam, or larger batches.",
        )


def _gradient(probe: LayerProbe) -> Iterator[Found]:
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
            f"its gradient is zero in {of_passes(probe.zero_gradients, probe.passes)}",
            "Either the loss does not depend on it, or a part of the model that starts at zero hides it: probe a model that "
            "has been trained for some steps, or give another loss.",
        )


CHECKS: tuple[Check, ...] = (*VALUE_CHECKS, _lam, _raised, _rows, likely_harm, _gradient)
