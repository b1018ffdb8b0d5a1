"""What stands beside real against fake: labels, codes in the latents, and what D reads from samples.

G's input is noise and, after it, `num_codes` values that say what is wanted: a label as a one-hot vector (one row of an
embedding, to G's first layer), a category, a continuous code. D gives `num_outputs` values for a sample; `logits` makes
of them the one that the adversarial loss compares. So every model family can be conditioned in every way.

In the formulas o is a row of D's outputs, y a label, CE the cross-entropy of logits. Terms are one value per sample and
are to be minimised, each by its player; the caller takes the mean.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from gan_lab.constraints import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from gan_lab.penalties import Uniform

Reads = Literal["classes", "categories"]


class Conditioning:
    """None: G's input is noise alone, D's output a logit (or, of an autoencoder, a logit and the embedding)."""

    needs_labels = False
    num_codes = 0  # values that follow the noise in G's input
    num_choices = 0  # of these, the first so many are a one-hot vector; the others are continuous, in [-1, 1)
    num_outputs = 1  # of D; 1: logits (N,)
    noise_scale = 1.0  # what the noise is multiplied by
    has_encoder = False
    gives_labels = False  # fakes come with a label of the data's
    reads: Reads | None = None  # what `read` tells apart; categories: num_choices of them

    def codes(self, num: int, labels: Tensor | None, uniform: Uniform) -> Tensor:
        """(num, num_codes) for these labels (num,), or drawn: `uniform(shape)` gives values in [0, 1), once."""
        return torch.empty(num, 0)

    def told(self, labels: Tensor) -> Tensor | None:
        """Which samples (M,) of a data set with these labels (N,) D is told the class of, beside its other batches."""
        return None

    def discriminator_shape(self, sample_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of what D gets."""
        return sample_shape

    def discriminator_input(self, samples: Tensor, codes: Tensor) -> Tensor:
        return samples

    def logits(self, outputs: Tensor, codes: Tensor) -> Tensor:
        """(N,) of D's outputs (N,) or (N, num_outputs) for samples with these codes (N, num_codes)."""
        return outputs if outputs.ndim == 1 else outputs[:, 0]

    def discriminator_term(self, real: Tensor, labels: Tensor | None, fake: Tensor, codes: Tensor) -> Tensor | None:
        """Of D's outputs for reals with these labels and for fakes with these codes."""
        return None

    def told_term(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Of D's outputs for samples whose labels (N,) it is told."""
        raise NotImplementedError

    def generator_term(self, fake: Tensor, codes: Tensor) -> Tensor | None:
        """Of D's outputs for fakes with these codes."""
        return None

    def encoder_term(self, encoded: Tensor, latents: Tensor) -> Tensor | None:
        """Of the encoder's outputs (N, latent_dim + num_codes) for G(latents)."""
        return None

    def labels_of(self, codes: Tensor) -> Tensor | None:
        """The labels (N,) that the codes ask for; None where codes are no labels of the data."""
        return None

    def class_logits(self, outputs: Tensor) -> Tensor:
        """(N, classes or categories): how likely each is in samples whose outputs these are, of D or, where there is
        one, of the encoder; asked for only where `reads` says so."""
        raise NotImplementedError

    def read(self, outputs: Tensor) -> Tensor:
        """The class or category (N,) seen in samples whose outputs these are."""
        return self.class_logits(outputs).argmax(dim=1)

    def grids(self) -> dict[str, Tensor]:
        """Pictures that show what the codes do: name -> codes (columns, num_codes) along a row of one noise."""
        return {}


class Labels(Conditioning):
    """What all that have a label for each fake share: the label's one-hot vector follows the noise in G's input."""

    needs_labels = True
    gives_labels = True

    def __init__(self, *, num_classes: PositiveInt):
        self.num_classes = self.num_codes = self.num_choices = num_classes

    def codes(self, num: int, labels: Tensor | None, uniform: Uniform) -> Tensor:
        assert labels is not None
        return one_hot(labels, self.num_classes).float()

    def labels_of(self, codes: Tensor) -> Tensor:
        return codes.argmax(dim=1)

    def grids(self) -> dict[str, Tensor]:
        return {"samples": torch.eye(self.num_classes)}


class Concat(Labels):
    """The conditional GAN (Mirza & Osindero 2014): the label goes into D beside the sample, as into G.

    Convolutional D: num_classes more channels, each constant, 1 for the label's and 0 for the others; dense D: so many
    more inputs.
    """

    def __init__(self, *, num_classes: PositiveInt, as_channels: bool):
        """as_channels: D is convolutional."""
        super().__init__(num_classes=num_classes)
        self.as_channels = as_channels

    def discriminator_shape(self, sample_shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.as_channels:
            return (sample_shape[0] + self.num_classes, *sample_shape[1:])
        return (math.prod(sample_shape) + self.num_classes,)

    def discriminator_input(self, samples: Tensor, codes: Tensor) -> Tensor:
        if self.as_channels:
            maps = codes[:, :, None, None].expand(-1, -1, *samples.shape[2:])
            return torch.cat([samples, maps], dim=1)
        return torch.cat([samples.flatten(1), codes], dim=1)


class Projection(Labels):
    """The projection discriminator (Miyato & Koyama 2018, equation 3): D's last layer has a row for every class.

    logit = o_0 + o_(1 + y): with phi the features below the last layer, psi(phi(x)) + y^T V phi(x), both linear.
    """

    def __init__(self, *, num_classes: PositiveInt):
        super().__init__(num_classes=num_classes)
        self.num_outputs = 1 + num_classes

    def logits(self, outputs: Tensor, codes: Tensor) -> Tensor:
        return outputs[:, 0] + (outputs[:, 1:] * codes).sum(dim=1)


class AuxiliaryClassifier(Labels):
    """AC-GAN (Odena, Olah & Shlens 2017, equations 2 and 3): D also names the class, of reals and of fakes.

    D minimises weight (CE(o_real, y_real) + CE(o_fake, y_fake)), G minimises weight CE(o_fake, y_fake). PyTorch-GAN
    puts a softmax before the cross-entropy, which holds it above 1.46 for ten classes.
    """

    reads = "classes"

    def __init__(self, *, num_classes: PositiveInt, weight: NonNegativeFloat = 1.0):
        super().__init__(num_classes=num_classes)
        self.num_outputs = 1 + num_classes
        self.weight = weight

    def class_logits(self, outputs: Tensor) -> Tensor:
        return outputs[:, 1:]

    def _error(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return self.weight * cross_entropy(self.class_logits(outputs), labels, reduction="none")

    def discriminator_term(self, real: Tensor, labels: Tensor | None, fake: Tensor, codes: Tensor) -> Tensor:
        assert labels is not None
        return self._error(real, labels) + self._error(fake, self.labels_of(codes))

    def generator_term(self, fake: Tensor, codes: Tensor) -> Tensor:
        return self._error(fake, self.labels_of(codes))


class SemiSupervised(Conditioning):
    """A classifier with one more class, "fake" (Odena 2016; Salimans et al. 2016, section 5), from a few labels.

    D has K outputs; the logit of the class "fake" is fixed at 0, which only sets a constant. So real against fake is
    log sum exp o. Each step of D sees, beside its reals and fakes, a batch of the few samples whose label it is told,
    and minimises weight CE(o, y) there, as Salimans' code does: among the reals alone they would hardly ever occur. G
    makes any class. labels_per_class: how many labels of each class D is told; the rest are never used in training.
    """

    needs_labels = True
    reads = "classes"

    def __init__(self, *, num_classes: PositiveInt, labels_per_class: PositiveInt = 10, weight: NonNegativeFloat = 1.0):
        if num_classes < 2:
            raise ValueError("a classifier needs at least two classes, and the data has one: use conditioning=none")
        self.num_outputs = num_classes
        self.labels_per_class = labels_per_class
        self.weight = weight

    def told(self, labels: Tensor) -> Tensor:
        """The first `labels_per_class` of each class in an order that is fixed, and the same for every run."""
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        classes = [order[labels[order] == label][: self.labels_per_class] for label in range(self.num_outputs)]
        return torch.cat(classes)

    def logits(self, outputs: Tensor, codes: Tensor) -> Tensor:
        return outputs.logsumexp(dim=1)

    def told_term(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return self.weight * cross_entropy(outputs, labels, reduction="none")

    def class_logits(self, outputs: Tensor) -> Tensor:
        return outputs


def _categories(draws: Tensor, num: int) -> Tensor:
    """One-hot vectors (N, num) of equal chances, from values in [0, 1) (N,)."""
    return one_hot((draws * num).long(), num).to(draws.dtype)


class Codes(Conditioning):
    """InfoGAN (Chen et al. 2016, equations 5 and 6): codes in G's input, which D's further outputs Q must find again.

    c ~ Cat(num_categories) as a one-hot vector, num_continuous codes ~ U(-1, 1). Both players minimise
      weight CE(o_category, c) + continuous_weight / 2 * ||o_continuous - c||^2,
    minus the lower bound of the mutual information, with a Gaussian of variance 1 for continuous codes. Q and D share
    all layers but the last, as in the paper. PyTorch-GAN puts a softmax before the cross-entropy.
    """

    reads = "categories"

    def __init__(
        self,
        *,
        num_categories: PositiveInt = 10,
        num_continuous: NonNegativeInt = 2,
        weight: NonNegativeFloat = 1.0,
        continuous_weight: NonNegativeFloat = 0.1,
    ):
        self.num_categories = self.num_choices = num_categories
        self.num_continuous = num_continuous
        self.num_codes = num_categories + num_continuous
        self.num_outputs = 1 + self.num_codes
        self.weight = weight
        self.continuous_weight = continuous_weight

    def codes(self, num: int, labels: Tensor | None, uniform: Uniform) -> Tensor:
        draws = uniform((num, 1 + self.num_continuous))
        return torch.cat([_categories(draws[:, 0], self.num_categories), 2 * draws[:, 1:] - 1], dim=1)

    def _error(self, outputs: Tensor, codes: Tensor) -> Tensor:
        categories, continuous = codes.split([self.num_categories, self.num_continuous], dim=1)
        _, found, means = outputs.split([1, self.num_categories, self.num_continuous], dim=1)
        squares = (means - continuous).square().sum(dim=1)
        errors = cross_entropy(found, categories.argmax(dim=1), reduction="none")
        return self.weight * errors + 0.5 * self.continuous_weight * squares

    def discriminator_term(self, real: Tensor, labels: Tensor | None, fake: Tensor, codes: Tensor) -> Tensor:
        return self._error(fake, codes)

    def generator_term(self, fake: Tensor, codes: Tensor) -> Tensor:
        return self._error(fake, codes)

    def class_logits(self, outputs: Tensor) -> Tensor:
        return outputs[:, 1 : 1 + self.num_categories]

    def grids(self) -> dict[str, Tensor]:
        categories = torch.eye(self.num_categories, self.num_codes)
        grids = {"samples": categories}
        for index in range(self.num_continuous):
            sweep = categories[:1].repeat(self.num_categories, 1)
            sweep[:, self.num_categories + index] = torch.linspace(-1, 1, self.num_categories)
            grids[f"code_{index + 1}"] = sweep
        return grids


class Cluster(Conditioning):
    """ClusterGAN (Mukherjee et al. 2019, equation 4): an encoder, trained with G, finds the latent of a fake again.

    G's input is noise, multiplied by `noise_std` (the paper's 0.1, of normal noise), and a one-hot category. They are
    far apart, so that the encoder's category of a real image is its cluster. G and encoder minimise
      noise_weight * mean (e_noise - z)^2 + category_weight * CE(e_category, c),
    the mean over the noise's values as in the published code.
    """

    has_encoder = True
    reads = "categories"

    def __init__(
        self,
        *,
        num_categories: PositiveInt = 10,
        noise_std: PositiveFloat = 0.1,
        noise_weight: NonNegativeFloat = 10.0,
        category_weight: NonNegativeFloat = 10.0,
    ):
        self.num_codes = self.num_choices = num_categories
        self.noise_scale = noise_std
        self.noise_weight = noise_weight
        self.category_weight = category_weight

    def codes(self, num: int, labels: Tensor | None, uniform: Uniform) -> Tensor:
        return _categories(uniform((num, 1))[:, 0], self.num_codes)

    def encoder_term(self, encoded: Tensor, latents: Tensor) -> Tensor:
        noise, category = latents[:, : -self.num_codes], latents[:, -self.num_codes :]
        squares = (encoded[:, : -self.num_codes] - noise).square().mean(dim=1)
        errors = cross_entropy(self.class_logits(encoded), category.argmax(dim=1), reduction="none")
        return self.noise_weight * squares + self.category_weight * errors

    def class_logits(self, outputs: Tensor) -> Tensor:
        return outputs[:, -self.num_codes :]

    def grids(self) -> dict[str, Tensor]:
        return {"samples": torch.eye(self.num_codes)}
