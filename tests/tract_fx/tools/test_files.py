"""Results replace old ones whole, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tract_fx.tools.errors import OutputError
from tract_fx.tools.files import check_file, check_folder, replacing, staged


def test_a_failure_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    old = tmp_path / "results.json"
    old.write_text("old")
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), replacing(old) as part:  # noqa: PT012
            part.write_text("half")
            raise error
    with pytest.raises(OutputError, match=r"results.json: cannot be written \(No space"), replacing(old) as part:  # noqa: PT012
        part.write_text("half")
        raise OSError(28, "No space left on device")
    assert old.read_text() == "old"
    assert os.listdir(tmp_path) == ["results.json"]  # noqa: PTH208 - with hidden files


def test_a_file_is_replaced_behind_its_link_with_its_mode(tmp_path: Path) -> None:
    old, link = tmp_path / "old.txt", tmp_path / "link.txt"
    old.write_text("old")
    old.chmod(0o640)
    link.symlink_to(old)
    with replacing(link) as part:
        assert part.suffix == ".txt"
        part.write_text("new")
    assert link.is_symlink()
    assert old.read_text() == "new"
    assert old.stat().st_mode & 0o777 == 0o640


def test_a_device_is_written_and_stays() -> None:
    check_file(Path("/dev/null"))
    with replacing(Path("/dev/null")) as part:
        part.write_text("nothing")
    assert Path("/dev/null").is_char_device()


def test_a_pipe_that_nobody_reads_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match=r"pipe: cannot be written"), replacing(tmp_path / "pipe") as part:
        part.write_text("nothing")


def test_checks_leave_everything_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    check_file(tmp_path / "old")
    check_file(tmp_path / "new")
    check_folder(tmp_path, ["old", "new"])
    assert os.listdir(tmp_path) == ["old"]  # noqa: PTH208


def test_a_read_only_file_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old").write_text("old")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # whoever runs this may be root
    with pytest.raises(OutputError, match="the file is read-only"):
        check_file(tmp_path / "old")


def test_what_could_be_moved_stays_where_the_rest_could_not(tmp_path: Path) -> None:
    (tmp_path / "b.png").mkdir()
    with pytest.raises(OutputError, match=r"b.png: cannot be written"), staged(tmp_path) as folder:  # noqa: PT012
        (folder / "a.png").write_text("a")
        (folder / "b.png").write_text("b")
    assert sorted(os.listdir(tmp_path)) == ["a.png", "b.png"]  # noqa: PTH208
