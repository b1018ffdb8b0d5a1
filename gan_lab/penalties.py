"""Gradient penalties added to the discriminator's loss: pure functions, one value per sample, never reduced.

All have the form penalty(discriminator, real, fake, uniform, *, weight) -> (N,): `discriminator` maps a batch to logits
(N,); `real` and `fake` (N, ...) have any shape and carry no graph; `uniform(shape)` draws from U[0, 1). Norms are taken
per sample over all other dimensions. The result keeps its graph (double backward): do not compile, do not autocast.
"""

from collections.abc import Callable
from typing import Annotated, Literal, cast

import torch
from torch import Tensor
from torch.nn.functional import relu

from gan_lab.constraints import NonNegativeFloat, Range

Discriminator = Callable[[Tensor], Tensor]
Uniform = Callable[[tuple[int, ...]], Tensor]
Place = Literal["interpolated", "perturbed", "real", "fake", "real_and_fake"]
Exponent = Annotated[float, Range(low=1)]
"""Below 1, powers and norms have no finite derivative at 0."""


class Passes:
    """D's passes over the batches of one update: each batch goes through D once, whoever asks for its logits first.

    So a penalty on the gradients at real or fake samples and the loss share a pass, as in R3GAN's code. Batches that
    are asked for together go through together where `together` says that D does not mix samples.
    """

    def __init__(self, discriminator: Discriminator, *, together: bool = True):
        self.discriminator = discriminator
        self.together = together
        self._known: list[tuple[Tensor, Tensor]] = []

    def __call__(self, inputs: Tensor) -> Tensor:
        """D's logits (N,) for other samples, which are not remembered."""
        return self.discriminator(inputs)

    def logits(self, *batches: Tensor) -> tuple[Tensor, ...]:
        """D's logits (N,) for each batch; their graph leads to batches that require a gradient."""
        new = [batch for batch in batches if self._find(batch) is None]
        if len(new) > 1 and self.together:
            logits = self.discriminator(torch.cat(new)).split([len(batch) for batch in new])
        else:
            logits = tuple(self.discriminator(batch) for batch in new)
        self._known += zip(new, logits, strict=True)
        return tuple(cast("Tensor", self._find(batch)) for batch in batches)

    def _find(self, batch: Tensor) -> Tensor | None:
        return next((logits for known, logits in self._known if known is batch), None)


def input_gradient(discriminator: Discriminator, *batches: Tensor) -> Tensor:
    """The gradient of each sample's logit with respect to that sample, flattened: (N of all batches, number of values).

    Of `Passes`, batches that require a gradient are the loss's own: their logits are shared with it.
    """
    # Samples do not mix (no BatchNorm under a penalty), so the gradient of the sum holds every sample's own gradient.
    if isinstance(discriminator, Passes) and all(batch.requires_grad for batch in batches):
        inputs = batches
        total = torch.cat(discriminator.logits(*batches)).sum()
    else:
        inputs = (torch.cat(batches).detach().requires_grad_(True),)
        total = discriminator(*inputs).sum()
    return torch.cat([one.flatten(1) for one in torch.autograd.grad(total, inputs, create_graph=True)])


def gradient(
    discriminator: Discriminator,
    real: Tensor,
    fake: Tensor,
    uniform: Uniform,
    *,
    at: Place = "interpolated",
    norm: Exponent = 2.0,
    power: Exponent = 2.0,
    target: NonNegativeFloat = 1.0,
    one_sided: bool = False,
    weight: NonNegativeFloat = 10.0,
) -> Tensor:
    """weight * | ||grad D(x)||_norm - target |^power; where `one_sided`, only for gradients longer than the target.

    The points x, by `at`:
      interpolated: e real + (1 - e) fake, one e ~ U[0, 1) per sample
      perturbed: real + a u s / 2, one a ~ U[0, 1) per sample, one u ~ U[0, 1) per value, s the deviation of the batch
      real, fake, real_and_fake: the samples themselves; for both, the mean of their two penalties
    Settings with a name, as (at, power, target, weight), two-sided and with norm 2 unless said:
      WGAN-GP (interpolated, 2, 1, 10): Gulrajani et al. 2017, equation 3; the defaults
      WGAN-LP (interpolated, 2, 1, 10), one-sided: Petzka et al. 2018
      WGAN-div (interpolated, 6, 0, 2): Wu et al. 2018, algorithm 1, where power and weight are called p and k. The
        published code interpolates too, but weighs 10. PyTorch-GAN takes (real_and_fake, 6, 0, 2).
      DRAGAN (perturbed, 2, 1, 10): Kodali et al. 2017, as in the published code; the paper's noise is normal, with a
        variance to be tuned. PyTorch-GAN draws a for each value and takes the norm over the channels alone.
      R1 and R2 (real or fake, 2, 0, gamma / 2): Mescheder et al. 2018
    """
    lengths = input_gradient(discriminator, *_points(at, real, fake, uniform)).norm(norm, dim=1)
    excess = relu(lengths - target) if one_sided else (lengths - target).abs()
    values = weight * excess.pow(power)
    return values.view(-1, len(real)).mean(dim=0)  # two rows of real_and_fake, otherwise one


def _points(at: Place, real: Tensor, fake: Tensor, uniform: Uniform) -> tuple[Tensor, ...]:
    """Where the gradient is taken: one batch (N, ...), or both of them."""
    if at == "interpolated":
        mixing = uniform((real.shape[0],) + (1,) * (real.ndim - 1))
        return ((mixing * real + (1 - mixing) * fake).detach(),)
    if at == "perturbed":
        draws = uniform((len(real), 1 + real[0].numel()))  # in one call: a second would begin with the same numbers
        noise = draws[:, :1] * draws[:, 1:]
        # Of N values, not N - 1: a batch of a single value has deviation 0.
        return ((real + 0.5 * real.std(correction=0) * noise.view_as(real)).detach(),)
    return {"real": (real,), "fake": (fake,), "real_and_fake": (real, fake)}[at]


def wgan_gp(
    discriminator: Discriminator, real: Tensor, fake: Tensor, uniform: Uniform, *, weight: NonNegativeFloat = 10.0
) -> Tensor:
    """weight * (||grad D(x)||_2 - 1)^2 at x = e real + (1 - e) fake, one e ~ U[0, 1) per sample.

    Gulrajani et al. 2017, equation 3 (two-sided; the paper's weight is 10, its 2-D toys use 0.1).
    """
    return gradient(discriminator, real, fake, uniform, weight=weight)


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
    real_gradient, fake_gradient = input_gradient(discriminator, real, fake).chunk(2)
    return 0.5 * weight * (real_gradient.square().sum(dim=1) + fake_gradient.square().sum(dim=1))
