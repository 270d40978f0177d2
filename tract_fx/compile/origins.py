"""Where a tensor that enters a compiled graph comes from: what its role depends on, as far as values can show.

Dynamo guards neither autograd histories nor storages. Both are therefore looked at here, when a graph is compiled and, by a
guard on each input that can differ, whenever it is called again: a call for which the role of an input is another one is
compiled again, so that the order of calls does not change a gradient.
"""

from __future__ import annotations

import dataclasses
import enum
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from tract_fx import compat, process_state
from tract_fx.passes.dependence import is_random, reads_values
from tract_fx.passes.joint_graph import GraphInput, Role, is_condition

__all__ = [
    "Origin",
    "Outputs",
    "guard_roles",
    "has_origin",
    "leaves_behind",
    "note_parameter",
    "outputs_of",
    "recording_outputs",
    "role_of_value",
]

# Below this many entries nobody looks for those whose storage is gone.
FEWEST_TO_PRUNE = 256


class _Kind(enum.Enum):
    OUTPUT = "output of a compiled graph that depends on a parameter"
    DATA = "output of a compiled graph that depends on none"
    CONDITION = "output of a compiled graph that depends on conditions alone"
    SIGNAL = "data that requires grad, met in a forward pass"
    PARAMETER = "leaf that functional code uses as a weight"


@dataclasses.dataclass(frozen=True)
class Origin:
    """What is known about a storage.

    Attributes:
        storage: weak reference; while it exists, no other storage has the same address.
        kind: how the storage was met.
        owner: returns the model whose graph wrote it, or None.
    """

    storage: compat.StorageWeakRef
    kind: _Kind
    owner: Callable[[], object | None]


def _nobody() -> None:
    return None


def _note(tensor: torch.Tensor, kind: _Kind, owner: Callable[[], object | None] = _nobody) -> None:
    if (storage := compat.storage_of(tensor)) is None:
        return
    origins = process_state.origins
    if len(origins) >= max(FEWEST_TO_PRUNE, 2 * process_state.origins_alive[0]):
        for address in [key for key, origin in origins.items() if origin.storage.expired()]:
            del origins[address]
        process_state.origins_alive[0] = len(origins)
    origins[compat.storage_address(storage)] = Origin(compat.StorageWeakRef(storage), kind, owner)


def _origin(tensor: torch.Tensor) -> Origin | None:
    storage = compat.storage_of(tensor)
    found = None if storage is None else process_state.origins.get(compat.storage_address(storage))
    return None if found is None or found.storage.expired() else found


def note_parameter(tensor: torch.Tensor) -> None:
    """Remember a leaf that is no ``nn.Parameter`` and that functional code uses as a weight."""
    _note(tensor, _Kind.PARAMETER)


def role_of_value(tensor: torch.Tensor, model: object | None) -> Role:
    """``ACTIVATION``, ``CONDITION`` or ``DATA``, for an input that no module holds; its shape is not looked at.

    Args:
        tensor: the real tensor.
        model: the model to which the graph belongs, if it is known.
    """
    origin = _origin(tensor)
    computed = origin is not None and origin.kind is _Kind.OUTPUT
    if not tensor.requires_grad:
        if origin is not None and origin.kind is _Kind.CONDITION:
            return Role.CONDITION
        carried = origin is not None and computed and model is not None and origin.owner() is model
        return Role.ACTIVATION if carried else Role.DATA
    if computed:
        return Role.ACTIVATION
    if not tensor.is_leaf and _reaches_parameter(tensor):
        return Role.ACTIVATION
    # Checkpointing gives detached copies to the code that it runs again.
    if tensor.is_leaf and compat.is_in_backward_pass():
        return Role.DATA if origin is not None and origin.kind is _Kind.SIGNAL else Role.ACTIVATION
    if tensor.is_leaf and compat.is_in_later_stage():
        return Role.ACTIVATION
    if origin is None:
        _note(tensor, _Kind.SIGNAL)
    return Role.DATA


def _reaches_parameter(tensor: torch.Tensor) -> bool:
    """Whether the autograd history of a tensor ends in a parameter.

    A function of the user's own may hide parameters from its history, as reentrant checkpointing and reversible blocks do;
    what it returns counts as computed by a network.
    """
    for node in _history(tensor):
        variable = getattr(node, "variable", None)
        if variable is not None:
            origin = _origin(variable)
            if isinstance(variable, torch.nn.Parameter) or (origin is not None and origin.kind is _Kind.PARAMETER):
                return True
        elif compat.is_function_of_user(node):
            return True
    return False


