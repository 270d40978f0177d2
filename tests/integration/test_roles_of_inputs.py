"""What an input of a graph is follows its value, not the code, nor the order of calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tract_fx import tract_backend
from tract_fx.reference import linear_gradient

LAM = 0.1


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)


def trained(layer: nn.Linear, call: Callable[[], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of the weight after a step, the plain gradient and the closed form, from the operands of the layer."""
    seen: list[tuple[Tensor, Tensor]] = []
    layer.weight.grad = None

    def note(_: nn.Module, inputs: Any, output: Tensor) -> None:
        if output.requires_grad:  # reentrant checkpointing runs the code without gradients first
            output.register_hook(lambda gradient: seen.append((inputs[0].detach().double(), gradient.double())))

    call().square().sum().backward()
    assert layer.weight.grad is not None
    got = layer.weight.grad.double()
    layer.weight.grad = None
    handle = layer.register_forward_hook(note)
    with torch.compiler.set_stance("force_eager"):
        call().square().sum().backward()
    handle.remove()
    layer.weight.grad = None
    (rows, gradient) = seen[-1]
    return got, gradient.T @ rows, linear_gradient(rows, gradient, LAM)


def assert_rewritten(layer: nn.Linear, call: Callable[[], Tensor], *, rewritten: bool) -> None:
    got, plain, closed = trained(layer, call)
    want, other = (closed, plain) if rewritten else (plain, closed)
    assert torch.linalg.norm(got - want) < 1e-5 * torch.linalg.norm(want)
    assert torch.linalg.norm(got - other) > 1e-2 * torch.linalg.norm(other)


@pytest.mark.parametrize("first", ["data", "activation", "perturbed"])
def test_role_is_decided_for_each_call(first: str) -> None:
    """A perturbed batch is data and the output of a network is not, whichever comes first to code that is shared."""
    stem, net = nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 8), nn.Tanh())
    x, delta = torch.randn(20, 6), torch.zeros(20, 6, requires_grad=True)
    compiled = torch.compile(net, backend=tract_backend(LAM, inner="aot_eager"))
    inputs = {"data": lambda: x, "activation": lambda: torch.tanh(stem(x)), "perturbed": lambda: x + delta}
    for name in sorted(inputs, key=lambda item: item != first):
        make = inputs[name]
        assert_rewritten(net[0], lambda make=make: compiled(make()), rewritten=name != "activation")


def test_carried_state_is_an_activation_of_its_own_model_alone() -> None:
    net, other = nn.Sequential(nn.Linear(6, 6), nn.Tanh()), nn.Sequential(nn.Linear(6, 6), nn.Sigmoid())
    backend = tract_backend(LAM, inner="aot_eager")
    first, second = torch.compile(net, backend=backend), torch.compile(other, backend=backend)
    x = torch.randn(20, 6)
    state = first(x).detach()
    assert_rewritten(net[0], lambda: first(state), rewritten=False)
    assert_rewritten(other[0], lambda: second(state), rewritten=True)
    assert_rewritten(other[0], lambda: second(state.clone().requires_grad_()), rewritten=True)
    assert_rewritten(net[0], lambda: first(x), rewritten=True)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.fc(x))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("requires_grad", [True, False])
def test_compiled_blocks_under_checkpointing(*, reentrant: bool, requires_grad: bool) -> None:
    """The block that data feeds is rewritten, and no other one, under either kind, twice."""
    blocks = nn.ModuleList(Block() for _ in range(3))
    x = torch.randn(20, 6, requires_grad=requires_grad)

    def call() -> Tensor:
        hidden = x
        for block in blocks:
            hidden = checkpoint(block, hidden, use_reentrant=reentrant)
        return hidden

    if reentrant and not requires_grad:
        pytest.skip("reentrant checkpointing computes no gradient of a first block whose input does not require grad")
    for block in blocks:
        block.compile(backend=tract_backend(LAM, inner="aot_eager"))
    for _ in range(2):
        for index, block in enumerate(blocks):
            assert_rewritten(block.fc, call, rewritten=index == 0)


