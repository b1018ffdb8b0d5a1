"""Penalties against closed forms: of linear and quadratic discriminators, whose slopes are known, or given logits."""

import math
from functools import partial

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from torch import Tensor, nn
from torch.nn.functional import pad
from torch_calls import FunctionsCalled

from gan_lab.compose import Composer
from gan_lab.conditioning import Conditioning
from gan_lab.config import problems_of
from gan_lab.models.layers import LeakyReLU
from gan_lab.penalties import (
    LeCam,
    Passes,
    class_consistency,
    consistency,
    gradient,
    input_gradient,
    r1,
    r1_r2,
    r2,
    wgan_gp,
)

wgan_div = partial(gradient, power=6, target=0, weight=2)
dragan = partial(gradient, at="perturbed")
PENALTIES = {
    "wgan_gp": wgan_gp,
    "r1": r1,
    "r2": r2,
    "wgan_lp": partial(gradient, one_sided=True),
    "wgan_div": wgan_div,
    "wgan_div_union": partial(wgan_div, at="real_and_fake"),
    "absolute": partial(gradient, norm=1, power=1, target=0),
    "sup": partial(gradient, norm="max", power=1.5, at="real"),
    "cubic": partial(gradient, norm=3, power=3, target=0.5, at="fake"),
    "dragan": dragan,
}
EVERY_PENALTY = pytest.mark.parametrize("name", PENALTIES)
# DRAGAN's points depend on the deviation of the whole batch.
EVERY_PENALTY_OF_A_SAMPLE = pytest.mark.parametrize("name", [name for name in PENALTIES if name != "dragan"])
EVERY_SHAPE = pytest.mark.parametrize("shape", [(2,), (1, 8, 8), (3, 5, 7)])


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Given:
    """A `uniform` that returns known numbers and notes what it was asked for."""

    def __init__(self, *numbers: float):
        self.numbers = torch.tensor(numbers, dtype=torch.float64)
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        self.shapes.append(shape)
        # One number a sample; where more are asked for, all of a sample's are the same.
        return self.numbers.view(-1, *[1] * (len(shape) - 1)).expand(shape)


def linear(weights: Tensor):
    """D(x) = <w, x> + 3: its slope is |w| everywhere."""
    return lambda inputs: (inputs * weights).flatten(1).sum(dim=1) + 3


def quadratic(matrix: Tensor):
    """D(x) = x^T A x: its gradient is (A + A^T) x."""
    return lambda inputs: torch.einsum("ni,ij,nj->n", inputs.flatten(1), matrix, inputs.flatten(1))


@EVERY_SHAPE
def test_a_linear_discriminator(shape):
    weights = values(*shape, seed=1)
    length = weights.norm().item()
    real, fake, uniform = values(5, *shape, seed=2), values(5, *shape, seed=3), Given(0, 0.1, 0.5, 0.9, 1)
    size = weights.abs()
    expected = {
        "wgan_gp": 7 * (length - 1) ** 2,
        "r1": 3.5 * length**2,
        "r2": 3.5 * length**2,
        "wgan_lp": 7 * max(length - 1, 0) ** 2,
        "wgan_div": 7 * length**6,
        "wgan_div_union": 7 * length**6,
        "absolute": 7 * size.sum().item(),
        "sup": 7 * abs(size.max().item() - 1) ** 1.5,
        "cubic": 7 * abs(size.pow(3).sum().item() ** (1 / 3) - 0.5) ** 3,
        "dragan": 7 * (length - 1) ** 2,
    }

    for name, penalty in PENALTIES.items():
        result = penalty(linear(weights), real, fake, uniform, weight=7.0)
        assert result.shape == (5,), name
        assert result.tolist() == pytest.approx([expected[name]] * 5, rel=1e-12), name


