"""Shows how far training is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from gan_lab.callbacks.base import Callback
from gan_lab.constraints import PositiveFloat

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from gan_lab.module import GAN

log = logging.getLogger(__name__)


class Progress(Callback):
    """Images seen of the budget, images a second, both losses, the deciding metric, time left; refreshed every
    `every_seconds` on a terminal and every `every_seconds_plain` elsewhere."""

    def __init__(self, *, every_seconds: PositiveFloat = 0.5, every_seconds_plain: PositiveFloat = 10.0):
        self.terminal = sys.stderr.isatty()
        self.every_seconds = every_seconds if self.terminal else every_seconds_plain
        self._bar: Any = None
        self._around = ExitStack()  # messages go above the bar
        self._shown_at = self._started = 0.0
        self._start_images, self._start_share = 0, 0.0

    def on_start(self, trainer: Trainer, gan: GAN) -> None:
        self._started = self._shown_at = time.monotonic()
        self._start_images, self._start_share = gan.images_seen, gan.share_of_budget
        if self.terminal and trainer.is_global_zero:
            self._around.enter_context(logging_redirect_tqdm())
            self._bar = tqdm(
                total=100,
                initial=100 * gan.share_of_budget,
                bar_format="{percentage:3.0f}%|{bar}| {desc}",
                dynamic_ncols=True,
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
        if self.objective in gan.latest_metrics:
            losses.append(f"{self.objective} {gan.latest_metrics[self.objective]:.4g}")
        share = gan.share_of_budget
        left = (now - self._started) * (1 - share) / max(share - self._start_share, 1e-9)
        kimg = f"{gan.images_seen / 1000:,.1f} of {gan.budget_images / 1000:,.1f} kimg"
        text = ", ".join([kimg, f"{speed:,.0f} images/s", *losses, f"{tqdm.format_interval(left)} left"])
        if self._bar is not None:
            self._bar.set_description_str(text, refresh=False)
            self._bar.update(100 * share - self._bar.n)
            self._bar.refresh()
        else:
            log.info(f"{share:4.0%}  {text}")

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
            self._around.close()

    def on_end(self, trainer: Trainer, gan: GAN) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, gan: GAN, error: BaseException) -> None:
        self._close()
