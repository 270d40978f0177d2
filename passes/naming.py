"""Names of parameters and layers as the user knows them."""

from __future__ import annotations

import dataclasses
import re

from torch.fx import Node

__all__ = ["Naming", "root_variable", "without_wrappers"]

# A method, as in ``module.compile()`` of one of torch.nn's own classes, stands for the module that it is bound to.
_SOURCE = re.compile(r"^[LG]\[(['\"])(?P<variable>\w+)\1\](?:\.__self__)?(?P<rest>.*)$")
_REGISTERED = re.compile(r"\._(?:modules|parameters|buffers)\[['\"]([^'\"]*)['\"]\]")
_WRAPPER = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module)(?=\.|$)")

_GETATTR = re.compile(r"^getattr\((?P<owner>.*), ['\"](?P<name>[^'\"]*)['\"]\)$")


def without_wrappers(name: str) -> str:
    """A qualified name without the parts that compilation and FSDP put in."""
    return _WRAPPER.sub("", name).strip(".")


def root_variable(source: str) -> str | None:
    """The variable that a Dynamo source starts from: ``self`` for ``L['self']._modules['conv']``."""
    found = _SOURCE.match(source)
    return found["variable"] if found else None


@dataclasses.dataclass(frozen=True)
class Naming:
    """How names in the captured frame translate into names in the user's model.

    Attributes:
        root: the variable that holds the model in the captured frame, ``self`` in a ``forward``; it is left out of names.
            None in a function that uses several models: their variables then stay.
        prefix: qualified name, in the user's model, of the module in that variable. After a graph break inside a
            sub-module, Dynamo captures that one on its own.
        layers: qualified names of modules whose Dynamo source is not made of their name, with that source first.
    """

    root: str | None = "self"
    prefix: str = ""
    layers: tuple[tuple[str, str], ...] = ()

    def of_source(self, source: str) -> str:
        """A Dynamo source as users write it.

        ``L['self']._modules['blk']._parameters['weight']`` becomes ``blk.weight``, ``L['x']`` becomes ``x``.
        """
        if (attribute := _GETATTR.match(source)) is not None:  # as torch.func writes it
            return ".".join(filter(None, (self.of_source(attribute["owner"]), attribute["name"])))
        found = _SOURCE.match(source)
        if found is None:
            return source
        path = _WRAPPER.sub("", _REGISTERED.sub(r".\1", found["rest"]))
        if found["variable"] != self.root:
            return found["variable"] + path
        return ".".join(filter(None, (self.prefix, path.strip("."))))

    def of_layer(self, node: Node) -> str:
        """Qualified name of the innermost module that called a forward node; empty outside of any module."""
        stack = node.meta.get("nn_module_stack") or {}
        if not stack:
            return self.prefix
        source = list(stack.values())[-1][0]
        return dict(self.layers).get(source) or self.of_source(source)