@pytest.mark.parametrize("length", [0.2, 1.0, 3.0])
def test_wgan_gp_is_two_sided_and_zero_for_slope_one(length):
    weights = torch.tensor([0.6, -0.8], dtype=torch.float64) * length
    result = wgan_gp(linear(weights), values(4, 2), values(4, 2), Given(0.1, 0.2, 0.3, 0.4))

    assert result.tolist() == pytest.approx([10 * (length - 1) ** 2] * 4, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize(("length", "expected"), [(0.2, 0.0), (1.5, 0.0), (2.0, 2.5), (3.5, 40.0)])
def test_one_sided_costs_only_above_the_target(length, expected):
    weights = torch.tensor([0.6, -0.8], dtype=torch.float64) * length
    penalty = partial(gradient, target=1.5, one_sided=True)
    result = penalty(linear(weights), values(4, 2), values(4, 2), Given(0.1, 0.2, 0.3, 0.4))

    assert result.tolist() == pytest.approx([expected] * 4, rel=1e-12, abs=1e-14)


def test_a_quadratic_discriminator_at_points_worked_out_by_hand():
    matrix = torch.tensor([[1.0, 2.0], [0.0, -1.0]], dtype=torch.float64)  # gradient (2x + 2y, 2x - 2y)
    real = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)  # gradients (2, 2), (4, -4): squares 8, 32
    fake = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)  # gradients (0, 0), (4, 0): squares 0, 16
    # mixed: (0.75, 0) and (0.5, 1.5) with gradients (1.5, 1.5), (4, -2): squares 4.5, 20
    mixing = Given(0.75, 0.5)

    assert r1(quadratic(matrix), real, fake, mixing, weight=10.0).tolist() == pytest.approx([40.0, 160.0])
    assert r2(quadratic(matrix), real, fake, mixing, weight=10.0).tolist() == pytest.approx([0.0, 80.0])
    assert wgan_gp(quadratic(matrix), real, fake, mixing, weight=10.0).tolist() == pytest.approx(
        [10 * (math.sqrt(4.5) - 1) ** 2, 10 * (math.sqrt(20) - 1) ** 2]
    )
    assert wgan_div(quadratic(matrix), real, fake, mixing).tolist() == pytest.approx([2 * 4.5**3, 2 * 20.0**3])
    assert wgan_div(quadratic(matrix), real, fake, mixing, at="real_and_fake").tolist() == pytest.approx(
        [8.0**3 + 0.0, 32.0**3 + 16.0**3]  # 2 times the mean of both
    )
    assert gradient(quadratic(matrix), real, fake, mixing, at="real", norm=1, power=1, weight=1.0).tolist() == (
        pytest.approx([3.0, 7.0])  # |2| + |2| - 1, |4| + |-4| - 1
    )
    # The four numbers of `real` have mean 3/4 and mean square 5/4: deviation sqrt(11) / 4. By 0.75 u and 0.5 u:
    # (1 + a, a) with a = 0.75^2 sqrt(11) / 8, gradient (2 + 4a, 2); (b, 2 + b) with b = 0.5^2 sqrt(11) / 8,
    # gradient (4 + 4b, -4).
    a, b = 0.75**2 * math.sqrt(11) / 8, 0.5**2 * math.sqrt(11) / 8
    assert dragan(quadratic(matrix), real, fake, mixing).tolist() == pytest.approx(
        [10 * (math.hypot(2 + 4 * a, 2) - 1) ** 2, 10 * (math.hypot(4 + 4 * b, 4) - 1) ** 2]
    )


@EVERY_SHAPE
def test_wgan_gp_takes_one_share_of_real_per_sample(shape):
    size = math.prod(shape)
    matrix, real, fake = values(size, size, seed=4), values(3, *shape, seed=5), values(3, *shape, seed=6)
    uniform = Given(0.25, 0.5, 1.0)
    result = wgan_gp(quadratic(matrix), real, fake, uniform, weight=1.0)

    assert uniform.shapes == [(3,) + (1,) * len(shape)]
    mixed = torch.stack([0.25 * real[0] + 0.75 * fake[0], 0.5 * real[1] + 0.5 * fake[1], real[2]]).flatten(1)
    slopes = (mixed @ (matrix + matrix.T)).square().sum(dim=1).sqrt()
    torch.testing.assert_close(result, (slopes - 1) ** 2, rtol=1e-12, atol=0)


