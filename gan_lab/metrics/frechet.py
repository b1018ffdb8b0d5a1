"""The Frechet distance between two sets of features: FID, with whatever extractor made the features."""

from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Mean (D,) and unbiased covariance (D, D) of a set of features, in float64."""

    mean: Tensor
    covariance: Tensor


def moments(features: Tensor) -> Moments:
    """Mean and covariance, with N - 1, of features (N, D)."""
    if len(features) < 2:
        raise ValueError(f"a covariance needs at least 2 samples: got {len(features)}")
    features = features.double()
    mean = features.mean(dim=0)
    centred = features - mean
    return Moments(mean, centred.T @ centred / (len(features) - 1))


def frechet_distance(real: Moments, fake: Moments) -> float:
    """Squared Frechet (Wasserstein-2) distance between the Gaussians of these moments, in [0, inf).

    |m1 - m2|^2 + Tr S1 + Tr S2 - 2 Tr (S1^1/2 S2 S1^1/2)^1/2 (Heusel et al. 2017, eq. 6, the root of the product
    written as that of a symmetric matrix). Singular covariances, so N <= D, are fine; not finite moments give NaN.
    Estimated moments bias it upwards: N samples against N others of one isotropic Gaussian of variance v score about
    v (2 D / N + D (D + 1) / (2 N)), so read it beside its value for real against real of the same N.
    """
    if not all(moment.isfinite().all() for moment in (*real, *fake)):
        return float("nan")
    values, vectors = torch.linalg.eigh(real.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    product = root @ fake.covariance @ root
    overlap = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    distance = (real.mean - fake.mean).square().sum()
    distance += real.covariance.trace() + fake.covariance.trace() - 2 * overlap
    return max(distance.item(), 0.0)
