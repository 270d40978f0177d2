"""Two steps of a training with each library, in the words of its own documentation."""

from __future__ import annotations

import copy
import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tract_fx import TrActLayer, backend_of, remove_tract

from .trial import Side, Trial

__all__ = ["CASES", "Case"]

BATCH, CLASSES = 8, 4
Data = Callable[[], tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True)
class Case:
    """A use of a library.

    Attributes:
        train: trains two steps or more.
        library: its distribution, as installed by pip.
        use: what is tried, for the table.
        order: when TrAct is applied or the model compiled, for the table.
        sides: what applies; for the others, ``without`` has the reason.
        without: why a side does not apply.
    """

    train: Callable[[Trial], None]
    library: str
    use: str
    order: str
    sides: tuple[Side, ...] = ("layer", "backend")
    without: str = ""


CASES: dict[str, Case] = {}


def case(
    library: str, use: str, order: str, sides: tuple[Side, ...] = ("layer", "backend"), without: str = ""
) -> Callable[[Callable[[Trial], None]], Callable[[Trial], None]]:
    """Register a training under the name of its function."""

    def register(train: Callable[[Trial], None]) -> Callable[[Trial], None]:
        CASES[train.__name__] = Case(train, library, use, order, sides, without)
        return train

    return register


class Network(nn.Module):
    """A stem that sees images, and a head."""

    def __init__(self, outputs: int = CLASSES) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(torch.relu(self.stem(x)))).mean((2, 3)))


def images(count: int = BATCH, size: int = 12) -> tuple[Tensor, Tensor]:
    """Images with a mean that is not zero, and labels."""
    generator = torch.Generator().manual_seed(1)
    pixels = 0.5 + torch.randn(count, 3, size, size, generator=generator)
    return pixels, torch.randint(CLASSES, (count,), generator=generator)


def rows() -> tuple[Tensor, Tensor]:
    """Rows of 64 features, and labels."""
    return torch.randn(BATCH, 64, generator=torch.Generator().manual_seed(1)), images()[1]


def steps(model: nn.Module, optimizer: torch.optim.Optimizer | None = None, data: Data = images) -> Iterator[None]:
    """Two steps of an ordinary training."""
    optimizer = optimizer or torch.optim.SGD([item for item in model.parameters() if item.requires_grad], lr=0.1)
    x, labels = data()
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
        yield


def train(model: nn.Module, optimizer: torch.optim.Optimizer | None = None, data: Data = images) -> None:
    """Two steps of an ordinary training."""
    for _ in steps(model, optimizer, data):
        pass


@case("torch", "`LBFGS`, whose closure computes gradients several times in a step", "before the first step")
def lbfgs(trial: Trial) -> None:
    model = trial.apply(Network(), "stem")
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    x, labels = images()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)


@case("torch", "`swa_utils.AveragedModel`: SWA and EMA", "before or after `AveragedModel(model)`; it copies the layer")
def averaging(trial: Trial) -> None:
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    model = Network()
    averages = [AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))]
    trial.apply(model, "stem")
    averages.append(AveragedModel(model))
    for _ in steps(model):
        for average in averages:
            average.update_parameters(model)
    assert (
        list(averages[0].module.state_dict()) == list(averages[1].module.state_dict()) == list(Network().state_dict())
    )
    with torch.no_grad():
        assert averages[1](images()[0]).isfinite().all()


@case(
    "torch",
    "`torch.ao.quantization`: quantisation-aware training, then `convert`",
    "before or after `prepare_qat`; `convert` makes the plain int8 layer",
    sides=("layer",),
    without="Dynamo skips the layers of torch.ao",
)
def torch_ao(trial: Trial) -> None:
    import torch.ao.quantization as ao

    model = nn.Sequential(ao.QuantStub(), Network(), ao.DeQuantStub()).train()
    model.qconfig = ao.get_default_qat_qconfig("fbgemm")
    model = trial.apply(ao.prepare_qat(model), "1.stem")
    train(model)
    torch.backends.quantized.engine = "fbgemm"
    converted = ao.convert(model.eval())
    assert "quantized" in type(converted[1].stem).__module__
    assert converted(images()[0]).isfinite().all()


@case("torchao", "quantised after the training (`quantize_`)", "train, `remove_tract(model)`, `quantize_(model, ...)`")
def torchao_after(trial: Trial) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = trial.apply(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, CLASSES)), "0")
    train(model, data=rows)
    plain = remove_tract(copy.deepcopy(model))
    quantize_(plain, Int8WeightOnlyConfig())
    x, _ = rows()
    with torch.no_grad():
        assert (plain(x) - model(x)).norm() < 0.05 * model(x).norm()


