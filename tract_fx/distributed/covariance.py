"""The closed form with a covariance of all rows of all processes: ``G (C + lam I)^-1`` is linear in ``G``.

So the mean over processes of the new gradients, which the engine takes, is the new gradient of the mean, provided that all
of them use the same ``C``: the sum of their Gram matrices divided by the sum of their rows.

There are two parts, since the matrix depends on data alone: :func:`start_covariance` runs where the backward pass begins,
and :func:`shared_gradient` where it has reached the weight's gradient. The work between them hides the communication.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tract_fx.compat import FUNCTIONAL_COLLECTIVES
from tract_fx.distributed import agreement
from tract_fx.distributed.agreement import Group
from tract_fx.errors import DisagreementError
from tract_fx.ops.gpu.verification import is_capturing
from tract_fx.ops.gram import gram
from tract_fx.ops.operands import LayerOperands
from tract_fx.ops.patches import PatchGeometry
from tract_fx.ops.solve import scale_exponent, solve_primal, trace_of
from tract_fx.source_hash import source_hash

__all__ = ["LARGEST_DYNAMIC_PRIMAL", "Sharing", "agree", "order_after", "shared_gradient", "start_covariance"]

functional = FUNCTIONAL_COLLECTIVES

# Above this many features an n x n covariance is not computed where r x r will do, even if that needs a guard on the batch
# size, and it is never summed over processes: in float64 it takes 128 MiB, and a hundred thousand pixels would take 75 GiB.
LARGEST_DYNAMIC_PRIMAL = 4096

# Numbers summed beside the Gram matrix: the rows, and four whose sums must be the number of ranks times each rank's own.
SUMMED = 5
# Variances below this, relative to the squared mean, are rounding.
ROUNDING = 1e-12


class Sharing(NamedTuple):
    """The processes that share the covariance of a layer.

    Attributes:
        groups: process groups; their sums are taken one after the other.
        layer: the terms that must be the same on every rank, in JSON; a constant of the graph.
        relative: whether ``lam`` is in units of the mean eigenvalue of the covariance of all.
    """

    groups: tuple[Group, ...]
    layer: str
    relative: bool = False

    @classmethod
    def of(
        cls,
        groups: tuple[Group, ...],
        weights: tuple[str, ...],
        features: Sequence[int],
        channel_groups: int,
        dtype: torch.dtype,
        *,
        relative: bool = False,
    ) -> Sharing:
        """Sharing of one layer; names, sizes, dtype, ``relative`` and this package must be the same on every rank.

        There are several numbers of features where the covariance consists of blocks.
        """
        terms = {
            "weights": weights,
            "features": features[0] if len(features) == 1 else list(features),
            "groups": channel_groups,
            "dtype": str(dtype),
            "relative": relative,
            "tract-fx": source_hash()[:12],
        }
        return cls(groups, json.dumps(terms, sort_keys=True), relative)

    @property
    def names(self) -> str:
        """Names of the process groups, separated by commas."""
        return ",".join(group.name for group in self.groups)

    @property
    def size(self) -> int:
        """Number of ranks in all groups together."""
        return math.prod(group.size for group in self.groups)


@torch.library.custom_op("tract_fx::agree", mutates_args=())
def agree(lam: Tensor, exponent: Tensor | None, after: Tensor, rows: int, group_names: str, layer: str) -> Tensor:
    """Check, once for each layer, that all ranks are about to share its covariance.

    Args:
        lam: one element.
        exponent: one element, if inputs are scaled.
        after: not read. It is an input of the backward pass and keeps whatever depends on it there.
        rows: number of rows of this process.
        group_names: names of the process groups, separated by commas.
        layer: see :class:`Sharing`.

    Returns:
        ``(SUMMED + 1,)`` in float64: rows, ``lam``, its square, a number for the layer, its square, and the exponent.

    Raises:
        DisagreementError: naming the ranks.
    """
    if not is_capturing(lam.device):
        for name in group_names.split(","):
            agreement.agree_once(name, layer, lam.item)
    own = lam.reshape(()).to(torch.float64)
    number = own.new_full((), 1 + zlib.crc32(layer.encode()) % 2**16)
    last = torch.zeros_like(own) if exponent is None else exponent.to(torch.float64)
    return torch.stack([own.new_full((), rows), own, own * own, number, number * number, last])


@agree.register_fake
def _(lam: Tensor, exponent: Tensor | None, after: Tensor, rows: int, group_names: str, layer: str) -> Tensor:
    return lam.new_empty(SUMMED + 1, dtype=torch.float64)


@torch.library.custom_op("tract_fx::hold", mutates_args=())
def order_after(tensor: Tensor, started: Tensor) -> Tensor:
    """A copy of ``tensor`` that orders its users after ``started``, which is not read.

    Inductor sorts kernels by the memory they need, and would otherwise start the communication where it is awaited.
    """
    return tensor.clone()


@order_after.register_fake
def _(tensor: Tensor, started: Tensor) -> Tensor:
    return torch.empty_like(tensor)


@torch.library.custom_op("tract_fx::await_sums", mutates_args=())
def await_sums(started: Tensor, gradient: Tensor, lam: Tensor, group_names: str, layer: str, size: int) -> Tensor:
    """Wait for the sums over ``size`` ranks, and on the CPU, where reading a number costs nothing, check them.

    Args:
        started: the result of an all-reduce.
        gradient: not read; waiting begins when it has been computed, and no sooner.
        lam: this rank's ``lam``.
        group_names: names of the process groups, separated by commas.
        layer: see :class:`Sharing`.
        size: number of ranks in all groups together.

    Raises:
        DisagreementError: on every rank, when ``lam`` or the layer is not the same on all.
    """
    packed = functional.wait_tensor(started)
    if packed.device.type == "cpu":
        _check(packed[-SUMMED:].tolist(), lam, group_names.split(","), layer, size)
    return packed.clone()


@await_sums.register_fake
def _(started: Tensor, gradient: Tensor, lam: Tensor, group_names: str, layer: str, size: int) -> Tensor:
    return torch.empty_like(started)


def _check(sums: list[float], lam: Tensor, names: list[str], layer: str, size: int) -> None:
    _, first, first_squared, second, second_squared = sums
    for total, squares in ((first, first_squared), (second, second_squared)):
        if size * squares - total * total > ROUNDING * total * total and not any(map(agreement.is_simulated, names)):
            for name in names:
                agreement.disagree(name, layer, lam.item)
            raise DisagreementError(f"Processes of the groups {', '.join(names)} disagree about {layer}.")


def start_covariance(
    systems: Sequence[tuple[Tensor, PatchGeometry]],
    rows: int,
    lam: Tensor,
    after: Tensor,
    sharing: Sharing,
) -> tuple[Tensor, Tensor]:
    """Start to sum the Gram matrices of all processes.

    Args:
        systems: what the layer saw, ``(batch, channels, *spatial)`` or ``(r, n)``, and how rows are taken from it; several
            where the covariance consists of blocks.
        rows: ``r``, of this process.
        lam: positive, one element.
        after: see :func:`agree`.
        sharing: the processes that share it.

    Returns:
        The sum in progress, for :func:`shared_gradient`, and the exponent of the power of two that scales inputs down.
    """
    inputs = [input for input, _ in systems]
    scaled = bool(inputs) and inputs[0].dtype == torch.float64
    own = _largest_exponent(inputs) if scaled else None
    header = agree(lam, own, after, rows, sharing.names, sharing.layer)
    exponent = header[SUMMED:]
    if scaled:
        for group in sharing.groups:
            exponent = functional.wait_tensor(functional.all_reduce(exponent, "max", group.name))
        inputs = [input / torch.exp2(exponent) for input in inputs]
    grams = [gram(input, geometry).flatten() for input, (_, geometry) in zip(inputs, systems, strict=True)]
    packed = torch.cat([*grams, header[:SUMMED]])
    for group in sharing.groups[:-1]:
        packed = functional.wait_tensor(functional.all_reduce(packed, "sum", group.name))
    return functional.all_reduce(packed, "sum", sharing.groups[-1].name), exponent


def shared_gradient(
    started: Tensor,
    exponent: Tensor,
    operands: LayerOperands,
    lam: Tensor,
    sharing: Sharing,
) -> list[Tensor]:
    """``G (C + lam I)^-1`` with this process's ``G`` and the covariance of all.

    Args:
        started: the first result of :func:`start_covariance`.
        exponent: its second result.
        operands: of the layer on this process.
        lam: positive, one element.
        sharing: the processes that share it.

    Returns:
        ``(groups, m, n)`` for each, in float64; ``G`` itself where the factorisation fails, which it then does on all ranks.
    """
    gradients = operands.exact_gradients()
    last = gradients[-1] if gradients else started
    packed = await_sums(started, last, lam, sharing.names, sharing.layer, sharing.size)
    sizes = [gradient.shape[0] * gradient.shape[2] ** 2 for gradient in gradients]
    *grams, header = packed.split([*sizes, SUMMED])
    rows, scale = header[0].clamp(min=1), torch.exp2(exponent)
    covariances = [
        gram.view(len(gradient), gradient.shape[2], -1) / rows for gram, gradient in zip(grams, gradients, strict=True)
    ]
    if sharing.relative:
        lam = operands.lam_of_traces([trace_of(covariance) for covariance in covariances], lam, scale)
    return [solve_primal(*pair, lam, scale) for pair in zip(covariances, gradients, strict=True)]


def _largest_exponent(inputs: Sequence[Tensor]) -> Tensor:
    exponents = [scale_exponent(input) for input in inputs if input.numel()]
    return torch.stack(exponents).amax() if exponents else inputs[0].new_zeros(())
