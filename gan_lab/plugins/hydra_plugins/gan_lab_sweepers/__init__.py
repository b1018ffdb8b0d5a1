"""Hydra finds sweepers in the namespace package hydra_plugins alone; what they do is in gan_lab.sweep."""
