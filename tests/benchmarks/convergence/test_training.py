"""A run is the same whether it was interrupted or not, and both sides differ in one gradient only."""

import dataclasses
from pathlib import Path

import pytest
import torch

from benchmarks.convergence import data, methods
from benchmarks.convergence.data import Images
from benchmarks.convergence.experiments import vit_variants, with_batch
from benchmarks.convergence.inputs import contrast_groups
from benchmarks.convergence.runs import Run
from benchmarks.convergence.sizes import Size
from benchmarks.convergence.training import Training
from tract_fx import reference
from tract_fx.tools.errors import ImageError, JournalError
from tract_fx.tools.training.journal import Journal, read


@pytest.fixture(scope="module")
def images(image_folder: Path) -> Images:
    return data.load(str(image_folder), Path("unused"), train=0, test=0, device="cpu")


class StoppedError(Exception):
    """As if the process had been killed."""


def journal(path: Path) -> Journal:
    return Journal(path, {"run": "this", "steps": None}, {})


def quiet(line: str) -> None:
    del line


@pytest.mark.parametrize("method", ["tract", "tract-running", "tract-first-third", "tract-rising", "whitened"])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    method: str, tiny: Size, images: Images, tmp_path: Path
) -> None:
    run = Run("resnet", "adam", 4, method, 0, augmentation="all")
    Training(run, tiny, images).train(journal(tmp_path / "whole.jsonl"), quiet)
    whole = read(tmp_path / "whole.jsonl")

    def stop_after_two(line: str) -> None:
        if line.startswith("epoch 2"):
            raise StoppedError

    with pytest.raises(StoppedError):
        Training(run, tiny, images).train(journal(tmp_path / "parts.jsonl"), stop_after_two)
    assert not journal(tmp_path / "parts.jsonl").finished
    Training(run, tiny, images).train(journal(tmp_path / "parts.jsonl"), quiet)
    parts = read(tmp_path / "parts.jsonl")
    assert [line.get("loss") for line in parts] == [line.get("loss") for line in whole]
    assert [line.get("accuracy") for line in parts] == [line.get("accuracy") for line in whole]
    assert parts[-1] == whole[-1]


