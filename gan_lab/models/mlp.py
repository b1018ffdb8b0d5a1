"""Fully connected generator and discriminator, for images of any shape and for points.

The hidden widths grow from the latent side by `growth`: width=256, depth=3, growth=2 gives 256-512-1024 in G and
1024-512-256 in D.
"""

import math
from itertools import pairwise

from torch import Tensor, nn

from gan_lab.constraints import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from gan_lab.models.layers import FourierFeatures, VectorNorm, vector_norm


def _hidden(sizes: list[int], norm: VectorNorm, slope: float, dropout: float = 0.0) -> list[nn.Module]:
    """Linear, norm, LeakyReLU and dropout for each step of `sizes`."""
    layers: list[nn.Module] = []
    for num_inputs, num_outputs in pairwise(sizes):
        layers += [nn.Linear(num_inputs, num_outputs), vector_norm(norm, num_outputs), nn.LeakyReLU(slope)]
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
    return layers


def _widths(width: int, depth: int, growth: float) -> list[int]:
    return [round(width * growth**level) for level in range(depth)]


class Generator(nn.Module):
    """latent (N, latent_dim) -> samples (N, *sample_shape): tanh for images (C, H, W), linear for points (D,)."""

    def __init__(
        self,
        *,
        sample_shape: tuple[int, ...],
        latent_dim: PositiveInt = 100,
        width: PositiveInt = 256,
        depth: PositiveInt = 3,
        growth: PositiveFloat = 1.0,
        norm: VectorNorm = "none",
        slope: NonNegativeFloat = 0.2,
    ):
        super().__init__()
        self.sample_shape = tuple(sample_shape)
        widths = _widths(width, depth, growth)
        layers = _hidden([latent_dim, *widths], norm, slope)
        layers.append(nn.Linear(widths[-1], math.prod(self.sample_shape)))
        if len(self.sample_shape) == 3:
            layers.append(nn.Tanh())
        self.layers = nn.Sequential(*layers)

    def forward(self, latent: Tensor) -> Tensor:
        return self.layers(latent).unflatten(1, self.sample_shape)


class Discriminator(nn.Module):
    """samples (N, *sample_shape) -> logits (N,).

    num_fourier, fourier_std: random Fourier features of the samples as further inputs, 0 for none; for points.
    """

    def __init__(
        self,
        *,
        sample_shape: tuple[int, ...],
        width: PositiveInt = 256,
        depth: PositiveInt = 3,
        growth: PositiveFloat = 1.0,
        norm: VectorNorm = "none",
        slope: NonNegativeFloat = 0.2,
        dropout: Fraction = 0.0,
        num_fourier: NonNegativeInt = 0,
        fourier_std: PositiveFloat = 1.0,
    ):
        super().__init__()
        widths = _widths(width, depth, growth)[::-1]
        num_inputs = math.prod(sample_shape)
        features: list[nn.Module] = [nn.Flatten()]
        if num_fourier > 0:
            features.append(FourierFeatures(num_inputs, num_fourier, fourier_std))
            num_inputs += 2 * num_fourier
        layers = _hidden([num_inputs, *widths], norm, slope, dropout)
        self.layers = nn.Sequential(*features, *layers, nn.Linear(widths[-1], 1))

    def forward(self, samples: Tensor) -> Tensor:
        return self.layers(samples).squeeze(1)
