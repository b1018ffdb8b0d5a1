"""The adversarial losses against numbers worked out by hand and against other formulas."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss, softplus

from gan_lab.losses import (
    AdversarialLoss,
    began,
    blind_loss,
    boundary,
    energy,
    hinge,
    least_loss,
    lsgan,
    minimax,
    pulling_away,
    relativistic,
    relativistic_average,
    softmax,
    vanilla,
    wasserstein,
)

REAL = [0.0, 1.0, -2.0]
FAKE = [0.0, 2.0, -0.5]


def began_at(k: float) -> AdversarialLoss:
    loss = began()
    assert loss.state is not None
    loss.state["k"] = torch.tensor(k, dtype=torch.float64)
    return loss


def cross_entropy(logits: Tensor, label: float) -> Tensor:
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, label), reduction="none")


def square(logits: Tensor, label: float) -> Tensor:
    return mse_loss(logits, torch.full_like(logits, label), reduction="none") / 2


def log_share(of: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """log p, where p is the share of exp(logit) in the sum over both halves of the batch."""
    return (of.exp() / (real.exp().sum() + fake.exp().sum())).log()


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
    "boundary": (
        boundary(),
        [1.3862943611198906, 2.4401896985611953, 2.601004995223079],
        [0.0, 2.0, 0.125],
        lambda real, fake: cross_entropy(real, 1) + cross_entropy(fake, 0),
        lambda fake: (fake.sigmoid().log() - (1 - fake.sigmoid()).log()) ** 2 / 2,
    ),
    # The next three: mean real -1/3, mean fake 1/2, so the margins r - mean f are -1/2, 1/2, -5/2
    # and mean r - f are -1/3, -7/3, 1/6. For G: 1/3, 7/3, -1/6 and 1/2, -1/2, 5/2.
    "relativistic_average": (
        relativistic_average(),
        [1.8477158922028485, 2.8999639450291768, 3.1921717923921870],
        [1.0143825588695151, 1.0666306116958435, 0.8588384590588537],
        lambda real, fake: cross_entropy(real - fake.mean(), 1) + cross_entropy(fake - real.mean(), 0),
        lambda real, fake: cross_entropy(real - fake.mean(), 0) + cross_entropy(fake - real.mean(), 1),
    ),
    "relativistic_average_least_squares": (
        relativistic_average("least_squares"),
        [9 / 4 + 16 / 9, 1 / 4 + 100 / 9, 49 / 4 + 25 / 36],
        [4 / 9 + 1 / 4, 16 / 9 + 9 / 4, 49 / 36 + 9 / 4],
        lambda real, fake: 2 * square(real - fake.mean(), 1) + 2 * square(fake - real.mean(), -1),
        lambda real, fake: 2 * square(real - fake.mean(), -1) + 2 * square(fake - real.mean(), 1),
    ),
    "relativistic_average_hinge": (
        relativistic_average("hinge"),
        [3 / 2 + 4 / 3, 1 / 2 + 10 / 3, 7 / 2 + 5 / 6],
        [2 / 3 + 1 / 2, 3 / 2, 7 / 6],
        lambda real, fake: (1 - real + fake.mean()).clamp(min=0) + (1 + fake - real.mean()).clamp(min=0),
        lambda real, fake: (1 + real - fake.mean()).clamp(min=0) + (1 - fake + real.mean()).clamp(min=0),
    ),
    "vanilla_smoothed": (  # 0.2 r more for D
        vanilla(0.2),
        [1.3862943611198906, 2.6401896985611953, 2.201004995223079],
        [0.6931471805599453, 0.1269280110429725, 0.9740769841801067],
        lambda real, fake: cross_entropy(real, 0.8) + cross_entropy(fake, 0),
        lambda fake: cross_entropy(fake, 1),
    ),
    # As formulas the next two work for all logits, also for those above 0 that no energy gives.
    "energy": (
        energy(),
        [1.0, 2.0, 2.5],
        [0.0, -2.0, 0.5],
        lambda real, fake: -real + (1 - -fake).clamp(min=0),
        torch.neg,
    ),
    "began": (began_at(0.25), [0.0, -0.5, 1.875], [0.0, -2.0, 0.5], lambda real, fake: -real - 0.25 * -fake, torch.neg),
    "softmax": (  # Z = e^0 + e^1 + e^-2 + e^0 + e^2 + e^-0.5 = 12.849203870338942, log Z is the first value
        softmax(),
        [2.5532818538062538, 1.5532818538062538, 4.5532818538062538],
        [2.5532818538062538, 1.0532818538062538, 3.8032818538062538],
        lambda real, fake: -log_share(real, real, fake),
        lambda real, fake: -(log_share(real, real, fake) + log_share(fake, real, fake)) / 2,
    ),
}
EVERY_LOSS = pytest.mark.parametrize("name", TABLE)
OF_A_BATCH = [name for name in TABLE if name.startswith("relativistic_average")] + ["softmax"]
"""Losses that compare each sample with its whole batch."""


def of_generator(loss, real: Tensor, fake: Tensor) -> Tensor:
    return loss.generator(real, fake) if loss.generator_sees_real else loss.generator(fake)


def logits(num: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, generator=generator, dtype=torch.float64) * 3


@EVERY_LOSS
def test_values_worked_out_by_hand(name):
    loss, discriminator_values, generator_values, _, _ = TABLE[name]
    real, fake = torch.tensor(REAL, dtype=torch.float64), torch.tensor(FAKE, dtype=torch.float64)

    assert loss.discriminator(real, fake).tolist() == pytest.approx(discriminator_values, rel=1e-15, abs=1e-15)
    assert of_generator(loss, real, fake).tolist() == pytest.approx(generator_values, rel=1e-15, abs=1e-15)


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
@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_gradients_agree_with_finite_differences(name, check):
    loss = TABLE[name][0]
    real, fake = logits(16, 4).requires_grad_(), logits(16, 5).requires_grad_()

    assert check(loss.discriminator, (real, fake))
    assert check(loss.generator, (real, fake) if loss.generator_sees_real else (fake,))


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


@pytest.mark.parametrize("name", [name for name in TABLE if name not in OF_A_BATCH])
def test_each_sample_has_its_own_value(name):
    loss = TABLE[name][0]
    real, fake = logits(7, 6), logits(7, 7)
    singles = [(real[i : i + 1], fake[i : i + 1]) for i in range(7)]

    assert torch.equal(loss.discriminator(real, fake), torch.cat([loss.discriminator(*one) for one in singles]))
    assert torch.equal(of_generator(loss, real, fake), torch.cat([of_generator(loss, *one) for one in singles]))


@pytest.mark.parametrize("name", OF_A_BATCH)
def test_a_loss_of_the_batch_does_not_depend_on_who_is_beside_whom(name):
    loss, real, fake = TABLE[name][0], logits(7, 6), logits(7, 7)

    for half in loss.discriminator, loss.generator:
        torch.testing.assert_close(half(real, fake.flip(0)).mean(), half(real, fake).mean(), rtol=1e-12, atol=0)
        singles = [half(real[i : i + 1], fake[i : i + 1]) for i in range(7)]
        assert not torch.isclose(half(real, fake).mean(), torch.cat(singles).mean(), rtol=0.01)


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
        ("boundary", 0.0, 2 * math.log(2), 0.0),
        ("relativistic_average", 0.3, 2 * math.log(2), 2 * math.log(2)),
        ("relativistic_average_least_squares", 0.3, 2.0, 2.0),
        ("relativistic_average_hinge", 0.3, 2.0, 2.0),
        ("softmax", 0.3, math.log(2), math.log(2)),  # of one pair
        ("energy", -0.4, 1.0, 0.4),  # below the margin it is the margin
    ],
)
def test_values_at_equilibrium(name, logit, discriminator_value, generator_value):
    loss = TABLE[name][0]
    undecided = torch.tensor([logit], dtype=torch.float64, requires_grad=True)
    value = loss.discriminator(undecided, undecided)

    assert value.item() == pytest.approx(discriminator_value, abs=1e-15)
    assert of_generator(loss, undecided, undecided).item() == pytest.approx(generator_value, abs=1e-15)
    assert blind_loss(loss) == pytest.approx(discriminator_value, abs=1e-15)
    if discriminator_value > 0:
        assert least_loss(loss, 7) == pytest.approx(math.log(7) if name == "softmax" else 0, abs=1e-8)
    (slope,) = torch.autograd.grad(value.sum(), undecided)
    assert slope.item() == pytest.approx(0, abs=1e-15)


TOY = torch.tensor([1, 2, 5]), torch.tensor([4, 3, 1])
"""How many of 8 reals, and of 8 fakes, lie at each of three points."""


def tabulated(levels: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of TOY's reals and fakes under a discriminator with one level a point."""
    return tuple(torch.repeat_interleave(levels, counts) for counts in TOY)


