"""TrAct as a ``torch.compile`` backend: the first layer trains on its pre-activations.

>>> import torch, tract_fx
>>> model = torch.compile(model, backend=tract_fx.tract_backend(lam=0.1))  # doctest: +SKIP
"""

from pathlib import Path as _Path

# `passes/` is installed as `tract_fx.passes` but stands beside this folder in the repository. In a checkout that is not
# installed, or shadows an installed package, or is installed in setuptools' compat mode, it is found here.
_here = _Path(__file__).parent
if not (_here / "passes").is_dir() and (_here.parent / "passes").is_dir():
    __path__.append(str(_here.parent))

from tract_fx.backend import TractBackend, tract_backend  # noqa: E402
from tract_fx.errors import (  # noqa: E402
    OptionError,
    TractError,
    TractWarning,
    UnknownLayerError,
    UnsupportedLayerError,
)
from tract_fx.options import TractOptions  # noqa: E402
from tract_fx.records import LayerMatch, LayerRejection  # noqa: E402

__all__ = [
    "LayerMatch",
    "LayerRejection",
    "OptionError",
    "TractBackend",
    "TractError",
    "TractOptions",
    "TractWarning",
    "UnknownLayerError",
    "UnsupportedLayerError",
    "tract_backend",
]
