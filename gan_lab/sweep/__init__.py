"""Sweeps: many runs of one command, in parallel, on any of Hydra's launchers, that survive whatever stops them."""
