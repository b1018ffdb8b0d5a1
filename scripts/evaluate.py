"""`python scripts/evaluate.py ...` is `gan-lab evaluate ...`."""

import sys

from gan_lab.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
