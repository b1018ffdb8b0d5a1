import math

import pytest
import torch

from gan_lab.metrics import distances
from gan_lab.metrics.manifold import manifold_metrics, neighbour_distances


def points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def squared(one: torch.Tensor, other: torch.Tensor) -> list[list[float]]:
    """Of the differences: exact for integers."""
    return (one.unsqueeze(1) - other).square().sum(dim=2).tolist()


def brute_radii(samples: torch.Tensor, k: int) -> list[float]:
    """Squared."""
    return [sorted(row[:i] + row[i + 1 :])[k - 1] for i, row in enumerate(squared(samples, samples))]


def brute_force(real: torch.Tensor, fake: torch.Tensor) -> dict[str, float]:
    """The definitions as loops over pairs."""
    real_3, real_5, fake_3 = brute_radii(real, 3), brute_radii(real, 5), brute_radii(fake, 3)
    pairs = squared(real, fake)
    reals, fakes = range(len(real)), range(len(fake))
    return {
        "precision": sum(any(pairs[i][j] <= real_3[i] for i in reals) for j in fakes) / len(fake),
        "recall": sum(any(pairs[i][j] <= fake_3[j] for j in fakes) for i in reals) / len(real),
        "density": sum(pairs[i][j] <= real_5[i] for i in reals for j in fakes) / (5 * len(fake)),
        "coverage": sum(any(pairs[i][j] <= real_5[i] for j in fakes) for i in reals) / len(real),
    }


@pytest.mark.parametrize("k", [1, 2, 5, 39])
@pytest.mark.parametrize("block_rows", [1024, 7])
def test_neighbour_distances_against_sorted_rows_with_duplicates(monkeypatch, k, block_rows):
    monkeypatch.setattr(distances, "BLOCK_ROWS", block_rows)
    samples = torch.randint(0, 4, (40, 2), generator=torch.Generator().manual_seed(0))
    expected = [math.sqrt(radius) for radius in brute_radii(samples, k)]

    # the root of a sum of two squares, once by norm and once by hand
    assert neighbour_distances(samples, k).tolist() == pytest.approx(expected, rel=1e-15)
    assert neighbour_distances(samples + 1000, k).tolist() == pytest.approx(expected, rel=1e-15)


def test_a_sample_that_occurs_k_plus_one_times_is_at_distance_zero():
    samples = torch.cat([points(1, 50).expand(4, -1), points(20, 50, seed=1)])

    assert neighbour_distances(samples, 3)[:4].tolist() == [0] * 4
    assert (neighbour_distances(samples, 4)[:4] > 1).all()


@pytest.mark.parametrize("k", [0, 10])
def test_a_neighbour_that_does_not_exist(k):
    with pytest.raises(ValueError, match=f"other samples, 9: got {k}"):
        neighbour_distances(points(10, 2), k)


@pytest.mark.parametrize("block_rows", [1024, 7])
@pytest.mark.parametrize("seed", range(4))
def test_whole_numbers_with_ties_and_duplicates(monkeypatch, block_rows, seed):
    """Many fakes lie exactly on the border of a ball, as copies of real samples do: borders belong to it."""
    monkeypatch.setattr(distances, "BLOCK_ROWS", block_rows)
    generator = torch.Generator().manual_seed(seed)
    real = torch.randint(0, 12, (60, 2), generator=generator)
    fake = torch.randint(4, 20, (45, 2), generator=generator)
    expected = brute_force(real, fake)

    assert 0 < expected["precision"] < 1
    assert 0 < expected["coverage"] < 1
    assert manifold_metrics(real, fake) == pytest.approx(expected, rel=1e-14)
    assert manifold_metrics(real + 1000, fake + 1000) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(("dimensions", "shift"), [(2, 0.0), (64, 0.0), (64, 0.5)])
def test_gaussians(dimensions, shift):
    real, fake = points(150, dimensions), points(170, dimensions, seed=1) + shift

    assert manifold_metrics(real, fake) == pytest.approx(brute_force(real, fake), rel=1e-14)


def test_copies_on_the_borders_of_balls():
    """The fakes are the reals: ball i holds its centre, its k neighbours and no other."""
    real = points(100, 30)

    result = manifold_metrics(real, real)
    assert result == {"precision": 1, "recall": 1, "density": pytest.approx(6 / 5, rel=1e-14), "coverage": 1}


