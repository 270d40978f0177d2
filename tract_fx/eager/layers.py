"""``TrAct(layer)``: changes a layer so that its weight has the gradient of TrAct, without ``torch.compile``.

The layer stays the same object, with its parameters, buffers and hooks. Only its class changes, to one that is derived from
it. So ``state_dict`` and ``isinstance`` give what they gave before, and everything that the author of the class wrote still
runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tract_fx.compat import real_scalar, requires_grad
from tract_fx.distributed.groups import check_process_group
from tract_fx.eager.classes import base_of, class_name, is_parametrized, parametrized_above, tract_class
from tract_fx.eager.interception import Interception
from tract_fx.errors import OptionError, TractWarning, UnknownLayerError, UnsupportedLayerError
from tract_fx.options import DEFAULT_LAM, check_lam, check_layer_names, check_relative, closest
from tract_fx.wording import listed

__all__ = ["TrAct", "TrActLayer", "apply_tract", "remove_tract"]

LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
ADDED = ("lam", "lambda_", "process_group", "relative")
# What belongs to TrAct among the attributes of a layer.
STATE = ("_tract_lam", "_tract_name", "process_group", "relative")
LAYERS_SHOWN = 4

Model = TypeVar("Model", bound=nn.Module)


class TrActLayer(nn.Module):
    """What :func:`TrAct` adds to the class of a layer.

    Its subclasses can be constructed like the plain layer, as adapters and pruning tools do with ``type(layer)(...)``. Such
    a layer has the default ``lam``.

    Attributes:
        lam: the regularisation, a float. It is not in the ``state_dict``.
        lambda_: the same, under the name that ``torch_tract`` gives it.
        process_group: as for the backend.
        relative: whether ``lam`` is in units of the mean eigenvalue of the covariance, as for the backend.
    """

    __jit_unused_properties__ = ("lam", "lambda_")

    process_group: str | None = None
    relative: bool = False
    _tract_lam: Tensor
    _tract_name: str

    def __new__(cls, *_: Any, **__: Any) -> TrActLayer:
        """A layer with the default ``lam``, whose attributes are not initialised otherwise."""
        self = super().__new__(cls)
        _set_state(self, DEFAULT_LAM, class_name(base_of(TrActLayer, cls)), None, False)
        return self

    @property
    def lam(self) -> float:
        """The regularisation: a finite, positive real number.

        A new value takes effect at the next backward pass, also of compiled code, which is not recompiled. Setting it raises
        :class:`tract_fx.OptionError` for anything but a finite, positive real number.
        """
        return self._tract_lam.item()

    @lam.setter
    def lam(self, value: float) -> None:
        # Through .data: a forward pass has saved the tensor for its backward pass.
        self._tract_lam.data.fill_(check_lam(value))

    lambda_ = lam

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The output of the plain layer."""
        # A replica that nn.DataParallel made has copies instead of parameters.
        weights = [*self.parameters(), *getattr(self, "_former_parameters", {}).values()]
        if not torch.is_grad_enabled() or not any(requires_grad(item) for item in weights):
            return super().forward(*args, **kwargs)
        if torch.jit.is_tracing():
            self._warn_about_torchscript("torch.jit.trace records the plain layer")
            return super().forward(*args, **kwargs)
        interception = Interception(self._tract_name, self._tract_lam, self.process_group, self.relative)
        with interception:  # not "as interception", of which Dynamo would not know the attributes
            output = super().forward(*args, **kwargs)
        if not interception.calls and any(requires_grad(item) and item.dim() > 1 for item in weights):
            raise UnsupportedLayerError(
                f"TrAct cannot be applied to {self._tract_name}: the forward() of {class_name(type(self))} has trainable "
                "weights, but calls no linear layer or convolution of torch.nn.functional with one. Freeze them, take TrAct "
                "off with tract_fx.remove_tract(layer), or compile the model with the backend, which finds every product."
            )
        return output

    def extra_repr(self) -> str:
        """The layer's own, and ``lam``."""
        relative = "relative=True" if self.relative else ""
        return ", ".join(filter(None, (super().extra_repr(), f"lam={self.lam:g}", relative)))

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Pickle the class of the plain layer, which can be imported; the class with TrAct is made again."""
        _, _, state, *_ = super().__reduce_ex__(2)
        return _new, (base_of(TrActLayer, type(self)),), state

    def __prepare_scriptable__(self) -> nn.Module:
        """Called by ``torch.jit.script``, which puts the result into the model that it compiles, not into a copy."""
        self._warn_about_torchscript("torch.jit.script takes TrAct off, also in the model that it compiles")
        return remove_tract(self)

    def _warn_about_torchscript(self, event: str) -> None:
        if any(item.requires_grad for item in self.parameters()):
            warnings.warn(
                f"TrAct is not applied to {self._tract_name}: {event}. TorchScript trains with plain gradients; to continue "
                "training, use the eager model with tract_fx.apply_tract(model, layers).",
                TractWarning,
                stacklevel=2,
            )

    def plain_view(self) -> nn.Module:
        """A plain layer with the same parameters, buffers and hooks, for libraries that look at the exact class."""
        base: Any = base_of(TrActLayer, type(self))
        view = base.__new__(base)
        view.__dict__.update({name: item for name, item in self.__dict__.items() if name not in STATE})
        return view

    def tract_like(self, layer: Model) -> Model:
        """``layer`` with TrAct, which has the settings of this one."""
        TrAct(layer, self.lam, relative=self.relative, process_group=self.process_group)
        layer.__dict__["_tract_name"] = self._tract_name
        return layer


def TrAct(  # noqa: N802 - the name that the authors' package gave it
    module: nn.Module,
    l: float | None = None,  # noqa: E741 - and its argument
    *,
    lam: float | None = None,
    relative: bool = False,
    process_group: Any = None,
) -> nn.Module:
    """Give a layer the weight gradient ``G (X^T X / r + lam I)^-1`` (arXiv 2410.23970, section 3), in place.

    ``TrAct(model.conv1)`` and ``model.conv1 = TrAct(model.conv1)`` do the same. It is for models that cannot be compiled,
    and replaces ``torch_tract.TrAct``. With ``torch.compile``, leave the model as it is and use
    :func:`tract_fx.tract_backend`. :func:`remove_tract` undoes it.

    Args:
        module: an ``nn.Linear``, ``nn.Conv1d`` to ``nn.Conv3d`` or ``nn.ConvTranspose1d`` to ``nn.ConvTranspose3d``, or an
            instance of a class derived from one. A layer that has TrAct already gets the new ``lam``, ``relative`` and
            ``process_group``.
        l: finite and positive, 0.1 by default, in units of squared inputs.
        lam: the same.
        relative: if True, the regularisation is ``lam tr(C) / n`` for each group of channels: ``lam`` times the mean
            eigenvalue of ``C = X^T X / r``, so that it does not depend on the unit of the inputs.
        process_group: as for the backend; ``"ddp"`` is looked up in the forward pass.

    Returns:
        ``module`` itself, with ``lam`` as an attribute that can be set.

    Raises:
        UnsupportedLayerError: naming what the module is and what it may be.
        OptionError: naming the argument, its value and what is allowed.
    """
    if l is not None and lam is not None:
        raise OptionError(f"l={l!r} and lam={lam!r} are the same argument: give one of them.")
    value = check_lam(next((item for item in (l, lam) if item is not None), DEFAULT_LAM))
    group = check_process_group(process_group)
    _check_module(module)
    return _apply(module, value, class_name(base_of(TrActLayer, type(module))), group, check_relative(relative))


def apply_tract(
    model: Model,
    layers: str | Iterable[str],
    lam: float = DEFAULT_LAM,
    *,
    relative: bool = False,
    process_group: Any = None,
) -> Model:
    """Apply :func:`TrAct` to layers of a model, in place.

    Args:
        model: the model that has them.
        layers: names of modules, such as ``"conv1"`` or ``["patch_embed.proj"]``.
        lam: as for :func:`TrAct`.
        relative: as for :func:`TrAct`.
        process_group: as for :func:`TrAct`.

    Returns:
        ``model`` itself.

    Raises:
        UnknownLayerError: for a name that the model does not have.
        UnsupportedLayerError: naming the layer, and what it would have to be.
        OptionError: naming the argument, its value and what is allowed.
    """
    names = [layers] if isinstance(layers, str) else check_layer_names(layers)
    value, group = check_lam(lam), check_process_group(process_group)
    relative = check_relative(relative)
    known = dict(model.named_modules(remove_duplicate=False))
    known.pop("")
    for name in names:
        if name not in known:
            raise UnknownLayerError(
                f"layers has {name!r}, but the model has no module of that name{closest(name, known)}"
            )
        _check_module(known[name], name)
    for name in names:
        described = f"{name} ({class_name(base_of(TrActLayer, type(known[name])))})"
        _apply(known[name], value, described, group, relative)
    return model


def remove_tract(model_or_layer: Model) -> Model:
    """Undo :func:`TrAct`: every layer in a model is a plain layer again, of the class that it had, in place.

    Use it before a library replaces layers by their exact class, as quantisation does.

    Args:
        model_or_layer: a model or a layer. Layers without TrAct are left as they are.

    Returns:
        ``model_or_layer`` itself.

    Raises:
        OptionError: when it is no module.
    """
    if not isinstance(model_or_layer, nn.Module):
        raise OptionError(
            f"model_or_layer={model_or_layer!r} is a {class_name(type(model_or_layer))}: it must be an nn.Module."
        )
    for module in model_or_layer.modules():
        if isinstance(module, TrActLayer):
            _set_class(module, base_of(TrActLayer, type(module)))
            for name in STATE:
                module.__dict__.pop(name, None)
    return model_or_layer


def _apply(module: Any, lam: float, name: str, group: str | None, relative: bool) -> Any:
    if isinstance(module, TrActLayer):
        module.lam = lam
        module.__dict__.update(_tract_name=name, process_group=group, relative=relative)
    else:
        _set_class(module, tract_class(TrActLayer, base_of(TrActLayer, type(module))))
        _set_state(module, lam, name, group, relative)
    return module


def _set_class(module: Any, cls: type) -> None:
    """Change the class of a module, and keep the one that ``torch.nn.utils.parametrize`` put above it."""
    current = type(module)
    module.__class__ = parametrized_above(cls, current) if is_parametrized(current) else cls


def _set_state(module: Any, lam: float, name: str, group: str | None, relative: bool) -> None:
    # One dimension: Dynamo makes a number of a float64 tensor without any, and then compiles twice.
    tensor = real_scalar(lam, torch.device("cpu"))[None]
    module.__dict__.update(_tract_lam=tensor, _tract_name=name, process_group=group, relative=relative)


def _check_module(module: Any, path: str | None = None) -> None:
    reason = None
    if not isinstance(module, LAYERS):
        reason = f"it is no linear layer or convolution of torch.nn{_layers_inside(module, path)}"
    elif "forward" in vars(module):
        reason = "its forward() was replaced on this object; apply TrAct before that"
    elif not isinstance(module, TrActLayer) and (taken := [name for name in ADDED if hasattr(module, name)]):
        reason = f"it has an attribute {taken[0]} of its own"
    if reason is not None:
        name = class_name(type(module))
        raise UnsupportedLayerError(
            f"TrAct cannot be applied to {name if path is None else f'{path} ({name})'}: {reason}."
        )


def _layers_inside(module: Any, path: str | None) -> str:
    """The names and classes of the layers inside a module, one of which is meant."""
    if not isinstance(module, nn.Module):
        return ""
    prefix = "" if path is None else f"{path}."
    inside = [
        f"{prefix}{name} ({class_name(type(item))}{', trainable' * _is_trainable(item)})"
        for name, item in module.named_modules()
        if isinstance(item, LAYERS)
    ]
    if not inside:
        return ", and has none inside"
    return f"; apply TrAct to the layer inside that has the data as its input: {listed(inside, LAYERS_SHOWN)}"


def _is_trainable(module: nn.Module) -> bool:
    return any(item.requires_grad for item in module.parameters(recurse=False))


def _new(base: type) -> Any:
    """A layer of class ``base`` with TrAct that has no other attributes yet; pickles refer to this function."""
    cls: Any = tract_class(TrActLayer, base)
    return cls.__new__(cls)
