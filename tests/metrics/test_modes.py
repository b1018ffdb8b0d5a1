import math

import pytest
import torch

from gan_lab.data.points import gaussian_grid, gaussian_ring
from gan_lab.metrics.modes import mode_coverage

SQUARE = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])


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

    assert result == {"modes_covered": 4, "high_quality": 1.0, "mode_kl": 0.0}


def test_one_mode_of_four_diverges_by_log_four():
    result = mode_coverage(SQUARE[3:].repeat(5, 1), SQUARE, 0.1)

    assert result == {"modes_covered": 1, "high_quality": 1.0, "mode_kl": pytest.approx(math.log(4), rel=1e-12)}


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