@EVERY_SHAPE
def test_dragan_takes_one_share_per_sample_and_noise_per_value_in_one_draw(shape):
    size = math.prod(shape)
    matrix, real = values(size, size, seed=4), 3 + 2 * values(3, *shape, seed=5)
    draws = torch.rand(3, 1 + size, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    asked = []

    def uniform(shape: tuple[int, ...]) -> Tensor:
        asked.append(shape)
        return draws

    result = dragan(quadratic(matrix), real, torch.full_like(real, math.nan), uniform, weight=1.0)

    assert asked == [(3, 1 + size)]
    deviation = (real - real.mean()).square().mean().sqrt()
    points = [real[i].flatten() + draws[i, 0] * 0.5 * deviation * draws[i, 1:] for i in range(3)]
    slopes = (torch.stack(points) @ (matrix + matrix.T)).square().sum(dim=1).sqrt()
    torch.testing.assert_close(result, (slopes - 1) ** 2, rtol=1e-12, atol=0)


def test_dragan_of_a_single_value_stays_there():
    real = torch.tensor([[2.0]], dtype=torch.float64)
    result = dragan(lambda inputs: inputs.pow(3).sum(dim=1), real, real, Given(0.7), weight=1.0)

    assert result.tolist() == pytest.approx([11.0**2])  # slope 3 * 2^2


@EVERY_SHAPE
@pytest.mark.parametrize(("at", "sides"), [("real", [0]), ("fake", [1]), ("real_and_fake", [0, 1])])
def test_the_gradient_penalty_at_the_samples_themselves(at, sides, shape):
    size = math.prod(shape)
    matrix = values(size, size, seed=7)
    samples = [values(3, *shape, seed=8), values(3, *shape, seed=9)]
    result = gradient(quadratic(matrix), *samples, refuse, at=at, power=4, target=0.0, weight=3.0)

    squares = [(samples[side].flatten(1) @ (matrix + matrix.T)).square().sum(dim=1) for side in sides]
    torch.testing.assert_close(result, 3 * torch.stack(squares).square().mean(dim=0), rtol=1e-12, atol=0)


def test_settings_of_the_gradient_penalty_are_the_named_ones():
    network, real, fake = small_network(), values(5, 2, seed=20), values(5, 2, seed=21)
    uniform = Given(0.1, 0.3, 0.5, 0.7, 0.9)
    squared = partial(gradient, network, real, fake, uniform, target=0.0)

    assert torch.equal(gradient(network, real, fake, uniform), wgan_gp(network, real, fake, uniform))
    for at, named in (("real", r1), ("fake", r2)):
        torch.testing.assert_close(squared(at=at, weight=1.5), named(network, real, fake, refuse, weight=3.0))
    both = r1_r2(network, real, fake, refuse, weight=3.0)
    torch.testing.assert_close(squared(at="real_and_fake", weight=3.0), both)


def refuse(shape: tuple[int, ...]) -> Tensor:
    raise AssertionError("nothing to draw")


@EVERY_SHAPE
@pytest.mark.parametrize(("penalty", "side"), [(r1, 0), (r2, 1)])
def test_r1_looks_at_real_and_r2_at_fake_only(penalty, side, shape):
    size = math.prod(shape)
    matrix = values(size, size, seed=7)
    samples = [values(3, *shape, seed=8), values(3, *shape, seed=9)]
    result = penalty(quadratic(matrix), *samples, refuse, weight=4.0)
    gradients = samples[side].flatten(1) @ (matrix + matrix.T)
    torch.testing.assert_close(result, 2 * gradients.square().sum(dim=1), rtol=1e-12, atol=0)
    swapped = penalty(quadratic(matrix), *samples[::-1], refuse, weight=4.0)
    assert not torch.isclose(swapped, result, rtol=0.01).any()


def test_default_weights_are_the_papers():
    weights = torch.tensor([3.0, 4.0], dtype=torch.float64)
    real, fake, uniform = values(1, 2), values(1, 2), Given(0.5)

    assert wgan_gp(linear(weights), real, fake, uniform).item() == pytest.approx(10 * 16)
    assert r1(linear(weights), real, fake, uniform).item() == pytest.approx(5 * 25)
    assert r2(linear(weights), real, fake, uniform).item() == pytest.approx(5 * 25)


@EVERY_PENALTY_OF_A_SAMPLE
def test_each_sample_is_penalised_by_itself(name):
    network = small_network()
    real, fake, shares = values(6, 2, seed=10), values(6, 2, seed=11), [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    whole = PENALTIES[name](network, real, fake, Given(*shares))
    parts = [PENALTIES[name](network, real[i : i + 1], fake[i : i + 1], Given(share)) for i, share in enumerate(shares)]

    torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-12, atol=1e-14)


def small_network() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(2, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1), torch.nn.Flatten(0))
    return layers.double()


def test_weight_gradients_of_a_linear_discriminator_follow_the_formula():
    weights = torch.tensor([3.0, 4.0], dtype=torch.float64, requires_grad=True)
    real, fake, uniform = values(4, 2, seed=12), values(4, 2, seed=13), Given(0.1, 0.4, 0.6, 0.9)

    # d/dw c (|w| - 1)^2 = 2c (|w| - 1) w / |w|;  d/dw c/2 |w|^2 = c w
    (gradient,) = torch.autograd.grad(wgan_gp(linear(weights), real, fake, uniform, weight=10.0).mean(), weights)
    assert gradient.tolist() == pytest.approx([20 * 4 * 0.6, 20 * 4 * 0.8])
    for penalty in (r1, r2):
        (gradient,) = torch.autograd.grad(penalty(linear(weights), real, fake, uniform, weight=10.0).mean(), weights)
        assert gradient.tolist() == pytest.approx([30.0, 40.0])


@EVERY_PENALTY
def test_weight_gradients_agree_with_finite_differences(name):
    network = small_network()
    real, fake = 3 * values(4, 2, seed=14), 3 * values(4, 2, seed=15)
    for parameter in network.parameters():  # so steep that `one_sided` is not idle
        parameter.data *= 3
    parameters = dict(network.named_parameters())

    def penalty(*tensors: Tensor) -> Tensor:
        def discriminator(inputs: Tensor) -> Tensor:
            return torch.func.functional_call(network, dict(zip(parameters, tensors, strict=True)), inputs)

        return PENALTIES[name](discriminator, real, fake, Given(0.1, 0.4, 0.6, 0.9), weight=3.0)

    tensors = tuple(parameter.detach().clone().requires_grad_() for parameter in parameters.values())
    assert penalty(*tensors).max() > 0
    assert torch.autograd.gradcheck(penalty, tensors)
    assert torch.autograd.gradgradcheck(penalty, tensors)


