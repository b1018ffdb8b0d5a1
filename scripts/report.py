"""`python scripts/report.py ...` is `gan-lab report ...`."""

import sys

from gan_lab.cli import main

if __name__ == "__main__":
    main(["report", *sys.argv[1:]])
