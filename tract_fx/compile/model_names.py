"""Every qualified name of the modules and parameters of a model, as its ``state_dict`` has them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from tract_fx.passes.naming import without_wrappers

__all__ = ["modules_of", "parameters_of"]


def modules_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Qualified names and modules, one pair for each name: a shared module comes once under each of its names.

    The names are read from the dictionaries from which ``state_dict`` reads them: user classes override
    ``named_modules`` and ``named_parameters``, some with the signatures of older releases of PyTorch.
    """
    yield from _modules_below(model, "", ())


def _modules_below(module: nn.Module, name: str, ancestors: tuple[nn.Module, ...]) -> Iterator[tuple[str, nn.Module]]:
    if any(module is ancestor for ancestor in ancestors):
        return
    yield name, module
    for key, child in module._modules.items():
        if child is not None:
            yield from _modules_below(child, f"{name}.{key}".strip("."), (*ancestors, module))


def parameters_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Qualified names and parameters, without the parts that compilation and FSDP add; one pair for each name."""
    for name, module in modules_of(model):
        for key, parameter in module._parameters.items():
            if parameter is not None:
                yield without_wrappers(f"{name}.{key}"), parameter
