import math

import pytest
import torch

from gan_lab.data.points import gaussian_grid, gaussian_ring


def test_the_ring_has_pacgans_modes():
    data = gaussian_ring(num_points=10)
    half = math.sqrt(0.5)

    assert data.mode_std == 0.01
    assert data.modes.dtype == torch.float32
    expected = [[1, 0], [half, half], [0, 1], [-half, half], [-1, 0], [-half, -half], [0, -1], [half, -half]]
    assert torch.allclose(data.modes, torch.tensor(expected), atol=1e-6)


def test_the_grid_has_the_25_modes_of_the_papers_column_by_column():
    data = gaussian_grid(num_points=10)

    assert data.mode_std == 0.05
    assert data.modes.tolist() == [[x, y] for x in (-4, -2, 0, 2, 4) for y in (-4, -2, 0, 2, 4)]


def test_an_even_grid_is_centred_on_the_origin():
    data = gaussian_grid(num_modes_per_side=2, spacing=3.0, num_points=10)

    assert data.modes.tolist() == [[-1.5, -1.5], [-1.5, 1.5], [1.5, -1.5], [1.5, 1.5]]


def test_radius_and_number_of_modes_of_the_ring_are_settings():
    data = gaussian_ring(num_modes=3, radius=2.0, num_points=10)

    assert data.modes.shape == (3, 2)
    assert torch.allclose(data.modes.norm(dim=1), torch.tensor(2.0))


@pytest.mark.parametrize("make", [gaussian_ring, gaussian_grid])
def test_each_mode_has_its_centre_its_std_and_an_equal_share(make):
    data = make()
    modes, std = data.modes, data.mode_std
    count = 100_000 / len(modes)

    assert data.samples.shape == (100_000, 2)
    assert data.samples.dtype == torch.float32
    assert data.labels.dtype == torch.int64
    assert len(data.classes) == len(modes)
    shares = data.labels.bincount(minlength=len(modes))
    assert ((shares - count).abs() < 5 * math.sqrt(count)).all()  # five standard errors, here and below
    for mode in range(len(modes)):
        points = data.samples[data.labels == mode].double()
        assert ((points.mean(dim=0) - modes[mode]).abs() < 5 * std / math.sqrt(len(points))).all()
        assert ((points.std(dim=0) - std).abs() < 5 * std / math.sqrt(2 * len(points))).all()
        assert abs(torch.corrcoef(points.T)[0, 1]) < 5 / math.sqrt(len(points))


@pytest.mark.parametrize("make", [gaussian_ring, gaussian_grid])
def test_the_seed_alone_decides_the_points(make):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = make(num_points=100, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)

    assert torch.equal(make(num_points=100, seed=0).samples, first.samples)
    assert not torch.equal(make(num_points=100, seed=1).samples, first.samples)


def test_a_std_given_is_the_std_used():
    data = gaussian_ring(num_modes=1, std=0.5, num_points=20_000)

    assert data.mode_std == 0.5
    assert abs((data.samples - data.modes[0]).std().item() - 0.5) < 0.02
