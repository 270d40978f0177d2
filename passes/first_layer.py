"""Which calls are first layers.

A **first layer** is a convolution or matrix product of the forward pass with an input that depends on data and on no
parameter and no activation, and a weight that depends on a parameter and not on data, and whose gradient exists. All such
calls count, but for two kinds: a layer that activations feed in another call is a recurrent cell, and what conditions alone
(at most one number for each sample) feed is first only where no signal feeds a layer. Only tensors carry dependence; sizes
do not. ``layers=[...]`` selects calls by name and replaces the condition on the input.

:func:`find` never changes the graph. For every call that it considers and leaves alone, it reports the reason.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from tract_fx.distributed.covariance import LARGEST_DYNAMIC_PRIMAL
from tract_fx.ops.transposed import TransposedGeometry, parts_of
from tract_fx.passes.batch import BatchDimension, batch_of
from tract_fx.passes.calls import Call, Kind, Side, calls, is_layer_operator
from tract_fx.passes.dependence import Dependence, FirstParameterUse, dependences, first_parameter_use
from tract_fx.passes.joint_graph import JointGraph, Role, operator_of, target_of
from tract_fx.passes.obstacles import (
    SAME_VALUES,
    Remedy,
    differentiated_by_hand,
    obstacle,
    obstacle_in_batch,
    opaque_products,
    other_products,
)
from tract_fx.passes.weight_gradient import AmbiguousGradientError, WeightGradient, weight_gradient
from tract_fx.records import RejectionKind

__all__ = ["Findings", "Form", "Match", "Rejection", "System", "find", "is_named"]

Size: TypeAlias = int | torch.SymInt

REWRITTEN = "tract_fx_rewritten"


class Form(enum.Enum):
    """The two forms of the closed form; they are equal and differ in cost."""

    PRIMAL = "primal"
    DUAL = "dual"


@dataclasses.dataclass(frozen=True)
class System:
    """Rows and features of one system; ``phases`` is how many times the outputs of the layer are outputs of this system."""

    rows: Size
    features: int
    phases: int = 1


@dataclasses.dataclass(frozen=True)
class Match:
    """A call to rewrite, with everything that the rewrite needs.

    Attributes:
        call: the forward call; its ``input`` is ``X`` before the rows are taken from it.
        gradient: the backward nodes that hold the weight gradient ``G`` and the output gradient ``dZ``.
        layer: qualified name of the module that made the call.
        weights: names of the parameters from which the weight is computed, sorted.
        rows: ``r``, the number of rows of ``X`` for one group; symbolic when the graph is dynamic.
        features: ``n``, the number of columns of ``X`` for one group.
        groups: number of independent systems that are solved.
        form: whether the systems are ``n x n`` (primal) or ``r x r`` (dual).
        batch: the batch dimensions of a batched product, empty for every other call; entries along a shared dimension,
            along which one weight is expanded, are rows of the same layer.
    """

    call: Call
    gradient: WeightGradient
    layer: str
    weights: tuple[str, ...]
    rows: Size
    features: int
    groups: int
    form: Form
    batch: tuple[BatchDimension, ...] = ()

    @property
    def systems(self) -> tuple[System, ...]:
        """Sizes of the systems that are solved for each group: one, but for transposed convolutions."""
        return _systems(self.call, self.rows, self.features)

    @property
    def shared_batch(self) -> bool:
        """Whether batch entries share a weight."""
        return any(item.shared for item in self.batch)


@dataclasses.dataclass(frozen=True)
class Rejection:
    """A call, or another operation, that is not rewritten, with the reason and what the user can do about it."""

    kind: RejectionKind
    layer: str
    weights: tuple[str, ...]
    op: str
    reason: str
    remedy: Remedy | None = None
    next_layer: str = ""


@dataclasses.dataclass(frozen=True)
class Findings:
    """Results of :func:`find` in the order of the graph; ``has_gradients`` says whether the graph computes gradients."""

    matches: tuple[Match, ...] = ()
    rejections: tuple[Rejection, ...] = ()
    has_gradients: bool = False


def find(joint: JointGraph, layers: str | Sequence[str] = "first", *, shared: bool = False) -> Findings:
    """Matches and rejections of a joint graph.

    Args:
        joint: the graph and its inputs.
        layers: ``"first"``, or names of modules and parameters.
        shared: whether the covariance is summed over processes, which only the primal form can have.
    """
    if not joint.has_gradients and not joint.differentiated_inside:
        return Findings()
    depends = dependences(joint)
    found = tuple(calls(joint, lambda node: node in depends and depends[node].is_weight))
    around = _Surroundings.of(joint, found, depends)
    results: list[Match | Rejection] = [
        result for call in found if (result := _classify(joint, call, depends, layers, shared, around)) is not None
    ]
    rejected = [result for result in results if isinstance(result, Rejection)]
    if not joint.has_gradients:  # an inference graph to AOTAutograd; the gradients in it are the user's own
        inside = joint.differentiated_inside
        return Findings(rejections=tuple(item for item in rejected if not inside.isdisjoint(item.weights)))
    matches = tuple(result for result in results if isinstance(result, Match))
    rejections = [
        *_with_hand_written_backwards(joint, depends, matches, rejected),
        *_other_layers(joint, depends, layers),
    ]
    done = any(REWRITTEN in node.meta for node in joint.forward_nodes)
    if isinstance(layers, str):
        unsupported = any(rejection.kind is RejectionKind.UNSUPPORTED for rejection in rejections)
        if not matches and not unsupported and not done and (use := first_parameter_use(joint, depends)) is not None:
            rejections.append(_no_first_layer(joint, use, depends, around))
        if matches:
            rejections.extend(
                Rejection(
                    RejectionKind.NO_FIRST_LAYER,
                    joint.naming.of_layer(item.node),
                    item.weights,
                    item.operator,
                    item.reason,
                )
                for item in opaque_products(joint, depends)
            )
    elif not done:
        taken_or_refused: list[Match | Rejection] = [
            *matches,
            *(item for item in rejections if item.kind is RejectionKind.UNSUPPORTED),
        ]
        rejections.extend(_named_but_not_called(joint, layers, taken_or_refused))
    return Findings(matches, tuple(rejections), has_gradients=True)


def is_named(name: str, layer: str, weights: Iterable[str]) -> bool:
    """Whether ``name``, as given in ``layers``, means this layer or one of its weights."""
    known = {layer, *weights}
    return name in known or name in {item.removeprefix("module.") for item in known}


# Name, parameters, and which dimension of the weight is summed over: a tied weight that a decoder uses transposed is
# another layer.
LayerKey: TypeAlias = tuple[str, frozenset[str], int]


@dataclasses.dataclass(frozen=True)
class _Surroundings:
    """What the other calls of a graph say about one.

    Attributes:
        recurrent: layers with a call that activations feed, as a recurrent cell has from its second step on.
        has_signal: whether anything but conditions feeds a layer, here or before this graph.
    """

    recurrent: frozenset[LayerKey]
    has_signal: bool

    @classmethod
    def of(cls, joint: JointGraph, found: Iterable[Call], depends: dict[Node, Dependence]) -> _Surroundings:
        inputs = [(_key(joint, call, depends), depends.get(call.input, Dependence())) for call in found]
        return cls(
            frozenset(key for key, value in inputs if not value.is_parameter_free),
            any(value.data and value.is_parameter_free for _, value in inputs) or joint.has_signal_elsewhere,
        )


def _key(joint: JointGraph, call: Call, depends: dict[Node, Dependence]) -> LayerKey:
    return joint.naming.of_layer(call.output), depends[call.weight].parameters, call.summed_dimension


def _classify(
    joint: JointGraph,
    call: Call,
    depends: dict[Node, Dependence],
    layers: str | Sequence[str],
    shared: bool,
    around: _Surroundings,
) -> Match | Rejection | None:
    if REWRITTEN in call.output.meta:
        return None
    layer = joint.naming.of_layer(call.output)
    weights = tuple(sorted(depends[call.weight].parameters))
    of_input = depends.get(call.input, Dependence())
    if layers == "first":
        if not of_input.is_parameter_free:
            return None
        if (reason := _why_not_first(of_input, _key(joint, call, depends), around)) is not None:
            return Rejection(RejectionKind.CONSTANT_INPUT, layer, weights, call.operator, reason)
    elif not any(is_named(name, layer, weights) for name in layers):
        return None
    return _match(joint, call, layer, weights, shared)


def _why_not_first(of_input: Dependence, key: LayerKey, around: _Surroundings) -> str | None:
    """Why a call whose input depends on no parameter is no first layer; None where it is one."""
    if key in around.recurrent:
        return "other calls of it in this graph are fed by trainable values (a recurrent cell)"
    if of_input.data or (of_input.condition and not around.has_signal):
        return None
    if of_input.condition:
        return "its input has at most one number for each sample (a condition), and a signal feeds other layers"
    if of_input.from_constant_table:
        return "its input is looked up in a constant table (codes, tokens, positions)"
    return "nothing in its input is data (a position table, a query, a constant)"


def _match(
    joint: JointGraph, call: Call, layer: str, weights: tuple[str, ...], shared_covariance: bool
) -> Match | Rejection:
    def refuse(reason: str, remedy: Remedy = Remedy.CHOOSE_LAYERS) -> Rejection:
        return Rejection(RejectionKind.UNSUPPORTED, layer, weights, call.operator, reason, remedy)

    batch = batch_of(call.weight) if call.weight.meta["val"].dim() == 3 and call.kind is Kind.PRODUCT else ()
    if (found := obstacle(joint, call, weights) or obstacle_in_batch(call, batch)) is not None:
        return refuse(found.reason, found.remedy)
    batch = () if call.sums_batch else batch
    try:
        gradient = weight_gradient(joint, call)
    except AmbiguousGradientError as error:
        return refuse(f"its weight gradient is not unique in the graph: {error}")
    if gradient is None:
        reason = "the gradient of its weight is not computed"
        return Rejection(RejectionKind.NO_GRADIENT, layer, weights, call.operator, reason)
    rows, features, groups = _sizes(call, batch)
    largest = max((system.features for system in _systems(call, rows, features)), default=0)
    form = Form.PRIMAL if any(item.shared for item in batch) else _choose_form(rows, features, largest)
    if shared_covariance and form is Form.DUAL:
        if largest > LARGEST_DYNAMIC_PRIMAL:
            size = f"{largest} x {largest}, {8 * largest**2 / 2**20:,.0f} MiB"
            return refuse(f"its covariance, {size} to be summed over processes, is too large", Remedy.OWN_COVARIANCE)
        form = Form.PRIMAL
    return Match(call, gradient, layer, weights, rows, features, groups, form, batch)


def _other_layers(
    joint: JointGraph, depends: dict[Node, Dependence], layers: str | Sequence[str]
) -> Iterator[Rejection]:
    """Layers that data feeds and that are no convolution or matrix product of two tensors."""
    for product in other_products(joint, depends):
        layer = joint.naming.of_layer(product.node)
        if layers == "first" or any(is_named(name, layer, product.weights) for name in layers):
            yield Rejection(
                RejectionKind.UNSUPPORTED,
                layer,
                product.weights,
                product.operator,
                product.reason,
                Remedy.CHOOSE_LAYERS,
            )


def _with_hand_written_backwards(
    joint: JointGraph, depends: dict[Node, Dependence], matches: Iterable[Match], rejections: Iterable[Rejection]
) -> Iterator[Rejection]:
    """The rejections; a gradient that the user's own code computed instead of autograd becomes an unsupported layer."""
    known = {match.weights for match in matches}
    for item in rejections:
        own = item.kind is RejectionKind.NO_GRADIENT and item.weights not in known
        if own and (found := differentiated_by_hand(joint, item.weights, depends)) is not None:
            item = dataclasses.replace(item, kind=RejectionKind.UNSUPPORTED, reason=found.reason, remedy=found.remedy)
        yield item


