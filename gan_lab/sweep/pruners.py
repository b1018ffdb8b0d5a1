"""Optuna's pruners with their points in shares of a run's budget: steps are images seen, and budgets differ.

Without a budget the points follow the first run that has ended, until which none is pruned.
"""

from typing import TYPE_CHECKING

from gan_lab.constraints import Fraction, NonNegativeInt, PositiveInt

if TYPE_CHECKING:
    import optuna


def _images(share: float, budget_images: int) -> int:
    return max(1, round(share * budget_images))


def successive_halving(
    first_share: Fraction = 0.1, reduction_factor: PositiveInt = 3, budget_images: int | None = None
) -> "optuna.pruners.BasePruner":
    """Asynchronous successive halving (Li et al. 2020): at first_share of the budget, and whenever images have grown by
    reduction_factor, only the best 1 / reduction_factor of those that have come so far go on."""
    from optuna.pruners import SuccessiveHalvingPruner

    if budget_images is None:
        return SuccessiveHalvingPruner(reduction_factor=reduction_factor, min_early_stopping_rate=2)
    return SuccessiveHalvingPruner(_images(first_share, budget_images), reduction_factor)


def hyperband(
    first_share: Fraction = 0.1, reduction_factor: PositiveInt = 3, budget_images: int | None = None
) -> "optuna.pruners.BasePruner":
    """Hyperband (Li et al. 2018): several successive halvings, of which the first begins at first_share of the budget,
    the next at reduction_factor times as much, and so on."""
    from optuna.pruners import HyperbandPruner

    if budget_images is None:
        return HyperbandPruner(min_resource=20000, reduction_factor=reduction_factor)
    return HyperbandPruner(_images(first_share, budget_images), budget_images, reduction_factor)


def median(
    num_startup_trials: NonNegativeInt = 5, warm_up_share: Fraction = 0.2, budget_images: int | None = None
) -> "optuna.pruners.BasePruner":
    """Ends a run whose best score so far is worse than the median of the finished ones at the same time; none before
    warm_up_share of the budget, or before num_startup_trials have finished."""
    from optuna.pruners import MedianPruner

    return MedianPruner(num_startup_trials, _images(warm_up_share, budget_images or 300000))
