"""The only file that changes a graph: it replaces the plain weight gradient with the TrAct gradient.

Before, a convolution under autocast::

    convolution_backward = aten.convolution_backward(dz, x, weight, ...)
    getitem_1: bf16[64, 3, 7, 7] = convolution_backward[1]
    convert:   f32[64, 3, 7, 7] = prims.convert_element_type(getitem_1, float32)      -> gradient of the parameter

After, on a CPU; the plain weight gradient is no longer computed::

    primal: f32[1, 64, 147] = tract_fx.primal_gradient(x, dz, rows, lam, [7, 7], [2, 2], [3, 3], [1, 1], 1)
    ... primal in the shape and layout of the weight                                  -> gradient of the parameter

And on any other device, where an operator that looks at a value would wait for it::

    sums: f64[1, 147, 147], f64[1, 64, 147] = tract_fx.gram_and_gradient(x, dz, [7, 7], [2, 2], [3, 3], [1, 1], 1)
    solved: f64[1, 64, 147], i32[1] = tract_fx.factor_and_solve(sums[0] / rows + lam I, sums[1])
    ... where(solved[1] == 0, solved[0], sums[1]) ...
    convert_1: f32[64, 3, 7, 7] = prims.convert_element_type(...)                     -> gradient of the parameter

Where processes share the covariance, the backward pass begins with its part that depends on data alone::

    agree: f64[6] = tract_fx.agree(lam, None, tangents_1, rows, groups, layer)
    patch_gram: f64[1, 147, 147] = tract_fx.patch_gram(x, [7, 7], [2, 2], [3, 3], [1, 1], 1)
    all_reduce: f64[21614] = _c10d_functional.all_reduce(cat([patch_gram as f64[21609], agree[:5]]), "sum", group)

and where ``dz`` has been computed, ``tract_fx.weight_gradient(x, dz, ...)`` and ``tract_fx.await_sums(all_reduce, ...)``, so
that everything in between hides the communication: what used ``tangents_1`` now uses
``tract_fx.hold(tangents_1, all_reduce)``.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import make_fx

from tract_fx.compat import detect_fake_mode, preserving_no_metadata
from tract_fx.distributed.agreement import Group
from tract_fx.distributed.covariance import Sharing, order_after, shared_gradient, start_covariance
from tract_fx.ops.alike import alike_gradients
from tract_fx.ops.gradient import exact_gradient
from tract_fx.ops.operands import LayerOperands, Operands, laid_out_as, layer_operands
from tract_fx.ops.patches import LINEAR, PatchGeometry
from tract_fx.ops.transposed import systems_of
from tract_fx.passes.batch import Folding
from tract_fx.passes.calls import Call, Kind, Side
from tract_fx.passes.first_layer import REWRITTEN, Form, Match
from tract_fx.passes.joint_graph import is_backward

__all__ = ["apply", "apply_alike", "apply_shared", "operands_of", "product_operands", "replace_gradient"]

aten = torch.ops.aten

# What a gradient passes through on its way to a wider dtype without its values being changed.
_VIEWS = (
    aten.permute.default,
    aten.t.default,
    aten.transpose.int,
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.squeeze.dim,
    aten.unsqueeze.default,
    aten.alias.default,
)
# Elements of a gradient that may be copied for the order of operations.
MOST_HELD = 2**26
_CASTS = (torch.ops.prims.convert_element_type.default, aten._to_copy.default)
# Copied from the replaced gradient to every new node, so that partitioning, profiles and stack traces stay right.
_INHERITED = ("partitioner_tag", "seq_nr", "fwd_nn_module_stack", "stack_trace", "custom", "autograd_backward")

Decompositions = dict[Any, Callable[..., Any]]


def apply(match: Match, lam: Node, decompositions: Decompositions | None = None, *, relative: bool = False) -> None:
    """Rewrite one match in its graph.

    Args:
        match: a result of :func:`~tract_fx.passes.first_layer.find` on the graph as it is now.
        lam: the node that holds ``lam``, a float64 tensor of no dimension.
        decompositions: those that the rest of the graph was traced with.
        relative: whether ``lam`` is in units of the mean eigenvalue of the covariance.
    """
    others = [match.call.input, match.gradient.output_gradient, lam]
    replace_gradient(match, _formula(match, relative), others, decompositions)
    _drop_plain_gradient(match)
    match.call.output.meta[REWRITTEN] = True


def apply_alike(
    matches: Sequence[Match], lam: Node, decompositions: Decompositions | None = None, *, relative: bool = False
) -> None:
    """:func:`apply` for linear layers of one shape, by one operator behind the last of their gradients.

    Where there is only one, or the gradient of one has a part in that of another, they are rewritten one by one.

    Args:
        matches: a group of :func:`~tract_fx.passes.alike.alike`.
        lam: as for :func:`apply`.
        decompositions: as for :func:`apply`.
        relative: as for :func:`apply`.
    """
    gradients = [match.gradient.node for match in matches]
    inputs = [match.call.input for match in matches]
    output_gradients = [match.gradient.output_gradient for match in matches]
    arguments = [*gradients, *inputs, *output_gradients, lam]
    point = max(arguments)
    if len(matches) == 1 or not _move_users(gradients, arguments, point):
        for match in matches:
            apply(match, lam, decompositions, relative=relative)
        return
    users = [list(gradient.users) for gradient in gradients]
    traced = _trace(_formula_of_alike(matches, relative), arguments, decompositions)
    results = _inline(traced, arguments, after=point, like=max(gradients))
    for match, gradient, result, old_users in zip(matches, gradients, results, users, strict=True):
        _replace(gradient, result, old_users)
        match.call.output.meta[REWRITTEN] = True


def _formula_of_alike(matches: Sequence[Match], relative: bool) -> Callable[..., list[Tensor]]:
    def formula(*values: Tensor) -> list[Tensor]:
        count = len(matches)
        gradients, inputs, output_gradients = (values[start : start + count] for start in range(0, 3 * count, count))
        lam = values[-1].to(inputs[0].device)
        layers = [
            product_operands(match, *operands)
            for match, *operands in zip(matches, inputs, gradients, output_gradients, strict=True)
        ]
        found = alike_gradients(
            [layer.input for layer in layers], [layer.output_channels for layer in layers], lam, relative
        )
        return [
            _in_place_of(gradient, layer.restore(new[None]))
            for gradient, layer, new in zip(gradients, layers, found, strict=True)
        ]

    return formula


def _move_users(gradients: Sequence[Node], needed: Sequence[Node], point: Node) -> bool:
    """Move whatever is made from ``gradients`` behind ``point``, unless some of it is ``needed`` there."""
    made: dict[Node, None] = dict.fromkeys(gradients)
    for node in point.graph.nodes:
        if any(argument in made for argument in node.all_input_nodes):
            made[node] = None
        if node is point:
            break
    users = [node for node in made if node not in gradients]
    if not set(users).isdisjoint(needed):
        return False
    for node in users:
        point.append(node)
        point = node
    return True


def replace_gradient(
    match: Match, formula: Callable[..., Tensor], others: list[Node], decompositions: Decompositions | None = None
) -> None:
    """Replace the weight gradient of a match with ``formula(gradient, *others)``.

    Args:
        match: a result of :func:`~tract_fx.passes.first_layer.find` on the graph as it is now.
        formula: on tensors; its result has the shape of the gradient, and its dtype or a wider one.
        others: nodes whose values it is given beside the gradient.
        decompositions: those that the rest of the graph was traced with.
    """
    gradient = match.gradient.node
    arguments = [gradient, *others]
    users = list(gradient.users)  # before the new nodes, some of which use the gradient too
    traced = _trace(formula, arguments, decompositions)
    (result,) = _inline(traced, arguments, after=gradient, like=gradient)
    _replace(gradient, result, users)


def apply_shared(
    match: Match,
    lam: Node,
    groups: tuple[Group, ...],
    tangent: Node | None,
    decompositions: Decompositions | None = None,
    *,
    relative: bool = False,
) -> Node | None:
    """Rewrite one match with the covariance of the rows of all processes.

    Args:
        match: as for :func:`apply`, of primal form.
        lam: the node that holds ``lam``, a float64 tensor of no dimension.
        groups: process groups that share it.
        tangent: an input of the backward pass; without it the covariance waits for the gradient of the layer's output.
        decompositions: those that the rest of the graph was traced with.
        relative: as for :func:`apply`; the covariance is that of all processes.

    Returns:
        The node that replaces ``tangent`` in the rest of the graph.
    """
    gradient, input = match.gradient.node, match.call.input
    output_gradient = match.gradient.output_gradient
    features, dtype = [system.features for system in match.systems], input.meta["val"].dtype
    sharing = Sharing.of(groups, match.weights, features, match.groups, dtype, relative=relative)

    def start(input: Tensor, tangent: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
        systems, rows = _systems(match, input)
        return start_covariance(systems, rows, lam.to(input.device), tangent, sharing)

    def finish(
        gradient: Tensor, input: Tensor, output_gradient: Tensor, started: Tensor, exponent: Tensor, lam: Tensor
    ) -> Tensor:
        operands = operands_of(match, input, gradient, output_gradient)
        new = shared_gradient(started, exponent, operands, lam.to(input.device), sharing)
        return _in_place_of(gradient, operands.restore(new))

    arguments = [input, tangent or output_gradient, lam]
    point = output_gradient if tangent is None else _before_backward(input.graph, arguments)
    started = _inline(_trace(start, arguments, decompositions), arguments, after=point, like=gradient)
    if tangent is not None:
        tangent = _order_after(tangent, started[0], like=gradient)
    replace_gradient(match, finish, [input, output_gradient, *started, lam], decompositions)
    _drop_plain_gradient(match)
    match.call.output.meta[REWRITTEN] = True
    return tangent


def _drop_plain_gradient(match: Match) -> None:
    """Remove the computation of a convolution's plain weight gradient, unless another node uses it.

    A product without users is dropped by whatever compiles the graph. ``convolution_backward`` has other results. That of
    the bias stays where it is and bitwise equal: on a GPU Inductor turns it into a separate sum, and on a CPU oneDNN
    computes it together with a weight gradient that is not used.
    """
    gradient = match.gradient.node
    if match.call.kind is not Kind.CONVOLUTION or gradient.users:
        return
    backward, graph = gradient.args[0], gradient.graph
    for result in [user for user in backward.users if user.target is operator.getitem]:
        if not result.users:
            graph.erase_node(result)
    if not backward.users:
        graph.erase_node(backward)
        return
    of_input, _, of_bias = backward.args[10]
    backward.args = (*backward.args[:10], [of_input, False, of_bias])
    old = backward.meta["val"]
    backward.meta["val"] = (old[0], None, old[2])


def _order_after(tangent: Node, started: Node, like: Node) -> Node:
    """Order everything that uses ``tangent`` after ``started``, unless that needs a copy of a large tensor."""
    size = tangent.meta["val"].numel()
    if isinstance(size, int) and size > MOST_HELD:
        return tangent
    users = [user for user in tangent.users if started < user]
    arguments = [tangent, started]
    (held,) = _inline(_trace(order_after, arguments, None), arguments, after=started, like=like)
    for user in users:
        user.replace_input_with(tangent, held)
    return held


def _before_backward(graph: torch.fx.Graph, needed: list[Node]) -> Node:
    """The last node before the backward pass begins, or the last of ``needed`` should that come later."""
    missing = set(needed)
    point = graph.output_node()
    for node in graph.nodes:
        if not missing and is_backward(node):
            break
        missing.discard(node)
        point = node
    return point


def _formula(match: Match, relative: bool) -> Callable[..., Tensor]:
    """The new gradient as a function of the old one's surroundings, in float32 or float64 and the old one's shape."""

    def formula(gradient: Tensor, input: Tensor, output_gradient: Tensor, lam: Tensor) -> Tensor:
        operands = operands_of(match, input, gradient, output_gradient)
        new = operands.gradient(lam.to(input.device), dual=match.form is Form.DUAL, relative=relative)
        return _in_place_of(gradient, new)

    return formula


def _in_place_of(old: Tensor, new: Tensor) -> Tensor:
    return laid_out_as(new, old).to(torch.promote_types(old.dtype, torch.float32))


def operands_of(match: Match, input: Tensor, gradient: Tensor, output_gradient: Tensor) -> LayerOperands:
    """The values of a match's nodes as the closed form takes them."""
    if match.call.kind is Kind.PRODUCT:
        return LayerOperands.of(product_operands(match, input, gradient, output_gradient))
    return layer_operands(input, output_gradient, gradient.shape, match.call.geometry)


