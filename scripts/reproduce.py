"""`python scripts/reproduce.py ...` is `gan-lab reproduce ...`."""

import sys

from gan_lab.cli import main

if __name__ == "__main__":
    main(["reproduce", *sys.argv[1:]])
