"""Advice for the user: each remedy of the passes, expressed in options of the backend."""

from __future__ import annotations

from tract_fx.distributed.groups import LEAVE_GROUP_OUT
from tract_fx.passes.obstacles import Remedy

__all__ = ["advice"]

_ADVICE = {
    Remedy.CHOOSE_LAYERS: (
        'Choose other layers with layers=[...], or let this one train with its plain gradient: on_unsupported="warn" or '
        '"ignore".'
    ),
    Remedy.NAME_LAYER: 'To rewrite a later layer, name it: layers=["..."].',
    Remedy.REMOVE_NAME: "Remove it from layers=[...].",
    Remedy.BACKWARD_OUTSIDE: (
        "Compile the forward pass and the loss, and call backward() outside, or inside without "
        'torch._dynamo.config.trace_autograd_ops; or train with plain gradients: on_unsupported="warn" or "ignore".'
    ),
    Remedy.STATIC_KERNEL: (
        "Compute it from sizes that are the same in every step, or compile with dynamic=False, which compiles one graph for "
        "each kernel size."
    ),
    Remedy.UNWRAP: (
        'Compile the model with another backend, such as "inductor", or take TrAct off with tract_fx.remove_tract(model); '
        'with on_unsupported="warn" or "ignore" the gradient of the wrapper remains unchanged.'
    ),
    Remedy.OWN_COVARIANCE: LEAVE_GROUP_OUT,
}


def advice(remedy: Remedy | None, next_layer: str = "") -> str:
    """The advice for a remedy, in full sentences; an empty string where there is none.

    Args:
        remedy: what can be done.
        next_layer: name of the layer that can be rewritten in place of a first one; empty where none is known.
    """
    if remedy is Remedy.NAME_LAYER and next_layer:
        return f'To rewrite the next layer instead, name it: layers=["{next_layer}"].'
    return "" if remedy is None else _ADVICE[remedy]
