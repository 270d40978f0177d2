"""Whether probe's warning of harm holds on data on which its bounds were not chosen.

    python -m benchmarks.harm_check --data cifar10.tar.xz

The bounds of :mod:`tract_fx.probing.harm` were chosen on the cases of :mod:`benchmarks.harm`. These are others, and what is
to be seen was fixed before the first run: a *loss* where TrAct at ``lam`` 0.1 ends below plain training by more than one
point and by more than twice the standard error of the difference, paired by seeds; a *gain* likewise. Networks, training and
learning rates are those of :mod:`benchmarks.harm`, with five seeds. Without ``--data`` the frozen features are left out.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harm import LAM, RATES, Case, Data, probed, read_images, run, standardised, suggestion, train
from benchmarks.paired import difference

SEEDS = 5
# Points of test accuracy, and standard errors, from which a difference counts.
POINTS, ERRORS = 1.0, 2.0


def main() -> None:
    """Train everything, write JSON lines and print them."""
    run(__doc__, "harm_check.jsonl", cases, measure)


def cases(archive: Path | None) -> Iterator[Case]:
    """Tables, signals, texts, photographs and frozen features."""
    yield Case("diabetes in three classes", diabetes, 64)
    yield Case("its monomials up to degree 3", lambda: monomials(diabetes(), 3), 64)
    yield Case("iris, monomials up to degree 4", lambda: monomials(iris(), 4), 32)
    yield Case("digits as images, patches of 2x2", digits, 64, kernel=2)
    yield Case("table, 150 of 200 columns redundant, 450 examples", lambda: redundant(600), 64)
    yield Case("the same, 4,500 examples", lambda: redundant(6000), 64)
    yield Case("table of low rank", low_rank, 128)
    yield Case("numbers and one-hot columns", one_hot_columns, 64)
    yield Case("counts of 1,000 words", bag_of_words, 128)
    yield Case("gene expression, 180 examples", lambda: in_blocks(240), 64)
    yield Case("signals as rows of 400 samples", lambda: flattened(tones()), 128)
    yield Case("signals, patches of 16 samples", tones, 128, kernel=16)
    yield Case("logarithms of their spectra", lambda: spectra(tones()), 128)
    yield Case("windows of 20 autoregressive channels", lambda: flattened(autoregressive()), 128)
    yield Case("pieces of photographs as rows of 768 pixels", lambda: flattened(photographs()), 128)
    yield Case("pieces of photographs, patches of 4x4", photographs, 128, kernel=4)
    if archive is not None:
        images = read_images(archive, 6000)
        for count in (1500, 6000):
            trained = f"{3 * count // 4:,} images"
            yield Case(
                f"frozen random ResNet-18 at 64 pixels, {trained}", lambda count=count: resnet(images, count), 256
            )
            yield Case(
                f"frozen random patches at 64 pixels, {trained}", lambda count=count: patches(images, count), 256
            )


def measure(case: Case) -> dict[str, Any]:
    """One line of the results, but for the environment."""
    x, labels = case.data()
    trained = 3 * len(x) // 4
    layer = probed(case, x[:trained], labels[:trained]).layers[0]
    told, suggested = suggestion(layer)
    lams = [None, LAM, *([suggested] if suggested else [])]
    best = {str(lam): runs(case, x, labels, lam) for lam in lams}
    return {
        "case": case.name,
        "n": layer.features,
        "examples": trained,
        "batch": case.batch,
        "own": _rounded(layer.at_lam.own),
        "other": _rounded(layer.at_lam.other),
        "other_plain": _rounded(statistics.fmean(plain for _, plain in layer.others)),
        "told": told,
        "suggested": suggested,
        "seen": seen(best["None"], best[str(LAM)]),
        "accuracy": best,
    }


def runs(case: Case, x: Tensor, labels: Tensor, lam: float | None) -> list[float]:
    """Test accuracy of every seed in per cent, at the learning rate with the better mean."""
    by_rate = [[train(case, x, labels, lam, rate, seed) for seed in range(SEEDS)] for rate in RATES]
    return [round(accuracy, 2) for accuracy in max(by_rate, key=statistics.fmean)]


def seen(plain: list[float], tract: list[float]) -> str:
    """``"loss"``, ``"gain"`` or nothing."""
    mean, error = difference(plain, tract)
    if abs(mean) <= max(POINTS, ERRORS * error):
        return ""
    return "gain" if mean > 0 else "loss"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _shuffled(x: Tensor, labels: Tensor) -> Data:
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order], labels[order]


def _drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flattened(data: Data) -> Data:
    """Each example as a row."""
    return data[0].flatten(1), data[1]


def diabetes() -> Data:
    """Ten measurements, and how far the disease went: little, middle, far."""
    from sklearn.datasets import load_diabetes

    x, progress = (torch.tensor(item, dtype=torch.float32) for item in load_diabetes(return_X_y=True))
    bounds = progress.quantile(torch.tensor([1 / 3, 2 / 3]))
    return _shuffled(standardised(x), torch.bucketize(progress, bounds))


def iris() -> Data:
    """Four measurements of three species."""
    from sklearn.datasets import load_iris

    x, labels = load_iris(return_X_y=True)
    return _shuffled(standardised(torch.tensor(x, dtype=torch.float32)), torch.tensor(labels).long())


def monomials(data: Data, degree: int) -> Data:
    """Products of up to ``degree`` features."""
    from sklearn.preprocessing import PolynomialFeatures

    made = PolynomialFeatures(degree, include_bias=False).fit_transform(data[0].double().numpy())
    return standardised(torch.tensor(made, dtype=torch.float32)), data[1]


def digits() -> Data:
    """Images of 8x8 pixels."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = torch.tensor(bunch.images, dtype=torch.float32)[:, None]
    return _shuffled((x - x.mean()) / x.std(), torch.tensor(bunch.target).long())


