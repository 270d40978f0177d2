"""What is known of the inputs of a graph that the pass cannot see, and the warnings that follow from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch.fx import GraphModule

from tract_fx.compile.between import weights_fed_between
from tract_fx.compile.recurrent import note_fed_by_data, warn_about_cells, weights_fed_by_themselves, zeros_among
from tract_fx.compile.reporting import warn_about_inputs
from tract_fx.compile.skipped import TrainingGraph, rewritten_in
from tract_fx.passes.joint_graph import GraphInput
from tract_fx.records import GraphRecord

__all__ = ["Around"]


@dataclasses.dataclass(frozen=True)
class Around:
    """Where the inputs of a graph come from.

    Attributes:
        fed_between: names of the parameters that code between two graphs feeds.
        fed_by_themselves: names of those that are fed by what was computed with them.
        zeros: positions of inputs that are zero everywhere.
    """

    fed_between: frozenset[str]
    fed_by_themselves: frozenset[str]
    zeros: frozenset[int]

    @classmethod
    def of(cls, gm: GraphModule, inputs: Sequence[GraphInput], model: torch.nn.Module | None) -> Around:
        """Look at a graph before it is compiled, which changes it."""
        return cls(
            weights_fed_between(gm, inputs, model), weights_fed_by_themselves(gm, inputs), zeros_among(gm, inputs)
        )

    def warn(self, graph: TrainingGraph, record: GraphRecord, reported: set[str]) -> None:
        """Warn about layers that are rewritten and may be no first layers; ``reported`` has keys of the warnings given."""
        if self.fed_between:
            warn_about_inputs(record, self.fed_between, rewritten_in(graph.model), reported)
        warn_about_cells(self.fed_by_themselves, graph.held, reported)
        note_fed_by_data(record, graph.rewritten, self.zeros)
