"""Results as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["emit"]


def emit(record: Mapping[str, Any], out: Path | None) -> None:
    """Print a result, and append it to a file if there is one."""
    line = json.dumps(record)
    print(line, flush=True)
    if out:
        with out.open("a") as file:
            file.write(line + "\n")
