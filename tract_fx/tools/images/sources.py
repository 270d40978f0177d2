"""Where image files come from: a folder or a tar archive, read in place, and what their paths say.

Archives are streamed member by member and never extracted, so a hostile path inside one has no effect.
"""

import lzma
import os
import tarfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from tract_fx.tools.errors import ImageError

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
TRAIN_FOLDER = "train"
TEST_FOLDERS = ("test", "val", "valid", "validation")
BROKEN_ARCHIVE = (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError)


class ImageSource(Protocol):
    """Files by name, names relative to the source with forward slashes."""

    def names(self) -> list[str]:
        """Names of all regular files."""

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Contents of the wanted files, in whatever order reading them is cheapest."""


@dataclass(frozen=True)
class FolderSource:
    """A folder on disk."""

    path: Path

    def names(self) -> list[str]:
        """Names of all regular files; symbolic links to folders are not followed."""
        files = (Path(folder, name) for folder, _, names in os.walk(self.path) for name in names)
        return [file.relative_to(self.path).as_posix() for file in files]

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Contents of the wanted files; one that cannot be opened reads as empty, so it is counted as broken."""
        for name in wanted:
            try:
                yield name, (self.path / name).read_bytes()
            except OSError:
                yield name, b""


@dataclass(frozen=True)
class ArchiveSource:
    """A tar archive, compressed or not."""

    path: Path

    def names(self) -> list[str]:
        """Names of all regular members.

        Raises:
            ImageError: if the archive cannot be read to its end.
        """
        return [member.name for _, member in self._members()]

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Contents of the wanted members, in archive order: seeking back would decompress from the start.

        Raises:
            ImageError: if the archive cannot be read to its end.
        """
        chosen = set(wanted)
        for archive, member in self._members():
            if member.name in chosen:
                content = archive.extractfile(member)
                assert content is not None  # a regular member
                yield member.name, content.read()

    def _members(self) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
        try:
            with tarfile.open(self.path, "r:*") as archive:
                yield from ((archive, member) for member in archive if member.isreg())
        except BROKEN_ARCHIVE as error:
            raise ImageError(f"--data {self.path}: not a readable tar archive ({error})") from error


def open_source(path: Path) -> ImageSource:
    """The source at `path`: a folder, or a file that should be a tar archive.

    Raises:
        ImageError: if there is nothing at `path`.
    """
    if path.is_dir():
        return FolderSource(path)
    if path.is_file():
        return ArchiveSource(path)
    raise ImageError(f"--data {path}: no such folder or archive")


@dataclass(frozen=True)
class Entry:
    """One image file: its name in the source, its class, and whether it is a test image (None: not said)."""

    name: str
    label: str
    is_test: bool | None


def layout(names: Sequence[str]) -> list[Entry]:
    """Read classes and the split from the paths, sorted by name.

    Understood are `<class>/...` and `train/<class>/...` with `test/<class>/...` or `val/<class>/...` beside it,
    either below any number of common folders. Files outside a class folder and hidden files are left out.
    Without a test folder of class folders the split is left open.
    """
    paths = {name: PurePosixPath(name).parts for name in sorted(names) if _is_image(name)}
    paths = {name: parts for name, parts in paths.items() if len(parts) > 1}
    while paths and len({parts[0] for parts in paths.values()}) == 1 and min(map(len, paths.values())) > 2:
        paths = {name: parts[1:] for name, parts in paths.items()}
    return _with_split(paths) or [Entry(name, parts[0], None) for name, parts in paths.items()]


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def _with_split(paths: dict[str, tuple[str, ...]]) -> list[Entry]:
    folders = {parts[0].lower() for parts in paths.values() if len(parts) > 2}
    if TRAIN_FOLDER not in folders:
        return []
    test = next((folder for folder in TEST_FOLDERS if folder in folders), None)
    return [
        Entry(name, parts[1], parts[0].lower() == test if test else None)
        for name, parts in paths.items()
        if len(parts) > 2 and parts[0].lower() in (TRAIN_FOLDER, test)
    ]
