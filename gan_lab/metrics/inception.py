"""The inception score, with whatever classifier gave the probabilities."""

import torch
from torch import Tensor


def inception_score(probabilities: Tensor, *, num_splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation, over the splits of a seeded shuffle, of the inception score of p(y|x) (N, K).

    exp(mean over x of KL(p(y|x) || p(y))), p(y) the mean of p(y|x) over the split: from 1 to K (Salimans et al. 2016,
    section 4; the standard deviation divides by num_splits, as theirs does). The splits are of nearly equal size.
    """
    if not 1 <= num_splits <= len(probabilities):
        raise ValueError(f"num_splits must be 1 to the number of samples, {len(probabilities)}: got {num_splits}")
    order = torch.randperm(len(probabilities), generator=torch.Generator().manual_seed(seed))
    scores = []
    for given in probabilities.double()[order.to(probabilities.device)].tensor_split(num_splits):
        divergence = torch.xlogy(given, given) - torch.xlogy(given, given.mean(dim=0))
        scores.append(divergence.sum(dim=1).mean().exp())
    score = torch.stack(scores)
    return score.mean().item(), score.std(correction=0).item()
