"""`python -m gan_lab` is `gan-lab`."""

from gan_lab.cli import main

main()
