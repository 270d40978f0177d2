"""What a person at the command line can put right: every message is a sentence that names the argument to change."""

from tract_fx.errors import TractError

__all__ = ["DemoError", "ImageError", "ModelError", "OutputError", "ToolError"]


class ToolError(TractError, ValueError):
    """Base class; the command line prints the message without a traceback."""


class DemoError(ToolError):
    """The demo cannot run with these settings."""


class ImageError(ToolError):
    """A folder or an archive holds no images that can be used."""


class ModelError(ToolError):
    """A model that was asked for by name cannot be made."""


class OutputError(ToolError):
    """A file or folder for results cannot be written."""