def best_levels(name: str, share: Tensor) -> Tensor:
    """The best discriminator's, where `share` is p_data / (p_data + p_G)."""
    return {"lsgan": share, "softmax": share.log()}.get(name, torch.logit(share))


@pytest.mark.parametrize("name", ["vanilla", "minimax", "boundary", "lsgan", "softmax"])
def test_the_best_discriminator_of_a_discrete_distribution(name):
    loss = TABLE[name][0]
    data, model = (counts.double() / 8 for counts in TOY)
    levels = best_levels(name, data / (data + model)).requires_grad_()
    value = loss.discriminator(*tabulated(levels)).mean()

    middle = (data + model) / 2
    from_data, from_model = ((p * (p / middle).log()).sum().item() for p in (data, model))
    expected = {
        "lsgan": (data * model / (data + model)).sum().item() / 2,
        "softmax": math.log(16) - from_data,
    }.get(name, 2 * math.log(2) - from_data - from_model)  # 2 log 2 - 2 JSD
    assert value.item() == pytest.approx(expected, rel=1e-12)
    (slopes,) = torch.autograd.grad(value, levels)
    assert slopes.abs().max() < 1e-14
    for shift in torch.eye(3, dtype=torch.float64) * 0.1:
        assert loss.discriminator(*tabulated(levels + shift)).mean() > value
        assert loss.discriminator(*tabulated(levels - shift)).mean() > value


