"""How a network is put together from branches, and how it is trained."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import random

from .branches import AUTOCAST, branch
from .recipe import Net, Value
from .stems import linear

__all__ = ["Case", "make_case"]


@dataclasses.dataclass(frozen=True)
class Case:
    """A network and how it is trained.

    Attributes:
        net: the network.
        text: its source.
        oracle_text: its source in the oracle's run.
        form: what is given to ``torch.compile``: ``"module"``, ``"function"``, or the module's own method ``"compile"``.
        dynamic: as in ``torch.compile``.
        batches: one batch size for each step.
        lams: one ``lam`` for each step.
        accumulate: whether gradients are kept from step to step.
        loss_inside: whether the loss is in the compiled region.
        dtype: of parameters and floating-point inputs.
    """

    net: Net
    text: str
    oracle_text: str
    form: str
    dynamic: bool | None
    batches: tuple[int, ...]
    lams: tuple[float, ...]
    accumulate: bool
    loss_inside: bool
    dtype: str

    @property
    def reduced(self) -> bool:
        """Whether anything is computed in less than float32."""
        return self.net.reduced or self.dtype == "bfloat16"

    def __str__(self) -> str:
        settings = ("form", "dynamic", "batches", "lams", "accumulate", "loss_inside", "dtype")
        lines = [f"# {name} = {getattr(self, name)!r}" for name in settings]
        lines += [f"# {item}" for item in self.net.inputs]
        lines += [f"# first layer: {call.weight}" for call in self.net.calls_with_gradient()]
        return "\n".join([*lines, self.text])


def make_case(seed: int) -> Case:
    """The network of a seed.

    A network in which conditions and signals feed layers is not made: whether what conditions feed is a first layer
    depends on all that comes later, and the oracle's text is written line by line.
    """
    attempts = (_attempt(random.Random(seed if not number else f"{seed}.{number}")) for number in itertools.count())
    return next(case for case in attempts if not case.net.mixes_conditions_and_signals)


def _attempt(rng: random.Random) -> Case:
    form = rng.choice(("module", "module", "module", "function", "compile"))
    net = Net(rng, in_function=form == "function")
    batches = _batches(rng)
    dtype = rng.choices(("float32", "float64", "bfloat16"), (8, 1, 0.7))[0]
    autocast = rng.choices((None, "all", "stem"), (8, 1, 1))[0] if dtype == "float32" else None
    net.reduced = net.autocast = autocast is not None
    loss_inside = net.chance(0.3)
    with net.block(AUTOCAST) if autocast == "all" else contextlib.nullcontext():
        counted = _body(net, batches, autocast == "stem")
        losses = _loss(net, counted)
        if loss_inside:
            terms = [net.emit(template, *operands) for template, operands in losses]
            total = net.emit(" + ".join(f"{{{index}}}" for index in range(len(terms))), *terms)
            net.outputs.insert(0, total)
        net.line(f"return ({', '.join(value.text for value in net.outputs)},)")
    outside = [] if loss_inside else _loss_method(net, counted, losses)
    steps = max(len(batches), 2 if net.chance(0.15) else 1)
    batches = tuple(batches[step % len(batches)] for step in range(steps))
    return Case(
        net,
        _render(net, outside, 0),
        _render(net, outside, 1),
        form=form,
        dynamic=net.pick((None, None, True, False)) if len(batches) > 1 else net.pick((None, None, None, True)),
        batches=batches,
        lams=_lams(net, steps),
        accumulate=steps > 1 and net.chance(0.4),
        loss_inside=loss_inside,
        dtype=dtype,
    )


def _batches(rng: random.Random) -> tuple[int, ...]:
    count = rng.choices((1, 2, 3), (6, 2, 1))[0]
    return tuple(rng.sample((1, 2, 3, 5, 8, 11), count))


def _lams(net: Net, steps: int) -> tuple[float, ...]:
    first = net.pick((0.1, 0.05, 0.2, 1.0))
    return tuple(net.pick((0.1, 0.5)) if net.chance(0.3) and step else first for step in range(steps))


def _body(net: Net, batches: tuple[int, ...], autocast_stems: bool) -> list[Value]:
    """All branches; returns the outputs that count in the loss, and sets those that are returned."""
    constant = net.emit("{0} * 2", net.buffer(4, 3)) if net.chance(0.06) else None
    outputs = []
    for _ in range(2 if net.chance(0.3) else 1):
        if outputs and net.chance(0.15):
            net.graph_break()
        outputs += branch(net, batches, autocast_stems)
    if constant is not None or net.chance(0.06):
        fed = linear(net, 3)(constant if constant is not None else net.buffer(4, 3))
        outputs[0] = net.emit("{0} + {1}.mean()", outputs[0], fed)
    if net.chance(0.1):
        net.parameter(3, 2)  # used nowhere
    if net.chance(0.1):
        net.graph_break()
        outputs = [net.emit("{0} * 0.5", output) for output in outputs]
    net.outputs = list(outputs)
    return outputs[1:] if len(outputs) > 1 and net.chance(0.1) else outputs


Term = tuple[str, tuple[Value, ...]]


def _loss(net: Net, outputs: list[Value]) -> list[Term]:
    terms: list[Term] = [
        ("{0}.to(WIDE).tanh().sum() * 0.7 + {0}.to(WIDE).pow(2).mean()", (output,)) for output in outputs
    ]
    return terms + [("{0}.to(WIDE).pow(2).sum() * 0.05", (net.parameter_of(name),)) for name in net.penalised]


def _loss_method(net: Net, outputs: list[Value], losses: list[Term]) -> list[str]:
    names = ", ".join(output.text for output in net.outputs)
    terms = [template.format(*(operand.text for operand in operands)) for template, operands in losses]
    return [f"    def loss(self, {names}):", f"        return {' + '.join(terms)}"]


def _render(net: Net, outside: list[str], which: int) -> str:
    head = ["class Model(nn.Module):", "    def __init__(self):", "        super().__init__()"]
    head += [f"        {line}" for line in net.attributes]
    methods = [line[which] for method in net.methods for line in ["", *method] if line]
    forward = [f"    def forward(self, {', '.join(item.name for item in net.inputs)}):"]
    return "\n".join([*head, *methods, *forward, *(f"        {line[which]}" for line in net.lines), *outside, ""])
