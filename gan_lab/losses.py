"""Adversarial losses: pairs of pure functions on logits, one value per sample, never reduced.

Real comes first, fake second. Logits have shape (N,) and no sigmoid has been applied to them. Both halves are to be
minimised, each by its player; the caller takes the mean over the batch.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus


class AdversarialLoss(NamedTuple):
    """What each player minimises.

    discriminator: (real_logits (N,), fake_logits (N,)) -> (N,).
    generator: fake_logits (N,) -> (N,); (real_logits, fake_logits) -> (N,) where `generator_sees_real`.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[..., Tensor]
    generator_sees_real: bool = False


def blind_loss(loss: AdversarialLoss) -> float:
    """D's loss when it gives every sample the same logit, the best one: 2 log 2 (vanilla), 1/4 (lsgan), 2 (hinge), ...

    The best constant in [-2, 2], to 0.01. Wasserstein and its kind give 0: there is no such level.
    """
    logits = torch.linspace(-2, 2, 401, dtype=torch.float64)
    return loss.discriminator(logits, logits).min().item()


def _same_shape(real_logits: Tensor, fake_logits: Tensor) -> None:
    # (N, 1) beside (N,) would broadcast to (N, N) and train something else.
    if real_logits.ndim != 1 or real_logits.shape != fake_logits.shape:
        raise ValueError(
            f"logits must both have shape (N,): got real {tuple(real_logits.shape)}, fake {tuple(fake_logits.shape)}"
        )


def _cross_entropy(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-log sigmoid(real) - log(1 - sigmoid(fake)), finite for every finite logit."""
    _same_shape(real_logits, fake_logits)
    return softplus(-real_logits) + softplus(fake_logits)


def vanilla() -> AdversarialLoss:
    """The non-saturating GAN loss (Goodfellow et al. 2014, section 3): G maximises log sigmoid(D(G(z))).

    L_D = softplus(-r) + softplus(f), L_G = softplus(-f). At r = f = 0: 2 log 2 and log 2.
    """
    return AdversarialLoss(_cross_entropy, lambda fake_logits: softplus(-fake_logits))


def minimax() -> AdversarialLoss:
    """The zero-sum GAN loss (Goodfellow et al. 2014, equation 1): G minimises log(1 - sigmoid(D(G(z)))).

    L_D = softplus(-r) + softplus(f), L_G = -softplus(f): G's gradient fades where D is sure.
    """
    return AdversarialLoss(_cross_entropy, lambda fake_logits: -softplus(fake_logits))


def lsgan() -> AdversarialLoss:
    """Least squares with labels 0 and 1 (Mao et al. 2017, equations 2 and 9: a = 0, b = c = 1), 1/2 included.

    L_D = (r - 1)^2 / 2 + f^2 / 2, L_G = (f - 1)^2 / 2.
    """

    def discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        _same_shape(real_logits, fake_logits)
        return 0.5 * (real_logits - 1).square() + 0.5 * fake_logits.square()

    return AdversarialLoss(discriminator, lambda fake_logits: 0.5 * (fake_logits - 1).square())


def hinge() -> AdversarialLoss:
    """The hinge loss (Lim & Ye 2017; Miyato et al. 2018, equations 16 and 17).

    L_D = relu(1 - r) + relu(1 + f), L_G = -f.
    """

    def discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        _same_shape(real_logits, fake_logits)
        return relu(1 - real_logits) + relu(1 + fake_logits)

    return AdversarialLoss(discriminator, lambda fake_logits: -fake_logits)


def wasserstein() -> AdversarialLoss:
    """The Wasserstein loss (Arjovsky et al. 2017, equations 2 and 3): needs D kept Lipschitz by clipping or penalty.

    L_D = f - r, L_G = -f; -L_D estimates the distance.
    """

    def discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        _same_shape(real_logits, fake_logits)
        return fake_logits - real_logits

    return AdversarialLoss(discriminator, lambda fake_logits: -fake_logits)


def relativistic() -> AdversarialLoss:
    """The relativistic pairing loss (Jolicoeur-Martineau 2019, RpGAN with the non-saturating cross-entropy).

    L_D = softplus(-(r - f)), L_G = softplus(-(f - r)), sample by sample: D only says which of a pair is more real. At
    r = f both are log 2. With R1 and R2 it converges locally (Huang et al. 2024, R3GAN).
    """

    def discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        _same_shape(real_logits, fake_logits)
        return softplus(fake_logits - real_logits)

    def generator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        _same_shape(real_logits, fake_logits)
        return softplus(real_logits - fake_logits)

    return AdversarialLoss(discriminator, generator, generator_sees_real=True)
