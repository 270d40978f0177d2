"""Every number of a probe, against float64 rows taken by one-hot convolutions and gradients taken by hooks in eager mode."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from support.natural import natural_images, standardised
from support.oracle import layer_gradient, squared
from support.photographs import photographs
from support.training import gradients
from support.works import works
from tract_fx import probe, reference, tract_backend

pytestmark = works("probe")

LAM = 0.1
GRID = (0.01, 0.1, 3.0)
# Gradients of the first of two batches, seen on the second.
NEIGHBOURS = ((0, 1), (1, 0), (1, 2), (2, 1))


class Net(nn.Module):
    """A first layer, a non-linearity and a head."""

    def __init__(self, layer: nn.Module, outputs: int) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.layer(x))
        return self.head(z if isinstance(self.layer, nn.Linear) else z.flatten(2).mean(-1))


CASES = {
    "3x3": (nn.Conv2d(3, 5, 3, padding=1), (3, 12, 10)),
    "4x4 stride 4": (nn.Conv2d(3, 5, 4, stride=4, bias=False), (3, 16, 16)),
    "7x7 stride 2": (nn.Conv2d(3, 6, 7, stride=2, padding=3), (3, 20, 20)),
    "dilated": (nn.Conv2d(2, 5, (3, 2), dilation=(2, 1)), (2, 9, 10)),
    "grouped": (nn.Conv2d(6, 8, 3, groups=2), (6, 9, 8)),
    "depthwise": (nn.Conv2d(3, 6, 3, groups=3), (3, 9, 8)),
    "dual": (nn.Conv2d(3, 5, 8, stride=8), (3, 16, 16)),
    "dual, grouped": (nn.Conv2d(4, 6, 8, stride=8, groups=2), (4, 16, 8)),
    "1d": (nn.Conv1d(3, 5, 4, stride=2, padding=1), (3, 30)),
    "3d": (nn.Conv3d(2, 4, (2, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)), (2, 4, 9, 9)),
    "linear": (nn.Linear(6, 5), (6,)),
    "linear on tokens": (nn.Linear(6, 5), (7, 6)),
    "linear, dual": (nn.Linear(40, 5), (40,)),
}


def loader_of(shape: tuple[int, ...]) -> list[Tensor]:
    """Batches of two sizes, with an offset and correlated features, so that nothing is trivial."""
    x = 1.5 * torch.randn(14, *shape).cumsum(-1) / shape[-1] ** 0.5 + 0.3
    return [x[:5], x[5:10], x[10:]]


def oracle(model: Net, batches: list[Tensor]) -> list[tuple[Tensor, list[Tensor]]]:
    """Rows ``(groups, r, n)`` and gradients ``(r, m)`` of the pre-activations, one for each group, of each batch."""
    found = []
    for x in batches:
        twin = copy.deepcopy(model).double()
        kept: list[Tensor] = []

        def hook(module: nn.Module, arguments: Any, output: Tensor, kept: list[Tensor] = kept) -> None:
            output.retain_grad()
            kept.append(output)

        twin.layer.register_forward_hook(hook)
        squared(twin(x.double())).backward()
        gradient, layer = kept[0].grad, model.layer
        if isinstance(layer, nn.Linear):
            found.append((x.double().reshape(1, -1, x.shape[-1]), [gradient.flatten(0, -2)]))
            continue
        geometry = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
        rows = reference.conv_rows(x, layer.kernel_size, layer.groups, **geometry)
        parts = gradient.chunk(layer.groups, dim=1)
        found.append((rows, [part.flatten(2).transpose(1, 2).flatten(0, 1) for part in parts]))
    return found


def fit(step: list[Tensor], rows: Tensor, parts: list[Tensor]) -> Tensor:
    """Cosine between the change of the pre-activations along a step, one part for each group, and their gradient."""
    moved = torch.cat([(X @ P.T).flatten() for X, P in zip(rows, step, strict=True)])
    return cosine(moved, torch.cat([dZ.flatten() for dZ in parts]))


def tract(rows: Tensor, parts: list[Tensor], lam: float) -> Tensor:
    return torch.cat([reference.primal(X, dZ, lam).flatten() for X, dZ in zip(rows, parts, strict=True)])


def plain(rows: Tensor, parts: list[Tensor]) -> Tensor:
    return torch.cat([(dZ.T @ X).flatten() for X, dZ in zip(rows, parts, strict=True)])


@pytest.mark.parametrize("name", CASES)
def test_numbers_equal_those_of_the_oracle(name: str) -> None:
    layer, shape = CASES[name]
    outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    model, batches = Net(layer, outputs), loader_of(shape)
    found = probe(model, batches, LAM, loss=lambda output, item: squared(output), grid=GRID).layers[0]
    expected = oracle(model, batches)

    assert found.layer == "layer"
    assert found.rows == tuple(rows.shape[1] for rows, _ in expected)
    every = torch.cat([rows for rows, _ in expected], dim=1)
    covariance = every.transpose(1, 2) @ every / every.shape[1]
    eigenvalues = torch.linalg.eigvalsh(covariance).flip(-1)
    close(found.eigenvalues, eigenvalues.clamp(min=0), absolute=1e-9 * eigenvalues.max().item())
    close(found.condition_with_lam, ((eigenvalues[:, 0] + LAM) / (eigenvalues[:, -1] + LAM)).max())
    close(found.mean_offset, every.mean(1).square().sum() / covariance.diagonal(dim1=1, dim2=2).sum())
    trace = eigenvalues.sum(-1, keepdim=True)
    shares = (eigenvalues / trace).clamp(min=1e-300)
    close(found.effective_rank, torch.exp(-(shares * shares.log()).sum(-1)).mean())
    leading = found.eigenvectors[:, 0, :, None]
    close(covariance @ leading, eigenvalues[:, :1, None] * leading, absolute=1e-8 * eigenvalues.max().item())

    close(torch.tensor(found.cosines), torch.stack([cosine(plain(*item), tract(*item, LAM)) for item in expected]))
    for point in found.grid:
        pairs = [(plain(*item), tract(*item, point.lam)) for item in expected]
        close(point.cosine, torch.stack([cosine(*pair) for pair in pairs]).mean())
        close(point.kept, torch.stack([point.lam * new.norm() / old.norm() for old, new in pairs]).mean())
        close(point.reshaped, torch.stack([reshaped(*item, point.lam) for item in expected]).mean())
        close(point.degrees_of_freedom, (eigenvalues / (eigenvalues + point.lam)).sum(-1).mean())

    for point in found.grid:
        steps = [[reference.primal(X, dZ, point.lam) for X, dZ in zip(*item, strict=True)] for item in expected]
        close(point.own, torch.stack([fit(steps[a], *expected[a]) for a in (0, 1, 1, 2)]).mean())
        close(point.other, torch.stack([fit(steps[a], *expected[b]) for a, b in NEIGHBOURS]).mean())
    old = [[dZ.T @ X for X, dZ in zip(*item, strict=True)] for item in expected]
    close(
        torch.tensor([plain for _, plain in found.others]),
        torch.stack([fit(old[a], *expected[b]) for a, b in NEIGHBOURS]),
    )
    close(torch.tensor(found.norms), torch.stack([plain(*item).norm() for item in expected]))
    close(torch.tensor(found.new_norms), torch.stack([tract(*item, LAM).norm() for item in expected]))

    x = torch.cat(batches).double()
    x = x.reshape(-1, x.shape[-1]) if isinstance(layer, nn.Linear) else x.transpose(0, 1).flatten(1).T
    for name_of, value in (
        ("mean", x.mean(0)),
        ("std", x.std(0, correction=0)),
        ("minimum", x.amin(0)),
        ("maximum", x.amax(0)),
    ):
        close(getattr(found.values, name_of), value)
    assert torch.equal(found.filters.flatten(), model.layer.weight.detach().flatten())


def test_of_many_outputs_the_first_are_looked_at_on_another_batch() -> None:
    model, batches = Net(nn.Linear(6, 40), 40), loader_of((9, 6))
    found = probe(model, batches, LAM, loss=lambda output, item: squared(output), grid=()).layers[0]
    expected = [(rows, [parts[0][:, :32]]) for rows, parts in oracle(model, batches)]
    steps = [[reference.primal(rows[0], parts[0], LAM)] for rows, parts in expected]
    close(found.at_lam.own, torch.stack([fit(steps[a], *expected[a]) for a in (0, 1, 1, 2)]).mean())
    close(found.at_lam.other, torch.stack([fit(steps[a], *expected[b]) for a, b in NEIGHBOURS]).mean())


def reshaped(rows: Tensor, parts: list[Tensor], lam: float) -> Tensor:
    """Share of the plain gradient along eigenvectors above ``lam``."""
    above = total = torch.zeros((), dtype=torch.float64)
    for X, dZ in zip(rows, parts, strict=True):
        values, vectors = torch.linalg.eigh(X.T @ X / len(X))
        along = (dZ.T @ X @ vectors).square().sum(0)
        above, total = above + along[values > lam].sum(), total + along.sum()
    return above / total


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return a @ b / (a.norm() * b.norm())


def close(found: Any, expected: Tensor, absolute: float = 1e-12) -> None:
    """To what float32 gradients allow; covariances themselves are float64."""
    found = found if isinstance(found, Tensor) else torch.tensor(found)
    torch.testing.assert_close(found.double(), expected.double(), rtol=2e-4, atol=absolute)


class Product(nn.Module):
    def __init__(self, function: Any, *shape: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(shape))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.function(x, self.w))


class Standardised(nn.Conv2d):
    """A weight that is computed from the parameter; by a factor only, so that the angle stays the same."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(nn.functional.conv2d(x, 0.5 * self.weight, self.bias, padding="same"))


