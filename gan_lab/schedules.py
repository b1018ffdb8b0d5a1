"""Values that change with the images seen, as in the burn-in of R3GAN."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from gan_lab.constraints import Decay, NonNegativeFloat, PositiveFloat


class Values(NamedTuple):
    """At one moment: what configured values are multiplied by, and Adam's betas themselves (None: as the optimizer's).

    lr_factor: of both players' learning rates; penalty_factor: of all penalties; half_life_factor: of the average's.
    """

    lr_factor: float
    beta1: float | None
    beta2: float | None
    penalty_factor: float
    half_life_factor: float


def cosine(start: float, end: float, progress: float) -> float:
    """start + (end - start) (1 - cos(pi progress)) / 2, from `start` at progress 0 to exactly `end` at 1 and after."""
    if progress >= 1:
        return float(end)
    return start + (end - start) * 0.5 * (1.0 - math.cos(math.pi * progress))


@dataclass(frozen=True, kw_only=True)
class Schedules:
    """Pairs (start, end), each gone through by `cosine` while `over_kimg` thousand real images are shown to D.

    over_kimg: None is the whole budget. Factors of the configured values, except beta1 and beta2, which are the values
    of Adam's betas for both players (None: they do not change). They multiply with what else changes a value, such as
    the optimizer's own decay. Huang et al. 2024, R3GAN: the burn-in of its code.
    """

    over_kimg: PositiveFloat | None = None
    lr_factor: tuple[NonNegativeFloat, NonNegativeFloat] = (1.0, 1.0)
    beta1: tuple[Decay, Decay] | None = None
    beta2: tuple[Decay, Decay] | None = None
    penalty_factor: tuple[NonNegativeFloat, NonNegativeFloat] = (1.0, 1.0)
    half_life_factor: tuple[NonNegativeFloat, NonNegativeFloat] = (1.0, 1.0)

    def at(self, images_seen: int, budget_images: int) -> Values:
        """The values of the update that follows when `images_seen` of `budget_images` were shown."""
        progress = images_seen / (budget_images if self.over_kimg is None else 1000 * self.over_kimg)
        return Values(
            lr_factor=cosine(*self.lr_factor, progress),
            beta1=None if self.beta1 is None else cosine(*self.beta1, progress),
            beta2=None if self.beta2 is None else cosine(*self.beta2, progress),
            penalty_factor=cosine(*self.penalty_factor, progress),
            half_life_factor=cosine(*self.half_life_factor, progress),
        )
