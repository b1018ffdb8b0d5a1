"""Scores the averaged generator during training; training is not affected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from gan_lab.callbacks.base import Callback
from gan_lab.callbacks.samples import draw
from gan_lab.constraints import PositiveFloat, PositiveInt
from gan_lab.data import as_training_input
from gan_lab.images import to_uint8
from gan_lab.metrics.modes import mode_coverage
from gan_lab.metrics.sliced import sliced_wasserstein
from gan_lab.streams import stream_seed

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from gan_lab.module import GAN


class Evaluate(Callback):
    """Every `every_kimg` and at the end: sliced Wasserstein distance to the data, and mode coverage for 2-D mixtures.

    `num_samples` fakes (fewer where the data set is smaller) against as many real samples, both drawn from streams of
    their own; images are rounded to what a file would hold. Smaller is better for the distance; its floor, real against
    real, is written as `sliced_wasserstein/floor`.
    """

    def __init__(self, *, every_kimg: PositiveFloat = 20.0, num_samples: PositiveInt = 2500):
        self.every_images = every_kimg * 1000
        self.num_samples = num_samples

    def on_cycle_end(self, trainer: Trainer, gan: GAN) -> None:
        if not gan.due(self.every_images) or not trainer.is_global_zero:
            return
        data = trainer.datamodule.data  # type: ignore[attr-defined]
        num = min(self.num_samples, len(data.samples) // 2)
        generator = torch.Generator().manual_seed(stream_seed(gan.seed, "evaluation"))
        chosen = torch.randperm(len(data.samples), generator=generator)
        real, more_real = (as_training_input(data.samples[part]) for part in (chosen[:num], chosen[num : 2 * num]))
        fake = draw(gan, num, "noise/evaluation")
        if fake.ndim == 4:
            fake = as_training_input(to_uint8(fake))
        metrics = {
            "sliced_wasserstein": sliced_wasserstein(real, fake),
            "sliced_wasserstein/floor": sliced_wasserstein(real, more_real),
        }
        if data.modes is not None:
            metrics |= mode_coverage(draw(gan, 2500, "noise/samples"), data.modes, data.mode_std)
        gan.latest_metrics |= metrics
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=gan.images_seen)
