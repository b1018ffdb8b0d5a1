"""The sweepers that hydra/sweeper=basic and hydra/sweeper=optuna name."""

from typing import Any, Literal

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class GridSweeper(Sweeper):
    """Every combination, each in a process of its own."""

    kind: Literal["grid", "optuna"] = "grid"

    def __init__(self, **settings: Any):
        """`gan_lab.sweep.plan.Settings` says which there are."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.composed = (config, hydra_context, task_function)

    def sweep(self, arguments: list[str]) -> None:
        from gan_lab.errors import debugging
        from gan_lab.sweep.sweeper import run_sweep

        with debugging(self.composed[0].get("debug", False)):
            run_sweep(self.kind, arguments, *self.composed)


class OptunaSweeper(GridSweeper):
    """What Optuna's sampler suggests and its pruner lets go on."""

    kind = "optuna"
