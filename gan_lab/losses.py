"""Adversarial losses: pairs of pure functions on logits, one value per sample, never reduced.

Real comes first, fake second. Logits have shape (N,) and no sigmoid has been applied to them. Both halves are to be
minimised, each by its player; the caller takes the mean over the batch. In the formulas r is the logit of a real sample
and f that of a fake. `relativistic_average` and `softmax` hold each sample against its whole batch: their values depend
on one another, and the mean over a larger batch is not the mean over its parts. `energy` and `began` are for a D that
rebuilds its input: its logit is minus the energy e, the error of the reconstruction, so e_r = -r and e_f = -f.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize, relu, softplus

from gan_lab.constraints import Fraction, NonNegativeFloat, PositiveFloat


class AdversarialLoss(NamedTuple):
    """What each player minimises.

    discriminator: (real_logits (N,), fake_logits (N,)) -> (N,).
    generator: fake_logits (N,) -> (N,); (real_logits, fake_logits) -> (N,) where `generator_sees_real`.
    state: what changes during training: tensors () that the checkpoint keeps. They are looked up in this dictionary at
      each call, so its values may be replaced, by others or by the same ones on another device.
    shown: the names of those that belong into the logs.
    observe: to be called after each update of D with its mean logit of the reals and of the fakes, two tensors ()
      without a graph, over the whole batch and all processes; changes `state` and does not wait for the device.
    needs: energy: logits are minus an energy, at most 0.
    whole_batch: each value depends on the whole batch: micro-batches and several processes change the loss.
    tells_by_sign: a D that cannot tell gives logits of 0, positive ones mean real: what ADA asks for.
    embedding_term: embeddings (N, D) of fakes, which an autoencoder D gives beside the energy -> (N,), for G.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[..., Tensor]
    generator_sees_real: bool = False
    state: dict[str, Tensor] | None = None
    shown: tuple[str, ...] = ()
    observe: Callable[[Tensor, Tensor], None] | None = None
    needs: Literal["any", "energy"] = "any"
    whole_batch: bool = False
    tells_by_sign: bool = False
    embedding_term: Callable[[Tensor], Tensor] | None = None


def blind_loss(loss: AdversarialLoss, batch_size: int = 1) -> float:
    """D's loss when it gives every sample the same logit, the best one: 2 log 2 (vanilla), 1/4 (lsgan), 2 (hinge), ...

    The best constant in [-2, 2], to 0.01. Wasserstein and its kind give 0: there is no such level, nor where the loss
    has a state (began). Energy gives its margin. Only softmax asks for the batch: it gives log 2N for N.
    """
    if loss.state is not None:
        return 0.0
    return min(
        _level(loss, constant, constant, batch_size)
        for constant in torch.linspace(-2, 2, 401, dtype=torch.float64).tolist()
    )


def least_loss(loss: AdversarialLoss, batch_size: int = 1) -> float:
    """D's loss when it is right and as sure as pays: 0, but for softmax (log N for N) and vanilla with smoothing.

    The best pair of a logit for all reals and one for all fakes, to 0.5 near 0. Wasserstein, which has no lowest value,
    gives 0 too.
    """
    logits = [-1e6, -20.0, *torch.linspace(-4, 4, 17).tolist(), 20.0, 1e6]
    reals = [one for one in logits if one <= 0] if loss.needs == "energy" else logits  # minus an energy
    return max(0.0, min(_level(loss, real, fake, batch_size) for real in reals for fake in logits))


def _level(loss: AdversarialLoss, real: float, fake: float, batch_size: int) -> float:
    """D's loss where all reals of a batch have one logit, and all fakes another."""
    size = (batch_size if loss.whole_batch else 1,)  # the others take each sample by itself
    logits = (torch.full(size, one, dtype=torch.float64) for one in (real, fake))
    return loss.discriminator(*logits).mean().item()


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


