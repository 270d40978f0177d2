"""A graph as Dynamo passes it to the backend, with the facts that are known only there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.fx import Graph

from tract_fx import compat
from tract_fx.compile.lam_input import LamInput
from tract_fx.distributed.agreement import Group
from tract_fx.distributed.groups import process_count
from tract_fx.options import TractOptions
from tract_fx.passes.first_layer import Findings
from tract_fx.passes.joint_graph import GraphInput, Role
from tract_fx.passes.naming import Naming
from tract_fx.passes.rewrite import Decompositions
from tract_fx.passes.tract_pass import TractPass

__all__ = ["Captured"]


@dataclasses.dataclass(frozen=True)
class Captured:
    """A graph that Dynamo captured, and what is known about it before AOTAutograd traces it.

    Attributes:
        gm: the captured graph.
        example_inputs: parameters, fake tensors and symbolic sizes, one for each input.
        inputs: the name and the role of each input.
        naming: translates Dynamo's names into those of the user's model.
        settings: the options of this compile.
        groups: process groups that share the covariance; empty for none.
    """

    gm: torch.fx.GraphModule
    example_inputs: Sequence[Any]
    inputs: tuple[GraphInput, ...]
    naming: Naming
    settings: TractOptions
    groups: tuple[Group, ...] = ()

    @property
    def parameter_device(self) -> torch.device | None:
        """Device of the first trainable parameter; None when there is none."""
        pairs = zip(self.inputs, self.example_inputs, strict=True)
        return next((example.device for item, example in pairs if item.role is Role.PARAMETER), None)

    @property
    def has_rows_of_all(self) -> bool:
        """Whether the model is distributed over all processes, so that no other has rows that this one has not."""
        stage = compat.active_stage()
        if stage is not None and stage.group_size == process_count():
            return True
        spread = [item for item in self.example_inputs if compat.is_distributed_tensor(item)]
        return any(item.device_mesh.size() == process_count() for item in spread)

    def tract_pass(
        self,
        lam: LamInput,
        on_findings: Callable[[Findings], None],
        *,
        identity: tuple[Any, ...] = (),
        decompositions: Callable[[], Decompositions] = dict,
        before: Sequence[Callable[[Graph], None]] = (),
        watch: Callable[[Graph], AbstractContextManager[Any]] = nullcontext,
    ) -> TractPass:
        """Create the pass for this graph; arguments as in :class:`~tract_fx.passes.tract_pass.TractPass`."""
        return TractPass(
            self.inputs,
            self.settings.layers,
            lam.node_in,
            identity,
            on_findings,
            decompositions,
            before,
            self.naming,
            self.groups,
            watch,
            relative=self.settings.relative,
        )
