"""Everything that tract-fx raises or warns with."""

__all__ = [
    "CaptureError",
    "OptionError",
    "TractError",
    "TractWarning",
    "UnknownLayerError",
    "UnsupportedLayerError",
]


class TractError(Exception):
    """Base class of the errors of this package."""


class OptionError(TractError, ValueError):
    """An argument of the backend has a value that is not allowed."""


class CaptureError(TractError, RuntimeError):
    """A model that was to be explained cannot be traced."""


class UnknownLayerError(TractError, LookupError):
    """A name in ``layers`` is neither a module nor a parameter of the compiled model."""


class UnsupportedLayerError(TractError, RuntimeError):
    """A layer that should be rewritten cannot be, and would otherwise train with its plain gradient."""


class TractWarning(UserWarning):
    """Training goes on, but not (or not everywhere) with TrAct."""