@pytest.mark.parametrize("name", [name for name in TABLE if name != "began"])  # its k, not D, finds the balance
def test_where_the_distributions_agree_the_best_discriminator_is_flat(name):
    loss, counts = TABLE[name][0], torch.tensor([1, 2, 5])
    level = {"lsgan": 0.5, "vanilla_smoothed": math.log(0.4 / 0.6)}.get(name, 0.0)
    levels = torch.full((3,), level, dtype=torch.float64, requires_grad=True)
    samples = levels.repeat_interleave(counts)

    (slopes,) = torch.autograd.grad(loss.discriminator(samples, samples.flip(0)).mean(), levels)
    assert slopes.tolist() == pytest.approx([0.0] * 3, abs=1e-15)


@pytest.mark.parametrize("num", [1, 8, 64])
def test_values_of_softmax_at_its_ends(num):
    loss, flat = softmax(), torch.full((num,), 0.7, dtype=torch.float64)

    assert loss.discriminator(flat, flat).mean().item() == pytest.approx(math.log(2 * num), rel=1e-14)
    assert loss.generator(flat, flat).mean().item() == pytest.approx(math.log(2 * num), rel=1e-14)
    assert loss.discriminator(flat + 50, flat).mean().item() == pytest.approx(math.log(num), abs=1e-14)


def test_softmax_gradients_are_shares_less_targets():
    loss = softmax()
    real, fake = logits(5, 10).requires_grad_(), logits(5, 11).requires_grad_()
    shares = torch.cat([real, fake]).detach().softmax(dim=0)

    gradients = torch.cat(torch.autograd.grad(loss.discriminator(real, fake).mean(), (real, fake)))
    targets = torch.tensor([1 / 5] * 5 + [0.0] * 5, dtype=torch.float64)
    torch.testing.assert_close(gradients, shares - targets, rtol=0, atol=1e-15)
    gradients = torch.cat(torch.autograd.grad(loss.generator(real, fake).mean(), (real, fake)))
    torch.testing.assert_close(gradients, shares - 1 / 10, rtol=0, atol=1e-15)


