"""Penalties added to the discriminator's loss, on its gradients or its outputs: one value per sample, never reduced.

All have the form penalty(discriminator, real, fake, uniform, *, weight) -> (N,): `discriminator` maps a batch to logits
(N,), in training it is the `Passes` of the update; `real` and `fake` (N, ...) have any shape and carry no graph;
`uniform(shape)` draws from U[0, 1). Norms are taken per sample over all other dimensions. The result keeps its graph
(double backward): do not compile.

With `every` above 1 the program calls a penalty only at every so-many-th update of D, and the penalty multiplies itself
by `every`, so that its mean effect stays (lazy regularization, Karras et al. 2020, StyleGAN2, appendix B; there with 16
for R1). StyleGAN2 gives it an optimizer step of its own and adapts Adam's lr and betas to the additional steps; here it
is part of the update, and nothing needs to be adapted.
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, cast

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, kl_div, log_softmax, relu

from gan_lab.constraints import Decay, Fraction, NonNegativeFloat, PositiveInt, Range
from gan_lab.models.layers import only_slopes

Discriminator = Callable[[Tensor], Tensor]
Uniform = Callable[[tuple[int, ...]], Tensor]
Place = Literal["interpolated", "perturbed", "real", "fake", "real_and_fake"]
Exponent = Annotated[float, Range(low=1)]
"""Below 1, powers and norms have no finite derivative at 0."""
Slant = Annotated[float, Range(low=0, high=90, open_high=True)]
"""Degrees."""


class Passes:
    """D's passes over the batches of one update: each batch goes through D once, whoever asks for its outputs first.

    So a penalty on the gradients at real or fake samples and the loss share a pass, as in R3GAN's code. Batches that
    are asked for together go through together where `together` says that D does not mix samples. `read` makes logits
    (N,) of D's outputs (N,) or (N, num_outputs); `read_classes`, where D tells classes apart, their logits (N, K).
    """

    def __init__(
        self,
        discriminator: Discriminator,
        *,
        read: Discriminator = lambda outputs: outputs,
        read_classes: Discriminator = lambda outputs: outputs,
        together: bool = True,
    ):
        self.discriminator = discriminator
        self.read = read
        self.read_classes = read_classes
        self.together = together
        self._known: list[tuple[Tensor, Tensor]] = []

    def __call__(self, inputs: Tensor) -> Tensor:
        """D's logits (N,) for other samples, which are not remembered."""
        return self.read(self.discriminator(inputs))

    def logits(self, *batches: Tensor) -> tuple[Tensor, ...]:
        """D's logits (N,) for each batch; their graph leads to batches that require a gradient."""
        return tuple(self.read(outputs) for outputs in self.outputs(*batches))

    def outputs(self, *batches: Tensor) -> tuple[Tensor, ...]:
        """D's outputs for each batch."""
        new = [batch for batch in batches if self._find(batch) is None]
        if len(new) > 1 and self.together:
            together = self.discriminator(torch.cat(new))
            rows = len(together) // sum(map(len, new))  # of a sample: one, or one for each of its domains
            outputs = together.split([rows * len(batch) for batch in new])
        else:
            outputs = tuple(self.discriminator(batch) for batch in new)
        self._known += zip(new, outputs, strict=True)
        return tuple(cast("Tensor", self._find(batch)) for batch in batches)

    def _find(self, batch: Tensor) -> Tensor | None:
        return next((outputs for known, outputs in self._known if known is batch), None)


