"""The Dirac-GAN (Mescheder et al. 2018, section 2): which losses and penalties converge in the smallest game there is.

The data are the point 0, the generator makes the point theta, D(x) = psi x: the equilibrium is theta = psi = 0. Both
players follow the plain gradients of the package's own losses and penalties. With u = psi theta, nearly every loss is a
rotation theta' = a(u) psi, psi' = -b(u) theta, at the equilibrium with the speed a(0) = b(0) = w. A penalty of
gamma / 2 psi^2 adds -gamma psi to psi', so that the eigenvalues there are (-gamma +- sqrt(gamma^2 - 4 w^2)) / 2: it
converges. Without penalty they are +-iw: a step of size h by both players at once leaves the circle by the factor
sqrt(1 + h^2 w^2), alternating steps stay on an ellipse. Farther out the radius r follows r r' = (a - b) u, where u is
r^2 sin(2 phi) / 2 at the angle phi: this is why the non-saturating losses do not go to infinity. The energy losses have
no place here, whose D is an autoencoder, nor has the penalty on consistency, which is for images.
"""

import math
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
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
from gan_lab.penalties import gradient, r1, r1_r2, r2

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from dirac import (
    CAPTION,
    COLOURS,
    RATE,
    RESTRAINTS,
    SIDE,
    STEPS,
    Penalty,
    lecam,
    panel,
    picture,
    played,
    radius,
    velocity,
    verdict,
)

# name: (loss, w)
ROTATIONS = {
    "vanilla": (vanilla(), 0.5),
    "minimax": (minimax(), 0.5),
    "wasserstein": (wasserstein(), 1.0),
    "hinge": (hinge(), 1.0),
    "relativistic": (relativistic(), 0.5),
    "relativistic_average": (relativistic_average(), 1.0),
    "relativistic_average_least_squares": (relativistic_average("least_squares"), 4.0),
    "relativistic_average_hinge": (relativistic_average("hinge"), 2.0),
}
EVERY_ROTATION = pytest.mark.parametrize("name", ROTATIONS)
NON_SATURATING = pytest.mark.parametrize("loss", [vanilla(), relativistic()], ids=["vanilla", "relativistic"])
ORDER = pytest.mark.parametrize("alternating", [False, True], ids=["simultaneous", "alternating"])

# name: (penalty, its gamma where its weight is 1)
ZERO_CENTERED = {
    "r1": (r1, 1),
    "r2": (r2, 1),
    "r1_r2": (r1_r2, 2),
    "gradient": (partial(gradient, target=0.0), 2),
    "gradient_at_both": (partial(gradient, target=0.0, at="real_and_fake"), 2),
    "gradient_near_real": (partial(gradient, target=0.0, at="perturbed"), 2),
}
WGAN_DIV = partial(gradient, power=6.0, target=0.0, weight=2.0)


def half_turns(states: Tensor) -> int:
    return int((states[1:, 0].sign() != states[:-1, 0].sign()).sum())


def jacobian(loss: AdversarialLoss, penalty: Penalty | None, *at: float) -> list[list[float]]:
    """Of the velocity, by central differences: autograd takes a norm's second derivative at 0 for 0."""
    state, step = torch.tensor(at, dtype=torch.float64), 1e-5
    shifts = step * torch.eye(len(at), dtype=torch.float64)
    columns = [velocity(loss, penalty, state + shift) - velocity(loss, penalty, state - shift) for shift in shifts]
    return (torch.stack(columns, dim=1) / (2 * step)).tolist()


def powers(factor: float, count: int) -> Tensor:
    return factor ** torch.arange(count, dtype=torch.float64)


# ---------------------------------------------------------------------- at the equilibrium


@EVERY_ROTATION
def test_without_penalty_the_eigenvalues_are_imaginary(name):
    loss, speed = ROTATIONS[name]

    assert velocity(loss, None, torch.zeros(2, dtype=torch.float64)).tolist() == [0.0, 0.0]
    matrix = jacobian(loss, None, 0.0, 0.0)
    torch.testing.assert_close(matrix, [[0.0, speed], [-speed, 0.0]], rtol=0, atol=1e-8)


