"""Saves the run's state after whole cycles."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gan_lab.callbacks.base import Callback
from gan_lab.constraints import PositiveFloat

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from gan_lab.module import GAN


class Checkpoint(Callback):
    """checkpoints/last.ckpt: every `every_kimg`, every `every_minutes`, when stopping and at the end.

    Saving changes nothing in training, so the minutes may differ between two runs that are otherwise equal. All loggers
    are flushed first: what lies on the disk up to the checkpoint's images is complete.
    """

    def __init__(self, *, every_kimg: PositiveFloat = 100.0, every_minutes: PositiveFloat | None = 5.0):
        self.every_images = every_kimg * 1000
        self.every_minutes = every_minutes
        self.write: Callable[[GAN], None] = lambda gan: None  # set by the run, which knows the configuration
        self._saved_at = 0.0

    def on_start(self, trainer: Trainer, gan: GAN) -> None:
        self._saved_at = time.monotonic()

    def on_cycle_end(self, trainer: Trainer, gan: GAN) -> None:
        overdue = self.every_minutes is not None and time.monotonic() - self._saved_at > 60 * self.every_minutes
        if trainer.is_global_zero and (overdue or trainer.should_stop or gan.due(self.every_images)):
            gan.generator_player.check_finite(gan)
            gan.discriminator_player.check_finite(gan)
            for logger in trainer.loggers:
                logger.save()
            self.write(gan)
            self._saved_at = time.monotonic()


def last_checkpoint(run_dir: Path) -> Path:
    return run_dir / "checkpoints" / "last.ckpt"
