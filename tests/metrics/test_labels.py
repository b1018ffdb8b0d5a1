import itertools
import math

import pytest
import torch
from sklearn.metrics import accuracy_score
from sklearn.metrics.cluster import contingency_matrix

from gan_lab.metrics.frechet import frechet_distance, moments
from gan_lab.metrics.labels import (
    FEWEST_IN_A_CLASS,
    cluster_purity,
    label_accuracy,
    matched_error,
    per_class_frechet,
)

MANY = 20_000


def integers(num: int, count: int, seed: int) -> torch.Tensor:
    return torch.randint(num, (count,), generator=torch.Generator().manual_seed(seed))


def points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def order(count: int, seed: int = 9) -> torch.Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def from_counts(counts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Clusters and labels of so many samples of each cluster (row) with each label (column)."""
    joint = torch.tensor(counts)
    pairs = joint.nonzero().repeat_interleave(joint[joint > 0], dim=0)
    return pairs[:, 0], pairs[:, 1]


def partly_right(num: int, count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Clusters that are labels under other names for about 7 of 10 samples, and any for the rest."""
    labels = integers(num, count, seed)
    named = order(num, seed + 1)[labels]
    return torch.where(integers(10, count, seed + 2) < 7, named, integers(num, count, seed + 3)), labels


# ---------------------------------------------------------------------- labels that were asked for


def test_the_share_of_labels_that_are_most_probable_by_hand():
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.3, 0.4, 0.3], [0.9, 0.1, 0.0]])

    assert label_accuracy(probabilities, torch.tensor([0, 2, 0, 1])) == 0.5
    assert label_accuracy(probabilities, torch.tensor([0, 2, 1, 0])) == 1
    assert label_accuracy(probabilities, torch.tensor([1, 1, 2, 2])) == 0


def test_scikit_learn_counts_as_many():
    probabilities, labels = points(500, 7).softmax(dim=1), integers(7, 500, 1)

    expected = accuracy_score(labels.numpy(), probabilities.argmax(dim=1).numpy())
    assert label_accuracy(probabilities, labels) == pytest.approx(expected, rel=1e-15)


def test_the_order_of_samples_and_the_names_of_classes_do_not_matter():
    probabilities, labels = points(200, 5).softmax(dim=1), integers(5, 200, 1)
    accuracy = label_accuracy(probabilities, labels)
    shuffled, names = order(200), order(5)

    assert 0 < accuracy < 1
    assert label_accuracy(probabilities[shuffled], labels[shuffled]) == accuracy
    assert label_accuracy(probabilities[:, names], names.argsort()[labels]) == accuracy


def test_random_labels_are_right_one_time_in_k():
    accuracy = label_accuracy(points(MANY, 5), integers(5, MANY, 1))

    assert abs(accuracy - 0.2) < 5 * math.sqrt(0.2 * 0.8 / MANY)


def test_probabilities_that_are_not_numbers_are_wrong():
    probabilities = torch.tensor([[math.nan, math.nan], [1.0, 0.0]])

    assert label_accuracy(probabilities, torch.tensor([0, 0])) == 0.5


@pytest.mark.parametrize("labels", [torch.zeros(3, 1).long(), torch.zeros(4).long(), torch.zeros(1).long()])
def test_every_sample_needs_one_label(labels):
    with pytest.raises(ValueError, match="one label a sample"):
        label_accuracy(torch.ones(3, 2), labels)


def test_no_sample_has_no_accuracy():
    with pytest.raises(ValueError, match="one label a sample"):
        label_accuracy(torch.ones(0, 2), torch.zeros(0).long())


# ---------------------------------------------------------------------- distances within classes


def test_the_distance_within_each_class_by_hand():
    """Class 0: 20 values of +-1, variance 20 / 19, against twice as many of twice the spread, shifted by 3; class 1:
    the same."""
    own = torch.tensor([-1.0, 1.0]).repeat(10).unsqueeze(1)
    real, fake = torch.cat([own, own + 7]), torch.cat([(2 * own + 3).repeat(2, 1), own + 7])
    real_labels = torch.tensor([0] * 20 + [1] * 20)
    fake_labels = torch.tensor([0] * 40 + [1] * 20)

    distances = per_class_frechet(real, real_labels, fake, fake_labels, num_classes=2)
    assert list(distances) == [0, 1]
    assert distances[0] == pytest.approx(3**2 + 20 / 19, rel=1e-13)  # (2 s - s)^2
    assert distances[1] == pytest.approx(0, abs=1e-13)


