"""The error of this package."""

from tract_fx.errors import TractError

__all__ = ["ModelError"]


class ModelError(TractError, ValueError):
    """A model that was asked for by name cannot be made; the message is a sentence for the person who typed the name."""
