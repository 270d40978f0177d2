"""TrAct as a ``torch.compile`` backend: the first layer trains on its pre-activations.

>>> import torch, tract_fx
>>> model = torch.compile(model, backend=tract_fx.tract_backend(lam=0.1))  # doctest: +SKIP
"""

import sys as _sys
from importlib import import_module as _import_module
from importlib.util import module_from_spec as _module_from_spec
from importlib.util import spec_from_file_location as _spec_from_file_location
from pathlib import Path as _Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tract_fx.backend import TractBackend, tract_backend
    from tract_fx.default_backend import as_default_backend
    from tract_fx.eager.layers import TrAct, TrActLayer, apply_tract, remove_tract
    from tract_fx.errors import (
        CaptureError,
        DisagreementError,
        OptionError,
        ProbeError,
        TractError,
        TractWarning,
        UnknownLayerError,
        UnsupportedLayerError,
        UnsupportedTorchError,
    )
    from tract_fx.inspect.explanation import Explanation, explain
    from tract_fx.lookup import BackendGroup, backend_of
    from tract_fx.options import TractOptions
    from tract_fx.probing.probes import Concern, ConcernKind, LayerProbe, Probe
    from tract_fx.probing.session import probe
    from tract_fx.records import LayerMatch, LayerRejection
    from tract_fx.schedules import CosineLam, LamScheduler

__all__ = [
    "BackendGroup",
    "CaptureError",
    "Concern",
    "ConcernKind",
    "CosineLam",
    "DisagreementError",
    "Explanation",
    "LamScheduler",
    "LayerMatch",
    "LayerProbe",
    "LayerRejection",
    "OptionError",
    "Probe",
    "ProbeError",
    "TrAct",
    "TrActLayer",
    "TractBackend",
    "TractError",
    "TractOptions",
    "TractWarning",
    "UnknownLayerError",
    "UnsupportedLayerError",
    "UnsupportedTorchError",
    "apply_tract",
    "as_default_backend",
    "backend_of",
    "explain",
    "probe",
    "remove_tract",
    "tract_backend",
]


def _load_passes(folder: _Path) -> None:
    """Make ``folder`` the package ``tract_fx.passes``.

    Adding its parent to ``__path__`` would do the same in one line, but the parent also holds this package, and then
    whoever walks through the modules of ``tract_fx`` (PyTorch does, for ``TORCH_LOGS``) never comes to an end.
    """
    spec = _spec_from_file_location(
        f"{__name__}.passes", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = _module_from_spec(spec)
    _sys.modules[spec.name] = globals()["passes"] = module
    spec.loader.exec_module(module)


# `passes/` is installed as `tract_fx.passes` but stands beside this folder in the repository. In a checkout that is not
# installed, or shadows an installed package, or is installed in setuptools' compat mode, it is found here.
_here = _Path(__file__).parent
if not (_here / "passes").is_dir() and (_here.parent / "passes").is_dir():
    _load_passes(_here.parent / "passes")

_HOME = {
    "backend": ("TractBackend", "tract_backend"),
    "default_backend": ("as_default_backend",),
    "eager.layers": ("TrAct", "TrActLayer", "apply_tract", "remove_tract"),
    "errors": (
        "CaptureError",
        "DisagreementError",
        "OptionError",
        "ProbeError",
        "TractError",
        "TractWarning",
        "UnknownLayerError",
        "UnsupportedLayerError",
        "UnsupportedTorchError",
    ),
    "inspect.explanation": ("Explanation", "explain"),
    "lookup": ("BackendGroup", "backend_of"),
    "options": ("TractOptions",),
    "probing.probes": ("Concern", "ConcernKind", "LayerProbe", "Probe"),
    "probing.session": ("probe",),
    "records": ("LayerMatch", "LayerRejection"),
    "schedules": ("CosineLam", "LamScheduler"),
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: ``tract-fx --help`` must not wait for torch."""
    for module, names in _HOME.items():
        if name in names:
            return getattr(_import_module(f"tract_fx.{module}"), name)
    raise AttributeError(f"module 'tract_fx' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
