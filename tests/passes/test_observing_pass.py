"""The observing pass shows the operands of what the rewriting pass would rewrite, and changes no value."""

import torch
from torch import Tensor, nn

from support.graphs import joint_graph
from support.oracle import squared
from support.training import gradients
from tract_fx import compat
from tract_fx.compile.inputs import classify
from tract_fx.compile.model_frame import current_frame
from tract_fx.passes.first_layer import find
from tract_fx.passes.observing_pass import ObservingPass
from tract_fx.probing.operator import observe, register


class Recorder:
    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, ...]] = []

    def observe(self, *operands: Tensor) -> None:
        self.seen.append(operands)


def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Tanh(), nn.Conv2d(6, 5, 3))


def backend_with(recorder: Recorder, found: list) -> object:
    number = register(recorder)

    def observer(match: object, geometry: object, outputs: int) -> object:
        found.append((match, geometry, outputs))
        return lambda *operands: observe(*operands, number)

    def backend(gm: torch.fx.GraphModule, example_inputs: list) -> object:
        naming = current_frame(gm).naming
        inputs = classify(gm, example_inputs, naming)
        return compat.aot_eager(
            gm, example_inputs, ObservingPass(inputs, "first", observer, lambda findings: None, naming)
        )

    return backend


def test_it_shows_the_operands_and_changes_no_gradient() -> None:
    subject, x, recorder, found = model(), torch.randn(2, 4, 7, 7), Recorder(), []
    expected = gradients(subject, [x], "aot_eager")
    observed = gradients(subject, [x], backend_with(recorder, found))
    assert all(torch.equal(observed[name], value) for name, value in expected.items())
    ((input, gradient, output_gradient, weight),) = recorder.seen
    assert torch.equal(input, x)
    assert torch.equal(gradient.flatten(), expected["0.weight"].flatten())
    assert gradient.shape == (2, 3, 18)
    assert torch.equal(weight.flatten(), subject[0].weight.detach().flatten())
    assert output_gradient.shape == (2, 2 * 25, 3)
    ((match, geometry, outputs),) = found
    assert (match.layer, geometry.groups, outputs) == ("0", 2, 3)


def test_it_marks_nothing_as_rewritten() -> None:
    """So that a graph that was observed is one that can be rewritten."""
    joint = joint_graph(model(), torch.randn(2, 4, 7, 7), inductor=False)
    recorder = Recorder()
    number = register(recorder)
    observing = ObservingPass(
        joint.inputs, "first", lambda *_: lambda *x: observe(*x, number), lambda _: None, joint.naming
    )
    observing(joint.graph)
    assert [match.layer for match in find(joint).matches] == ["0"]


def test_every_new_node_has_its_metadata() -> None:
    joint = joint_graph(model(), torch.randn(2, 4, 7, 7), inductor=False)
    known = set(joint.graph.nodes)
    number = register(recorder := Recorder())
    ObservingPass(joint.inputs, "first", lambda *_: lambda *x: observe(*x, number), lambda _: None, joint.naming)(
        joint.graph
    )
    new = [node for node in joint.graph.nodes if node not in known]
    assert new
    assert all("val" in node.meta and node.meta["partitioner_tag"] == "is_backward" for node in new)
    assert not recorder.seen


def test_a_graph_without_gradients_is_left_as_it_is() -> None:
    joint = joint_graph(model(), torch.randn(2, 4, 7, 7), inductor=False, train=False)
    before = str(joint.graph)
    ObservingPass(joint.inputs, "first", lambda *_: None, lambda _: None, joint.naming)(joint.graph)
    assert str(joint.graph) == before


def test_an_observer_that_is_gone_sees_nothing() -> None:
    number = register(Recorder())
    gradient = torch.randn(1, 2, 3)
    result = observe(torch.randn(4, 3), gradient, torch.randn(1, 4, 2), torch.randn(1, 2, 3), number)
    assert torch.equal(result, gradient)
    assert result.data_ptr() != gradient.data_ptr()


def test_the_operator_keeps_its_contract() -> None:
    operands = torch.randn(4, 3), torch.randn(1, 2, 3), torch.randn(1, 4, 2), torch.randn(1, 2, 3)
    torch.library.opcheck(observe, (*operands, register(Recorder())))
    assert squared(observe(*operands, 0)).isfinite()
