"""Draws which losses and penalties converge in the smallest game there is, the Dirac-GAN (Mescheder et al. 2018).

    python scripts/dirac.py                      # writes outputs/dirac.png; a minute on one core
    python scripts/dirac.py --out picture.png

The data are the point 0, the generator makes the point theta, D(x) = psi x (lsgan, whose labels are 0 and 1, has a bias
as well): the equilibrium is theta = psi = 0. Both players follow the plain gradients of the package's own losses and
penalties. Each panel shows the way of (theta, psi) from the small circle: in blue where the players move in turn, D
first, as gan_lab trains; in orange where both move at once. Under it stand a word and the last mean radius, that is the
distance from the equilibrium, both measured (`verdict`). tests/test_dirac.py derives what is to be expected.
"""

import argparse
import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from gan_lab.losses import (
    AdversarialLoss,
    boundary,
    hinge,
    lsgan,
    minimax,
    relativistic,
    relativistic_average,
    softmax,
    vanilla,
    wasserstein,
)
from gan_lab.penalties import LeCam, r1, r1_r2, wgan_gp

Penalty = Callable[..., Tensor]

REAL = torch.zeros(1, 1, dtype=torch.float64)


# ---------------------------------------------------------------------- the game


def half(shape: tuple[int, ...]) -> Tensor:
    """What the penalties draw here: 1/2 each time."""
    return torch.full(shape, 0.5, dtype=torch.float64)


def velocity(loss: AdversarialLoss, penalty: Penalty | None, state: Tensor, players: str = "GD") -> Tensor:
    """Minus the gradient of each player's loss by that player's own values, at the state (theta, psi[, bias])."""
    state = state.clone().requires_grad_()
    fake, psi, bias = state[:1].view(1, 1), state[1], state[2] if len(state) == 3 else 0.0

    def discriminator(inputs: Tensor) -> Tensor:
        return psi * inputs.flatten() + bias

    real_logits, fake_logits = discriminator(REAL), discriminator(fake)
    result = torch.zeros_like(state)
    if "G" in players:
        value = loss.generator(*[real_logits] * loss.generator_sees_real, fake_logits).mean()
        result[0] = -torch.autograd.grad(value, state, retain_graph=True)[0][0]
    if "D" in players:
        value = loss.discriminator(real_logits, fake_logits).mean()
        if penalty is not None:
            value = value + penalty(discriminator, REAL, fake.detach(), half).mean()
        result[1:] = -torch.autograd.grad(value, state)[0][1:]
    return result


def played(
    loss: AdversarialLoss,
    *start: float,
    rate: float,
    steps: int,
    penalty: Penalty | None = None,
    alternating: bool = False,
    clip: float = math.inf,
) -> Tensor:
    """The states (steps + 1, 2 or 3). Alternating: D first, as in gan_lab.procedures."""
    state = torch.tensor(start, dtype=torch.float64)
    states = [state]
    penalty = copy.deepcopy(penalty)  # LeCam's averages are those of one game
    for _ in range(steps):
        for players in ("D", "G") if alternating else ("GD",):
            before = state
            state = state + rate * velocity(loss, penalty, state, players)
            if "D" in players and isinstance(penalty, LeCam):
                theta, psi, bias = *before[:2], before[2:].sum()
                penalty.observe(bias, psi * theta + bias, 1)
        state[1:].clamp_(-clip, clip)
        states.append(state)
    return torch.stack(states)


def radius(states: Tensor) -> Tensor:
    return states[:, :2].norm(dim=1)


def verdict(states: Tensor) -> str:
    """How a way ends, from the mean radius in its last quarter, against its start and against the quarter before.

    converges: below 2 % of the start. diverges: above twice the start, or still grows by 5 % a quarter. fades, which is
    slower than converges: below half of the start, and still shrinks by 5 % a quarter. circles: nothing of this, and
    moves by more than a tenth of the start. stops: nor that.
    """
    quarter = len(states) // 4
    before, last = states[-2 * quarter : -quarter], states[-quarter:]
    start, end = radius(states[:1]).item(), radius(last).mean().item()
    ratio = end / radius(before).mean().item()
    if end < 0.02 * start:
        return "converges"
    if end > 2 * start or ratio > 1.05:
        return "diverges"
    if end < 0.5 * start and ratio < 0.95:
        return "fades"
    movement = (last.amax(dim=0) - last.amin(dim=0))[:2].max().item()
    return "circles" if movement > 0.1 * start else "stops"


# ---------------------------------------------------------------------- the picture


def lecam(weight: float, decay: float = 0.99) -> LeCam:
    """The penalty in double precision, from the first step on."""
    penalty = LeCam(weight=weight, decay=decay, start_kimg=0)
    penalty.state = {name: value.double() for name, value in penalty.state.items()}
    return penalty


class Restraint(NamedTuple):
    """What keeps D in check."""

    name: str
    penalty: Penalty | None = None
    clip: float = math.inf


