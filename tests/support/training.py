"""One training step of a model, compiled or not, and what it leaves behind."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from support.oracle import Loss, squared


def gradients(
    model: nn.Module, inputs: Sequence[Tensor], backend: Any = None, loss: Loss = squared, **compile_arguments: Any
) -> dict[str, Tensor]:
    """Gradients of all parameters after one step of a copy of ``model``; plain eager without a backend.

    The loss, the output and the buffers are there too, under ``<loss>``, ``<output>`` and ``<buffer> name``.
    """
    twin = copy.deepcopy(model)
    torch._dynamo.reset()
    call: Callable[..., Tensor] = twin
    if backend is not None:
        call = torch.compile(twin, backend=backend, **compile_arguments)
    output = call(*inputs)
    value = loss(output)
    value.backward()
    found = {name: parameter.grad for name, parameter in twin.named_parameters() if parameter.grad is not None}
    found["<loss>"], found["<output>"] = value.detach(), output.detach()
    found.update({f"<buffer> {name}": buffer for name, buffer in twin.named_buffers()})
    return found


class Counter:
    """A backend that counts the graphs that ``inner`` compiles."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.graphs = inner, 0

    def __call__(self, *arguments: object, **keywords: object) -> object:
        self.graphs += 1
        return self.inner(*arguments, **keywords)