def _systems(match: Match, input: Tensor) -> tuple[list[tuple[Tensor, PatchGeometry]], Any]:
    """Inputs in the layout of ``tract_fx.ops``, with how rows are taken from each, and how many rows there are in all."""
    geometry = match.call.geometry
    if match.call.kind is Kind.PRODUCT:
        rows, _ = _product_rows(match, input)
        return [(rows.transpose(0, 1).flatten(1), dataclasses.replace(LINEAR, groups=rows.shape[0]))], rows.shape[1]
    return systems_of(input, geometry), input.shape[0] * math.prod(geometry.outputs(input.shape[2:]))


def _product_rows(match: Match, input: Tensor) -> tuple[Tensor, Folding | None]:
    """``(groups, r, n)``, and how batch entries were folded into rows."""
    rows = _matrix(
        _joined(match.call, input, is_left=match.call.side is Side.RIGHT),
        match.call.side is Side.LEFT,
        vector_is_row=True,
    )
    if not match.shared_batch:
        return rows, None
    folding = Folding(rows, match.batch)
    return folding.fold(rows), folding


def product_operands(match: Match, input: Tensor, gradient: Tensor, output_gradient: Tensor) -> Operands:
    """Rows as ``(r, n)``, or grouped channels ``(r, groups * n)`` for a batched product."""
    left = match.call.side is Side.LEFT
    rows, folding = _product_rows(match, input)
    outputs = _matrix(output_gradient, left, vector_is_row=left)
    shape, dims = gradient.shape, gradient.dim()
    weights = _matrix(_joined(match.call, gradient, is_left=left), not left, vector_is_row=True)
    if match.gradient.scale != 1:
        outputs = outputs.to(torch.float64) * match.gradient.scale
    as_before = weights.shape
    if folding is not None:
        weights = folding.fold(weights)
    by_entry = None if folding is None else partial(_gradients_by_entry, left, input, outputs, folding)
    geometry = dataclasses.replace(LINEAR, groups=rows.shape[0])

    def restore(new: Tensor) -> Tensor:
        if folding is not None:
            new = folding.unfold(new, as_before)
        if left and match.call.sums_batch:
            return new.reshape(shape[1], shape[0], shape[2]).transpose(0, 1)
        return (new if left or dims == 1 else new.transpose(1, 2)).reshape(shape)

    return Operands(
        input=rows.transpose(0, 1).flatten(1),
        geometry=geometry,
        gradient=weights,
        outputs=as_before[1],
        output_gradient=outputs,
        output_channels=outputs.transpose(0, 1).flatten(1),
        rows=rows.shape[1],
        restore=restore,
        by_entry=by_entry,
    )


