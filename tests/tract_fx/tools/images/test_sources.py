import io
import tarfile

import pytest

from tract_fx.tools.errors import ImageError
from tract_fx.tools.images.sources import ArchiveSource, Entry, FolderSource, layout, open_source


def test_class_folders_leave_the_split_open():
    assert layout(["dog/1.png", "cat/2.JPG"]) == [Entry("cat/2.JPG", "cat", None), Entry("dog/1.png", "dog", None)]


@pytest.mark.parametrize("test_folder", ["test", "val", "Validation"])
def test_split_folders_say_which_images_are_for_testing(test_folder):
    entries = layout([f"{test_folder}/cat/1.png", "train/cat/1.png", "train/dog/1.png"])
    assert {(entry.name, entry.label, entry.is_test) for entry in entries} == {
        (f"{test_folder}/cat/1.png", "cat", True),
        ("train/cat/1.png", "cat", False),
        ("train/dog/1.png", "dog", False),
    }


def test_test_folder_wins_over_validation_folder():
    entries = layout(["train/a/1.png", "val/a/2.png", "test/a/3.png"])
    assert {entry.name: entry.is_test for entry in entries} == {"train/a/1.png": False, "test/a/3.png": True}


def test_common_leading_folders_are_not_classes():
    assert [entry.label for entry in layout(["./top/deep/a/1.png", "./top/deep/b/1.png"])] == ["a", "b"]
    assert [entry.label for entry in layout(["top/train/a/1.png", "top/train/b/1.png"])] == ["a", "b"]


def test_train_folder_with_loose_test_images_is_split_later():
    entries = layout(["train/a/1.png", "train/b/1.png", "val/1.png", "val/2.png"])
    assert [(entry.label, entry.is_test) for entry in entries] == [("a", None), ("b", None)]


def test_images_below_a_class_folder_belong_to_it():
    assert [entry.label for entry in layout(["a/x/1.png", "b/y/z/1.png"])] == ["a", "b"]


def test_other_files_are_left_out():
    names = ["README.md", "loose.png", "a/notes.txt", "a/._1.png", "a/1.png", "b/1.png"]
    assert [entry.name for entry in layout(names)] == ["a/1.png", "b/1.png"]


def test_folder_and_archive_hold_the_same(write_images, write_tar):
    folder = write_images("a", "b", count=2)
    for name in ("set.tar", "set.tar.xz", "set.tar.gz"):
        archive = write_tar(folder, name)
        from_folder = {entry.name: entry for entry in layout(FolderSource(folder).names())}
        from_archive = [entry.name for entry in layout(open_source(archive).names())]
        assert [member.removeprefix("./") for member in from_archive] == list(from_folder)
        wanted = from_archive[1:3]
        contents = dict(ArchiveSource(archive).read(wanted))
        assert {name.removeprefix("./"): data for name, data in contents.items()} == dict(
            FolderSource(folder).read([name.removeprefix("./") for name in wanted])
        )


def test_hostile_members_are_read_in_place(tmp_path):
    with tarfile.open(tmp_path / "hostile.tar", "w") as archive:
        info = tarfile.TarInfo("../../outside/1.png")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("a/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    source = open_source(tmp_path / "hostile.tar")
    assert source.names() == ["../../outside/1.png"]
    assert dict(source.read(source.names())) == {"../../outside/1.png": b"abc"}
    assert [path.name for path in tmp_path.iterdir()] == ["hostile.tar"]


def test_nothing_at_the_path_is_an_error(tmp_path):
    with pytest.raises(ImageError, match=r"--data .*absent: no such folder or archive"):
        open_source(tmp_path / "absent")


@pytest.mark.parametrize("cut", [True, False])
def test_broken_archive_is_an_error(tmp_path, write_images, write_tar, cut):
    archive = write_tar(write_images("a", "b", count=20, size=32), "set.tar.xz")
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2] if cut else b"no archive at all")
    with pytest.raises(ImageError, match=r"--data .*set.tar.xz: not a readable tar archive"):
        open_source(archive).names()
