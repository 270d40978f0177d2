"""A network under construction: its source text, and what is known about every value in it.

The generator writes Python text line by line and keeps, beside the text, what each value is made of. From that knowledge
alone - no graph is looked at - it says which layer calls are first layers. Shapes are found by running each line on small
tensors as it is written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Call", "Input", "Net", "Value"]

# What is known of a value that is no tensor of the network's own: nothing.
NO_PARAMETERS: frozenset[str] = frozenset()


@dataclasses.dataclass(eq=False)
class Value:
    """A tensor in the network.

    Attributes:
        text: the expression that names it.
        example: a tensor of its shape.
        data: whether data is in it.
        signal: whether data with more than one number for each sample is in it; data without are conditions.
        trainable: whether a parameter, or an activation from before a graph break, is in it.
        activation: whether an activation from before a graph break is in it.
        parameters: names of the parameters it is made of, while it is made of them (and constants) alone.
        differentiable: whether it requires grad.
        local: whether it is a local variable, which a graph break turns into an input of the next graph.
        segment: number of graph breaks before it.
        sources: the operands through which its gradient flows on.
    """

    text: str
    example: Tensor
    data: bool = False
    signal: bool = False
    trainable: bool = False
    activation: bool = False
    parameters: frozenset[str] = NO_PARAMETERS
    differentiable: bool = False
    local: bool = True
    segment: int = 0
    sources: tuple[Value, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape for the first batch."""
        return tuple(self.example.shape)

    @property
    def raw(self) -> bool:
        """Whether it is made of data, and of nothing trainable."""
        return self.data and not self.trainable

    @property
    def many(self) -> bool:
        """Whether it has more than one number for each entry of its first dimension."""
        return any(size > 1 for size in self.shape[1:])

    @property
    def weight(self) -> bool:
        """Whether it is made of parameters alone."""
        return bool(self.parameters) and not self.data and not self.activation


@dataclasses.dataclass(frozen=True)
class Input:
    """How to make one argument: its shape for the first batch, and whether dimension 0 is the batch."""

    name: str
    shape: tuple[int, ...]
    batched: bool
    kind: str = "float"
    layout: str = "contiguous"
    requires_grad: bool = False


@dataclasses.dataclass(eq=False)
class Call:
    """A call of a first layer: its weight's name in ``backend.matches``, and the values it reads and makes."""

    weight: str
    parameters: frozenset[str]
    output: Value
    segment: int


@dataclasses.dataclass
class Segment:
    """What happens between two graph breaks: whether data meets a parameter there."""

    meets: bool = False


def _call(function: Callable[..., Any], *arguments: Any, use_reentrant: bool) -> Any:
    return function(*arguments)


