"""Where TrAct harms: small data sets, correlated features, and what probe says of each before training.

    python -m benchmarks.harm --data cifar10.tar.xz

Each case is trained plainly and with TrAct at ``lam`` 0.1, and where probe suggests another ``lam``, at that; by AdamW for
150 steps, with two learning rates and three seeds, which also draw the test examples. Given are the mean test accuracy after
the last step at the better learning rate, and half the spread of the three seeds there. Without ``--data`` the cases of
images are left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import tract_fx
from benchmarks.raw_pixels import environment

LAM = 0.1
STEPS, SEEDS, RATES = 150, 3, (1e-3, 5e-3)
WIDTH = 32
MOST_TESTED = 2000
OF_SIGNALS = nn.Conv1d, nn.BatchNorm1d, nn.AdaptiveAvgPool1d
OF_IMAGES = nn.Conv2d, nn.BatchNorm2d, nn.AdaptiveAvgPool2d

Data = tuple[Tensor, Tensor]


@dataclasses.dataclass(frozen=True)
class Case:
    """One data set with a network.

    Attributes:
        name: of the data.
        data: inputs and labels.
        batch: examples in a batch.
        kernel: of the first convolution, whose stride it is; None for a linear layer.
    """

    name: str
    data: Callable[[], Data]
    batch: int
    kernel: int | None = None

    def network(self, shape: torch.Size, classes: int) -> nn.Module:
        """With a first layer and two more."""
        if self.kernel is None:
            head = nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, classes)
            return nn.Sequential(nn.Linear(shape[0], WIDTH), nn.ReLU(), *head)
        convolution, norm, pool = OF_SIGNALS if len(shape) == 2 else OF_IMAGES
        stem = convolution(shape[0], WIDTH, self.kernel, self.kernel)
        body = norm(WIDTH), nn.ReLU(), convolution(WIDTH, 2 * WIDTH, 3, 2, 1), nn.ReLU()
        return nn.Sequential(stem, *body, pool(1), nn.Flatten(), nn.Linear(2 * WIDTH, classes))


def main() -> None:
    """Train everything, write JSON lines and print them."""
    run(__doc__, "harm.jsonl", cases, measure)


def run(
    about: str | None,
    name: str,
    cases: Callable[[Path | None], Iterator[Case]],
    measure: Callable[[Case], dict[str, Any]],
) -> None:
    """A command that measures cases, prints JSON lines and writes them.

    Args:
        about: its help.
        name: of the file of results.
        cases: those there are, given the archive of images.
        measure: what is recorded of a case.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder or tar archive of class folders of 32-pixel images")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results") / name)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    where = environment()
    results = []
    for case in cases(arguments.data):
        results.append({**measure(case), **where})
        sys.stdout.write(json.dumps(results[-1]) + "\n")
        sys.stdout.flush()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("".join(json.dumps(result) + "\n" for result in results))


def cases(archive: Path | None) -> Iterator[Case]:
    """Cases in which TrAct was seen to harm, to help and to do neither."""
    yield Case("512 correlated features, 1,125 examples", lambda: after_relu(1500), 512)
    yield Case("the same, in batches of 128", lambda: after_relu(1500), 128)
    yield Case("the same, 9,000 examples", lambda: after_relu(12000), 512)
    yield Case("512 random features of a table", random_features, 128)
    yield Case("64 correlated features, no noise", mixed, 128)
    yield Case("64 independent features", lambda: mixed(correlated=False), 128)
    for name, batch in (("breast_cancer", 64), ("wine", 32)):
        yield Case(f"table: {name.replace('_', ' ')}", lambda name=name: table(name), batch)
    yield Case("digits as rows of 64 pixels", lambda: table("digits"), 128)
    if archive is not None:
        images = read_images(archive, 12_000)
        yield Case("frozen random CNN, 1,125 images", lambda: frozen_features(images, 1500), 512)
        yield Case("frozen random CNN, 9,000 images", lambda: frozen_features(images, 12000), 512)
        yield Case("images as rows of 3,072 pixels", lambda: (images[0].flatten(1)[:4000], images[1][:4000]), 256)
        yield Case("images, patches of 4x4", lambda: (images[0][:4000], images[1][:4000]), 64, kernel=4)


def after_relu(count: int) -> Data:
    """512 features that are a ReLU of 24 factors and a little noise."""
    generator = torch.Generator().manual_seed(15)
    weight = torch.randn(24, 512, generator=generator) / 5
    classes = torch.randn(6, 5, generator=generator)
    factors = torch.randn(count, 24, generator=generator)
    noise = 0.05 * torch.randn(count, 512, generator=generator)
    return standardised((factors @ weight + noise - 0.5).relu()), (factors[:, :6] @ classes).argmax(1)


def random_features(count: int = 512) -> Data:
    """Random Fourier features of a table (Rahimi and Recht 2007)."""
    x, labels = table("breast_cancer")
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(x.shape[1], count, generator=generator) / x.shape[1] ** 0.5
    phase = 2 * torch.pi * torch.rand(count, generator=generator)
    return standardised((x @ weight + phase).cos()), labels


