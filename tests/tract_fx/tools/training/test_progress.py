import io

from rich.console import Console

from tract_fx.tools.training.progress import watching


def watch(console: Console) -> str:
    with watching(console, "ResNet", steps=2) as watcher:
        assert list(watcher.counted([(0, 1), (2, 3)])) == [(0, 1), (2, 3)]
        watcher.epoch("ResNet plain", 1, 0.5, 0.875)
    return console.file.getvalue()


def test_without_a_terminal_each_epoch_is_one_line(console):
    assert watch(console) == "ResNet plain  epoch   1  loss 0.500  test 87.5%\n"


def test_on_a_terminal_the_bar_ends_full_with_the_last_numbers():
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    said = watch(console)
    assert "2/2" in said
    assert "ResNet plain  epoch   1  loss 0.500  test 87.5%" in said
