"""Optuna's pruners with their points in shares of a run's budget, `budget_images`: steps are images seen."""

from typing import TYPE_CHECKING

from gan_lab.constraints import Fraction, NonNegativeInt, PositiveInt

if TYPE_CHECKING:
    import optuna


def _images(share: float, budget_images: int) -> int:
    return max(1, round(share * budget_images))


def successive_halving(
    *, budget_images: int, first_share: Fraction = 0.1, reduction_factor: PositiveInt = 3
) -> "optuna.pruners.BasePruner":
    """Asynchronous successive halving (Li et al. 2020): at first_share of the budget, and whenever images have grown by
    reduction_factor, only the best 1 / reduction_factor of those that have come so far go on."""
    from optuna.pruners import SuccessiveHalvingPruner

    return SuccessiveHalvingPruner(_images(first_share, budget_images), reduction_factor)


def hyperband(
    *, budget_images: int, first_share: Fraction = 0.1, reduction_factor: PositiveInt = 3
) -> "optuna.pruners.BasePruner":
    """Hyperband (Li et al. 2018): several successive halvings, of which the first begins at first_share of the budget,
    the next at reduction_factor times as much, and so on."""
    from optuna.pruners import HyperbandPruner

    return HyperbandPruner(_images(first_share, budget_images), budget_images, reduction_factor)


def median(
    *, budget_images: int, num_startup_trials: NonNegativeInt = 5, warm_up_share: Fraction = 0.2
) -> "optuna.pruners.BasePruner":
    """Ends a run whose best score so far is worse than the median of the finished ones at the same time; none before
    warm_up_share of the budget, or before num_startup_trials have finished."""
    from optuna.pruners import MedianPruner

    return MedianPruner(num_startup_trials, _images(warm_up_share, budget_images))
