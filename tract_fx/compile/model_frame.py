"""Which part of the user's model the frame that Dynamo is compiling belongs to, and the names of what is in it.

Dynamo names an input by the expression that reads it. Where a wrapper reads a layer through its own ``__getattr__``, through
``__dict__`` or from a list, that is no name of the ``state_dict``. Parameters and modules are therefore recognised by
identity.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from tract_fx import process_state
from tract_fx.compat import compiled_frame_locals, compiled_module, is_in_backward_pass, stack
from tract_fx.compile.between import calls_of_modules
from tract_fx.compile.inputs import naming_of_function
from tract_fx.compile.model_names import modules_of, parameters_of
from tract_fx.compile.skipped import is_registered
from tract_fx.passes.joint_graph import GraphInput
from tract_fx.passes.naming import Naming, without_wrappers

__all__ = ["ModelFrame", "current_frame", "enclosing_model"]

_STEP = re.compile(r"\.(?P<attribute>\w+)|\[(?P<key>'[^']*'|\"[^\"]*\"|\d+)\]")


@dataclasses.dataclass(frozen=True)
class ModelFrame:
    """The model of a frame, and the names in it.

    Attributes:
        naming: translates Dynamo's names into those of the user's model.
        names: qualified names of the modules and parameters of that model; None when no model is known, as for a function.
        model: what was compiled; None when no module is known.
        whole: the model of which that is a part, or itself; all names are those of its ``state_dict``.
        place: qualified name of ``model`` in ``whole``.
        others: modules on the call stack of which ``model`` is a part, and itself, whose names are understood, too.
        caller: the outermost of these that is being called, or ``model``: what one part of it has computed is no data for
            another. A training step that calls two networks is no call of either.
    """

    naming: Naming
    names: frozenset[str] | None
    model: torch.nn.Module | None = None
    whole: torch.nn.Module | None = None
    place: str = ""
    others: tuple[torch.nn.Module, ...] = ()
    caller: torch.nn.Module | None = None

    def named(self, inputs: Sequence[GraphInput], examples: Sequence[Any]) -> tuple[GraphInput, ...]:
        """The inputs of a graph, each parameter under a name that the ``state_dict`` of the model has for it."""
        if self.whole is None:
            return tuple(inputs)
        names = _by_identity(parameters_of(self.whole))
        return tuple(
            dataclasses.replace(item, name=found[0])
            if (found := names.get(id(example))) and item.name not in found
            else item
            for item, example in zip(inputs, examples, strict=True)
        )

    def with_aliases(self, layers: str | Sequence[str]) -> str | tuple[str, ...]:
        """The names in ``layers``, and every other name that the model has for the same modules and parameters.

        A name that the model does not have may be one of a wrapper around it, or of the part that is compiled.
        """
        if isinstance(layers, str) or self.whole is None:
            return layers if isinstance(layers, str) else tuple(layers)
        groups = _names_by_identity(self.whole)
        known = {name: names for names in groups.values() for name in names}
        found = [known.get(name) or self._elsewhere(name, groups) or [name] for name in layers]
        return tuple(
            dict.fromkeys((*(name for name in layers if name in known), *(name for item in found for name in item)))
        )

    def _elsewhere(self, name: str, groups: dict[int, list[str]]) -> list[str]:
        """The names in the model of what another module calls ``name``."""
        for module in self.others:
            for key, names in _names_by_identity(module).items():
                if name in names and key in groups:
                    return groups[key]
        return []

    def in_part(self, name: str) -> str:
        """A name of a parameter of the compiled part, as the ``state_dict`` of that part has it."""
        return name.removeprefix(f"{self.place}.") if self.place else name


def current_frame(gm: torch.fx.GraphModule) -> ModelFrame:
    """The frame from which Dynamo captured ``gm``; to be called while Dynamo calls the backend."""
    variables = compiled_frame_locals()
    model = _compiled_model() or _owner_of_method(variables)
    if model is None:
        return ModelFrame(naming_of_function(gm), None)
    others = _modules_around(model)
    whole = _whole(others)
    paths = {module: name for name, module in reversed(list(modules_of(whole)))}
    for variable, value in variables.items():
        owner = getattr(value, "__self__", value)
        if isinstance(owner, torch.nn.Module) and owner in paths:
            naming = Naming(variable, paths[owner])
            break
    else:
        naming = naming_of_function(gm)
    naming = dataclasses.replace(naming, layers=_renamed_layers(gm, naming, whole, variables))
    place = without_wrappers(paths[model])
    return ModelFrame(naming, frozenset().union(*map(_names, others)), model, whole, place, others, _caller(others))


def enclosing_model(model: torch.nn.Module | None) -> torch.nn.Module | None:
    """The outermost module on the call stack of which ``model`` is a part; ``model`` itself where there is none."""
    return None if model is None else _modules_around(model)[-1]


def _modules_around(model: torch.nn.Module) -> tuple[torch.nn.Module, ...]:
    """``model``, and the modules of which it is a part, from the inside.

    They are on the call stack. What a backward pass computes anew, as under reentrant checkpointing, no module calls: there
    they are the modules that called compiled parts before.
    """
    on_stack = dict.fromkeys(module for module, _ in calls_of_modules())
    around = [found for found in on_stack if found is not model and _contains(found, model)]
    if not around and is_in_backward_pass():
        around = _nested([found for found in process_state.callers if found is not model and _contains(found, model)])
    process_state.callers.update(around)
    return (model, *around)


def _caller(around: Sequence[torch.nn.Module]) -> torch.nn.Module:
    """The last of modules, the first of which is the compiled one, that is being called or computed anew."""
    if is_in_backward_pass():
        return around[-1]
    running = set()
    for module, frame in calls_of_modules():
        if frame.f_code.co_name == "training_step":  # of Lightning, which calls it in the place of forward
            break
        if frame.f_code.co_name in ("_call_impl", "forward"):
            running.add(module)
    return next((module for module in reversed(around) if module in running), around[0])


def _nested(modules: Sequence[torch.nn.Module]) -> list[torch.nn.Module]:
    """Modules from the inside, without those that do not contain the one before."""
    chain: list[torch.nn.Module] = []
    for module in sorted(modules, key=lambda module: sum(1 for _ in modules_of(module))):
        if not chain or _contains(module, chain[-1]):
            chain.append(module)
    return chain


def _contains(module: torch.nn.Module, part: torch.nn.Module) -> bool:
    return any(found is part for _, found in modules_of(module))


def _whole(candidates: Sequence[torch.nn.Module]) -> torch.nn.Module:
    """The first of modules, each of which contains the one before, that has all parameters that train.

    A wrapper of a model, as for several processes, has no other ones than the model has.
    """
    trained = [{id(item) for _, item in parameters_of(module) if item.requires_grad} for module in candidates]
    return next(module for module, items in zip(candidates, trained, strict=True) if items >= trained[-1])


def _names_by_identity(model: torch.nn.Module) -> dict[int, list[str]]:
    """All names of each parameter and module, by ``id``."""
    return _by_identity(parameters_of(model)) | _by_identity(_modules(model))


def _by_identity(items: Iterator[tuple[str, Any]]) -> dict[int, list[str]]:
    names: dict[int, list[str]] = {}
    for name, item in items:
        names.setdefault(id(item), []).append(name)
    return names


def _modules(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    return ((without_wrappers(name), module) for name, module in modules_of(model))


def _renamed_layers(
    gm: torch.fx.GraphModule, naming: Naming, model: torch.nn.Module, variables: dict[str, Any]
) -> tuple[tuple[str, str], ...]:
    """Dynamo's expressions for modules whose text does not give one of their names, with a name of each."""
    names = _by_identity(_modules(model))
    graphs = (module.graph for module in gm.modules() if isinstance(module, torch.fx.GraphModule))
    stacks = (node.meta.get("nn_module_stack") or {} for graph in graphs for node in graph.nodes)
    sources = dict.fromkeys(list(stack.values())[-1][0] for stack in stacks if stack)
    pairs = ((source, names.get(id(_value_of(source, variables)), [])) for source in sources)
    return tuple((source, found[0]) for source, found in pairs if found and naming.of_source(source) not in found)


