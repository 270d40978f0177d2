"""Triton's interpreter: kernels run on CPU tensors, program after program, in NumPy.

It has to be asked for before Triton and the kernels are imported, which other tests of a session do; so the tests of the
kernels run in a session of their own.
"""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from support.generated import THOROUGH

ROOT = Path(__file__).parents[2]


def pytest_in_the_interpreter(file: Path) -> subprocess.CompletedProcess[str]:
    """Run a file of tests, which need not be called ``test_*.py``, in Triton's interpreter."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "--hypothesis-profile",
        THOROUGH,
        str(file),
    ]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def triton_interpreter() -> ModuleType:
    """The module, which is private to Triton."""
    from triton.runtime import interpreter

    return interpreter


def repair() -> None:
    """Triton 3.6 converts arrays of one element to integers, which NumPy 2.4 no longer does by itself."""
    interpreter = triton_interpreter()
    original = interpreter._patch_lang_tensor

    def patched(tensor, scope):
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.squeeze()))

    interpreter._patch_lang_tensor = patched
