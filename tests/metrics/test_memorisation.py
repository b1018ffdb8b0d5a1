import math

import pytest
import torch

from gan_lab.metrics import distances
from gan_lab.metrics.memorisation import memorisation


def points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_by_hand_on_a_line():
    train = torch.tensor([[0.0], [1.0], [10.0]])
    # nearest 0, 1 and 10 at 0.5, 3 and 8; these are 1, 1 and 9 from the next training sample
    fake = torch.tensor([[-0.5], [4.0], [18.0]])
    # at 2, 1 and 4
    held_out = torch.tensor([[12.0], [2.0], [-4.0]])

    assert memorisation(train, held_out, fake) == {"nearest_train_ratio": 3 / 2, "authentic": pytest.approx(1 / 3)}


def test_copies():
    """Single precision at a large offset: the copies' distances are 0 all the same."""
    train = points(200, 16).float() + 50
    fake = train[torch.randint(200, (300,), generator=torch.Generator().manual_seed(1))]

    assert memorisation(train, points(100, 16, seed=2) + 50, fake) == {"nearest_train_ratio": 0, "authentic": 0}


def test_copies_with_a_little_noise():
    train, held_out = points(300, 16), points(300, 16, seed=1)
    fake = train + 1e-3 * points(300, 16, seed=2)
    result = memorisation(train, held_out, fake)

    assert 0 < result["nearest_train_ratio"] < 0.01
    assert result["authentic"] == 0


def test_fakes_like_the_held_out_samples():
    """Uniform in a square, distances are nearly Rayleigh: the median of n has relative standard error 0.72 / sqrt(n).

    (Rayleigh: median s sqrt(2 ln 2), density there f = median / (2 s^2), error 1 / (2 f sqrt(n)).)
    """
    generator = torch.Generator().manual_seed(0)
    train, held_out, fake = torch.rand(3, 2000, 2, generator=generator)
    ratio = memorisation(train, held_out, fake)["nearest_train_ratio"]

    assert abs(ratio - 1) < 4 * math.sqrt(2) * 0.72 / math.sqrt(2000)


def test_far_fakes_are_authentic():
    train = points(50, 3)

    assert memorisation(train, points(50, 3, seed=1), points(20, 3, seed=2) + 100)["authentic"] == 1


@pytest.mark.parametrize("block_rows", [1024, 7])
def test_against_a_loop(monkeypatch, block_rows):
    monkeypatch.setattr(distances, "BLOCK_ROWS", block_rows)
    train, held_out, fake = points(60, 3), points(41, 3, seed=1), points(33, 3, seed=2)
    train[7] = train[3]  # a duplicate in the training set

    authentic, of_fake = 0, []
    for sample in fake:
        to_train = (train - sample).norm(dim=1)
        near = int(to_train.argmin())
        others = (train - train[near]).norm(dim=1)
        others[near] = math.inf
        authentic += bool(to_train[near] > others.min())
        of_fake.append(to_train[near].item())
    of_held_out = [(train - sample).norm(dim=1).min().item() for sample in held_out]
    ratio = sorted(of_fake)[16] / sorted(of_held_out)[20]

    result = memorisation(train, held_out, fake)
    assert 0 < authentic < 33
    assert result == {"nearest_train_ratio": pytest.approx(ratio, rel=1e-14), "authentic": authentic / 33}


def test_a_fake_equal_to_a_duplicated_training_sample_is_no_authentic_one():
    train = torch.tensor([[1.0, 2.0], [1.0, 2.0], [5.0, 5.0]])

    assert memorisation(train, None, train[:1]) == {"authentic": 0}


def test_without_held_out_samples_there_is_no_ratio():
    train, held_out, fake = points(60, 3), points(41, 3, seed=1), points(33, 3, seed=2)
    both = memorisation(train, held_out, fake)

    assert list(both) == ["nearest_train_ratio", "authentic"]
    assert memorisation(train, None, fake) == {"authentic": both["authentic"]}


def test_invariances():
    train, held_out, fake = points(60, 4), points(40, 4, seed=1), points(50, 4, seed=2)
    expected = memorisation(train, held_out, fake)
    rotation = torch.linalg.qr(points(4, 4, seed=3)).Q

    for change in (lambda x: x.flip(0), lambda x: x @ rotation, lambda x: x + 9, lambda x: 3 * x):
        assert memorisation(*map(change, (train, held_out, fake))) == pytest.approx(expected, rel=1e-12)


def test_one_training_sample_has_no_neighbour():
    with pytest.raises(ValueError, match="2 training samples: got 1"):
        memorisation(points(1, 2), None, points(5, 2))