def test_an_epoch_whose_checkpoint_was_not_written_is_run_again(tiny: Size, images: Images, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    run = Run("resnet", "sgd", 2, "plain", 0)

    def stop(line: str) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        Training(run, tiny, images).train(journal(path), stop)
    (tmp_path / "run.checkpoint").unlink()
    Training(run, tiny, images).train(journal(path), quiet)
    assert [line["epoch"] for line in read(path)[1:-1]] == [1, 2]


def test_an_epoch_that_is_newer_than_the_checkpoint_is_run_again(tmp_path: Path) -> None:
    """The process was killed between writing the two."""
    path = tmp_path / "run.jsonl"
    journal(path).epoch({"epoch": 1}, {"epoch": 1})
    with path.open("a") as file:
        file.write('{"epoch": 2}\n')
    assert journal(path).resume() == {"epoch": 1}
    assert [line.get("epoch") for line in read(path)] == [None, 1]


def test_a_file_of_another_run_is_refused(tmp_path: Path) -> None:
    journal(tmp_path / "run.jsonl").finish({})
    with pytest.raises(JournalError, match="run was this, and is that now"):
        Journal(tmp_path / "run.jsonl", {"run": "that", "steps": None}, {})


@pytest.mark.parametrize("network", ["resnet", "vit"])
def test_both_sides_see_the_same_batches_from_the_same_weights(network: str, tiny: Size, images: Images) -> None:
    """One step: the first loss is the same to the last bit, and only the first layer has moved differently."""
    after = {}
    for method in ("plain", "tract"):
        training = Training(Run(network, "sgd", 1, method, 3), tiny, images, steps=1)
        line = training.train_epoch(1)
        weights = {name: value.clone() for name, value in training.trainee.model.state_dict().items()}
        after[method] = line["loss"], weights, training.trainee.first
    assert after["plain"][0] == after["tract"][0]
    first = f"{after['plain'][2]}.weight"
    different = {name for name, value in after["plain"][1].items() if not torch.equal(value, after["tract"][1][name])}
    assert different == {first}


def test_seeds_differ_in_weights_and_batches(tiny: Size, images: Images) -> None:
    first, second = (Training(Run("resnet", "sgd", 1, "plain", seed), tiny, images) for seed in (0, 1))
    orders = [
        next(training._batches(torch.Generator().manual_seed(training.run.seed)))[1] for training in (first, second)
    ]
    assert not torch.equal(*orders)
    weights = []
    for seed in (0, 1):
        weights.append(
            Training(Run("resnet", "sgd", 1, "plain", seed), tiny, images).trainee.first_layer.weight.clone()
        )
    assert not torch.equal(*weights)


def test_lam_and_rate_reach_backend_and_optimiser(tiny: Size, images: Images) -> None:
    training = Training(Run("resnet", "sgd", 1, "tract", 0, lam=0.7, rate=2.0), tiny, images)
    assert training.trainee.backend.lam == 0.7
    assert training.optimizers[0].defaults["lr"] == pytest.approx(2 * tiny.rates["resnet", "sgd"])


def test_the_rate_rises_in_the_share_of_the_training_that_the_run_says(tiny: Size, images: Images) -> None:
    for share, peak in ((0.2, 6), (0.5, 15)):
        training = Training(Run("vit", "adam", 10, "plain", 0, warm_up=share), tiny, images)
        rates = [training.rates[0].lr_lambdas[0](step) for step in range(training.total)]
        assert training.total == 30
        assert rates.index(max(rates)) == peak
        assert max(rates) == 1.0


def test_variants_of_the_transformer_are_trained_at_its_rate(tiny: Size) -> None:
    networks = {run.network: tiny.networks[run.network](2, run.width) for _, run in vit_variants(tiny)}
    assert {tiny.peak_rate(name, "adam") for name in networks} == {tiny.rates["vit", "adam"]}
    layers = {name: (len(model.blocks), model.first_layer.kernel_size[0]) for name, model in networks.items()}
    assert layers == {"vit": (3, 4), "vit-coarse": (3, 8), "vit-deep": (7, 4)}


def test_a_run_with_a_batch_of_its_own(tiny: Size, images: Images) -> None:
    run = with_batch(Run("resnet", "sgd", 2, "plain", 0), tiny, 1.5)
    training = Training(run, tiny, images)
    assert [len(x) for x, _ in training._batches(torch.Generator().manual_seed(0))] == [12, 12]
    assert training.total == 4
    assert training.optimizers[0].defaults["lr"] == pytest.approx(1.5 * tiny.rates["resnet", "sgd"])


def test_files_from_before_there_were_batches_and_warm_ups_are_of_the_same_run() -> None:
    run = Run("resnet", "sgd", 2, "plain", 0)
    assert not {"batch", "warm_up"} & set(run.record())
    assert Run(**run.record()) == run
    other = dataclasses.replace(run, batch=64, warm_up=0.5)
    assert Run(**other.record()) == other


def test_a_first_layer_of_its_own_is_in_one_optimiser_only(tiny: Size, images: Images) -> None:
    training = Training(Run("vit", "adam", 1, "plain-sgd-first", 0), tiny, images)
    adam, sgd = (
        {id(p) for group in optimizer.param_groups for p in group["params"]} for optimizer in training.optimizers
    )
    assert sgd == {id(p) for p in training.trainee.first_layer.parameters()}
    assert not adam & sgd
    assert len(adam | sgd) == len(list(training.trainee.model.parameters()))


@pytest.mark.parametrize(("method", "last"), [("tract-first-third", 3), ("tract-first-half", 5)])
def test_the_pass_is_off_after_its_share(method: str, last: int, tiny: Size, images: Images) -> None:
    """Weights of both sides, from the same state: different after the last step of the share, equal after the next."""
    moved = {}
    for done in (last, last + 1):
        for side in ("plain", method):
            training = Training(Run("vit", "sgd", 4, side, 0), tiny, images)
            assert training.total == 12
            training.done = done
            batch = next(iter(training._batches(torch.Generator().manual_seed(0))))
            training.step(*batch)
            moved[done, side] = training.trainee.first_layer.weight.detach().clone()
    assert torch.equal(moved[last + 1, "plain"], moved[last + 1, method])
    assert not torch.equal(moved[last, "plain"], moved[last, method])


def eager(run: Run, tiny: Size, images: Images) -> Training:
    """A training whose network runs as it is, where nothing of the compiler is asked."""
    training = Training(run, tiny, images)
    training.trainee.plain = training.trainee.tract = training.trainee.model
    return training


def test_a_rising_lam_ends_at_twice_its_value(tiny: Size, images: Images) -> None:
    training = eager(Run("resnet", "sgd", 1, "tract-rising", 0), tiny, images)
    backend = training.trainee.backend
    seen = [backend.lam]
    for batch in training._batches(torch.Generator().manual_seed(0)):
        training.step(*batch)
        seen.append(backend.lam)
    assert seen == pytest.approx([0.05, 0.0875, 0.1625, 0.2])


def test_clipped_gradients_have_that_norm(tiny: Size, images: Images) -> None:
    norms = {}
    for method in ("plain", "plain-clip"):
        training = eager(Run("resnet", "sgd", 1, method, 0), tiny, images)
        training.backward(*next(iter(training._batches(torch.Generator().manual_seed(0)))))
        norms[method] = torch.stack([p.grad.norm() for p in training.trainee.model.parameters()]).norm().item()
    assert norms["plain"] > 1.1
    assert norms["plain-clip"] == pytest.approx(1.0, rel=1e-4)


def test_no_weight_decay_for_the_first_layer_alone(tiny: Size, images: Images) -> None:
    training = Training(Run("resnet", "sgd", 1, "tract-no-decay", 0), tiny, images)
    rest, first = training.optimizers[0].param_groups
    assert (rest["weight_decay"], first["weight_decay"]) == (5e-4, 0.0)
    assert [id(p) for p in first["params"]] == [id(p) for p in training.trainee.first_layer.parameters()]
    assert len(rest["params"]) + len(first["params"]) == len(list(training.trainee.model.parameters()))
    assert first["lr"] == rest["lr"]


def gradient_of(method: str, tiny: Size, images: Images) -> torch.Tensor:
    """What a step hands to the optimiser for the first layer, without momentum or weight decay: seen as its move."""
    training = Training(Run("vit", "sgd", 1, method, 0), dataclasses.replace(tiny, batch=16), images)
    training.optimizers = [torch.optim.SGD(training.trainee.model.parameters(), lr=1.0)]
    training.rates = [torch.optim.lr_scheduler.ConstantLR(training.optimizers[0], factor=1.0)]
    layer = training.trainee.first_layer
    before = layer.weight.detach().clone()
    training.step(*next(iter(training._batches(torch.Generator().manual_seed(0)))))
    return before - layer.weight.detach()


def test_parts_with_one_covariance_are_the_whole_batch(tiny: Size, images: Images) -> None:
    """The network has no batch normalisation, so the only difference could be the covariance."""
    whole, shared, local, plain = (
        gradient_of(method, tiny, images) for method in ("tract", "tract-8-shared", "tract-8-local", "plain")
    )
    assert (shared - whole).norm() < 1e-4 * whole.norm()
    assert (local - whole).norm() > 1e-2 * whole.norm()
    assert (plain - whole).norm() > 1e-1 * whole.norm()


def test_the_running_average_against_the_formula() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 4, 3, stride=2, padding=1)
    gradient = methods.FirstLayerGradient(layer, lam=0.1, covariance="running")
    kept, average, weight = methods.RUNNING_DECAY, torch.zeros(27, 27, dtype=torch.float64), 0.0
    for _ in range(3):
        x = torch.randn(2, 3, 9, 9)
        layer.weight.grad = torch.randn_like(layer.weight)
        rows = reference.conv_rows(x, (3, 3), 1, stride=2, padding=1)[0]
        average = kept * average + (1 - kept) * rows.T @ rows / len(rows)
        weight = kept * weight + 1 - kept
        matrix = average / weight + 0.1 * torch.eye(27, dtype=torch.float64)
        expected = layer.weight.grad.double().flatten(1) @ torch.linalg.inv(matrix)
        gradient.precondition(x)
        torch.testing.assert_close(layer.weight.grad.flatten(1).double(), expected, rtol=1e-5, atol=1e-6)


