import math
import statistics

import pytest
import torch
from torch import nn
from torchmetrics.image.inception import InceptionScore

from gan_lab.metrics.inception import inception_score


def probabilities(count: int, classes: int, seed: int = 0) -> torch.Tensor:
    logits = torch.randn(count, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (2 * logits).softmax(dim=1)


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_certain_and_balanced_classes_score_their_number(classes):
    mean, std = inception_score(torch.eye(classes).repeat(3, 1), num_splits=1)

    assert mean == pytest.approx(classes, rel=1e-13)
    assert std == 0


def test_an_undecided_classifier_scores_one():
    mean, std = inception_score(torch.full((100, 8), 1 / 8))

    assert mean == pytest.approx(1, rel=1e-14)
    assert std == pytest.approx(0, abs=1e-14)


def test_one_class_scores_one():
    assert inception_score(torch.tensor([[0.0, 1.0, 0.0]]).repeat(20, 1)) == (1.0, 0.0)


def test_by_hand():
    given = torch.tensor([[0.5, 0.5], [1.0, 0.0]]).double()
    # p(y) = 3/4, 1/4
    first = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    second = math.log(1 / 0.75)

    assert inception_score(given, num_splits=1)[0] == pytest.approx(math.exp((first + second) / 2), rel=1e-14)


def test_splits_are_those_of_a_seeded_shuffle_and_use_every_sample():
    given = probabilities(23, 4)
    order = torch.randperm(23, generator=torch.Generator().manual_seed(7))
    sizes = (5, 5, 5, 4, 4)
    scores = [inception_score(part, num_splits=1)[0] for part in given[order].split(sizes)]

    mean, std = inception_score(given, num_splits=5, seed=7)
    assert mean == pytest.approx(statistics.fmean(scores), rel=1e-13)
    assert std == pytest.approx(statistics.pstdev(scores), rel=1e-11)
    assert inception_score(given, num_splits=5, seed=8)[0] != pytest.approx(mean, rel=1e-4)


def test_the_order_of_samples_and_of_classes_does_not_matter():
    given = probabilities(50, 6)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    score = inception_score(given, num_splits=1)[0]

    assert 1 < score < 6
    assert inception_score(given[order], num_splits=1)[0] == pytest.approx(score, rel=1e-13)
    assert inception_score(given.flip(1), num_splits=1)[0] == pytest.approx(score, rel=1e-13)


def test_torchs_own_generator_is_left_alone():
    state = torch.get_rng_state()
    inception_score(probabilities(20, 3))

    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("num_splits", [0, 10])
def test_every_split_needs_a_sample(num_splits):
    with pytest.raises(ValueError, match=f"number of samples, 9: got {num_splits}"):
        inception_score(probabilities(9, 3), num_splits=num_splits)


def test_torchmetrics_agrees():
    """It shuffles by torch's own generator, and divides by num_splits - 1."""
    logits = 2 * torch.randn(120, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.warns(UserWarning, match="save all extracted features"):
        metric = InceptionScore(feature=nn.Identity(), splits=6)
    metric.update(logits)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        expected_mean, expected_std = (value.item() for value in metric.compute())

    mean, std = inception_score(logits.softmax(dim=1), num_splits=6, seed=11)
    assert mean == pytest.approx(expected_mean, rel=1e-12)
    assert std == pytest.approx(expected_std * math.sqrt(5 / 6), rel=1e-10)
