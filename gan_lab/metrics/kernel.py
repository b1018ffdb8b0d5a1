"""The kernel distance between two sets of features: KID, with whatever extractor made the features."""

import torch
from torch import Tensor


def _kernel(left: Tensor, right: Tensor) -> Tensor:
    return (left @ right.T).div_(left.shape[1]).add_(1).pow_(3)  # in place: three times as fast


def unbiased_mmd2(real: Tensor, fake: Tensor) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy of features (N, D) and (M, D).

    mean over i != j of k(x_i, x_j) + mean over i != j of k(y_i, y_j) - 2 mean over i, j of k(x_i, y_j) (Gretton et al.
    2012, eq. 3) with the kernel k(u, v) = (u.v / D + 1)^3 (Binkowski et al. 2018). Its expectation is 0 for
    equal distributions and positive else, so single values may be below 0.
    """
    if min(len(real), len(fake)) < 2:
        raise ValueError(f"an unbiased estimate needs 2 samples a set: got real {len(real)}, fake {len(fake)}")
    real, fake = real.double(), fake.double()
    total = -2 * _kernel(real, fake).mean()
    for own in (real, fake):
        kernel = _kernel(own, own)
        total += (kernel.sum() - kernel.trace()) / (len(own) * (len(own) - 1))
    return total.item()


def kernel_distance(
    real: Tensor, fake: Tensor, *, num_subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> float:
    """Kernel distance KID of features (N, D) and (M, D): the mean of unbiased_mmd2 over seeded random subsets.

    Each subset is drawn without replacement from both sets and has subset_size samples, or as many as the smaller set
    has. Unbiased in N, unlike the Frechet distance; may be slightly negative (Binkowski et al. 2018).
    """
    size = min(subset_size, len(real), len(fake))
    if size == len(real) == len(fake):
        return unbiased_mmd2(real, fake)
    real, fake = real.double(), fake.double()
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for _ in range(num_subsets):
        chosen = [torch.randperm(len(own), generator=generator)[:size].to(own.device) for own in (real, fake)]
        total += unbiased_mmd2(real[chosen[0]], fake[chosen[1]])
    return total / num_subsets
