"""Run ``python -m medseg`` as the command ``medseg``."""

import sys

from medseg.cli import main

if __name__ == "__main__":
    sys.exit(main())
