"""A graph as Dynamo hands it to the backend, with what is known about it there and nowhere later."""

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
    """A graph that Dynamo captured, and what is known about it before AOTAutograd sees it."""

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
        """Whether all processes share one model, spread over them, and so have the same rows."""
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
        """The pass for this graph; arguments as in :class:`~tract_fx.passes.tract_pass.TractPass`."""
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
        )