def _sizes(call: Call, batch: tuple[BatchDimension, ...]) -> tuple[Size, int, int]:
    """Rows, features and groups of a call."""
    if call.kind is Kind.CONVOLUTION:
        output, channels = call.output.meta["val"].shape, call.input.meta["val"].shape[1]
        return math.prod(output[2:], start=output[0]), call.geometry.features(channels), call.geometry.groups
    shape = call.input.meta["val"].shape
    if len(shape) == 1:
        return 1, shape[0], 1
    rows, features = (shape[-2], shape[-1]) if call.side is Side.RIGHT else (shape[-1], shape[-2])
    if call.sums_batch:
        return rows, shape[0] * features, 1
    shared = math.prod(item.size for item in batch if item.shared)
    return shared * rows, features, math.prod(item.size for item in batch if not item.shared)


def _systems(call: Call, rows: Size, features: int) -> tuple[System, ...]:
    geometry = call.geometry
    if not isinstance(geometry, TransposedGeometry):
        return (System(rows, features),)
    batch, channels, *spatial = call.input.meta["val"].shape
    return tuple(
        System(math.prod(part.outputs(spatial), start=batch), part.geometry.features(channels), part.phases)
        for part in parts_of(geometry, spatial)
    )


def _choose_form(rows: Size, features: int, largest: int) -> Form:
    """Dual when the rows are known to be fewer than the features.

    With dynamic rows the primal form is taken, since its cost does not depend on them - unless its system would not fit
    into memory; then the rows of the example decide, and a guard recompiles should they ever outnumber the features.
    """
    if statically_known_true(rows < features):
        return Form.DUAL
    if isinstance(rows, torch.SymInt) and largest > LARGEST_DYNAMIC_PRIMAL and bool(rows < features):
        return Form.DUAL
    return Form.PRIMAL


