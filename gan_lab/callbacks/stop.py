"""Ends training: budget used up, or asked to stop by a signal or a callback."""

from __future__ import annotations

import signal
import time
from contextlib import AbstractContextManager, ExitStack
from types import FrameType
from typing import TYPE_CHECKING

import torch

from gan_lab.callbacks.base import Callback
from gan_lab.errors import Interrupted
from gan_lab.signals import handled

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from gan_lab.module import GAN

AGREE_EVERY_IMAGES = 1000
"""At each multiple of so many images several processes agree whether to stop."""


def terminable() -> AbstractContextManager[None]:
    """SIGTERM raises Interrupted, as SIGINT raises KeyboardInterrupt: until `Stop` takes over."""

    def raise_it(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    return handled(raise_it, (signal.SIGTERM,))


class Stop(Callback):
    """Stops the Trainer after a whole cycle: at the image budget, at the time budget, or after SIGINT or SIGTERM.

    A second SIGINT stops at once.
    """

    def __init__(self) -> None:
        self._started = self._seconds_before = 0.0
        self.signal_number: int | None = None
        self._handling = ExitStack()

    def _seconds(self, gan: GAN) -> float:
        """Training time of the run so far, over all its sittings."""
        return self._seconds_before + time.monotonic() - self._started - gan.setup_seconds

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_number = number

    def on_start(self, trainer: Trainer, gan: GAN) -> None:
        self._started, self._seconds_before = time.monotonic(), gan.wall_seconds
        # Lightning has set its own handlers by now; they do not know of our checkpoints.
        self._handling.enter_context(handled(self._note))
        if gan.finished:
            trainer.should_stop = True

    def on_cycle_end(self, trainer: Trainer, gan: GAN) -> None:
        gan.wall_seconds = self._seconds(gan)
        out_of_time = gan.budget_seconds is not None and gan.wall_seconds >= gan.budget_seconds
        stop, asked = self.signal_number or 0, gan.stop_asked
        if trainer.world_size > 1:
            if not gan.due(AGREE_EVERY_IMAGES):
                return
            agreed = torch.tensor([float(out_of_time), float(stop), float(asked)], device=gan.device)
            torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MAX)
            out_of_time, stop, asked = bool(agreed[0]), int(agreed[1]), bool(agreed[2])
            self.signal_number = stop or None
        gan.out_of_time = out_of_time
        if stop or asked or gan.finished:
            trainer.should_stop = True

    def restore(self) -> None:
        """Gives the signals back to whoever handled them before."""
        self._handling.close()

    def on_end(self, trainer: Trainer, gan: GAN) -> None:
        self.restore()

    def on_exception(self, trainer: Trainer, gan: GAN, error: BaseException) -> None:
        self.restore()
