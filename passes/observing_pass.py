"""A pass that leaves every value unchanged and shows the operands of each match to an observer while the graph runs.

Before::

    getitem_1: f32[64, 3, 7, 7] = convolution_backward[1]                             -> gradient of the parameter

After::

    getitem_1: f32[64, 3, 7, 7] = convolution_backward[1]
    observe: f32[1, 64, 147] = observe(x, getitem_1 as [1, 64, 147], dz as [1, rows, 64], weight as [1, 64, 147])
    view: f32[64, 3, 7, 7] = observe                                                  -> gradient of the parameter

The pass finds the same matches as :class:`~tract_fx.passes.tract_pass.TractPass`. The observer gets the operands in the
layout of the closed form, so that measurements refer to the system that would be solved.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from torch import Tensor
from torch.fx import Graph

from tract_fx.ops.operands import Operands, convolution_operands, laid_out_as
from tract_fx.ops.patches import PatchGeometry
from tract_fx.ops.transposed import TransposedGeometry, swap_channels
from tract_fx.passes.calls import Kind
from tract_fx.passes.first_layer import Findings, Match, find
from tract_fx.passes.joint_graph import DEFAULT_NAMING, GraphInput, JointGraph
from tract_fx.passes.naming import Naming
from tract_fx.passes.rewrite import product_operands, replace_gradient

__all__ = ["Observe", "ObservingPass"]

Observe = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""``(input, gradient, output gradient, weight) -> gradient``: an operator that returns a copy of its second argument."""


class ObservingPass:
    """Finds the first layers of a joint graph and inserts an observer for each.

    Args:
        inputs: the inputs of the graph that Dynamo captured.
        layers: ``"first"``, or names of modules and parameters.
        observer: called with a match, its geometry in the layout of ``tract_fx.ops`` and the number of outputs of one
            group; returns the operator that observes it.
        on_findings: called with the findings before anything is changed.
        naming: how layers are called.
    """

    def __init__(
        self,
        inputs: Sequence[GraphInput],
        layers: str | Sequence[str],
        observer: Callable[[Match, PatchGeometry, int], Observe],
        on_findings: Callable[[Findings], None],
        naming: Naming = DEFAULT_NAMING,
    ) -> None:
        self.inputs = tuple(inputs)
        self.layers = layers
        self.observer = observer
        self.on_findings = on_findings
        self.naming = naming

    def __call__(self, graph: Graph) -> None:
        """Find the matches and put an observer behind the gradient of each."""
        findings = find(JointGraph(graph, self.inputs, naming=self.naming), self.layers)
        self.on_findings(findings)
        for match in findings.matches:
            others = [match.call.input, match.gradient.output_gradient, match.call.weight]
            replace_gradient(match, self._formula(match), others)
        if findings.matches:
            graph.lint()

    def _formula(self, match: Match) -> Callable[..., Tensor]:
        def formula(gradient: Tensor, input: Tensor, output_gradient: Tensor, weight: Tensor) -> Tensor:
            operands = _observed(match, input, gradient, output_gradient)
            filters = _observed(match, input, weight, output_gradient).gradient
            observe = self.observer(match, operands.geometry, operands.outputs)
            seen = observe(operands.input, operands.gradient, operands.output_gradient, filters)
            return laid_out_as(operands.restore(seen), gradient)

        return formula


def _observed(match: Match, input: Tensor, gradient: Tensor, output_gradient: Tensor) -> Operands:
    """One system with all features, also for :func:`a transposed convolution <tract_fx.ops.transposed.as_convolution>`."""
    geometry = match.call.geometry
    if match.call.kind is Kind.PRODUCT:
        return product_operands(match, input, gradient, output_gradient)
    if not isinstance(geometry, TransposedGeometry):
        return convolution_operands(input, gradient, output_gradient, gradient.shape, geometry)
    weight, reverse = swap_channels(gradient, geometry.groups), tuple(range(2, gradient.dim()))
    operands = convolution_operands(input, weight, output_gradient.flip(reverse), weight.shape, geometry)
    return dataclasses.replace(operands, restore=lambda new: swap_channels(new.reshape(weight.shape), geometry.groups))
