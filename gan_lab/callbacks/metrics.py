"""Writes what training recorded to every logger."""

import time
from typing import Any

from pytorch_lightning import Callback, Trainer

from gan_lab.callbacks.stop import Stop
from gan_lab.constraints import PositiveFloat
from gan_lab.module import GAN


class LogMetrics(Callback):
    """Every `every_kimg`: means of losses, logits and D's accuracy since the last time; gradient norms of the last
    steps; images a second; learning rates. The axis is images seen."""

    def __init__(self, *, every_kimg: PositiveFloat = 2.0):
        self.every_images = every_kimg * 1000
        self.latest: dict[str, float] = {}
        self._time = 0.0
        self._images = 0

    def on_train_start(self, trainer: Trainer, gan: GAN) -> None:  # type: ignore[override]
        self._time, self._images = time.perf_counter(), gan.images_seen

    def on_train_batch_start(self, trainer: Trainer, gan: GAN, *_: Any) -> None:  # type: ignore[override]
        after = gan.images_seen + gan.num_discriminator_steps * gan.batch_size
        gan.measure_gradients = (
            after // self.every_images != gan.images_seen // self.every_images or after >= gan.budget_images
        )

    def on_train_batch_end(self, trainer: Trainer, gan: GAN, *_: Any) -> None:  # type: ignore[override]
        if not gan.due(self.every_images):
            return
        metrics = gan.take_metrics()
        now = time.perf_counter()
        metrics["images_per_second"] = (gan.images_seen - self._images) / (now - self._time)
        metrics["wall_seconds"] = next(c for c in trainer.callbacks if isinstance(c, Stop)).seconds  # type: ignore[attr-defined]
        metrics["kimg"] = gan.images_seen / 1000
        metrics["g_steps"], metrics["d_steps"] = gan.g_steps, gan.d_steps
        self._time, self._images = now, gan.images_seen
        self.latest = metrics
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=gan.images_seen)
