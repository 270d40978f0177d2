"""TrAct as a ``torch.compile`` backend: the first layer trains on its pre-activations.

>>> import torch, tract_fx
>>> model = torch.compile(model, backend=tract_fx.tract_backend(lam=0.1))  # doctest: +SKIP
"""

from importlib import import_module as _import_module
from pathlib import Path as _Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tract_fx.backend import TractBackend, tract_backend
    from tract_fx.errors import (
        CaptureError,
        OptionError,
        ProbeError,
        TractError,
        TractWarning,
        UnknownLayerError,
        UnsupportedLayerError,
    )
    from tract_fx.inspect import Explanation, explain
    from tract_fx.options import TractOptions
    from tract_fx.probing.probes import Concern, ConcernKind, LayerProbe, Probe
    from tract_fx.probing.session import probe
    from tract_fx.records import LayerMatch, LayerRejection

__all__ = [
    "CaptureError",
    "Concern",
    "ConcernKind",
    "Explanation",
    "LayerMatch",
    "LayerProbe",
    "LayerRejection",
    "OptionError",
    "Probe",
    "ProbeError",
    "TractBackend",
    "TractError",
    "TractOptions",
    "TractWarning",
    "UnknownLayerError",
    "UnsupportedLayerError",
    "explain",
    "probe",
    "tract_backend",
]

# `passes/` is installed as `tract_fx.passes` but stands beside this folder in the repository. In a checkout that is not
# installed, or shadows an installed package, or is installed in setuptools' compat mode, it is found here.
_here = _Path(__file__).parent
if not (_here / "passes").is_dir() and (_here.parent / "passes").is_dir():
    __path__.append(str(_here.parent))

_HOME = {
    "backend": ("TractBackend", "tract_backend"),
    "errors": (
        "CaptureError",
        "OptionError",
        "ProbeError",
        "TractError",
        "TractWarning",
        "UnknownLayerError",
        "UnsupportedLayerError",
    ),
    "inspect": ("Explanation", "explain"),
    "options": ("TractOptions",),
    "probing.probes": ("Concern", "ConcernKind", "LayerProbe", "Probe"),
    "probing.session": ("probe",),
    "records": ("LayerMatch", "LayerRejection"),
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: ``tract-fx --help`` must not wait for torch."""
    for module, names in _HOME.items():
        if name in names:
            return getattr(_import_module(f"tract_fx.{module}"), name)
    raise AttributeError(f"module 'tract_fx' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
