"""The nodes of a layer, by name: what is left of a match when its graph has been changed."""

from __future__ import annotations

import dataclasses

from tract_fx.passes.first_layer import Match

__all__ = ["LayerNodes"]


@dataclasses.dataclass(frozen=True)
class LayerNodes:
    """Names of nodes of the joint graph before it is changed.

    Attributes:
        input: what the layer multiplies, as its operator saw it.
        weight: the weight operand, likewise.
        output: the result of the forward call.
        output_gradient: from which the weight's gradient is computed.
        gradient: the plain gradient of the weight operand.
    """

    input: str
    weight: str
    output: str
    output_gradient: str
    gradient: str

    @classmethod
    def of(cls, match: Match) -> LayerNodes:
        """From a match, its graph as it was found in."""
        call, gradient = match.call, match.gradient
        nodes = call.input, call.weight, call.output, gradient.output_gradient, gradient.node
        return cls(*(node.name for node in nodes))