@case(
    "torchao", "quantisation-aware training (`QATConfig`)", 'after `quantize_(model, QATConfig(..., step="prepare"))`'
)
def torchao_qat(trial: Trial) -> None:
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, PerGroup, quantize_
    from torchao.quantization.qat import QATConfig

    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, CLASSES))
    base = Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int4, weight_granularity=PerGroup(32))
    quantize_(model, QATConfig(base, step="prepare"))
    trial.apply(model, "0")
    train(model, data=rows)
    quantize_(remove_tract(model), QATConfig(base, step="convert"))
    with torch.no_grad():
        assert model(rows()[0]).isfinite().all()


@case(
    "peft",
    "LoRA on the first layer",
    "after `get_peft_model`, on the adapter: `...stem.lora_A.default`",
)
def peft_lora(trial: Trial) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(Network(), LoraConfig(r=4, target_modules=["stem", "head"], init_lora_weights=False))
    train(trial.apply(model, "base_model.model.stem.lora_A.default"))


@case("peft", "the first layer is trained in full (`modules_to_save`)", "after `get_peft_model`")
def peft_modules_to_save(trial: Trial) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(Network(), LoraConfig(r=4, target_modules=["head"], modules_to_save=["stem"]))
    train(trial.apply(model, "base_model.model.stem.modules_to_save.default"))
    merged = remove_tract(model).merge_and_unload()
    assert not any(isinstance(module, TrActLayer) for module in merged.modules())


@case(
    "opacus",
    "differentially private training (`make_private`): each sample with the covariance of its rows",
    "before `make_private`",
    sides=("layer",),
    without="Opacus overwrites the gradient with plain ones of every sample",
)
def opacus(trial: Trial) -> None:
    """Without noise, and with a bound on the norm that nothing reaches: the sum of the gradients of the samples."""
    from opacus import PrivacyEngine

    model = trial.apply(Network(), "stem")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, labels = images()
    data = torch.utils.data.DataLoader(list(zip(x, labels, strict=True)), batch_size=BATCH)
    if trial.side != "closed form":
        model, optimizer, data = PrivacyEngine().make_private(
            module=model,
            optimizer=optimizer,
            data_loader=data,
            noise_multiplier=0.0,
            max_grad_norm=1e9,
            poisson_sampling=False,
        )
    weight, found, plain = next(model.parameters()), [], []
    for _ in range(2):
        optimizer.zero_grad()
        # One backward pass for each sample where the closed form is computed, one for the batch with Opacus.
        for part in torch.arange(BATCH).split(1 if trial.side == "closed form" else BATCH):
            share = len(part) / BATCH
            (share * nn.functional.cross_entropy(model(x[part]), labels[part])).backward()
        optimizer.step()
        found.append(weight.grad.clone())
        plain.append(sum(trial.plain[-BATCH:]))
    trial.gradients, trial.plain = found, plain


@case("pytorch-optimizer", "SAM: two backward passes in a step", "before the first step")
def sam(trial: Trial) -> None:
    from pytorch_optimizer import SAM

    model = trial.apply(Network(), "stem")
    optimizer = SAM(list(model.parameters()), torch.optim.SGD, lr=0.1, rho=0.05)
    x, labels = images()
    for _ in range(2):
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.first_step(zero_grad=True)
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.second_step(zero_grad=True)


@case("torch-ema", "`ExponentialMovingAverage`, with its weights swapped in for the evaluation", "before or after")
def torch_ema(trial: Trial) -> None:
    from torch_ema import ExponentialMovingAverage

    model = Network()
    average = ExponentialMovingAverage(model.parameters(), decay=0.9)
    trial.apply(model, "stem")
    for _ in steps(model):
        average.update()
        with average.average_parameters(), torch.no_grad():
            model(images()[0])


@case("timm", "`ModelEmaV3`", "before or after `ModelEmaV3(model)`")
def timm_ema(trial: Trial) -> None:
    from timm.utils import ModelEmaV3

    model = Network()
    average = ModelEmaV3(model, decay=0.9)
    trial.apply(model, "stem")
    for _ in steps(model):
        average.update(model)


@case("skorch", "`NeuralNetClassifier.fit` of a scikit-learn pipeline", "on the module that is given to the classifier")
def skorch(trial: Trial) -> None:
    from skorch import NeuralNetClassifier

    model = trial.apply(Network(), "stem")
    x, labels = images()
    net = NeuralNetClassifier(
        model, criterion=nn.CrossEntropyLoss, lr=0.1, max_epochs=2, batch_size=-1, train_split=None, verbose=0
    )
    net.fit(x.numpy(), labels.numpy())


