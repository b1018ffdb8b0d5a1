"""Adversarial losses: pairs of pure functions on logits, one value per sample, never reduced.

Real comes first, fake second. Logits have shape (N,) and no sigmoid has been applied to them. Both halves are to be
minimised, each by its player; the caller takes the mean over the batch. In the formulas r is the logit of a real sample
and f that of a fake. `relativistic_average` and `softmax` hold each sample against its whole batch: their values depend
on one another, and the mean over a larger batch is not the mean over its parts.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

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

    The best constant in [-2, 2], to 0.01. Wasserstein and its kind give 0: there is no such level. Softmax gives log 2,
    its level for a batch of one; it is log 2N for N, of which log N stays however good D is.
    """
    # Each constant is a batch of its own, because some losses compare the samples of a batch.
    constants = torch.linspace(-2, 2, 401, dtype=torch.float64).unsqueeze(1)
    return min(loss.discriminator(constant, constant).item() for constant in constants)


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


def boundary() -> AdversarialLoss:
    """The boundary-seeking loss for continuous data (Hjelm et al. 2018): G seeks D's decision boundary, D(G(z)) = 1/2.

    L_D = softplus(-r) + softplus(f), L_G = (log D - log(1 - D))^2 / 2 = f^2 / 2, where D = sigmoid(f). At r = f = 0:
    2 log 2 and 0. G stops wherever f = 0, above the boundary it turns back. The paper's published code leaves out the
    1/2; PyTorch-GAN takes the logarithms of a sigmoid, which are infinite once D is sure.
    """
    return AdversarialLoss(_cross_entropy, lambda fake_logits: 0.5 * fake_logits.square())


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


def relativistic_average(
    form: Literal["cross_entropy", "least_squares", "hinge"] = "cross_entropy",
) -> AdversarialLoss:
    """The relativistic average loss (Jolicoeur-Martineau 2019, RaGAN): each logit against the other side's mean.

    L_D = h(r - mean f) + h(mean r - f), L_G = h(f - mean r) + h(mean f - r): the players swap. By `form`:
      cross_entropy: h(t) = softplus(-t), the paper's RaSGAN; at r = f both players have 2 log 2
      least_squares: h(t) = (t - 1)^2, RaLSGAN; at r = f both have 2
      hinge: h(t) = relu(1 - t), RaHingeGAN; at r = f both have 2
    No factor 1/2, as in the paper; its published code halves all of it. Both terms are G's as well: through mean f the
    one about reals reaches G. PyTorch-GAN gives G the vanilla loss in place of this one.
    """
    h = {
        "cross_entropy": lambda margin: softplus(-margin),
        "least_squares": lambda margin: (margin - 1).square(),
        "hinge": lambda margin: relu(1 - margin),
    }[form]

    def discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        _same_shape(real_logits, fake_logits)
        return h(real_logits - fake_logits.mean()) + h(real_logits.mean() - fake_logits)

    def generator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        _same_shape(real_logits, fake_logits)
        return h(fake_logits - real_logits.mean()) + h(fake_logits.mean() - real_logits)

    return AdversarialLoss(discriminator, generator, generator_sees_real=True)


def softmax() -> AdversarialLoss:
    """The softmax loss (Lin 2017): cross-entropies of p, the softmax over all N reals and N fakes of a batch together.

    D's target is 1/N on each real and 0 on each fake, G's is 1/2N on each of both:
      L_D = log Z - mean r, L_G = log Z - (mean r + mean f) / 2, with Z = sum exp r + sum exp f.
    Sample i's value is log Z - r_i, or log Z - (r_i + f_i) / 2, so that the mean is L. At r = f both are log 2N, their
    least values are log N and log 2N. The best D is log(p_data / (p_data + p_G)) plus any constant. The paper writes an
    energy mu = -logit. PyTorch-GAN sums exponentials without logsumexp and lets L_D's gradient into G's step.
    """

    def discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        _same_shape(real_logits, fake_logits)
        return _log_partition(real_logits, fake_logits) - real_logits

    def generator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        _same_shape(real_logits, fake_logits)
        return _log_partition(real_logits, fake_logits) - 0.5 * (real_logits + fake_logits)

    return AdversarialLoss(discriminator, generator, generator_sees_real=True)


def _log_partition(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    return torch.cat([real_logits, fake_logits]).logsumexp(dim=0)
