"""The two runs of one network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tract_fx.tools.demo.training import Run


@dataclass(frozen=True)
class Pair:
    """Both sides of one network, from the same initial weights.

    Attributes:
        initial_filters: float32 `(filters, channels, height, width)`, first-layer weight before training.
        runs: the run of each side.
        matches: the layers that TrAct rewrote, each as a dictionary.
    """

    initial_filters: Tensor
    runs: Mapping[str, Run]
    matches: tuple[dict[str, Any], ...]
