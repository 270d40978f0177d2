"""What the gradients must be: an eager float64 run of the model, and the method's reference formula."""

import copy
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from tract_fx import reference

Loss = Callable[[Tensor], Tensor]
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def squared(output: Tensor) -> Tensor:
    """A loss whose gradient differs from element to element."""
    return output.pow(2).sum() + output.sum()


def error(found: Tensor, expected: Tensor) -> float:
    """Relative error in the Frobenius norm; absolute when nothing is expected."""
    difference = (found.double() - expected.double()).norm()
    scale = expected.double().norm()
    return (difference / scale if scale > 0 else difference).item()


def tract_gradients(
    model: nn.Module,
    inputs: Sequence[Tensor],
    layers: Sequence[str],
    lam: float,
    loss: Loss = squared,
    *,
    relative: bool = False,
) -> dict[str, Tensor]:
    """TrAct gradients of the named layers' weights, summed over the calls of each, in float64.

    Everything is computed outside of the compiler, on an eager float64 copy of the model.
    """
    twin = copy.deepcopy(model).double()
    data = [item.double() if item.is_floating_point() else item for item in inputs]
    return closed_forms(twin, layers, lambda: loss(twin(*data)), lam, relative=relative)


def closed_forms(
    model: nn.Module, layers: Sequence[str], step: Callable[[], Tensor], lam: float, *, relative: bool = False
) -> dict[str, Tensor]:
    """Run ``step``, an eager forward pass of the model that ends in a loss, and its backward pass.

    Hooks record the rows and the gradients of the pre-activations of every call of the named layers; the result is the
    TrAct gradient of the weight of each, summed over its calls. The parameters of the model keep their plain gradients.
    """
    calls: list[tuple[str, Tensor, Tensor]] = []

    def record(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            output.retain_grad()
            calls.append((name, arguments[0].detach(), output))

        return hook

    for name in layers:
        model.get_submodule(name).register_forward_hook(record(name))
    step().backward()
    total: dict[str, Tensor] = {}
    for name, rows, output in calls:
        gradient = layer_gradient(model.get_submodule(name), rows, output.grad, lam, relative=relative)
        total[name] = total.get(name, 0) + gradient
    return total


def layer_gradient(
    module: nn.Module, input: Tensor, output_gradient: Tensor, lam: float, *, relative: bool = False
) -> Tensor:
    """Reference gradient of one call of a linear layer or a convolution."""
    if isinstance(module, nn.Linear):
        return reference.linear_gradient(input, output_gradient, lam, relative=relative)
    if input.dim() == len(module.kernel_size) + 1:  # without a batch
        input, output_gradient = input[None], output_gradient[None]
    if isinstance(module, TRANSPOSED):
        geometry = {name: getattr(module, name) for name in ("stride", "padding", "output_padding", "dilation")}
        return reference.transposed_conv_gradient(
            input, output_gradient, module.weight, lam, groups=module.groups, relative=relative, **geometry
        )
    padding = 0 if module.padding == "valid" else module.padding
    if padding == "same" or module.padding_mode != "zeros":
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        input = nn.functional.pad(input, module._reversed_padding_repeated_twice, mode=mode)
        padding = 0
    return reference.conv_gradient(
        input,
        output_gradient,
        module.weight,
        lam,
        groups=module.groups,
        relative=relative,
        stride=module.stride,
        padding=padding,
        dilation=module.dilation,
    )
