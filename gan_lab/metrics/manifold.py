"""Precision, recall, density and coverage: fidelity and diversity apart, by nearest neighbours of features."""

import torch
from torch import Tensor

from gan_lab.metrics.distances import nearest, squared_distances


def neighbour_distances(features: Tensor, k: int) -> Tensor:
    """Distance (N,) of each of features (N, D) to its k-th nearest other one; 0 for one that occurs k + 1 times."""
    if not 1 <= k < len(features):
        raise ValueError(f"k must be 1 to the number of other samples, {len(features) - 1}: got {k}")
    return nearest(features, features, k, skip=torch.arange(len(features), device=features.device))[0][:, -1]


def manifold_metrics(
    real: Tensor, fake: Tensor, *, real_radii_3: Tensor | None = None, real_radii_5: Tensor | None = None
) -> dict[str, float]:
    """Precision, recall, density and coverage of fake features (M, D) against real ones (N, D).

    With B_k(x) the closed ball about x that reaches to its k-th nearest neighbour in x's own set:
    precision: share of fakes in some B_3 of a real; recall: share of reals in some B_3 of a fake, both in [0, 1]
    (Kynkaanniemi et al. 2019, eq. 1 and 2, with their k).
    density: mean over fakes of the number of real B_5 that hold it, over 5, in [0, N / 5], about 1 for a perfect model;
    coverage: share of reals whose B_5 holds a fake, in [0, 1] (Naeem et al. 2020, with their k).
    A perfect model does not score 1 in precision, recall and coverage: read them beside real against real.
    real_radii_3, real_radii_5 (N,): neighbour_distances(real, 3) and (real, 5), where the caller has them.
    A fake that is not finite is in no ball and has none.
    """
    radii_3 = neighbour_distances(real, 3) if real_radii_3 is None else real_radii_3.double()
    radii_5 = neighbour_distances(real, 5) if real_radii_5 is None else real_radii_5.double()
    radii_3, radii_5 = radii_3.square().unsqueeze(1), radii_5.square().unsqueeze(1)
    fake_radii_3 = neighbour_distances(fake, 3).square()

    precise = torch.zeros(len(fake), dtype=torch.bool, device=fake.device)
    num_recalled = num_covered = num_inside = 0
    for start, distances in squared_distances(real, fake):
        rows = slice(start, start + len(distances))
        precise |= (distances <= radii_3[rows]).any(dim=0)
        num_recalled += int((distances <= fake_radii_3).any(dim=1).sum())
        inside = (distances <= radii_5[rows]).count_nonzero(dim=1)
        num_inside += int(inside.sum())
        num_covered += int(inside.count_nonzero())
    return {
        "precision": precise.double().mean().item(),
        "recall": num_recalled / len(real),
        "density": num_inside / (5 * len(fake)),
        "coverage": num_covered / len(real),
    }
