"""The state that this package keeps for the whole process, and the reasons why it cannot be kept anywhere else.

- ``torch.compile(model, backend="tract")`` calls a function for every graph. The object that this function makes is found
  again by its options in :data:`named`: Dynamo may run the code of one model for another one if their options are equal.
  Between the compilation of a model and its first graph, :data:`asked` keeps an object that the user asked for. The keys of
  warnings that are given only once are kept in :data:`warned`.
- A model does not know with which backend it was compiled: :data:`training` has the parameters that each backend has seen.
- Dynamo may skip the frame that holds the first layer, and then no backend is called. The optimiser still runs, but it
  knows nothing of backends: which parameters of each model were compiled is kept in :data:`models`. Before the optimiser,
  the only moment when a model can be registered is the call of ``torch.compile``, which reads the name of the backend. For
  this reason ``TractBackend.__name__`` is a property, and importing ``tract_fx.entry_point`` registers a model.
- A parameter may be in several models, and parts of a model may be compiled without the rest: what each backend compiled,
  and which parameters have a new gradient, is kept in :data:`backends` and :data:`rewritten`.
- A block that a backward pass computes anew is called by no module: :data:`callers` has those that called compiled parts.
- A name in ``layers=[...]`` may belong to a layer that no graph holds: :data:`chosen` has the names of each backend.
- A recurrent cell that is compiled by itself has one graph for its first step, which data alone feed, and another one for
  the others: :data:`fed_by_data` has the weights that are rewritten where data alone feed their layer.
- A rewritten weight may be used again by code that is not compiled: :data:`watches`, by parameter, compares the gradient
  that graphs have computed with the one that arrives.
- Training without an optimiser of ``torch.optim`` is noticed by the gradients of one weight: those are in :data:`counted`.
- A second model with the structure of a first one runs the code that was compiled for the first: :data:`structures`.
- The class of a layer that ``TrAct`` was applied to is derived from the class of the layer. It is made once, so that equal
  layers have one type, as Dynamo's guards and ``type(a) is type(b)`` need it: :data:`tract_classes`.
- A layer that ``TrAct`` was applied to looks once at its input, to say that ``lam`` is raised: :data:`looked` has the
  tensors with the ``lam`` of those that did, which replicas share.
- Whether an input of a graph is an activation depends on what earlier graphs, of any backend, have computed: :data:`origins`
  has the storages of their outputs, by address, and :data:`origins_alive` how many there were when it was last cleaned.
- An operator in a compiled graph can hold numbers and strings, but no objects: :data:`observers` and :data:`agreements`.

Models, backends, parameters, structures, classes, observers and storages are held weakly, except for the few classes that
are also registered in the tables of ``torch.ao.quantization``. An agreement is replaced when its process group is.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = [
    "BackendStatus",
    "ChosenLayers",
    "CompileStatus",
    "Structure",
    "agreements",
    "asked",
    "backends",
    "callers",
    "chosen",
    "counted",
    "fed_by_data",
    "looked",
    "models",
    "named",
    "observers",
    "origins",
    "origins_alive",
    "rewritten",
    "structures",
    "tract_classes",
    "training",
    "warned",
    "watches",
]

Structure = tuple[tuple[str, type], ...]
"""Names and classes of the modules of a model: what decides whether one can run the code compiled for another one."""


@dataclasses.dataclass
class CompileStatus:
    """What has been compiled of a model so far.

    Attributes:
        owner: returns the backend, which is held weakly, or None.
        suppress_warnings: whether the user asked for no warnings.
        due: whether the next step of an optimiser has to check the model.
        matched: whether a layer of the model is rewritten.
        parameters: names of the parameters that are inputs of its compiled graphs.
        rewritten: names of those that have a new gradient.
        without_gradients: whether a graph of it was compiled with gradients disabled.
        frozen: whether a graph of it has frozen weights only.
    """

    owner: Callable[[], object | None] = lambda: None
    suppress_warnings: bool = False
    due: bool = True
    matched: bool = False
    parameters: set[str] = dataclasses.field(default_factory=set)
    rewritten: set[str] = dataclasses.field(default_factory=set)
    without_gradients: bool = False
    frozen: bool = False


@dataclasses.dataclass
class BackendStatus:
    """What one backend has compiled for training so far.

    Attributes:
        matched: whether a layer of any of its graphs is rewritten.
        warned: whether a warning has said why not.
        suppress_warnings: whether the user asked for no warnings.
        parameters: the parameters that are inputs of its graphs, by ``id``.
        reasons: why layers of its graphs are no first layers.
        enclosing: returns the model of which the compiled one is a part, which is held weakly, or None.
    """

    matched: bool = False
    warned: bool = False
    suppress_warnings: bool = False
    parameters: weakref.WeakValueDictionary[int, torch.Tensor] = dataclasses.field(
        default_factory=weakref.WeakValueDictionary
    )
    reasons: dict[str, None] = dataclasses.field(default_factory=dict)
    enclosing: Callable[[], nn.Module | None] = lambda: None


@dataclasses.dataclass
class ChosenLayers:
    """The names in ``layers=[...]`` of one backend.

    Attributes:
        on_unsupported: the option.
        without_effect: the names that no graph has rewritten or refused so far.
        models: the models whose graphs the backend has compiled for training.
        waiting: the names of which a warning has said that nothing has happened yet.
    """

    on_unsupported: str
    without_effect: set[str]
    models: weakref.WeakSet[nn.Module] = dataclasses.field(default_factory=weakref.WeakSet)
    waiting: set[str] = dataclasses.field(default_factory=set)


warned: set[str] = set()
named: weakref.WeakSet[Any] = weakref.WeakSet()
asked: weakref.WeakKeyDictionary[object, Any] = weakref.WeakKeyDictionary()
training: weakref.WeakKeyDictionary[Any, weakref.WeakValueDictionary[int, torch.Tensor]] = weakref.WeakKeyDictionary()
backends: weakref.WeakKeyDictionary[object, BackendStatus] = weakref.WeakKeyDictionary()
chosen: weakref.WeakKeyDictionary[Any, ChosenLayers] = weakref.WeakKeyDictionary()
callers: weakref.WeakSet[nn.Module] = weakref.WeakSet()
counted: weakref.WeakValueDictionary[int, torch.Tensor] = weakref.WeakValueDictionary()
fed_by_data: weakref.WeakValueDictionary[int, torch.Tensor] = weakref.WeakValueDictionary()
looked: weakref.WeakValueDictionary[int, torch.Tensor] = weakref.WeakValueDictionary()
rewritten: weakref.WeakValueDictionary[int, torch.Tensor] = weakref.WeakValueDictionary()
watches: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
models: weakref.WeakKeyDictionary[nn.Module, CompileStatus] = weakref.WeakKeyDictionary()
structures: weakref.WeakKeyDictionary[object, dict[Structure, CompileStatus]] = weakref.WeakKeyDictionary()
observers: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
tract_classes: weakref.WeakValueDictionary[type, type] = weakref.WeakValueDictionary()
agreements: dict[str, Any] = {}
origins: dict[int, Any] = {}
origins_alive = [0]