def test_both_terms_of_the_relativistic_average_teach_the_generator():
    loss, real, fake = relativistic_average(), logits(6, 12), logits(6, 13).requires_grad_()
    (gradient,) = torch.autograd.grad(loss.generator(real, fake).mean(), fake)

    # d/df_j of mean softplus(mean r - f) is -sigmoid(mean r - f_j) / N, of mean softplus(r - mean f) it is
    # -mean sigmoid(r - mean f) / N: what a loss without the term about reals would lack.
    about_fakes = -torch.sigmoid(real.mean() - fake) / 6
    about_reals = -torch.sigmoid(real - fake.mean()).mean() / 6
    torch.testing.assert_close(gradient, about_fakes + about_reals, rtol=1e-12, atol=0)


def test_the_boundary_seeking_generator_turns_back_above_the_boundary():
    fake = torch.tensor([-2.0, 0.0, 2.0], requires_grad=True)

    assert torch.autograd.grad(boundary().generator(fake).sum(), fake)[0].tolist() == [-2.0, 0.0, 2.0]


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
    # The generators that seek equality want a fake raised only where it is below: below 0, or below the reals.
    fake = torch.tensor([-0.2 if name in ("boundary", "softmax") else 0.2], requires_grad=True)
    assert torch.autograd.grad(of_generator(loss, real, fake).sum(), fake)[0] < 0


@pytest.mark.parametrize("name", ["relativistic", *OF_A_BATCH])
def test_losses_that_compare_do_not_see_a_common_shift_of_the_logits(name):
    loss, real, fake = TABLE[name][0], logits(32, 8), logits(32, 9)

    torch.testing.assert_close(loss.discriminator(real + 7, fake + 7), loss.discriminator(real, fake))
    torch.testing.assert_close(loss.generator(real + 7, fake + 7), loss.generator(real, fake))


@pytest.mark.parametrize("name", [name for name in TABLE if name.startswith("relativistic")])
def test_the_players_of_a_relativistic_loss_swap(name):
    loss, real, fake = TABLE[name][0], logits(32, 8), logits(32, 9)

    torch.testing.assert_close(loss.generator(real, fake), loss.discriminator(fake, real))


@pytest.mark.parametrize("name", [name for name in TABLE if TABLE[name][0].generator_sees_real])
@pytest.mark.parametrize("shapes", [((4,), (1,)), ((4, 1), (4,))])
def test_generators_that_see_real_refuse_logits_that_would_broadcast(name, shapes):
    with pytest.raises(ValueError, match=r"shape \(N,\)"):
        TABLE[name][0].generator(*map(torch.zeros, shapes))


# ---------------------------------------------------------------------- label smoothing


def test_without_smoothing_the_vanilla_loss_is_the_same_to_the_bit():
    plain, smoothed = vanilla(), vanilla(smoothing=0.0)
    real, fake = logits(64, 14), logits(64, 15)

    assert plain.discriminator is smoothed.discriminator
    assert torch.equal(smoothed.discriminator(real, fake), softplus(-real) + softplus(fake))