def _no_first_layer(
    joint: JointGraph, use: FirstParameterUse, depends: dict[Node, Dependence], around: _Surroundings
) -> Rejection:
    op = operator_of(use.node)
    if is_layer_operator(op) and use.from_constant_table:
        why = "the data are indices into a constant table, of which this layer sees the entries"
    elif is_layer_operator(op) and any(
        layer == joint.naming.of_layer(use.node) and weights.issubset(use.parameters)  # a bias may be among them
        for layer, weights, _ in around.recurrent
    ):
        why = "that layer is also fed by trainable values (a recurrent cell)"
    elif is_layer_operator(op):
        why = _without_gradient(joint, use)
    elif "embedding" in op:
        why = "a look-up in a table multiplies no rows with a weight"
    elif "norm" in op:
        why = "a trainable normalisation scales single features; what comes after it is fed by trainable values"
    else:
        why = "it is no convolution or matrix product; what comes after it is fed by trainable values"
    return Rejection(
        RejectionKind.NO_FIRST_LAYER,
        joint.naming.of_layer(use.node),
        use.parameters,
        op,
        f"there is no first layer: data first meets a parameter in {op}, and {why}",
        Remedy.NAME_LAYER,
        _next_layer(joint, use, depends),
    )


def _without_gradient(joint: JointGraph, use: FirstParameterUse) -> str:
    """Why a layer has no weight gradient: its frozen weight by name, where that is the reason."""
    weights = {node for operand in use.node.all_input_nodes for node in same_values(operand)}
    frozen = sorted(
        joint.input_of[node].name
        for node in weights & joint.input_of.keys()
        if joint.input_of[node].role is Role.STATIC and node.meta["val"].dim() > 1
    )
    if frozen:
        return f"{', '.join(frozen)} is frozen (requires_grad=False)"
    return f"the gradient of {', '.join(use.parameters)} is not computed here"


