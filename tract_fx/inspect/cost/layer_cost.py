"""What the closed form costs for one layer, beside what the layer and the whole step cost anyway.

Every quantity is a sympy expression in the symbolic sizes of the graph, and a number where the graph is static. With ``r``
rows, ``n`` features, ``m`` outputs, for each group:

=============  ==================================  =========================
               primal                              dual
=============  ==================================  =========================
covariance     ``r n (n + 1)``                     ``r (r + 1) n``
factorisation  ``n (n + 1) (2n + 1) / 6``          ``r (r + 1) (2r + 1) / 6``
solve          ``2 n^2 m``                         ``2 r^2 m + 2 r n m``
=============  ==================================  =========================

Operations are those of the formulas, a multiplication and an addition being two: on a CPU overlapping patches take fewer
(:mod:`tract_fx.ops.cpu.selection`), which no formula in the batch size has. Bytes are the least that has to be moved: each
operand read once and each result written once, in the dtypes that they have. Memory is an upper bound of what is held
beyond the operands and the new gradient; the three parts follow one another, so that of all the largest counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import sympy
import torch
from torch.fx import Node

from tract_fx.inspect.cost.flops import cholesky_flops, gram_flops, triangular_flops
from tract_fx.inspect.cost.memory import FLOAT64, gradient_memory, gram_memory
from tract_fx.inspect.cost.symbols import elements_of, expression, hints_of, shape_of, substitute
from tract_fx.ops.patches import LINEAR, PatchGeometry
from tract_fx.ops.transposed import TransposedGeometry, parts_of
from tract_fx.passes.calls import Kind
from tract_fx.passes.first_layer import Form, Match
from tract_fx.passes.joint_graph import is_backward

__all__ = ["LayerCost", "Work", "layer_cost"]

Expr: TypeAlias = sympy.Expr

ZERO = sympy.Integer(0)


@dataclasses.dataclass(frozen=True)
class Work:
    """One part of the computation.

    Attributes:
        flops: floating-point operations.
        bytes: that are read or written at least.
        memory: bytes held at most beyond the operands and the new gradient.
    """

    flops: Expr = ZERO
    bytes: Expr = ZERO
    memory: Expr = ZERO


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """Cost of the rewrite of one call of a layer.

    Attributes:
        layer: qualified name of the module.
        weight: name of the parameter, or of several.
        form: ``"primal"`` or ``"dual"``.
        rows: ``r``.
        features: ``n``, of one group.
        outputs: ``m``, of one group.
        groups: number of systems.
        covariance: of ``C``, or of ``X X^T`` in the dual form.
        factorisation: of ``C + lam I``.
        solve: from the factor to the new gradient.
        forward: operations of the layer's own forward pass.
        weight_gradient: operations of its plain weight gradient.
        input_gradient: operations of the gradient of its input; zero where that is not computed.
        replaced: operations of the plain weight gradient that the dual form makes superfluous. The primal form computes
            ``G`` itself, in float64, in the place of the plain one: as many operations, which are counted on neither side
            (at the edges of a transposed convolution they are not quite as many).
        step: operations of the whole joint graph before the rewrite; None where they have not been counted.
        batch: symbol of the batch size; None where that is a number.
        hints: values that the symbols had in the example.
    """

    layer: str
    weight: str
    form: str
    rows: Expr
    features: Expr
    outputs: Expr
    groups: Expr
    covariance: Work
    factorisation: Work
    solve: Work
    forward: Expr
    weight_gradient: Expr
    input_gradient: Expr
    replaced: Expr = ZERO
    step: Expr | None = None
    batch: sympy.Symbol | None = None
    hints: tuple[tuple[sympy.Symbol, int], ...] = ()

    @property
    def total(self) -> Work:
        """All three parts."""
        parts = self.covariance, self.factorisation, self.solve
        return Work(
            sympy.Add(*(part.flops for part in parts)),
            sympy.Add(*(part.bytes for part in parts)),
            sympy.Max(*(part.memory for part in parts)),
        )

    @property
    def layer_flops(self) -> Expr:
        """Operations of the layer itself, forward and backward."""
        return self.forward + self.weight_gradient + self.input_gradient

    @property
    def added(self) -> Expr:
        """Operations that the step has more than before."""
        return self.total.flops - self.replaced

    @property
    def of_layer(self) -> Expr:
        """Operations that are added, as a multiple of the layer's own."""
        return self.added / self.layer_flops if self.layer_flops else ZERO

    @property
    def of_step(self) -> Expr | None:
        """Operations that are added, as a multiple of those of the step."""
        return None if not self.step else self.added / self.step

    @property
    def symbols(self) -> tuple[sympy.Symbol, ...]:
        """Symbols that any of the quantities depends on, by name."""
        found = frozenset().union(*(expr.free_symbols for expr in _expressions(self)))
        return tuple(sorted(found, key=str))

    def at(self, sizes: Mapping[str, int] | None = None, **named: int) -> LayerCost:
        """The same with numbers in the place of symbols.

        Args:
            sizes: numbers by the name of a symbol. ``batch`` is the batch size, whatever its symbol is called.
            **named: the same. Without any numbers, those of the example are taken.

        Raises:
            ValueError: for a name that is no symbol of this cost.
        """
        wanted = {**(sizes or {}), **named}
        if not wanted:
            return self._substituted(dict(self.hints))
        known = {str(symbol): symbol for symbol in (*self.symbols, *dict(self.hints))}
        if self.batch is not None:
            known["batch"] = self.batch
        for name in wanted:
            if name not in known:
                names = ", ".join(sorted(known)) or "none: its graph is static"
                raise ValueError(f"The cost of {self.layer or self.weight} has no symbol {name!r}; it has {names}.")
        return self._substituted({known[name]: value for name, value in wanted.items()})

    def to_dict(self) -> dict[str, Any]:
        """Plain data: of every quantity its ``expression`` and its ``value``, the latter None while it is unknown."""
        numbers = dict(self.hints)

        def quantity(expr: Expr) -> dict[str, Any]:
            value = substitute(expr, numbers)
            return {"expression": str(expr), "value": _number(value)}

        parts = {name: getattr(self, name) for name in ("covariance", "factorisation", "solve", "total")}
        names = ("rows", "features", "outputs", "groups", "forward", "weight_gradient", "input_gradient", "replaced")
        more = {"added": self.added, "of_layer": self.of_layer, "of_step": self.of_step, "step": self.step}
        return {
            "layer": self.layer,
            "weight": self.weight,
            "form": self.form,
            "batch": None if self.batch is None else str(self.batch),
            "hints": {str(symbol): value for symbol, value in self.hints},
            **{name: quantity(getattr(self, name)) for name in names},
            **{name: None if expr is None else quantity(expr) for name, expr in more.items()},
            **{
                name: {field.name: quantity(getattr(part, field.name)) for field in dataclasses.fields(Work)}
                for name, part in parts.items()
            },
        }

    def _substituted(self, values: dict[sympy.Symbol, int]) -> LayerCost:
        def new(item: Any) -> Any:
            if isinstance(item, Work):
                return Work(*(substitute(getattr(item, field.name), values) for field in dataclasses.fields(Work)))
            return substitute(item, values) if isinstance(item, sympy.Expr) else item

        changed = {field.name: new(getattr(self, field.name)) for field in dataclasses.fields(self)}
        left = tuple((symbol, value) for symbol, value in self.hints if symbol not in values)
        batch = None if self.batch in values else self.batch
        return dataclasses.replace(self, **{**changed, "batch": batch, "hints": left})


