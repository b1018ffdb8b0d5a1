"""The configuration in the loggers: as text, and in TensorBoard's HPARAMS tab with the final metrics beside it."""

from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from gan_lab.callbacks.evaluation import Evaluate
from gan_lab.callbacks.metrics import LogMetrics
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
        self.final: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, gan: GAN) -> None:  # type: ignore[override]
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if isinstance(logger, TensorBoardLogger):
                experiment, session_start, _ = hparams(self.values, {FINAL + name: 0.0 for name in self.measured})
                writer: Any = logger.experiment
                writer.file_writer.add_summary(experiment)
                writer.file_writer.add_summary(session_start)
                writer.add_text("configuration", f"```yaml\n{self.text}```", gan.images_seen)
            else:
                logger.log_hyperparams(self.values)

    def on_train_end(self, trainer: Trainer, gan: GAN) -> None:  # type: ignore[override]
        if not gan.finished or not trainer.is_global_zero:
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, LogMetrics | Evaluate):
                self.final |= callback.latest
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                writer: Any = logger.experiment
                for name in self.measured:
                    if name in self.final:
                        writer.add_scalar(FINAL + name, self.final[name], gan.images_seen)
                _, _, session_end = hparams(self.values, {})
                writer.file_writer.add_summary(session_end)
