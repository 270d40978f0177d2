"""How wide the tiles of :mod:`tract_fx.ops.gpu.kernels` are, and how many warps compute one: measured once for each layer.

What is measured decides nothing about the result. The rows of a program, of one product and of one sum are chosen from
shapes alone, in :mod:`tract_fx.ops.gpu.launch`; within a tile each entry is summed by itself; and the candidates for a
layer have one kind of matrix instruction, as another might round differently: those of a warp group for tiles of 64 and
more in 16 bits on compute capability 9, those of a warp otherwise.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

__all__ = ["TileConfig", "candidates", "chosen", "every_candidate", "tuned", "width_class"]

# What decides which configuration is the fastest, besides the dtype. The number of rows is not among it, so that a
# training run tunes each of its layers once.
KEY = [
    *("WIDTH", "GROUPS", "KERNEL", "STEP", "PADDING", "DILATION", "FLAT", "RESHAPED", "MARKED", "WIDE", "PRODUCTS"),
    *("GRAM", "GRADIENT", "COMPENSATED", "RUN", "LAYOUT", "CAPABILITY"),
]
# What the configurations to measure depend on.
CHOICE = ("WIDTH", "PRODUCTS", "RESHAPED", "FLAT", "WIDE", "KERNEL", "COMPENSATED")
WIDTHS = (16, 32, 64, 128, 192, 256, 512, 1024)

# Milliseconds for each configuration: with at most eight of them about a quarter of a second for each layer, and the
# time to compile, of which Triton's own cache on disk keeps the result.
WARM_UP_MS = 5
REPEAT_MS = 20


@dataclasses.dataclass(frozen=True)
class TileConfig:
    """One way to run the kernel: ``block`` and ``tiles`` are its ``BLOCK`` and ``TILES``."""

    block: int
    warps: int
    stages: int = 3
    tiles: int = 1


def width_class(features: int) -> int:
    """``n`` rounded up to one of a few widths that have configurations of their own."""
    return next((width for width in WIDTHS if features <= width), 2 ** math.ceil(math.log2(features)))


def candidates(arguments: Mapping[str, Any], capability: int) -> list[TileConfig]:
    """At most eight configurations, the best guess first.

    Args:
        arguments: the kernel's, of which :data:`CHOICE` is read.
        capability: the major number of the device's compute capability.
    """
    width, products, reshaped, flat, wide, kernel, compensated = (arguments[name] for name in CHOICE)
    # To find a pixel of such a patch takes divisions, and registers for what they leave.
    uneven = reshaped and any(size & (size - 1) for size in kernel)
    if width == 16:
        one_warp = [] if products == "float32" else [TileConfig(16, 1)]  # Triton 3.6 runs out of its registers
        return [TileConfig(16, 2), *one_warp, TileConfig(16, 2, 4)]
    if products != "float32":
        return _wide_products(width)
    if width == 32:
        return [TileConfig(32, 4), *([] if uneven else [TileConfig(32, 2)]), TileConfig(16, 2)]
    # The loads of a gather are not asynchronous in 16 bits, and more stages change nothing.
    if not reshaped:
        # Only warp-group instructions leave the registers for three tiles, and 64-bit addresses do not leave them.
        possible = 64 < width <= 192 and not flat and not wide and not compensated
        three = [TileConfig(64, 8, tiles=3)] if capability == 9 and possible else []
        many = [] if wide else [TileConfig(64, 4)]
        return [*three, TileConfig(64, 8), *many]
    if uneven:
        return [TileConfig(64, 8), TileConfig(64, 8, 4)]
    # Larger tiles do not fit into the registers beside those of the gradient.
    return [TileConfig(64, 4), TileConfig(64, 8), TileConfig(64, 4, 4), TileConfig(64, 8, 4)]


def _wide_products(width: int) -> list[TileConfig]:
    """Where products are slow a tile is small, so that the triangle has little beside it."""
    small = [TileConfig(32, 4), TileConfig(32, 2), TileConfig(32, 4, 4), TileConfig(16, 2)]
    return small if width == 32 else [*small[:3], TileConfig(64, 8), TileConfig(64, 8, 2)]


def every_candidate() -> list[TileConfig]:
    """All configurations, without repetition."""
    found = {
        config: None
        for width in WIDTHS
        for products in ("float32", "float64")
        for reshaped in (False, True)
        for capability in (8, 9)
        for config in candidates(
            dict(zip(CHOICE, (width, products, reshaped, False, False, (1, 1, 1), False), strict=True)), capability
        )
    }
    return list(found)


def tuned(kernel: Any) -> Any:
    """:func:`~tract_fx.ops.gpu.kernels.partial_gram`, which measures its configurations at the first call of each kind."""
    import triton

    configs = {config: as_triton(config) for config in every_candidate()}

    def prune(_: Sequence[Any], named_arguments: dict[str, Any], **arguments: Any) -> list[Any]:
        arguments = {**named_arguments, **arguments}
        return [configs[config] for config in candidates(arguments, arguments["CAPABILITY"] // 10)]

    return triton.autotune(
        list(configs.values()), KEY, prune_configs_by={"early_config_prune": prune}, do_bench=measure
    )(kernel)


def chosen(tuned_kernel: Any) -> TileConfig:
    """The configuration of a tuned kernel's latest launch."""
    best = tuned_kernel.best_config
    return TileConfig(best.kwargs["BLOCK"], best.num_warps, best.num_stages, best.kwargs["TILES"])


def as_triton(config: TileConfig) -> Any:
    """A ``triton.Config``."""
    import triton

    arguments = {"BLOCK": config.block, "TILES": config.tiles}
    return triton.Config(arguments, num_warps=config.warps, num_stages=config.stages)


def measure(call: Callable[[], object], quantiles: Sequence[float]) -> list[float]:
    """Milliseconds of a call; a constant, so that the first configuration is taken, where nothing can be measured.

    While a CUDA graph is captured, a kernel may not be waited for, and it would not run at all. Without memory for the
    buffer that clears the cache between measurements, a training step should go on.
    """
    import triton.testing

    if torch.cuda.is_current_stream_capturing():
        return [0.0] * len(quantiles)
    try:
        return triton.testing.do_bench(call, warmup=WARM_UP_MS, rep=REPEAT_MS, quantiles=list(quantiles))
    except torch.OutOfMemoryError:
        return [math.inf] * len(quantiles)