@pytest.mark.parametrize("smoothing", [0.1, 0.2, 1.0])
def test_the_best_discriminator_under_smoothing_is_never_sure(smoothing):
    loss, (data, model) = vanilla(smoothing), (counts.double() / 8 for counts in TOY)
    share = (1 - smoothing) * data / (data + model)
    levels = torch.logit(share.clamp(min=1e-9)).requires_grad_()
    (slopes,) = torch.autograd.grad(loss.discriminator(*tabulated(levels)).mean(), levels)

    assert slopes.abs().max() < 1e-8
    sure = torch.tensor([40.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.grad(loss.discriminator(sure, torch.zeros_like(sure)).sum(), sure)[0].item() == (
        pytest.approx(smoothing, rel=1e-12)
    )


def test_where_nothing_can_be_told_smoothing_lowers_the_level():
    """D says (1 - s) / 2 everywhere: -(1 - s) log((1 - s) / 2) - (1 + s) log((1 + s) / 2)."""
    expected = -0.8 * math.log(0.4) - 1.2 * math.log(0.6)

    assert blind_loss(vanilla(0.2)) == pytest.approx(expected, abs=1e-5)  # the constants are 0.01 apart
    blind = torch.tensor([math.log(0.4 / 0.6)], dtype=torch.float64)
    assert vanilla(0.2).discriminator(blind, blind).item() == pytest.approx(expected, rel=1e-14)


# ---------------------------------------------------------------------- energies


def test_who_needs_what():
    assert {name for name in TABLE if TABLE[name][0].needs == "energy"} == {"energy", "began"}
    assert {name for name in TABLE if TABLE[name][0].whole_batch} == set(OF_A_BATCH)
    assert {name for name in TABLE if TABLE[name][0].state is not None} == {"began"}
    for loss, *_ in TABLE.values():
        assert (loss.observe is None) == (loss.state is None)


def energies(*values: float) -> Tensor:
    """The logits of a D that gives these energies."""
    return -torch.tensor(values, dtype=torch.float64)


def test_energy_values_of_energies():
    loss = energy(margin=2.0)
    real, fake = energies(0.2, 0.5, 3.0), energies(0.3, 1.5, 2.5)

    assert loss.discriminator(real, fake).tolist() == pytest.approx([0.2 + 1.7, 0.5 + 0.5, 3.0 + 0.0], rel=1e-14)
    assert loss.generator(fake).tolist() == pytest.approx([0.3, 1.5, 2.5], rel=1e-14)
    assert blind_loss(energy(margin=1.3)) == pytest.approx(1.3, rel=1e-12)


def test_each_fake_has_a_margin_of_its_own():
    """The mean energy of these fakes is the margin: hinged as a mean, the low one would get no push."""
    fake = torch.tensor([-0.5, -1.5], requires_grad=True)
    (gradient,) = torch.autograd.grad(energy().discriminator(torch.zeros(2), fake).sum(), fake)

    assert gradient.tolist() == [1.0, 0.0]


def test_k_of_began_follows_the_paper():
    """A plain loop over mean energies that take k up, to 1, and down, to 0."""
    loss, k = began(gamma=0.6, lambda_k=1.0), 0.0
    assert loss.state is not None
    assert loss.observe is not None
    loss.state["k"] = loss.state["k"].double()
    seen = []
    script = [(1.0, 0.2), (1.0, 0.1), (0.9, 0.04), (0.8, 0.1), (0.5, 0.9), (0.4, 1.5), (0.3, 0.1)]
    for real_energy, fake_energy in script:
        k = min(max(k + 1.0 * (0.6 * real_energy - fake_energy), 0.0), 1.0)
        real, fake = energies(real_energy), energies(fake_energy)
        loss.observe(real.mean(), fake.mean())
        assert loss.state["k"].item() == pytest.approx(k, abs=1e-15)
        seen.append(k)
        measure = real_energy + abs(0.6 * real_energy - fake_energy)
        assert loss.state["convergence"].item() == pytest.approx(measure, abs=1e-15)
        assert loss.discriminator(real, fake).item() == pytest.approx(real_energy - k * fake_energy, abs=1e-15)

    assert 0.0 in seen[1:]
    assert 1.0 in seen


def test_levels_of_the_discriminators_loss_count_the_batch_where_the_loss_does():
    assert blind_loss(softmax(), 64) == pytest.approx(math.log(128), rel=1e-12)
    assert least_loss(softmax(), 64) == pytest.approx(math.log(64), abs=1e-8)
    assert blind_loss(relativistic_average(), 64) == pytest.approx(2 * math.log(2), rel=1e-12)
    for margin in (1.3, 80.0):
        assert least_loss(energy(margin), 64) == pytest.approx(0, abs=1e-12)
    assert least_loss(wasserstein()) == least_loss(began()) == 0.0  # no lowest value, or one that moves
    label = torch.tensor(1.5, dtype=torch.float64).sigmoid().item()  # that of the reals: the best logit is 1.5
    entropy = -label * math.log(label) - (1 - label) * math.log(1 - label)
    assert least_loss(vanilla(1 - label)) == pytest.approx(entropy, abs=1e-8)


def test_began_starts_as_a_plain_autoencoder_with_the_papers_gain():
    loss = began()
    assert loss.state is not None
    assert loss.observe is not None
    assert loss.state["k"].shape == ()
    assert loss.state["k"].item() == 0.0
    assert loss.discriminator(torch.tensor([-0.7]), torch.tensor([-9.0])).item() == pytest.approx(0.7)
    loss.observe(torch.tensor(-1.0), torch.tensor(-0.1))
    assert loss.state["k"].item() == pytest.approx(0.001 * (0.5 - 0.1), rel=1e-6)
    assert loss.state["k"].dtype == torch.float32
    assert blind_loss(loss) == 0.0


def test_every_began_has_a_state_of_its_own():
    one, other = began(), began()
    assert one.observe is not None
    one.observe(torch.tensor(-1.0), torch.tensor(0.0))

    assert one.state != other.state


def test_a_state_that_is_put_in_its_place_is_used():
    loss = began()
    assert loss.state is not None
    loss.state["k"] = torch.tensor(1.0)

    assert loss.discriminator(torch.tensor([-3.0]), torch.tensor([-1.0])).item() == 2.0


# ---------------------------------------------------------------------- the pulling-away term


def test_a_weight_asks_for_the_pulling_away_term():
    embeddings = logits(12, 18).view(4, 3)
    loss = energy(pull_away=0.1)

    assert loss.embedding_term is not None
    torch.testing.assert_close(loss.embedding_term(embeddings), 0.1 * pulling_away(embeddings), rtol=1e-14, atol=0)
    assert loss.whole_batch
    assert energy().embedding_term is None


def test_squared_cosines_worked_out_by_hand():
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]], dtype=torch.float64)  # 90, 45 and 45 degrees

    assert pulling_away(embeddings).tolist() == pytest.approx([0.25, 0.25, 0.5], rel=1e-14)