PRODUCTS = {
    "x @ w": (Product(lambda x, w: x @ w, 6, 4), (9, 6)),
    "w @ x": (Product(lambda x, w: w @ x, 4, 6), (6, 9)),
    "expanded": (Product(lambda x, w: torch.bmm(w.expand(2, -1, -1), x), 4, 6), (2, 6, 5)),
    "expanded, few rows": (Product(lambda x, w: x.bmm(w.expand(2, -1, -1)), 6, 4), (2, 2, 6)),
    "einsum": (Product(lambda x, w: torch.einsum("btc,oc->bto", x, w), 4, 6), (2, 5, 6)),
    "batched": (Product(lambda x, w: torch.bmm(x, w), 3, 6, 4), (3, 9, 6)),
    "scaled": (Product(lambda x, w: torch.addmm(torch.ones(4), x, w, alpha=0.5), 6, 4), (3, 6)),
    "one row": (Product(lambda x, w: x @ w, 6, 4), (1, 6)),
    "vector": (Product(lambda x, w: w @ x, 4, 6), (6,)),
    "standardised weight": (Standardised(3, 4, 3), (4, 3, 9, 8)),
    "reflected borders": (
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.Tanh()),
        (4, 3, 9, 8),
    ),
    "unbatched": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh()), (3, 9, 8)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_the_angle_is_that_of_the_gradients_of_the_backend(name: str) -> None:
    model, shape = PRODUCTS[name]
    x = torch.randn(shape).cumsum(-1)
    found = probe(model, [x], LAM, loss=lambda output, item: squared(output)).layers[0]
    old = gradients(model, [x], "aot_eager")
    new = gradients(model, [x], tract_backend(LAM, inner="aot_eager"))
    (weight,) = found.weights
    old, new = old[weight].double().flatten(), new[weight].double().flatten()
    close(found.cosines[0], cosine(old, new))
    if name != "standardised weight":  # there the chain back to the parameter changes lengths
        close(found.at_lam.kept, LAM * new.norm() / old.norm())


