"""Layers: convolutions and matrix products in all the ways in which they are written."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from .recipe import Net, Value
from .weights import derived_weight

__all__ = ["Layer", "convolution", "grouped_product", "linear", "product"]


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer that can be called several times.

    Attributes:
        net: where it is.
        weight: its weight operand.
        bias: its bias operand.
        template: the call, with ``{0}``, ``{1}``, ``{2}`` for input, weight and bias.
        rows: how the oracle takes rows from the input and lays out the gradient, as Python text; empty for no layer.
        functional: the call in the oracle's run, when the call itself is that of a module.
    """

    net: Net
    weight: Value
    bias: Value | None
    template: str
    rows: str
    functional: str | None = None

    def __call__(self, x: Value, checkpoint: bool = False) -> Value:
        """The layer's output; whether it is a first layer follows from ``x`` and from nothing else."""
        self.net.fed.append(dataclasses.replace(x))  # as it is here; a graph break changes it
        first = bool(self.rows) and x.raw and self.weight.weight
        body = (self.functional or self.template).format("x", "w", "b")
        oracle = f"first({self.rows}, lambda x, w, b: {body}, {{0}}, {{1}}, {{2}})" if first else self.template
        plain = self.template
        if checkpoint:
            inside = self.template.format("x", "w", "b")
            plain = f"checkpoint(lambda x, w, b: torch.tanh({inside}), {{0}}, {{1}}, {{2}}, use_reentrant=False)"
            oracle = f"torch.tanh({oracle})"
        output = self.net.emit(plain, x, self.weight, self.bias, oracle=oracle)
        if first and self.weight.differentiable:
            self.net.first_layer(output, self.weight)
        return output


def linear(net: Net, features: int, outputs: int | None = None) -> Layer:
    """``nn.Linear``, now and then with a parametrised weight."""
    outputs, bias = outputs or net.rng.randint(1, 6), net.chance(0.7)
    text = f"nn.Linear({features}, {outputs}, bias={bias})"
    return _module(net, "fc", text, _rows("mn"), "F.linear({0}, {1}, {2})", bias)


def _module(net: Net, prefix: str, text: str, rows: str, functional: str, bias: bool) -> Layer:
    weight = net.run(text).weight
    if weight[0].numel() > 1 and net.chance(0.12):  # of one number, weight_norm keeps the sign: its gradient is zero
        text = f"nn.utils.parametrizations.weight_norm({text})"
    elif net.chance(0.06):
        text += ".requires_grad_(False)"
    name = net.attribute(prefix, text)
    weight = net.parameter_of(f"{name}.weight")
    if "weight_norm" in text:
        parts = (f"{name}.parametrizations.weight.original{index}" for index in (0, 1))
        weight.parameters, weight.trainable, weight.differentiable = frozenset(parts), True, True
    return Layer(
        net,
        weight,
        net.parameter_of(f"{name}.bias") if bias else None,
        f"self.{name}({{0}})",
        rows,
        functional,
    )


# Products with a weight (m, n), and with a weight (n, m); what is said of dimensions is said of the input.
WEIGHT_MN = {
    "F.linear({0}, {1}, {2})": (1, 2, 3, 4),
    "{0} @ {1}.t()": (1, 2, 3, 4),
    "({1} @ {0}.t()).t()": (2,),
    "({1} @ {0}.transpose(1, 2)).transpose(1, 2)": (3,),
    'torch.einsum("bi,oi->bo", {0}, {1})': (2,),
    'torch.einsum("bti,oi->bto", {0}, {1})': (3,),
    'torch.einsum("oi,...i->...o", {1}, {0})': (2, 3, 4),
    "torch.bmm({1}.expand({0}.shape[0], -1, -1), {0}.transpose(1, 2)).transpose(1, 2)": (3,),
    "{1} @ {0}": (1,),
}
WEIGHT_NM = {
    "{0} @ {1}": (1, 2, 3, 4),
    "torch.addmm({2}, {0}, {1})": (2,),
    "torch.addmm({2}, {0}, {1}, beta=0.5, alpha=0.25)": (2,),
    "{0} @ {1} + {2}": (2, 3),
    "torch.tensordot({0}, {1}, dims=1)": (2, 3),
    "torch.bmm({0}, {1}.expand({0}.shape[0], -1, -1))": (3,),
    "torch.baddbmm({2}, {0}, {1}.expand({0}.shape[0], -1, -1))": (3,),
    "torch.baddbmm({2}, {0}, {1}.expand({0}.shape[0], -1, -1), alpha=3.0)": (3,),
    'torch.einsum("bhti,io->bhto", {0}, {1})': (4,),
}
WEIGHT_N = {"{0} @ {1}": (2, 3), "torch.mv({0}, {1})": (2,)}
# Where a single number comes out there is no layer, and data meets a parameter without one.
NO_LAYER = {"torch.dot({0}, {1})[None]": (1,)}
# One weight for each group: (groups, n, m) on the right of (batch, groups, n).
GROUPED = (
    'torch.einsum("bgi,gio->bgo", {0}, {1})',
    "torch.bmm({0}.transpose(0, 1), {1}).transpose(0, 1)",
    "({0}[:, :, None] @ {1})[:, :, 0]",
    "torch.baddbmm({2}, {0}.transpose(0, 1), {1}).transpose(0, 1)",
    "torch.baddbmm({2}, {0}.transpose(0, 1), {1}, alpha=0.5).transpose(0, 1)",
)


