"""The adversarial losses against numbers worked out by hand and against other formulas."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from gan_lab.losses import blind_loss, hinge, lsgan, minimax, relativistic, vanilla, wasserstein

REAL = [0.0, 1.0, -2.0]
FAKE = [0.0, 2.0, -0.5]


def cross_entropy(logits: Tensor, label: float) -> Tensor:
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, label), reduction="none")


def square(logits: Tensor, label: float) -> Tensor:
    return mse_loss(logits, torch.full_like(logits, label), reduction="none") / 2


# name: (loss, D's values at REAL and FAKE, G's values at FAKE, D's second formula, G's second formula)
TABLE = {
    "vanilla": (
        vanilla(),
        [1.3862943611198906, 0.31326168751822286 + 2.1269280110429727, 2.1269280110429727 + 0.4740769841801067],
        [0.6931471805599453, 0.1269280110429725, 0.9740769841801067],
        lambda real, fake: cross_entropy(real, 1) + cross_entropy(fake, 0),
        lambda fake: cross_entropy(fake, 1),
    ),
    "minimax": (
        minimax(),
        [1.3862943611198906, 2.4401896985611953, 2.601004995223079],
        [-0.6931471805599453, -2.1269280110429727, -0.4740769841801067],
        lambda real, fake: cross_entropy(real, 1) + cross_entropy(fake, 0),
        lambda fake: (1 - fake.sigmoid()).log(),
    ),
    "lsgan": (
        lsgan(),
        [0.5, 2.0, 4.5 + 0.125],
        [0.5, 0.5, 1.125],
        lambda real, fake: square(real, 1) + square(fake, 0),
        lambda fake: square(fake, 1),
    ),
    "hinge": (
        hinge(),
        [2.0, 3.0, 3.5],
        [0.0, -2.0, 0.5],
        lambda real, fake: (1 - real).clamp(min=0) + (1 + fake).clamp(min=0),
        torch.neg,
    ),
    "wasserstein": (wasserstein(), [0.0, 1.0, 1.5], [0.0, -2.0, 0.5], lambda real, fake: fake - real, torch.neg),
    "relativistic": (  # differences r - f: 0, -1, -1.5
        relativistic(),
        [0.6931471805599453, 1.3132616875182228, 1.7014132779827524],
        [0.6931471805599453, 0.31326168751822286, 0.2014132779827524],
        lambda real, fake: cross_entropy(real - fake, 1),
        lambda real, fake: cross_entropy(fake - real, 1),
    ),
}
EVERY_LOSS = pytest.mark.parametrize("name", TABLE)


def of_generator(loss, real: Tensor, fake: Tensor) -> Tensor:
    return loss.generator(real, fake) if loss.generator_sees_real else loss.generator(fake)


def logits(num: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, generator=generator, dtype=torch.float64) * 3


@EVERY_LOSS
def test_values_worked_out_by_hand(name):
    loss, discriminator_values, generator_values, _, _ = TABLE[name]
    real, fake = torch.tensor(REAL, dtype=torch.float64), torch.tensor(FAKE, dtype=torch.float64)

    assert loss.discriminator(real, fake).tolist() == pytest.approx(discriminator_values, abs=1e-15)
    assert of_generator(loss, real, fake).tolist() == pytest.approx(generator_values, abs=1e-15)


@EVERY_LOSS
def test_values_and_gradients_of_a_second_formula(name):
    loss, _, _, discriminator_formula, generator_formula = TABLE[name]
    for ours, formula, arguments in (
        (loss.discriminator, discriminator_formula, (logits(64, 1), logits(64, 2))),
        (loss.generator, generator_formula, (logits(64, 3), logits(64, 4))[: 1 + loss.generator_sees_real]),
    ):
        arguments = [argument.requires_grad_() for argument in arguments]
        values, expected = ours(*arguments), formula(*arguments)
        torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)
        gradients = torch.autograd.grad(values.sum(), arguments)
        torch.testing.assert_close(gradients, torch.autograd.grad(expected.sum(), arguments), rtol=1e-12, atol=1e-12)


@EVERY_LOSS
def test_gradients_agree_with_finite_differences(name):
    loss = TABLE[name][0]
    real, fake = logits(16, 4).requires_grad_(), logits(16, 5).requires_grad_()

    assert torch.autograd.gradcheck(loss.discriminator, (real, fake))
    assert torch.autograd.gradcheck(loss.generator, (real, fake) if loss.generator_sees_real else (fake,))


@EVERY_LOSS
@pytest.mark.parametrize("size", [100.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_stay_finite_where_the_discriminator_is_sure(name, size, dtype):
    loss = TABLE[name][0]
    real = torch.tensor([size, size, -size, -size], dtype=dtype, requires_grad=True)
    fake = torch.tensor([size, -size, size, -size], dtype=dtype, requires_grad=True)

    for value in (loss.discriminator(real, fake), of_generator(loss, real, fake)):
        assert value.dtype == dtype
        assert value.isfinite().all()
        for gradient in torch.autograd.grad(value.sum(), (real, fake), allow_unused=True):
            assert gradient is None or gradient.isfinite().all()


@pytest.mark.parametrize("size", [100.0, 1e4])
def test_a_sure_discriminator_still_teaches_the_non_saturating_generator_but_not_the_minimax_one(size):
    fake = torch.tensor([-size], requires_grad=True)

    assert torch.autograd.grad(vanilla().generator(fake).sum(), fake)[0].item() == -1.0
    assert abs(torch.autograd.grad(minimax().generator(fake).sum(), fake)[0].item()) < 1e-30


@EVERY_LOSS
def test_each_sample_has_its_own_value(name):
    loss = TABLE[name][0]
    real, fake = logits(7, 6), logits(7, 7)
    singles = [(real[i : i + 1], fake[i : i + 1]) for i in range(7)]

    assert torch.equal(loss.discriminator(real, fake), torch.cat([loss.discriminator(*one) for one in singles]))
    assert torch.equal(of_generator(loss, real, fake), torch.cat([of_generator(loss, *one) for one in singles]))


@EVERY_LOSS
@pytest.mark.parametrize(
    ("real_shape", "fake_shape"), [((4,), (5,)), ((4,), (1,)), ((4, 1), (4,)), ((4,), (4, 1)), ((4, 1), (4, 1))]
)
def test_logits_that_would_broadcast_are_refused(name, real_shape, fake_shape):
    loss = TABLE[name][0]

    with pytest.raises(ValueError, match=r"shape \(N,\)") as caught:
        loss.discriminator(torch.zeros(real_shape), torch.zeros(fake_shape))
    assert f"real {real_shape}, fake {fake_shape}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "logit", "discriminator_value", "generator_value"),
    [  # where D cannot tell real from fake, at the logit that is then its best answer
        ("vanilla", 0.0, 2 * math.log(2), math.log(2)),
        ("minimax", 0.0, 2 * math.log(2), -math.log(2)),
        ("lsgan", 0.5, 0.25, 0.125),
        ("hinge", 0.0, 2.0, 0.0),
        ("wasserstein", 0.0, 0.0, 0.0),
        ("relativistic", 0.3, math.log(2), math.log(2)),
    ],
)
def test_values_at_equilibrium(name, logit, discriminator_value, generator_value):
    loss = TABLE[name][0]
    undecided = torch.tensor([logit], dtype=torch.float64, requires_grad=True)
    value = loss.discriminator(undecided, undecided)

    assert value.item() == pytest.approx(discriminator_value, abs=1e-15)
    assert of_generator(loss, undecided, undecided).item() == pytest.approx(generator_value, abs=1e-15)
    assert blind_loss(loss) == pytest.approx(discriminator_value, abs=1e-15)
    (slope,) = torch.autograd.grad(value.sum(), undecided)
    assert slope.item() == pytest.approx(0, abs=1e-15)


def test_minimax_is_zero_sum():
    fake = logits(64).requires_grad_()
    real = torch.zeros(64, dtype=torch.float64)
    (discriminators,) = torch.autograd.grad(minimax().discriminator(real, fake).sum(), fake)
    (generators,) = torch.autograd.grad(minimax().generator(fake).sum(), fake)

    assert torch.equal(generators, -discriminators)


@EVERY_LOSS
def test_discriminators_want_real_above_fake_and_generators_the_opposite(name):
    loss = TABLE[name][0]
    real, fake = torch.tensor([0.1], requires_grad=True), torch.tensor([0.2], requires_grad=True)
    of_real, of_fake = torch.autograd.grad(loss.discriminator(real, fake).sum(), (real, fake))

    assert of_real < 0 < of_fake
    assert torch.autograd.grad(of_generator(loss, real, fake).sum(), fake)[0] < 0


def test_the_relativistic_loss_does_not_see_a_common_shift_of_the_logits():
    loss, real, fake = relativistic(), logits(32, 8), logits(32, 9)

    torch.testing.assert_close(loss.discriminator(real + 7, fake + 7), loss.discriminator(real, fake))
    torch.testing.assert_close(loss.generator(real + 7, fake + 7), loss.generator(real, fake))
    torch.testing.assert_close(loss.generator(real, fake), loss.discriminator(fake, real))  # the players swap


@pytest.mark.parametrize("shapes", [((4,), (1,)), ((4, 1), (4,))])
def test_the_relativistic_generator_refuses_logits_that_would_broadcast(shapes):
    with pytest.raises(ValueError, match=r"shape \(N,\)"):
        relativistic().generator(*map(torch.zeros, shapes))
