"""Fully connected generator and discriminator, for images of any shape and for points.

The hidden widths grow from the latent side by `growth`: width=256, depth=3, growth=2 gives 256-512-1024 in G and
1024-512-256 in D.
"""

import math
from itertools import pairwise

from torch import Tensor, nn

from gan_lab.constraints import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from gan_lab.models.layers import (
    FourierFeatures,
    LastLayer,
    LeakyReLU,
    LeakyReLUDropout,
    VectorNorm,
    spectrally_normalise,
    vector_norm,
)


def _hidden(sizes: list[int], norm: VectorNorm, slope: float, dropout: float = 0.0) -> list[nn.Module]:
    """Linear, norm, LeakyReLU and dropout for each step of `sizes`."""
    layers: list[nn.Module] = []
    for num_inputs, num_outputs in pairwise(sizes):
        layers += [nn.Linear(num_inputs, num_outputs), vector_norm(norm, num_outputs)]
        if dropout > 0:
            layers += [nn.Identity(), LeakyReLUDropout(slope, dropout)]  # in two places, as in older checkpoints
        else:
            layers.append(LeakyReLU(slope))
    return layers


def _widths(width: int, depth: int, growth: float) -> list[int]:
    return [round(width * growth**level) for level in range(depth)]


def _spread(num_inputs: int, num_outputs: int, std: float) -> nn.Linear:
    """A linear map without bias whose outputs have this std, on average over them, for inputs of unit variance."""
    linear = nn.Linear(num_inputs, num_outputs, bias=False)
    # At most num_inputs of the outputs can be independent: with more outputs, the same variance is shared by all.
    nn.init.orthogonal_(linear.weight, gain=std * max(1.0, num_outputs / num_inputs) ** 0.5)
    return linear


class Generator(nn.Module):
    """latent (N, latent_dim) -> samples (N, *sample_shape): tanh for images (C, H, W), linear for points (D,).

    skip_std: adds a linear map of the latents to the last layer's outputs, None for none. It starts orthogonal, with
    values of this std for latents of unit variance. With the data's std, samples lie about every mode from the start;
    the layers alone start in a small spot and have to find each mode from there.
    """

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
        skip_std: PositiveFloat | None = None,
    ):
        super().__init__()
        self.sample_shape = tuple(sample_shape)
        num_outputs = math.prod(self.sample_shape)
        widths = _widths(width, depth, growth)
        layers = _hidden([latent_dim, *widths], norm, slope)
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], num_outputs))
        self.skip = None if skip_std is None else _spread(latent_dim, num_outputs, skip_std)

    def forward(self, latent: Tensor) -> Tensor:
        samples = self.layers(latent)
        if self.skip is not None:
            samples = samples + self.skip(latent)
        if len(self.sample_shape) == 3:
            samples = samples.tanh()
        return samples.unflatten(1, self.sample_shape)


class Discriminator(nn.Module):
    """samples (N, *sample_shape) -> logits (N,), or outputs (N, num_outputs) where more than a logit is asked for.

    num_fourier, fourier_std: random Fourier features of the samples as further inputs, 0 for none; for points.
    spectral_norm: of every weight (Miyato et al. 2018).
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
        spectral_norm: bool = False,
        num_outputs: PositiveInt = 1,
    ):
        super().__init__()
        widths = _widths(width, depth, growth)[::-1]
        num_inputs = math.prod(sample_shape)
        features: list[nn.Module] = [nn.Flatten()]
        if num_fourier > 0:
            features.append(FourierFeatures(num_inputs, num_fourier, fourier_std))
            num_inputs += 2 * num_fourier
        layers = _hidden([num_inputs, *widths], norm, slope, dropout)
        self.layers = nn.Sequential(*features, *layers, LastLayer(widths[-1], num_outputs))
        if spectral_norm:
            spectrally_normalise(self)

    def forward(self, samples: Tensor) -> Tensor:
        return self.layers(samples).squeeze(1)
