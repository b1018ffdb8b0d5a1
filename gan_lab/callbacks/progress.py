"""Shows how far training is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from gan_lab.callbacks.base import Callback
from gan_lab.constraints import PositiveFloat

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from gan_lab.module import GAN

log = logging.getLogger(__name__)


class Progress(Callback):
    """Images seen of the budget, images a second, both losses, time left; refreshed every `every_seconds` on a terminal
    and every `every_seconds_plain` elsewhere."""

    def __init__(self, *, every_seconds: PositiveFloat = 0.5, every_seconds_plain: PositiveFloat = 10.0):
        self.terminal = sys.stderr.isatty()
        self.every_seconds = every_seconds if self.terminal else every_seconds_plain
        self._bar: Any = None
        self._shown_at = self._started = 0.0
        self._start_images = 0

    def on_start(self, trainer: Trainer, gan: GAN) -> None:
        self._started = self._shown_at = time.monotonic()
        self._start_images = gan.images_seen
        if self.terminal and trainer.is_global_zero:
            self._bar = tqdm(
                total=gan.budget_images / 1000,
                initial=gan.images_seen / 1000,
                unit="kimg",
                bar_format="{percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} kimg [{elapsed}<{remaining}{postfix}]",
                dynamic_ncols=True,
                leave=True,
            )

    def on_cycle_end(self, trainer: Trainer, gan: GAN) -> None:
        now = time.monotonic()
        if not trainer.is_global_zero or (now - self._shown_at < self.every_seconds and not gan.finished):
            return
        self._shown_at = now
        speed = (gan.images_seen - self._start_images) / max(now - self._started, 1e-9)
        losses = [
            f"{player[0].upper()} {gan.latest_metrics[key]:.3f}"
            for player in ("discriminator", "generator")
            if (key := f"loss/{player}") in gan.latest_metrics
        ]
        text = ", ".join([f"{speed:,.0f} images/s", *losses])
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(gan.images_seen / 1000 - self._bar.n)
            self._bar.refresh()
        else:
            left = max(gan.budget_images - gan.images_seen, 0) / max(speed, 1e-9)
            share = min(gan.images_seen / gan.budget_images, 1)
            log.info(
                f"{share:4.0%}  {gan.images_seen / 1000:,.1f} of {gan.budget_images / 1000:,.1f} kimg, {text}, "
                f"{tqdm.format_interval(left)} left"
            )

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def on_end(self, trainer: Trainer, gan: GAN) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, gan: GAN) -> None:
        self._close()
