"""``TrAct(layer)``: the same layer, whose weight's gradient is that of the method, without ``torch.compile``.

The result is an object of a class derived from the layer's own, with the same parameters, buffers and hooks. So it has the
same entries in a ``state_dict``, is an instance of whatever the layer was one of, and everything that the author of its
class wrote still runs.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tract_fx.compat import real_scalar
from tract_fx.distributed.groups import check_process_group
from tract_fx.eager.interception import Interception
from tract_fx.errors import OptionError, UnknownLayerError, UnsupportedLayerError
from tract_fx.options import DEFAULT_LAM, check_lam, check_layer_names, closest

__all__ = ["TrAct", "TrActLayer", "apply_tract"]

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# Of a module's attributes, those that belong to one object; hooks are shared, so that handles to remove them still do.
OWN = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")

ADDED = ("lam", "lambda_", "process_group")

Model = TypeVar("Model", bound=nn.Module)


class TrActLayer(nn.Module):
    """What :func:`TrAct` adds to the class of a layer.

    Attributes:
        lam: the regularisation; setting it takes effect at the next backward pass, also in compiled code, without a
            compile. It is not in the ``state_dict``.
        process_group: as for the backend.
    """

    process_group: str | None
    _tract_lam: Tensor
    _tract_name: str

    @property
    def lam(self) -> float:
        """The regularisation."""
        return self._tract_lam.item()

    @lam.setter
    def lam(self, value: float) -> None:
        # Through .data: a forward pass has saved the tensor for its backward pass.
        self._tract_lam.data.fill_(check_lam(value))

    lambda_ = lam

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the layer computes."""
        # A replica that nn.DataParallel made has copies in the place of parameters.
        weights = [*self.parameters(), *getattr(self, "_former_parameters", {}).values()]
        if not torch.is_grad_enabled() or not any(item.requires_grad for item in weights):
            return super().forward(*args, **kwargs)
        interception = Interception(self._tract_name, self._tract_lam, self.process_group)
        with interception:  # not "as interception", of which Dynamo would not know the attributes
            output = super().forward(*args, **kwargs)
        if not interception.calls and any(item.requires_grad and item.dim() > 1 for item in weights):
            raise UnsupportedLayerError(
                f"TrAct cannot be applied to {self._tract_name}: the forward() of {type(self).__name__} has trainable "
                "weights, but calls no torch.nn.functional.linear, conv1d, conv2d or conv3d with one. Freeze them, take "
                "TrAct off, or compile the model with the backend, which finds products in every form."
            )
        return output

    def extra_repr(self) -> str:
        """The layer's own, and ``lam``."""
        return ", ".join(filter(None, (super().extra_repr(), f"lam={self.lam:g}")))

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """The class is made again from that of the layer, which is what can be imported."""
        _, _, state, *_ = super().__reduce_ex__(2)
        return _new, (_base_of(type(self)),), state


def TrAct(  # noqa: N802 - the name that the authors' package gave it
    module: nn.Module,
    l: float | None = None,  # noqa: E741 - and its argument
    *,
    lam: float | None = None,
    process_group: Any = None,
) -> nn.Module:
    """A layer that computes the gradient ``G (X^T X / r + lam I)^-1`` of its weight (arXiv 2410.23970, section 3).

    ``model.conv1 = TrAct(model.conv1)`` is for those who cannot compile, and takes the place of ``torch_tract.TrAct``. For
    ``torch.compile`` leave the model as it is and use :func:`tract_fx.tract_backend`.

    Args:
        module: an ``nn.Linear``, ``nn.Conv1d``, ``nn.Conv2d`` or ``nn.Conv3d``, or an instance of a class derived from
            one. It is left as it is; the result shares its parameters, buffers and hooks.
        l: finite and positive, 0.1 by default.
        lam: the same.
        process_group: as for the backend; ``"ddp"`` is looked up in the forward pass.

    Returns:
        The layer, with ``lam`` as an attribute that can be set.

    Raises:
        UnsupportedLayerError: naming what the module is and what it may be.
        OptionError: naming the argument, its value and what is allowed.
    """
    if l is not None and lam is not None:
        raise OptionError(f"l={l!r} and lam={lam!r} are the same argument: give one of them.")
    value = check_lam(next((item for item in (l, lam) if item is not None), DEFAULT_LAM))
    group = check_process_group(process_group)
    _check_module(module)
    new = _new(_base_of(type(module)))
    new.__dict__.update(module.__dict__)
    new.__dict__.pop("_compiled_call_impl", None)  # of a layer that was compiled by itself
    new.__dict__.update({name: module.__dict__[name].copy() for name in OWN})
    if _is_parametrized(type(module)):
        new.__class__ = _above(type(new), type(module))
    # One dimension: Dynamo makes a number of a float64 tensor without any, and then compiles twice.
    new._tract_lam = real_scalar(value, torch.device("cpu"))[None]
    new._tract_name = type(module).__name__
    new.process_group = group
    return new


