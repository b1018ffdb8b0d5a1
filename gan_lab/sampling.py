"""Drawing from a trained generator: in batches, sample i the same whatever the batch size."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gan_lab.streams import LatentDistribution, Streams

LATENT_BLOCK = 256
"""Latents are drawn in blocks of this many, each from its own counter."""


def latents_of(
    streams: Streams, stream: str, num: int, latent_dim: int, distribution: LatentDistribution
) -> Iterator[Tensor]:
    """Latents 0 to num - 1 of a stream, in blocks of LATENT_BLOCK."""
    for block, start in enumerate(range(0, num, LATENT_BLOCK)):
        latents = streams.latents(distribution, (LATENT_BLOCK, latent_dim), stream, block)
        yield latents[: num - start]


@torch.no_grad()
def generate(generator: nn.Module, latents: Iterator[Tensor]) -> Iterator[Tensor]:
    """Samples for each block of latents, the generator in evaluation mode, which is undone afterwards."""
    was_training = generator.training
    generator.eval()
    try:
        for block in latents:
            yield generator(block).float()
    finally:
        generator.train(was_training)


def interpolate(ends: Tensor, steps: int, distribution: LatentDistribution) -> Tensor:
    """Latents on the way between successive ends (K, D): ((K - 1) * steps, D), both ends of each leg included.

    Normal latents turn along the great circle (White 2016, slerp), whose points have the norms that training saw;
    uniform ones go straight.
    """
    shares = torch.linspace(0, 1, steps, dtype=torch.float64)[:, None]
    legs = []
    for start, stop in zip(ends[:-1].double(), ends[1:].double(), strict=True):
        weights = (1 - shares, shares)
        if distribution == "normal":
            cosine = torch.dot(start, stop) / (start.norm() * stop.norm())
            angle = torch.arccos(cosine.clamp(-1, 1))
            if torch.sin(angle) > 1e-6:
                weights = (
                    torch.sin((1 - shares) * angle) / torch.sin(angle),
                    torch.sin(shares * angle) / torch.sin(angle),
                )
        legs.append(weights[0] * start + weights[1] * stop)
    return torch.cat(legs).float()
