# pip install ".[examples]" && python examples/lightning_module.py --data FOLDER
"""Lightning: the whole `LightningModule` is compiled, its `training_step` included."""

from __future__ import annotations

import torch
from common import Net, parser, training_images
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader


class Classifier(LightningModule):
    """A network, its loss and its optimiser."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.net = Net(channels, classes)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch."""
        images, labels = batch
        loss = torch.nn.functional.cross_entropy(self.net(images), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with momentum."""
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def main(arguments: list[str] | None = None) -> torch.nn.Module:
    """Train, and return the network."""
    args = parser(__doc__).parse_args(arguments)
    data, channels, classes = training_images(args.data, args.image_size)

    module = Classifier(channels, classes)
    compiled = torch.compile(module, backend="tract", options={"lam": args.lam})

    trainer = Trainer(max_steps=args.steps, logger=False, enable_checkpointing=False, default_root_dir=args.out)
    checkpoint = args.out / "last.ckpt"
    loader = DataLoader(data, args.batch, shuffle=True, drop_last=True)
    trainer.fit(compiled, loader, ckpt_path=checkpoint if args.resume else None)
    trainer.save_checkpoint(checkpoint)
    return module.net


if __name__ == "__main__":
    main()