def test_a_relative_lam_against_the_formula() -> None:
    """In units of the mean of the squared elements of the rows."""
    torch.manual_seed(0)
    layer, x = torch.nn.Conv2d(3, 4, 3), 50 * torch.randn(2, 3, 9, 9)
    layer.weight.grad = torch.randn_like(layer.weight)
    rows = reference.conv_rows(x, (3, 3), 1, stride=1, padding=0)[0]
    matrix = rows.T @ rows / len(rows) + 0.1 * rows.square().mean() * torch.eye(27, dtype=torch.float64)
    expected = layer.weight.grad.double().flatten(1) @ torch.linalg.inv(matrix)
    methods.FirstLayerGradient(layer, lam=0.1, covariance="batch", relative=True).precondition(x)
    torch.testing.assert_close(layer.weight.grad.flatten(1).double(), expected, rtol=1e-5, atol=1e-9)


def test_accuracy_by_contrast_is_that_of_the_images_of_each_contrast(tiny: Size, images: Images) -> None:
    """A network that sees through the contrast: right exactly where it is the highest one."""
    training = Training(Run("resnet", "sgd", 1, "plain", 0, inputs="contrast"), tiny, images)
    ordinary = images.inputs("standardised", 0.0)[1]
    spread = ordinary.finish(ordinary.images).flatten(1).std(1)
    seen = []

    class Seer(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            ratio = x.flatten(1).std(1) / spread
            right = (ratio > 0.9).long()
            seen.append(right)
            return torch.nn.functional.one_hot(torch.where(right > 0, images.test_labels, 1 - images.test_labels), 2)

    training.trainee.model, original = Seer(), training.trainee.model
    try:
        line = training.evaluate()
    finally:
        training.trainee.model = original
    groups = contrast_groups(len(images.test), split=1).unique().tolist()
    assert [line["by_contrast"][group] for group in groups] == [float(group == 4) for group in groups]
    assert line["accuracy"] == pytest.approx(seen[0].float().mean().item())


def test_fewer_images_than_a_batch_is_an_error(tiny: Size, images: Images) -> None:
    with pytest.raises(ImageError, match="24 training images, fewer than the 128 of a batch"):
        Training(Run("resnet", "sgd", 1, "plain", 0), dataclasses.replace(tiny, batch=128), images)