def test_by_hand_on_a_line():
    """Reals at 0 to 9: the third neighbour of an inner one is at 2, of the outer ones at 3."""
    real = torch.arange(10.0).unsqueeze(1)
    # 4.5 is within 3 of 2 to 7, but within the radii 2 of 3, 4, 5, 6; the others are beyond 9 + 3 or -3
    fake = torch.tensor([[4.5], [13.0], [-3.5], [100.0]])
    result = manifold_metrics(real, fake)

    assert result["precision"] == 1 / 4
    # radii of fakes: 95.5 for 4.5 holds all
    assert result["recall"] == 1
    # fifth neighbours: 5 4 3 3 3 3 3 3 4 5; 4.5 is in the balls of 0 (4.5 <= 5), 1 (3.5 <= 4), 2 to 7, 8 and 9,
    # 13 in that of 9 (4 <= 5), -3.5 in that of 0
    assert result["density"] == pytest.approx((10 + 1 + 1) / (5 * 4), rel=1e-15)
    assert result["coverage"] == 1


def test_the_expected_score_of_a_perfect_model():
    """Real against real, whatever the distribution.

    Of the 2N - 1 samples about a real one every order is equally likely. Coverage fails if the first k are all real:
    1 - prod over i of (N - i) / (2N - i), i = 1..k (Naeem et al. 2020); and k fakes on average come before the
    k-th real one, less k / N for the real one itself that is not among them: density is 1.
    """
    count, draws, k = 100, 40, 5
    results = [manifold_metrics(points(count, 8, seed=2 * d), points(count, 8, seed=2 * d + 1)) for d in range(draws)]
    coverage = torch.tensor([result["coverage"] for result in results])
    density = torch.tensor([result["density"] for result in results])
    expected = 1 - math.prod((count - i) / (2 * count - i) for i in range(1, k + 1))

    assert expected == pytest.approx(1 - 1 / 2**k, abs=0.01)
    assert abs(coverage.mean() - expected) < 4 * coverage.std() / math.sqrt(draws)
    assert abs(density.mean() - 1) < 4 * density.std() / math.sqrt(draws)
    assert coverage.std() / math.sqrt(draws) < 0.005


def test_radii_of_the_caller_are_used():
    real, fake = points(50, 4), points(40, 4, seed=1)
    radii_3, radii_5 = neighbour_distances(real, 3), neighbour_distances(real, 5)
    expected = manifold_metrics(real, fake)

    assert manifold_metrics(real, fake, real_radii_3=radii_3, real_radii_5=radii_5) == expected
    wide = manifold_metrics(real, fake, real_radii_3=radii_3 + 100, real_radii_5=radii_5 + 100)
    assert wide == {"precision": 1, "recall": expected["recall"], "density": 50 / 5, "coverage": 1}
    narrow = manifold_metrics(real, fake, real_radii_3=radii_3 * 0, real_radii_5=radii_5)
    assert narrow == {**expected, "precision": 0}


def test_what_each_number_sees():
    """Fakes from half the reals' range lose recall and coverage; fakes from twice the range lose precision, density."""
    line = torch.rand(400, 2, generator=torch.Generator().manual_seed(0))
    real, other = line[:200], line[200:]
    half, twice = other * torch.tensor([0.5, 1]), other * torch.tensor([2, 1])
    perfect, dropped, scattered = (manifold_metrics(real, fake) for fake in (other, half, twice))

    assert dropped["precision"] > perfect["precision"] - 0.1
    for key in ("recall", "coverage"):
        assert dropped[key] < 0.7 * perfect[key]
    for key in ("precision", "density"):
        assert scattered[key] < 0.7 * perfect[key]


def test_invariances():
    real, fake = points(80, 5), points(70, 5, seed=1) + 0.5
    expected = manifold_metrics(real, fake)
    rotation = torch.linalg.qr(points(5, 5, seed=2)).Q
    order = torch.randperm(80, generator=torch.Generator().manual_seed(3))

    assert manifold_metrics(real[order], fake.flip(0)) == expected
    assert manifold_metrics(real @ rotation, fake @ rotation) == expected
    assert manifold_metrics(real + 9, fake + 9) == expected
    assert manifold_metrics(3 * real, 3 * fake) == expected


def test_fakes_that_are_not_finite_are_nowhere():
    real, fake = points(40, 3), points(30, 3, seed=1)
    expected = manifold_metrics(real, fake)
    broken = torch.cat([fake, torch.tensor([[math.nan, 0, 0], [0, math.inf, 0]]).double()])
    result = manifold_metrics(real, broken)

    assert result["precision"] == pytest.approx(expected["precision"] * 30 / 32, rel=1e-14)
    assert result["density"] == pytest.approx(expected["density"] * 30 / 32, rel=1e-14)
    assert result["recall"] == expected["recall"]
    assert result["coverage"] == expected["coverage"]
    nothing = {"precision": 0, "recall": 0, "density": 0, "coverage": 0}
    assert manifold_metrics(real, torch.full((10, 3), math.nan)) == nothing
