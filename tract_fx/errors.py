"""The exceptions and the warning of tract-fx."""

__all__ = [
    "CaptureError",
    "DisagreementError",
    "OptionError",
    "ProbeError",
    "TractError",
    "TractWarning",
    "UnknownLayerError",
    "UnsupportedLayerError",
    "UnsupportedTorchError",
]


class TractError(Exception):
    """Base class of the exceptions of this package."""


class OptionError(TractError, ValueError):
    """An argument of the backend, of a wrapped layer or of a schedule has a value that is not allowed."""


class CaptureError(TractError, RuntimeError):
    """``explain`` cannot trace the model; the message gives the reason."""


class DisagreementError(TractError, RuntimeError):
    """Processes that share the covariance of a layer differ in what they do; the message names their ranks.

    It is also raised when the key-value store through which they agree cannot be reached.
    """


class ProbeError(TractError, RuntimeError):
    """``probe`` cannot run the model on the batches of the loader; the message gives the reason."""


class UnknownLayerError(TractError, LookupError):
    """A name in ``layers`` is neither a module nor a parameter of the model."""


class UnsupportedLayerError(TractError, RuntimeError):
    """A layer that should be rewritten cannot be, and would train with its plain gradient.

    The message names the layer, the reason and what to do.
    """


class UnsupportedTorchError(TractError, ImportError):
    """The installed PyTorch lacks a private name that tract-fx uses, or has it with another signature.

    The message names the release that was found, those that are supported, and what is missing.
    """


class TractWarning(UserWarning):
    """Training continues, but some or all first layers train without TrAct, or with another covariance than expected."""
