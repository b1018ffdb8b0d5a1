"""Tells whoever runs the training, a sweep say, of its metrics, and lets them end it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gan_lab.callbacks.base import Callback

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from gan_lab.module import GAN


class Reporter(Protocol):
    def __call__(self, images_seen: int, metrics: dict[str, float], share_of_budget: float) -> bool:
        """Takes the metrics that were written after a cycle; False ends the run."""


class Report(Callback):
    """Passes on every metric that is written; ends training where the answer is no."""

    def __init__(self, reporter: Reporter):
        self.reporter = reporter
        self.pruned = False

    def on_cycle_end(self, trainer: Trainer, gan: GAN) -> None:
        if not gan.published or not trainer.is_global_zero or self.pruned:
            return
        goes_on = self.reporter(gan.images_seen, dict(gan.published), gan.share_of_budget)
        if not goes_on and not gan.finished:
            self.pruned = gan.stop_asked = True
