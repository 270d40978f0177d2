"""Find the backend of a model that has been compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from tract_fx import compat, process_state
from tract_fx.backend import TractBackend, named_backend, tract
from tract_fx.compile.model_names import modules_of, parameters_of
from tract_fx.errors import OptionError
from tract_fx.records import LayerMatch, LayerRejection

__all__ = ["BackendGroup", "backend_of"]


class BackendGroup:
    """The backends of a model whose parts were compiled with different ones; :func:`backend_of` returns it.

    Attributes:
        backends: one :class:`~tract_fx.TractBackend` for each set of parts, in the order of the modules.
    """

    def __init__(self, backends: tuple[TractBackend, ...]) -> None:
        self.backends = backends

    def __repr__(self) -> str:
        return f"BackendGroup({', '.join(map(repr, self.backends))})"

    @property
    def lam(self) -> float:
        """``lam`` of the first backend; a new value is set on all of them.

        Raises:
            OptionError: when it is set to anything but a finite positive number; no backend changes then.
        """
        return self.backends[0].lam

    @lam.setter
    def lam(self, value: float) -> None:
        for backend in self.backends:
            backend.lam = value

    @property
    def matches(self) -> tuple[LayerMatch, ...]:
        """The layers that were rewritten, as in :attr:`TractBackend.matches <tract_fx.TractBackend>`."""
        return tuple(dict.fromkeys(match for backend in self.backends for match in backend.matches))

    @property
    def rejections(self) -> tuple[LayerRejection, ...]:
        """The layers and operations that were considered and not rewritten, each with the reason."""
        return tuple(rejection for backend in self.backends for rejection in backend.rejections)


def backend_of(model: nn.Module | Callable[..., Any]) -> TractBackend | BackendGroup:
    """The backend with which a model was compiled, whatever way it was given: as an object, by name, or as the default.

    Its ``matches`` and ``rejections`` are the findings so far, and its ``lam`` can be set, by hand or by a schedule. Models
    that were compiled by name with the same options share one backend, because they may share compiled code.

    Args:
        model: what ``torch.compile`` returned, a module whose ``compile()`` was called, a module with compiled parts or
            methods inside of it, or a function compiled by ``torch.compile``. The plain module that was given to
            ``torch.compile`` is found, too: at once if the backend is an object, and after the first training step if it
            is a name.

    Returns:
        The backend; a :class:`BackendGroup`, with the same attributes, if parts of the model have different ones.

    Raises:
        OptionError: when no part of the model was compiled with a backend of this package.
    """
    modules = [module for _, module in modules_of(model)] if isinstance(model, nn.Module) else []
    backends = list(_compiled(model, modules)) or list(_trained(model))
    if found := tuple({id(backend): backend for backend in backends}.values()):
        return found[0] if len(found) == 1 else BackendGroup(found)
    name = type(model).__name__ if isinstance(model, nn.Module) else getattr(model, "__name__", repr(model))
    raise OptionError(
        f'No part of {name} was compiled with a backend of tract-fx. Compile it with torch.compile(model, backend="tract"), '
        "or give backend_of what torch.compile returned. A plain module whose compiled form was made by name is known "
        "after its first training step."
    )


def _compiled(model: object, modules: list[nn.Module]) -> Iterator[TractBackend]:
    """Backends with which the model or its parts are compiled, the outer ones first.

    A part is asked for what ``torch.compile`` was given for it, and returned to somebody else, unless what is around it is
    compiled itself.
    """
    yield from _given(model)
    inside: set[nn.Module] = set()
    for module in modules:
        given = [backend for value in (module, *vars(module).values()) for backend in _given(value)]
        yield from given
        if given:
            inside.update(part for _, part in modules_of(module))
        elif module not in inside:
            seen = process_state.models.get(module)
            owner = None if seen is None else seen.owner()
            if isinstance(owner, TractBackend):
                yield owner


def _given(value: object) -> Iterator[TractBackend]:
    """The backend in what ``torch.compile`` returned: a model, or a function that is an attribute of one."""
    given = compat.given_backend(value)
    if given is None:
        return
    if isinstance(given.function, TractBackend):
        yield given.function
    elif given.function is tract:
        backend = named_backend(given.arguments.get("mode"), given.arguments.get("options"))
        process_state.asked[given.owner] = backend  # keeps it until the first graph is compiled
        yield backend


def _trained(model: object) -> Iterator[TractBackend]:
    """Backends that compiled a graph with a parameter of the model, also in a function or in a model around it."""
    parameters = [item for _, item in parameters_of(model)] if isinstance(model, nn.Module) else []
    for backend, compiled in list(process_state.training.items()):
        if any(compiled.get(id(item)) is item for item in parameters):
            yield backend
