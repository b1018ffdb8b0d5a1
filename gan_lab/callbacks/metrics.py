"""Writes what training recorded to every logger."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gan_lab.callbacks.base import Callback
from gan_lab.constraints import PositiveFloat

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from gan_lab.module import GAN


class LogMetrics(Callback):
    """Every `every_kimg`: means of losses, logits and D's accuracy since the last time; gradient norms of the last
    steps; images a second; both step counters. The axis is images seen."""

    def __init__(self, *, every_kimg: PositiveFloat = 2.0):
        self.every_images = every_kimg * 1000
        self._time = 0.0
        self._images = 0

    def on_start(self, trainer: Trainer, gan: GAN) -> None:
        self._time, self._images = time.perf_counter(), gan.images_seen

    def on_cycle_start(self, trainer: Trainer, gan: GAN) -> None:
        after = gan.images_seen + gan.num_discriminator_steps * gan.batch_size
        gan.measure_gradients = (
            after // self.every_images != gan.images_seen // self.every_images or after >= gan.budget_images
        )

    def on_cycle_end(self, trainer: Trainer, gan: GAN) -> None:
        if not gan.due(self.every_images):
            return
        metrics = gan.take_metrics()
        now = time.perf_counter()
        metrics["images_per_second"] = (gan.images_seen - self._images) / (now - self._time)
        metrics["wall_seconds"] = gan.wall_seconds
        metrics["steps/generator"], metrics["steps/discriminator"] = gan.g_steps, gan.d_steps
        self._time, self._images = now, gan.images_seen
        gan.publish(trainer.loggers, metrics)
