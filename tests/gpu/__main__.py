"""Everything that only a GPU can show, in one command: ``python -m tests.gpu [-k EXPRESSION] [more pytest arguments]``.

Exits with status 0 if all is well, 1 if something failed, and 77 if there is no CUDA device, as no answer is not a good one.
"""

import sys
from pathlib import Path

import pytest
import torch

NO_DEVICE = 77
FILES = ("photographs.py", "capture.py", "gram.py", "systems.py", "backend.py")


def main() -> int:
    if not torch.cuda.is_available():
        sys.stderr.write("tests.gpu: no CUDA device here, nothing was tested\n")
        return NO_DEVICE
    properties = torch.cuda.get_device_properties(0)
    capability = f"sm_{properties.major}{properties.minor}"
    sys.stdout.write(f"{properties.name}, {capability}, torch {torch.__version__}, CUDA {torch.version.cuda}\n")
    sys.stdout.flush()
    here = Path(__file__).parent
    # In one process: as many as there are cores would take turns on one GPU.
    return int(pytest.main(["-n", "0", *sys.argv[1:], *(str(here / name) for name in FILES)]))


if __name__ == "__main__":
    raise SystemExit(main())