def layer_cost(match: Match, step: Expr | None = None) -> LayerCost:
    """The cost of rewriting a match.

    Args:
        match: a result of :func:`~tract_fx.passes.first_layer.find`, its graph as it was then.
        step: operations of that graph, from :func:`~tract_fx.inspect.cost.flops.step_flops`.
    """
    rows, features, groups = expression(match.rows), expression(match.features), expression(match.groups)
    entries = groups * sympy.Mul(*(expression(item.size) for item in match.batch if item.shared))
    # Nothing is computed for the outputs of a layer that has no inputs.
    outputs = elements_of(match.call.weight) / (features * entries) if features * entries else ZERO
    product = 2 * groups * rows * features * outputs
    if isinstance(match.call.geometry, TransposedGeometry):  # most of these products are with zeros
        batch, _, *spatial = shape_of(match.call.input)
        product = 2 * sympy.Mul(batch, *spatial) * elements_of(match.call.weight)
    covariance, factorisation, solve = _work(match, outputs, groups)
    return LayerCost(
        layer=match.layer,
        weight=", ".join(match.weights),
        form=match.form.value,
        rows=rows,
        features=features,
        outputs=outputs,
        groups=groups,
        covariance=covariance,
        factorisation=factorisation,
        solve=solve,
        forward=product,
        weight_gradient=product,
        input_gradient=product if _has_input_gradient(match) else ZERO,
        replaced=ZERO if match.form is Form.PRIMAL else product,
        step=step,
        batch=_batch_symbol(match),
        hints=tuple(sorted(_hints(match, step).items(), key=str)),
    )


