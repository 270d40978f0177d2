"""What does the shared covariance cost, up to 4,096 GPUs? A model, and a measurement of its form.

    python -m benchmarks.scaling                                    # the table of docs/results/scaling.md
    python -m benchmarks.scaling --measure benchmarks/results/scaling.jsonl

An all-reduce of ``b`` bytes over ``N`` ranks takes, with a latency ``alpha`` for a message and a bandwidth ``beta``,

    ring:  2 (N - 1) alpha + 2 (N - 1) / N * b / beta
    tree:  2 log2(N) alpha + 2 b / beta

and the library takes the faster one. ``alpha`` and ``beta`` are arguments: the defaults are assumptions about a cluster,
not measurements. ``--measure`` times gloo's all-reduce between processes of this machine, fits both numbers to the
median times, and tells how far the fit is off.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

from tract_fx.distributed.covariance import SUMMED
from tract_fx.environment import environment

RANKS = (8, 64, 512, 4096)
# Assumptions: 10 microseconds for a message, 25 GB/s for each GPU (a 200 Gbit/s link).
ALPHA, BETA = 10e-6, 25e9
SIZES = tuple(8 * 4**power for power in range(0, 11))


@dataclasses.dataclass(frozen=True)
class Network:
    """What is sent in a step: one sum for the first layer, and all gradients in float32."""

    name: str
    parameters: int
    features: int
    groups: int = 1

    @property
    def covariance_bytes(self) -> int:
        """Gram matrices in float64, and the numbers beside them."""
        return 8 * (self.groups * self.features**2 + SUMMED)

    @property
    def gradient_bytes(self) -> int:
        """Gradients as DDP sends them."""
        return 4 * self.parameters


def networks() -> list[Network]:
    """Parameters counted on the models themselves."""
    from torchvision import models

    with torch.device("meta"):
        made = {"ResNet-50": models.resnet50(), "ViT-B/16": models.vit_b_16()}
    first = {"ResNet-50": made["ResNet-50"].conv1, "ViT-B/16": made["ViT-B/16"].conv_proj}
    return [
        Network(name, sum(item.numel() for item in model.parameters()), first[name].weight[0].numel())
        for name, model in made.items()
    ]


def ring(size: int, ranks: int, alpha: float, beta: float) -> float:
    """Seconds of a ring all-reduce of ``size`` bytes."""
    return 2 * (ranks - 1) * alpha + 2 * (ranks - 1) / ranks * size / beta


def tree(size: int, ranks: int, alpha: float, beta: float) -> float:
    """Seconds of a double-tree all-reduce of ``size`` bytes."""
    return 2 * math.log2(ranks) * alpha + 2 * size / beta


def seconds(size: int, ranks: int, alpha: float = ALPHA, beta: float = BETA) -> float:
    """Seconds of the faster of the two."""
    return 0.0 if ranks == 1 else min(ring(size, ranks, alpha, beta), tree(size, ranks, alpha, beta))


def table(alpha: float, beta: float) -> str:
    """Both networks on each number of GPUs, as Markdown."""
    lines = [
        "| network | GPUs | covariance | gradients | all-reduce of the covariance | of the gradients | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for network in networks():
        for ranks in RANKS:
            own, engine = (
                seconds(size, ranks, alpha, beta) for size in (network.covariance_bytes, network.gradient_bytes)
            )
            sizes = f"{network.covariance_bytes / 1e6:.2f} MB | {network.gradient_bytes / 1e6:.0f} MB"
            lines.append(
                f"| {network.name}, n = {network.features} | {ranks:,} | {sizes} | {1e3 * own:.2f} ms | "
                f"{1e3 * engine:.1f} ms | {own / engine:.1%} |"
            )
    return "\n".join(lines) + "\n"


def measure(ranks: int, repeats: int) -> dict[str, Any]:
    """Median seconds of gloo's all-reduce between processes of this machine, and the fitted numbers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    processes = [
        context.Process(target=_time, args=(rank, ranks, port, repeats, queue if rank == 0 else None))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    times = queue.get()
    for process in processes:
        process.join()
    alpha, beta = fit(SIZES, times, ranks)
    errors = [ring(size, ranks, alpha, beta) / found - 1 for size, found in zip(SIZES, times, strict=True)]
    return {
        "ranks": ranks,
        "sizes": SIZES,
        "seconds": times,
        "alpha": alpha,
        "beta": beta,
        "largest_relative_error": max(map(abs, errors)),
        "repeats": repeats,
        **environment(),
    }


def _time(rank: int, ranks: int, port: int, repeats: int, queue: Any) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    medians = []
    for size in SIZES:
        data, spent = torch.zeros(size // 8, dtype=torch.float64), []
        for _ in range(repeats + 3):
            distributed.barrier()
            start = time.perf_counter()
            distributed.all_reduce(data)
            spent.append(time.perf_counter() - start)
        medians.append(statistics.median(spent[3:]))
    if queue is not None:
        queue.put(medians)
    distributed.barrier()
    distributed.destroy_process_group()


def fit(sizes: Sequence[int], times: Sequence[float], ranks: int) -> tuple[float, float]:
    """``alpha`` and ``beta`` of a ring that minimise relative squared errors."""
    rows = torch.tensor([[2.0 * (ranks - 1), 2 * (ranks - 1) / ranks * size] for size in sizes], dtype=torch.float64)
    weights = 1 / torch.tensor(times, dtype=torch.float64)
    found = torch.linalg.lstsq(rows * weights[:, None], torch.ones(len(times), 1, dtype=torch.float64)).solution
    return found[0].item(), 1 / found[1].item()


def main() -> None:
    """Print the table, or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alpha", type=float, default=ALPHA, help="seconds for a message")
    parser.add_argument("--beta", type=float, default=BETA, help="bytes a second")
    parser.add_argument("--measure", type=Path, metavar="FILE", help="time gloo here, and write JSON lines")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4], help="for --measure")
    parser.add_argument("--repeats", type=int, default=30, help="for --measure")
    arguments = parser.parse_args()
    if arguments.measure is None:
        sys.stdout.write(table(arguments.alpha, arguments.beta))
        return
    results = [measure(ranks, arguments.repeats) for ranks in arguments.ranks]
    arguments.measure.write_text("".join(json.dumps(result) + "\n" for result in results))
    for result in results:
        sys.stdout.write(
            f"{result['ranks']} processes: alpha {1e6 * result['alpha']:.0f} us, beta {result['beta'] / 1e9:.2f} GB/s, "
            f"largest relative error {result['largest_relative_error']:.0%}\n"
        )
        for size, found in zip(result["sizes"], result["seconds"], strict=True):
            fitted = ring(size, result["ranks"], result["alpha"], result["beta"])
            sys.stdout.write(f"  {size:>9} bytes: {1e6 * found:8.0f} us, fitted {1e6 * fitted:8.0f} us\n")


if __name__ == "__main__":
    main()
