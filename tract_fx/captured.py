"""A graph as Dynamo hands it to the backend, with what is known about it there and nowhere later."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tract_fx.options import TractOptions
from tract_fx.passes import first_layer
from tract_fx.passes.joint_graph import GraphInput, Role
from tract_fx.passes.naming import Naming
from tract_fx.passes.rewrite import Sharing
from tract_fx.ranks import Group

__all__ = ["Captured", "source_hash"]


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

    def fingerprint(self, lam: str | float) -> tuple[Any, ...]:
        """Everything on which the findings depend: sources, options, the graph, its inputs, names, and autograd's state."""
        stacks = [list(node.meta.get("nn_module_stack", {}).values())[-1:] for node in self.gm.graph.nodes]
        return (
            source_hash(),
            torch.__version__,
            self.settings.layers,
            self.settings.on_unsupported,
            self.groups,
            lam,
            self.naming,
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            tuple((item.name, item.role.value, item.differentiated_inside, item.parts) for item in self.inputs),
            tuple(map(_metadata, self.example_inputs)),
            self.gm.print_readable(print_output=False),
            repr(stacks),
        )


def _metadata(example: Any) -> tuple[Any, ...]:
    if not isinstance(example, torch.Tensor):
        return (type(example).__name__, str(example))
    strides = str(example.stride()) if example.layout is torch.strided else ""
    return (str(example.dtype), str(example.device), str(example.shape), strides, example.requires_grad)


@functools.cache
def source_hash() -> str:
    """Hash of every source file of the package: a new version never takes a graph that an old one cached."""
    digest = hashlib.sha256()
    root, passes = Path(__file__).parent, Path(first_layer.__file__).parent
    for path in sorted({*root.rglob("*.py"), *passes.rglob("*.py")}):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
