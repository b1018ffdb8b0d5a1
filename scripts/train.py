"""`python scripts/train.py ...` is `gan-lab train ...`."""

import sys

from gan_lab.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