# name: (loss, further values of the start)
LOSSES: dict[str, tuple[AdversarialLoss, tuple[float, ...]]] = {
    "vanilla": (vanilla(), ()),
    "minimax": (minimax(), ()),
    "lsgan": (lsgan(), (0.0,)),
    "hinge": (hinge(), ()),
    "wasserstein": (wasserstein(), ()),
    "relativistic": (relativistic(), ()),
    "relativistic_average": (relativistic_average(), ()),
    "boundary": (boundary(), ()),
    "softmax": (softmax(), ()),
}
RESTRAINTS = (
    Restraint("no penalty"),
    Restraint("R1, weight 1", partial(r1, weight=1.0)),
    Restraint("R1 + R2, weight 1/2", partial(r1_r2, weight=0.5)),
    Restraint("LeCam, weight 1", lecam(1.0)),
    Restraint("WGAN-GP, weight 1/2", partial(wgan_gp, weight=0.5)),
    Restraint("D clipped to 1/2", clip=0.5),
)
START = (1.0, 1.0)
RATE, STEPS = 0.4, 120
REACH = 2.6
"""The panels show theta (to the right) and psi (up) from minus this to this."""
SIDE, CAPTION, MARGIN = 168, 34, 8
LEFT, TOP = 150, 70
COLOURS = {True: (30, 90, 180), False: (225, 130, 30)}
"""By whether the players move in turn."""


def _text(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    fill: tuple[int, int, int] = (30, 30, 30),
    anchor: str | None = None,
) -> None:
    draw.text(place, text, fill=fill, font=ImageFont.load_default(12), anchor=anchor)


def panel(ways: dict[bool, Tensor]) -> Image.Image:
    """The ways of both orders with their words."""
    image = Image.new("RGB", (SIDE, SIDE + CAPTION), "white")
    square = Image.new("RGB", (SIDE, SIDE), "white")  # of its own, so that a way that leaves it is cut off
    draw = ImageDraw.Draw(square)

    def place(point: Sequence[float]) -> tuple[float, float]:
        # Far outside it does not matter where.
        theta, psi = (min(max(value, -100.0), 100.0) for value in point[:2])
        return SIDE / 2 * (1 + theta / REACH), SIDE / 2 * (1 - psi / REACH)

    draw.line([place((-REACH, 0)), place((REACH, 0))], fill=(215, 215, 215))
    draw.line([place((0, -REACH)), place((0, REACH))], fill=(215, 215, 215))
    for row, (alternating, states) in enumerate(sorted(ways.items())):  # blue over orange
        draw.line([place(state) for state in states.tolist()], fill=COLOURS[alternating], width=2)
        x, y = place(states[-1].tolist())
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=COLOURS[alternating])
        end = radius(states[-(len(states) // 4) :]).mean().item()
        text = f"{verdict(states)}, {f'{end:.2f}' if end < 100 else 'above 100'}"
        _text(ImageDraw.Draw(image), (2, SIDE + 17 - 15 * row), text, fill=COLOURS[alternating])
    x, y = place(START)
    draw.ellipse((x - 4, y - 4, x + 4, y + 4), outline=(30, 30, 30))
    draw.rectangle((0, 0, SIDE - 1, SIDE - 1), outline=(160, 160, 160))
    image.paste(square, (0, 0))
    return image


def picture(losses: Sequence[str] = tuple(LOSSES), steps: int = STEPS) -> Image.Image:
    """A row of panels for each loss, a column for each restraint."""
    width = LEFT + len(RESTRAINTS) * (SIDE + MARGIN)
    height = TOP + len(losses) * (SIDE + CAPTION + MARGIN)
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    _text(
        draw, (10, 8), f"The Dirac-GAN: theta to the right, psi up; {steps} steps of {RATE}; equilibrium in the middle"
    )
    _text(draw, (10, 26), "the players move in turn, D first, as in gan_lab", fill=COLOURS[True])
    _text(draw, (330, 26), "both move at once", fill=COLOURS[False])
    _text(draw, (490, 26), "the word and the mean radius are of the last quarter")
    for column, restraint in enumerate(RESTRAINTS):
        left = LEFT + column * (SIDE + MARGIN)
        _text(draw, (left + SIDE / 2, TOP - 8), restraint.name, anchor="ms")
        for row, name in enumerate(losses):
            loss, further = LOSSES[name]
            top = TOP + row * (SIDE + CAPTION + MARGIN)
            if column == 0:
                _text(draw, (10, top + SIDE / 2), name, anchor="lm")
            play = partial(played, loss, *START, *further, rate=RATE, steps=steps)
            ways = {
                alternating: play(penalty=restraint.penalty, clip=restraint.clip, alternating=alternating)
                for alternating in (False, True)
            }
            image.paste(panel(ways), (left, top))
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws which losses and penalties converge in the Dirac-GAN.")
    parser.add_argument("--out", type=Path, default=Path("outputs/dirac.png"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the tensors have one value
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    picture().save(arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()
