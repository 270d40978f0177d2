"""Commands for a machine with a GPU, and the one that stands in for it: ``python -m tests.gpu.aot``."""

import sys
from pathlib import Path

# Where `support` is found; pytest does the same.
sys.path.insert(0, str(Path(__file__).parents[1]))
