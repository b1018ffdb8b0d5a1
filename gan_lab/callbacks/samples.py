"""Pictures of what the generator draws from the same latents all along."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from gan_lab.callbacks.base import Callback, is_tensorboard
from gan_lab.constraints import PositiveFloat, PositiveInt
from gan_lab.data import Data
from gan_lab.images import image_grid, save_png, scatter_plot, to_uint8, whole_groups
from gan_lab.sampling import latents_of, samples_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytorch_lightning import Trainer

    from gan_lab.module import GAN

Weights = Literal["ema", "raw"]
NUM_POINTS = 2500
"""Points in a scatter plot: the number that mode coverage is scored on."""

MOST_COLUMNS = 20
"""Labels or codes that a picture shows; more, such as the 1,000 of stacked digits, would not be legible."""


def draw_latents(gan: GAN, num: int, stream: str) -> Tensor:
    """G's inputs 0 to num - 1 of a stream."""
    return torch.cat(list(latents_of(gan.streams, stream, num, gan.latent_space)))


def draw(gan: GAN, latents: Tensor, weights: Weights = "ema") -> Tensor:
    """The samples of these latents, on the CPU; training is not affected."""
    generator = gan.generator_ema if weights == "ema" else gan.generator
    return samples_of(generator, latents)


def latents_of_grid(noise: Tensor, codes: Tensor) -> Tensor:
    """Each noise (N, latent_dim) with each of the codes (M, num_codes), noise after noise: (N M, ...)."""
    together = codes.to(noise.device).repeat(len(noise), 1)
    return torch.cat([noise.repeat_interleave(len(codes), dim=0), together], dim=1)


def picture_of(samples: Tensor, data: Data, columns: int) -> Tensor:
    """A grid of images, or a scatter plot of points with the true modes; uint8 (C, H, W)."""
    if samples.ndim == 2:
        return scatter_plot(samples, data.modes, data.mode_std)
    return image_grid(samples if samples.dtype == torch.uint8 else to_uint8(samples), columns)


def log_picture(loggers: Sequence[Any], name: str, picture: Tensor, png: bytes, step: int) -> None:
    """A uint8 picture (C, H, W) to every logger that takes pictures: TensorBoard's writer, or one with `log_image`.

    png: the same as a file's content, which TensorBoard keeps as it is: to pack it takes longer than all the rest.
    """
    from tensorboard.compat.proto.summary_pb2 import Summary  # here: a check of the configuration need not wait for it

    for logger in loggers:
        if is_tensorboard(logger):
            channels, height, width = picture.shape
            image = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=png)
            logger.experiment.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)
        elif hasattr(getattr(logger, "experiment", None), "add_image"):
            logger.experiment.add_image(name, picture, step)
        elif hasattr(logger, "log_image"):
            logger.log_image(key=name, images=[picture.permute(1, 2, 0).numpy()], step=step)


class SampleGrid(Callback):
    """Every `every_kimg`, at the start and at the end: samples/<images seen>.png and TensorBoard's image tab.

    `num` fixed latents, `columns` in a row (points: 2,500, plotted); `samples/real.png` shows the data likewise. Where
    G gets labels or codes, each column is one of them and each row one noise, or several beside each other where they
    fit into `columns`; continuous codes have pictures of their own, on which one of them goes from -1 to 1.
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
            num = NUM_POINTS if data.samples.ndim == 2 else self.num
            chosen = torch.randperm(len(data.samples), generator=torch.Generator().manual_seed(0))[:num]
            picture = picture_of(data.samples[chosen], data, self.columns)
            save_png(picture, Path(trainer.default_root_dir, "samples", "real.png"))
            self._write(trainer, gan)

    def on_cycle_end(self, trainer: Trainer, gan: GAN) -> None:
        if gan.due(self.every_images) and trainer.is_global_zero:
            self._write(trainer, gan)

    def _write(self, trainer: Trainer, gan: GAN) -> None:
        data = trainer.datamodule.data  # type: ignore[attr-defined]
        grids = {} if data.samples.ndim == 2 else gan.conditioning.grids()
        if not grids:
            num = NUM_POINTS if data.samples.ndim == 2 else self.num
            self._show("samples", draw_latents(gan, num, "noise/samples"), self.columns, trainer, gan)
        for name, codes in grids.items():
            few = codes[:MOST_COLUMNS]
            columns = whole_groups(len(few), min(self.columns, self.num))
            num_noises = max(1, self.num // columns) * columns // len(few)
            noise = draw_latents(gan, num_noises, "noise/samples")[:, : gan.latent_space.dim]
            self._show(name, latents_of_grid(noise, few), columns, trainer, gan)

    def _show(self, name: str, latents: Tensor, columns: int, trainer: Trainer, gan: GAN) -> None:
        data = trainer.datamodule.data  # type: ignore[attr-defined]
        picture = picture_of(draw(gan, latents, self.weights), data, columns)
        suffix = "" if name == "samples" else f"-{name}"
        png = save_png(picture, Path(trainer.default_root_dir, "samples", f"{gan.images_seen:09d}{suffix}.png"))
        log_picture(trainer.loggers, name, picture, png, gan.images_seen)