def test_two_stems_are_two_layers() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(1, 4, 5, stride=2)
            self.head = nn.Linear(8, 2)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.head(torch.cat([self.left(a).mean((2, 3)), self.right(b).mean((2, 3))], 1).tanh())

    images = standardised(natural_images(16, 16))
    labels = torch.randint(0, 2, (16,))
    found = probe(Two(), [((images, 5 + images[:, :1]), labels)])
    assert [layer.layer for layer in found.layers] == ["left", "right"]
    assert not found.layers[0].warnings
    assert [concern.layer for concern in found.warnings] == ["right"]
    assert found.verdict.splitlines()[0] == "left: nothing unusual in these data at lam=0.1"
    assert len(str(found).splitlines()[1].split(":")[0].split()) == 1  # the second line is the second layer's answer


def test_a_layer_that_is_called_twice_is_one_layer() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.conv(a).tanh().mean((2, 3)) - self.conv(b).tanh().mean((2, 3))

    a, b = torch.randn(4, 3, 9, 9), torch.randn(4, 3, 9, 9)
    found = probe(Twice(), [((a, b), None)])
    (layer,) = found.layers
    assert layer.passes == 2
    alone = probe(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh()), [torch.cat([a, b])]).layers[0]
    close(layer.eigenvalues, alone.eigenvalues)