def same_values(node: Node) -> Iterator[Node]:
    """A node, and those whose values it has in another order or dtype."""
    yield node
    while target_of(node) in SAME_VALUES:
        node = node.args[0]
        yield node


def _next_layer(joint: JointGraph, use: FirstParameterUse, depends: dict[Node, Dependence]) -> str:
    """Name of the first layer behind an operation whose weight gradient is computed; empty where there is none."""
    order = {node: position for position, node in enumerate(joint.forward_nodes)}
    behind = [
        call
        for call in calls(joint, lambda node: node in depends and depends[node].is_weight)
        if order[call.output] > order[use.node] and not depends.get(call.input, Dependence()).is_parameter_free
    ]
    for call in sorted(behind, key=lambda call: order[call.output]):
        weights = tuple(sorted(depends[call.weight].parameters))
        if obstacle(joint, call, weights) is None and joint.gradients_of(weights):
            return joint.naming.of_layer(call.output) or weights[0]
    return ""


def _named_but_not_called(
    joint: JointGraph, layers: Sequence[str], results: Sequence[Match | Rejection]
) -> list[Rejection]:
    """Names of parameters of this graph for which ``results`` has nothing."""
    missing = []
    for name in layers:
        if any(is_named(name, result.layer, result.weights) for result in results):
            continue
        known = [item for item in joint.inputs if is_named(name, item.name.rpartition(".")[0], (item.name,))]
        if not known:
            continue  # in another graph of the model, or an error of the backend's, which knows the whole model
        weights = tuple(item.name for item in known)
        if all(item.role is Role.STATIC for item in known):
            reason = "none of its parameters requires grad"
        else:
            reason = (
                "none of its parameters is the weight of a convolution or matrix product whose gradient is computed"
            )
        missing.append(Rejection(RejectionKind.UNSUPPORTED, name, weights, "", reason, Remedy.REMOVE_NAME))
    return missing