@case("pytorch-ignite", "`create_supervised_trainer`", "before the trainer is made")
def ignite(trial: Trial) -> None:
    from ignite.engine import create_supervised_trainer

    model = trial.apply(Network(), "stem")
    trainer = create_supervised_trainer(model, torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss())
    trainer.run([images()], max_epochs=2)


@case("diffusers", "`UNet2DModel` with `DDPMScheduler`: `conv_in`", "before the first step")
def diffusers(trial: Trial) -> None:
    from diffusers import DDPMScheduler, UNet2DModel

    model = UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    scheduler, generator = DDPMScheduler(), torch.Generator().manual_seed(2)
    trial.apply(model, "conv_in")
    # Adam would divide by gradients that are nothing but rounding.
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    x, _ = images(size=16)
    for _ in range(2):
        noise = torch.randn(x.shape, generator=generator)
        times = torch.randint(1000, (BATCH,), generator=generator)
        optimizer.zero_grad()
        found = model(scheduler.add_noise(x, noise, times), times).sample
        nn.functional.mse_loss(found, noise).backward()
        optimizer.step()


@case("pytorch-metric-learning", "`TripletMarginLoss` with a miner", "before the first step")
def metric_learning(trial: Trial) -> None:
    from pytorch_metric_learning.losses import TripletMarginLoss
    from pytorch_metric_learning.miners import MultiSimilarityMiner

    model = trial.apply(Network(16), "stem")
    loss, miner = TripletMarginLoss(), MultiSimilarityMiner()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, labels = images(16)
    for _ in range(2):
        optimizer.zero_grad()
        embeddings = model(x)
        loss(embeddings, labels, miner(embeddings, labels)).backward()
        optimizer.step()


@case("kornia", "augmentations as the first module of the model", "before the first step")
def kornia(trial: Trial) -> None:
    from kornia.augmentation import AugmentationSequential, RandomHorizontalFlip, RandomRotation

    model = nn.Sequential(
        AugmentationSequential(RandomHorizontalFlip(p=1.0), RandomRotation(10.0, p=1.0), data_keys=["input"]),
        Network(),
    )
    train(trial.apply(model, "1.stem", model[1]))


@case("torchvision", "`ssdlite320_mobilenet_v3_large`: detection", "before the first step")
def detection(trial: Trial) -> None:
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=CLASSES).train()
    name = next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    trial.apply(model, name, model.backbone)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x = images(2, 64)[0].clamp(0, 1)
    targets = [{"boxes": torch.tensor([[8.0, 8.0, 40.0, 48.0]]), "labels": torch.tensor([label])} for label in (1, 2)]
    for _ in range(2):
        optimizer.zero_grad()
        sum(model(list(x), targets).values()).backward()
        optimizer.step()


@case(
    "torchvision",
    "`create_feature_extractor` (`torch.fx`)",
    "before or after the extractor is made; the layer stays in it",
)
def feature_extractor(trial: Trial) -> None:
    from torchvision.models.feature_extraction import create_feature_extractor

    model = Network()
    extractor = create_feature_extractor(trial.apply(model, "stem"), ["head"])
    target: nn.Module = extractor if trial.side != "backend" else model
    optimizer = torch.optim.SGD(target.parameters(), lr=0.1)
    x, labels = images()
    for _ in range(2):
        optimizer.zero_grad()
        output = target(x)
        nn.functional.cross_entropy(output["head"] if isinstance(output, dict) else output, labels).backward()
        optimizer.step()