def redundant(count: int) -> Data:
    """200 columns: 10 decide, 150 are combinations of those, the rest is noise."""
    from sklearn.datasets import make_classification

    x, labels = make_classification(
        count, 200, n_informative=10, n_redundant=150, n_classes=4, flip_y=0.02, random_state=1
    )
    return standardised(torch.tensor(x, dtype=torch.float32)), torch.tensor(labels).long()


def low_rank(count: int = 1500, features: int = 300) -> Data:
    """Singular values that fall off like a bell with a tail; the twelve leading directions decide."""
    from sklearn.datasets import make_low_rank_matrix

    made = make_low_rank_matrix(count, features, effective_rank=20, tail_strength=0.3, random_state=2)
    x = standardised(torch.tensor(made, dtype=torch.float32))
    leading = torch.linalg.svd(x, full_matrices=False).U[:, :12] * count**0.5
    return x, (leading @ torch.randn(12, 5, generator=_drawn(2))).argmax(1)


def one_hot_columns(count: int = 2000) -> Data:
    """Six numbers, and ten categories of eight kinds each."""
    generator = _drawn(4)
    numbers = torch.randn(count, 6, generator=generator)
    kinds = torch.randint(8, (count, 10), generator=generator)
    coded = nn.functional.one_hot(kinds, 8).flatten(1).float()
    x = torch.cat([numbers, coded], 1)
    scores = x @ torch.randn(x.shape[1], 3, generator=generator)
    noise = 0.5 * torch.randn(scores.shape, generator=generator)
    return x, ((scores - scores.mean(0)) / scores.std(0) + noise).argmax(1)


def bag_of_words(count: int = 2000, words: int = 1000, topics: int = 5) -> Data:
    """Logarithms of the counts of words, as frequent as in a language, in texts of five topics."""
    generator = _drawn(5)
    frequency = 1 / torch.arange(1, words + 1).float()
    taste = frequency * torch.exp(0.7 * torch.randn(topics, words, generator=generator))
    labels = torch.randint(topics, (count,), generator=generator)
    drawn = torch.multinomial(taste[labels], 60, replacement=True, generator=generator)
    counts = torch.zeros(count, words).scatter_add_(1, drawn, torch.ones(drawn.shape))
    return standardised(counts.log1p()), labels


