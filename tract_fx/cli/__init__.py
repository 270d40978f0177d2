"""The `tract-fx` command: one file for each sub-command.

Each is a pair of functions: `declare` says what its arguments are, the other runs it. What a sub-command needs is imported
when it runs, so that `--help` and a mistyped argument answer at once.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from tract_fx.cli import compare, demo, doctor, explain, probe
from tract_fx.cli.arguments import INTERRUPTED, USAGE_ERROR, Parser, UsageError
from tract_fx.cli.surroundings import abandon_output, check_cache_folder, make_printable, output_error

__all__ = ["build_parser", "main"]

logger = logging.getLogger(__name__)

EXIT_STATUS = (
    "exit status: 0 fine; 1 something was found (explain: nothing is rewritten, or a layer cannot be; probe: a warning; "
    "doctor: something here does not work); 2 it could not be done, and a sentence says why; 130 interrupted"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments without the program's name; None reads `sys.argv`.

    Returns:
        Exit status: 0 done, 1 something was found, 2 it could not be done (a sentence on stderr says why), 130
        interrupted.
    """
    make_printable()
    try:
        args = build_parser().parse_args(argv)
        return _run(args)
    except UsageError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(args: argparse.Namespace) -> int:
    """Run a sub-command; whatever goes wrong becomes a `UsageError` or a status, never a traceback."""
    check_cache_folder()
    try:
        status = args.run(args)
        sys.stdout.flush()
        return status
    except UsageError:
        raise
    except SystemExit as error:  # of a model's code
        raise UsageError(
            f"{args.command}: the code of the model ended the program: SystemExit({error.code!r})"
        ) from error
    except Exception as error:
        if (problem := output_error()) is not None:
            abandon_output()
            raise UsageError(f"standard output cannot be written ({problem})") from error
        logger.debug("The command ended with an error.", exc_info=True)
        raise UsageError(f"{args.command}: {_in_words(error)}") from error


def _in_words(error: Exception) -> str:
    from tract_fx.errors import TractError

    if isinstance(error, TractError):
        return str(error)
    from tract_fx.inspect.causes import first_cause, in_words

    return f'{in_words(first_cause(error))} (TORCH_LOGS="+tract_fx" shows where)'


def _complain(sentence: str) -> int:
    print(f"tract-fx: {sentence}", file=sys.stderr)
    return USAGE_ERROR


def build_parser() -> argparse.ArgumentParser:
    """The parser of all sub-commands."""
    about = "TrAct for the first layer, as a torch.compile backend."
    parser = Parser(prog="tract-fx", description=about, epilog=EXIT_STATUS)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for command in (explain, probe, compare, doctor, demo):
        command.declare(commands, epilog=EXIT_STATUS)
    return parser
