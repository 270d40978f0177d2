"""The classes of layers with TrAct, which are derived from the classes of the plain layers."""

from __future__ import annotations

from torch import nn

from tract_fx import process_state
from tract_fx.eager import quantization

__all__ = ["base_of", "class_name", "is_parametrized", "parametrized_above", "tract_class"]


def tract_class(mixin: type, base: type) -> type:
    """The class of layers of class ``base`` with TrAct.

    Args:
        mixin: :class:`tract_fx.TrActLayer`.
        base: the class of the plain layer, without TrAct and without parametrisations.
    """
    found = process_state.tract_classes.get(base)
    if found is None:
        # The module is that of the plain layer, because tracers (torch.fx, torchvision) and quantisation treat classes of
        # torch.nn as leaves. Pickles do not need it, see TrActLayer.__reduce_ex__.
        # The constructor stands in the class itself so that inspect.signature finds its arguments.
        members = {"__module__": base.__module__, "__doc__": base.__doc__, "__init__": base.__init__}  # type: ignore[misc]
        if later := getattr(base, "cls_to_become", None):  # a lazy layer changes its class after the first batch
            members["cls_to_become"] = tract_class(mixin, later)
        found = type(f"TrAct{base.__name__}", (mixin, base), members)
        process_state.tract_classes[base] = found
        quantization.register(found, base, lambda other: tract_class(mixin, other))
    return found


def base_of(mixin: type, cls: type) -> type:
    """The class of the plain layer: ``cls`` without TrAct and without what ``torch.nn.utils.parametrize`` adds."""
    return next(base for base in cls.__mro__ if not is_parametrized(base) and not issubclass(base, mixin))


def is_parametrized(cls: type) -> bool:
    """Whether ``torch.nn.utils.parametrize`` made the class."""
    return cls.__module__ == nn.utils.parametrize.__name__ and cls.__name__.startswith("Parametrized")


def parametrized_above(cls: type, parametrized: type) -> type:
    """A copy of the class that ``parametrize`` made, derived from ``cls``, which replaces it when the weight is restored."""
    own = {name: item for name, item in vars(parametrized).items() if name not in ("__dict__", "__weakref__")}
    return type(f"Parametrized{cls.__name__}", (cls,), own)


def class_name(cls: type) -> str:
    """The name of a class with its module, as users write it: ``torch.nn.Conv2d``, ``peft.tuners.lora.layer.Conv2d``."""
    if getattr(nn, cls.__name__, None) is cls:
        return f"torch.nn.{cls.__name__}"
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
