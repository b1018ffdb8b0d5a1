"""Mode coverage: of mixtures with known centres, of classes (the protocols of VEEGAN and PacGAN)."""

import torch
from torch import Tensor


def mode_coverage(points: Tensor, modes: Tensor, std: float) -> dict[str, float]:
    """How well points (N, D) cover the centres (M, D) of an equal-weight mixture of isotropic Gaussians.

    A point is of high quality when its nearest centre is within 3 std (perfect sampler in 2-D: 1 - exp(-4.5) = 98.9 %).
    modes_covered: centres with at least one such point; high_quality: their share of all points; mode_kl: KL divergence
    in nats of their distribution over the centres from the uniform one (inf without any such point).
    mixture_kl, which lost modes and stray points both raise: KL divergence in nats of all points' distribution over
    M + 1 cells, the modes' 3-std balls and what lies outside, from the mixture's own; about M / (2 N) for a perfect
    sampler, for modes more than 6 std apart.
    Srivastava et al. 2017; Lin et al. 2018 (the first three).
    """
    distances, nearest = torch.cdist(points.double(), modes.double()).min(dim=1)
    good = nearest[distances < 3 * std]
    counts = torch.bincount(good, minlength=len(modes)).double()
    share = counts / max(len(good), 1)
    kl = torch.special.xlogy(share, share * len(modes)).sum().item() if len(good) else float("inf")
    inside = torch.special.gammainc(torch.tensor(modes.shape[1] / 2).double(), torch.tensor(9 / 2).double())  # chi^2
    cells = torch.cat([counts, torch.tensor([len(points) - len(good)])]) / len(points)
    perfect = torch.cat([(inside / len(modes)).repeat(len(modes)), (1 - inside).reshape(1)])
    return {
        "modes_covered": float((share > 0).sum()),
        "high_quality": len(good) / len(points),
        "mode_kl": kl,
        "mixture_kl": torch.special.xlogy(cells, cells / perfect).sum().item(),
    }


def class_coverage(classes: Tensor, num_modes: int, *, confidence: Tensor | None = None) -> dict[str, float]:
    """How well samples of these classes (N,), int64 in [0, num_modes), cover the modes, one a class.

    modes_covered, modes_with_5: modes with at least one, at least 5 samples (a classifier's errors reach a mode that
    is missing, but seldom 5 times); mode_kl: KL divergence in nats of the samples' distribution over the modes from the
    uniform one, in [0, ln num_modes], about (num_modes - 1) / (2 N) for a perfect sampler (inf without any sample).
    high_quality, with the classifier's confidence (N,) only: share of samples with a confidence above 0.9.
    Stacked MNIST has 1000 modes and 26,000 samples. Srivastava et al. 2017; Lin et al. 2018.
    """
    counts = torch.bincount(classes, minlength=num_modes)
    if len(counts) > num_modes:
        raise ValueError(f"classes must be below num_modes = {num_modes}: got {len(counts) - 1}")
    share = counts.double() / max(len(classes), 1)
    result = {
        "modes_covered": float((counts > 0).sum()),
        "modes_with_5": float((counts >= 5).sum()),
        "mode_kl": torch.xlogy(share, share * num_modes).sum().item() if len(classes) else float("inf"),
    }
    if confidence is not None:
        result["high_quality"] = (confidence > 0.9).double().mean().item()
    return result
