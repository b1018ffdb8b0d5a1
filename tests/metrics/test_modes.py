import math

import pytest
import torch

from gan_lab.data.points import gaussian_grid, gaussian_ring
from gan_lab.metrics.modes import class_coverage, mode_coverage

SQUARE = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])


NOTHING_OUTSIDE = pytest.approx(-math.log(1 - math.exp(-4.5)), rel=1e-9)
"""mixture_kl of points that are all inside and equally many at each mode: 1.1 % are expected outside."""


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_the_divergence_from_the_mixture_counts_what_lies_outside(dim):
    """By hand: 6, 2, 0 and 0 of 10 points in the balls, 2 outside, against (1 - outside) / 4 each and outside."""
    outside = {1: math.erfc(3 / math.sqrt(2)), 2: math.exp(-4.5), 3: 0.029290886534888}[dim]  # P(chi > 3)
    centres = torch.zeros(4, dim)
    centres[:, 0] = torch.tensor([0.0, 10.0, 20.0, 30.0])
    points = torch.cat([centres[0].repeat(6, 1), centres[1].repeat(2, 1), centres[2].repeat(2, 1) + 4])
    inside = (1 - outside) / 4
    expected = 0.6 * math.log(0.6 / inside) + 0.2 * math.log(0.2 / inside) + 0.2 * math.log(0.2 / outside)

    assert mode_coverage(points, centres, 1.0)["mixture_kl"] == pytest.approx(expected, rel=1e-9)


def test_the_mixture_itself_is_at_the_floor():
    """E[KL] of n samples over K cells is about (K - 1) / (2 n), here 4 / 2000."""
    generator = torch.Generator().manual_seed(0)
    values = []
    for _ in range(200):
        chosen = SQUARE[torch.randint(4, (1000,), generator=generator)]
        points = chosen + torch.randn(1000, 2, generator=generator)
        values.append(mode_coverage(points, SQUARE, 1.0)["mixture_kl"])
    assert sum(values) / len(values) == pytest.approx(0.002, rel=0.15)


def test_lost_modes_and_stray_points_both_raise_the_divergence_from_the_mixture():
    good = SQUARE.repeat(250, 1)
    three = torch.cat([SQUARE[:3].repeat(333, 1), SQUARE[:1]])
    stray = torch.cat([good[:900], torch.full((100, 2), 5.0)])
    everywhere = torch.full((100, 2), 5.0)
    divergences = [mode_coverage(points, SQUARE, 1.0)["mixture_kl"] for points in (good, stray, three, everywhere)]

    assert divergences == sorted(divergences)
    assert divergences[0] == NOTHING_OUTSIDE
    assert divergences[-1] == pytest.approx(4.5, rel=1e-9)


def test_points_placed_by_hand():
    points = torch.tensor(
        [
            [0.0, 0.0],  # mode 0
            [0.0, 2.9],  # mode 0: within three standard deviations of 1
            [2.0, 2.0],  # mode 0: at 2.83
            [10.5, 0.0],  # mode 1
            [2.2, 2.2],  # none: at 3.11
            [5.0, 5.0],  # none
            [10.0, 13.1],  # none
            [-100.0, 0.0],  # none
        ]
    )
    result = mode_coverage(points, SQUARE, 1.0)

    assert result["modes_covered"] == 2
    assert result["high_quality"] == 4 / 8
    # shares 3/4, 1/4, 0, 0 against 1/4 each
    assert result["mode_kl"] == pytest.approx(0.75 * math.log(3) + 0.25 * math.log(1), rel=1e-12)


def test_equal_shares_have_no_divergence():
    result = mode_coverage(SQUARE.repeat(5, 1), SQUARE, 0.1)

    assert result == {"modes_covered": 4, "high_quality": 1.0, "mode_kl": 0.0, "mixture_kl": NOTHING_OUTSIDE}


def test_one_mode_of_four_diverges_by_log_four():
    result = mode_coverage(SQUARE[3:].repeat(5, 1), SQUARE, 0.1)

    assert result == {
        "modes_covered": 1,
        "high_quality": 1.0,
        "mode_kl": pytest.approx(math.log(4), rel=1e-12),
        "mixture_kl": pytest.approx(math.log(4 / (1 - math.exp(-4.5))), rel=1e-9),
    }


def test_the_divergence_is_from_the_samples_to_the_uniform_distribution():
    shares = (8, 4, 2, 2)
    points = torch.cat([SQUARE[mode].repeat(count, 1) for mode, count in enumerate(shares)])
    expected = sum(count / 16 * math.log(count / 16 * 4) for count in shares)

    assert mode_coverage(points, SQUARE, 0.1)["mode_kl"] == pytest.approx(expected, rel=1e-12)


