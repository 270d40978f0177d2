"""The `tract-fx` command: one file for each sub-command.

Each is a pair of functions: `declare` says what its arguments are, the other runs it. What a sub-command needs is imported
when it runs, so that `--help` and a mistyped argument answer at once.
"""

import argparse
import sys
from collections.abc import Sequence

from tract_fx.cli import demo, doctor, explain, probe
from tract_fx.cli.arguments import INTERRUPTED, USAGE_ERROR, Parser, UsageError

__all__ = ["build_parser", "main"]

EXIT_STATUS = (
    "exit status: 0 fine; 1 something was found (explain: nothing is rewritten, or a layer cannot be; probe: a warning; "
    "doctor: something here does not work); 2 the arguments do not work; 130 interrupted"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments without the program's name; None reads `sys.argv`.

    Returns:
        Exit status: 0 done, 1 something was found, 2 the arguments do not work (a sentence on stderr says which), 130
        interrupted.
    """
    try:
        args = build_parser().parse_args(argv)
        return args.run(args)
    except UsageError as error:
        print(f"tract-fx: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """The parser of all sub-commands."""
    about = "TrAct for the first layer, as a torch.compile backend."
    parser = Parser(prog="tract-fx", description=about, epilog=EXIT_STATUS)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (explain, probe, doctor, demo):
        command.declare(commands, epilog=EXIT_STATUS)
    return parser
