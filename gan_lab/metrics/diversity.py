"""How different the samples of one set are from each other."""

import torch
from torch import Tensor

CHUNK_PAIRS = 1024


def pairwise_diversity(samples: Tensor, *, num_pairs: int = 10_000, seed: int = 0) -> float:
    """Mean Euclidean distance over seeded random pairs i != j of samples (N, ...), flattened, in [0, inf).

    In the units of the samples; 0 when all are equal. Its standard error is the distances' standard deviation over
    sqrt(num_pairs) or more, as pairs may share samples. Pairs are drawn with replacement.
    """
    if len(samples) < 2:
        raise ValueError(f"a pair needs 2 samples: got {len(samples)}")
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(len(samples), (num_pairs,), generator=generator)
    second = (first + torch.randint(1, len(samples), (num_pairs,), generator=generator)) % len(samples)
    first, second = first.to(samples.device), second.to(samples.device)
    samples = samples.flatten(1)
    total = 0.0
    for one, other in zip(first.split(CHUNK_PAIRS), second.split(CHUNK_PAIRS), strict=True):
        total += (samples[one].double() - samples[other].double()).norm(dim=1).sum().item()
    return total / num_pairs
