import math

import pytest
import torch

from gan_lab.metrics.diversity import pairwise_diversity


def points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_two_samples_have_one_distance():
    """A pair of a sample with itself would pull the mean to half of it."""
    assert pairwise_diversity(torch.tensor([[0.0, 0.0], [3.0, 4.0]])) == 5


def test_equal_samples_have_none():
    assert pairwise_diversity(torch.rand(1, 3, 4, 4).expand(20, -1, -1, -1)) == 0


@pytest.mark.parametrize("num_pairs", [1, 1023, 1025, 5000])
def test_every_pair_of_a_simplex_is_equally_far(num_pairs):
    assert pairwise_diversity(torch.eye(7), num_pairs=num_pairs) == pytest.approx(math.sqrt(2), rel=1e-14)


def test_the_mean_over_all_pairs():
    samples = points(40, 3)
    distances = torch.nn.functional.pdist(samples)
    standard_error = distances.std().item() / math.sqrt(20_000)

    assert abs(pairwise_diversity(samples, num_pairs=20_000) - distances.mean().item()) < 4 * standard_error


def test_every_pair_is_equally_likely():
    """One far sample among N: a share of 2 / N of the pairs has it, whichever it is."""
    for far in (0, 2, 4):
        samples = torch.zeros(5, 1)
        samples[far] = 1
        # a share of 0.4 of 10,000 draws
        assert abs(pairwise_diversity(samples) - 2 / 5) < 4 * math.sqrt(0.4 * 0.6 / 10_000)


def test_invariances():
    samples = points(30, 4)
    rotation = torch.linalg.qr(points(4, 4, seed=1)).Q
    diversity = pairwise_diversity(samples)

    assert pairwise_diversity(samples @ rotation) == pytest.approx(diversity, rel=1e-12)
    assert pairwise_diversity(samples + 5) == pytest.approx(diversity, rel=1e-12)
    assert pairwise_diversity(3 * samples) == pytest.approx(3 * diversity, rel=1e-12)
    assert pairwise_diversity(samples.reshape(30, 1, 2, 2)) == diversity


def test_bytes_are_numbers_too():
    images = torch.tensor([[[0, 0]], [[255, 0]]], dtype=torch.uint8)

    assert pairwise_diversity(images) == 255


def test_the_seed_decides_the_pairs_and_torchs_own_generator_is_left_alone():
    samples, state = points(50, 2), torch.get_rng_state()

    assert pairwise_diversity(samples, num_pairs=100, seed=1) == pairwise_diversity(samples, num_pairs=100, seed=1)
    assert pairwise_diversity(samples, num_pairs=100, seed=1) != pairwise_diversity(samples, num_pairs=100, seed=2)
    assert torch.equal(torch.get_rng_state(), state)


def test_one_sample_has_no_pair():
    with pytest.raises(ValueError, match="2 samples: got 1"):
        pairwise_diversity(points(1, 2))