def in_blocks(count: int, blocks: int = 40, size: int = 50) -> Data:
    """Many more features than examples: 40 pathways of 50 genes each, of which eight decide."""
    generator = _drawn(6)
    pathways = torch.randn(count, blocks, generator=generator)
    noise = torch.randn(count, blocks * size, generator=generator)
    x = pathways.repeat_interleave(size, 1) + 0.7 * noise
    return standardised(x), (pathways[:, :8] @ torch.randn(8, 3, generator=generator)).argmax(1)


def tones(count: int = 2000, samples: int = 400) -> Data:
    """A tone of one of six pitches, with overtones, in noise that is louder at low frequencies."""
    generator = _drawn(7)
    labels = torch.randint(6, (count,), generator=generator)
    time = torch.arange(samples) / samples
    pitch = 12 * 2 ** (labels / 6) * (1 + 0.01 * torch.randn(count, generator=generator))
    phase = 2 * torch.pi * torch.rand(count, 3, 1, generator=generator)
    overtones = torch.arange(1, 4)[:, None]
    waves = (2 * torch.pi * overtones * pitch[:, None, None] * time + phase).sin() / overtones
    noise = torch.randn(count, samples, generator=generator).cumsum(1) / samples**0.5
    x = (waves.sum(1) + 2 * (noise - noise.mean(1, keepdim=True)))[:, None]
    return (x - x.mean()) / x.std(), labels


def spectra(data: Data) -> Data:
    """201 frequencies."""
    return standardised(torch.fft.rfft(data[0][:, 0]).abs().log1p()), data[1]


def autoregressive(count: int = 1500, channels: int = 20, steps: int = 50) -> Data:
    """Channels that follow a few sources, whose memory depends on the class, as of an electroencephalogram."""
    generator = _drawn(8)
    labels = torch.randint(3, (count,), generator=generator)
    memory = torch.tensor([0.5, 0.75, 0.9])[labels][:, None]
    state, sources = torch.zeros(count, 6), []
    for _ in range(steps):
        state = memory * state + (1 - memory**2).sqrt() * torch.randn(count, 6, generator=generator)
        sources.append(state)
    mixed = torch.stack(sources, 2).transpose(1, 2) @ torch.randn(6, channels, generator=generator)
    x = mixed.transpose(1, 2) + 0.1 * torch.randn(count, channels, steps, generator=generator)
    return (x - x.mean((0, 2), keepdim=True)) / x.std((0, 2), keepdim=True), labels


def photographs(count: int = 2000, size: int = 16) -> Data:
    """Pieces of the quarters of scikit-learn's two photographs; which quarter is to be told."""
    from sklearn.datasets import load_sample_images

    generator = _drawn(9)
    whole = [torch.tensor(image).permute(2, 0, 1).float() for image in load_sample_images().images]
    height, width = (side // 2 for side in whole[0].shape[1:])
    labels = torch.randint(8, (count,), generator=generator)
    rows = torch.randint(height - size, (count,), generator=generator) + height * (labels // 2 % 2)
    columns = torch.randint(width - size, (count,), generator=generator) + width * (labels % 2)
    x = torch.stack(
        [
            whole[label // 4][:, row : row + size, column : column + size]
            for label, row, column in zip(labels.tolist(), rows.tolist(), columns.tolist(), strict=True)
        ]
    )
    return (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True), labels


def resnet(images: Data, count: int) -> Data:
    """The 512 features of a random ResNet-18."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    network = resnet18()
    network.fc = nn.Identity()
    return _features(network.eval(), images, count)


def patches(images: Data, count: int) -> Data:
    """384 random filters of 8x8 pixels, and the mean of each over the image after a GELU."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 384, 8, 8), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return _features(network, images, count)


def _features(network: nn.Module, images: Data, count: int) -> Data:
    with torch.no_grad():
        made = [network(nn.functional.interpolate(part, size=64)) for part in images[0][:count].split(250)]
    return standardised(torch.cat(made)), images[1][:count]


if __name__ == "__main__":
    main()
