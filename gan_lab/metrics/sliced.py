"""The sliced Wasserstein distance: no network needed, any dimension."""

import torch
from torch import Tensor


def sliced_wasserstein(real: Tensor, fake: Tensor, *, num_projections: int = 256, seed: int = 0) -> float:
    """Sliced Wasserstein-2 distance between two sets of equally many samples (N, ...), flattened to (N, D).

    sqrt(mean over unit directions u and ranks j of (sort(real u)_j - sort(fake u)_j)^2) (Bonneel et al. 2015), in the
    units of the samples. Symmetric, 0 for equal sets; two finite sets from one distribution do not give 0, so read it
    beside its value for real against real.
    """
    if real.shape != fake.shape:
        raise ValueError(f"sets must have equal shapes: got real {tuple(real.shape)}, fake {tuple(fake.shape)}")
    real, fake = real.flatten(1).double(), fake.flatten(1).double()
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for directions in torch.randn(num_projections, real.shape[1], generator=generator, dtype=torch.float64).split(32):
        directions = (directions / directions.norm(dim=1, keepdim=True)).T.to(real.device)
        difference = (real @ directions).sort(dim=0).values - (fake @ directions).sort(dim=0).values
        total += difference.square().mean(dim=0).sum().item()
    return (total / num_projections) ** 0.5
