"""Branches of a network: preprocessing, stem and head, with breaks, casts and sharing around them."""

from __future__ import annotations

import contextlib

from .inputs import image, make_untrainable, prepare, spoil, tokens
from .recipe import Net, Value
from .stems import Layer, convolution, grouped_product, linear, product

__all__ = ["AUTOCAST", "branch"]

KINDS = {
    "conv1": 2,
    "conv2": 5,
    "conv3": 1.5,
    "linear": 3,
    "product": 5,
    "grouped": 1.5,
    "embedding": 0.4,
    "bilinear": 0.3,
}
PATTERNS = {"single": 6, "several": 1.5, "twice": 1.5, "thrice": 0.5}
AUTOCAST = 'with torch.autocast("cpu", torch.bfloat16, enabled=AUTOCAST):'


def branch(net: Net, batches: tuple[int, ...], autocast_stem: bool) -> list[Value]:
    kind = net.rng.choices(list(KINDS), list(KINDS.values()))[0]
    where = net.rng.choices((None, "before", "inside", "after", "derived"), (14, 1.5, 1.5, 1.5, 0.5))[0]
    unbatched = len(batches) == 1 and kind in ("conv1", "conv2", "conv3", "linear", "product") and net.chance(0.12)
    x = _source(net, kind, None if unbatched else batches[0])
    if kind != "embedding":
        x = _before(net, x, kind)
    if where == "before":
        net.graph_break()
    if where == "inside":
        outputs = [_in_method(net, kind, x, not unbatched, autocast_stem)]
    else:
        outputs = _stems(net, kind, x, not unbatched, autocast_stem, where)
    if where == "after":
        net.graph_break()
    return [_head(net, output, not unbatched) for output in outputs]


def _in_method(net: Net, kind: str, x: Value, batched: bool, autocast_stem: bool) -> Value:
    """The stem in a method of its own, most often with a graph break in it: Dynamo then breaks around the call as well."""
    breaks = net.chance(0.7)
    if breaks:
        net.new_segment()
    with net.method(x) as results:
        inside = prepare(net, x, 1) if kind not in ("embedding", "grouped") and len(x.shape) > 1 else x
        if breaks:
            net.graph_break()
        results += _stems(net, kind, inside, batched, autocast_stem, "inside")
    if breaks:
        net.new_segment()
    return results[0]


def _source(net: Net, kind: str, batch: int | None) -> Value:
    if kind == "embedding":
        return net.input((batch, net.rng.randint(2, 5)), True, kind="index")
    if kind == "bilinear":
        return image(net, 1, batch)
    dims = int(kind[-1]) if kind.startswith("conv") else 0
    wanted = dims + 1 + (batch is not None) if dims else (3 if kind == "grouped" else None)
    known = [
        value
        for value in net.values
        if value.data and not value.trainable and value.example.is_floating_point() and value.shape[:1] == (batch,)
        and (len(value.shape) == wanted if wanted else 2 <= len(value.shape) <= 4)
    ]  # fmt: skip
    if known and batch is not None and net.chance(0.5):
        return net.pick(known)
    if dims:
        return image(net, dims, batch)
    if batch is None:
        return tokens(net, net.pick((1, 2, 3)), None)
    if net.chance(0.25) and kind != "grouped":
        return _patches(net, image(net, 2, batch))
    return tokens(net, 3 if kind == "grouped" else net.pick((2, 3, 4)), batch)