def leaves_behind(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The leaves in which the autograd history of a tensor ends."""
    return (node.variable for node in _history(tensor) if hasattr(node, "variable"))


def _history(tensor: torch.Tensor) -> Iterator[Any]:
    seen, waiting = set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting.extend(following for following, _ in node.next_functions)


def guard_roles(
    gm: GraphModule, inputs: Sequence[GraphInput], values: Sequence[torch.Tensor | None], model: object | None
) -> None:
    """Make Dynamo recompile the graph for a call in which an input has another role.

    Args:
        gm: the captured graph.
        inputs: its inputs, with the roles for which it is compiled.
        values: the real tensor of each input whose role depends on its value; None for the others.
        model: as in :func:`role_of_value`.
    """
    owner = _nobody if model is None else weakref.ref(model)
    for placeholder, item, value in zip(gm.graph.find_nodes(op="placeholder"), inputs, values, strict=True):
        if value is not None:
            matters = torch.is_grad_enabled()  # elsewhere the guard only remembers what it sees
            guard = _guard(role_of_value(value, model), owner, matters=matters)
            compat.add_guard(placeholder, guard, f"the role of {item.name} in TrAct")


def _guard(role: Role, owner: Callable[[], object | None], *, matters: bool) -> Callable[[Any], bool]:
    def has_same_role(tensor: Any) -> bool:
        found = role_of_value(tensor, owner())
        return found is role or not matters

    return has_same_role


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Positions of the outputs of a graph that are tensors and no inputs.

    Attributes:
        dependent: those that depend on a parameter or an activation.
        conditions: those that depend on conditions alone.
        data: the others, where code between this graph and another one may get them; else empty.
    """

    dependent: tuple[int, ...] = ()
    conditions: tuple[int, ...] = ()
    data: tuple[int, ...] = ()


def has_origin(tensor: torch.Tensor) -> bool:
    """Whether the storage of a tensor has been met before, as an output of a compiled graph or as a signal."""
    return _origin(tensor) is not None


def recording_outputs(call: Callable[..., Any], outputs: Outputs, model: object | None) -> Callable[..., Any]:
    """``call``, whose outputs are remembered, weakly; ``call`` itself where there is nothing to remember.

    Args:
        call: runs a compiled graph.
        outputs: as from :func:`outputs_of`.
        model: the model to which the graph belongs, if it is known.
    """
    kinds = (
        (_Kind.OUTPUT, outputs.dependent),
        (_Kind.CONDITION, outputs.conditions),
        (_Kind.DATA, outputs.data),
    )
    noted = [(kind, position) for kind, positions in kinds for position in positions]
    if not noted:
        return call
    owner = _nobody if model is None else weakref.ref(model)

    def recorded(*args: Any) -> Any:
        results = call(*args)
        for kind, position in noted:
            if kind is _Kind.OUTPUT or not has_origin(results[position]):
                _note(results[position], kind, owner)
        return results

    return recorded


def outputs_of(gm: GraphModule, inputs: Iterable[GraphInput]) -> Outputs:
    """The outputs of a captured graph that are to be remembered."""
    placeholders = gm.graph.find_nodes(op="placeholder")
    made: dict[Node, frozenset[Role]] = {
        node: frozenset((item.role,)) for node, item in zip(placeholders, inputs, strict=True)
    }
    for node in gm.graph.nodes:
        if node not in made:
            made[node] = _made_of(node, made)
    held = frozenset(placeholders)
    tensors = [
        (position, made[node])
        for position, node in enumerate(gm.graph.output_node().args[0])
        if isinstance(node, Node) and node not in held and isinstance(node.meta.get("example_value"), torch.Tensor)
    ]
    ended_early = compat.break_reason(gm) is not None
    dependent, conditions, data = [], [], []
    for position, roles in tensors:
        if not roles.isdisjoint((Role.PARAMETER, Role.ACTIVATION)):
            dependent.append(position)
        elif Role.CONDITION in roles and Role.DATA not in roles:
            conditions.append(position)
        elif ended_early:
            data.append(position)
    return Outputs(tuple(dependent), tuple(conditions), tuple(data))


def _made_of(node: Node, made: dict[Node, frozenset[Role]]) -> frozenset[Role]:
    """The roles of the inputs, and of random numbers, from which a node computes its value."""
    value = node.meta.get("example_value")
    drawn: frozenset[Role] = frozenset()
    if is_random(node) and isinstance(value, torch.Tensor):
        drawn = frozenset((Role.CONDITION if is_condition(value) else Role.DATA,))
        if not reads_values(node):
            return drawn
    return drawn.union(*(made.get(operand, frozenset()) for operand in node.all_input_nodes))