@EVERY_ROTATION
@pytest.mark.parametrize("penalty", ZERO_CENTERED)
def test_a_penalty_with_target_zero_gives_the_eigenvalues_a_negative_real_part(name, penalty):
    (loss, speed), (function, gamma) = ROTATIONS[name], ZERO_CENTERED[penalty]
    matrix = jacobian(loss, partial(function, weight=0.3), 0.0, 0.0)

    torch.testing.assert_close(matrix, [[0.0, speed], [-speed, -0.3 * gamma]], rtol=0, atol=1e-8)
    assert torch.linalg.eigvals(torch.tensor(matrix)).real.max() < -0.1


# ---------------------------------------------------------------------- without penalty


@EVERY_ROTATION
def test_without_penalty_simultaneous_steps_spiral_outwards(name):
    loss, speed = ROTATIONS[name]
    states = played(loss, 0.003, 0.004, rate=0.2 / speed, steps=80)

    torch.testing.assert_close(radius(states), 0.005 * powers(math.sqrt(1.04), 81), rtol=0.01, atol=0)


@EVERY_ROTATION
def test_without_penalty_alternating_steps_circle(name):
    loss, speed = ROTATIONS[name]
    states = played(loss, 0.003, 0.004, rate=0.2 / speed, steps=80, alternating=True)

    theta, psi = states.unbind(dim=1)
    ellipse = theta**2 + psi**2 - 0.2 * theta * psi
    torch.testing.assert_close(ellipse, ellipse[:1].expand(81), rtol=0.01, atol=0)
    assert half_turns(states) == 5


def test_wasserstein_and_minimax_leave_every_circle():
    states = played(wasserstein(), 0.6, 0.8, rate=0.2, steps=100)
    torch.testing.assert_close(radius(states), powers(math.sqrt(1.04), 101), rtol=1e-12, atol=0)

    states = played(minimax(), 0.6, 0.8, rate=0.2, steps=100)
    factors = 1 + (0.2 * torch.sigmoid(states.prod(dim=1))) ** 2  # a = b = sigmoid(u)
    torch.testing.assert_close(radius(states)[1:] ** 2, (radius(states) ** 2 * factors)[:-1], rtol=1e-12, atol=0)


@NON_SATURATING
@pytest.mark.parametrize("start", [0.4, 1.0])
def test_non_saturating_losses_end_on_a_cycle(loss, start):
    """r r' = -u tanh(u / 2), so r' = -r^3 / 16 + h r / 8 over a round: r^2 = 2h, from inside and from outside."""
    states = played(loss, start, 0.0, rate=0.2, steps=400)

    last_round = radius(states[-63:]) ** 2  # 2 pi / (w h) steps
    assert last_round.mean().item() == pytest.approx(2 * 0.2, rel=0.1)


@NON_SATURATING
def test_non_saturating_losses_fade_slowly_where_the_players_alternate(loss):
    """There the steps add nothing, so that r^-2 grows by t / 8: what no eigenvalue makes exponential."""
    states = played(loss, 1.0, 0.0, rate=0.2, steps=400, alternating=True)

    assert radius(states[-63:]).mean().item() == pytest.approx((1 + 74 / 8) ** -0.5, rel=0.1)


def test_hinge_turns_like_wasserstein_until_logits_reach_the_margin():
    states = played(hinge(), 0.6, 0.8, rate=0.1, steps=200)
    inside = radius(states[:-1]) < math.sqrt(2)  # there |u| < 1

    growth = (radius(states)[1:] / radius(states)[:-1])[inside]
    torch.testing.assert_close(growth, torch.full_like(growth, math.sqrt(1.01)), rtol=1e-12, atol=0)
    assert radius(states[-63:]).min() > 1.3
    assert radius(states[-63:]).max() < 2


def test_weight_clipping_bounds_the_wasserstein_loss_and_does_not_make_it_converge():
    states = played(wasserstein(), 0.3, 0.3, rate=0.1, steps=200, clip=0.1)

    assert states[1:, 1].abs().max() <= 0.1
    last_rounds = states[-126:]
    assert radius(last_rounds).min() > 0.09
    assert radius(last_rounds).max() < 0.15
    assert half_turns(last_rounds) >= 3


