"""Saves the run's state after whole cycles; the files of a run's generators."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gan_lab.callbacks.base import Callback
from gan_lab.constraints import PositiveFloat
from gan_lab.errors import RunError
from gan_lab.features import weights_hash
from gan_lab.files import read_checkpoint, write_checkpoint

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from gan_lab.module import GAN


class Checkpoint(Callback):
    """checkpoints/last.ckpt: every `every_kimg`, every `every_minutes`, when stopping and at the end.

    Saving changes nothing in training, so the minutes may differ between two runs that are otherwise equal. All loggers
    are flushed first: what lies on the disk up to the checkpoint's images is complete.
    """

    def __init__(self, *, every_kimg: PositiveFloat = 100.0, every_minutes: PositiveFloat | None = 5.0):
        self.every_images = every_kimg * 1000
        self.every_minutes = every_minutes
        self.write: Callable[[GAN], None] = lambda gan: None  # set by the run, which knows the configuration
        self._saved_at = 0.0

    def on_start(self, trainer: Trainer, gan: GAN) -> None:
        self._saved_at = time.monotonic()

    def on_cycle_end(self, trainer: Trainer, gan: GAN) -> None:
        overdue = self.every_minutes is not None and time.monotonic() - self._saved_at > 60 * self.every_minutes
        if trainer.is_global_zero and (overdue or trainer.should_stop or gan.due(self.every_images)):
            gan.generator_player.check_finite(gan)
            gan.discriminator_player.check_finite(gan)
            for logger in trainer.loggers:
                logger.save()
            self.write(gan)
            self._saved_at = time.monotonic()


def last_checkpoint(run_dir: Path) -> Path:
    return run_dir / "checkpoints" / "last.ckpt"


def best_checkpoint(run_dir: Path) -> Path:
    return run_dir / "checkpoints" / "best.ckpt"


def write_best(run_dir: Path, about: dict[str, Any], gan: GAN, score: dict[str, Any]) -> None:
    """checkpoints/best.ckpt: exactly the weights that were scored, with their score and hash."""
    network = gan.generator_ema if score["weights"] == "ema" else gan.generator
    weights = network.state_dict()
    content = {**about, "generator": weights, "score": score, "weights_hash": weights_hash(weights)}
    write_checkpoint(best_checkpoint(run_dir), content)


def read_best(run_dir: Path) -> dict[str, Any]:
    """The content of best.ckpt; RunError where there is none, or where its weights are not those that were scored."""
    path = best_checkpoint(run_dir)
    if not path.is_file():
        raise RunError(f"there is no {path}: the run has not been evaluated yet, or was started with evaluation=none")
    content = read_checkpoint(path)
    if weights_hash(content["generator"]) != content["weights_hash"]:
        raise RunError(f"{path} is damaged: its weights are not those that were scored")
    return content


def read_best_score(run_dir: Path) -> dict[str, Any] | None:
    """The score of best.ckpt, if there is one."""
    return read_best(run_dir)["score"] if best_checkpoint(run_dir).is_file() else None
