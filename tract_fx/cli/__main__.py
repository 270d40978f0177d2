"""`python -m tract_fx.cli`."""

import sys

from tract_fx.cli import main

if __name__ == "__main__":
    sys.exit(main())
