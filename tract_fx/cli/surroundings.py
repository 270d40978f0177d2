"""What a command finds around it: a standard output, and a folder for compiled code. Nothing here imports torch."""

import contextlib
import os
import sys
import tempfile
from pathlib import Path

from tract_fx.cli.arguments import UsageError

__all__ = ["abandon_output", "check_cache_folder", "make_printable", "output_error"]

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def check_cache_folder() -> None:
    """Complain about a cache folder that cannot be used: PyTorch makes it when it is imported.

    Raises:
        UsageError: naming the folder, the variable that sets it, and the reason.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    try:
        folder = Path(tempfile.gettempdir() if chosen is None else chosen)
        if chosen is not None:
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        what = "the folder for temporary files" if chosen is None else f"{CACHE_VARIABLE}={chosen}"
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"{what} cannot be used ({reason}); PyTorch keeps compiled code there: set {CACHE_VARIABLE} to a folder that "
            "can be written"
        ) from error


def make_printable() -> None:
    """Let characters that the encoding of standard output lacks be printed as question marks."""
    if sys.stdout is None:  # closed by whoever started the command
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - lives as long as the process
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None and sys.stdout.errors == "strict":
        reconfigure(errors="replace")


def output_error() -> str | None:
    """Why standard output cannot be written; None if it can be."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


def abandon_output() -> None:
    """Let what is still buffered go nowhere: the interpreter would try to write it again at its end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
