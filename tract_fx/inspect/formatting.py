"""Layers and numbers as people write them."""

from __future__ import annotations

from collections.abc import Sequence

import sympy
import torch

from tract_fx.ops.transposed import TransposedGeometry
from tract_fx.passes.calls import Kind, Side
from tract_fx.passes.first_layer import Match
from tract_fx.records import LayerMatch, LayerRejection

__all__ = [
    "describe_lam",
    "describe_layer",
    "human",
    "human_bytes",
    "multiple",
    "outcome",
    "percent",
    "refusal",
    "summarize",
    "times",
]

UNITS = ("", " k", " M", " G", " T", " P", " E")


def describe_layer(match: Match) -> str:
    """Kind, sizes and geometry: ``Conv2d 3->64, 7x7 stride 2``, ``ConvTranspose2d 100->512, 4x4``, ``Linear 768->384``."""
    call, shape = match.call, match.call.weight.meta["val"].shape
    if call.kind is Kind.CONVOLUTION:
        geometry = call.geometry
        kind, dims, other = "Conv", len(geometry.kernel_size), shape[1] * geometry.groups
        sizes = f"{other}->{shape[0]}"
        if isinstance(geometry, TransposedGeometry):
            kind, sizes = "ConvTranspose", f"{shape[0]}->{other}"
        parts = [f"{kind}{dims}d {sizes}"]
        parts.append(times(geometry.kernel_size))
        parts += [
            f"{name} {_common(value)}"
            for name, value in (("stride", geometry.stride), ("dilation", geometry.dilation))
            if set(value) != {1}
        ]
        groups = [f"groups {geometry.groups}"] if geometry.groups > 1 else []
        return ", ".join([parts[0], " ".join(parts[1:]), *groups])
    outputs = shape[-1] if call.side is Side.RIGHT else shape[-2] if len(shape) > 1 else 1
    if len(shape) == 3:
        return f"{call.operator} {match.groups} x {match.features}->{outputs}"
    return f"Linear {match.features}->{outputs if len(shape) > 1 else 1}"


def describe_lam(lam: float, relative: bool) -> str:
    """``0.1``, or ``0.1 tr(C)/n`` where it is in units of the mean eigenvalue of the covariance."""
    return f"{lam:g} tr(C)/n" if relative else f"{lam:g}"


def outcome(match: LayerMatch) -> str:
    """What was done to a layer: ``rewritten, primal, 147x147, 3.2 M rows``."""
    systems = f"{match.count} x " if match.count > 1 else ""
    most = "up to " if match.is_largest else ""
    rows = match.rows if isinstance(match.rows, str) else human(match.rows)
    return f"rewritten, {match.form}, {systems}{most}{match.size}x{match.size}, {rows} rows"


def refusal(rejection: LayerRejection) -> str:
    """Why a layer was not rewritten, with its name."""
    operator = f" ({rejection.op})" if rejection.op and rejection.op != rejection.name else ""
    return f"{rejection.name}{operator}: not rewritten: {rejection.reason}"


def summarize(reason: str) -> str:
    """One of Dynamo's reasons without hints, links and what only its developers need."""
    first, *others = [line.strip() for line in reason.splitlines() if line.strip()] or [""]
    explanation = next((line.partition(":")[2].strip() for line in others if line.startswith("Explanation:")), "")
    return f"{first}: {explanation}" if explanation and explanation != first else first


def human(value: int | float | sympy.Expr, unit: str = "") -> str:
    """A count with two or three digits and a prefix; an expression as it is."""
    if isinstance(value, sympy.Expr) and not value.is_number:
        return f"{value} {unit}".rstrip()
    number, prefix = float(value), 0
    while abs(number) >= 999.5 and prefix + 1 < len(UNITS):
        number, prefix = number / 1000, prefix + 1
    digits = f"{number:.0f}" if prefix == 0 or number >= 99.5 else f"{number:.1f}"
    return f"{digits}{UNITS[prefix]}{unit}" if prefix else f"{digits} {unit}".rstrip()


def human_bytes(number: int) -> str:
    """A number of bytes with a binary prefix."""
    size, units = float(number), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.0f} {units[0]}" if size >= 99.5 or units[0] == "B" else f"{size:.1f} {units[0]}"


def percent(share: sympy.Expr) -> str:
    """What is added, as a share; ``?`` while it is unknown."""
    if not share.is_number:
        return "?"
    percent = 100 * float(share)
    return f"{percent:+.0f} %" if abs(percent) >= 9.95 else f"{percent:+.2g} %"


def multiple(factor: sympy.Expr) -> str:
    """A factor; ``?`` while it is unknown."""
    if not factor.is_number:
        return "?"
    number = float(factor)
    return f"{number:.0f}×" if abs(number) >= 9.95 else f"{number:.2g}×"


def times(sizes: Sequence[int | torch.SymInt]) -> str:
    """``7x7``."""
    return "x".join(map(str, sizes))


def _common(values: Sequence[int]) -> str:
    return str(values[0]) if len(set(values)) == 1 else times(values)
