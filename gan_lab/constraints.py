"""Types that carry their legal range, for constructor signatures: ``width: PositiveInt = 64``.

A signature is the schema of its config node: ``gan_lab.config.check`` reads these annotations, so a value out of range
is refused before anything is built. They are ordinary ``typing.Annotated`` types: nothing happens at call time.
"""

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """low <= value <= high; the ends are left out where ``open_low`` or ``open_high`` say so; None is no limit."""

    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = self.low is None or (value > self.low if self.open_low else value >= self.low)
        below = self.high is None or (value < self.high if self.open_high else value <= self.high)
        return above and below

    def __str__(self) -> str:
        parts = []
        if self.low is not None:
            parts.append(f"{'above' if self.open_low else 'at least'} {self.low:g}")
        if self.high is not None:
            parts.append(f"{'below' if self.open_high else 'at most'} {self.high:g}")
        return " and ".join(parts)


PositiveInt = Annotated[int, Range(low=1)]
NonNegativeInt = Annotated[int, Range(low=0)]
PositiveFloat = Annotated[float, Range(low=0, open_low=True)]
NonNegativeFloat = Annotated[float, Range(low=0)]
Fraction = Annotated[float, Range(low=0, high=1)]
"""A share, ends included."""
Decay = Annotated[float, Range(low=0, high=1, open_high=True)]
"""A moving-average coefficient: 0 forgets at once, 1 would never move."""
ImageSize = Annotated[int, Range(low=8, high=128)]
"""Height and width of the square images in pixels."""