def test_memory_and_sums_do_not_depend_on_how_the_data_are_cut() -> None:
    images = standardised(natural_images(24, 12))
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh())
    whole = probe(model, [images]).layers[0]
    cut = probe(model, images.split(5), batches=10).layers[0]
    close(cut.eigenvalues, whole.eigenvalues)
    close(cut.values.std, whole.values.std)
    close(cut.values.contrast, torch.tensor(whole.values.contrast))
    assert cut.values.samples == whole.values.samples == 24
    assert len(cut.cosines) == 5


def test_more_features_than_a_covariance_is_summed_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The eigenvalues and eigenvectors of the batch with the most rows, which is what the pass uses."""
    monkeypatch.setattr("tract_fx.probing.observer.LARGEST_POOLED", 20)
    x = torch.randn(11, 30) @ torch.randn(30, 30)
    found = probe(nn.Sequential(nn.Linear(30, 4), nn.Tanh()), [x[:4], x[4:]]).layers[0]
    assert found.of_one_batch
    values, vectors = torch.linalg.eigh(x[4:].double().T @ x[4:].double() / 7)
    close(found.eigenvalues[0], values.flip(0)[:7])
    assert found.condition == float("inf")
    close(found.condition_with_lam, (values[-1] + LAM) / LAM)
    close((found.eigenvectors[0, :5] @ vectors.flip(1)[:, :5]).abs(), torch.eye(5), absolute=1e-6)
    assert "of one batch" in str(found_in_a_probe(x))


def found_in_a_probe(x: Tensor) -> Any:
    return probe(nn.Sequential(nn.Linear(30, 4), nn.Tanh()), [x])


class Weighted(nn.Module):
    """A layer under autocast, and a sum of its outputs with weights of that dtype, which are dZ."""

    def __init__(self, layer: nn.Module, dtype: torch.dtype, weights: Tensor) -> None:
        super().__init__()
        self.layer, self.dtype, self.weights = layer, dtype, weights.to(dtype).float()

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", self.dtype):
            outputs = self.layer(x)
        return (outputs.float() * self.weights).sum()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["3x3", "2 groups", "linear", "transposed"])
def test_under_autocast_the_gradient_is_that_of_the_operands(name: str, dtype: torch.dtype) -> None:
    """Rounded to 16 bits on its way out of the layer, it would seem to be shorter or longer by per cents."""
    layer, x = {
        "3x3": (nn.Conv2d(3, 4, 3, bias=False), photographs(4, 16)),
        "2 groups": (nn.Conv2d(6, 4, 4, 4, groups=2), torch.cat([photographs(8, 16), photographs(8, 16, seed=1)], 1)),
        "linear": (nn.Linear(48, 4), photographs(80, 4).flatten(1)),
        "transposed": (nn.ConvTranspose2d(3, 4, 3), photographs(4, 16)),
    }[name]
    weights = torch.randn(layer(x).shape, generator=torch.Generator().manual_seed(0))
    found = probe(Weighted(layer, dtype, weights), [x], loss=lambda outputs, _: outputs).layers[0]
    plain = gradient_of(layer, x.to(dtype).double(), weights.to(dtype).double())
    new = layer_gradient(layer, x.to(dtype), weights.to(dtype), LAM)
    assert found.at_lam.cosine == pytest.approx(
        nn.functional.cosine_similarity(plain, new.flatten(), 0).item(), rel=1e-6
    )
    assert found.at_lam.grown == pytest.approx((new.norm() / plain.norm()).item(), rel=1e-5)


def gradient_of(layer: nn.Module, x: Tensor, weights: Tensor) -> Tensor:
    """``G`` in float64, flattened."""
    twin = copy.deepcopy(layer).double()
    (twin(x) * weights).sum().backward()
    return twin.weight.grad.flatten()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_it_sees_the_rounded_rows(dtype: torch.dtype) -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh()), standardised(natural_images(8, 12))
    with torch.autocast("cpu", dtype):
        found = probe(model, [x]).layers[0]
    exact = probe(model, [x.to(dtype).float()]).layers[0]
    close(found.eigenvalues, exact.eigenvalues)
    assert abs(found.cosines[0] - exact.cosines[0]) < 0.05
    assert found.filters.dtype == dtype
