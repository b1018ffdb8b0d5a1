"""The configuration in the loggers: as text, and in TensorBoard's HPARAMS tab with the final metrics beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from torch.utils.tensorboard.summary import hparams

from gan_lab.callbacks.base import Callback, is_tensorboard

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from gan_lab.module import GAN


FINAL = "final/"
"""Prefix of the metrics in the HPARAMS tab, which has one value of each a run."""


class Hyperparameters(Callback):
    """At the start: every leaf of the resolved configuration, so that runs that end early are listed too. At the end of
    the budget: the last value of each metric in `measured`."""

    def __init__(self, values: Mapping[str, Any], text: str, measured: Sequence[str]):
        self.values = {
            key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in values.items()
        }
        self.text = text
        self.measured = measured

    def on_start(self, trainer: Trainer, gan: GAN) -> None:
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if is_tensorboard(logger):
                experiment, session_start, _ = hparams(self.values, {FINAL + name: 0.0 for name in self.measured})
                writer = cast("Any", logger).experiment
                writer.file_writer.add_summary(experiment)
                writer.file_writer.add_summary(session_start)
                writer.add_text("configuration", f"```yaml\n{self.text}```", gan.images_seen)
            else:
                logger.log_hyperparams(self.values)

    def on_end(self, trainer: Trainer, gan: GAN) -> None:
        if not gan.finished or not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if is_tensorboard(logger):
                writer = cast("Any", logger).experiment
                for name in self.measured:
                    if name in gan.latest_metrics:
                        writer.add_scalar(FINAL + name, gan.latest_metrics[name], gan.images_seen)
                _, _, session_end = hparams(self.values, {})
                writer.file_writer.add_summary(session_end)
