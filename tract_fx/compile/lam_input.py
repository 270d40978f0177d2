"""How ``lam`` gets from the option to a node of the joint graph.

A backend has one :class:`LamValue`. It adds a tensor with the value as an input to every graph that Dynamo captures, so
that a new value needs neither a new graph nor a new cache key. The passes get a :class:`LamInput`, which finds that input
in the joint graph.
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
        constant: the value, where it had to be compiled into the graph; None where it is an input of the graph.
        device: the device of the graph's trainable parameters, on which a constant is created.
    """

    constant: float | None = None
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))

    def node_in(self, graph: Graph) -> Node:
        """The node of a joint graph that holds ``lam``, a float64 scalar tensor; a constant is added to the graph.

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
    """The regularisation ``lam`` of one backend, and the float64 scalar tensors, one for each device, that its graphs read.

    Args:
        value: finite and positive; the caller has checked it.
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
            # raise because it was modified in place.
            tensor.data.fill_(self._value)

    def enter(self, gm: GraphModule, device: torch.device | None) -> LamInput:
        """Make ``lam`` an input of a captured graph, or compile its value into the graph where that is impossible.

        Args:
            gm: the captured graph, which gets one more input.
            device: the device of its trainable parameters; None where it has none, and ``lam`` is not needed.

        Returns:
            What finds ``lam`` in the joint graph of ``gm``.
        """
        if device is None or not torch.is_grad_enabled():
            return LamInput(self._value)
        if device not in self._tensors:
            self._tensors[device] = compat.real_scalar(self._value, device)
        if compat.lift_as_input(gm, NAME, self._tensors[device]):
            return LamInput(device=device)
        log.warning(
            "lam=%s is a constant of a graph that Dynamo did not capture; changing it needs a recompile", self._value
        )
        return LamInput(self._value, device)
