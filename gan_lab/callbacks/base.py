"""The moments of training at which something can be read, written or stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from gan_lab.module import GAN


def is_tensorboard(logger: Any) -> bool:
    """Whether the logger's experiment is a TensorBoard writer."""
    return hasattr(getattr(logger, "experiment", None), "file_writer")


class Callback:
    """What a Lightning callback is, without Lightning's import, which takes seconds: checking a configuration needs our
    callbacks' signatures. `gan_lab.run` hands the hooks over to Lightning in one go, and sets `objective`."""

    objective: str | None = None
    """The metric that decides which generator is the best; None: no metric does."""

    def on_start(self, trainer: Trainer, gan: GAN) -> None:
        """Before the first cycle of this sitting; the state of a resumed run is back."""

    def on_cycle_start(self, trainer: Trainer, gan: GAN) -> None:
        """Before each cycle."""

    def on_cycle_end(self, trainer: Trainer, gan: GAN) -> None:
        """After each cycle: counters and weights belong together."""

    def on_end(self, trainer: Trainer, gan: GAN) -> None:
        """After the last cycle of this sitting."""

    def on_exception(self, trainer: Trainer, gan: GAN, error: BaseException) -> None:
        """When training ends by an error."""
