"""Weights: a parameter, or something computed from parameters, in a wanted shape."""

from __future__ import annotations

from collections.abc import Callable

from .recipe import Net, Value

__all__ = ["derived_weight"]

Shape = tuple[int, ...]


def derived_weight(net: Net, shape: Shape) -> Value:
    """A weight of that shape, computed in a random way."""
    ways: dict[Callable[[Net, Shape], Value], float] = {
        _plain: 6,
        _gain: 1,
        _low_rank: 1,
        _piece: 1,
        _flipped: 1,
        _wide: 0.5,
        _narrow: 0.5,
        _squashed: 0.7,
        _expanded: 0.7,
        _detached: 0.5,
        _frozen: 0.7,
        _partly_frozen: 0.7,
    }
    if shape[-1] > 2 and len(shape) > 1:
        ways[_standardised] = 1.5
    (way,) = net.rng.choices(list(ways), list(ways.values()))
    return way(net, shape)


def _plain(net: Net, shape: Shape) -> Value:
    return net.parameter(*shape)


def _standardised(net: Net, shape: Shape) -> Value:
    dims = tuple(range(1, len(shape)))
    template = f"({{0}} - {{0}}.mean({dims}, keepdim=True)) / ({{0}}.std({dims}, keepdim=True) + 0.1)"
    return net.emit(template, net.parameter(*shape))


def _gain(net: Net, shape: Shape) -> Value:
    gain = net.parameter(shape[0], *(1 for _ in shape[1:]))
    return net.emit("{0} * {1}.exp()", net.parameter(*shape), gain)


def _low_rank(net: Net, shape: Shape) -> Value:
    base = net.parameter(*shape, frozen=net.chance(0.5))
    count = 1
    for size in shape[1:]:
        count *= size
    a, b = net.parameter(2, count), net.parameter(shape[0], 2)
    return net.emit(f"{{0}} + ({{1}} @ {{2}}).view({shape})", base, b, a)


def _piece(net: Net, shape: Shape) -> Value:
    return net.emit(f"{{0}}[1 : {shape[0] + 1}]", net.parameter(shape[0] + 2, *shape[1:]))


def _flipped(net: Net, shape: Shape) -> Value:
    if len(shape) < 2:
        return net.emit("{0}.flip(0)", net.parameter(*shape))
    return net.emit("{0}.transpose(0, 1)", net.parameter(shape[1], shape[0], *shape[2:]))


def _wide(net: Net, shape: Shape) -> Value:
    return net.emit("{0}.double().mul(0.5).to(DTYPE)", net.parameter(*shape))


def _narrow(net: Net, shape: Shape) -> Value:
    net.reduced = True
    return net.emit("{0}.to(LOW).to(DTYPE)", net.parameter(*shape))


def _squashed(net: Net, shape: Shape) -> Value:
    return net.emit("torch.tanh({0})", net.parameter(*shape))


def _expanded(net: Net, shape: Shape) -> Value:
    """One filter for all outputs, told apart by a gain."""
    return net.emit(f"{{0}}.expand({shape}) + {{1}}", net.parameter(1, *shape[1:]), net.parameter(*shape))


def _detached(net: Net, shape: Shape) -> Value:
    return net.emit("{0}.detach()", net.parameter(*shape), detach=True)


def _frozen(net: Net, shape: Shape) -> Value:
    return net.parameter(*shape, frozen=True)


def _partly_frozen(net: Net, shape: Shape) -> Value:
    return net.emit("torch.cat([{0}, {1}])[1:]", net.parameter(1, *shape[1:], frozen=True), net.parameter(*shape))
