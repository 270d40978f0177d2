"""How ``lam`` gets from the option to a node of the joint graph.

A backend has one :class:`LamValue`. It puts a tensor with the value into every graph that Dynamo captures, as an input, so
that a new value needs neither a new graph nor a new key in the caches. What the passes are given is a :class:`LamInput`,
which finds that input in the joint graph.
"""

from __future__ import annotations

import dataclasses
import logging

import torch
from torch.fx import Graph, GraphModule, Node

from tract_fx import compat
from tract_fx.options import check_lam

__all__ = ["LamInput", "LamValue"]

log = logging.getLogger(__name__)

NAME = "_tract_fx_lam"


@dataclasses.dataclass(frozen=True)
class LamInput:
    """``lam`` in one graph.

    Attributes:
        constant: the value, where it had to be compiled in; None where it is an input of the graph.
        device: of the first layer's parameters.
    """

    constant: float | None = None
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))

    def node_in(self, graph: Graph) -> Node:
        """The node of a joint graph that holds ``lam``: a float64 tensor of no dimension.

        Raises:
            LookupError: when ``lam`` should be an input of the graph and is not.
        """
        placeholders = graph.find_nodes(op="placeholder")
        if self.constant is not None:
            return self._constant_node(graph, placeholders)
        for node in placeholders:
            desc = node.meta.get("desc")
            if isinstance(desc, compat.BufferAOTInput) and desc.target == NAME:
                return node
        raise LookupError(f"The joint graph has no input {NAME}.")

    def _constant_node(self, graph: Graph, placeholders: list[Node]) -> Node:
        mode = compat.detect_fake_mode([node.meta.get("val") for node in placeholders])
        keywords = {"dtype": torch.float64, "device": self.device}
        with graph.inserting_after(placeholders[-1]):
            node = graph.call_function(torch.ops.aten.full.default, ([], self.constant), keywords)
        with mode:
            node.meta["val"] = torch.full((), self.constant, **keywords)
        return node


class LamValue:
    """The regularisation of one backend, and the tensors through which its graphs read it.

    Args:
        value: finite and positive.
    """

    def __init__(self, value: float) -> None:
        self._value = value
        self._tensors: dict[torch.device, torch.Tensor] = {}

    @property
    def value(self) -> float:
        """The current value; setting it takes effect at the next backward pass of every graph.

        Raises:
            OptionError: when it is set to anything but a finite positive number.
        """
        return self._value

    @value.setter
    def value(self, value: float) -> None:
        self._value = check_lam(value)
        for tensor in self._tensors.values():
            # Through .data: a forward pass may have saved the tensor for its backward pass, which would otherwise
            # complain that it was modified.
            tensor.data.fill_(self._value)

    def enter(self, gm: GraphModule, device: torch.device | None) -> LamInput:
        """Make ``lam`` an input of a captured graph; its value is compiled in where that cannot be done.

        Args:
            gm: the captured graph, which gets one more input.
            device: of its trainable parameters; None where it has none, and ``lam`` is not needed.
        """
        if device is None or not torch.is_grad_enabled():
            return LamInput(self._value)
        if device not in self._tensors:
            self._tensors[device] = compat.real_scalar(self._value, device)
        if compat.lift_as_input(gm, NAME, self._tensors[device]):
            return LamInput(device=device)
        log.warning("lam=%s is compiled into a graph that Dynamo did not make; to change it, recompile", self._value)
        return LamInput(self._value, device)