def _joined(call: Call, factor: Tensor, *, is_left: bool) -> Tensor:
    """A factor of a product; where a batch of products is added up, those factors side by side or one below another."""
    if not call.sums_batch:
        return factor
    return factor.transpose(0, 1).flatten(1) if is_left else factor.flatten(0, 1)


def _gradients_by_entry(left: bool, input: Tensor, outputs: Tensor, folding: Folding) -> Tensor:
    """Plain gradients ``(groups, shared * m, n)`` of a batch of which some entries share a weight."""
    rows = _matrix(input, left, vector_is_row=True)
    input, outputs = (tensor.transpose(0, 1).flatten(1) for tensor in (rows, outputs))
    return folding.fold(exact_gradient(input, outputs, dataclasses.replace(LINEAR, groups=rows.shape[0])))


def _matrix(tensor: Tensor, transpose: bool, *, vector_is_row: bool) -> Tensor:
    """A factor of a product as ``(batch, rows, columns)``, transposed where the product has it transposed."""
    if tensor.dim() == 1:
        return (tensor[None] if vector_is_row else tensor[:, None])[None]
    matrix = tensor if tensor.dim() == 3 else tensor[None]
    return matrix.transpose(1, 2) if transpose else matrix


def _trace(
    formula: Callable[..., Tensor], arguments: list[Node], decompositions: Decompositions | None
) -> torch.fx.GraphModule:
    values = [argument.meta["val"] for argument in arguments]
    mode = detect_fake_mode(values)
    with mode, preserving_no_metadata():
        return make_fx(formula, decomposition_table=decompositions or {}, tracing_mode="real")(*values)


