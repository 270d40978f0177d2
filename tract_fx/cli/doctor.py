"""`tract-fx doctor`."""

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

from tract_fx.cli.arguments import FOUND, SUCCESS, subcommand

__all__ = ["declare", "run"]

STYLES = {"works": "green", "limited": "yellow", "broken": "bold red"}


def declare(commands: Any, epilog: str) -> None:
    """Say what the arguments are."""
    about = "look whether TrAct works on this machine: versions, devices, compilers, and one training step"
    add = subcommand(commands, "doctor", about, run, epilog).add_argument
    add("--json", action="store_true", help="print the findings for other tools")


def run(args: argparse.Namespace) -> int:
    """Look at this machine."""
    from rich.console import Console

    with Console(stderr=True).status("Compiling a network of two layers ..."):
        found = _look()
    if args.json:
        json.dump(found.to_dict(), sys.stdout, indent=2)
        print()
    else:
        Console().print(*_report(found), sep="\n")
    return SUCCESS if found.is_fine else FOUND


def _look() -> Any:
    from tract_fx.tools.doctor.elsewhere import StepElsewhere

    on_cpu = StepElsewhere("inductor", "cpu")  # takes longest
    from tract_fx.errors import UnsupportedTorchError

    try:
        from tract_fx.tools.doctor.checkup import checkup
    except UnsupportedTorchError:  # nothing else can be looked at
        on_cpu.stop()
        from tract_fx.tools.doctor.private_names import check_private_names
        from tract_fx.tools.doctor.result import Checkup, versions

        return Checkup(versions(), (), check_private_names())
    return checkup(on_cpu)


def _report(found: Any) -> Iterator[Any]:
    from rich.text import Text

    yield _table(
        "Versions", ((Text(name), Text(version or "not installed")) for name, version in found.versions.items())
    )
    if found.devices:
        yield _table("Devices", ((Text(name), Text(text.strip())) for name, _, text in map(_split, found.devices)))
    yield _table("Checks", map(_row, found.checks))
    if found.is_fine:
        yield Text("TrAct works here.", style="bold green")
    else:
        yield Text("TrAct does not work here: see what is broken above.", style="bold red")


def _split(device: str) -> tuple[str, str, str]:
    return device.partition(": ")


def _row(check: Any) -> tuple[Any, ...]:
    from rich.text import Text

    state = check.state.value
    detail = Text(check.detail)
    if check.advice:
        detail.append(f"\n{check.advice}", style="dim")
    return Text(state, style=STYLES[state]), Text(check.name), detail


def _table(title: str, rows: Any) -> Any:
    from rich.table import Table

    table = Table(
        title=title, title_style="bold", title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0)
    )
    for row in rows:
        table.add_row(*row)
    return table
