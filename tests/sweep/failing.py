"""A data set that fails on purpose, for trials that must not take their sweep along."""

import os
import resource
import signal
import sys
import time
from typing import Literal

import torch

from gan_lab.data import Data
from gan_lab.data.digits import digits

How = Literal[
    "not", "raises", "exits", "aborts", "killed", "out_of_memory", "memory_error", "hangs", "wrong", "killed_once"
]


def failing(*, split: str = "train", image_size: int | None = None, how: How = "not", marker: str = "") -> Data:
    """Digits, unless it fails as `how` says. marker: a file that says whether this was tried before."""
    if how == "raises":
        raise KeyError("this data set is broken")
    if how == "exits":
        os._exit(7)
    if how == "aborts":
        print("last words", file=sys.stderr, flush=True)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.abort()
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "out_of_memory":
        torch.empty(2**60)
    if how == "memory_error":
        raise MemoryError
    if how == "hangs":
        time.sleep(1000)
    if how == "wrong":
        raise ValueError("this data set needs something else")
    if how == "killed_once" and not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return digits(split="train", image_size=image_size)