def product(net: Net, x: Value) -> Layer:
    """A product with a weight in one of its layouts, for an input with as many dimensions as ``x`` has."""
    dims, features = len(x.shape), x.shape[-1]
    layouts = {"mn": WEIGHT_MN, "nm": WEIGHT_NM, "n": WEIGHT_N, "": NO_LAYER}
    choices = [
        (layout, text) for layout, table in layouts.items() for text, allowed in table.items() if dims in allowed
    ]
    if net.autocast:  # which leaves these two alone, so that they refuse operands of two dtypes
        choices = [choice for choice in choices if not choice[1].startswith(("torch.mv", "torch.dot"))]
    layout, template = net.pick(choices)
    outputs = net.rng.randint(1, 6)
    shape = {"mn": (outputs, features), "nm": (features, outputs), "n": (features,), "": (features,)}[layout]
    rows = _rows(layout, template, features)
    return Layer(net, derived_weight(net, shape), _bias(net, template, outputs), template, rows)


def grouped_product(net: Net, x: Value) -> Layer:
    """A product with one weight for each group; ``x`` is ``(batch, groups, features)``."""
    groups, features = x.shape[1:]
    template, outputs = net.pick(GROUPED), net.rng.randint(1, 4)
    weight = derived_weight(net, (groups, features, outputs))
    return Layer(net, weight, _bias(net, template, outputs), template, _rows("gnm", template, features))


def _rows(layout: str, template: str = "", features: int | None = None) -> str:
    """The layout of the weight and the factor on the product, as text for the oracle; empty where there is no layer."""
    # With nothing to sum over, einsum multiplies element by element, and the graph holds no product of matrices.
    if not layout or (features == 1 and "einsum" in template):
        return ""
    factor = re.search(r"alpha=([\d.]+)", template)
    return f"({layout!r}, {float(factor[1]) if factor else 1.0})"


def _bias(net: Net, template: str, outputs: int) -> Value | None:
    if "{2}" not in template:
        return None
    # Only F.linear takes None.
    return net.parameter(outputs) if "F.linear" not in template or net.chance(0.6) else None


def convolution(net: Net, x: Value, batched: bool) -> Layer:
    """A convolution of any geometry that fits ``x``, as a module or as a function of a derived weight."""
    geometry, shape = _geometry(net, x.shape[1:] if batched else x.shape)
    bias = net.chance(0.6)
    rows, functional = f"dict({_arguments(geometry)})", f"convolve({{0}}, {{1}}, {{2}}, dict({_arguments(geometry)}))"
    dims = len(shape) - 2
    if geometry["padding_mode"] != "zeros" or net.chance(0.6):
        channels = shape[1] * geometry["groups"]
        text = f"nn.Conv{dims}d({channels}, {shape[0]}, {shape[2:]}, {_arguments(geometry)}, bias={bias})"
        return _module(net, "conv", text, rows, functional, bias)
    options = _arguments({key: value for key, value in geometry.items() if key != "padding_mode"})
    template = f"F.conv{dims}d({{0}}, {{1}}, {{2}}, {options})"
    return Layer(net, derived_weight(net, shape), net.parameter(shape[0]) if bias else None, template, rows, functional)


def _arguments(options: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in options.items())


def _geometry(net: Net, shape: tuple[int, ...]) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Arguments of a convolution for an input ``(channels, *spatial)``, and the shape of its weight."""
    channels, *sizes = shape
    groups = net.pick([g for g in (1, 1, 1, 2, 3, channels) if channels % g == 0])
    kernel = tuple(net.rng.randint(1, min(4, size)) for size in sizes)
    mode = net.pick(("zeros", "zeros", "zeros", "reflect", "circular", "replicate"))
    stride = tuple(net.pick((size, net.rng.randint(1, 3))) for size in kernel)
    dilation = tuple(net.pick((1, 1, 2)) if 2 * (k - 1) < size else 1 for k, size in zip(kernel, sizes, strict=True))
    padding: Any = tuple(net.rng.randint(0, min(2, size - 1)) for size in sizes)
    if net.chance(0.2) and all(d * (k - 1) < size for k, d, size in zip(kernel, dilation, sizes, strict=True)):
        padding, stride = "same", tuple(1 for _ in sizes)
    outputs = groups * net.rng.randint(1, 3)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "padding_mode": mode}
    return options, (outputs, channels // groups, *kernel)
