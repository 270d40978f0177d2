"""What the boxes of a picture are called, and what is said about them."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch.fx import Node

from tract_fx.passes.joint_graph import target_of

__all__ = ["CAPTIONS", "counted", "meaning_of", "title_of", "value_of"]

# Captions of the landmarks, by the name and the form. "whole" is one operator that computes all of a form on a CPU.
CAPTIONS = {
    ("gram", "primal"): "XᵀX of all patches",
    ("gram", "dual"): "XXᵀ of all rows",
    ("gradient", "primal"): "G = dZᵀX, float64",
    ("solve", "primal"): "G (C + λI)⁻¹ by Cholesky",
    ("solve", "dual"): "dZᵀ (XXᵀ / r + λI)⁻¹ by Cholesky",
    ("choose", "primal"): "G if the factorisation failed",
    ("choose", "dual"): "G if the factorisation failed",
    ("product", "dual"): "times X",
    ("product", "primal"): "",
    ("whole", "dual"): "((XXᵀ / r + λI)⁻¹ dZ)ᵀ X",
    ("whole", "primal"): "dZᵀX (C + λI)⁻¹",
}
# The name of one of these operators stands for the nodes around it too.
_MAIN = ("convolution", "convolution_backward", "mm", "addmm", "bmm", "baddbmm")


def title_of(nodes: list[Node]) -> str:
    """The operator of a layer; if there is none among the nodes, the first two operators."""
    main = [node for node in nodes if node.op == "call_function" and target_of(node) in _MAIN]
    if len(nodes) == 1:
        return nodes[0].name if nodes[0].op != "call_function" else target_of(nodes[0])
    if len(main) == 1:
        return target_of(main[0])
    operators = list(
        dict.fromkeys(target_of(node).removeprefix("prims.") for node in nodes if node.op == "call_function")
    )
    return ", ".join(operators[:2]) + (", …" if len(operators) > 2 else "")


def meaning_of(before: Collection[object], behind: Collection[object], form: str) -> tuple[str, str] | None:
    """Title and caption of added nodes between landmarks."""
    matrix = "C" if form == "primal" else "XXᵀ / r"
    if "whole" in behind:
        return "rows of the layer", "X and dZ"
    if "whole" in before:
        return "shape, dtype", "those of the plain gradient"
    if "gram" in behind:
        return "rows of the layer", "X"
    if "solve" in behind and "gram" in before:
        return "÷ rows, + λI", f"{matrix} + λI"
    if "choose" in behind and ("product" if form == "dual" else "solve") in before:
        return "new gradient", "G′"
    if "solve" in before and "product" in behind:
        return "coefficients", "of every row"
    if "choose" in before:
        return "shape, dtype", "those of the plain gradient"
    if "solve" in behind:
        return "in float64", "the right-hand side"
    if "product" in behind:
        return "in float64", "X"
    return None


def value_of(node: Node) -> str:
    """Shape and dtype as PyTorch abbreviates them, ``f32[64, 3, 7, 7]``; of several the first."""
    value = node.meta.get("val")
    if isinstance(value, (tuple, list)):
        value = next((item for item in value if isinstance(item, torch.Tensor)), None)
    if not isinstance(value, torch.Tensor):
        return "" if value is None else f"{type(value).__name__} {value}"
    return f"{_abbreviated(value.dtype)}[{', '.join(map(str, value.shape))}]"


def _abbreviated(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    for long, short in (
        ("bfloat", "bf"),
        ("float", "f"),
        ("complex", "c"),
        ("uint", "u"),
        ("int", "i"),
        ("bool", "b8"),
    ):
        if name.startswith(long):
            return short + name.removeprefix(long)
    return name


def counted(number: int) -> str:
    """``1,234 nodes``."""
    return f"{number:,} nodes" if number != 1 else "1 node"
