"""Models of which docs/guide/odd-loss.md says why nothing is rewritten; ``python -m benchmarks.tutorial_models`` trains."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tract_fx import tract_backend


class Skipped(nn.Module):
    """Its first layer stands in code that Dynamo is told to leave alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images."""
        return self.head(self.features(x).mean((2, 3)))

    @torch.compiler.disable
    def features(self, x: Tensor) -> Tensor:
        """What Dynamo does not see."""
        return self.stem(x).relu()


def skipped() -> tuple[nn.Module, tuple[Tensor]]:
    """A model and its inputs."""
    return Skipped(), (torch.randn(32, 3, 32, 32),)


def unsupported() -> tuple[nn.Module, tuple[Tensor]]:
    """A model and its inputs."""
    return nn.Bilinear(64, 16, 10), (torch.randn(32, 64), torch.randn(32, 16))


def main() -> None:
    """Three training steps, the last with a smaller batch, and one evaluation."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    compiled = torch.compile(model, backend=tract_backend(lam=0.1, inner="aot_eager"))
    for batch in (32, 32, 20):
        loss = nn.functional.cross_entropy(compiled(torch.randn(batch, 3, 32, 32)), torch.randint(10, (batch,)))
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        compiled(torch.randn(32, 3, 32, 32))


if __name__ == "__main__":
    main()
