"""Drawing from a trained generator: in batches, sample i the same whatever the batch size."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gan_lab.conditioning import Conditioning
from gan_lab.penalties import Uniform
from gan_lab.streams import LatentDistribution, Streams

LATENT_BLOCK = 256
"""Latents are drawn in blocks of this many, each from its own counter."""


@dataclass(frozen=True)
class LatentSpace:
    """What G's inputs are: noise of `dim` values, then the codes of `conditioning`.

    label_shares: how often each class occurs, (num_classes,), for labels that are drawn; None without labels.
    """

    dim: int
    distribution: LatentDistribution
    conditioning: Conditioning
    label_shares: Tensor | None = None

    def noise(self, streams: Streams, num: int, stream: str, counter: int) -> Tensor:
        """(num, dim) of a stream's draw."""
        noise = streams.latents(self.distribution, (num, self.dim), stream, counter)
        return noise if self.conditioning.noise_scale == 1 else noise * self.conditioning.noise_scale

    def with_codes(self, noise: Tensor, labels: Tensor | None, uniform: Uniform) -> Tensor:
        """(N, dim + num_codes): the noise and the codes for these labels (N,), or codes that are drawn."""
        if self.conditioning.num_codes == 0:
            return noise
        return torch.cat([noise, self.conditioning.codes(len(noise), labels, uniform).to(noise.device)], dim=1)

    def labels_of(self, latents: Tensor) -> Tensor | None:
        """The labels (N,), on the CPU, that G's inputs ask for; None where they ask for none."""
        labels = self.conditioning.labels_of(latents[:, self.dim :])
        return None if labels is None else labels.cpu()

    def draw_labels(self, uniform: Uniform, num: int) -> Tensor | None:
        """(num,) labels, each class as often as in the data; None where G gets none."""
        if not self.conditioning.needs_labels or self.label_shares is None:
            return None
        draws = uniform((num,))
        bounds = self.label_shares.to(draws.device, draws.dtype).cumsum(0)
        return torch.searchsorted(bounds, draws, right=True).clamp(max=len(bounds) - 1)


def latents_of(streams: Streams, stream: str, num: int, space: LatentSpace) -> Iterator[Tensor]:
    """G's inputs 0 to num - 1 of a stream, in blocks of LATENT_BLOCK."""
    for block, start in enumerate(range(0, num, LATENT_BLOCK)):

        def uniform(shape: tuple[int, ...], block: int = block) -> Tensor:
            return streams.uniform(shape, f"{stream}/codes", block)

        noise = space.noise(streams, LATENT_BLOCK, stream, block)
        labels = space.draw_labels(uniform, LATENT_BLOCK)
        yield space.with_codes(noise, labels, uniform)[: num - start]


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode, which is undone afterwards."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


@torch.no_grad()
def generate(generator: nn.Module, latents: Iterator[Tensor]) -> Iterator[Tensor]:
    """Samples for each block of latents, the generator in evaluation mode, which is undone afterwards."""
    with evaluation_mode(generator):
        for block in latents:
            yield generator(block).float()


def samples_of(generator: nn.Module, latents: Tensor) -> Tensor:
    """The samples of all latents (N, ...), on the CPU, made in blocks."""
    return torch.cat([samples.cpu() for samples in generate(generator, iter(latents.split(LATENT_BLOCK)))])


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
