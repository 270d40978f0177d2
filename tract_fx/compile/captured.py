"""A graph as Dynamo hands it to the backend, with what is known about it there and nowhere later."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from tract_fx.distributed.agreement import Group
from tract_fx.options import TractOptions
from tract_fx.passes.joint_graph import GraphInput, Role
from tract_fx.passes.naming import Naming
from tract_fx.passes.rewrite import Sharing
from tract_fx.source_hash import source_hash

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
    def sharing(self) -> Sharing | None:
        """With whom covariances are shared; None when they are this process's own."""
        return Sharing(self.groups, source_hash()[:12]) if self.groups else None