def _patches(net: Net, x: Value) -> Value:
    """An image as tokens, as in a vision transformer, or as one long row."""
    height, width = (size // 2 for size in x.shape[2:])
    if net.chance(0.2):
        return net.emit("{0}.flatten(1)", x)
    if net.chance(0.3):
        return net.emit("{0}.permute(0, 2, 3, 1)", x)
    cut = net.emit(f"{{0}}[:, :, : {2 * height}, : {2 * width}]", x)
    template = f"{{0}}.reshape({{0}}.shape[0], {x.shape[1]}, {height}, 2, {width}, 2)"
    return net.emit(template + ".permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)", cut)


def _before(net: Net, x: Value, kind: str) -> Value:
    if len(x.shape) > 1 and kind != "grouped":
        x = prepare(net, x, net.pick((0, 0, 1, 2, 3)))
        if net.chance(0.04):
            x = make_untrainable(net, x)
    return spoil(net, x) if net.chance(0.07) else x


def _stems(net: Net, kind: str, x: Value, batched: bool, autocast: bool, where: str | None) -> list[Value]:
    if kind == "embedding":
        x = net.emit("F.embedding({0}, {1})", x, net.parameter(9, 6))
        kind = "linear"
    if kind == "bilinear":
        return [_bilinear(net, x)]
    pattern = net.rng.choices(list(PATTERNS), list(PATTERNS.values()))[0]
    if kind == "linear" and len(x.shape) == 3 and net.chance(0.25):
        return [_attention(net, x)]
    layer = _layer(net, kind, x, batched)
    if where == "derived":
        net.graph_break()
    with net.block(AUTOCAST) if autocast else contextlib.nullcontext():
        outputs = [layer(x, checkpoint=net.chance(0.12))]
        if pattern == "several":
            outputs += [_layer(net, kind, x, batched)(x) for _ in range(net.pick((1, 2)))]
        if pattern in ("twice", "thrice"):
            outputs += [layer(_other(net, x, kind)) for _ in range(1 if pattern == "twice" else 2)]
    if autocast:
        outputs = [net.emit("{0}.to(DTYPE)", output) for output in outputs]
    outputs = [_tied(net, layer, outputs[0]), *outputs[1:]]
    if net.chance(0.08) and layer.weight.differentiable and layer.weight.parameters:
        net.penalised.append(net.pick(sorted(layer.weight.parameters)))
    if len(outputs) > 1 and (net.chance(0.6) or where == "inside"):
        scale = " * ".join(f"{{{index}}}.mean()" for index in range(1, len(outputs)))
        outputs = [net.emit("{0} * (1 + " + scale + ")", *outputs)]
    return outputs


def _layer(net: Net, kind: str, x: Value, batched: bool) -> Layer:
    if kind.startswith("conv"):
        return convolution(net, x, batched)
    if kind == "linear":
        return linear(net, x.shape[-1])
    return grouped_product(net, x) if kind == "grouped" else product(net, x)


def _other(net: Net, x: Value, kind: str) -> Value:
    """Data for a second call of the same layer: other values, and fewer rows where the dimensions allow it."""
    if kind in ("linear", "product") and len(x.shape) >= 3 and x.shape[1] > 1 and net.chance(0.6):
        return net.emit("{0}[:, 1:] * 0.7", x)
    if kind == "conv2" and len(x.shape) == 4 and net.chance(0.5):
        return net.emit("F.interpolate({0}, scale_factor=2.0) * 0.7", x)
    return net.emit("{0} * 0.7 + 0.2", x)


def _tied(net: Net, layer: Layer, output: Value) -> Value:
    """The weight once more, as that of a later layer."""
    if "mn" not in layer.rows or len(output.shape) < 1 or not net.chance(0.15):
        return output
    return net.emit("torch.tanh({0}) @ {1}", output, layer.weight)


def _attention(net: Net, x: Value) -> Value:
    size = net.rng.randint(2, 4)
    q, k, v = (linear(net, x.shape[-1], size)(x) for _ in range(3))
    return net.emit("torch.softmax({0} @ {1}.transpose(1, 2), -1) @ {2}", q, k, v)


def _bilinear(net: Net, x: Value) -> Value:
    """What cannot be rewritten, and must say so."""
    weight = net.parameter(3, x.shape[-1], x.shape[-1])
    if x.raw:
        net.unsupported.append(weight.text)
    return net.emit("F.bilinear({0}, {0}, {1})", x, weight)


ACTIVATIONS = ("torch.tanh({0})", "F.gelu({0})", "F.silu({0})", "F.softplus({0})", "F.leaky_relu({0}, 0.2)", "{0}")


def _head(net: Net, z: Value, batched: bool) -> Value:
    z = net.emit(net.pick(ACTIVATIONS) if len(z.shape) != 1 or not batched else "{0}[:, None]", z)
    if net.chance(0.06):
        z = net.emit("{0}.detach()", z, detach=True)
        if net.chance(0.5):
            net.graph_break()
    if batched and len(z.shape) == 4 and min(z.shape[2:]) > 1 and net.chance(0.3):
        z = net.emit(net.pick(("F.max_pool2d({0}, 2)", "F.avg_pool2d({0}, 2)")), z)
    if batched and len(z.shape) in (3, 4) and net.chance(0.25):
        z = net.emit(net.pick(ACTIVATIONS), convolution(net, z, True)(z))
    if len(z.shape) > 3 and net.chance(0.6):
        z = net.emit("{0}.flatten(2).mean(-1)", z)
    if not z.shape or len(z.shape) > 4:
        return z
    if net.chance(0.5):
        z = (linear(net, z.shape[-1]) if net.chance(0.5) else product(net, z))(z)
    if batched and len(z.shape) == 1:  # its only dimension is the batch
        z = net.emit("{0}[:, None]", z)
    if net.chance(0.2) and z.shape and len(z.shape) <= 4:
        z = linear(net, z.shape[-1], 2)(net.emit(net.pick(ACTIVATIONS), z))
    return z
