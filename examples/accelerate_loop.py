# pip install ".[examples]" && accelerate launch examples/accelerate_loop.py --data FOLDER
"""Accelerate: the model is compiled before `prepare`, which leaves a compiled model alone.

`Accelerator(dynamo_backend="tract")` and `accelerate launch --dynamo_backend tract` are not possible: Accelerate has a
fixed list of backends. With several processes, `"process_group": "ddp"` shares the covariance among them.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from common import Net, parser, training_images
from torch.utils.data import DataLoader


def main(arguments: list[str] | None = None) -> torch.nn.Module:
    """Train, and return the model."""
    args = parser(__doc__).parse_args(arguments)
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), step_scheduler_with_optimizer=False)
    data, channels, classes = training_images(args.data, args.image_size)

    net = Net(channels, classes)
    net.compile(backend="tract", options={"lam": args.lam, "process_group": "ddp"})
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    loader = DataLoader(data, args.batch, shuffle=True, drop_last=True)
    model, optimizer, loader = accelerator.prepare(net, optimizer, loader)

    progress = Progress()
    accelerator.register_for_checkpointing(progress)
    if args.resume:
        accelerator.load_state(args.out)
    while progress.steps < args.steps:
        for images, labels in loader:
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            progress.steps += 1
            if progress.steps >= args.steps:
                break
    accelerator.print(f"step {progress.steps}: loss {loss.item():.3f}")
    accelerator.save_state(args.out)
    accelerator.end_training()
    return net


class Progress:
    """Number of steps that are done; a checkpoint keeps it."""

    steps = 0

    def state_dict(self) -> dict[str, int]:
        """For the checkpoint."""
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """From the checkpoint."""
        self.steps = state["steps"]


if __name__ == "__main__":
    main()