@case("stable-baselines3", "PPO with a policy of convolutions", "before `learn`, on the policy's features extractor")
def stable_baselines3(trial: Trial) -> None:
    import gymnasium
    import numpy
    from stable_baselines3 import PPO

    class Images(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(0, 255, (36, 36, 3), numpy.uint8)
        action_space = gymnasium.spaces.Discrete(CLASSES)

        def _observe(self) -> numpy.ndarray:
            return self.np_random.integers(0, 256, (36, 36, 3), dtype=numpy.uint8)

        def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[numpy.ndarray, dict]:
            super().reset(seed=seed if seed is not None else 3)
            return self._observe(), {}

        def step(self, action: int) -> tuple[numpy.ndarray, float, bool, bool, dict]:
            return self._observe(), float(action == 1), False, False, {}

    agent = PPO("CnnPolicy", Images(), n_steps=8, batch_size=8, n_epochs=2, seed=0, device="cpu")
    trial.apply(agent.policy, "features_extractor.cnn.0", agent.policy.features_extractor)
    agent.learn(8)


@case("fastai", "`Learner.fit`", "on the model that is given to the `Learner`")
def fastai(trial: Trial) -> None:
    from fastai.basics import DataLoaders, Learner

    model = trial.apply(Network(), "stem")
    x, labels = images()
    loader = torch.utils.data.DataLoader(list(zip(x, labels, strict=True)), batch_size=BATCH)
    with tempfile.TemporaryDirectory() as folder:
        learner = Learner(DataLoaders(loader, loader), model, loss_func=nn.CrossEntropyLoss(), path=folder)
        learner.fit(2, lr=0.01)


@case("torchrl", "`QValueActor` of convolutions with `DQNLoss`", "on the network, before the loss module is made")
def torchrl(trial: Trial) -> None:
    from tensordict import TensorDict
    from torchrl.modules import QValueActor
    from torchrl.objectives import DQNLoss

    network = trial.apply(Network(), "stem")
    actor = QValueActor(network, in_keys=["pixels"], action_space="categorical")
    loss = DQNLoss(actor, action_space="categorical", delay_value=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    x, labels = images()
    data = TensorDict(
        {
            "pixels": x,
            "action": labels,
            "next": {
                "pixels": x.flip(0),
                "reward": torch.ones(BATCH, 1),
                "done": torch.zeros(BATCH, 1, dtype=torch.bool),
                "terminated": torch.zeros(BATCH, 1, dtype=torch.bool),
            },
        },
        [BATCH],
    )
    for _ in range(2):
        optimizer.zero_grad()
        loss(data)["loss"].backward()
        optimizer.step()


INSIDE = (
    "`compile=True`, with `train` inside `as_default_backend`; `TrAct(layer)` on the model that the trainer has made"
)


@case("ultralytics", "`compile=True`: classification (YOLO11)", INSIDE)
def ultralytics_classify(trial: Trial) -> None:
    def write(folder: Path) -> Path:
        for split, number, piece in pieces_of_photographs():
            path = folder / split / f"photograph{number % 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            piece.save(path)
        return folder

    ultralytics(trial, "yolo11n-cls.yaml", write)


@case("ultralytics", "`compile=True`: detection (YOLO11)", INSIDE)
def ultralytics_detect(trial: Trial) -> None:
    def write(folder: Path) -> Path:
        for split, number, piece in pieces_of_photographs():
            images, labels = folder / "images" / split, folder / "labels" / split
            for path in (images, labels):
                path.mkdir(parents=True, exist_ok=True)
            piece.save(images / f"{number}.png")
            (labels / f"{number}.txt").write_text(f"{number % 2} 0.5 0.5 0.4 0.4\n")
        data = folder / "data.yaml"
        data.write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames: [photograph0, photograph1]\n")
        return data

    ultralytics(trial, "yolo11n.yaml", write)


def pieces_of_photographs() -> Iterator[tuple[str, int, Any]]:
    """Eight pieces for each split, from two photographs in turn."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    for split, row in (("train", 0), ("val", 200)):
        for number in range(8):
            piece = photographs[number % 2][row : row + 64, 64 * number : 64 * number + 64]
            yield split, number, Image.fromarray(piece)


def ultralytics(trial: Trial, config: str, write: Callable[[Path], Path]) -> None:
    """Two epochs of two steps, from a configuration instead of weights, without a network."""
    with tempfile.TemporaryDirectory() as name:
        os.environ.update(YOLO_OFFLINE="true", YOLO_CONFIG_DIR=name, YOLO_VERBOSE="false")
        from ultralytics import YOLO

        model = YOLO(config)

        class Trainer(model.task_map[model.task]["trainer"]):
            def setup_model(self) -> Any:
                checkpoint = super().setup_model()
                if trial.side == "backend":
                    trial.record(self.model.get_submodule("model.0.conv").weight)
                else:
                    trial.apply(self.model, "model.0.conv")
                return checkpoint

            def save_model(self) -> None:
                for module in self.ema.ema.modules():  # the hooks of the closed form cannot be pickled
                    module._forward_hooks.clear()
                    module._forward_pre_hooks.clear()
                super().save_model()

        settings: dict[str, Any] = {"epochs": 2, "batch": 4, "imgsz": 64, "workers": 0, "device": "cpu", "plots": False}
        with trial.as_default() as backend:
            compiles = trial.side == "backend"
            model.train(Trainer, data=str(write(Path(name))), compile=compiles, project=name, verbose=False, **settings)
            if backend is not None:
                assert [match.layer for match in backend.matches] == ["model.0.conv"]
                assert backend_of(model.trainer.model) is backend
