"""The same experiments at three sizes: networks, images, budgets, precision. The first two are for a CPU."""

from __future__ import annotations

import dataclasses

from benchmarks.convergence import networks
from benchmarks.convergence.networks import Builder

__all__ = ["SIZES", "Size"]


@dataclasses.dataclass(frozen=True)
class Size:
    """How large everything is.

    Attributes:
        name: of the folder of results.
        networks: what ``"resnet"`` and ``"vit"`` are, and variants of the latter.
        titles: what they are called in tables.
        rates: peak learning rates by network and optimiser, chosen for plain training (experiment ``rates``).
        budgets: epochs of the three budgets, 1 : 2 : 4.
        late: epochs of the experiment on what happens late in a training.
        train, test: images; 0 for all.
        batch: images in a step.
        bfloat16: autocast to bfloat16.
        channels_last: memory format of networks and images.
        lams: values of the experiment on ``lam``.
        widths: factors on the networks' widths there.
    """

    name: str
    networks: dict[str, Builder]
    titles: dict[str, str]
    rates: dict[tuple[str, str], float]
    budgets: tuple[int, int, int]
    late: int
    train: int
    test: int
    batch: int
    bfloat16: bool
    channels_last: bool
    lams: tuple[float, ...] = (0.00625, 0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
    widths: tuple[float, ...] = (0.5, 2.0)

    def peak_rate(self, network: str, optimizer: str) -> float:
        """Of a network; a variant takes that of the network itself, one without a rate of its own that of the ResNet."""
        return self.rates.get((network.partition("-")[0], optimizer), self.rates["resnet", optimizer])


SMALL = Size(
    name="small",
    networks={
        "resnet": networks.small_resnet,
        "vit": networks.small_vit,
        "vit-coarse": networks.coarse_vit,
        "vit-deep": networks.deep_vit,
    },
    titles={
        "resnet": "small ResNet",
        "vit": "small ViT",
        "vit-coarse": "small ViT, patches of 8x8",
        "vit-deep": "small ViT, 7 layers",
    },
    rates={("resnet", "sgd"): 0.1, ("resnet", "adam"): 4e-3, ("vit", "adam"): 2e-3},
    budgets=(3, 6, 12),
    late=20,
    train=10_000,
    test=5_000,
    batch=128,
    bfloat16=False,
    channels_last=True,
)

SIZES = {
    "small": SMALL,
    "medium": dataclasses.replace(
        SMALL,
        name="medium",
        titles={"resnet": "small ResNet, all images", "vit": "small ViT, all images"},
        budgets=(10, 20, 40),
        late=20,
        train=0,
        test=0,
    ),
    "full": Size(
        name="full",
        networks={"resnet": networks.resnet18, "vit": networks.vit},
        titles={"resnet": "ResNet-18", "vit": "ViT"},
        rates={("resnet", "sgd"): 0.1, ("resnet", "adam"): 1e-3, ("vit", "adam"): 1e-3},
        budgets=(25, 50, 100),
        late=100,
        train=0,
        test=0,
        batch=128,
        bfloat16=True,
        channels_last=True,
    ),
}
