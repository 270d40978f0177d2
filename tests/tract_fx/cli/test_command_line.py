"""The command line: what is refused, and how it is said. Whole demo runs are in `demo/test_demo_command.py`."""

import subprocess
import sys
from pathlib import Path

import pytest

from tract_fx import cli
from tract_fx.tools.compare.session import Outcome
from tract_fx.tools.compare.settings import CompareSettings
from tract_fx.tools.demo.settings import DemoSettings


def complaint(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The sentence printed for arguments that must be refused."""
    assert cli.main(list(argv)) == 2
    printed = capsys.readouterr()
    assert not printed.out or printed.out.startswith("Reading ")
    assert "Traceback" not in printed.err
    return printed.err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--lam", "0"),
        ("--lam", "-0.1"),
        ("--lam", "nan"),
        ("--lam", "inf"),
        ("--lam", "small"),
        ("--epochs", "0"),
        ("--epochs", "1.5"),
        ("--batch", "1"),
        ("--batch-size", "1"),
        ("--input", "3x"),
        ("--seed", "-1"),
        ("--limit", "many"),
        ("--model", "lenet"),
        ("--inner", "cudagraphs"),
        ("--threads", "0"),
    ],
)
def test_value_out_of_range_is_refused_by_the_name_of_the_option(capsys, option, value):
    err = complaint(capsys, "demo", f"{option}={value}")
    assert option in err
    assert value in err


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--data", "no/such/place"], "--data no/such/place: no such folder or archive"),
        (["--device", "abacus"], "--device abacus"),
        (["--input", "3x16x16"], "--input 3x16x16: applies to --data only"),
        (["--data", ".", "--input", "20x20"], "--input 20x20: must be square with sides that are a multiple of 8"),
        (["--data", ".", "--image-size", "20"], "--input 20x20: must be square"),
    ],
)
def test_value_that_does_not_fit_here_is_refused_by_the_name_of_the_option(capsys, tmp_path, options, named):
    assert named in complaint(capsys, "demo", "--out", str(tmp_path / "out"), *options)


def test_out_that_is_a_file_is_refused(capsys, tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("here already")
    assert f"{taken}: is no folder" in complaint(capsys, "demo", "--out", str(taken))
    assert taken.read_text() == "here already"


@pytest.mark.parametrize("argv", [[], ["demonstrate"]])
def test_unknown_or_missing_command_is_refused(capsys, argv):
    assert "COMMAND" in complaint(capsys, *argv)


@pytest.mark.parametrize("module", ["matplotlib", "PIL", "sklearn"])
def test_missing_dependency_is_named_with_the_way_to_install_it(capsys, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    err = complaint(capsys, "demo")
    assert f"needs {module};" in err
    assert "pip install 'tract-fx[demo]'" in err


def test_every_argument_reaches_the_settings(monkeypatch):
    seen: list[DemoSettings] = []
    monkeypatch.setattr("tract_fx.tools.demo.session.run_demo", lambda settings, console: seen.append(settings) or [])
    argv = "demo --data d --model vit --epochs 3 --lam 0.2 --seed 4 --batch 5 --input 3x24x24 --limit 6"
    assert cli.main([*argv.split(), "--device=cpu", "--threads=7", "--out=o", "--inner=aot_eager"]) == 0
    (settings,) = seen
    assert (str(settings.data), settings.models, settings.epochs, settings.lam) == ("d", ("vit",), 3, 0.2)
    assert (settings.seed, settings.batch_size, settings.input, settings.limit) == (4, 5, (3, 24, 24), 6)
    assert (settings.device, settings.threads, str(settings.out), settings.inner) == ("cpu", 7, "o", "aot_eager")


def test_every_argument_of_compare_reaches_the_settings(monkeypatch):
    seen: list[CompareSettings] = []
    outcome = Outcome((Path("o/results.json"),), interrupted=False)
    monkeypatch.setattr("tract_fx.tools.compare.session.run_compare", lambda given, _: seen.append(given) or outcome)
    argv = (
        "compare m --data d --out o --minutes 2.5 --epochs 3 --seeds 5 --seed 6 --lam 0.2,0.4 --optimizer sgd --lr 0.3 "
        "--batch 7 --input 1x8x9 --limit 8 --amp --device x --threads 9"
    )
    assert cli.main(argv.split()) == 0
    expected = CompareSettings(
        "m", Path("d"), Path("o"), 2.5, 3, 5, 6, (0.2, 0.4), "sgd", 0.3, 7, (1, 8, 9), 8, True, "x", 9, None
    )
    assert seen == [expected]
    for argv, minutes in (("compare m --data d", 10.0), ("compare m --data d --epochs 4", None)):
        assert cli.main(argv.split()) == 0
        assert seen[-1].minutes == minutes


def test_a_comparison_that_was_interrupted_prints_its_files(monkeypatch, capsys):
    outcome = Outcome((Path("o/results.json"),), interrupted=True)
    monkeypatch.setattr("tract_fx.tools.compare.session.run_compare", lambda *_: outcome)
    assert cli.main(["compare", "m", "--data", "d"]) == 130
    assert capsys.readouterr().out == "o/results.json\n"


def test_interrupt_ends_without_traceback(monkeypatch):
    def interrupt(settings: DemoSettings, console: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tract_fx.tools.demo.session.run_demo", interrupt)
    assert cli.main(["demo"]) == 130


def test_help_lists_the_commands_and_loads_no_drawing_library():
    code = "import sys\nfrom tract_fx import cli\ntry: cli.main(['--help'])\nexcept SystemExit as end: assert not end.code\n"
    code += "assert not {'torch', 'matplotlib', 'sklearn', 'PIL', 'rich'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout
    assert "compare" in done.stdout