class Net:
    """The text of a module, and the values in it.

    Args:
        rng: makes every choice.
        in_function: whether a function that calls the model is compiled, and not the model.
    """

    def __init__(self, rng: random.Random, in_function: bool = False) -> None:
        self.rng, self.in_function = rng, in_function
        self.attributes: list[str] = []
        self.lines: list[tuple[str, str]] = []
        self.methods: list[list[tuple[str, str]]] = []
        self.inputs: list[Input] = []
        self.values: list[Value] = []
        self.calls: list[Call] = []
        self.segments = [Segment()]
        self.outputs: list[Value] = []
        self.unsupported: list[str] = []
        self.penalised: list[str] = []
        self.fed: list[Value] = []
        self.reduced = False
        self.autocast = False
        self._crossed: set[Value] = set()
        self._depth = 0
        self._counts: dict[str, int] = {}
        self._live = nn.Module()
        self._names: dict[str, Any] = {}

    # -- choices -----------------------------------------------------------------------------------------------------

    def chance(self, probability: float) -> bool:
        """True with that probability."""
        return self.rng.random() < probability

    def pick(self, options: Iterable[Any]) -> Any:
        """One of the options."""
        return self.rng.choice(list(options))

    def fresh(self, prefix: str) -> str:
        """A new name."""
        self._counts[prefix] = self._counts.get(prefix, 0) + 1
        return f"{prefix}{self._counts[prefix]}"

    # -- values ------------------------------------------------------------------------------------------------------

    def input(self, shape: tuple[int, ...], batched: bool, **fields: Any) -> Value:
        """A new argument of ``forward``."""
        made = Input(self.fresh("x"), shape, batched, **fields)
        self.inputs.append(made)
        example = torch.zeros(shape, dtype=torch.long) if made.kind == "index" else torch.zeros(shape)
        if made.kind == "pixels":
            example = example.to(torch.uint8)
        value = Value(made.name, example, data=True, differentiable=made.requires_grad)
        value.signal = value.many
        return self._keep(value)

    def attribute(self, prefix: str, text: str) -> str:
        """A new attribute of the module; returns its name."""
        name = self.fresh(prefix)
        self.attributes.append(f"self.{name} = {text}")
        setattr(self._live, name, self.run(text))
        return name

    def parameter(self, *shape: int, frozen: bool = False, scale: float = 0.4) -> Value:
        """A new parameter of the module."""
        name = self.attribute("w", f"nn.Parameter(torch.randn({shape}) * {scale}, requires_grad={not frozen})")
        return self.parameter_of(name)

    def parameter_of(self, name: str) -> Value:
        """A parameter of the module, or of one of its modules."""
        tensor = self.run(f"self.{name}")
        trainable = tensor.requires_grad
        names = frozenset((name,)) if trainable else NO_PARAMETERS
        return Value(
            f"self.{name}",
            tensor.detach(),
            trainable=trainable,
            parameters=names,
            differentiable=trainable,
            local=False,
        )

    def buffer(self, *shape: int) -> Value:
        """A new buffer."""
        name = self.fresh("c")
        self.attributes.append(f'self.register_buffer("{name}", torch.randn({shape}))')
        self._live.register_buffer(name, torch.randn(shape))
        return Value(f"self.{name}", torch.zeros(shape), local=False)

    def emit(self, template: str, *operands: Value | None, detach: bool = False, oracle: str | None = None) -> Value:
        """A line that computes a new value.

        Args:
            template: the expression, with ``{0}``, ``{1}`` for the operands.
            *operands: values, or None for a missing bias.
            detach: whether no gradient flows through it.
            oracle: the expression in the oracle's run, if it is another one.
        """
        texts = [operand.text if operand is not None else "None" for operand in operands]
        known = [operand for operand in operands if operand is not None]
        plain = template.format(*texts)
        value = self._combine(self.fresh("v"), self.run(plain), known, detach)
        self.line(f"{value.text} = {plain}", f"{value.text} = {(oracle or template).format(*texts)}")
        self._meet(known)
        return self._keep(value)

    def first_layer(self, value: Value, weight: Value) -> None:
        """Note that ``value`` is the output of a first layer."""
        names = weight.parameters
        self.calls.append(Call(", ".join(sorted(names)), names, value, len(self.segments) - 1))

    def run(self, text: str) -> Any:
        """The value of an expression, on the tensors that the network is written with."""
        names = {"torch": torch, "nn": nn, "F": nn.functional, "self": self._live, "DTYPE": torch.float32}
        names |= {
            "LOW": torch.bfloat16,
            "WIDE": torch.float32,
            "checkpoint": lambda f, *a, use_reentrant: f(*a),
            **self._names,
        }
        return eval(text, names)

    # -- control flow ------------------------------------------------------------------------------------------------

    def line(self, plain: str, oracle: str | None = None) -> None:
        """A line of text, and the line in its place in the oracle's run."""
        indent = "    " * self._depth
        self.lines.append((indent + plain, indent + (plain if oracle is None else oracle)))

    @contextlib.contextmanager
    def block(self, head: str) -> Iterator[None]:
        """An indented block."""
        self.line(head)
        self._depth += 1
        yield
        self._depth -= 1

    def graph_break(self) -> None:
        """End the graph here."""
        self.line("torch._dynamo.graph_break()")
        self.new_segment()

    def new_segment(self) -> None:
        """Locals become inputs of the next graph: activations when a parameter is in them, else data.

        A detached activation is recognised by the model whose graph made it, and a function is no model.
        """
        self.segments.append(Segment())
        for value in self.values:
            value.trainable &= value.differentiable or not self.in_function
            value.activation, value.data = value.trainable, not value.trainable
            value.signal = value.data and value.many
            value.parameters = NO_PARAMETERS

    @contextlib.contextmanager
    def method(self, *arguments: Value) -> Iterator[list[Value]]:
        """Lines inside go into a method of their own; the block appends the value to return to the list it is given."""
        outside, depth = self.lines, self._depth
        name, results = self.fresh("part"), []
        names = ", ".join(argument.text for argument in arguments)
        visible = len(self.values)
        self.lines, self._depth = [], 1
        self.line(f"def {name}(self, {names}):")
        self._depth = 2
        yield results
        (result,) = results
        self.line(f"return {result.text}")
        self.methods.append(self.lines)
        self.lines, self._depth = outside, depth
        self.values = [*self.values[:visible], result]
        self.line(f"{result.text} = self.{name}({names})")

    # -- what follows from it ----------------------------------------------------------------------------------------

    @property
    def mixes_conditions_and_signals(self) -> bool:
        """Whether a layer is fed by nothing but conditions, and another one by something else."""
        conditions = [value for value in self.fed if value.raw and not value.signal]
        return 0 < len(conditions) < len(self.fed)

    def calls_with_gradient(self) -> list[Call]:
        """Calls of first layers whose output leads, differentiably, to an output of its graph."""
        reached: set[Value] = set()
        pending = [value for value in (*self.outputs, *self._crossed) if value.differentiable]
        while pending:
            value = pending.pop()
            if value not in reached:
                reached.add(value)
                pending.extend(source for source in value.sources if source.differentiable)
        return [call for call in self.calls if call.output in reached]

    def warned_segments(self) -> list[int]:
        """Graphs in which data meets a parameter and no first layer is rewritten."""
        matched = {call.segment for call in self.calls_with_gradient()}
        trained = {value.segment for value in (*self.outputs, *self._crossed) if value.differentiable}
        return [
            index
            for index, segment in enumerate(self.segments)
            if segment.meets and index in trained and index not in matched
        ]

    # -- inside ------------------------------------------------------------------------------------------------------

    def _keep(self, value: Value) -> Value:
        value.segment = len(self.segments) - 1
        self.values.append(value)
        self._names[value.text] = value.example
        return value

    def _combine(self, name: str, example: Tensor, operands: list[Value], detach: bool) -> Value:
        mixed = any(operand.data or operand.activation for operand in operands)
        names = NO_PARAMETERS.union(*(operand.parameters for operand in operands))
        differentiable = not detach and any(operand.differentiable for operand in operands)
        return Value(
            name,
            example.detach(),
            data=any(operand.data for operand in operands),
            signal=any(operand.signal for operand in operands),
            trainable=any(operand.trainable for operand in operands),
            activation=any(operand.activation for operand in operands),
            parameters=NO_PARAMETERS if mixed else names,
            differentiable=differentiable,
            sources=tuple(operand for operand in operands if operand.differentiable) if differentiable else (),
        )

    def _meet(self, operands: list[Value]) -> None:
        segment = self.segments[-1]
        for operand in operands:
            if operand.local and operand.segment < len(self.segments) - 1:
                self._crossed.add(operand)
        if not any(operand.activation for operand in operands):
            segment.meets |= any(operand.raw for operand in operands) and any(operand.weight for operand in operands)
