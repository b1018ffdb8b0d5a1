"""`python scripts/sample.py ...` is `gan-lab sample ...`."""

import sys

from gan_lab.cli import main

if __name__ == "__main__":
    main(["sample", *sys.argv[1:]])
