import math

import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from gan_lab.metrics.frechet import Moments, frechet_distance, moments


def points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(dimensions: int, seed: int) -> torch.Tensor:
    """Of 4 samples a dimension: eigenvalues within about 0.25 to 2.25 (Marchenko-Pastur)."""
    factor = points(4 * dimensions, dimensions, seed=seed)
    return factor.T @ factor / (4 * dimensions)


def gaussian(dimensions: int, seed: int) -> Moments:
    return Moments(points(dimensions, seed=seed + 100), covariance(dimensions, seed))


def test_moments_by_hand():
    mean, spread = moments(torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 7.0]]))

    assert mean.tolist() == [2, 3]
    # squares 4 + 0 + 4, products 4 + 0 + 8, squares 4 + 4 + 16, over N - 1 = 2
    assert spread.tolist() == [[4, 6], [6, 12]]
    assert mean.dtype == spread.dtype == torch.float64


def test_moments_do_not_cancel():
    """Sums of squares at 1e8 would leave no digit of a variance of 1 in float64."""
    samples = points(1000, 3).round(decimals=3)

    torch.testing.assert_close(moments(samples + 1e8).covariance, moments(samples).covariance, rtol=1e-6, atol=1e-6)


def test_one_sample_has_no_covariance():
    with pytest.raises(ValueError, match="at least 2 samples: got 1"):
        moments(points(1, 3))


def test_in_one_dimension_it_is_the_squared_differences_of_mean_and_standard_deviation():
    real = Moments(torch.tensor([1.0]).double(), torch.tensor([[9.0]]).double())
    fake = Moments(torch.tensor([3.0]).double(), torch.tensor([[25.0]]).double())

    assert frechet_distance(real, fake) == pytest.approx(2**2 + (5 - 3) ** 2, rel=1e-14)


@pytest.mark.parametrize("dimensions", [1, 2, 64])
def test_a_shift_is_its_own_squared_length(dimensions):
    real = gaussian(dimensions, 0)
    shift = points(dimensions, seed=1)
    fake = Moments(real.mean + shift, real.covariance)

    # the traces, of about 2 D, cancel: D eps each
    assert frechet_distance(real, fake) == pytest.approx(shift.square().sum().item(), abs=1e-12)


def test_diagonal_covariances_some_of_them_zero():
    real = Moments(torch.zeros(4).double(), torch.diag(torch.tensor([4.0, 1.0, 0.0, 0.0]).double()))
    fake = Moments(torch.zeros(4).double(), torch.diag(torch.tensor([1.0, 9.0, 16.0, 0.0]).double()))

    assert frechet_distance(real, fake) == pytest.approx((2 - 1) ** 2 + (1 - 3) ** 2 + 4**2, rel=1e-14)


def test_covariances_that_commute():
    """With common eigenvectors, the squared differences of the roots of the eigenvalues."""
    vectors = torch.linalg.qr(points(6, 6)).Q
    one, other = points(6, seed=1).exp(), points(6, seed=2).exp()
    real = Moments(torch.zeros(6).double(), vectors * one @ vectors.T)
    fake = Moments(torch.zeros(6).double(), vectors * other @ vectors.T)

    assert frechet_distance(real, fake) == pytest.approx((one.sqrt() - other.sqrt()).square().sum().item(), rel=1e-12)


@pytest.mark.parametrize("dimensions", [2, 8, 64])
def test_covariances_that_do_not_commute_against_the_matrix_root(dimensions):
    real, fake = gaussian(dimensions, 0), gaussian(dimensions, 1)
    product = real.covariance @ fake.covariance
    assert not torch.allclose(product, product.T, rtol=0.01)
    overlap = torch.from_numpy(sqrtm(product.numpy()).real).trace()
    traces = real.covariance.trace() + fake.covariance.trace() - 2 * overlap
    expected = ((real.mean - fake.mean).square().sum() + traces).item()

    # well conditioned (see covariance): both roots are good to some 1e-13
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-11)


def test_two_samples_of_one_gaussian_have_the_stated_bias():
    dimensions, count, draws = 16, 1000, 20
    values = torch.tensor(
        [
            frechet_distance(
                moments(points(count, dimensions, seed=2 * draw)), moments(points(count, dimensions, seed=2 * draw + 1))
            )
            for draw in range(draws)
        ]
    )
    expected = 2 * dimensions / count + dimensions * (dimensions + 1) / (2 * count)
    standard_error = values.std().item() / math.sqrt(draws)

    # the next order of the expansion in D / N is that much smaller
    assert abs(values.mean().item() - expected) < 4 * standard_error + expected * dimensions / count
    assert standard_error < 0.03 * expected


@pytest.mark.parametrize("count", [2, 20, 65])
def test_fewer_samples_than_dimensions(count):
    """Rounding leaves D eigenvalues of some D eps of the largest one squared: their roots are what remains."""
    real = moments(points(count, 64))
    largest = torch.linalg.eigvalsh(real.covariance).max().item()
    noise = 2 * 64 * math.sqrt(64 * 2.2e-16) * largest

    assert 0 <= frechet_distance(real, real) < noise
    shifted = Moments(real.mean + 3, real.covariance)
    assert frechet_distance(real, shifted) == pytest.approx(9 * 64, abs=noise)


def test_it_is_symmetric_and_not_negative():
    for seed in range(20):
        real, fake = gaussian(5, seed), gaussian(5, seed + 50)
        assert frechet_distance(real, fake) == pytest.approx(frechet_distance(fake, real), rel=1e-12)
        assert 0 <= frechet_distance(real, real) < 1e-13  # 5 dimensions of variance about 1: some 20 eps


def test_invariances():
    real, fake = points(300, 6), points(200, 6, seed=1) * 1.5 + 0.5
    distance = frechet_distance(moments(real), moments(fake))
    rotation = torch.linalg.qr(points(6, 6, seed=2)).Q
    order = torch.randperm(300, generator=torch.Generator().manual_seed(3))

    assert distance > 1
    for other_real, other_fake, factor in [
        (real[order], fake, 1),
        (real @ rotation, fake @ rotation, 1),
        (real + 7, fake + 7, 1),
        (3 * real, 3 * fake, 9),
    ]:
        assert frechet_distance(moments(other_real), moments(other_fake)) == pytest.approx(factor * distance, rel=1e-11)


def test_features_that_are_not_finite_give_nan():
    fake = points(10, 3)
    fake[2, 1] = math.nan

    assert math.isnan(frechet_distance(moments(points(10, 3)), moments(fake)))


def test_single_precision_is_raised_first():
    samples = points(100, 5).float()

    assert torch.equal(moments(samples).covariance, moments(samples.double()).covariance)


def test_torchmetrics_agrees():
    extractor = nn.Identity()
    extractor.num_features = 12  # type: ignore[assignment]
    metric = FrechetInceptionDistance(feature=extractor)
    real, fake = points(500, 12) @ covariance(12, 5), points(400, 12, seed=1) + 0.3
    metric.update(real, real=True)
    metric.update(fake, real=False)

    # theirs takes the roots of the eigenvalues of a matrix that is not symmetric; all are well above 0 here
    assert frechet_distance(moments(real), moments(fake)) == pytest.approx(metric.compute().item(), rel=1e-9)
