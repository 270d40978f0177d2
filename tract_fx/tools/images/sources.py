"""Where image files come from: a folder or a tar archive, read in place, and what their paths say.

Archives are streamed member by member and never extracted, so a hostile path inside one has no effect.
"""

import lzma
import os
import stat
import tarfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

from tract_fx.tools.errors import ImageError

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
TRAIN_FOLDER = "train"
TEST_FOLDERS = ("test", "val", "valid", "validation")
BROKEN_ARCHIVE = (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError)


# Larger files are left out: they are no photographs, and reading them may take all memory.
MAX_BYTES = 256 * 2**20

TOO_LARGE = f"larger than {MAX_BYTES // 2**20} MiB"
NO_FILE = "no regular files"
UNREADABLE = "could not be opened"
LINKS = "links inside of an archive"
LINKED_FOLDERS = "linked folders, which are not followed"
UNREADABLE_FOLDERS = "folders that could not be opened"


class ImageSource(Protocol):
    """Files by name, names relative to the source with forward slashes."""

    left_out: Counter[str]
    """How many images and folders :meth:`names` left out, by the reason."""

    def names(self) -> list[str]:
        """Names of the image files."""

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Contents of the wanted files, in whatever order reading them is cheapest."""


def left_out_notice(source: ImageSource) -> tuple[str, ...]:
    """A sentence about what was left out of a source, if anything was."""
    if not source.left_out:
        return ()
    parts = ", ".join(f"{count:,} ({reason})" for reason, count in sorted(source.left_out.items()))
    return (f"Left out of the data: {parts}.",)


@dataclass
class FolderSource:
    """A folder on disk."""

    path: Path
    left_out: Counter[str] = field(default_factory=Counter, compare=False)

    def names(self) -> list[str]:
        """Names of the image files; only regular files, or links to them, count, and linked folders are not followed.

        Raises:
            ImageError: if the folder cannot be read.
        """
        self.left_out.clear()
        return [file.relative_to(self.path).as_posix() for file in self._files() if self._can_be_read(file)]

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Contents of the wanted files; one that cannot be opened reads as empty, so it is counted as broken."""
        for name in wanted:
            try:
                with (self.path / name).open("rb") as file:
                    data = file.read(MAX_BYTES + 1)
            except OSError:
                data = b""
            yield name, data if len(data) <= MAX_BYTES else b""  # its size may not be what the file system says

    def _files(self) -> Iterator[Path]:
        for folder, folders, names in os.walk(self.path, onerror=self._note_unreadable):
            self.left_out[LINKED_FOLDERS] += sum(Path(folder, name).is_symlink() for name in folders)
            yield from (Path(folder, name) for name in names if is_image(name))
        self.left_out += Counter()  # drops zeros

    def _note_unreadable(self, error: OSError) -> None:
        if Path(error.filename or "") == self.path:
            raise ImageError(f"--data {self.path}: cannot be read ({error.strerror})") from error
        self.left_out[UNREADABLE_FOLDERS] += 1

    def _can_be_read(self, file: Path) -> bool:
        try:
            found = file.stat()
        except OSError:  # a link to nowhere
            self.left_out[UNREADABLE] += 1
            return False
        return _counts(self.left_out, stat.S_ISREG(found.st_mode), NO_FILE, found.st_size)


@dataclass
class ArchiveSource:
    """A tar archive, compressed or not."""

    path: Path
    left_out: Counter[str] = field(default_factory=Counter, compare=False)

    def names(self) -> list[str]:
        """Names of the image files, which are regular members.

        Raises:
            ImageError: if the archive cannot be read to its end.
        """
        self.left_out.clear()
        return [
            member.name
            for _, member in self._members()
            if is_image(member.name) and _counts(self.left_out, member.isreg(), _kind(member), member.size)
        ]

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Contents of the wanted members, in archive order: seeking back would decompress from the start.

        Raises:
            ImageError: if the archive cannot be read to its end.
        """
        chosen = set(wanted)
        for archive, member in self._members():
            if member.name in chosen and member.isreg():
                content = archive.extractfile(member)
                assert content is not None  # a regular member
                yield member.name, content.read()

    def _members(self) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
        try:
            with tarfile.open(self.path, "r:*", tarinfo=_StrictHeader) as archive:
                yield from ((archive, member) for member in archive if not member.isdir())
        except BROKEN_ARCHIVE as error:
            raise ImageError(f"--data {self.path}: not a readable tar archive ({error})") from error


class _StrictHeader(tarfile.TarInfo):
    """A header of an archive; a damaged one behind the first is an error, which ``tarfile`` takes for the archive's end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:  # type: ignore[override] # the name only
        try:
            return super().fromtarfile(archive)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            if archive.offset == 0:  # no archive, or one in another compression
                raise
            raise tarfile.ReadError(f"{error} after {archive.offset:,} bytes") from error


def _kind(member: tarfile.TarInfo) -> str:
    return LINKS if member.islnk() or member.issym() else NO_FILE


def _counts(left_out: Counter[str], is_regular: bool, otherwise: str, size: int) -> bool:
    """Whether a file is read; the reason is counted if not."""
    if not is_regular or size > MAX_BYTES:
        left_out[otherwise if not is_regular else TOO_LARGE] += 1
        return False
    return True


def open_source(path: Path) -> ImageSource:
    """The source at `path`: a folder, or a file that should be a tar archive.

    Raises:
        ImageError: if there is neither at `path`.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise ImageError(f"--data {path}: no such folder or archive") from error
    except OSError as error:
        raise ImageError(f"--data {path}: cannot be read ({error.strerror})") from error
    if stat.S_ISDIR(mode):
        return FolderSource(path)
    if stat.S_ISREG(mode):
        return ArchiveSource(path)
    raise ImageError(f"--data {path}: is neither a folder nor a regular file")


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
    paths = {name: PurePosixPath(name).parts for name in sorted(names) if is_image(name)}
    paths = {name: parts for name, parts in paths.items() if len(parts) > 1}
    while paths and len({parts[0] for parts in paths.values()}) == 1 and min(map(len, paths.values())) > 2:
        paths = {name: parts[1:] for name, parts in paths.items()}
    return _with_split(paths) or [Entry(name, parts[0], None) for name, parts in paths.items()]


def is_image(name: str) -> bool:
    """Whether a file is an image, by its suffix, and not hidden."""
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