# ---------------------------------------------------------------------- with a penalty


def assert_converges(states: Tensor) -> None:
    assert radius(states[:1]) > 1
    assert radius(states[-1:]) < 1e-3


@ORDER
@EVERY_ROTATION
def test_r1_makes_every_rotation_converge(name, alternating):
    loss, speed = ROTATIONS[name]
    penalty = partial(r1, weight=2 * speed)  # both eigenvalues -w
    assert_converges(played(loss, 1.0, 1.0, rate=0.2 / speed, steps=80, penalty=penalty, alternating=alternating))


@pytest.mark.parametrize("penalty", list(ZERO_CENTERED)[1:])
@pytest.mark.parametrize("name", ["vanilla", "wasserstein", "relativistic"])
def test_so_does_every_squared_penalty_with_target_zero(name, penalty):
    (loss, speed), (function, gamma) = ROTATIONS[name], ZERO_CENTERED[penalty]
    damping = partial(function, weight=2 * speed / gamma)
    assert_converges(played(loss, 1.0, 1.0, rate=0.2 / speed, steps=80, penalty=damping))


# name: (loss, where the gradient is taken)
TARGET_ONE = {"wgan_gp": (wasserstein(), "interpolated"), "dragan": (vanilla(), "perturbed")}


@ORDER
@pytest.mark.parametrize("name", TARGET_ONE)
def test_a_weak_penalty_with_target_one_keeps_both_players_moving(name, alternating):
    """It drives psi away from 0: r r' has the further term 2 weight (1 - |psi|) |psi|, positive while |psi| < 1."""
    loss, at = TARGET_ONE[name]
    penalty = partial(gradient, at=at, weight=0.1)
    states = played(loss, 0.3, 0.3, rate=0.1, steps=400, penalty=penalty, alternating=alternating)

    assert radius(states[200:]).min() > 0.5
    assert radius(states[200:]).max() < 3
    assert half_turns(states[200:]) >= 3


@pytest.mark.parametrize(("name", "weight", "theta"), [("wgan_gp", 1.0, 2.0), ("dragan", 0.5, 2.0)])
def test_a_strong_penalty_with_target_one_holds_the_generator_off_the_data(name, weight, theta):
    """psi creeps to 0 without crossing it, where psi' = -w theta + 2 weight: theta = 2 weight / w, w = 1 or 1/2."""
    loss, at = TARGET_ONE[name]
    states = played(loss, 0.1, 0.1, rate=0.2, steps=300, penalty=partial(gradient, at=at, weight=weight))

    assert states[-1].tolist() == pytest.approx([theta, 0.0], abs=0.01)


def test_a_one_sided_penalty_is_no_penalty_below_its_target():
    penalty = partial(gradient, one_sided=True, weight=1.0)
    states = played(wasserstein(), 0.3, 0.4, rate=0.2, steps=200, penalty=penalty)

    first = int((states[:, 1].abs() > 1).nonzero()[0])
    torch.testing.assert_close(
        radius(states[: first + 1]), 0.5 * powers(math.sqrt(1.04), first + 1), rtol=1e-12, atol=0
    )
    assert radius(states[-64:]).min() > 0.9
    assert radius(states[-64:]).max() < 1.5


def test_the_sixth_power_of_wgan_div_converges_but_not_exponentially():
    """r r' = -12 psi^6, over a round -12 * 5/16 r^6: r^-4 grows by 15 t. At 0 it adds nothing to the eigenvalues."""
    matrix = jacobian(wasserstein(), WGAN_DIV, 0.0, 0.0)
    torch.testing.assert_close(matrix, [[0.0, 1.0], [-1.0, 0.0]], rtol=0, atol=1e-8)
    states = played(wasserstein(), 0.7, 0.0, rate=0.1, steps=500, penalty=WGAN_DIV, alternating=True)

    for time in (10, 50):
        last_round = radius(states[10 * time - 63 : 10 * time])
        assert last_round.mean().item() == pytest.approx((0.7**-4 + 15 * (time - math.pi)) ** -0.25, rel=0.05)