@EVERY_PENALTY
def test_a_flat_discriminator_has_finite_weight_gradients(name):
    network = small_network()
    torch.nn.init.zeros_(network[2].weight)
    result = PENALTIES[name](network, values(3, 2), values(3, 2), Given(0.1, 0.4, 0.6))

    to_target = {"wgan_gp": 10.0, "sup": 10.0, "dragan": 10.0, "cubic": 1.25}
    assert result.tolist() == [to_target.get(name, 0.0)] * 3
    gradients = torch.autograd.grad(result.mean(), list(network.parameters()), allow_unused=True)
    assert all(one is None or one.isfinite().all() for one in gradients)
    assert any(one is not None for one in gradients)


@pytest.mark.parametrize("norm", [1.0, 1.5, 2.0, 3.0, 6.0, math.inf])
@pytest.mark.parametrize("power", [1.0, 1.5, 2.0, 6.0])
@pytest.mark.parametrize("target", [0.0, 1.0])
@pytest.mark.parametrize("one_sided", [False, True])
def test_no_exponent_gives_nan_at_gradient_zero_nor_at_the_target(norm, power, target, one_sided):
    penalty = partial(gradient, norm=norm, power=power, target=target, one_sided=one_sided)
    for direction in ([0.0, 0.0], [target, 0.0]):
        weights = torch.tensor(direction, requires_grad=True)
        result = penalty(linear(weights), torch.ones(2, 2), torch.zeros(2, 2), lambda shape: torch.full(shape, 0.5))
        assert result.isfinite().all()
        assert torch.autograd.grad(result.mean(), weights)[0].isfinite().all()


@EVERY_PENALTY
def test_the_samples_given_are_left_alone(name):
    real, fake = values(3, 2, seed=16), values(3, 2, seed=17).requires_grad_()
    before = real.clone(), fake.detach().clone()
    PENALTIES[name](small_network(), real, fake, Given(0.1, 0.4, 0.6)).mean().backward()

    assert torch.equal(real, before[0])
    assert torch.equal(fake, before[1])
    assert not real.requires_grad
    assert real.grad is None
    assert fake.grad is None


@EVERY_SHAPE
def test_the_input_gradient_is_flat_per_sample(shape):
    size = math.prod(shape)
    matrix, inputs = values(size, size, seed=18), values(4, *shape, seed=19)

    expected = inputs.flatten(1) @ (matrix + matrix.T)
    torch.testing.assert_close(input_gradient(quadratic(matrix), inputs), expected, rtol=1e-12, atol=1e-12)