def vanilla(smoothing: Fraction = 0.0) -> AdversarialLoss:
    """The non-saturating GAN loss (Goodfellow et al. 2014, section 3): G maximises log sigmoid(D(G(z))).

    L_D = softplus(-r) + s r + softplus(f), L_G = softplus(-f). At r = f = 0: 2 log 2 and log 2. With s = `smoothing`
    above 0 the label of the reals is 1 - s, that of the fakes stays 0 (one-sided label smoothing, Salimans et al. 2016,
    section 3.4, there with 0.1): the best D is (1 - s) p_data / (p_data + p_G), which never says that it is sure.
    """

    def smoothed(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        # softplus(r) = softplus(-r) + r, so (1 - s) softplus(-r) + s softplus(r) is softplus(-r) + s r.
        return _cross_entropy(real_logits, fake_logits) + smoothing * real_logits

    discriminator = smoothed if smoothing > 0 else _cross_entropy
    return AdversarialLoss(discriminator, lambda fake_logits: softplus(-fake_logits), tells_by_sign=True)


def minimax() -> AdversarialLoss:
    """The zero-sum GAN loss (Goodfellow et al. 2014, equation 1): G minimises log(1 - sigmoid(D(G(z)))).

    L_D = softplus(-r) + softplus(f), L_G = -softplus(f): G's gradient fades where D is sure.
    """
    return AdversarialLoss(_cross_entropy, lambda fake_logits: -softplus(fake_logits), tells_by_sign=True)


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
    return AdversarialLoss(_cross_entropy, lambda fake_logits: 0.5 * fake_logits.square(), tells_by_sign=True)


def hinge() -> AdversarialLoss:
    """The hinge loss (Lim & Ye 2017; Miyato et al. 2018, equations 16 and 17).

    L_D = relu(1 - r) + relu(1 + f), L_G = -f.
    """

    def discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        _same_shape(real_logits, fake_logits)
        return relu(1 - real_logits) + relu(1 + fake_logits)

    return AdversarialLoss(discriminator, lambda fake_logits: -fake_logits, tells_by_sign=True)


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
    r = f both are log 2. With R1 and R2 it converges locally (Huang et al. 2024, R3GAN). G's fakes are compared with
    the reals of D's last step; R3GAN's code draws others. PyTorch-GAN gives G the vanilla loss in place of this one.
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

    return AdversarialLoss(discriminator, generator, generator_sees_real=True, whole_batch=True)


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

    return AdversarialLoss(discriminator, generator, generator_sees_real=True, whole_batch=True)


def _log_partition(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    return torch.cat([real_logits, fake_logits]).logsumexp(dim=0)


def energy(margin: PositiveFloat = 1.0, pull_away: NonNegativeFloat = 0.0) -> AdversarialLoss:
    """The energy loss (Zhao et al. 2017, EBGAN, equations 1 and 2): D lowers the energy of reals, raises that of fakes.

    L_D = e_r + relu(margin - e_f), L_G = e_f: fakes whose energy exceeds the margin cost D nothing. Where D gives all
    samples one energy below the margin, and at the equilibrium, L_D is the margin. It has the energy's unit: the
    paper's 10 to 80 are for the length of the error of a whole image, not for a mean over its values. With the weight
    `pull_away` above 0 (the paper's 0.1) G also minimises `pulling_away`: EBGAN-PT. PyTorch-GAN hinges the mean energy
    of the batch, so that low fakes keep high ones active, and cuts one of the two ways by which the energy reaches G.
    """

    def discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        _same_shape(real_logits, fake_logits)
        return relu(margin + fake_logits) - real_logits

    def embedding_term(embeddings: Tensor) -> Tensor:
        return pull_away * pulling_away(embeddings)

    if pull_away == 0:
        return AdversarialLoss(discriminator, torch.neg, needs="energy")
    return AdversarialLoss(discriminator, torch.neg, needs="energy", whole_batch=True, embedding_term=embedding_term)


def began(gamma: Fraction = 0.5, lambda_k: PositiveFloat = 0.001) -> AdversarialLoss:
    """The boundary equilibrium loss (Berthelot et al. 2017, section 3.4): k holds e_f near gamma e_r.

    L_D = e_r - k e_f, L_G = e_f; after each update of D: k += lambda_k (gamma mean e_r - mean e_f), held in [0, 1],
    from k = 0. The diversity ratio gamma: lower values give smoother and less diverse images; the paper shows 0.3, 0.5
    and 0.7, Lucic et al. (2018) and PyTorch-GAN take 0.75. How far training is shows in the convergence measure
    M = mean e_r + |gamma mean e_r - mean e_f|: the lower, the better the images. Both are logged: loss/k and
    loss/convergence.
    """
    state = {"k": torch.zeros(()), "convergence": torch.zeros(())}

    def discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        _same_shape(real_logits, fake_logits)
        return state["k"] * fake_logits - real_logits

    def observe(real_mean: Tensor, fake_mean: Tensor) -> None:
        surplus = fake_mean - gamma * real_mean  # of logits, which are minus the energies
        state["k"] = (state["k"] + lambda_k * surplus).clamp(0, 1)
        state["convergence"] = surplus.abs() - real_mean

    shown = ("k", "convergence")
    return AdversarialLoss(discriminator, torch.neg, state=state, shown=shown, observe=observe, needs="energy")


def pulling_away(embeddings: Tensor) -> Tensor:
    """EBGAN's pulling-away term (Zhao et al. 2017, equation 4) on embeddings (N, D) of fakes, for G: (N,).

    Sample i's value is the mean over j != i of cos(s_i, s_j)^2, from 0 (all at right angles) to 1 (all on one line), so
    that the mean is the paper's f_PT; 0 for a batch of one. A length below 1e-8 counts as 1e-8, so that a zero
    embedding has cosine 0 with all others. It needs the whole batch. The paper weighs it 0.1. PyTorch-GAN leaves out
    the square, and so rewards opposite embeddings.
    """
    directions = normalize(embeddings, dim=1, eps=1e-8)
    num = len(embeddings)
    itself = torch.eye(num, dtype=torch.bool, device=embeddings.device)
    squares = (directions @ directions.T).square().masked_fill(itself, 0)
    return squares.sum(dim=1) / max(num - 1, 1)
