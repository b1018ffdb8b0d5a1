"""Says in plain words when training goes wrong, and does what was asked for then."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, cast

from gan_lab.callbacks.base import Callback, is_tensorboard
from gan_lab.constraints import Decay, PositiveFloat, PositiveInt
from gan_lab.errors import RunError
from gan_lab.evaluation import LARGER_IS_BETTER
from gan_lab.health import Finding, Watch
from gan_lab.losses import blind_loss, least_loss
from gan_lab.player import NonFinite

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from gan_lab.module import GAN

log = logging.getLogger(__name__)

MOST_PATIENCE_KIMG = 100.0


class Unhealthy(RunError):
    """The health watch has ended the run."""


class RollBack(RunError):
    """Training is to go on from the last good checkpoint, with lower learning rates."""


class Health(Callback):
    """Looks at every metric that is written (see `gan_lab.health` for the rules); warns once when a problem begins.

    action: warn (log, TensorBoard, run.json), stop (the run ends as failed), or roll_back (to the last checkpoint
    before the problem showed, learning rates times `lr_factor`; at most `most_roll_backs` times, then stop).
    patience_kimg: how long D must have won, or G's gradient have vanished; null is a fifth of the budget, at most 100.
    patience_evaluations: how many evaluations in a row must show a collapse or overfitting. late_factor: how many times
    worse than its best the deciding metric must be. max_discriminator_gap: above it D overfits.
    """

    def __init__(
        self,
        *,
        action: Literal["warn", "stop", "roll_back"] = "warn",
        lr_factor: Decay = 0.5,
        most_roll_backs: PositiveInt = 3,
        patience_kimg: PositiveFloat | None = None,
        patience_evaluations: PositiveInt = 3,
        late_factor: PositiveFloat = 1.5,
        max_discriminator_gap: PositiveFloat = 0.8,
    ):
        self.action = action
        self.lr_factor = lr_factor
        self.most_roll_backs = most_roll_backs
        self.settings: dict[str, Any] = {
            "patience_kimg": patience_kimg,
            "patience_evaluations": patience_evaluations,
            "late_factor": late_factor,
            "max_discriminator_gap": max_discriminator_gap,
        }
        self.num_roll_backs = 0  # this and the next two are set by the run
        self.memory: dict[str, Any] | None = None
        self.record: Callable[[Finding], None] = lambda finding: None
        self.watch = Watch()
        self.asked_to_stop: Finding | None = None

    def on_start(self, trainer: Trainer, gan: GAN) -> None:
        settings = self.settings
        if settings["patience_kimg"] is None:
            settings = {**settings, "patience_kimg": min(gan.budget_images / 5000, MOST_PATIENCE_KIMG)}
        data = trainer.datamodule.data  # type: ignore[attr-defined]
        classes = data.parts.classes if data.coupled else data.classes
        known = data.modes if data.modes is not None else classes
        judged_at_once = gan.batch_size // gan.packing
        self.watch = Watch(
            **settings,
            blind_loss=blind_loss(gan.adversarial_loss, judged_at_once),
            least_loss=least_loss(gan.adversarial_loss, judged_at_once),
            num_modes=None if known is None else len(known),
            metric=self.objective,
            larger_is_better=self.objective in LARGER_IS_BETTER,
        )
        if self.memory is not None:
            self.watch.load_state(self.memory)

    def on_cycle_end(self, trainer: Trainer, gan: GAN) -> None:
        published = gan.published
        findings: list[Finding] = []
        if "loss/discriminator" in published:
            findings += self.watch.on_metrics(gan.images_seen, published)
        if any(name.endswith("/floor") for name in published):
            findings += self.watch.on_evaluation(gan.images_seen, published, share_of_budget=gan.share_of_budget)
        for finding in findings:
            if trainer.is_global_zero:
                log.warning(f"warning: {finding.problem}: {finding.message}")
                self._write(finding, trainer)
        if findings and self.may_roll_back:
            raise RollBack(findings[0].message)
        if findings and self.action != "warn":
            self.asked_to_stop, gan.stop_asked = findings[0], True

    def _write(self, finding: Finding, trainer: Trainer) -> None:
        """To run.json and TensorBoard."""
        self.record(finding)
        for logger in trainer.loggers:
            if is_tensorboard(logger):
                text = f"**{finding.problem}** {finding.message}"
                cast("Any", logger).experiment.add_text("health", text, finding.images_seen)

    def on_exception(self, trainer: Trainer, gan: GAN, error: BaseException) -> None:
        """Writes that a loss is not a number, while the loggers are still open."""
        if isinstance(error, NonFinite) and trainer.is_global_zero:
            self._write(Finding("non_finite", gan.images_seen, str(error)), trainer)

    @property
    def may_roll_back(self) -> bool:
        return self.action == "roll_back" and self.num_roll_backs < self.most_roll_backs

    @property
    def keeps_checkpoints(self) -> bool:
        """Whether the present state may replace the last good one."""
        return self.action != "roll_back" or not (self.watch.active or self.watch.suspected)