def test_opposite_embeddings_are_as_bad_as_equal_ones():
    line = torch.tensor([[1.0, 1.0], [-2.0, -2.0], [3.0, 3.0]], dtype=torch.float64)

    assert pulling_away(line).tolist() == pytest.approx([1.0] * 3, rel=1e-14)
    assert pulling_away(torch.eye(4)).tolist() == [0.0] * 4


def test_pull_away_is_the_papers_double_sum():
    embeddings = logits(35, 16).view(7, 5)
    total = sum(
        (embeddings[i] @ embeddings[j] / (embeddings[i].norm() * embeddings[j].norm())) ** 2
        for i in range(7)
        for j in range(7)
        if i != j
    )

    torch.testing.assert_close(pulling_away(embeddings).mean(), total / (7 * 6), rtol=1e-12, atol=0)
    lengths = torch.arange(1.0, 8.0, dtype=torch.float64).unsqueeze(1)
    torch.testing.assert_close(pulling_away(lengths * embeddings), pulling_away(embeddings), rtol=1e-12, atol=0)


def test_pull_away_gradients_agree_with_finite_differences():
    assert torch.autograd.gradcheck(pulling_away, (logits(12, 17).view(4, 3).requires_grad_(),))


def test_zero_embeddings_and_batches_of_one_cost_nothing():
    embeddings = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    values = pulling_away(embeddings)

    assert values.tolist() == [0.0, 0.5, 0.5]
    assert torch.autograd.grad(values.sum(), embeddings)[0].isfinite().all()
    assert pulling_away(torch.ones(1, 3)).tolist() == [0.0]


# ---------------------------------------------------------------------- the sign of the logits


@pytest.mark.parametrize(
    ("loss", "tells"),
    [
        (vanilla(), True),
        (minimax(), True),
        (hinge(), True),
        (boundary(), True),
        (lsgan(), False),
        (wasserstein(), False),
        (relativistic(), False),
        (relativistic_average(), False),
    ],
)
def test_a_discriminator_that_cannot_tell_says_0_where_the_sign_is_its_verdict(loss, tells):
    """ADA takes the sign of D's logits for its verdict: then the best constant is 0, and real ones are above it."""
    assert loss.tells_by_sign == tells
    constants = torch.linspace(-2, 2, 401, dtype=torch.float64)
    blind = torch.stack([loss.discriminator(one.view(1), one.view(1)).mean() for one in constants])
    best = constants[blind <= blind.min() + 1e-12]
    if tells:
        assert best.abs().min() < 1e-12
        real = torch.tensor([0.5], dtype=torch.float64)
        assert loss.discriminator(real, -real) < loss.discriminator(-real, real)