def apply_tract(
    model: Model, layers: str | Iterable[str], lam: float = DEFAULT_LAM, *, process_group: Any = None
) -> Model:
    """Put :func:`TrAct` around layers of a model, in place.

    Args:
        model: the model that has them.
        layers: names of modules, such as ``"conv1"`` or ``["patch_embed.proj"]``.
        lam: as for :func:`TrAct`.
        process_group: as for :func:`TrAct`.

    Returns:
        ``model`` itself.

    Raises:
        UnknownLayerError: for a name that the model does not have.
        UnsupportedLayerError: naming the layer, and what it would have to be.
        OptionError: naming the argument, its value and what is allowed.
    """
    names = [layers] if isinstance(layers, str) else check_layer_names(layers)
    known = dict(model.named_modules(remove_duplicate=False))
    known.pop("")
    for name in names:
        if name not in known:
            raise UnknownLayerError(
                f"layers has {name!r}, but the model has no module of that name{closest(name, known)}"
            )
    wrapped = {}
    for name in names:
        try:
            wrapped[known[name]] = TrAct(known[name], lam, process_group=process_group)
        except UnsupportedLayerError as error:
            raise UnsupportedLayerError(f"{name}: {error}") from None
        wrapped[known[name]]._tract_name = name
    for path, module in known.items():  # under every name that it has
        if module in wrapped:
            parent, _, attribute = path.rpartition(".")
            setattr(model.get_submodule(parent), attribute, wrapped[module])
    return model


def _check_module(module: object) -> None:
    reason = None
    if isinstance(module, TRANSPOSED):
        reason = "a transposed convolution has no rows that its weight multiplies"
    elif not isinstance(module, LAYERS):
        reason = (
            "it is no Linear, Conv1d, Conv2d or Conv3d; wrap the layer inside of it that sees the data, as in "
            "model.conv1 = TrAct(model.conv1)"
        )
    elif "forward" in vars(module):
        reason = "its forward() was replaced on this object; apply TrAct before that"
    elif isinstance(module, nn.modules.lazy.LazyModuleMixin):
        reason = "it is lazy and has no weight yet; run a batch through the model first"
    elif not isinstance(module, TrActLayer) and (taken := [name for name in ADDED if hasattr(module, name)]):
        reason = f"it has an attribute {taken[0]} of its own"
    if reason is not None:
        raise UnsupportedLayerError(f"TrAct cannot be applied to {type(module).__name__}: {reason}.")


_classes: weakref.WeakValueDictionary[type, type] = weakref.WeakValueDictionary()


def _class_for(base: type) -> type:
    """The class of a wrapped layer of class ``base``; one for each."""
    found = _classes.get(base)
    if found is None:
        found = type(f"TrAct{base.__name__}", (TrActLayer, base), {"__module__": __name__, "__doc__": base.__doc__})
        _classes[base] = found
    return found


def _base_of(cls: type) -> type:
    """The class of the layer itself, without ours and without those that ``torch.nn.utils.parametrize`` makes."""
    for base in cls.__mro__:
        if not _is_parametrized(base) and not issubclass(base, TrActLayer):
            return base
    raise AssertionError(cls)


def _is_parametrized(cls: type) -> bool:
    return cls.__module__ == nn.utils.parametrize.__name__ and cls.__name__.startswith("Parametrized")


def _above(cls: type, parametrized: type) -> type:
    """The class that ``parametrize`` made, made again above ours: it is replaced by its base when a weight is restored."""
    own = {name: item for name, item in vars(parametrized).items() if name not in ("__dict__", "__weakref__")}
    return type(f"Parametrized{cls.__name__}", (cls,), own)


def _new(base: type) -> Any:
    """An object of the class for ``base`` that has no attributes yet."""
    cls: Any = _class_for(base)
    return cls.__new__(cls)
