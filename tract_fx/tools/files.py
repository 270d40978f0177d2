"""Files with results: checked before the work, written beside their place and moved there.

No failure leaves half a file or destroys an old one. A device or a pipe (``/dev/stdout``) is written into, never replaced.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tract_fx.tools.errors import OutputError

__all__ = ["check_file", "check_folder", "replacing", "staged", "write_json", "write_record"]


def check_file(path: Path) -> None:
    """Find out whether :func:`replacing` will be able to write ``path``, and leave everything as it is.

    Raises:
        OutputError: with the path and the reason.
    """
    with _explained(path):
        if _is_stream(path):
            return
        if path.exists() and not os.access(path, os.W_OK):
            raise OutputError(f"{path}: cannot be written (the file is read-only)")
        target = path.resolve()
        if not target.parent.is_dir():
            raise OutputError(f"{path}: cannot be written ({path.parent} is no folder)")
        _try_writing(target.parent)


def check_folder(folder: Path, names: Iterable[str] = ()) -> None:
    """Make a folder, unless it is there, and find out whether files of these names can be written into it.

    Raises:
        OutputError: with the path and the reason.
    """
    with _explained(folder):
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder}: is no folder")
        folder.mkdir(parents=True, exist_ok=True)
        _try_writing(folder)
    for name in names:
        check_file(folder / name)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write instead of ``path``; when the block ends without an error, what is there becomes ``path``.

    Raises:
        OutputError: with the path and the reason.
    """
    with _explained(path):
        if _is_stream(path):
            with tempfile.TemporaryDirectory(prefix="tract-fx-") as folder:
                part = Path(folder, f"part{path.suffix}")
                yield part
                _write_into(path, part.read_bytes())
            return
        target = path.resolve()  # a link stays one
        part = target.parent / f".tract-fx-{secrets.token_hex(8)}{target.suffix}"
        try:
            yield part
            if target.exists():
                part.chmod(stat.S_IMODE(target.stat().st_mode))
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write what a command found, as :func:`replacing` does.

    Raises:
        OutputError: with the path and the reason.
    """
    with replacing(path) as part:
        part.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """An empty folder to write into; when the block ends without an error, its files are moved to ``folder``.

    Raises:
        OutputError: with the path and the reason.
    """
    with _explained(folder), tempfile.TemporaryDirectory(prefix=".tract-fx-", dir=folder) as name:
        yield Path(name)
        for part in sorted(Path(name).iterdir()):
            with _explained(folder / part.name):
                part.replace(folder / part.name)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{_shortened(path)}: cannot be written ({error.strerror or error})") from error


def _shortened(path: Path) -> str:
    """The path, without the middle of one that no file system takes."""
    text = str(path)
    return text if len(text) <= 200 else f"{text[:90]}...{text[-90:]}"


def _is_stream(path: Path) -> bool:
    """Whether there is a device or a pipe at a path; what else is neither a file nor absent is refused."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)):
        raise OutputError(f"{path}: cannot be written (it is {'a folder' if stat.S_ISDIR(mode) else 'no file'})")
    return not stat.S_ISREG(mode)


def _try_writing(folder: Path) -> None:
    with tempfile.NamedTemporaryFile(prefix=".tract-fx-", dir=folder) as file:
        file.write(b"x")
        file.flush()


def _write_into(path: Path, content: bytes) -> None:
    # A pipe that nobody reads would be waited for without end; opened like this it is an error.
    descriptor = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "wb", buffering=0) as stream:  # noqa: PTH123 - a descriptor
        os.set_blocking(descriptor, True)
        while content:
            content = content[stream.write(content) :]


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record to a path of :func:`replacing`, with null for infinities and NaN, which JSON lacks."""
    path.write_text(json.dumps(_finite(record), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