def _inline(traced: torch.fx.GraphModule, arguments: list[Node], after: Node, like: Node) -> tuple[Node, ...]:
    """Copy the nodes of ``traced`` behind ``after``, with metadata of ``like``; returns the nodes that hold the results."""
    graph = after.graph
    placeholders = traced.graph.find_nodes(op="placeholder")
    copies: dict[Node, Node] = dict(zip(placeholders, arguments, strict=True))
    inherited = {key: like.meta[key] for key in _INHERITED if key in like.meta}
    point = after
    traced.graph.eliminate_dead_code()
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            continue
        if node.op == "output":
            results = node.args[0]
            return tuple(copies[result] for result in (results if isinstance(results, (tuple, list)) else (results,)))
        with graph.inserting_after(point):
            point = graph.node_copy(node, copies.__getitem__)
        point.meta = {**inherited, "val": node.meta["val"]}
        copies[node] = point
    raise AssertionError("a traced graph has an output")


def _replace(old: Node, new: Node, users: list[Node]) -> None:
    """Give ``new``, which may be wider, to the users of ``old``, without narrowing it on the way to a wider dtype.

    A narrow gradient that is viewed and then cast to float32 (autocast) is followed up to its casts, and the views are
    done again on the wide one; every other user gets the new gradient in the old dtype.
    """
    graph, dtype = old.graph, old.meta["val"].dtype
    narrowed: Node | None = None
    for user in users:
        if new.meta["val"].dtype != dtype and user.target in _CASTS and user.meta["val"].is_floating_point():
            user.replace_all_uses_with(_cast(new, user.meta["val"].dtype))
            graph.erase_node(user)
        elif new.meta["val"].dtype != dtype and user.target in _VIEWS and user.args[0] is old:
            with graph.inserting_after(new):
                view = graph.node_copy(user, lambda node: new if node is old else node)
            view.meta = {**user.meta, "val": user.meta["val"].to(new.meta["val"].dtype)}
            _replace(user, view, list(user.users))
            graph.erase_node(user)
        else:
            narrowed = narrowed or _cast(new, dtype)
            user.replace_input_with(old, narrowed)


def _cast(node: Node, dtype: torch.dtype) -> Node:
    """``node`` in ``dtype``: itself when it has it already."""
    if node.meta["val"].dtype == dtype:
        return node
    with node.graph.inserting_after(node):
        cast = node.graph.call_function(torch.ops.prims.convert_element_type.default, (node, dtype))
    cast.meta = {**node.meta, "val": node.meta["val"].to(dtype)}
    return cast
