"""``python -m tests.zoo [--json PATH] [--only TEXT]``: what the backend finds in every model of the zoo."""

import argparse
import json
import sys
import warnings
from pathlib import Path

from .capture import capture
from .report import as_json, as_text
from .tables import all_cases
from .verdict import Verdict, judge


def main() -> int:
    """Print the report.

    Returns:
        Exit status: 0 when every model is as the table says.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.zoo", description="First layers of the zoo, by families.")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the report there too")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="only models with this in their name, as timm:resnet18"
    )
    arguments = parser.parse_args()
    cases = [case for case in all_cases() if arguments.only in case.id]
    if not cases:
        parser.error(f"no model has {arguments.only!r} in its name")
    warnings.simplefilter("ignore")
    verdicts: list[Verdict] = []
    for number, case in enumerate(cases, start=1):
        sys.stderr.write(f"\r{number}/{len(cases)} {case.id:60}")
        verdicts.append(judge(case, capture(case)))
    sys.stderr.write("\n")
    sys.stdout.write(as_text(verdicts) + "\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(as_json(verdicts), indent=1) + "\n")
    return 0 if all(verdict.is_good for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
