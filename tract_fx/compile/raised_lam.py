"""Looking once at what feeds a compiled layer, to say where ``lam`` is raised.

Only an input of the graph can be looked at, which reaches the layer as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tract_fx.compile.lam_input import LamValue
from tract_fx.raised_lam import can_be_asked, warn_where_raised
from tract_fx.records import GraphRecord, LayerMatch

__all__ = ["watching_lam"]


def watching_lam(call: Callable[..., Any], record: GraphRecord, lam: LamValue, warned: set[str]) -> Callable[..., Any]:
    """``call``, which looks at its inputs once; ``call`` itself where no layer is fed with an input.

    Args:
        call: runs a compiled graph.
        record: the findings of the graph.
        lam: of the backend.
        warned: keys of the warnings that are not to be repeated.
    """
    fed = [(match, source) for match, source in zip(record.matches, record.sources, strict=True) if source is not None]
    if not fed:
        return call
    waiting = [fed]

    def watched(*args: Any) -> Any:
        if waiting and torch.is_grad_enabled():
            for match, source in waiting.pop():
                _look(match, args[source], lam.value, warned)
        return call(*args)

    return watched


def _look(match: LayerMatch, input: Any, lam: float, warned: set[str]) -> None:
    # A relative lam grows with the inputs.
    if not match.relative and isinstance(match.size, int) and can_be_asked(input):
        warn_where_raised(match.name, input, match.features, match.size, lam, warned)