def input_gradient(discriminator: Discriminator, *batches: Tensor) -> Tensor:
    """The gradient of each sample's logit with respect to that sample, flattened: (N of all batches, number of values).

    Of `Passes`, batches that require a gradient are the loss's own: their logits are shared with it.
    """
    # Samples do not mix (no BatchNorm under a penalty), so the gradient of the sum holds every sample's own gradient.
    # The one exception, minibatch_std, adds what a sample does to its group's logits, as in StyleGAN2's R1.
    if isinstance(discriminator, Passes) and all(batch.requires_grad for batch in batches):
        inputs = batches
        total = _joined(discriminator.logits(*batches)).sum()
    else:
        inputs = (_joined(batches).detach().requires_grad_(True),)
        with only_slopes():
            total = discriminator(*inputs).sum()
    return _joined([one.flatten(1) for one in torch.autograd.grad(total, inputs, create_graph=True)])


def _joined(batches: Sequence[Tensor]) -> Tensor:
    """Without torch's copy of a single one, which takes its time both ways."""
    return batches[0] if len(batches) == 1 else torch.cat(list(batches))


def gradient(
    discriminator: Discriminator,
    real: Tensor,
    fake: Tensor,
    uniform: Uniform,
    *,
    at: Place = "interpolated",
    norm: Exponent | Literal["max"] = 2.0,
    power: Exponent = 2.0,
    target: NonNegativeFloat = 1.0,
    one_sided: bool = False,
    weight: NonNegativeFloat = 10.0,
    every: PositiveInt = 1,
) -> Tensor:
    """every * weight * | ||grad D(x)||_norm - target |^power; where `one_sided`, only for longer gradients.

    ||g||_norm is (sum |g_i|^norm)^(1/norm), and for max the largest |g_i|.

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
    slopes = input_gradient(discriminator, *_points(at, real, fake, uniform))
    lengths = slopes.norm(math.inf if norm == "max" else norm, dim=1)
    excess = relu(lengths - target) if one_sided else (lengths - target).abs()
    values = every * weight * excess.pow(power)
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
    discriminator: Discriminator,
    real: Tensor,
    fake: Tensor,
    uniform: Uniform,
    *,
    weight: NonNegativeFloat = 10.0,
    every: PositiveInt = 1,
) -> Tensor:
    """every * weight / 2 * ||grad D(real)||_2^2 (Mescheder et al. 2018, equation 9; weight is the paper's gamma)."""
    return 0.5 * every * weight * input_gradient(discriminator, real).square().sum(dim=1)


def r2(
    discriminator: Discriminator,
    real: Tensor,
    fake: Tensor,
    uniform: Uniform,
    *,
    weight: NonNegativeFloat = 10.0,
    every: PositiveInt = 1,
) -> Tensor:
    """every * weight / 2 * ||grad D(fake)||_2^2 (Mescheder et al. 2018, equation 10): R1 on the other side."""
    return 0.5 * every * weight * input_gradient(discriminator, fake).square().sum(dim=1)


def r1_r2(
    discriminator: Discriminator,
    real: Tensor,
    fake: Tensor,
    uniform: Uniform,
    *,
    weight: NonNegativeFloat = 10.0,
    every: PositiveInt = 1,
) -> Tensor:
    """R1 plus R2 with one weight (Huang et al. 2024, R3GAN, equation 3), in one pass over reals and fakes together.

    The paper finds `every` = 8 a little worse on pictures, and that it fails on StackedMNIST and on 2-D toys.
    """
    real_gradient, fake_gradient = input_gradient(discriminator, real, fake).chunk(2)
    return 0.5 * every * weight * (real_gradient.square().sum(dim=1) + fake_gradient.square().sum(dim=1))


class LeCam:
    """weight * (relu(r - a_F)^2 + relu(a_R - f)^2): logits stay near the other side's average (Tseng et al. 2021).

    r and f are the logits of a real and a fake sample, a_R and a_F moving averages of the mean logits: per update of D
    they move by 1 - `decay` of the way, by more at first, so that their start does not count (Adam's correction).
    Nothing is penalised until D has seen `start_kimg` thousand images. The paper's formula has no relu; its published
    code has, and so leaves alone reals below the fakes' average. For CIFAR that code (BigGAN) weighs 0.3 and starts
    after 1000 updates of G, 200 kimg, with the averages then at the last means; its StyleGAN2 code starts at once, with
    averages corrected as here.
    """

    takes_gradients = False

    def __init__(self, *, weight: NonNegativeFloat = 0.3, decay: Decay = 0.99, start_kimg: NonNegativeFloat = 200.0):
        self.weight = weight
        self.decay = decay
        self.start_images = max(round(1000 * start_kimg), 1)  # without an image there are no averages
        self.state = {
            "real": torch.zeros(()),
            "fake": torch.zeros(()),
            "weight": torch.zeros(()),
            "images": torch.zeros((), dtype=torch.int64),
        }
        """What the checkpoint keeps, tensors (); they are looked up at each call, so they may be replaced."""

    def observe(self, real_mean: Tensor, fake_mean: Tensor, num_images: int) -> None:
        """To be called after each update of D: its mean logits () over the whole batch, the images it has."""
        state = self.state
        state["images"] = state["images"] + num_images
        state["weight"] = self.decay * state["weight"] + (1 - self.decay)  # of all means so far; 1 in the end
        step = (1 - self.decay) / state["weight"]
        state["real"] = state["real"] + step * (real_mean - state["real"])
        state["fake"] = state["fake"] + step * (fake_mean - state["fake"])

    def __call__(self, discriminator: Discriminator, real: Tensor, fake: Tensor, uniform: Uniform) -> Tensor:
        real_logits, fake_logits = _logits(discriminator, real, fake)
        excess = relu(real_logits - self.state["fake"]).square() + relu(self.state["real"] - fake_logits).square()
        started = self.state["images"] >= self.start_images  # a tensor: nothing waits for the device
        return self.weight * excess * started


def consistency(
    discriminator: Discriminator,
    real: Tensor,
    fake: Tensor,
    uniform: Uniform,
    *,
    at: Literal["real", "real_and_fake"] = "real_and_fake",
    flip: bool = False,
    weight: NonNegativeFloat = 10.0,
) -> Tensor:
    """weight * (D(x) - D(T(x)))^2 for images (N, C, H, W); for both sides, the sum of their two penalties.

    real: CR-GAN (Zhang et al. 2020); real_and_fake: bCR (Zhao et al. 2021), without which G learns what T does. T moves
    an image by whole pixels, up to an eighth of its side (4 of 32) in both directions, what it uncovers being the
    image's reflection, and with `flip` mirrors it half of the time: the papers' choice, with weights of 10. Not to be
    called at some updates only: this moves the logits themselves (StyleGAN2-ADA's code warns of it).
    """
    images = (real,) if at == "real" else (real, fake)
    # In one call: a second would begin with the same numbers.
    draws = uniform((len(real), 3 * len(images))).split(3, dim=1)
    moved = [_moved(batch.detach(), draw, flip) for batch, draw in zip(images, draws, strict=True)]
    logits = torch.cat(_logits(discriminator, real, fake)[: len(images)])  # both: it is the pass that the loss needs
    moved_logits = torch.cat(_logits(discriminator, *moved))
    return weight * (logits - moved_logits).square().view(len(images), -1).sum(dim=0)


consistency.images_only = True  # type: ignore[attr-defined]
consistency.takes_gradients = False  # type: ignore[attr-defined]


def _moved(images: Tensor, draws: Tensor, flip: bool) -> Tensor:
    """Each image moved, and mirrored where `flip`, by its three numbers in [0, 1)."""
    rows = _moved_indices(images.shape[2], draws[:, :1])
    columns = _moved_indices(images.shape[3], draws[:, 1:2])
    if flip:
        columns = torch.where(draws[:, 2:] < 0.5, columns.flip(1), columns)
    which = torch.arange(len(images), device=images.device)
    return images[which[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _moved_indices(size: int, draws: Tensor) -> Tensor:
    """(N, size): which row or column comes to each place; all move by at most size // 8, as draws (N, 1) say."""
    most = size // 8
    places = torch.arange(size, device=draws.device) + (draws * (2 * most + 1)).long() - most
    last = size - 1
    return last - (last - places.abs()).abs()  # reflected at both ends


def class_consistency(
    discriminator: Passes,
    real: Tensor,
    fake: Tensor,
    uniform: Uniform,
    *,
    degrees: NonNegativeFloat = 15.0,
    shear: Slant = 15.0,
    scale: NonNegativeFloat = 0.15,
    translate: Fraction = 0.125,
    weight: NonNegativeFloat = 0.3,
) -> Tensor:
    """weight * KL(p(real) || p(T(real))), where p are the probabilities of the classes or categories that D reads.

    Self-augmented training (Hu et al. 2017, IMSAT), here of D's reading; as there, the target p(real) is held fixed,
    its gradient is not taken. Elastic-InfoGAN (Ojha et al. 2020) makes InfoGAN's categories agree likewise, by a
    contrastive loss: else nothing says that a category is not how far a digit slants. One reading for everything agrees
    as well; what speaks against it is what D learns from labels or codes. Images (N, C, H, W); `discriminator` is a
    `Passes` that reads classes.

    T draws for each image by itself: turned by up to `degrees`, slanted by up to `shear` degrees, each side e^u times
    as long, |u| <= `scale`, moved by up to `translate` of each side. It is bilinear; what comes in from outside is the
    nearest pixel.
    """
    draws = 2 * uniform((len(real), 6)) - 1
    distorted = _distorted(real.detach(), draws, degrees=degrees, shear=shear, scale=scale, translate=translate)
    # The fakes only because the loss needs them too: one pass for all.
    outputs, _, distorted_outputs = discriminator.outputs(real, fake, distorted)
    target, found = (log_softmax(discriminator.read_classes(one), dim=1) for one in (outputs, distorted_outputs))
    return weight * kl_div(found, target.detach(), reduction="none", log_target=True).sum(dim=1)


class_consistency.images_only = True  # type: ignore[attr-defined]
class_consistency.takes_gradients = False  # type: ignore[attr-defined]
class_consistency.needs_classes = True  # type: ignore[attr-defined]


def _distorted(
    images: Tensor, draws: Tensor, *, degrees: float, shear: float, scale: float, translate: float
) -> Tensor:
    """Each image by its six numbers in [-1, 1): angle, slant, length of both sides, way in both directions.

    The place (x, y) from the centre comes from S R [[1, tan(slant)], [0, 1]] (x, y) + way, S stretching, R turning.
    """
    angle, slant, wide, high, right, down = draws.unbind(dim=1)
    angle, slant = angle * math.radians(degrees), (slant * math.radians(shear)).tan()
    wide, high = (scale * wide).exp(), (scale * high).exp()
    cosine, sine = angle.cos(), angle.sin()
    ratio = images.shape[2] / images.shape[3]  # the grid goes from -1 to 1 along both sides, however long they are
    rows = [
        torch.stack([wide * cosine, wide * (cosine * slant - sine) * ratio, 2 * translate * right], dim=1),
        torch.stack([high * sine / ratio, high * (sine * slant + cosine), 2 * translate * down], dim=1),
    ]
    grid = affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    # The centres of the outermost pixels are the border; padding_mode="border" is missing on Apple's GPUs.
    across, along = grid.unbind(dim=3)
    last_column, last_row = 1 - 1 / images.shape[3], 1 - 1 / images.shape[2]
    inside = torch.stack([across.clamp(-last_column, last_column), along.clamp(-last_row, last_row)], dim=3)
    return grid_sample(images, inside, align_corners=False)


def _logits(discriminator: Discriminator, *batches: Tensor) -> tuple[Tensor, ...]:
    """The logits of each batch, those of `Passes` shared with the loss."""
    if isinstance(discriminator, Passes):
        return discriminator.logits(*batches)
    return tuple(discriminator(batch) for batch in batches)
