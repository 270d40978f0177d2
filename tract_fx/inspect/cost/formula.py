"""Expressions in the sizes of a graph as they are set by hand."""

from __future__ import annotations

import re
from typing import Any

import sympy
from markupsafe import Markup, escape
from sympy.printing.precedence import PRECEDENCE
from sympy.printing.str import StrPrinter

__all__ = ["formula"]

THIN_SPACE = "\u2009"


class _Printer(StrPrinter):
    """Floors as brackets, whichever class they are of."""

    def _print(self, expr: Any, **arguments: Any) -> str:
        # torch's class prints itself, with more brackets than it takes.
        if type(expr).__name__ in ("FloorDiv", "CleanDiv"):
            base, divisor = (self.parenthesize(argument, PRECEDENCE["Mul"]) for argument in expr.args)
            return f"⌊{base}/{divisor}⌋"
        return super()._print(expr, **arguments)

    def _print_floor(self, expr: sympy.Expr) -> str:
        return f"⌊{self._print(expr.args[0])}⌋"

    def _print_Max(self, expr: sympy.Expr) -> str:  # noqa: N802
        return f"max({', '.join(map(self._print, expr.args))})"

    def _print_Min(self, expr: sympy.Expr) -> str:  # noqa: N802
        return f"min({', '.join(map(self._print, expr.args))})"


def formula(expr: sympy.Expr) -> Markup:
    """HTML, with raised powers, dots between factors and digits in groups of three."""
    text = re.sub(r"(?<!\w)\((⌊[^⌊⌋]*⌋)\)", r"\1", str(escape(_Printer().doprint(expr))))
    text = re.sub(r"\*\*(\d+)", r"<sup>\1</sup>", text)
    text = re.sub(r"(?<![\w.])\d{5,}", lambda found: f"{int(found[0]):,}".replace(",", THIN_SPACE), text)
    return Markup(text.replace("*", "·"))