def _work(match: Match, outputs: Expr, groups: Expr) -> tuple[Work, Work, Work]:
    """Covariance, factorisation and solve of all systems."""
    geometry, shape = match.call.geometry, shape_of(match.call.input)
    if not isinstance(geometry, TransposedGeometry):
        rows, features = expression(match.rows), expression(match.features)
        return _Sizes(match, geometry, shape, rows, features, outputs, groups).work()
    found, copies = [], []
    for part in parts_of(geometry, match.call.input.meta["val"].shape[2:]):
        window = *shape[:2], *(size + sum(axis.window) for axis, size in zip(part.axes, shape[2:], strict=True))
        rows = sympy.Mul(shape[0], *(axis.outputs(size) for axis, size in zip(part.axes, shape[2:], strict=True)))
        features = sympy.Integer(part.geometry.features(int(shape[1])))
        sizes = _Sizes(match, part.geometry, window, rows, features, outputs * part.phases, groups)
        copies.append(sizes.input_bytes + sizes.output_bytes)
        found.append(sizes.work())
    # Covariances are computed one after another; all else of a part may still be there when the next one begins.
    at_once = sympy.Max(ZERO, *(covariance.memory for covariance, *_ in found))
    kept = [sympy.Max(*(work.memory for work in others)) for _, *others in found]
    whole = elements_of(match.gradient.output_gradient) * _itemsize(match.gradient.output_gradient)
    memory = sympy.Add(at_once, whole, *kept, *copies, 3 * FLOAT64 * elements_of(match.call.weight))
    covariance, factorisation, solve = (
        Work(sympy.Add(*(work.flops for work in works)), sympy.Add(*(work.bytes for work in works)), memory)
        for works in (zip(*found, strict=True) if found else ((), (), ()))
    )
    return covariance, factorisation, solve