@pytest.mark.parametrize("start", [0.25, 0.7])
def test_with_simultaneous_steps_wgan_div_ends_on_a_cycle(start):
    """r' = -3.75 r^5 + h r / 2: r^4 = h / 7.5."""
    states = played(wasserstein(), start, 0.0, rate=0.2, steps=120, penalty=WGAN_DIV)

    assert radius(states[-31:]).mean().item() == pytest.approx((0.2 / 7.5) ** 0.25, rel=0.05)


# ---------------------------------------------------------------------- losses with other equilibria


def test_lsgan_without_a_bias_flattens_the_discriminator_and_leaves_the_generator_where_it_is():
    """The real logit is 0 for ever: psi' = -theta^2 psi, theta' = (1 - u) psi, and every psi = 0 is an equilibrium."""
    states = played(lsgan(), 0.5, 0.5, rate=0.2, steps=120)

    assert states[-1, 1].abs() < 1e-6
    assert states[-1, 0] > 1
    assert states[-1, 0] - states[-2, 0] < 1e-6


def test_lsgan_with_a_bias_circles_around_the_middle_of_its_labels():
    """At theta = psi = 0, bias = 1/2 the eigenvalues are -2 and +-i/2."""
    matrix = jacobian(lsgan(), None, 0.0, 0.0, 0.5)
    torch.testing.assert_close(matrix, [[0.0, 0.5, 0.0], [-0.5, 0.0, 0.0], [0.0, 0.0, -2.0]], rtol=0, atol=1e-8)
    states = played(lsgan(), 0.003, 0.004, 0.5, rate=0.4, steps=80)

    torch.testing.assert_close(radius(states), 0.005 * powers(math.sqrt(1.04), 81), rtol=0.01, atol=0)


@ORDER
def test_lsgan_with_a_bias_and_r1_converges(alternating):
    penalty = partial(r1, weight=1.0)
    states = played(lsgan(), 1.0, 1.0, 0.0, rate=0.4, steps=80, penalty=penalty, alternating=alternating)

    assert_converges(states)
    assert states[-1, 2].item() == pytest.approx(0.5, abs=1e-5)


# name: (loss, c) with theta' = -c psi^2 theta near u = 0
BOUNDARY_SEEKING = {"boundary": (boundary(), 1.0), "softmax": (softmax(), 0.25)}


@ORDER
@pytest.mark.parametrize("name", BOUNDARY_SEEKING)
def test_a_generator_that_seeks_equality_reaches_the_data_on_a_slope(name, alternating):
    """theta' = -c psi^2 theta, psi' = -theta / 2: every theta = 0 is an equilibrium, here psi^3 = -3 / 4c about."""
    loss, pull = BOUNDARY_SEEKING[name]
    states = played(loss, 0.5, 0.0, rate=0.2, steps=150, alternating=alternating)

    assert states[-1, 0].abs() < 1e-3
    assert states[-1, 1].item() == pytest.approx(-((0.75 / pull) ** (1 / 3)), rel=0.15)


@pytest.mark.parametrize("name", BOUNDARY_SEEKING)
def test_with_r1_the_slope_goes_too_but_slowly(name):
    """psi = -theta / 2 gamma follows theta, whose pull fades with it: theta^-2 grows by c t / 2 gamma^2."""
    loss, pull = BOUNDARY_SEEKING[name]
    states = played(loss, 0.5, 0.0, rate=0.4, steps=150, penalty=partial(r1, weight=1.0))

    theta, psi = states[-1].tolist()
    assert theta == pytest.approx((4 + pull * 60 / 2) ** -0.5, rel=0.1)
    assert psi == pytest.approx(-theta / 2, rel=0.1)


# ---------------------------------------------------------------------- a penalty on logits


