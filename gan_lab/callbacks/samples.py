"""Pictures of what the generator draws from the same latents all along."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from gan_lab.callbacks.base import Callback
from gan_lab.constraints import PositiveFloat, PositiveInt
from gan_lab.data import Data
from gan_lab.images import image_grid, save_png, scatter_plot, to_uint8
from gan_lab.sampling import generate, latents_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytorch_lightning import Trainer

    from gan_lab.module import GAN

Weights = Literal["ema", "raw"]
NUM_POINTS = 2500
"""Points in a scatter plot: the number that mode coverage is scored on."""


def draw(gan: GAN, num: int, stream: str, weights: Weights = "ema") -> Tensor:
    """Samples 0 to num - 1 of a stream of latents, on the CPU; training is not affected."""
    generator = gan.generator_ema if weights == "ema" else gan.generator
    latents = latents_of(gan.streams, stream, num, gan.latent_dim, gan.latent_distribution)
    return torch.cat([samples.cpu() for samples in generate(generator, latents)])


def picture_of(samples: Tensor, data: Data, columns: int) -> Tensor:
    """A grid of images, or a scatter plot of points with the true modes; uint8 (C, H, W)."""
    if samples.ndim == 2:
        return scatter_plot(samples, data.modes, data.mode_std)
    return image_grid(samples if samples.dtype == torch.uint8 else to_uint8(samples), columns)


def log_picture(loggers: Sequence[Any], name: str, picture: Tensor, step: int) -> None:
    """A uint8 picture (C, H, W) to every logger that takes pictures: TensorBoard's writer, or one with `log_image`."""
    for logger in loggers:
        if hasattr(getattr(logger, "experiment", None), "add_image"):
            logger.experiment.add_image(name, picture, step)
        elif hasattr(logger, "log_image"):
            logger.log_image(key=name, images=[picture.permute(1, 2, 0).numpy()], step=step)


class SampleGrid(Callback):
    """Every `every_kimg`, at the start and at the end: samples/<images seen>.png and TensorBoard's image tab.

    `num` fixed latents, `columns` in a row (points: 2,500, plotted); `samples/real.png` shows the data likewise.
    """

    def __init__(
        self,
        *,
        every_kimg: PositiveFloat = 20.0,
        num: PositiveInt = 64,
        columns: PositiveInt = 8,
        weights: Weights = "ema",
    ):
        self.every_images = every_kimg * 1000
        self.num = num
        self.columns = columns
        self.weights: Weights = weights

    def on_start(self, trainer: Trainer, gan: GAN) -> None:
        if gan.images_seen == 0 and trainer.is_global_zero:
            data = trainer.datamodule.data  # type: ignore[attr-defined]
            real = data.samples[: NUM_POINTS if data.samples.ndim == 2 else self.num]
            save_png(picture_of(real, data, self.columns), Path(trainer.default_root_dir, "samples", "real.png"))
            self._write(trainer, gan)

    def on_cycle_end(self, trainer: Trainer, gan: GAN) -> None:
        if gan.due(self.every_images) and trainer.is_global_zero:
            self._write(trainer, gan)

    def _write(self, trainer: Trainer, gan: GAN) -> None:
        data = trainer.datamodule.data  # type: ignore[attr-defined]
        num = NUM_POINTS if data.samples.ndim == 2 else self.num
        picture = picture_of(draw(gan, num, "noise/samples", self.weights), data, self.columns)
        save_png(picture, Path(trainer.default_root_dir, "samples", f"{gan.images_seen:09d}.png"))
        log_picture(trainer.loggers, "samples", picture, gan.images_seen)
