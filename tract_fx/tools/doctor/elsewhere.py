"""The self-check in a process of its own. Importing this module imports no PyTorch, so that both may do that at once."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tract_fx.tools.doctor.self_check import SelfCheck

__all__ = ["StepElsewhere"]

# A compiler that has never run on this machine builds its headers first.
PATIENCE = 180


class StepElsewhere:
    """The self-check in a process of its own: a compiler that crashes or hangs does not take the report with it."""

    def __init__(self, inner: str, device: str) -> None:
        self.device = device
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tract_fx.tools.doctor.self_check", inner, device],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def stop(self) -> None:
        """End it; its result does not matter."""
        self.process.kill()
        self.process.communicate()

    def result(self) -> SelfCheck:
        """Wait for it.

        Raises:
            RuntimeError: with the last lines of the process, if it failed.
        """
        try:
            out, err = self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.stop()
            raise RuntimeError(f"no result after {PATIENCE} s") from None
        if self.process.returncode:
            raise RuntimeError(err.strip() or f"the process ended with status {self.process.returncode}")
        from tract_fx.tools.doctor.self_check import SelfCheck

        fields = json.loads(out.splitlines()[-1])
        return SelfCheck(**fields | {"rewritten": tuple(fields["rewritten"])})
