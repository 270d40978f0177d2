"""What a person at the command line can put right: every message is a sentence that names the argument to change."""

from tract_fx.errors import TractError

__all__ = [
    "CheckpointError",
    "CompareError",
    "DemoError",
    "ImageError",
    "JournalError",
    "ModelError",
    "OutputError",
    "ToolError",
]


class ToolError(TractError, ValueError):
    """Base class; the command line prints the message without a traceback."""


class CheckpointError(ToolError):
    """A file with weights cannot be read, or does not fit the model."""


class CompareError(ToolError):
    """A comparison cannot be made with these settings."""


class DemoError(ToolError):
    """The demo cannot run with these settings."""


class ImageError(ToolError):
    """A folder or an archive holds no images that can be used."""


class JournalError(ToolError):
    """A file holds another run than the one that is asked for."""


class ModelError(ToolError):
    """A model that was asked for by name cannot be made."""


class OutputError(ToolError):
    """A file or folder for results cannot be written."""
