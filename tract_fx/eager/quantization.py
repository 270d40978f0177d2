"""Registers layers with TrAct where ``torch.ao.quantization`` looks up modules by their exact type.

Otherwise ``prepare_qat`` and ``prepare`` would leave these layers out without a warning, and ``convert`` would keep a float
layer in an int8 model. The layer that ``prepare_qat`` makes has TrAct, too. ``convert`` makes a quantised layer without it,
because a quantised layer does not train.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tract_fx.compat import quantization_mappings

__all__ = ["register"]


def register(wrapped: type, base: type, tract_class: Callable[[type], type]) -> None:
    """Register a class of layers with TrAct.

    Args:
        wrapped: the class with TrAct.
        base: the class of the plain layer.
        tract_class: returns the class with TrAct for another class of layers.
    """
    for name, table in quantization_mappings().items():
        if base not in table or wrapped in table:
            continue
        target = table[base]
        if name == "qat":
            table[wrapped] = made = tract_class(target)
            made.from_float = staticmethod(_keeping_tract(target))  # type: ignore[attr-defined]
        else:
            table[wrapped] = _Plain(target)


class _Plain:
    """Makes a quantised layer of a layer with TrAct."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def from_float(self, mod: Any, use_precomputed_fake_quant: bool = False) -> Any:
        """The quantised layer."""
        return _convert(self.target, mod, use_precomputed_fake_quant)


def _keeping_tract(target: Any) -> Callable[..., Any]:
    def from_float(mod: Any, use_precomputed_fake_quant: bool = False) -> Any:
        return mod.tract_like(_convert(target, mod, use_precomputed_fake_quant))

    return from_float


def _convert(target: Any, module: Any, use_precomputed_fake_quant: bool) -> Any:
    return target.from_float(module.plain_view(), use_precomputed_fake_quant=use_precomputed_fake_quant)
