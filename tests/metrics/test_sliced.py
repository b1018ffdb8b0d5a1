import math

import pytest
import torch

from gan_lab.metrics.sliced import sliced_wasserstein


def points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(50, 1), (50, 2), (20, 3, 4, 5)])
def test_equal_sets_have_distance_zero_in_any_order(shape):
    real = points(*shape)
    shuffled = real[torch.randperm(len(real), generator=torch.Generator().manual_seed(1))]

    assert sliced_wasserstein(real, real) == 0
    assert sliced_wasserstein(real, shuffled) < 1e-12


@pytest.mark.parametrize("shift", [0.5, -3.0])
def test_in_one_dimension_a_shift_is_its_own_distance(shift):
    real = points(100, 1)

    assert sliced_wasserstein(real, real + shift, num_projections=33) == pytest.approx(abs(shift), rel=1e-12)


def test_in_one_dimension_it_is_the_difference_of_quantiles():
    real = torch.tensor([[0.0], [1.0], [5.0]], dtype=torch.float64)
    fake = torch.tensor([[3.0], [7.0], [-1.0]], dtype=torch.float64)

    # sorted: 0 1 5 against -1 3 7
    assert sliced_wasserstein(real, fake) == pytest.approx(math.sqrt((1 + 4 + 4) / 3), rel=1e-12)


@pytest.mark.parametrize("dimensions", [2, 3, 50])
def test_a_shift_in_d_dimensions_loses_the_root_of_d(dimensions):
    """The mean of <u, c>^2 over unit directions is |c|^2 / D."""
    real, shift = points(30, dimensions), points(dimensions, seed=1)
    distance = sliced_wasserstein(real, real + shift, num_projections=20_000)

    # <u, c>^2 / |c|^2 is Beta(1/2, (D - 1)/2): its relative standard deviation is below sqrt(2)
    assert distance == pytest.approx(shift.norm().item() / math.sqrt(dimensions), rel=0.5 * 5 * math.sqrt(2 / 20_000))


def test_it_scales_with_the_samples_and_does_not_see_a_common_shift():
    real, fake = points(40, 3), points(40, 3, seed=1)
    distance = sliced_wasserstein(real, fake)

    assert distance > 0.1
    assert sliced_wasserstein(3 * real, 3 * fake) == pytest.approx(3 * distance, rel=1e-12)
    assert sliced_wasserstein(real + 5, fake + 5) == pytest.approx(distance, rel=1e-9)


def test_it_is_symmetric_and_blind_to_the_order_of_samples():
    real, fake = points(40, 2, 3), points(40, 2, 3, seed=1)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2))

    assert sliced_wasserstein(fake, real) == sliced_wasserstein(real, fake)
    assert sliced_wasserstein(real[order], fake) == pytest.approx(sliced_wasserstein(real, fake), rel=1e-12)


def test_samples_are_flattened():
    real, fake = points(10, 2, 3, 4), points(10, 2, 3, 4, seed=1)

    assert sliced_wasserstein(real, fake) == sliced_wasserstein(real.flatten(1), fake.flatten(1))


def test_every_projection_counts_and_the_seed_decides_them():
    """Against one matrix product over all directions."""
    real, fake = points(16, 5), points(16, 5, seed=1)
    directions = points(40, 5, seed=7)
    directions /= directions.norm(dim=1, keepdim=True)
    difference = (real @ directions.T).sort(dim=0).values - (fake @ directions.T).sort(dim=0).values
    expected = difference.square().mean().sqrt().item()

    assert sliced_wasserstein(real, fake, num_projections=40, seed=7) == pytest.approx(expected, rel=1e-12)
    assert sliced_wasserstein(real, fake, num_projections=40, seed=8) != pytest.approx(expected, rel=1e-3)


def test_torchs_own_generator_is_left_alone():
    state = torch.get_rng_state()
    sliced_wasserstein(points(4, 2), points(4, 2, seed=1))

    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("other", [(9, 2), (10, 3), (10, 2, 1)])
def test_sets_of_different_shapes_are_refused(other):
    with pytest.raises(ValueError, match=r"equal shapes: got real \(10, 2\)"):
        sliced_wasserstein(points(10, 2), points(*other))


def test_bytes_are_numbers_too():
    """Directions made of bytes would all be zero, and so would the distance."""
    real, fake = (torch.randint(0, 256, (50, 1, 4, 4), dtype=torch.uint8) for _ in range(2))

    assert sliced_wasserstein(real, fake) == pytest.approx(sliced_wasserstein(real.double(), fake.double()), rel=1e-5)
