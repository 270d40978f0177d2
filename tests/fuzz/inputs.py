"""Arguments of a network, and what is done to them before the first layer."""

from __future__ import annotations

from collections.abc import Callable

from .recipe import Net, Value

__all__ = ["image", "make_untrainable", "prepare", "spoil", "tokens"]

LAYOUTS = ("contiguous", "contiguous", "channels last", "strided", "transposed")


def image(net: Net, dims: int, batch: int | None) -> Value:
    """``(batch, channels, *spatial)``; without a batch when there is none."""
    channels, largest = net.pick((1, 2, 3, 4, 6)), (14, 9, 5)[dims - 1]
    sizes = tuple(net.rng.randint(max(3, largest - 4), largest) for _ in range(dims))
    pixels = net.chance(0.2)
    value = _input(net, (channels, *sizes), batch, "pixels" if pixels else "float")
    return _normalise(net, value) if pixels else value


def tokens(net: Net, dims: int, batch: int | None) -> Value:
    """``(batch, *, features)`` with so many dimensions, the batch included when there is one."""
    features = net.pick((1, 2, 5, 6, 7, 12, 24, 40))
    leading = tuple(net.rng.randint(2, 5) for _ in range(dims - 1 - (batch is not None)))
    return _input(net, (*leading, features), batch, "float")


def _input(net: Net, shape: tuple[int, ...], batch: int | None, kind: str) -> Value:
    adversarial = kind == "float" and net.chance(0.12)
    full = shape if batch is None else (batch, *shape)
    return net.input(full, batch is not None, kind=kind, layout=net.pick(LAYOUTS), requires_grad=adversarial)


def _normalise(net: Net, x: Value) -> Value:
    """8-bit pixels to floats around zero, as models do inside."""
    scaled = net.emit("{0}.to(DTYPE) / 255", x)
    if net.chance(0.5):
        return net.emit("({0} - 0.5) / 0.25", scaled)
    return net.emit("({0} - {1}) * 2", scaled, net.buffer(1))


def prepare(net: Net, x: Value, steps: int) -> Value:
    """Random preprocessing; nothing in it is trainable, and the number of dimensions stays."""
    for _ in range(steps):
        x = net.pick(_possible(x))(net, x)
    return x


Step = Callable[[Net, Value], Value]


def _line(template: str) -> Step:
    return lambda net, x: net.emit(template, x)


def _possible(x: Value) -> list[Step]:
    steps = [
        _line("{0} * 0.5 + 0.1"),
        _line("{0}.flip(-1)"),
        _line("{0}.clamp(-1, 1.5)"),
        _line("{0}.roll(1, -1)"),
        _line("torch.sin({0})"),
        lambda net, x: net.emit("{0} + {1}", x, net.buffer(x.shape[-1])),
        lambda net, x: net.emit("{0} * {1}", x, net.buffer(1)),
    ]
    dims = len(x.shape)
    if x.shape[-1] <= 24:
        steps += [_line("F.pad({0}, (1, 2))")]
    if x.shape[-1] > 4:
        steps += [_line("{0}[..., 1:]"), _line("{0}[..., ::2]")]
    if x.shape[-1] > 1:
        steps += [_line("{0} - {0}.mean(-1, keepdim=True)")]
    if dims >= 3:
        steps += [_line("{0}.transpose(-1, -2)"), _line("torch.cat([{0}, {0}.flip(-1) * 0.5], 1)")]
        steps += [_line("torch.stack([{0}, {0} * 2], 1).flatten(1, 2)")] if x.shape[1] <= 4 else []
    if dims == 4:
        steps += [
            _line('F.interpolate({0}, size=(7, 6), mode="bilinear", align_corners=False)'),
            _line("F.interpolate({0}, scale_factor=2.0)")
            if x.shape[2] * x.shape[3] <= 49
            else _line("{0}[:, :, 1:-1]"),
            _line("F.avg_pool2d({0}, 2, 1)"),
            _line("{0}[:, [0]]"),
        ]
    return steps


def make_untrainable(net: Net, x: Value) -> Value:
    """A frozen layer in front: what comes out of it is data still."""
    weight = net.parameter(net.rng.randint(2, 6), x.shape[-1], frozen=True)
    return net.emit("torch.tanh(F.linear({0}, {1}))", x, weight)


def spoil(net: Net, x: Value) -> Value:
    """Something trainable before the layer, which then is no first layer."""
    way = net.pick(("position", "norm", "scale", "prompt") if len(x.shape) >= 3 else ("position", "norm", "scale"))
    width = x.shape[-1]
    if way == "position":
        return net.emit("{0} + {1}", x, net.parameter(width))
    if way == "scale":
        return net.emit("{0} * {1}.exp()", x, net.parameter(1))
    if way == "prompt":
        token = net.parameter(1, 1, *x.shape[2:])
        return net.emit(
            "torch.cat([{1}.expand({0}.shape[0], -1, " + "-1, " * (len(x.shape) - 2) + "), {0}], 1)", x, token
        )
    name = net.attribute("norm", f"nn.LayerNorm({width})")
    weight, bias = net.parameter_of(f"{name}.weight"), net.parameter_of(f"{name}.bias")
    return net.emit(f"self.{name}({{0}})", x, weight, bias)
