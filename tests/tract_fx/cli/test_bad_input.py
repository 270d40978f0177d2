"""Every command line ends in a status, and in one sentence where it cannot do what it was asked: never in a traceback."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tract_fx import cli
from tract_fx.tools import memory
from tract_fx.tools.images import sources

DEMO = "demo --epochs 1 --model resnet --inner aot_eager --input 8x8 --threads 1"
COMPARE = "compare broken_models:net --epochs 1 --batch 4 --input 3x4x4 --inner aot_eager --threads 1"
PROBE = "probe broken_models:mlp --batches 1 --batch 8 --input 3x4x4"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with images, models, and things that are in the way."""
    code = """
        from torch import nn

        def mlp():
            return nn.Sequential(nn.Flatten(), nn.Linear(48, 2))

        def net(num_classes=2):
            return nn.Sequential(nn.Flatten(), nn.Linear(48, num_classes))

        def norm():
            return nn.Sequential(nn.Flatten(), nn.Linear(48, 2), nn.BatchNorm1d(2))

        def leaves():
            raise SystemExit(3)

        class Leaves(nn.Linear):
            def __init__(self):
                super().__init__(48, 2)

            def __deepcopy__(self, memo):
                raise SystemExit(4)

        class Busy(nn.Linear):
            def __init__(self):
                super().__init__(48, 2)

            def __deepcopy__(self, memo):
                raise TypeError("it holds the handle of a device")

            def forward(self, x):
                raise ValueError("the device is busy")
    """
    monkeypatch.chdir(tmp_path)
    Path("broken_models.py").write_text(textwrap.dedent(code))
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    Path("alone/a").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save("alone/a/0.png")
    for name in "ab":
        Path("good", name).mkdir(parents=True)
        for index in range(5):
            Image.new("RGB", (8, 8), (40 * index, 9, 99)).save(f"good/{name}/{index}.png")
    Path("afile").write_text("old")
    Path("taken/curves.png").mkdir(parents=True)
    yield
    sys.modules.pop("broken_models", None)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        # Where results go: found out before any work.
        (f"{DEMO} --data good --out afile", "afile: is no folder"),
        (f"{DEMO} --data good --out afile/x", "afile/x: cannot be written"),
        (f"{DEMO} --data good --out /proc/x", "/proc/x: cannot be written"),
        (f"{DEMO} --data good --out taken", "curves.png: cannot be written (it is a folder)"),
        (f"{PROBE} --data good --out afile/x", "afile/x: cannot be written"),
        ("explain broken_models:mlp --input 3x4x4 --html /dev/full", "/dev/full: cannot be written"),
        ("explain broken_models:mlp --input 3x4x4 --json /dev/full", "/dev/full: cannot be written"),
        (f"explain broken_models:mlp --html {'x' * 300}", "cannot be written (File name too long)"),
        ("explain broken_models:mlp --json good", "good: cannot be written (it is a folder)"),
        (f"{COMPARE} --data good --out afile", "afile: is no folder"),
        (f"{COMPARE} --data good --out /proc/x", "/proc/x: cannot be written"),
        # Paths.
        ("explain broken_models:mlp --json=", "--json: must be a path"),
        (f"{DEMO} --data=", "--data: must be a path"),
        (f"{DEMO} --data good --out=", "--out: must be a path"),
        (f"{DEMO} --data no\0where", "--data: must be a path"),
        (f"{DEMO} --data /dev/zero", "is neither a folder nor a regular file"),
        (f"{DEMO} --data {'x' * 300}", "cannot be read (File name too long)"),
        # Devices, threads and sizes that do not exist or do not fit.
        (f"{DEMO} --data good --device meta", "--device meta"),
        (f"{DEMO} --data good --device hpu", "--device hpu"),
        (f"{DEMO} --data good --threads 100000", "--threads 100000: this machine has"),
        (f"{DEMO} --data good --image-size 100000", "--input 3x100000x100000: 10 images take at least"),
        (f"{DEMO} --data good --input 1x8x8", "--input 1x8x8: the images are of colour"),
        (f"{DEMO} --data good --input 8", "--input 8: must be square"),
        (f"{PROBE} --data good --input 3x100000x100000", "--input 3x100000x100000: 8 images take at least"),
        (f"{PROBE} --data good --input 4", "--input 4: must be the shape of an image"),
        (f"{COMPARE} --data good --device hpu", "--device hpu"),
        (f"{COMPARE} --data good --threads 100000", "--threads 100000: this machine has"),
        (f"{COMPARE} --data good --input 3x100000x100000", "--input 3x100000x100000: 10 images take at least"),
        (f"{COMPARE} --data good --lam 0.1,0", "--lam: must be a positive number, got '0'"),
        (f"{COMPARE} --data good --lr fast", "--lr: must be a positive number"),
        (f"{COMPARE} --data good --minutes 0", "--minutes: must be a positive number"),
        (f"{COMPARE} --data nowhere", "--data nowhere: no such folder or archive"),
        (f"{COMPARE} --data alone", "alone: needs readable images of two classes or more, found 1"),
        # Models that do not accept their input, or that end the program.
        (f"{PROBE} --data good --input 3x5x5", "cannot be run on batch 1"),
        ("probe broken_models:norm --data good --input 3x4x4 --batch 1", "Expected more than 1 value per channel"),
        ("probe broken_models:leaves --data good --input 3x4x4", "calling it failed: SystemExit: 3"),
        (
            "probe broken_models:Leaves --data good --input 3x4x4",
            "the code of the model ended the program: SystemExit(4)",
        ),
        (f"{COMPARE} --data good --input 3x5x5", "cannot be run on images of 3x5x5: RuntimeError: "),
        ("compare broken_models:leaves --data good --input 3x4x4", "calling it failed: SystemExit: 3"),
        ("compare broken_models:norms --data good", "did you mean 'norm'"),
        ("explain broken_models:Busy --input 3x4x4", "ValueError: the device is busy"),
        ("probe broken_models:Busy --data good --input 3x4x4", "ValueError: the device is busy"),
        ("explain broken_models:leaves --input 3x4x4", "calling it failed: SystemExit: 3"),
    ],
)
def test_one_sentence_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, said: str
) -> None:
    monkeypatch.setattr(memory, "_physical", lambda: 8 * 2**30)
    before = sorted(Path().rglob("*"))
    assert cli.main(command.split(" ")) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert "Traceback" not in printed
    assert printed.count("\n") == 1
    assert Path("afile").read_text() == "old"
    after = [path for path in sorted(Path().rglob("*")) if "__pycache__" not in path.parts]
    assert set(after) - set(before) <= {Path("tract-fx-demo"), Path("tract-fx-compare")}  # for results; nothing in them