class Local(nn.Module):
    """Blocks between which no gradient flows: each has a loss of its own, or the earlier ones only extract features."""

    def __init__(self, *, no_grad: bool) -> None:
        super().__init__()
        self.blocks, self.no_grad = nn.ModuleList(Block() for _ in range(3)), no_grad

    def forward(self, x: Tensor) -> Tensor:
        hidden, outputs = x, []
        for block in self.blocks:
            with torch.set_grad_enabled(not self.no_grad or block is self.blocks[-1]):
                hidden = block(hidden.detach())
            outputs.append(hidden)
        return torch.stack(outputs[-1:] if self.no_grad else outputs)

    def training_step(self, x: Tensor) -> Tensor:
        """As Lightning calls it: a generator, and a discriminator of what it has made."""
        return self.blocks[1](self.blocks[0](x).detach())


@pytest.mark.parametrize("no_grad", [True, False])
@pytest.mark.parametrize("pieces", [True, False])
def test_what_a_part_has_computed_is_no_data_for_the_next(*, no_grad: bool, pieces: bool) -> None:
    """Detached, and computed without gradients: the same whether the model is compiled whole or by its parts."""
    net, x = Local(no_grad=no_grad), torch.randn(20, 6)
    for part in net.blocks if pieces else [net]:
        part.compile(backend=tract_backend(LAM, inner="aot_eager", on_unsupported="ignore"))
    for _ in range(2):
        for index, block in enumerate(net.blocks):
            if index == 2 or not no_grad:
                assert_rewritten(block.fc, lambda: net(x), rewritten=index == 0)


def test_what_one_network_has_made_is_data_for_another_in_a_training_step() -> None:
    net, x = Local(no_grad=False), torch.randn(20, 6)
    for part in net.blocks:
        part.compile(backend=tract_backend(LAM, inner="aot_eager"))
    for call in (lambda: net.training_step(x), lambda: net.blocks[1](x), lambda: net.training_step(x)):
        assert_rewritten(net.blocks[1].fc, call, rewritten=True)


def test_perturbed_data_in_a_block_under_reentrant_checkpointing() -> None:
    """What the block gets when it runs again is a detached copy of data, and no activation."""
    block, x, delta = Block(), torch.randn(20, 6), torch.zeros(20, 6, requires_grad=True)
    block.compile(backend=tract_backend(LAM, inner="aot_eager"))
    for _ in range(2):
        assert_rewritten(block.fc, lambda: checkpoint(block, x + delta, use_reentrant=True), rewritten=True)


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.fc(x))
        torch._dynamo.graph_break()
        return x + y


@pytest.mark.parametrize("name", [0, 1])
def test_named_block_where_dynamo_shares_code(name: int) -> None:
    net = nn.Sequential(Named(), Named())
    x = torch.randn(20, 6)
    compiled = torch.compile(net, backend=tract_backend(LAM, layers=[f"{name}.fc"], inner="aot_eager"))
    for index, block in enumerate(net):
        assert_rewritten(block.fc, lambda: compiled(x), rewritten=index == name)


class PipelineStage:
    """Calls its module as a stage of a pipeline does, with what it has received: a leaf that requires grad."""

    __module__ = "torch.distributed.pipelining.stage"

    def __init__(self, module: nn.Module, *, is_first: bool) -> None:
        self.module, self.is_first, self.group_size = module, is_first, 1

    def forward_one_chunk(self, x: Tensor) -> Tensor:
        return self.module(x)


@pytest.mark.parametrize("is_first", [True, False])
def test_what_a_later_stage_of_a_pipeline_receives_is_an_activation(is_first: bool) -> None:
    import torch.distributed.pipelining

    block, x = Block(), torch.randn(20, 6, requires_grad=True)
    stage = PipelineStage(torch.compile(block, backend=tract_backend(LAM, inner="aot_eager")), is_first=is_first)
    assert_rewritten(block.fc, lambda: stage.forward_one_chunk(x), rewritten=is_first)