class _Sizes:
    """The three parts of one system in both forms."""

    def __init__(
        self,
        match: Match,
        geometry: PatchGeometry,
        shape: Sequence[Expr],
        rows: Expr,
        features: Expr,
        outputs: Expr,
        groups: Expr,
    ) -> None:
        self.rows, self.features, self.outputs, self.groups = rows, features, outputs, groups
        self.primal = match.form is Form.PRIMAL
        self.input = match.call.input
        self.geometry, self.shape = geometry, tuple(shape)
        value = match.gradient.node.meta["val"]
        # The new gradient is float32 at least, or float64.
        self.result_bytes = elements_of(match.gradient.node) * torch.promote_types(value.dtype, torch.float32).itemsize
        self.output_bytes = groups * rows * outputs * _itemsize(match.gradient.output_gradient)
        self.input_bytes = sympy.Mul(*shape) * _itemsize(self.input)
        self.device = value.device.type
        # From beginning to end there are a float64 input, divided by its largest number, and the patches of the dual form.
        scaled = self.input_bytes if self.input.meta["val"].dtype == torch.float64 else ZERO
        self.kept_bytes = scaled + (self._patch_bytes() if match.form is Form.DUAL else ZERO)

    def work(self) -> tuple[Work, Work, Work]:
        """Covariance, factorisation and solve."""
        if self.primal:
            return self.covariance(), self.factorisation(self.features), self.solve()
        return self.kernel(), self.factorisation(self.rows), self.solve_and_multiply()

    def covariance(self) -> Work:
        """With the bytes of ``G``, which the same operator computes, by as many operations as the plain one took."""
        rows, features = self.rows, self.features
        memory = gram_memory(self._images(), self._grouped(), rows, features, _itemsize(self.input), self.device)
        gradient = FLOAT64 * self.groups * features * self.outputs
        held = gradient_memory(features, self.outputs, self.groups)
        return Work(
            gram_flops(rows, features, self.groups),
            self.input_bytes + self.output_bytes + FLOAT64 * self.groups * features**2 + gradient,
            memory + held + self.kept_bytes,
        )

    def kernel(self) -> Work:
        """``X X^T``: patches are written to memory, and stay there for the product in the end."""
        rows, features = self.rows, self.features
        patches = self._patch_bytes()
        memory = gram_memory((features, rows), LINEAR, features, rows, _itemsize(self.input), self.device)
        others = FLOAT64 * self.groups * rows**2
        return Work(
            gram_flops(features, rows, self.groups),
            self.input_bytes + 2 * patches + FLOAT64 * self.groups * rows**2,
            memory + others + self.kept_bytes,
        )

    def factorisation(self, size: Expr) -> Work:
        """What is left of the part before, the regularised matrix and its factor."""
        matrix = FLOAT64 * self.groups * size**2
        return Work(cholesky_flops(size, self.groups), 2 * matrix, 3 * matrix + self.kept_bytes)

    def solve(self) -> Work:
        """The Gram matrix, the factor and a copy of it; ``G``, the right-hand side, its copy, which is solved, the result.

        For float64 inputs, which are scaled, there are two more of the latter.
        """
        factor = FLOAT64 * self.groups * self.features**2
        wide = FLOAT64 * self.groups * self.features * self.outputs
        return Work(
            triangular_flops(self.features, self.outputs, self.groups),
            factor + wide + self.result_bytes,
            3 * factor + 7 * wide + self.kept_bytes,
        )

    def solve_and_multiply(self) -> Work:
        """As above, and the product of the solution with patches in float64."""
        factor = FLOAT64 * self.groups * self.rows**2
        wide = FLOAT64 * self.groups * self.rows * self.outputs
        patches = self.groups * self.rows * self.features
        result = FLOAT64 * self.groups * self.features * self.outputs
        multiply = 2 * patches * self.outputs
        return Work(
            triangular_flops(self.rows, self.outputs, self.groups) + multiply,
            factor + self.output_bytes + patches * _itemsize(self.input) + self.result_bytes,
            2 * factor + 4 * wide + FLOAT64 * patches + 3 * result + self.kept_bytes,
        )

    def _patch_bytes(self) -> Expr:
        """A linear layer's rows are there already."""
        if not self.geometry.kernel_size:
            return ZERO
        return self.groups * self.rows * self.features * _itemsize(self.input)

    def _images(self) -> tuple[Expr, ...]:
        """Shape that ``patch_gram`` is given: the entries of a batched product are groups of channels."""
        return self.shape if self.geometry.kernel_size else (self.rows, self.groups * self.features)

    def _grouped(self) -> Any:
        return dataclasses.replace(self.geometry, groups=self.groups)


def _itemsize(node: Node) -> int:
    return node.meta["val"].dtype.itemsize


def _has_input_gradient(match: Match) -> bool:
    """Whether the backward pass of the call computes the gradient of its input; only it reads the weight."""
    call = match.call
    if call.kind is Kind.CONVOLUTION:
        return bool(match.gradient.node.args[0].args[10][0])
    number = call.sequence_number
    reached = {call.weight}
    for node in call.output.graph.nodes:
        same = is_backward(node) and node.meta.get("seq_nr") == number
        if same and not reached.isdisjoint(node.all_input_nodes):
            return True
    return False


def _batch_symbol(match: Match) -> sympy.Symbol | None:
    """The symbol of the first dimension of the tensor that the input is made from."""
    node = match.call.input
    while node.op == "call_function":
        tensors = [item for item in node.all_input_nodes if isinstance(item.meta.get("val"), torch.Tensor)]
        if not tensors:
            break
        node = max(tensors, key=lambda item: item.meta["val"].dim())
    symbols = [size.free_symbols for size in shape_of(node)[:1]]
    found = symbols[0] if symbols else frozenset()
    return next(iter(found)) if len(found) == 1 else None


def _hints(match: Match, step: Expr | None) -> dict[sympy.Symbol, int]:
    nodes = (
        match.call.output.graph.nodes
        if step is not None and step.free_symbols
        else (match.call.input, match.call.output)
    )
    return hints_of(nodes)


def _expressions(cost: LayerCost) -> list[Expr]:
    values = [getattr(cost, field.name) for field in dataclasses.fields(cost)]
    parts = [
        getattr(item, field.name) for item in values if isinstance(item, Work) for field in dataclasses.fields(Work)
    ]
    return [item for item in (*values, *parts) if isinstance(item, sympy.Expr) and item is not cost.batch]


def _number(expr: Expr) -> int | float | None:
    if not expr.is_number:
        return None
    return int(expr) if expr.is_integer else float(expr)