@pytest.mark.parametrize("folder", ["afile", "/proc/nothing", ""])
@pytest.mark.parametrize("command", ["doctor", f"{DEMO} --data good", f"{PROBE} --data good", "explain timm:resnet18"])
def test_a_cache_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: str, command: str
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", folder and str(Path(folder).absolute()))
    if not folder:
        monkeypatch.chdir("/proc")  # where an empty name is
    assert cli.main(command.split()) == 2
    assert "TORCHINDUCTOR_CACHE_DIR=" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), RuntimeError("a\nb"), MemoryError(), KeyError("k")]
)
def test_whatever_a_command_raises_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("tract_fx.tools.demo.session.run_demo", fail)
    assert cli.main(["demo"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"tract-fx: demo: {type(error).__name__}: ")
    assert printed.count("\n") == 1


def explain_to(stream: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "stdout", stream)
    return cli.main(["explain", "broken_models:mlp", "--input", "3x4x4", "--json", "found.json"])


def test_a_standard_output_of_ascii_gets_question_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("tract_fx.explain", lambda *_, **__: Fine(), raising=False)
    stream = io.TextIOWrapper(raw, encoding="ascii")
    assert explain_to(stream, monkeypatch) == 0
    assert raw.getvalue() == b"3?3 ?\n"


def test_a_standard_output_that_is_full(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("tract_fx.explain", lambda *_, **__: Fine(), raising=False)
    with io.TextIOWrapper(io.BufferedWriter(Full()), encoding="utf-8") as stream:
        assert explain_to(stream, monkeypatch) == 2
        assert "standard output cannot be written (No space left on device)" in capsys.readouterr().err
        monkeypatch.setattr(Full, "is_full", False)


class Full(io.RawIOBase):
    """A device without space, until it has some."""

    is_full = True

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.is_full:
            raise OSError(28, "No space left on device")
        return len(data)


class Fine:
    """An explanation with characters that ASCII lacks."""

    is_fine = True

    def __str__(self) -> str:
        return "3×3 λ"

    def to_dict(self) -> dict[str, str]:
        return {}


def test_only_regular_files_are_read_and_the_others_are_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo("good/a/pipe.png")
    os.mkfifo("good/a/pipe.txt")
    Path("good/a/endless.png").symlink_to("/dev/zero")
    Path("good/a/nowhere.png").symlink_to("/no/such/file")
    Path("good/b/link.png").symlink_to(Path("good/b/0.png").absolute())
    Path("good/linked").symlink_to(Path("good/a").absolute())
    monkeypatch.setattr(sources, "MAX_BYTES", 2000)
    Path("good/b/large.png").write_bytes(b"x" * 2001)
    source = sources.open_source(Path("good"))
    assert len(source.names()) == 11
    assert source.left_out == {
        sources.NO_FILE: 2,
        sources.UNREADABLE: 1,
        sources.TOO_LARGE: 1,
        sources.LINKED_FOLDERS: 1,
    }
    assert cli.main(["probe", "broken_models:mlp", "--data", "good", "--input", "3x4x4"]) in (0, 1)
    assert "Left out of the data: 1 (could not be opened), " in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_a_damaged_header_in_the_middle_of_an_archive(capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    with tarfile.open("whole.tar", "w") as archive:
        archive.add("good", "")
    with tarfile.open("whole.tar") as archive:
        offset = archive.getmembers()[7].offset
    data = bytearray(Path("whole.tar").read_bytes())
    data[offset + 3] ^= 0x41
    Path("whole.tar").write_bytes(data)
    if suffix != "tar":
        import gzip

        Path("whole.tar.gz").write_bytes(gzip.compress(bytes(data)))
    assert cli.main([*DEMO.split(), "--data", f"whole.{suffix}"]) == 2
    assert "not a readable tar archive (bad checksum after " in capsys.readouterr().err


def test_one_declaration_and_hidden_older_spellings(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("explain m", "probe m --data d", "compare m --data d", "demo"):
        given = cli.build_parser().parse_args([*command.split(), "--batch-size", "7", "--image-size", "16"])
        assert (given.batch, given.input) == (7, (16, 16))
        given = cli.build_parser().parse_args([*command.split(), "--batch", "7", "--input", "3x16x16"])
        assert (given.batch, given.input) == (7, (3, 16, 16))
        with pytest.raises(SystemExit):
            cli.main([command.split()[0], "--help"])
        shown = capsys.readouterr().out
        assert "--batch N" in shown
        assert "--batch-size" not in shown
        assert "--image-size" not in shown