def test_no_good_point():
    assert mode_coverage(torch.full((3, 2), 5.0), SQUARE, 1.0) == {
        "modes_covered": 0,
        "high_quality": 0.0,
        "mode_kl": math.inf,
        "mixture_kl": pytest.approx(4.5, rel=1e-9),
    }


def test_points_that_are_not_numbers_are_of_no_quality():
    points = torch.tensor([[math.nan, 0.0], [math.inf, 0.0], [0.0, 0.0], [10.0, 0.0]])
    result = mode_coverage(points, SQUARE, 1.0)

    assert result["high_quality"] == 0.5
    assert result["modes_covered"] == 2


@pytest.mark.parametrize("source", [gaussian_ring, gaussian_grid])
def test_the_score_of_a_perfect_sampler(source):
    data = source(seed=3)
    result = mode_coverage(data.samples, data.modes, data.mode_std)
    share = 1 - math.exp(-4.5)

    assert result["modes_covered"] == len(data.modes)
    assert abs(result["high_quality"] - share) < 5 * math.sqrt(share * (1 - share) / len(data.samples))
    assert 0 <= result["mode_kl"] < 5 * len(data.modes) / (2 * len(data.samples))


def test_other_dimensions_work():
    modes = torch.eye(5)

    assert mode_coverage(modes + 0.01, modes, 0.1)["modes_covered"] == 5


def test_classes_counted_by_hand():
    classes = torch.tensor([0] * 5 + [1] * 4 + [3] * 7)
    result = class_coverage(classes, 5)
    expected = sum(count / 16 * math.log(count / 16 * 5) for count in (5, 4, 7))

    assert result == {"modes_covered": 3, "modes_with_5": 2, "mode_kl": pytest.approx(expected, rel=1e-14)}


def test_equal_classes_have_no_divergence_and_one_class_has_all():
    assert class_coverage(torch.arange(8).repeat(5), 8) == {"modes_covered": 8, "modes_with_5": 8, "mode_kl": 0}
    assert class_coverage(torch.full((5,), 7), 8) == {
        "modes_covered": 1,
        "modes_with_5": 1,
        "mode_kl": pytest.approx(math.log(8), rel=1e-14),
    }


def test_high_quality_is_a_confidence_above_nine_tenths():
    classes = torch.tensor([0, 0, 1, 1])
    confidence = torch.tensor([0.95, 0.9, math.nan, 1.0], dtype=torch.float64)

    assert class_coverage(classes, 2, confidence=confidence)["high_quality"] == 0.5
    assert "high_quality" not in class_coverage(classes, 2)


def test_a_perfect_sampler_has_the_stated_divergence():
    """2 N KL is chi-squared with K - 1 degrees of freedom: its relative standard deviation is sqrt(2 / (K - 1))."""
    modes, count, draws = 20, 2000, 200
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(modes, (draws, count), generator=generator)
    mean = sum(class_coverage(row, modes)["mode_kl"] for row in drawn) / draws
    floor = (modes - 1) / (2 * count)

    # the next order of the expansion, K / (6 N) of the floor, is 0.2 %
    assert abs(mean - floor) < 4 * floor * math.sqrt(2 / (modes - 1) / draws) + 0.002 * floor


def test_a_perfect_sampler_of_stacked_mnist():
    """26,000 samples over 1000 modes: counts are Poisson(26), and P(count < 5) is 2e-7."""
    classes = torch.randint(1000, (26_000,), generator=torch.Generator().manual_seed(0))
    result = class_coverage(classes, 1000)

    assert result["modes_covered"] == result["modes_with_5"] == 1000
    # 999 / 52,000 = 0.0192, relative standard deviation sqrt(2 / 999), next order K / (6 N) = 0.6 %
    assert abs(result["mode_kl"] - 999 / 52_000) < 999 / 52_000 * (4 * math.sqrt(2 / 999) + 0.01)


def test_no_sample_covers_nothing():
    result = class_coverage(torch.zeros(0, dtype=torch.int64), 3)

    assert result == {"modes_covered": 0, "modes_with_5": 0, "mode_kl": math.inf}


def test_a_class_beyond_the_modes_is_refused():
    with pytest.raises(ValueError, match="below num_modes = 3: got 3"):
        class_coverage(torch.tensor([0, 3]), 3)