def test_r1_r2_is_the_sum_of_both_in_one_pass():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Softplus(), torch.nn.Linear(8, 1)).double()
    calls = []

    def discriminator(samples):
        calls.append(len(samples))
        return network(samples).squeeze(1)

    real, fake = torch.randn(2, 5, 3, dtype=torch.float64)
    both = r1(discriminator, real, fake, torch.rand, weight=3.0) + r2(discriminator, real, fake, torch.rand, weight=3.0)
    calls.clear()
    together = r1_r2(discriminator, real, fake, torch.rand, weight=3.0)

    assert calls == [10]
    torch.testing.assert_close(together, both, rtol=1e-12, atol=1e-12)
    parameters = list(network.parameters())[:-1]  # the last bias moves no gradient
    for one, other in zip(
        torch.autograd.grad(together.mean(), parameters),
        torch.autograd.grad(both.mean(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("norm", "is_fine"), [("max", True), (1, True), (3.5, True), (0.5, False), (".inf", False)])
def test_norms_that_the_configuration_takes(norm, is_fine):
    problems = problems_of(Composer().compose(["penalty=gradient", f"penalty.gradient.norm={norm}"]))
    GlobalHydra.instance().clear()

    assert (problems == []) == is_fine
    if not is_fine:
        assert "expected a number at least 1 or one of max" in problems[0]


def test_the_norm_max_is_the_limit_of_all_norms():
    network, real = small_network(), values(5, 2, seed=22)
    ours, limit = (gradient(network, real, real, refuse, at="real", norm=norm) for norm in ("max", math.inf))

    assert torch.equal(ours, limit)


# ---------------------------------------------------------------------- now and then


@pytest.mark.parametrize("name", ["r1", "r2", "r1_r2", "wgan_div", "wgan_div_union", "cubic", "dragan"])
def test_a_penalty_that_is_called_less_often_counts_more(name):
    penalty = {**PENALTIES, "r1_r2": r1_r2}[name]
    real, fake = values(4, 2, seed=23), values(4, 2, seed=24)

    def called(**how: float) -> Tensor:
        return penalty(small_network(), real, fake, Given(0.1, 0.3, 0.6, 0.9), weight=3.0, **how)

    assert called().max() > 0
    assert torch.equal(called(every=1), called())
    torch.testing.assert_close(called(every=16), 16 * called(), rtol=1e-14, atol=0)


# ---------------------------------------------------------------------- LeCam


def scripted(real: list[float], fake: list[float]):
    """(discriminator, real, fake): samples that are their own logits."""
    sides = [torch.tensor(logits, dtype=torch.float64).unsqueeze(1) for logits in (real, fake)]
    return lambda samples: samples.squeeze(1), *sides


def started(real: float, fake: float, **how: float) -> LeCam:
    """With these averages, past its start."""
    penalty = LeCam(start_kimg=1.0, **how)
    penalty.observe(torch.tensor(real, dtype=torch.float64), torch.tensor(fake, dtype=torch.float64), 1000)
    return penalty


def test_lecam_values_worked_out_by_hand():
    game = scripted([0.0, -2.0, 3.0], [1.0, 3.0, -1.0])

    # The averages are 2 and -1. Reals are 1, -1 and 4 above that of fakes, fakes 1, -1 and 3 below that of reals.
    assert started(2.0, -1.0)(*game, refuse).tolist() == pytest.approx([0.3 * 2, 0.0, 0.3 * 25], rel=1e-14)
    assert started(2.0, -1.0, weight=1.0)(*game, refuse).tolist() == pytest.approx([2.0, 0.0, 25.0], rel=1e-14)


def test_the_averages_of_lecam_are_weighted_sums_of_all_means():
    penalty = LeCam(decay=0.9)
    means = values(30, 2, seed=25)
    for count, (real, fake) in enumerate(means, start=1):
        penalty.observe(real, fake, 64)
        weights = 0.9 ** torch.arange(count - 1, -1, -1, dtype=torch.float64)
        expected = (weights @ means[:count]) / weights.sum()
        found = torch.stack([penalty.state["real"], penalty.state["fake"]])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # the sum of the weights is in float32
    assert penalty.state["images"].item() == 30 * 64


def test_lecam_begins_where_it_is_told_with_averages_from_before():
    penalty, game = LeCam(start_kimg=0.25), scripted([1.0, 2.0], [-1.0, -2.0])
    for _ in range(3):
        assert penalty(*game, refuse).tolist() == [0.0, 0.0]
        penalty.observe(torch.tensor(5.0), torch.tensor(-5.0), 100)

    assert penalty(*game, refuse).tolist() == pytest.approx([0.3 * (6**2 + 6**2), 0.3 * (7**2 + 7**2)], rel=1e-5)


def test_lecam_waits_for_its_first_averages():
    penalty, game = LeCam(start_kimg=0.0), scripted([1.0], [-1.0])

    assert penalty(*game, refuse).tolist() == [0.0]
    penalty.observe(torch.tensor(1.0), torch.tensor(-1.0), 1)
    assert penalty(*game, refuse).tolist() == pytest.approx([0.3 * 8], rel=1e-5)


def test_the_state_of_lecam_goes_on_where_it_was():
    one, other = started(2.0, -1.0), LeCam(start_kimg=1.0)
    for name, value in one.state.items():
        assert value.shape == ()
        other.state[name] = value.clone()
    for penalty in (one, other):
        penalty.observe(torch.tensor(0.5), torch.tensor(-0.5), 8)

    assert all(torch.equal(value, other.state[name]) for name, value in one.state.items())
    game = scripted([0.0], [1.0])
    assert torch.equal(one(*game, refuse), other(*game, refuse))


@pytest.mark.parametrize("penalty", [started(0.5, -0.5), partial(consistency, flip=True)], ids=["lecam", "consistency"])
def test_penalties_on_logits_share_the_loss_passes(penalty):
    network, sizes = small_network(), []

    def discriminator(samples: Tensor) -> Tensor:
        sizes.append(len(samples))
        return network(samples.flatten(1)[:, :2])

    passes = Passes(discriminator)
    real, fake = values(3, 1, 8, 8, seed=26).requires_grad_(), values(3, 1, 8, 8, seed=27).requires_grad_()
    shared = penalty(passes, real, fake, Given(0.1, 0.4, 0.9))
    passes.logits(real, fake)

    own = [6] if isinstance(penalty, partial) else []  # what was moved
    assert sizes == [6, *own]
    torch.testing.assert_close(shared, penalty(discriminator, real, fake, Given(0.1, 0.4, 0.9)), rtol=1e-12, atol=0)


# ---------------------------------------------------------------------- consistency


def moved(image: Tensor, down: int, right: int, mirrored: bool) -> Tensor:
    """(C, H, W) from `down` rows further down and `right` columns further right, beyond the edge the reflection."""
    most = image.shape[1] // 8, image.shape[2] // 8
    wide = pad(image, (most[1], most[1], most[0], most[0]), mode="reflect")
    window = wide[:, most[0] + down :, most[1] + right :][:, : image.shape[1], : image.shape[2]]
    return window.flip(2) if mirrored else window


def chosen(number: int, size: int) -> float:
    """The draw that moves by `number` along a side of `size`."""
    most = size // 8
    return (number + most + 0.5) / (2 * most + 1)


def drawing(*rows: list[float]):
    """A `uniform` with these numbers, and what it was asked for."""
    asked: list[tuple[int, ...]] = []

    def uniform(shape: tuple[int, ...]) -> Tensor:
        asked.append(shape)
        return torch.tensor(rows, dtype=torch.float64)

    return uniform, asked


@pytest.mark.parametrize("flip", [False, True])
def test_consistency_compares_each_image_with_its_moved_copy(flip):
    weights, real, fake = values(2, 8, 24, seed=28), values(5, 2, 8, 24, seed=29), values(5, 2, 8, 24, seed=30)
    steps = [[(0, 0), (1, -3), (-1, 3), (0, 2), (1, 1)], [(-1, -3), (1, 3), (0, 0), (1, 0), (-1, 2)]]
    mirrored = [[False, True, True, False, True], [True, False, True, True, False]]
    columns = [
        [
            [chosen(down, 8), chosen(right, 24), 0.2 if mirror else 0.7]
            for (down, right), mirror in zip(*side, strict=True)
        ]
        for side in zip(steps, mirrored, strict=True)
    ]
    uniform, asked = drawing(*[one + other for one, other in zip(*columns, strict=True)])
    result = consistency(linear(weights), real, fake, uniform, flip=flip, weight=7.0)

    assert asked == [(5, 6)]
    expected = torch.zeros(5, dtype=torch.float64)
    for side, images in enumerate((real, fake)):
        for i, image in enumerate(images):
            copy = moved(image, *steps[side][i], flip and mirrored[side][i])
            expected[i] += 7 * ((image - copy) * weights).sum() ** 2
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    assert result[0] > 1
    uniform, asked = drawing(*columns[0])
    of_real = consistency(linear(weights), real, real * math.nan, uniform, at="real", flip=flip)
    assert asked == [(5, 3)]
    expected = torch.stack(
        [10 * ((x - moved(x, *steps[0][i], flip and mirrored[0][i])) * weights).sum() ** 2 for i, x in enumerate(real)]
    )
    torch.testing.assert_close(of_real, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [8, 28, 32, 128])
def test_every_step_up_to_an_eighth_of_the_side_is_drawn(size):
    """From draws (k + 1/2) / 1000 and the largest number below 1, of images that count their rows."""
    draws = torch.cat([(torch.arange(1000) + 0.5) / 1000, torch.tensor([1 - 2**-24])]).view(-1, 1).expand(-1, 3)
    images = torch.arange(float(size)).view(1, 1, size, 1).expand(len(draws), 1, size, 8)
    middle = size // 2

    def of_the_middle(samples: Tensor) -> Tensor:
        return samples[:, 0, middle, 0]

    steps = consistency(of_the_middle, images, images, lambda shape: draws, at="real", weight=1.0).sqrt()
    lengths, counts = steps.unique(return_counts=True)
    assert lengths.tolist() == list(range(size // 8 + 1))
    share = 1001 / (2 * (size // 8) + 1)
    assert counts.tolist() == pytest.approx([share] + [2 * share] * (size // 8), abs=3)


def test_a_discriminator_that_does_not_mind_is_not_penalised():
    images = values(4, 3, 16, 16, seed=31)
    uniform, _ = drawing(*values(4, 6, seed=32).sigmoid().tolist())
    flat = torch.ones_like(images) * values(4, 1, 1, 1, seed=33)

    assert consistency(linear(images[0]), flat, -flat, uniform, flip=True).tolist() == pytest.approx(
        [0.0] * 4, abs=1e-20
    )
    still, _ = drawing(*[[0.5, 0.5, 0.5] * 2] * 4)
    unmoved = consistency(linear(images[0]), images, -images, still, flip=True)
    assert unmoved.tolist() == pytest.approx([0.0] * 4, abs=1e-20)


def test_consistency_is_for_images():
    assert consistency.images_only
    assert not hasattr(gradient, "images_only")


@pytest.mark.parametrize("penalty", [started(0.5, -0.5), partial(consistency, flip=True)], ids=["lecam", "consistency"])
def test_weight_gradients_of_penalties_on_logits_agree_with_finite_differences(penalty):
    real, fake = values(3, 1, 8, 8, seed=34), values(3, 1, 8, 8, seed=35)

    def value(weights: Tensor) -> Tensor:
        return penalty(
            lambda samples: (samples * weights).flatten(1).sum(dim=1).tanh(), real, fake, Given(0.1, 0.4, 0.9)
        )

    weights = (values(8, 8, seed=36) / 8).requires_grad_()
    assert value(weights).max() > 0
    assert torch.autograd.gradcheck(value, (weights,))
    assert torch.autograd.gradgradcheck(value, (weights,))


@pytest.mark.parametrize("penalty", [started(0.5, -0.5), consistency], ids=["lecam", "consistency"])
def test_penalties_on_logits_take_each_sample_by_itself(penalty):
    real, fake, shares = values(4, 1, 8, 8, seed=37), values(4, 1, 8, 8, seed=38), [0.0, 0.2, 0.6, 0.9]
    network = linear(values(8, 8, seed=39) / 8)
    whole = penalty(network, real, fake, Given(*shares))
    parts = [penalty(network, real[i : i + 1], fake[i : i + 1], Given(share)) for i, share in enumerate(shares)]

    torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-12, atol=1e-14)


# ---------------------------------------------------------------------- class consistency


def place(image: Tensor, x: float, y: float) -> Tensor:
    """(C,): a bilinear image at (x, y) in pixels, outside of it the nearest of its pixels."""
    height, width = image.shape[1:]
    x, y = min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)
    column, row = min(int(x), width - 2), min(int(y), height - 2)
    right, below = x - column, y - row
    upper = (1 - right) * image[:, row, column] + right * image[:, row, column + 1]
    lower = (1 - right) * image[:, row + 1, column] + right * image[:, row + 1, column + 1]
    return (1 - below) * upper + below * lower


def distorted(image: Tensor, draws: list[float], degrees: float, shear: float, scale: float, translate: float):
    """An image, pixel by pixel, from its six draws in [0, 1): each comes from where turning, slanting, stretching and
    moving say, about the image's centre."""
    angle, slant, wide, high, right, down = (2 * draw - 1 for draw in draws)
    angle, slant = math.radians(degrees * angle), math.tan(math.radians(shear * slant))
    height, width = image.shape[1:]
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    result = torch.empty_like(image)
    for row in range(height):
        for column in range(width):
            slanted = complex(column - middle_x + slant * (row - middle_y), row - middle_y)
            turned = slanted * complex(math.cos(angle), math.sin(angle))
            x = math.exp(scale * wide) * turned.real + translate * width * right + middle_x
            y = math.exp(scale * high) * turned.imag + translate * height * down + middle_y
            result[:, row, column] = place(image, x, y)
    return result


def classifying(weights: Tensor, sizes: list[int] | None = None) -> Passes:
    """A D with a logit and K class logits, from weights (1 + K, values of a sample)."""

    def discriminator(samples: Tensor) -> Tensor:
        if sizes is not None:
            sizes.append(len(samples))
        return samples.flatten(1) @ weights.T

    return Passes(discriminator, read=lambda outputs: outputs[:, 0], read_classes=lambda outputs: outputs[:, 1:])


def divergence(target: Tensor, found: Tensor) -> Tensor:
    """KL between the softmax of two rows of logits."""
    p, q = target.exp() / target.exp().sum(), found.exp() / found.exp().sum()
    return (p * (p / q).log()).sum()


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 6, 9)])
def test_class_consistency_compares_what_is_read_in_each_image_and_in_its_distorted_copy(shape):
    settings = {"degrees": 20.0, "shear": 25.0, "scale": 0.2, "translate": 0.3}
    weights = values(4, math.prod(shape), seed=40) / 4
    real, fake = values(5, *shape, seed=41), values(5, *shape, seed=42)
    draws = torch.rand(5, 6, generator=torch.Generator().manual_seed(43), dtype=torch.float64).tolist()
    uniform, asked = drawing(*draws)
    result = class_consistency(classifying(weights), real, fake, uniform, **settings, weight=7.0)

    assert asked == [(5, 6)]
    expected = [
        7 * divergence(weights[1:] @ image.flatten(), weights[1:] @ distorted(image, row, **settings).flatten())
        for image, row in zip(real, draws, strict=True)
    ]
    torch.testing.assert_close(result, torch.stack(expected), rtol=1e-10, atol=1e-12)
    assert result.min() > 0.01


@pytest.mark.parametrize(
    ("settings", "draws", "expected"),
    [
        ({"translate": 0.25}, [0.5, 0.5, 0.5, 0.5, 1.0, 0.5], lambda image: moved_by(image, 0, 2)),
        ({"translate": 0.25}, [0.5, 0.5, 0.5, 0.5, 0.5, 0.0], lambda image: moved_by(image, -2, 0)),
        ({"degrees": 90.0}, [1.0, 0.5, 0.5, 0.5, 0.5, 0.5], lambda image: image.rot90(1, (1, 2))),
        ({"degrees": 90.0}, [0.0, 0.5, 0.5, 0.5, 0.5, 0.5], lambda image: image.rot90(-1, (1, 2))),
        ({"degrees": 180.0}, [1.0, 0.5, 0.5, 0.5, 0.5, 0.5], lambda image: image.flip(1, 2)),
        ({}, [0.5] * 6, lambda image: image),
    ],
    ids=["to the left", "down", "quarter turn", "other quarter turn", "half turn", "nothing"],
)
def test_distortions_that_need_no_interpolation(settings, draws, expected):
    """Of a D whose class logits are the image's own pixels: the divergence tells two images apart."""
    none = {"degrees": 0.0, "shear": 0.0, "scale": 0.0, "translate": 0.0}
    image = values(1, 8, 8, seed=44)
    uniform, _ = drawing(draws)
    passes = classifying(torch.cat([torch.zeros(1, 64), torch.eye(64)]).double())
    result = class_consistency(passes, image[None], image[None], uniform, **(none | settings), weight=1.0)

    other = expected(image)
    torch.testing.assert_close(result[0], divergence(image.flatten(), other.flatten()), rtol=1e-10, atol=1e-14)


def moved_by(image: Tensor, down: int, right: int) -> Tensor:
    """Each pixel from `down` rows further down and `right` columns further right, beyond the edge the last one."""
    rows = (torch.arange(image.shape[1]) + down).clamp(0, image.shape[1] - 1)
    columns = (torch.arange(image.shape[2]) + right).clamp(0, image.shape[2] - 1)
    return image[:, rows][:, :, columns]


def test_class_consistency_moves_the_reading_of_the_distorted_copy_only():
    """The gradient is that of -sum p log q with p held fixed: (q - p) x_distorted for each class's weights."""
    draws = torch.rand(3, 6, generator=torch.Generator().manual_seed(45), dtype=torch.float64).tolist()
    settings = {"degrees": 15.0, "shear": 15.0, "scale": 0.15, "translate": 0.125}  # the defaults
    real, weights = values(3, 1, 8, 8, seed=46), (values(4, 64, seed=47) / 4).requires_grad_()
    class_consistency(classifying(weights), real, real, drawing(*draws)[0], weight=2.0).sum().backward()

    copies = torch.stack([distorted(image, row, **settings) for image, row in zip(real, draws, strict=True)]).flatten(1)
    p, q = (torch.softmax(samples @ weights[1:].detach().T, dim=1) for samples in (real.flatten(1), copies))
    torch.testing.assert_close(weights.grad[1:], 2 * (q - p).T @ copies, rtol=1e-10, atol=1e-12)
    assert weights.grad[0].abs().max() == 0


def test_class_consistency_shares_the_pass_of_the_loss_and_takes_each_sample_by_itself():
    sizes: list[int] = []
    weights, real, fake = values(4, 64, seed=48) / 4, values(3, 1, 8, 8, seed=49), values(3, 1, 8, 8, seed=50)
    draws = torch.rand(3, 6, generator=torch.Generator().manual_seed(51), dtype=torch.float64).tolist()
    passes = classifying(weights, sizes)
    whole = class_consistency(passes, real, fake, drawing(*draws)[0])
    passes.logits(real, fake)

    assert sizes == [9]
    parts = [
        class_consistency(classifying(weights), real[i : i + 1], fake[i : i + 1], drawing(draws[i])[0])
        for i in range(3)
    ]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-12, atol=1e-14)


def test_one_class_for_everything_is_consistent():
    weights = values(4, 64, seed=52)
    weights[1:] = weights[1]
    real, draws = values(3, 1, 8, 8, seed=53), [[0.1, 0.9, 0.2, 0.7, 0.3, 0.6]] * 3
    assert class_consistency(classifying(weights), real, real, drawing(*draws)[0]).abs().max() < 1e-14


class ReadsWithoutLogits(Conditioning):
    reads = "categories"

    def read(self, outputs: Tensor) -> Tensor:
        return outputs.sign().long()


def test_class_consistency_needs_images_and_classes():
    assert class_consistency.images_only
    assert class_consistency.needs_classes
    given = ["dataset=digits", "model=dcgan", "penalty=class_consistency"]
    reading, not_reading = ("infogan", "acgan", "semi_supervised"), ("none", "concat", "projection", "cluster_gan")
    for conditioning, fits in {**dict.fromkeys(reading, True), **dict.fromkeys(not_reading, False)}.items():
        problems = problems_of(Composer().compose([*given, f"conditioning={conditioning}"]))
        GlobalHydra.instance().clear()
        assert bool(problems) is not fits, (conditioning, problems)
        if not fits:
            assert "infogan" in problems[0]
    own = "conditioning={_target_: test_penalties.ReadsWithoutLogits}"
    problems = problems_of(Composer().compose([*given, own]))
    GlobalHydra.instance().clear()
    assert len(problems) == 1, problems
    assert "penalty.class_consistency" in problems[0]


@pytest.mark.parametrize("penalty", [wgan_gp, r1])
def test_no_zeros_go_back_through_a_pass_of_the_penaltys_own(penalty):
    """Two products of two dense layers, two of their slopes, three of these slopes' derivatives by the weights."""
    torch.manual_seed(0)
    first, second = nn.Linear(3, 4, bias=False), nn.Linear(4, 1, bias=False)
    real, fake = torch.randn(2, 5, 3)

    def products_and_gradients(activation):
        with FunctionsCalled() as called:
            values = penalty(lambda inputs: second(activation(first(inputs))).squeeze(1), real, fake, mixing)
            gradients = torch.autograd.grad(values.sum(), [first.weight, second.weight])
        return called.names.count("aten.mm.default"), gradients

    def mixing(shape):
        return torch.full(shape, 0.3)

    num, gradients = products_and_gradients(LeakyReLU(0.2))
    more, expected = products_and_gradients(nn.LeakyReLU(0.2))
    torch.testing.assert_close(gradients, expected)
    assert num == 2 + 2 + 3
    assert more > num  # torch's zeros go on through the first layer
