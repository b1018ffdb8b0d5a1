"""Gradient penalties added to the discriminator's loss: pure functions, one value per sample, never reduced.

All have the form penalty(discriminator, real, fake, uniform, *, weight) -> (N,): `discriminator` maps a batch to logits
(N,); `real` and `fake` (N, ...) have any shape and carry no graph; `uniform(shape)` draws from U[0, 1). Norms are taken
per sample over all other dimensions. The result keeps its graph (double backward): do not compile, do not autocast.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gan_lab.constraints import NonNegativeFloat

Discriminator = Callable[[Tensor], Tensor]
Uniform = Callable[[tuple[int, ...]], Tensor]


def input_gradient(discriminator: Discriminator, inputs: Tensor) -> Tensor:
    """The gradient of each sample's logit with respect to that sample, flattened: (N, number of values)."""
    inputs = inputs.detach().requires_grad_(True)
    # Samples do not mix (no BatchNorm under a penalty), so the gradient of the sum holds every sample's own gradient.
    (gradient,) = torch.autograd.grad(discriminator(inputs).sum(), inputs, create_graph=True)
    return gradient.flatten(1)


def wgan_gp(
    discriminator: Discriminator, real: Tensor, fake: Tensor, uniform: Uniform, *, weight: NonNegativeFloat = 10.0
) -> Tensor:
    """weight * (||grad D(x)||_2 - 1)^2 at x = e real + (1 - e) fake, one e ~ U[0, 1) per sample.

    Gulrajani et al. 2017, equation 3 (two-sided; the paper's weight is 10, its 2-D toys use 0.1).
    """
    mixing = uniform((real.shape[0],) + (1,) * (real.ndim - 1))
    slopes = input_gradient(discriminator, mixing * real + (1 - mixing) * fake).norm(dim=1)
    return weight * (slopes - 1).square()


def r1(
    discriminator: Discriminator, real: Tensor, fake: Tensor, uniform: Uniform, *, weight: NonNegativeFloat = 10.0
) -> Tensor:
    """weight / 2 * ||grad D(real)||_2^2 (Mescheder et al. 2018, equation 9; weight is the paper's gamma)."""
    return 0.5 * weight * input_gradient(discriminator, real).square().sum(dim=1)


def r2(
    discriminator: Discriminator, real: Tensor, fake: Tensor, uniform: Uniform, *, weight: NonNegativeFloat = 10.0
) -> Tensor:
    """weight / 2 * ||grad D(fake)||_2^2 (Mescheder et al. 2018, equation 10): R1 on the other side."""
    return 0.5 * weight * input_gradient(discriminator, fake).square().sum(dim=1)


def r1_r2(
    discriminator: Discriminator, real: Tensor, fake: Tensor, uniform: Uniform, *, weight: NonNegativeFloat = 10.0
) -> Tensor:
    """R1 plus R2 with one weight (Huang et al. 2024, R3GAN, equation 3), in one pass over reals and fakes together."""
    real_gradient, fake_gradient = input_gradient(discriminator, torch.cat([real, fake])).chunk(2)
    return 0.5 * weight * (real_gradient.square().sum(dim=1) + fake_gradient.square().sum(dim=1))
