"""Everything that tract-fx raises or warns with."""

__all__ = [
    "CaptureError",
    "DisagreementError",
    "OptionError",
    "ProbeError",
    "TractError",
    "TractWarning",
    "UnknownLayerError",
    "UnsupportedLayerError",
]


class TractError(Exception):
    """Base class of the errors of this package."""


class OptionError(TractError, ValueError):
    """An argument of the backend, of a wrapped layer or of a schedule has a value that is not allowed."""


class CaptureError(TractError, RuntimeError):
    """A model that was to be explained cannot be traced."""


class DisagreementError(TractError, RuntimeError):
    """Processes that share the covariance of a layer do not do the same; the message names their ranks."""


class ProbeError(TractError, RuntimeError):
    """A model and a loader that were to be probed cannot be."""


class UnknownLayerError(TractError, LookupError):
    """A name in ``layers`` is neither a module nor a parameter of the model."""


class UnsupportedLayerError(TractError, RuntimeError):
    """A layer that should be rewritten cannot be, and would otherwise train with its plain gradient."""


class TractWarning(UserWarning):
    """Training goes on, but not (or not everywhere) with TrAct."""
