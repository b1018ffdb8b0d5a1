import math

import pytest
import torch
from torch import nn
from torchmetrics.image.kid import KernelInceptionDistance

from gan_lab.metrics.kernel import kernel_distance, unbiased_mmd2


def points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_against_a_double_loop():
    real, fake = points(6, 3), points(5, 3, seed=1) + 1

    def kernel(u: torch.Tensor, v: torch.Tensor) -> float:
        return (sum(a * b for a, b in zip(u.tolist(), v.tolist(), strict=True)) / 3 + 1) ** 3

    within_real = [kernel(x, y) for i, x in enumerate(real) for j, y in enumerate(real) if i != j]
    within_fake = [kernel(x, y) for i, x in enumerate(fake) for j, y in enumerate(fake) if i != j]
    across = [kernel(x, y) for x in real for y in fake]
    expected = sum(within_real) / 30 + sum(within_fake) / 20 - 2 * sum(across) / 30

    assert unbiased_mmd2(real, fake) == pytest.approx(expected, rel=1e-12)


def test_two_point_masses():
    """k(a, a) + k(b, b) - 2 k(a, b), with |a|^2 / D = 4, |b|^2 / D = 1, a.b / D = -2."""
    real, fake = torch.full((4, 3), 2.0), torch.full((7, 3), -1.0)

    assert unbiased_mmd2(real, fake) == pytest.approx(5**3 + 2**3 - 2 * (-1) ** 3, rel=1e-14)


def test_it_is_unbiased():
    """Equal distributions: the mean of independent draws is 0 within its standard error, half of them are negative."""
    draws = 400
    values = torch.tensor([unbiased_mmd2(points(20, 4, seed=d), points(20, 4, seed=d + draws)) for d in range(draws)])
    standard_error = values.std().item() / math.sqrt(draws)

    assert abs(values.mean().item()) < 4 * standard_error
    # leaving the diagonal in would add 2 (E k(x, x) - E k(x, y)) / N, E k(x, x) > (1 + 1)^3 and E k(x, y) < 2
    assert standard_error < 0.1 * 2 * (8 - 2) / 20
    assert (values < 0).any()


def test_the_mean_over_subsets_is_that_of_seeded_draws_without_replacement():
    real, fake = points(30, 3), points(25, 3, seed=1) + 1
    generator = torch.Generator().manual_seed(5)
    values = []
    for _ in range(7):
        chosen_real = torch.randperm(30, generator=generator)[:10]
        chosen_fake = torch.randperm(25, generator=generator)[:10]
        values.append(unbiased_mmd2(real[chosen_real], fake[chosen_fake]))

    options = {"num_subsets": 7, "subset_size": 10}
    assert kernel_distance(real, fake, seed=5, **options) == pytest.approx(sum(values) / 7, rel=1e-12)
    assert kernel_distance(real, fake, seed=6, **options) != pytest.approx(sum(values) / 7, rel=1e-3)


def test_subsets_are_no_larger_than_the_smaller_set():
    real, fake = points(12, 3), points(9, 3, seed=1)

    assert kernel_distance(real, fake) == kernel_distance(real, fake, subset_size=9)
    assert kernel_distance(real[:9], fake) == unbiased_mmd2(real[:9], fake)
    assert kernel_distance(real, fake, subset_size=2) != kernel_distance(real, fake)


def test_invariances():
    """No common shift and no scale: the kernel has an origin and a unit."""
    real, fake = points(60, 5), points(50, 5, seed=1) + 0.7
    distance = unbiased_mmd2(real, fake)
    rotation = torch.linalg.qr(points(5, 5, seed=2)).Q
    order = torch.randperm(60, generator=torch.Generator().manual_seed(3))

    assert distance > 1
    assert unbiased_mmd2(fake, real) == pytest.approx(distance, rel=1e-12)
    assert unbiased_mmd2(real[order], fake) == pytest.approx(distance, rel=1e-12)
    assert unbiased_mmd2(real @ rotation, fake @ rotation) == pytest.approx(distance, rel=1e-11)


def test_torchs_own_generator_and_the_features_are_left_alone():
    real, fake = points(8, 2), points(9, 2, seed=1)
    state, before = torch.get_rng_state(), real.clone()
    kernel_distance(real, fake, subset_size=4, num_subsets=3)

    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(real, before)


def test_single_precision_and_bytes_are_raised_first():
    real, fake = (torch.randint(0, 256, (20, 4), dtype=torch.uint8) for _ in range(2))

    assert kernel_distance(real, fake) == kernel_distance(real.double(), fake.double())
    assert kernel_distance(real.float(), fake.float(), subset_size=5) == kernel_distance(real, fake, subset_size=5)


@pytest.mark.parametrize(("count_real", "count_fake"), [(1, 5), (5, 1)])
def test_one_sample_has_no_pair(count_real, count_fake):
    with pytest.raises(ValueError, match=f"got real {count_real}, fake {count_fake}"):
        unbiased_mmd2(points(count_real, 2), points(count_fake, 2))


def test_torchmetrics_agrees():
    """One subset of all samples is the same one in any order."""
    real, fake = points(80, 6), points(80, 6, seed=1) * 1.2 + 0.2
    with pytest.warns(UserWarning, match="save all extracted features"):
        metric = KernelInceptionDistance(feature=nn.Identity(), subsets=1, subset_size=80)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    with torch.random.fork_rng():
        expected = metric.compute()[0].item()

    assert kernel_distance(real, fake, num_subsets=3) == pytest.approx(expected, rel=1e-11)