@pytest.mark.parametrize(("name", "decay"), [("wasserstein", 0.0), ("wasserstein", 0.99), ("hinge", 0.99)])
def test_lecam_makes_alternating_players_fade_but_does_not_change_the_eigenvalues(name, decay):
    """It adds -2 u theta to psi' while u = psi theta is negative, half of the time: r' = -r^3 / 8, with averages of 0.

    The average of the fakes' logits makes no difference: reals have the logit 0, whatever psi is.
    """
    loss, w = ROTATIONS[name]
    penalty = lecam(1.0)
    penalty.observe(torch.tensor(0.0), torch.tensor(0.0), 1)
    for row, plain in zip(jacobian(loss, penalty, 0.0, 0.0), jacobian(loss, None, 0.0, 0.0), strict=True):
        assert row == pytest.approx(plain, abs=1e-8)
    states = played(loss, 0.5, 0.0, rate=0.1, steps=3000, penalty=lecam(1.0, decay), alternating=True)
    assert w == 1
    for last in (1500, 3000):
        mean = radius(states[last - 62 : last]).mean().item()  # of one turn
        assert mean == pytest.approx((4 + last * 0.1 / 4) ** -0.5, rel=0.03)


def test_lecam_bounds_the_wasserstein_loss_where_both_move_at_once():
    """The steps take it outwards by r' = h r / 2, the penalty back by r^3 / 8: a cycle of radius 2 sqrt(h)."""
    loss, _ = ROTATIONS["wasserstein"]
    for rate in (0.1, 0.05):
        states = played(loss, 3 * rate**0.5, 0.0, rate=rate, steps=round(4 / rate**2), penalty=lecam(1.0))
        last = radius(states[-round(2 * math.pi / rate) :]).mean().item()
        assert last == pytest.approx(2 * rate**0.5, rel=0.1)


# ---------------------------------------------------------------------- the picture


def spiral(factor: float, turns: float) -> Tensor:
    """200 steps that multiply the radius, 1 at first, by `factor` each, and make so many turns together."""
    angles = torch.linspace(0, 2 * math.pi * turns, 201, dtype=torch.float64)
    return powers(factor, 201).unsqueeze(1) * torch.stack([angles.cos(), angles.sin()], dim=1)


@pytest.mark.parametrize(
    ("factor", "turns", "word"),
    [
        (0.95, 5, "converges"),
        (0.95, 0, "converges"),
        (0.995, 5, "fades"),
        (1.0, 5, "circles"),
        (1.0, 0, "stops"),
        (1.001, 5, "diverges"),
        (1.02, 5, "diverges"),
    ],
)
def test_a_word_for_how_a_way_ends(factor, turns, word):
    assert verdict(spiral(factor, turns)) == word


@pytest.mark.parametrize(
    ("loss", "penalty", "clip", "words"),
    [  # words: both at once, in turn
        (wasserstein(), None, math.inf, ["diverges", "circles"]),
        (minimax(), None, math.inf, ["diverges", "circles"]),
        (vanilla(), None, math.inf, ["circles", "fades"]),
        (vanilla(), partial(r1, weight=1.0), math.inf, ["converges", "converges"]),
        (vanilla(), partial(gradient, weight=0.5), math.inf, ["stops", "stops"]),
        (wasserstein(), partial(gradient, weight=0.5), math.inf, ["circles", "circles"]),
        (wasserstein(), None, 0.5, ["circles", "circles"]),
    ],
)
def test_the_words_are_those_of_the_theory(loss, penalty, clip, words):
    play = partial(played, loss, 1.0, 1.0, rate=RATE, steps=STEPS, penalty=penalty, clip=clip)

    assert [verdict(play(alternating=alternating)) for alternating in (False, True)] == words


def test_a_panel_shows_both_ways_and_cuts_off_what_leaves_it():
    straight = torch.tensor([[0.0, 0.0], [1.0, 0.0], [10.0, 0.0]], dtype=torch.float64).repeat_interleave(4, dim=0)
    image = panel({True: straight, False: 1e100 * straight.flip(1)})  # to the right, and up, out of the panel

    assert image.size == (SIDE, SIDE + CAPTION)
    assert image.getpixel((SIDE * 3 // 4, SIDE // 2)) == COLOURS[True]
    assert image.getpixel((SIDE // 4, SIDE // 2)) != COLOURS[True]
    assert len(image.crop((0, SIDE, SIDE, SIDE + CAPTION)).getcolors(1 << 16)) > 2


def test_the_picture_has_a_row_for_each_loss():
    one, two = (picture(losses, steps=8) for losses in (["vanilla"], ["vanilla", "lsgan"]))

    assert one.width == two.width > len(RESTRAINTS) * SIDE
    assert two.height - one.height > SIDE + CAPTION
