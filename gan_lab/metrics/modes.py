"""Mode coverage of two-dimensional mixtures with known centres (the protocol of VEEGAN and PacGAN)."""

import torch
from torch import Tensor


def mode_coverage(points: Tensor, modes: Tensor, std: float) -> dict[str, float]:
    """How well points (N, D) cover the centres (M, D) of an equal-weight mixture of isotropic Gaussians.

    A point is of high quality when its nearest centre is within 3 std (perfect sampler in 2-D: 1 - exp(-4.5) = 98.9 %).
    modes_covered: centres with at least one such point; high_quality: their share of all points; mode_kl: KL divergence
    in nats of their distribution over the centres from the uniform one (inf without any such point).
    Srivastava et al. 2017; Lin et al. 2018.
    """
    distances, nearest = torch.cdist(points.double(), modes.double()).min(dim=1)
    good = nearest[distances < 3 * std]
    share = torch.bincount(good, minlength=len(modes)).double() / max(len(good), 1)
    kl = torch.special.xlogy(share, share * len(modes)).sum().item() if len(good) else float("inf")
    return {
        "modes_covered": float((share > 0).sum()),
        "high_quality": len(good) / len(points),
        "mode_kl": kl,
    }