def _value_of(source: str, variables: dict[str, Any]) -> object | None:
    """What an expression of Dynamo's such as ``L['self'].blocks.0`` reads, where it reads only attributes and items."""
    found = re.match(r"L\[['\"](\w+)['\"]\]", source)
    steps = list(_STEP.finditer(source, found.end())) if found else []
    if found is None or found.end() + sum(len(step[0]) for step in steps) != len(source):
        return None
    value: Any = variables.get(found[1])
    try:
        for step in steps:
            if step["key"] is not None:
                value = value[ast.literal_eval(step["key"])]
            elif isinstance(value, torch.nn.Module) and step["attribute"] in value._modules:
                value = value._modules[step["attribute"]]
            else:
                value = getattr(value, step["attribute"])
    except (AttributeError, LookupError, TypeError):
        return None
    return value


def _compiled_model() -> torch.nn.Module | None:
    """The innermost model on the call stack that was given to ``torch.compile`` or ``module.compile()``."""
    models = (compiled_module(frame.f_locals.get("self")) for frame in stack())
    return next((model for model in models if model is not None), None)


def _owner_of_method(variables: dict[str, Any]) -> torch.nn.Module | None:
    """The model one of whose other methods is compiled, as Lightning does with ``training_step``.

    The model itself was given to ``torch.compile``, but the compiled module that this returned is never called.
    """
    owner = variables.get("self")
    return owner if is_registered(owner) else None


def _names(model: torch.nn.Module) -> frozenset[str]:
    modules = (name for name, _ in modules_of(model))
    return frozenset((*modules, *(name for name, _ in parameters_of(model)))) - {""}
