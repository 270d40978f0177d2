"""A module around a layer, for models that are compiled in parts, and the warnings of training them."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

from torch import Tensor, nn

from tract_fx import TractWarning


class Part(nn.Module):
    """Calls a layer from a frame of its own, which Dynamo does not skip."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@contextlib.contextmanager
def tract_warnings() -> Iterator[list[str]]:
    """The messages of this package's warnings, which are in the list when the block has ended."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TractWarning)
        yield messages
    messages += [str(item.message) for item in caught if issubclass(item.category, TractWarning)]