def test_the_first_samples_of_each_class_are_compared_equally_many_of_both_sides():
    real, fake = points(200, 3, seed=1), 1.5 * points(300, 3, seed=2) + 0.3
    real_labels, fake_labels = integers(4, 200, 3), integers(4, 300, 4)
    distances = per_class_frechet(real, real_labels, fake, fake_labels, num_classes=4)

    assert list(distances) == [0, 1, 2, 3]
    for label, distance in distances.items():
        reals = [row for row, own in zip(real, real_labels, strict=True) if own == label]
        fakes = [row for row, own in zip(fake, fake_labels, strict=True) if own == label]
        num = min(len(reals), len(fakes))
        assert len(reals) != len(fakes)
        expected = frechet_distance(moments(torch.stack(reals[:num])), moments(torch.stack(fakes[:num])))
        assert distance == pytest.approx(expected, rel=1e-12)


def test_only_the_order_within_a_class_matters():
    real, fake = points(120, 3, seed=1), points(150, 3, seed=2)
    real_labels, fake_labels = integers(3, 120, 3), integers(3, 150, 4)
    sort = fake_labels.argsort(stable=True)
    names = torch.tensor([2, 0, 1])

    distances = per_class_frechet(real, real_labels, fake, fake_labels, num_classes=3)
    assert per_class_frechet(real, real_labels, fake[sort], fake_labels[sort], num_classes=3) == distances
    renamed = per_class_frechet(real, names[real_labels], fake, names[fake_labels], num_classes=3)
    assert renamed == {int(names[label]): distance for label, distance in distances.items()}


@pytest.mark.parametrize("few_of", ["real", "fake"])
def test_a_class_with_too_few_samples_on_one_side_is_left_out(few_of):
    many = torch.tensor([0, 1]).repeat_interleave(50)
    few = torch.tensor([0] * FEWEST_IN_A_CLASS + [1] * (FEWEST_IN_A_CLASS - 1))
    real_labels, fake_labels = (few, many) if few_of == "real" else (many, few)
    real, fake = points(len(real_labels), 2, seed=1), points(len(fake_labels), 2, seed=2)

    distances = per_class_frechet(real, real_labels, fake, fake_labels, num_classes=3)
    assert list(distances) == [0]
    assert math.isfinite(distances[0])


def test_mixed_up_classes_are_seen_where_the_distance_of_all_samples_is_blind():
    labels = torch.tensor([0, 1]).repeat(100)
    real, fake = (points(200, 2, seed=seed) + 10 * labels.unsqueeze(1) for seed in (1, 2))
    swapped = torch.where(labels == 0, 1, 0)

    right = per_class_frechet(real, labels, fake, labels, num_classes=2)
    wrong = per_class_frechet(real, labels, fake, swapped, num_classes=2)
    assert frechet_distance(moments(real), moments(fake)) < 1
    assert max(right.values()) < 1
    assert min(wrong.values()) == pytest.approx(2 * 10**2, rel=0.1)  # means of 100 samples: +-0.14 of 10


def test_features_that_are_not_finite_spoil_their_class_and_no_other():
    labels = torch.tensor([0, 1]).repeat(30)
    fake = points(60, 2, seed=1)
    fake[2, 1] = math.nan

    distances = per_class_frechet(points(60, 2, seed=2), labels, fake, labels, num_classes=2)
    assert math.isnan(distances[0])
    assert math.isfinite(distances[1])


@pytest.mark.parametrize("wrong", [-1, 2])
@pytest.mark.parametrize("name", ["real_labels", "fake_labels"])
def test_a_label_beyond_the_classes_is_refused(name, wrong):
    labels = {"real_labels": torch.zeros(30).long(), "fake_labels": torch.zeros(30).long()}
    labels[name][3] = wrong

    with pytest.raises(ValueError, match=f"{name} must be 0 to 1: got {min(wrong, 0)} to {max(wrong, 0)}"):
        per_class_frechet(real=points(30, 2), fake=points(30, 2), num_classes=2, **labels)


# ---------------------------------------------------------------------- clusters that were found without labels

BOOK = [[5, 1, 0], [1, 4, 1], [2, 0, 3]]
"""The example of Manning et al. 2008, figure 16.4: 17 samples, purity 0.71."""


def test_the_books_example():
    clusters, labels = from_counts(BOOK)

    assert len(labels) == 17
    assert cluster_purity(clusters, labels, num_clusters=3, num_classes=3) == pytest.approx(12 / 17, rel=1e-15)
    assert matched_error(clusters, labels, num=3) == pytest.approx(5 / 17, rel=1e-15)


def test_clusters_are_matched_together_not_greedily():
    clusters, labels = from_counts([[5, 4], [4, 0]])

    # 0 for 0 and 1 for 1 would have 5 of 13 right; the other way round it is 4 + 4
    assert matched_error(clusters, labels, num=2) == pytest.approx(5 / 13, rel=1e-15)
    assert cluster_purity(clusters, labels, num_clusters=2, num_classes=2) == pytest.approx(9 / 13, rel=1e-15)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num", [2, 4, 6])
