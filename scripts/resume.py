"""`python scripts/resume.py ...` is `gan-lab resume ...`."""

import sys

from gan_lab.cli import main

if __name__ == "__main__":
    main(["resume", *sys.argv[1:]])
