"""Do samples have the label they were asked for, and do codes that were learned without labels find the classes?"""

import torch
from torch import Tensor

from gan_lab.metrics.frechet import frechet_distance, moments

FEWEST_IN_A_CLASS = 20
"""A class with fewer samples on either side is not compared: the bias of its distance would hide the distance."""


def _check_values(name: str, values: Tensor, num: int) -> None:
    if len(values) and not 0 <= int(values.min()) <= int(values.max()) < num:
        raise ValueError(f"{name} must be 0 to {num - 1}: got {int(values.min())} to {int(values.max())}")


def label_accuracy(probabilities: Tensor, labels: Tensor) -> float:
    """Share of samples whose most probable class is their label, in [0, 1]; of p(y|x) (N, K) and labels int64 (N,).

    With fakes, the labels they were asked for and a classifier trained on real samples: GAN-test (Shmelkov et al.
    2018), of which a perfect model scores what the classifier does on held-out reals. A sample without probabilities
    that are numbers is wrong.
    """
    if probabilities.shape[:-1] != labels.shape or len(labels) == 0:
        raise ValueError(f"needs one label a sample: got {tuple(probabilities.shape)} and {tuple(labels.shape)}")
    most, predicted = probabilities.max(dim=-1)
    return ((predicted == labels) & ~most.isnan()).double().mean().item()


def per_class_frechet(
    real: Tensor, real_labels: Tensor, fake: Tensor, fake_labels: Tensor, *, num_classes: int
) -> dict[int, float]:
    """`frechet_distance` within each class, by label; of features (N, D) and (M, D) with int64 labels (N,) and (M,).

    Of each class the first n samples of both sides are compared, n being the smaller of the two counts. Classes with n
    below FEWEST_IN_A_CLASS are left out, and so have no part in a mean over the result; a distance of NaN is one of
    features that are not finite, and stays. Unlike the distance of all samples it grows when classes are mixed up; its
    bias is that of n samples, so read it beside its value for real against real of the same n.
    """
    _check_values("real_labels", real_labels, num_classes)
    _check_values("fake_labels", fake_labels, num_classes)
    distances = {}
    for label in range(num_classes):
        own = real[real_labels == label], fake[fake_labels == label]
        num = min(map(len, own))
        if num >= FEWEST_IN_A_CLASS:
            distances[label] = frechet_distance(*(moments(vectors[:num]) for vectors in own))
    return distances


def _joint_counts(clusters: Tensor, labels: Tensor, num_clusters: int, num_classes: int) -> Tensor:
    """How many samples of each cluster have each label: int64 (num_clusters, num_classes)."""
    if clusters.shape != labels.shape or clusters.ndim != 1 or len(labels) == 0:
        shapes = f"{tuple(clusters.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"needs one cluster and one label a sample: got {shapes}")
    _check_values("clusters", clusters, num_clusters)
    _check_values("labels", labels, num_classes)
    joint = torch.bincount(clusters * num_classes + labels, minlength=num_clusters * num_classes)
    return joint.view(num_clusters, num_classes)


def cluster_purity(clusters: Tensor, labels: Tensor, *, num_clusters: int, num_classes: int) -> float:
    """Share of samples that have the commonest label of their cluster; of int64 clusters (N,) and labels (N,).

    1 / N sum over clusters k of max over labels j of |k and j|, from 1 / num_classes to 1 (Manning et al. 2008, section
    16.3; reported by Mukherjee et al. 2019, ClusterGAN). Several clusters may stand for one class, so it grows with
    num_clusters: compare values of the same number.
    """
    return _joint_counts(clusters, labels, num_clusters, num_classes).amax(dim=1).sum().item() / len(labels)


def matched_error(clusters: Tensor, labels: Tensor, *, num: int) -> float:
    """Share of samples whose cluster does not stand for their label, in [0, 1 - 1 / num]; int64 (N,) and (N,).

    1 - max over permutations p of mean(p(cluster) = label): each of the num clusters stands for another one of the num
    classes, in the best way. The error rate of InfoGAN's categorical code, 0.05 on MNIST's digits (Chen et al. 2016,
    section 7.2). At least 1 - cluster_purity.
    """
    from scipy.optimize import linear_sum_assignment  # scikit-learn needs it, so it is here; slow to import

    counts = _joint_counts(clusters, labels, num, num).cpu().numpy()
    num_matched = int(counts[linear_sum_assignment(counts, maximize=True)].sum())
    return (len(labels) - num_matched) / len(labels)