def test_the_best_permutation_of_all_is_found(num, seed):
    clusters, labels = partly_right(num, 60, 10 * seed)
    most = max(
        sum(names[cluster] == label for cluster, label in zip(clusters.tolist(), labels.tolist(), strict=True))
        for names in itertools.permutations(range(num))
    )

    assert matched_error(clusters, labels, num=num) == pytest.approx(1 - most / 60, rel=1e-12)


@pytest.mark.parametrize(("num_clusters", "num_classes"), [(3, 3), (10, 4), (2, 7)])
def test_purity_is_that_of_scikit_learns_table(num_clusters, num_classes):
    clusters, labels = integers(num_clusters, 100, 0), integers(num_classes, 100, 1)
    table = contingency_matrix(labels.numpy(), clusters.numpy())

    purity = cluster_purity(clusters, labels, num_clusters=num_clusters, num_classes=num_classes)
    assert purity == pytest.approx(table.max(axis=0).sum() / 100, rel=1e-15)


def test_the_order_of_samples_and_the_names_of_clusters_and_classes_do_not_matter():
    clusters, labels = partly_right(6, 300)
    shuffled, cluster_names, class_names = order(300), order(6, 1), order(6, 2)
    error = matched_error(clusters, labels, num=6)
    purity = cluster_purity(clusters, labels, num_clusters=6, num_classes=6)

    assert 0 < error < 5 / 6
    for others in (
        (clusters[shuffled], labels[shuffled]),
        (cluster_names[clusters], labels),
        (clusters, class_names[labels]),
    ):
        assert matched_error(*others, num=6) == error
        assert cluster_purity(*others, num_clusters=6, num_classes=6) == purity


def test_classes_under_other_names_are_perfect():
    labels = integers(10, 500, 0)
    clusters = order(10)[labels]

    assert matched_error(clusters, labels, num=10) == 0
    assert cluster_purity(clusters, labels, num_clusters=10, num_classes=10) == 1


def test_one_cluster_for_all_says_nothing():
    labels = torch.arange(8).repeat(5)
    clusters = torch.full((40,), 3)

    assert matched_error(clusters, labels, num=8) == 7 / 8
    assert cluster_purity(clusters, labels, num_clusters=8, num_classes=8) == 1 / 8


def test_a_class_split_in_two_is_pure_but_not_matched():
    clusters, labels = from_counts([[10, 0, 0], [10, 0, 0], [0, 10, 10]])

    assert cluster_purity(clusters, labels, num_clusters=3, num_classes=3) == 0.75
    assert matched_error(clusters, labels, num=3) == 0.5


def test_random_clusters_are_as_good_as_guessing():
    """Purity: the largest of 5 counts of 800 +- 28, five times; error: the best of 120 accuracies of 0.2 +- 0.003."""
    clusters, labels = integers(5, MANY, 0), integers(5, MANY, 1)

    assert 0.2 <= cluster_purity(clusters, labels, num_clusters=5, num_classes=5) < 5 * (800 + 5 * 28) / MANY
    assert 0.8 - 5 * math.sqrt(0.2 * 0.8 / MANY) < matched_error(clusters, labels, num=5) <= 0.8


@pytest.mark.parametrize("seed", range(5))
def test_the_stated_bounds(seed):
    clusters, labels = integers(4, 30, seed), integers(4, 30, 100 + seed)
    error = matched_error(clusters, labels, num=4)

    assert 1 - cluster_purity(clusters, labels, num_clusters=4, num_classes=4) <= error + 1e-12
    assert error <= 3 / 4


@pytest.mark.parametrize(
    ("clusters", "labels", "message"),
    [
        ([0, 1], [0], "one cluster and one label a sample"),
        ([[0], [1]], [[0], [1]], "one cluster and one label a sample"),
        ([], [], "one cluster and one label a sample"),
        ([0, 3], [0, 1], "clusters must be 0 to 2: got 0 to 3"),
        ([0, -1], [0, 1], "clusters must be 0 to 2: got -1 to 0"),
        ([0, 1], [0, 3], "labels must be 0 to 2: got 0 to 3"),
    ],
)
def test_what_cannot_be_counted_is_refused(clusters, labels, message):
    for score in (
        lambda *given: matched_error(*given, num=3),
        lambda *given: cluster_purity(*given, num_clusters=3, num_classes=3),
    ):
        with pytest.raises(ValueError, match=message):
            score(torch.tensor(clusters).long(), torch.tensor(labels).long())
