"""What may be given to ``probe``, what is differentiated, and what is said when there is nothing to see."""

import dataclasses
from collections import UserDict, namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import tract_fx
from support.natural import natural_images, standardised
from support.refused import Pairs
from tract_fx import ConcernKind, OptionError, ProbeError, UnknownLayerError, probe
from tract_fx.probing.batches import Batch
from tract_fx.probing.losses import CROSS_ENTROPY, FUNCTIONAL, GIVEN, OWN, default_loss

IMAGES = standardised(natural_images(12, 12))
LABELS = torch.arange(12) % 3
CPU = torch.device("cpu")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x).tanh().mean((2, 3)))


@dataclasses.dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None


class ForHuggingFace(Net):
    """Keyword arguments in, an object with a loss out."""

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Output:
        logits = super().forward(pixel_values)
        return Output(logits, None if labels is None else nn.functional.cross_entropy(logits, labels))


def cosine(found: tract_fx.Probe) -> float:
    return found.layers[0].at_lam.cosine


def test_it_is_a_function_of_the_package() -> None:
    assert tract_fx.probe is probe
    assert callable(tract_fx.probe)


def test_loaders_of_every_kind_give_the_same_numbers() -> None:
    """The same images and labels, and so the same loss, however they come."""
    torch.manual_seed(1)
    net, other = Net(), ForHuggingFace()
    other.load_state_dict(net.state_dict())
    expected = probe(net, DataLoader(TensorDataset(IMAGES, LABELS), batch_size=12))
    assert expected.loss == CROSS_ENTROPY
    own = probe(other, [{"pixel_values": IMAGES, "labels": LABELS}])
    assert own.loss == OWN
    assert probe(other, [UserDict(pixel_values=IMAGES, labels=LABELS)]).loss == OWN
    kinds = {
        "logits": probe(other, [({"pixel_values": IMAGES}, LABELS)]),
        "own": own,
        "given": probe(net, [IMAGES], loss=lambda output, item: nn.functional.cross_entropy(output, LABELS)),
        "item": probe(net, [(IMAGES, LABELS)], loss=lambda output, item: nn.functional.cross_entropy(output, item[1])),
    }
    assert {name: found.loss for name, found in kinds.items()} == {
        "logits": CROSS_ENTROPY,
        "own": OWN,
        "given": GIVEN,
        "item": GIVEN,
    }
    for found in kinds.values():
        assert cosine(found) == pytest.approx(cosine(expected), rel=1e-4)
    assert CROSS_ENTROPY in str(expected)


def test_without_labels_it_says_that_gradients_are_not_those_of_training() -> None:
    found = probe(Net(), [IMAGES])
    assert found.loss == FUNCTIONAL
    assert "gradients are not those of training" in " ".join(str(found).split())


def test_so_many_batches_and_no_more_are_taken() -> None:
    taken = []

    def loader() -> Any:
        for index in range(10):
            taken.append(index)
            yield IMAGES[:4]

    found = probe(Net(), loader(), batches=3)
    assert taken == [0, 1, 2]
    assert found.batches == found.layers[0].passes == 3


def test_a_smaller_last_batch() -> None:
    found = probe(Net(), DataLoader(TensorDataset(IMAGES, LABELS), batch_size=5))
    assert found.layers[0].rows == (500, 500, 200)
    assert found.layers[0].values.samples == 12


def test_layers_by_name() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 5, 3), nn.Tanh())
    assert [layer.layer for layer in probe(model, [IMAGES], layers=["2"]).layers] == ["2"]
    with pytest.raises(UnknownLayerError, match="no module and no parameter"):
        probe(model, [IMAGES], layers=["stem"])


