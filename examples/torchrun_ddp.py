# pip install ".[examples]" && torchrun --nproc-per-node 2 examples/torchrun_ddp.py --data FOLDER
"""`DistributedDataParallel` under `torchrun`: `"process_group": "ddp"` shares the covariance among the processes.

The gradients are then those of one process with the whole batch.
"""

from __future__ import annotations

import os

import torch
from common import Net, parser, training_images
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler


def main(arguments: list[str] | None = None) -> torch.nn.Module:
    """Train, and return the model."""
    args = parser(__doc__).parse_args(arguments)
    distributed.init_process_group()
    rank = distributed.get_rank()
    device = torch.device("cpu")
    if torch.accelerator.is_available():
        torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))
        device = torch.accelerator.current_accelerator()
    data, channels, classes = training_images(args.data, args.image_size)

    torch.manual_seed(0)
    net = Net(channels, classes).to(device)
    model = torch.compile(
        DistributedDataParallel(net), backend="tract", options={"lam": args.lam, "process_group": "ddp"}
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    sampler = DistributedSampler(data)
    loader = DataLoader(data, args.batch, sampler=sampler, drop_last=True)

    step, checkpoint = 0, args.out / "last.pt"
    if args.resume:
        state = torch.load(checkpoint, map_location=device)
        net.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    while step < args.steps:
        sampler.set_epoch(step)
        for images, labels in loader:
            loss = torch.nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step >= args.steps:
                break
    if rank == 0:
        print(f"step {step}: loss {loss.item():.3f}")
        args.out.mkdir(parents=True, exist_ok=True)
        torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, checkpoint)
    distributed.barrier()  # the checkpoint is there
    distributed.destroy_process_group()
    return net


if __name__ == "__main__":
    main()