def mixed(count: int = 1500, features: int = 64, *, correlated: bool = True) -> Data:
    """Normal features, of which ten decide, mixed by a random matrix or not."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(count, features, generator=generator)
    labels = (x[:, :10] @ torch.randn(10, 5, generator=generator)).argmax(1)
    return standardised(x @ torch.randn(features, features, generator=generator) if correlated else x), labels


def table(name: str) -> Data:
    """A data set of scikit-learn's, in random order; pixels have one scale, other features one each."""
    import sklearn.datasets

    bunch = getattr(sklearn.datasets, f"load_{name}")()
    x, labels = torch.tensor(bunch.data, dtype=torch.float32), torch.tensor(bunch.target).long()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x = (x - x.mean()) / x.std() if name == "digits" else standardised(x)
    return x[order], labels[order]


def read_images(archive: Path, count: int) -> Data:
    """Standardised images of 32 pixels in random order."""
    from tract_fx.tools.images.arrays import load_images
    from tract_fx.tools.images.arrays import standardised as as_the_demo_does

    data = as_the_demo_does(load_images(archive, 32, count + count // 4, 0), torch.device("cpu"))
    order = torch.randperm(len(data.train_images), generator=torch.Generator().manual_seed(0))[:count]
    return data.train_images[order], data.train_labels[order]


def frozen_features(images: Data, count: int) -> Data:
    """512 features of a random convolutional network."""
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 64, 5, 2),
        nn.ReLU(),
        nn.Conv2d(64, 128, 3, 2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
    )
    with torch.no_grad():
        return standardised(nn.Sequential(*layers)(images[0][:count])), images[1][:count]


def standardised(x: Tensor) -> Tensor:
    """Each feature with mean 0 and standard deviation 1."""
    return (x - x.mean(0)) / x.std(0).clamp(min=1e-8)


def measure(case: Case) -> dict[str, Any]:
    """One line of the results, but for the environment."""
    x, labels = case.data()
    trained = 3 * len(x) // 4
    layer = probed(case, x[:trained], labels[:trained]).layers[0]
    told, suggested = suggestion(layer)
    lams = [None, LAM, *([suggested] if suggested else [])]
    plain = statistics.fmean(plain for _, plain in layer.others)
    return {
        "case": case.name,
        "n": layer.features,
        "examples": trained,
        "batch": case.batch,
        "own": round(layer.at_lam.own, 4),
        "other": round(layer.at_lam.other, 4),
        "other_plain": round(plain, 4),
        "told": told,
        "suggested": suggested,
        "accuracy": {str(lam): accuracy(case, x, labels, lam) for lam in lams},
    }


def suggestion(layer: tract_fx.LayerProbe) -> tuple[bool, float | None]:
    """Whether probe warns of harm, and which ``lam`` it then suggests."""
    told = any(item.kind is tract_fx.ConcernKind.HARM for item in layer.warnings)
    return told, layer.suggested_lam if told else None


def probed(case: Case, x: Tensor, labels: Tensor) -> tract_fx.Probe:
    """What probe says before training."""
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(x, labels), case.batch, shuffle=True, drop_last=True)
    return tract_fx.probe(case.network(x.shape[1:], int(labels.max()) + 1), loader, LAM)


def accuracy(case: Case, x: Tensor, labels: Tensor, lam: float | None) -> list[float]:
    """Mean test accuracy in per cent at the better learning rate, and half the range of the seeds."""
    runs = [[train(case, x, labels, lam, rate, seed) for seed in range(SEEDS)] for rate in RATES]
    best = max(runs, key=statistics.fmean)
    return [round(statistics.fmean(best), 2), round((max(best) - min(best)) / 2, 2)]


def train(case: Case, x: Tensor, labels: Tensor, lam: float | None, rate: float, seed: int) -> float:
    """Test accuracy after the last step."""
    fitted = fit(case, x, labels, lam, rate, seed)
    return right(fitted.model, fitted.test)


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A network after the last step.

    Attributes:
        model: the network.
        start: weight that its first layer began with.
        train, test: the examples that it was trained on, and others.
    """

    model: nn.Module
    start: Tensor
    train: Data
    test: Data


def fit(case: Case, x: Tensor, labels: Tensor, lam: float | None, rate: float, seed: int) -> Fitted:
    """Train a network."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    x, labels, trained = x[order], labels[order], 3 * len(x) // 4
    torch.manual_seed(seed)
    model = case.network(x.shape[1:], int(labels.max()) + 1)
    start = model[0].weight.detach().clone()
    if lam is not None:
        tract_fx.TrAct(model[0], lam=lam)
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    for _ in range(STEPS):
        batch = torch.randint(trained, (case.batch,), generator=generator)
        loss = nn.functional.cross_entropy(model(x[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tested = slice(trained, trained + MOST_TESTED)
    return Fitted(model.eval(), start, (x[:trained], labels[:trained]), (x[tested], labels[tested]))


@torch.no_grad()
def right(model: nn.Module, data: Data) -> float:
    """Share of examples that are classified right, in per cent."""
    x, labels = data
    return 100 * (model(x).argmax(1) == labels).double().mean().item()


if __name__ == "__main__":
    main()