def test_frames_of_one_sample_are_one_sample() -> None:
    class Video(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(1)

    clips = IMAGES.unflatten(0, (4, 3)).clone()
    clips[0] = 0.5  # one clip of blank frames
    found = probe(Video(), [clips])
    assert found.layers[0].values.samples == 4
    assert found.layers[0].values.constant == 0.25


def test_the_grid_holds_lam_and_is_sorted() -> None:
    found = probe(Net(), [IMAGES], lam=0.3, grid=[2, 0.01]).layers[0]
    assert [point.lam for point in found.grid] == [0.01, 0.3, 2.0]
    assert found.at_lam.lam == 0.3
    assert [point.kept for point in found.grid] == sorted(point.kept for point in found.grid)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lam": 0}, "lam=0 is not allowed"),
        ({"batches": 0}, "batches=0 is not allowed"),
        ({"batches": 1.5}, "batches=1.5 is not allowed"),
        ({"grid": [0.1, -1]}, "lam=-1 is not allowed"),
        ({"grid": 0.1}, "grid=0.1 is not allowed"),
        ({"layers": "stem"}, "layers='stem' is not allowed"),
    ],
)
def test_arguments_are_checked_before_anything_runs(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        probe(Net(), iter([]), **arguments)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((IMAGES, IMAGES, LABELS), r"a tuple of 3: .*\(\(a, b\), labels\)"),
        ("images", "yields str: it must be a tensor"),
    ],
)
def test_items_of_other_kinds_are_refused(item: Any, message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        probe(Net(), [item])


def test_an_empty_loader_is_refused() -> None:
    with pytest.raises(ProbeError, match="yields no batch"):
        probe(Net(), [])


def test_a_loss_must_be_a_loss() -> None:
    with pytest.raises(ProbeError, match=r"one element that requires a gradient; it returned shape \(12, 3\)"):
        probe(Net(), [IMAGES], loss=lambda output, item: output)
    with pytest.raises(ProbeError, match="it returned float"):
        probe(Net(), [IMAGES], loss=lambda output, item: output.sum().item())


def test_a_loss_that_does_not_depend_on_the_first_layer() -> None:
    class Beside(Net):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return super().forward(x), self.head.weight.sum()

    found = probe(Beside(), [IMAGES], loss=lambda output, item: output[1])
    assert [concern.kind for concern in found.warnings] == [ConcernKind.ZERO_GRADIENT]

    class Apart(Net):
        def forward(self, x: Tensor) -> Tensor:
            z = self.stem(x)
            torch._dynamo.graph_break()
            return self.head(z.detach().mean((2, 3)))

    with pytest.raises(ProbeError, match=r"first layer \(stem\) got no gradient"):
        probe(Apart(), [IMAGES])


def test_a_model_without_a_first_layer() -> None:
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(5, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.table(x).mean(1))

    with pytest.raises(ProbeError, match=r"TrAct finds no layer to rewrite\.\n.*embedding"):
        probe(Embedded(), [torch.randint(0, 5, (6, 7))])


def test_a_model_that_trains_nothing() -> None:
    with pytest.raises(ProbeError, match="No tensor in the model's output requires a gradient"):
        probe(Net().requires_grad_(False), [IMAGES])


def test_a_layer_that_cannot_be_rewritten_is_told_beside_one_that_can() -> None:
    class Both(Net):
        def __init__(self) -> None:
            super().__init__()
            self.other = Pairs(12, 12, 4)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + self.other(x).tanh().mean((2, 3))[:, :3]

    found = probe(Both(), [(IMAGES, LABELS)])
    assert [layer.layer for layer in found.layers] == ["stem"]
    assert [item.layer for item in found.rejections] == ["other"]
    assert "other (_trilinear): not rewritten" in str(found)


def test_labels_that_do_not_fit_are_not_taken_for_classes() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    for labels in (torch.tensor([0, 1, 2, 255]), torch.rand(4), torch.zeros(3, dtype=torch.int64), "text", None):
        batch = Batch((), {}, labels, 4, None)
        assert default_loss(logits, batch)[1] == FUNCTIONAL
    assert default_loss(logits, Batch((), {}, torch.tensor([0, 1, 2, 2]), 4, None))[1] == CROSS_ENTROPY


def test_the_functional_is_the_same_for_every_batch_and_takes_every_output() -> None:
    pair = namedtuple("pair", "a b")
    a, b = torch.randn(4, 3, requires_grad=True), torch.randn(4, requires_grad=True)
    batch = Batch((), {}, None, 4, None)
    first, second = (default_loss({"x": pair(a, b), "n": 3}, batch)[0] for _ in range(2))
    assert first.item() == second.item()
    first.backward()
    assert a.grad.abs().min() > 0
    assert b.grad.abs().min() > 0


def test_named_tuples_and_nested_inputs_are_copied() -> None:
    pair = namedtuple("pair", "images labels")
    item = pair({"x": [IMAGES, "name"]}, LABELS)
    batch = Batch.of(item, CPU)
    assert batch.samples == 12
    assert batch.kwargs["x"][0] is not IMAGES
    assert torch.equal(batch.kwargs["x"][0], IMAGES)
    assert batch.kwargs["x"][1] == "name"
    assert torch.equal(batch.labels, LABELS)
